//! Where the turns of conversations are kept: in Redis, or in the data directory. Never more of them than their limits, and one
//! record's turn once.

use super::redis_client::Client;
use bulkhead_actors::clock::Clock;
use bulkhead_actors::io::embedded::{ValueLimits, ValueStore};
use bulkhead_actors::log::LogError;
use bulkhead_core::fault::Fault;
use redis::Pipeline;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What JSON makes of a byte of text at worst (`\u0000`), and a turn's own fields.
const ESCAPED: usize = 6;
const TURN_MARGIN: usize = 1_024;

/// What was asked and answered, once.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Turn {
    /// The record's name.
    pub(super) id: String,
    /// The record's timestamp, Unix milliseconds.
    pub(super) at: i64,
    /// Where it lies in its partition: the order of turns of one millisecond.
    pub(super) offset: i64,
    pub(super) query: String,
    pub(super) answer: String,
}

/// What bounds conversations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) turns_max: usize,
    pub(super) text_bytes_max: usize,
    pub(super) ttl: Duration,
    pub(super) sessions_max: usize,
}

/// Keeps conversations.
pub(super) trait Turns: Send {
    /// The session's turns, the oldest first.
    fn read(&mut self, session: &[u8]) -> Result<Vec<Turn>, Fault>;
    /// Adds a turn, in place of the one of the same record.
    fn append(&mut self, session: &[u8], turn: Turn) -> Result<(), Fault>;
}

/// Sorts the turns and keeps the latest; what is left over is returned.
fn settle(turns: &mut Vec<Turn>, turns_max: usize) -> Vec<Turn> {
    turns.sort_by(|a, b| (a.at, a.offset, &a.id).cmp(&(b.at, b.offset, &b.id)));
    let over = turns.len().saturating_sub(turns_max);
    turns.drain(..over).collect()
}

/// In Redis: a hash for each session, a field for each turn.
pub(super) struct RedisTurns {
    client: Client,
    prefix: String,
    limits: Limits,
}

impl RedisTurns {
    pub(super) fn new(client: Client, pipeline: &str, limits: Limits) -> Self {
        Self { client, prefix: format!("bulkhead:{pipeline}:session:"), limits }
    }

    fn key(&self, session: &[u8]) -> Vec<u8> {
        [self.prefix.as_bytes(), session].concat()
    }

    fn all(&mut self, key: &[u8]) -> Result<Vec<Turn>, Fault> {
        let mut ask = Pipeline::new();
        ask.hgetall(key);
        let (fields,): (HashMap<String, Vec<u8>>,) = self.client.ask(&ask)?;
        let turn = |text: &Vec<u8>| {
            serde_json::from_slice(text)
                .map_err(|why| Fault::poison("session_damaged", format_args!("in redis: {why}")))
        };
        fields.values().map(turn).collect()
    }
}

impl Turns for RedisTurns {
    fn read(&mut self, session: &[u8]) -> Result<Vec<Turn>, Fault> {
        let key = self.key(session);
        let mut turns = self.all(&key)?;
        settle(&mut turns, self.limits.turns_max);
        Ok(turns)
    }

    fn append(&mut self, session: &[u8], turn: Turn) -> Result<(), Fault> {
        let key = self.key(session);
        let text = serde_json::to_vec(&turn).map_err(|why| Fault::fatal("session_unwritable", why))?;
        let ttl_ms = u64::try_from(self.limits.ttl.as_millis()).unwrap_or(u64::MAX);
        let mut write = Pipeline::new();
        write.atomic().hset(&key, &turn.id, text).ignore();
        write.cmd("PEXPIRE").arg(&key).arg(ttl_ms).ignore().hlen(&key);
        let (count,): (usize,) = self.client.ask(&write)?;
        if count > self.limits.turns_max {
            let mut turns = self.all(&key)?;
            let gone: Vec<String> = settle(&mut turns, self.limits.turns_max).into_iter().map(|turn| turn.id).collect();
            if !gone.is_empty() {
                let mut trim = Pipeline::new();
                trim.hdel(&key, gone).ignore();
                self.client.ask::<()>(&trim)?;
            }
        }
        Ok(())
    }
}

/// In the data directory: a list for each session.
pub(super) struct EmbeddedTurns {
    store: Arc<ValueStore>,
    clock: Clock,
    prefix: String,
    limits: Limits,
}

impl EmbeddedTurns {
    pub(super) fn open(folder: &Path, pipeline: &str, limits: Limits) -> Result<Self, Fault> {
        let turn_bytes_max = ESCAPED * 2 * limits.text_bytes_max + TURN_MARGIN;
        let values = ValueLimits {
            keys_max: limits.sessions_max,
            value_bytes_max: turn_bytes_max.saturating_mul(limits.turns_max),
        };
        let store = ValueStore::open(folder, values).map_err(|why| Fault::fatal("sessions_unusable", why))?;
        Ok(Self { store, clock: Clock::real(), prefix: format!("{pipeline}/"), limits })
    }

    fn key(&self, session: &[u8]) -> Vec<u8> {
        [self.prefix.as_bytes(), session].concat()
    }
}

fn fault(why: LogError) -> Fault {
    match why {
        LogError::Unavailable(why) => Fault::transient("sessions_away", why),
        LogError::ClientDead(why) | LogError::Refused(why) => Fault::fatal("sessions_unusable", why),
    }
}

/// A list that cannot be read is as good as none: it is history, no truth.
fn turns_of(value: Option<Vec<u8>>) -> Vec<Turn> {
    value.and_then(|value| serde_json::from_slice(&value).ok()).unwrap_or_default()
}

impl Turns for EmbeddedTurns {
    fn read(&mut self, session: &[u8]) -> Result<Vec<Turn>, Fault> {
        let mut turns = turns_of(self.store.get(&self.key(session), self.clock.wall()).map_err(fault)?);
        settle(&mut turns, self.limits.turns_max);
        Ok(turns)
    }

    fn append(&mut self, session: &[u8], turn: Turn) -> Result<(), Fault> {
        let (key, now, turns_max) = (self.key(session), self.clock.wall(), self.limits.turns_max);
        let changed = self.store.update(&key, now, self.limits.ttl, |value| {
            let mut turns = turns_of(value);
            turns.retain(|known| known.id != turn.id);
            turns.push(turn);
            settle(&mut turns, turns_max);
            serde_json::to_vec(&turns).unwrap_or_default()
        });
        changed.map_err(fault)
    }
}
