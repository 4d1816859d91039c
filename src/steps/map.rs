//! The step `map`: expressions make new records of one: its value, its key, its headers, and which output they go to. Never
//! touches what the settings do not name.

use super::StepContext;
use super::stateless::Stateless;
use crate::config::text::Name;
use crate::expression::{Jq, Judge, Subject, Value};
use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_core::fault::Fault;
use bulkhead_core::record::{Header, Origin, RESERVED_PREFIX, Record, send_to};
use bulkhead_core::verdict::{Emitted, Verdict};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The step's name.
pub const NAME: &str = "map";
/// The code of a record's fault where its new value is no text and should be.
const NO_TEXT: &str = "not_text";
const CONTENT_TYPE: &str = "content-type";
/// Headers that one step sets.
const HEADERS_MAX: usize = 64;

/// `{ map = { value = '.items[]', key = '.product_id', headers = { "order-id" = '$id' } } }`: the record becomes one record for
/// each value that `value` gives, none at all drops it. `key` and `headers` look at the new value (`.`), and at the record's own
/// `$key`, `$headers`, `$id` and `$origin`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MapConfig {
    /// A jq expression that gives the new values. Absent: the value stays as it is, and `key` and `headers` look at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Jq>,
    /// How a new value is written.
    #[serde(default)]
    pub form: Form,
    /// A jq expression that gives the new key, text or a number; `null` is no key. Absent: the key stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Jq>,
    /// Headers to set, each by a jq expression that gives text or a number; `null` removes the header.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(length(max = 64))]
    pub headers: BTreeMap<String, Jq>,
    /// The output (`[pipeline.outputs.NAME]`) that the new records leave to at once. Absent: they go on through the stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Name>,
    /// Whether the record as it came goes on too, beside those that leave to `output`.
    #[serde(default)]
    pub keep: bool,
}

/// How a new value is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// As JSON; `content-type` becomes `application/json`.
    #[default]
    Json,
    /// A text as it is; `content-type` becomes `text/plain; charset=utf-8`.
    Text,
}

impl MapConfig {
    /// Whether it can run before a record is accepted: an output is the pipeline's.
    #[must_use]
    pub const fn is_edge(&self) -> bool {
        self.output.is_none()
    }

    pub(super) fn check(&self, context: StepContext<'_>) -> Vec<String> {
        let mut problems = Vec::new();
        if self.value.is_none() && self.key.is_none() && self.headers.is_empty() && self.output.is_none() {
            problems.push("changes nothing: give it value, key, headers or output".to_owned());
        }
        if let Some(name) = self.output.as_ref().filter(|name| !context.outputs.contains_key(&name.0)) {
            let known: Vec<_> = context.outputs.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            problems.push(format!("output: there is no [pipeline.outputs.{name}]; there are: {known}"));
        }
        if self.keep && self.output.is_none() {
            problems.push(
                "keep: is for a step that sends to an output; without one the record would go on twice".to_owned(),
            );
        }
        for name in self.headers.keys() {
            if name.is_empty() || name.starts_with(RESERVED_PREFIX) {
                problems.push(format!(
                    "headers: `{name}` cannot be set: names are not empty, {RESERVED_PREFIX}* are the engine's own"
                ));
            }
        }
        if self.headers.len() > HEADERS_MAX {
            problems.push(format!("headers: {}; {HEADERS_MAX} are possible", self.headers.len()));
        }
        problems
    }

    pub(super) fn factory(&self, context: StepContext<'_>) -> Arc<dyn StepFactory> {
        Arc::new(Stateless::new(NAME, Map { config: self.clone(), judge: Judge::new(context) }))
    }
}

#[derive(Clone)]
struct Map {
    config: MapConfig,
    judge: Judge,
}

impl Step for Map {
    fn run(&mut self, records: &[Record], origins: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        self.judge.verdicts(records, origins, |record, subject| self.map(record, subject))
    }
}

impl Map {
    fn map(&self, record: &Record, subject: &Subject<'_>) -> Result<Verdict, Fault> {
        let mut made = Emitted::new();
        match &self.config.value {
            None => made.push(self.dress(record.clone(), subject)?),
            Some(value) => {
                for value in value.values(subject, self.judge.limits, self.judge.emit_max)? {
                    let (bytes, content_type) = self.written(&value)?;
                    let mut new = Record { value: Some(bytes), ..record.clone() };
                    set_header(&mut new, CONTENT_TYPE, Some(Bytes::from_static(content_type.as_bytes())));
                    made.push(self.dress(new, &subject.with(value))?);
                }
            }
        }
        if let Some(output) = &self.config.output {
            made = made.into_iter().map(|record| send_to(record, &output.0)).collect();
        }
        if self.config.keep {
            made.push(record.clone());
        }
        Ok(if made.is_empty() { Verdict::Drop("mapped to nothing".to_owned()) } else { Verdict::Emit(made) })
    }

