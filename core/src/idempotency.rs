//! Idempotency keys of requests (draft-ietf-httpapi-idempotency-key-header-07): what a key may look like, and whether a
//! request is the first of its key. Never decides for the cluster: the ledger does, at the record's partition. What is
//! told here spares a client the wait for that, and a request in progress its double.

use crate::job_id::JobId;
use crate::time::Now;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// Longest key that is taken, characters.
pub const KEY_LEN_MAX: usize = 255;

/// Why a header's value is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// Nothing in it, or nothing between its quotes.
    #[error("it is empty")]
    Empty,
    /// More than [`KEY_LEN_MAX`] characters.
    #[error("it has more than {KEY_LEN_MAX} characters")]
    TooLong,
    /// Neither a quoted string nor a bare word.
    #[error(
        "it is neither a quoted string (RFC 8941 §3.3.3) nor one word without quotes, commas, semicolons and backslashes"
    )]
    Malformed,
    /// In a body: other characters.
    #[error("it has characters that are no visible ASCII")]
    Unprintable,
}

/// The key that a header's value names: the draft's quoted string, or the bare word that most clients send. Both forms of
/// one key are the same key.
///
/// # Errors
/// Why it is none.
pub fn parse_key(value: &str) -> Result<String, BadKey> {
    let value = value.trim_matches(' ');
    let key = match value.strip_prefix('"') {
        Some(rest) => unquote(rest).ok_or(BadKey::Malformed)?,
        None if value.bytes().all(|b| b.is_ascii_graphic() && !b"\"\\,;".contains(&b)) => value.to_owned(),
        None => return Err(BadKey::Malformed),
    };
    match key.len() {
        0 => Err(BadKey::Empty),
        1..=KEY_LEN_MAX => Ok(key),
        _ => Err(BadKey::TooLong),
    }
}

/// The key that a text is, as it stands: what a request's body names it by.
///
/// # Errors
/// Why it is none.
pub fn plain_key(text: String) -> Result<String, BadKey> {
    match text.len() {
        0 => Err(BadKey::Empty),
        _ if !text.chars().all(is_legal) => Err(BadKey::Unprintable),
        1..=KEY_LEN_MAX => Ok(text),
        _ => Err(BadKey::TooLong),
    }
}

/// The key as the draft writes it: a quoted string, which [`parse_key`] reads.
#[must_use]
pub fn quoted_key(key: &str) -> String {
    let mut quoted = String::with_capacity(key.len() + 2);
    quoted.push('"');
    for c in key.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// What a key may be made of.
const fn is_legal(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic()
}

/// What stands before the closing quote, which must be the last character.
fn unquote(rest: &str) -> Option<String> {
    let mut key = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return chars.next().is_none().then_some(key),
            '\\' => key.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
            c if is_legal(c) => key.push(c),
            _ => return None,
        }
    }
}

/// What may be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLimits {
    /// How many accepted keys; at the limit the oldest leaves. Those of requests in progress come on top: whoever admits
    /// requests bounds them.
    pub keys_max: usize,
    /// How long an accepted key is remembered.
    pub ttl: Duration,
}

/// What a request is to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The first that is known of: its record is to be sent, and [`Keys::accepted`] or [`Keys::failed`] to be told.
    First,
    /// The first is being served at this moment.
    InProgress,
    /// A request with this payload was accepted: its answer is due again.
    Replay,
    /// The key was used for another payload.
    OtherPayload,
}

/// What one gateway knows of the keys that it took, until their outcomes are in the topics. A fingerprint is the ledger's
/// ([`crate::ledger::fingerprint`]): both must judge alike.
#[derive(Debug)]
pub struct Keys {
    limits: KeyLimits,
    in_progress: HashMap<JobId, u64>,
    accepted: HashMap<JobId, (u64, Now)>,
    /// The accepted ones, the oldest in front.
    by_age: BTreeSet<(Now, JobId)>,
}

impl Keys {
    /// Of no key yet.
    #[must_use]
    pub fn new(limits: KeyLimits) -> Self {
        Self { limits, in_progress: HashMap::new(), accepted: HashMap::new(), by_age: BTreeSet::new() }
    }

    /// What a request is whose key makes this id. `outcome` is the fingerprint that the job's outcome carries, where one is
    /// known: the ledger decided for it, whatever was accepted here.
    pub fn begin(&mut self, id: JobId, fingerprint: u64, outcome: Option<u64>, now: Now) -> Standing {
        self.expire(now);
        if outcome.is_some() {
            self.forget(id);
        }
        let judge = |known: u64, same| if known == fingerprint { same } else { Standing::OtherPayload };
        let accepted = self.accepted.get(&id).map(|(fingerprint, _)| *fingerprint);
        match (outcome.or(accepted), self.in_progress.get(&id)) {
            (Some(known), _) => judge(known, Standing::Replay),
            (None, Some(known)) => judge(*known, Standing::InProgress),
            (None, None) => {
                self.in_progress.insert(id, fingerprint);
                Standing::First
            }
        }
    }

    /// Whether the first request of this key is being served at this moment.
    #[must_use]
    pub fn is_in_progress(&self, id: JobId) -> bool {
        self.in_progress.contains_key(&id)
    }

    /// The first request's record is durable.
    pub fn accepted(&mut self, id: JobId, now: Now) {
        let Some(fingerprint) = self.in_progress.remove(&id) else { return };
        self.forget(id);
        self.accepted.insert(id, (fingerprint, now));
        self.by_age.insert((now, id));
        while self.accepted.len() > self.limits.keys_max {
            self.forget_oldest();
        }
    }

    /// The first request failed, or it is not known what became of it: the next one is the first. Where both arrive, the
    /// ledger knows them for one.
    pub fn failed(&mut self, id: JobId) {
        self.in_progress.remove(&id);
    }

    /// How many accepted keys are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.accepted.len()
    }

    /// Whether no accepted key is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accepted.is_empty()
    }

    fn expire(&mut self, now: Now) {
        while self.by_age.first().is_some_and(|(at, _)| now - *at >= self.limits.ttl) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.by_age.pop_first() {
            self.accepted.remove(&id);
        }
    }

    fn forget(&mut self, id: JobId) {
        if let Some((_, at)) = self.accepted.remove(&id) {
            self.by_age.remove(&(at, id));
        }
    }
}

#[cfg(test)]
#[path = "idempotency_tests.rs"]
mod tests;
