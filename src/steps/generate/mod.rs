//! The step `generate`: answers a record's text with a language model behind an OpenAI-compatible API, from the conversation
//! and the passages that earlier steps found; without an endpoint, with sentences of those passages, and says so. Never says
//! that an answer is a model's which is not, and never shows the API key.
//!
//! While the model speaks, its words are told as hints in `<pipeline>.tokens`; the record that leaves is the truth.

mod api;
mod prompt;

use super::StepContext;
use super::field::{Field, document, with_document};
use super::tls::Tls;
use crate::config::secret::Secret;
use crate::config::units::{Period, Size};
use api::{Api, Reply};
use bulkhead_actors::hints::{Hints, Speaker};
use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_core::fault::{Fault, FaultClass};
use bulkhead_core::record::{Header, ID_HEADER, Origin, Record};
use bulkhead_core::verdict::Verdict;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// The step's name.
pub const NAME: &str = "generate";
/// The share of a stage's timeout after which a call is ended: the worker answers for it before it counts as hung.
const CALL_SHARE: f64 = 0.9;
/// How long the last hints may take; the answer is not held up for longer.
const HINTS_WAIT: Duration = Duration::from_secs(1);
/// What an answer without a model calls its model.
const EXTRACTIVE: &str = "extractive";

/// `{ generate = { endpoint = "http://127.0.0.1:11434/v1", model = "llama3.2" } }`. The record's JSON gains `answer`, `model`,
/// `sources` (those of the passages), `extractive` (whether no model spoke), `truncated` (whether the answer reached
/// `tokens_max`) and `prompt` (the messages that the model was given).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateConfig {
    /// Where the API is, up to `/chat/completions`. Empty: no model is asked.
    pub endpoint: String,
    /// The model's name there; needed with an endpoint.
    pub model: String,
    /// What the API knows us by. Absent or empty: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,
    /// Whom an endpoint by `https:` is to be vouched for by. Absent: the system's authorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// What the model is told first.
    pub system: String,
    /// The text that is answered.
    pub field: Field,
    /// The conversation so far, as `session` puts it; there may be none.
    pub history: Field,
    /// The passages, as `retrieve` puts them; there may be none.
    pub passages: Field,
    /// Whether the model's words are told as they come.
    pub stream: bool,
    /// How many tokens an answer may have.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub tokens_max: u32,
    /// How freely the model speaks, 0 to 2.
    #[schemars(range(min = 0.0, max = 2.0))]
    pub temperature: f64,
    /// How long an answer may take; a stage's timeout must be longer.
    pub timeout: Period,
    /// How long the API may be silent.
    pub idle_timeout: Period,
    /// How large an answer may be, bytes of text; a larger one rejects the record.
    pub answer_max: Size,
    /// How many sentences an answer without a model has at most.
    #[schemars(range(min = 1, max = 20))]
    pub quotes_max: usize,
}

impl Default for GenerateConfig {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            model: String::new(),
            api_key: None,
            tls: None,
            system: "Answer from the passages below and name their sources. Say so where they do not tell.".to_owned(),
            field: Field::of("text"),
            history: Field::of("history"),
            passages: Field::of("passages"),
            stream: true,
            tokens_max: 512,
            temperature: 0.2,
            timeout: Period::secs(60),
            idle_timeout: Period::secs(20),
            answer_max: Size::kib(64),
            quotes_max: 3,
        }
    }
}

impl GenerateConfig {
    pub(super) fn check(&self, context: StepContext<'_>) -> Vec<String> {
        let mut problems = Vec::new();
        if self.is_model() {
            if let Err(why) = api::url(&self.endpoint) {
                problems.push(format!("endpoint: {:?} {why}", self.endpoint));
            }
            problems.extend(self.tls.as_ref().and_then(|tls| tls.authorities(context.dir).err()));
            if self.model.is_empty() {
                problems.push("model: is empty; an endpoint serves models by name".to_owned());
            }
            let longest = context.call.timeout.mul_f64(CALL_SHARE);
            if self.timeout.0 > longest {
                let stage = Period(context.call.timeout);
                problems.push(format!(
                    "timeout: \"{}\" is above nine tenths of the stage's timeout (\"{stage}\"), so its worker would count as hung first",
                    self.timeout
                ));
            }
        }
        for (key, period) in [("timeout", self.timeout), ("idle_timeout", self.idle_timeout)] {
            if period.0.is_zero() {
                problems.push(format!("{key}: must be longer than nothing"));
            }
        }
        if !(1..=16 << 20).contains(&self.answer_max.0) {
            problems.push(format!("answer_max: \"{}\"; \"1B\" to \"16MiB\" are possible", self.answer_max));
        }
        problems
    }

    fn is_model(&self) -> bool {
        !self.endpoint.is_empty()
    }

