//! The step `redis`: writes each record's value to Redis, under the record's id. Never writes a record twice under two names:
//! what is done again finds what it wrote, and writes the same.

use super::StepContext;
use super::identity::{Place, identity};
use super::redis_client::{Client, RedisServer};
use crate::config::units::{Period, Size};
use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_core::fault::{Fault, FaultClass};
use bulkhead_core::record::{Origin, Record};
use bulkhead_core::verdict::Verdict;
use redis::Pipeline;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The step's name.
pub const NAME: &str = "redis";
/// Commands sent at a time: their answers are held in memory.
const COMMANDS_MAX: usize = 500;

/// `{ redis = { server = { address = "127.0.0.1:6379" }, key = "answer:", ttl = "1h" } }`: every record passes as it is, and its
/// value is in Redis before it does. The effect is at least once: a record that is worked on again is written again, under
/// the same name (its id, or where it lies in its topic).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// The server.
    pub server: RedisServer,
    /// What the names in Redis begin with (`kind = "value"`), or the hash's name (`kind = "hash"`).
    pub key: String,
    /// What is written.
    #[serde(default)]
    pub kind: RedisKind,
    /// How long it is kept after it was last written; for a hash, as a whole. Absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Period>,
    /// How large a value may be; a larger one is rejected.
    #[serde(default = "value_max")]
    pub value_max: Size,
}

const fn value_max() -> Size {
    Size::mib(1)
}

/// What is written to Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RedisKind {
    /// `SET <key><id> <value>`
    #[default]
    Value,
    /// `HSET <key> <id> <value>`
    Hash,
}

impl RedisConfig {
    pub(super) fn check(&self, context: StepContext<'_>) -> Vec<String> {
        let mut problems: Vec<_> =
            self.server.problems(context.dir).into_iter().map(|why| format!("server.{why}")).collect();
        if self.key.is_empty() {
            problems.push("key: is empty; names in Redis need something of their own, e.g. \"answer:\"".to_owned());
        }
        if self.ttl.is_some_and(|ttl| ttl.0.is_zero()) {
            problems.push("ttl: must be longer than nothing".to_owned());
        }
        problems
    }

    pub(super) fn factory(&self, context: StepContext<'_>) -> RedisFactory {
        RedisFactory { config: self.clone(), place: Place::of(context), dir: context.dir.to_owned() }
    }
}

/// Builds the step.
#[derive(Debug)]
pub struct RedisFactory {
    config: RedisConfig,
    place: Place,
    dir: PathBuf,
}

impl StepFactory for RedisFactory {
    fn name(&self) -> &str {
        NAME
    }

    fn build(&self) -> Result<Box<dyn Step>, Fault> {
        let client = Client::new(&self.config.server, &self.dir)?;
        Ok(Box::new(Redis { config: self.config.clone(), place: self.place.clone(), client }))
    }
}

struct Redis {
    config: RedisConfig,
    place: Place,
    client: Client,
}

impl Step for Redis {
    fn run(&mut self, records: &[Record], origins: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        let mut verdicts = Vec::with_capacity(records.len());
        for (nth, chunk) in records.chunks(COMMANDS_MAX).enumerate() {
            let from = nth * COMMANDS_MAX;
            let origins = origins.map(|origins| &origins[from..from + chunk.len()]);
            verdicts.extend(self.write(chunk, origins)?);
        }
        Ok(verdicts)
    }
}

impl Redis {
    /// Writes all in one go; where the server refuses one of them, each by itself, so that the others are not refused with it.
    fn write(&mut self, records: &[Record], origins: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        let origin = |at: usize| origins.map(|origins| origins[at]);
        let named: Vec<Result<String, Fault>> =
            records.iter().enumerate().map(|(at, record)| self.named(record, origin(at))).collect();
        let all = records.iter().zip(&named).filter_map(|(record, name)| Some((record, name.as_ref().ok()?)));
        let commands = all.fold(Pipeline::new(), |commands, (record, name)| self.command(commands, name, record));
        let together = if commands.is_empty() { Ok(()) } else { self.client.ask::<()>(&commands) };
        match together {
            Err(fault) if fault.class != FaultClass::Poison => return Err(fault),
            Ok(()) => {
                let verdict = |(record, name): (&Record, Result<String, Fault>)| match name {
                    Ok(_) => Verdict::one(record.clone()),
                    Err(fault) => Verdict::Reject(fault),
                };
                return Ok(records.iter().zip(named).map(verdict).collect());
            }
            Err(_) => {}
        }
        let mut verdicts = Vec::with_capacity(records.len());
        for (record, name) in records.iter().zip(named) {
            let written = name.and_then(|name| {
                let command = self.command(Pipeline::new(), &name, record);
                self.client.ask::<()>(&command)
            });
            verdicts.push(match written {
                Ok(()) => Verdict::one(record.clone()),
                Err(fault) if fault.class == FaultClass::Poison => Verdict::Reject(fault),
                Err(fault) => return Err(fault),
            });
        }
        Ok(verdicts)
    }

    fn named(&self, record: &Record, origin: Option<Origin>) -> Result<String, Fault> {
        let (len, most) = (record.payload().len(), self.config.value_max);
        if len > most.bytes() {
            let why = format_args!("the value has {len} bytes; at most {most} are written to redis");
            return Err(Fault::poison("value_too_large", why));
        }
        identity(record, origin, &self.place)
    }

    fn command(&self, mut commands: Pipeline, id: &str, record: &Record) -> Pipeline {
        let RedisConfig { key, kind, ttl, .. } = &self.config;
        let ttl_ms = ttl.map(|ttl| u64::try_from(ttl.0.as_millis()).unwrap_or(u64::MAX));
        match (kind, ttl_ms) {
            (RedisKind::Value, None) => commands.set(format!("{key}{id}"), record.payload()).ignore(),
            (RedisKind::Value, Some(ms)) => {
                commands.cmd("SET").arg(format!("{key}{id}")).arg(record.payload()).arg("PX").arg(ms).ignore()
            }
            (RedisKind::Hash, None) => commands.hset(key, id, record.payload()).ignore(),
            (RedisKind::Hash, Some(ms)) => {
                commands.hset(key, id, record.payload()).ignore().cmd("PEXPIRE").arg(key).arg(ms).ignore()
            }
        };
        commands
    }
}
