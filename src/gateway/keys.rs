//! Idempotency keys at this gateway: which request of a key is sent, and which is answered as the one before it. Never
//! asks another gateway: what those know comes with the jobs' outcomes, and the ledger decides for all of them.

use super::edge::Pool;
use super::problem::Problem;
use super::route::{Derive, Idempotency, InProgress};
use super::upload::Upload;
use crate::expression::{Jq, NOT_JSON};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponseBuilder};
use bulkhead_actors::clock::Clock;
use bulkhead_core::fault::Fault;
use bulkhead_core::idempotency::{KEY_LEN_MAX, KeyLimits, Keys, Standing, parse_key, plain_key, quoted_key};
use bulkhead_core::job_id::JobId;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

/// The header by which a client names its request (draft-ietf-httpapi-idempotency-key-header-07).
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// Says that an answer is that of an earlier request.
const REPLAYED: header::HeaderName = header::HeaderName::from_static("idempotency-replayed");
/// For how many seconds a key is remembered.
const TTL: header::HeaderName = header::HeaderName::from_static("idempotency-key-ttl");

/// What this gateway knows of keys; it outlives incarnations of its actor.
pub struct KeyTable {
    keys: Mutex<Keys>,
    clock: Clock,
    /// Told whenever a request that was the first of its key is no longer in progress.
    ended: Notify,
}

/// A keyed request whose turn it is.
pub(super) enum Turn<'a> {
    /// Its record is to be sent.
    First(First<'a>),
    /// It was sent before: the answer is due again.
    Replay,
}

/// The first request of its key, as long as it is in progress. One that is dropped before its record was durable gives the
/// next one its turn.
pub(super) struct First<'a> {
    table: &'a KeyTable,
    id: JobId,
    is_durable: bool,
}

impl KeyTable {
    /// Of no key yet.
    #[must_use]
    pub fn new(limits: KeyLimits, clock: Clock) -> Self {
        Self { keys: Mutex::new(Keys::new(limits)), clock, ended: Notify::new() }
    }

    /// Refuses what need not be read, where the route does not let a request wait for the one before it.
    pub(super) fn refuse_early(&self, id: JobId, in_progress: InProgress) -> Result<(), Problem> {
        match in_progress {
            InProgress::Conflict if self.keys.lock().is_in_progress(id) => Err(conflict()),
            _ => Ok(()),
        }
    }

    /// Waits for the request's turn, at most `patience`. `outcome` tells the fingerprint that the job's outcome carries.
    pub(super) async fn turn(
        &self,
        id: JobId,
        fingerprint: u64,
        in_progress: InProgress,
        patience: Duration,
        outcome: impl Fn() -> Option<u64>,
    ) -> Result<Turn<'_>, Problem> {
        let served = async {
            loop {
                // Subscribed before looking, so that no end is missed.
                let ended = self.ended.notified();
                let now = self.clock.now();
                let standing = self.keys.lock().begin(id, fingerprint, outcome(), now);
                match (standing, in_progress) {
                    (Standing::First, _) => return Ok(Turn::First(First { table: self, id, is_durable: false })),
                    (Standing::Replay, _) => return Ok(Turn::Replay),
                    (Standing::OtherPayload, _) => return Err(other_payload()),
                    (Standing::InProgress, InProgress::Conflict) => return Err(conflict()),
                    (Standing::InProgress, InProgress::Replay) => ended.await,
                }
            }
        };
        timeout(patience, served).await.unwrap_or_else(|_| Err(conflict()))
    }
}

impl First<'_> {
    /// Its record is durable. Others of its key that wait get its answer from now on; where they do not wait, the request
    /// is in progress until it is answered.
    pub(super) fn durable(mut self, in_progress: InProgress) -> Option<Self> {
        self.is_durable = true;
        (in_progress == InProgress::Conflict).then_some(self)
    }
}

impl Drop for First<'_> {
    fn drop(&mut self) {
        let now = self.table.clock.now();
        let mut keys = self.table.keys.lock();
        if self.is_durable {
            keys.accepted(self.id, now)
        } else {
            keys.failed(self.id)
        }
        drop(keys);
        self.table.ended.notify_waiters();
    }
}

/// A request's key.
#[derive(Clone, Debug)]
pub(super) struct Named {
    /// The key.
    pub key: String,
    /// Its payload's fingerprint: of what its client sent, whatever the route's steps make of it.
    pub fingerprint: u64,
}