    /// A new value's bytes, and what they are.
    fn written(&self, value: &Value) -> Result<(Bytes, &'static str), Fault> {
        let refused = |why| Fault::poison(NO_TEXT, why);
        match self.config.form {
            Form::Json => Ok((self.judge.json(value)?.into(), "application/json")),
            Form::Text => match value.as_str() {
                Some(text) => Ok((self.judge.bounded(text.to_owned())?.into(), "text/plain; charset=utf-8")),
                None => Err(refused(format!("{} is no text, and form = \"text\" wants one", value.quoted()))),
            },
        }
    }

    /// The record with its new key and headers.
    fn dress(&self, mut record: Record, subject: &Subject<'_>) -> Result<Record, Fault> {
        if let Some(key) = &self.config.key {
            record.key = key.text_of(subject, self.judge.limits)?.map(Bytes::from);
        }
        for (name, value) in &self.config.headers {
            set_header(&mut record, name, value.text_of(subject, self.judge.limits)?.map(Bytes::from));
        }
        Ok(record)
    }
}

/// The record's one header of this name, or none.
fn set_header(record: &mut Record, name: &str, value: Option<Bytes>) {
    record.headers.retain(|header| !header.name.eq_ignore_ascii_case(name.as_bytes()));
    if let Some(value) = value {
        record.headers.push(Header::new(name, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::testing::{code, config, context, json, outputs, step, verdicts};
    use bulkhead_core::record::output_of;

    fn made(verdict: &Verdict) -> &[Record] {
        let Verdict::Emit(records) = verdict else { panic!("{verdict:?}") };
        records
    }

    fn text(record: &Record) -> &str {
        std::str::from_utf8(record.payload()).expect("text")
    }

    #[test]
    fn one_record_becomes_one_for_each_value_with_key_and_headers_of_its_own() {
        let toml = r#"{ map = { value = '.items[]', key = '.product', headers = { price = '.price', was = '$key', gone = 'null' } } }"#;
        let mut source = json(r#"{"items": [{"product": "p1", "price": 12.30}, {"product": 7, "price": 1}]}"#);
        source.key = Some("c1".into());
        source.headers.push(Header::new("gone", "x"));
        let [verdict] = verdicts(&mut *step(toml), [source]);
        let [first, second] = made(&verdict) else { panic!("{verdict:?}") };
        assert_eq!(text(first), r#"{"product":"p1","price":12.30}"#, "digits stay as they were written");
        assert_eq!((first.key.as_deref(), second.key.as_deref()), (Some(&b"p1"[..]), Some(&b"7"[..])));
        let header = |name: &str| first.header(name).map(|value| String::from_utf8_lossy(value).into_owned());
        assert_eq!(header("price").as_deref(), Some("12.30"));
        assert_eq!(header("was").as_deref(), Some("c1"));
        assert_eq!(header("content-type").as_deref(), Some("application/json"));
        assert_eq!(header("gone"), None);
    }

    #[test]
    fn copies_leave_to_an_output_and_the_record_goes_on() {
        let toml = r#"{ map = { value = '.question', form = "text", output = "prompt", keep = true } }"#;
        let source = json(r#"{"question": "why?"}"#);
        let [verdict] = verdicts(&mut *step(toml), [source.clone()]);
        let [prompt, kept] = made(&verdict) else { panic!("{verdict:?}") };
        assert_eq!((text(prompt), output_of(prompt)), ("why?", Some("prompt")));
        assert_eq!(*kept, source);
    }

    #[test]
    fn what_cannot_be_written_rejects_the_record() {
        let cases = [
            (r#"{ map = { value = '.n', form = "text" } }"#, "not_text"),
            (r#"{ map = { value = 'nan' } }"#, "expression_failed"),
            (r#"{ map = { value = '.n', key = '[.]' } }"#, "expression_failed"),
            (r#"{ map = { value = 'range(1000)' } }"#, "too_many_records"),
            (r#"{ map = { value = '"x" * 2000' } }"#, "expression_failed"),
            (r#"{ map = { value = 'repeat(1)' } }"#, "too_many_records"),
            (r#"{ map = { value = '[repeat(1)]' } }"#, "expression_limit"),
        ];
        for (toml, expected) in cases {
            let [verdict] = verdicts(&mut *step(toml), [json(r#"{"n": 7}"#)]);
            assert_eq!(code(&verdict), expected, "{toml}");
        }
        let [nothing] = verdicts(&mut *step(r#"{ map = { value = 'empty' } }"#), [json("1")]);
        assert_eq!(nothing, Verdict::Drop("mapped to nothing".to_owned()));
    }

    #[test]
    fn settings_that_make_no_sense_are_told() {
        let problems = |toml: &str| config(toml).check(context(&outputs(&["prompt"]))).len();
        assert_eq!(problems(r#"{ map = { value = ".", output = "prompt", keep = true } }"#), 0);
        assert_eq!(problems("{ map = {} }"), 1);
        assert_eq!(problems(r#"{ map = { value = ".", keep = true } }"#), 1);
        assert_eq!(problems(r#"{ map = { value = ".", output = "prompts" } }"#), 1);
        assert_eq!(problems(r#"{ map = { headers = { "__bulkhead.id" = "1" } } }"#), 1);
    }
}
