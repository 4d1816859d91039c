//! The step `session`: what was said before in the conversation that a record belongs to. Reads it into the record, or appends
//! the record's question and answer to it. Never appends one record twice, and never shows one session another's.
//!
//! A session is the record's key. A record that is worked on again replaces the turn that it appended, and does not see it.

use super::StepContext;
use super::field::{Field, document, with_document};
use super::identity::{Place, identity};
use super::redis_client::{Client, RedisServer};
use super::session_store::{EmbeddedTurns, Limits, RedisTurns, Turn, Turns};
use crate::config::units::{Period, Size};
use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_core::fault::{Fault, FaultClass};
use bulkhead_core::record::{Origin, Record};
use bulkhead_core::verdict::Verdict;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;

/// The step's name.
pub const NAME: &str = "session";
/// The embedded store's folder in the data directory.
const FOLDER: &str = "sessions";
/// More would be no prompt.
const TURNS_MAX: u32 = 1_000;

/// `{ session = { action = "read" } }` before an answer is made, `{ session = { action = "append" } }` after it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionConfig {
    /// What is done.
    pub action: SessionAction,
    /// The Redis server that keeps conversations. Absent, or its `address` empty: the data directory of this daemon does, which
    /// other daemons do not see; then a stage with this step has no process of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisServer>,
    /// Where `read` puts the conversation: `[{"query": …, "answer": …}, …]`, the oldest first.
    #[serde(default = "history")]
    pub history: Field,
    /// The text that `append` remembers as what was asked.
    #[serde(default = "query")]
    pub query: Field,
    /// The text that `append` remembers as what was answered.
    #[serde(default = "answer")]
    pub answer: Field,
    /// How many turns of a conversation are kept, the latest ones.
    #[serde(default = "turns_max")]
    #[schemars(range(min = 1, max = 1_000))]
    pub turns_max: u32,
    /// How many bytes of a question, and of an answer, are remembered; the rest is cut off.
    #[serde(default = "text_max")]
    pub text_max: Size,
    /// How long a conversation is kept after its last turn.
    #[serde(default = "ttl")]
    pub ttl: Period,
    /// How many conversations the data directory keeps; at the limit the one that ends first is forgotten.
    #[serde(default = "sessions_max")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub sessions_max: u32,
}

fn history() -> Field {
    Field::of("history")
}

fn query() -> Field {
    Field::of("text")
}

fn answer() -> Field {
    Field::of("answer")
}

const fn turns_max() -> u32 {
    10
}

const fn text_max() -> Size {
    Size::kib(4)
}

const fn ttl() -> Period {
    Period::secs(1_800)
}

const fn sessions_max() -> u32 {
    100_000
}

/// What is done with the conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionAction {
    /// It is put into the record.
    Read,
    /// The record's question and answer are appended to it.
    Append,
}

impl SessionConfig {
    pub(super) fn check(&self, context: StepContext<'_>) -> Vec<String> {
        let redis = self.server().into_iter().flat_map(|server| server.problems(context.dir));
        let redis = redis.map(|why| format!("redis.{why}"));
        let mut problems: Vec<_> = redis.collect();
        if !(1..=TURNS_MAX).contains(&self.turns_max) {
            problems.push(format!("turns_max: {}; 1 to {TURNS_MAX} are possible", self.turns_max));
        }
        if !(1..=1 << 20).contains(&self.text_max.0) {
            problems.push(format!("text_max: \"{}\"; \"1B\" to \"1MiB\" are possible", self.text_max));
        }
        if self.ttl.0.is_zero() {
            problems.push("ttl: must be longer than nothing".to_owned());
        }
        problems
    }

    /// Whether it needs what only the daemon's own process has.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.server().is_none()
    }

    fn server(&self) -> Option<&RedisServer> {
        self.redis.as_ref().filter(|server| !server.address.is_empty())
    }

    pub(super) fn factory(&self, context: StepContext<'_>) -> SessionFactory {
        SessionFactory {
            config: self.clone(),
            place: Place::of(context),
            pipeline: context.pipeline.to_owned(),
            folder: context.data.join(FOLDER),
            dir: context.dir.to_owned(),
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            turns_max: self.turns_max as usize,
            text_bytes_max: self.text_max.bytes(),
            ttl: self.ttl.0,
            sessions_max: self.sessions_max as usize,
        }
    }
}

/// Builds the step.
#[derive(Debug)]
pub struct SessionFactory {
    config: SessionConfig,
    place: Place,
    pipeline: String,
    folder: PathBuf,
    dir: PathBuf,
}

impl StepFactory for SessionFactory {
    fn name(&self) -> &str {
        NAME
    }

    fn build(&self) -> Result<Box<dyn Step>, Fault> {
        let (limits, pipeline) = (self.config.limits(), self.pipeline.as_str());
        let turns: Box<dyn Turns> = match self.config.server() {
            Some(server) => Box::new(RedisTurns::new(Client::new(server, &self.dir)?, pipeline, limits)),
            None => Box::new(EmbeddedTurns::open(&self.folder, pipeline, limits)?),
        };
        Ok(Box::new(Session { config: self.config.clone(), place: self.place.clone(), turns }))
    }
}

struct Session {
    config: SessionConfig,
    place: Place,
    turns: Box<dyn Turns>,
}

impl Step for Session {
    fn run(&mut self, records: &[Record], origins: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        let mut verdicts = Vec::with_capacity(records.len());
        for (at, record) in records.iter().enumerate() {
            verdicts.push(match self.one(record, origins.map(|origins| origins[at])) {
                Ok(record) => Verdict::one(record),
                Err(fault) if fault.class == FaultClass::Poison => Verdict::Reject(fault),
                Err(fault) => return Err(fault),
            });
        }
        Ok(verdicts)
    }
}

impl Session {
    fn one(&mut self, record: &Record, origin: Option<Origin>) -> Result<Record, Fault> {
        let no_session = || Fault::poison("no_session", "the record has no key, so it belongs to no conversation");
        let session = record.key.as_ref().filter(|key| !key.is_empty()).ok_or_else(no_session)?;
        let id = identity(record, origin, &self.place)?;
        let mut document = document(record)?;
        let SessionConfig { action, history, query, answer, text_max, .. } = &self.config;
        match action {
            SessionAction::Read => {
                let turns = self.turns.read(session)?;
                let said = |turn: &Turn| json!({ "query": turn.query, "answer": turn.answer });
                let before: Vec<Value> = turns.iter().filter(|turn| turn.id != id).map(said).collect();
                history.set(&mut document, Value::Array(before))?;
                Ok(with_document(record, &document))
            }
            SessionAction::Append => {
                let text = |field: &Field| field.text(&document).map(|text| cut(text, text_max.bytes()).to_owned());
                let offset = origin.map_or(0, |origin| origin.offset.0);
                let turn = Turn { id, at: record.timestamp.0, offset, query: text(query)?, answer: text(answer)? };
                self.turns.append(session, turn)?;
                Ok(record.clone())
            }
        }
    }
}

/// As much of the text as fits, in whole characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