/// The key that the request's header names.
pub(super) fn header_key(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let bad = |why: &str| {
        bad_key(&format!(
            "{IDEMPOTENCY_KEY} comes at most once: a quoted string or a word of 1 to {KEY_LEN_MAX} visible ASCII \
             characters; {why}."
        ))
    };
    let mut values = request.headers().get_all(IDEMPOTENCY_KEY);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(bad("it came more than once")),
        (Some(value), None) => {
            let text = value.to_str().map_err(|_| bad("it has other characters"))?;
            parse_key(text).map(Some).map_err(|why| bad(&why.to_string()))
        }
    }
}

/// Refuses a request before its body is read, where only its header could have named it.
pub(super) fn demand(header: Option<&str>, route: &Idempotency) -> Result<(), Problem> {
    if route.is_required && route.field.is_none() && header.is_none() {
        return Err(missing(&format!("This route needs the header {IDEMPOTENCY_KEY}, one value for each operation.")));
    }
    Ok(())
}

/// The request's key: its header's, its body's, which must not be another, or one that is made for it.
pub(super) async fn key_of(
    pool: &Pool,
    path: &str,
    route: &Idempotency,
    header: Option<String>,
    upload: &Upload,
) -> Result<Option<String>, Problem> {
    let in_body = match route.field.clone() {
        None => None,
        Some(field) => {
            let (expression, record) = (field.jq.clone(), upload.record());
            let found = pool.run(path, move || field.of(&record)).await?;
            body_key(&expression, found)?
        }
    };
    match (header, in_body, route.derive) {
        (Some(header), Some(in_body), _) if header != in_body => {
            let detail = format!("The header {IDEMPOTENCY_KEY} and the body name two keys; one request has one.");
            Err(Problem::bad_request("idempotency-keys-differ", "Idempotency keys differ", detail))
        }
        (Some(key), ..) | (None, Some(key), _) => Ok(Some(key)),
        (None, None, Some(Derive::Random)) => Ok(Some(format!("{:032x}", rand::random::<u128>()))),
        (None, None, Some(Derive::Payload)) => Ok(Some(format!("{:x}", Sha256::digest(&upload.value)))),
        (None, None, None) if route.is_required => Err(missing(&format!(
            "This route needs the header {IDEMPOTENCY_KEY}, or the key in the body; one value for each operation."
        ))),
        (None, None, None) => Ok(None),
    }
}

/// The key that was found in a body.
fn body_key(expression: &Jq, found: Result<Option<String>, Fault>) -> Result<Option<String>, Problem> {
    let text = match found {
        Ok(Some(text)) => text,
        Ok(None) => return Ok(None),
        Err(fault) if fault.code == NOT_JSON => {
            return Err(Problem::bad_request(
                "bad-json",
                "Bad JSON",
                format!("The body cannot be read: {}.", fault.message),
            ));
        }
        Err(fault) => return Err(bad_key(&format!("The body's idempotency key cannot be told: {}.", fault.message))),
    };
    plain_key(text).map(Some).map_err(|why| {
        let rule = format!("a key has 1 to {KEY_LEN_MAX} visible ASCII characters");
        bad_key(&format!("The body's idempotency key ({expression}) is none: {why}; {rule}."))
    })
}

fn bad_key(detail: &str) -> Problem {
    Problem::bad_request("bad-idempotency-key", "Bad idempotency key", detail)
}

fn missing(detail: &str) -> Problem {
    Problem::bad_request("missing-idempotency-key", "Missing idempotency key", detail)
}

/// Says how long the key is remembered, which it is where the client may not know, and whether this answer is an earlier one's.
pub(super) fn mark(response: &mut HttpResponseBuilder, route: &Idempotency, key: &str, is_replay: bool) {
    if route.derive.is_some() {
        response.insert_header((IDEMPOTENCY_KEY, quoted_key(key)));
    }
    if let Some(ttl) = route.ttl {
        response.insert_header((TTL, ttl.as_secs()));
    }
    if is_replay {
        response.insert_header((REPLAYED, "true"));
    }
}

pub(super) fn other_payload() -> Problem {
    let detail = format!("This {IDEMPOTENCY_KEY} was used for another payload; give each operation its own.");
    let (code, title) = ("idempotency-key-reused", "Idempotency key reused");
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, title, detail)
}

fn conflict() -> Problem {
    let detail = format!("The first request of this {IDEMPOTENCY_KEY} has not been answered yet.");
    let (code, title) = ("request-in-progress", "Request in progress");
    Problem { retry_after_s: Some(1), ..Problem::new(StatusCode::CONFLICT, code, title, detail) }
}
