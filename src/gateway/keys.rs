//! Idempotency keys at this gateway: which request of a key is sent, and which is answered as the one before it. Never
//! asks another gateway: what those know comes with the jobs' outcomes, and the ledger decides for all of them.

use super::problem::Problem;
use super::route::InProgress;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponseBuilder};
use bulkhead_actors::clock::Clock;
use bulkhead_core::idempotency::{KEY_LEN_MAX, KeyLimits, Keys, Standing, parse_key};
use bulkhead_core::job_id::JobId;
use parking_lot::Mutex;
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

/// The key that the request names.
pub(super) fn key_of(request: &HttpRequest, is_required: bool) -> Result<Option<String>, Problem> {
    let bad = |why: &str| {
        let detail = format!(
            "{IDEMPOTENCY_KEY} comes at most once: a quoted string or a word of 1 to {KEY_LEN_MAX} visible ASCII \
             characters; {why}."
        );
        Problem::bad_request("bad-idempotency-key", "Bad idempotency key", detail)
    };
    let mut values = request.headers().get_all(IDEMPOTENCY_KEY);
    match (values.next(), values.next()) {
        (None, _) if is_required => {
            let detail = format!("This route needs the header {IDEMPOTENCY_KEY}, one value for each operation.");
            Err(Problem::bad_request("missing-idempotency-key", "Missing idempotency key", detail))
        }
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(bad("it came more than once")),
        (Some(value), None) => {
            let text = value.to_str().map_err(|_| bad("it has other characters"))?;
            parse_key(text).map(Some).map_err(|why| bad(&why.to_string()))
        }
    }
}

/// Says how long the key is remembered, and whether this answer is an earlier one's.
pub(super) fn mark(response: &mut HttpResponseBuilder, ttl: Option<Duration>, is_replay: bool) {
    if let Some(ttl) = ttl {
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
