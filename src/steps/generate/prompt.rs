//! What a model is told, and what is answered without one. Never asks anybody.

use super::GenerateConfig;
use crate::steps::field::Field;
use bulkhead_core::extract::quotes;
use serde_json::{Value, json};

/// What an answer without a model begins with: nobody shall take it for a model's.
const PREFACE: &str = "No language model is configured; this is what the documents say:";
const NOTHING: &str = "No language model is configured, and the documents say nothing about this.";

/// A passage that was found.
pub(super) struct Found<'a> {
    source: &'a str,
    text: &'a str,
}

/// The passages of a record; what is none is passed over.
pub(super) fn passages<'a>(document: &'a Value, field: &Field) -> Vec<Found<'a>> {
    let found = field.find(document).and_then(Value::as_array).into_iter().flatten();
    let found = found
        .filter_map(|passage| Some(Found { source: passage["source"].as_str()?, text: passage["text"].as_str()? }));
    found.collect()
}

/// Where the passages are from, each once, in their order.
pub(super) fn sources<'a>(passages: &[Found<'a>]) -> Vec<&'a str> {
    let mut sources = Vec::new();
    for Found { source, .. } in passages {
        if !sources.contains(source) {
            sources.push(*source);
        }
    }
    sources
}

/// The messages that a model is given: what it is to do with which passages, what was said before, and the question.
pub(super) fn messages(config: &GenerateConfig, document: &Value, question: &str, passages: &[Found<'_>]) -> Value {
    let mut system = config.system.clone();
    for Found { source, text } in passages {
        system.push_str(&format!("\n\n[{source}]\n{text}"));
    }
    let mut messages = vec![json!({ "role": "system", "content": system })];
    for turn in config.history.find(document).and_then(Value::as_array).into_iter().flatten() {
        for (role, said) in [("user", &turn["query"]), ("assistant", &turn["answer"])] {
            if let Some(said) = said.as_str() {
                messages.push(json!({ "role": role, "content": said }));
            }
        }
    }
    messages.push(json!({ "role": "user", "content": question }));
    Value::Array(messages)
}

/// An answer that is made of the passages' own sentences, each with its source.
pub(super) fn extractive(question: &str, passages: &[Found<'_>], quotes_max: usize) -> String {
    let texts: Vec<_> = passages.iter().map(|found| found.text).collect();
    let quotes = quotes(question, &texts, quotes_max);
    if quotes.is_empty() {
        return NOTHING.to_owned();
    }
    let mut answer = PREFACE.to_owned();
    for quote in quotes {
        let (said, source) = (quote.sentence.replace('\n', " "), passages[quote.passage].source);
        answer.push_str(&format!("\n- {said} [{source}]"));
    }
    answer
}