    /// Whether it tells hints, so that their topic is needed.
    #[must_use]
    pub fn tells_hints(&self) -> bool {
        self.is_model() && self.stream
    }

    pub(super) fn factory(&self, context: StepContext<'_>) -> GenerateFactory {
        let hints = context.hints.filter(|_| self.stream).cloned();
        GenerateFactory {
            config: self.clone(),
            hints,
            limit: context.call.timeout.mul_f64(CALL_SHARE),
            dir: context.dir.to_owned(),
        }
    }
}

/// Builds the step.
#[derive(Debug)]
pub struct GenerateFactory {
    config: GenerateConfig,
    hints: Option<Hints>,
    limit: Duration,
    dir: PathBuf,
}

impl StepFactory for GenerateFactory {
    fn name(&self) -> &str {
        NAME
    }

    fn build(&self) -> Result<Box<dyn Step>, Fault> {
        let unusable = |why: std::io::Error| Fault::fatal("no_runtime", why);
        let model = if self.config.is_model() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unusable)?;
            Some((runtime, Api::new(&self.config, &self.dir)?))
        } else {
            None
        };
        Ok(Box::new(Generate { config: self.config.clone(), hints: self.hints.clone(), limit: self.limit, model }))
    }
}

struct Generate {
    config: GenerateConfig,
    hints: Option<Hints>,
    /// How long a call may take, all its records together.
    limit: Duration,
    model: Option<(Runtime, Api)>,
}

impl Step for Generate {
    fn run(&mut self, records: &[Record], origins: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        let deadline = Instant::now() + self.limit;
        let mut verdicts = Vec::with_capacity(records.len());
        for (at, record) in records.iter().enumerate() {
            let attempt = origins.map_or(1, |origins| origins[at].attempt);
            verdicts.push(match self.answer(record, attempt, deadline) {
                Ok(record) => Verdict::one(record),
                Err(fault) if fault.class == FaultClass::Poison => Verdict::Reject(fault),
                Err(fault) => return Err(fault),
            });
        }
        Ok(verdicts)
    }
}

impl Generate {
    fn answer(&self, record: &Record, attempt: u32, deadline: Instant) -> Result<Record, Fault> {
        let config = &self.config;
        let mut document = document(record)?;
        let question = config.field.text(&document)?.to_owned();
        let passages = prompt::passages(&document, &config.passages);
        let messages = prompt::messages(config, &document, &question, &passages);
        let (model, reply) = match &self.model {
            None => (
                EXTRACTIVE,
                Reply { text: prompt::extractive(&question, &passages, config.quotes_max), truncated: false },
            ),
            Some((runtime, api)) => {
                let speaker = self.hints.as_ref().map(|hints| hints.begin(attempt));
                let left = deadline.saturating_duration_since(Instant::now()).min(config.timeout.0);
                (&*config.model, runtime.block_on(ask(api, &messages, record, speaker, left))?)
            }
        };
        let sources = json!(prompt::sources(&passages));
        let Value::Object(fields) = &mut document else {
            return Err(Fault::poison("field_unusable", "the record's JSON is no object"));
        };
        for (name, value) in [
            ("answer", json!(reply.text)),
            ("model", json!(model)),
            ("sources", sources),
            ("extractive", json!(self.model.is_none())),
            ("truncated", json!(reply.truncated)),
            ("prompt", messages),
        ] {
            fields.insert(name.to_owned(), value);
        }
        Ok(with_document(record, &document))
    }
}

/// Asks the model, at most for `limit`, and says its words as they come.
async fn ask(
    api: &Api,
    messages: &Value,
    record: &Record,
    speaker: Option<Speaker>,
    limit: Duration,
) -> Result<Reply, Fault> {
    let mut speaker = speaker;
    let said = |words: &str| {
        if let Some(speaker) = &mut speaker {
            speaker.say(hint(record, words));
        }
    };
    let reply = tokio::time::timeout(limit, api.complete(messages, said)).await;
    let late = || Fault::transient("generate_slow", format_args!("no whole answer within {limit:?}"));
    let reply = reply.unwrap_or_else(|_| Err(late()))?;
    if let Some(speaker) = speaker {
        match tokio::time::timeout(HINTS_WAIT, speaker.end()).await {
            Ok(0) => {}
            Ok(left_out) => tracing::debug!(left_out, "hints were left out"),
            Err(_) => tracing::debug!("hints are still on their way"),
        }
    }
    Ok(reply)
}

/// Words of an answer to this record.
fn hint(record: &Record, words: &str) -> Record {
    let id = record.header(ID_HEADER).map(|id| Header::new(ID_HEADER, id.clone()));
    Record {
        key: record.key.clone(),
        value: Some(words.to_owned().into()),
        headers: id.into_iter().collect(),
        timestamp: record.timestamp,
    }
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;
