//! How requests of a route are named, so that a repeated one is known. Never judges a request: the gateway does.

use crate::config::text::{KeyFrom, RouteKeyFrom};
use crate::expression::Jq;
use bulkhead_core::record::ID_HEADER;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The record's header that carries what a client named its request by.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What names a request of a route that produces: the header `Idempotency-Key`, else a `field` of its body. One key is one
/// job, whatever gateway it comes to: repeated with the same payload, byte for byte, it gets the first answer again
/// (`Idempotency-Replayed: true`); with another payload, 422, or the job tells of a conflict where the first was not known
/// yet. Both hold for as long as the ledger and the job store remember (the lesser of `ledger.ttl` and `jobs.ttl`); answers
/// say it in seconds, in `Idempotency-Key-TTL`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Idempotency {
    /// Whether a request without a key is refused, with 400.
    pub required: bool,
    /// What a request gets while the first of its key is being answered.
    pub in_progress: InProgress,
    /// Where the key is in the body: a jq expression over the body as it was sent, e.g. `".idempotency_key"`; `null` is none.
    /// Where both the header and the body have one, they must be the same, else 400.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<Jq>,
    /// Where the key of a request comes from that has none. The answer tells it, in the header `Idempotency-Key` and as
    /// `idempotencyKey`, so that the request can be repeated under it. Absent: such a request has none, and is never a repetition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub derive: Option<Derive>,
}

/// Where the key of a request comes from that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Derive {
    /// It is drawn: the same body sent twice is two jobs.
    Random,
    /// From tenant, route and body: the same body sent twice is one job for as long as the key is known, also where its
    /// sender meant two.
    Payload,
}

/// What a request gets while the first of its key is being answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InProgress {
    /// It waits for the first, and gets the same answer.
    #[default]
    Replay,
    /// 409 with `Retry-After`.
    Conflict,
}

/// Whether requests that repeat one another have one ledger key, and lie in one partition, where that is recognised.
#[must_use]
pub fn follows_requests(ledger: &KeyFrom, route: &RouteKeyFrom) -> bool {
    match (route, ledger) {
        (RouteKeyFrom::Id, KeyFrom::Key) => true,
        (RouteKeyFrom::Id, KeyFrom::Header(name)) => name == ID_HEADER,
        (RouteKeyFrom::Header(key), KeyFrom::Key) => key.eq_ignore_ascii_case(IDEMPOTENCY_KEY),
        (RouteKeyFrom::Header(key), KeyFrom::Header(name)) => {
            key.eq_ignore_ascii_case(IDEMPOTENCY_KEY) && (name == IDEMPOTENCY_KEY || name == ID_HEADER)
        }
        (RouteKeyFrom::Jq(_), KeyFrom::Key) => false,
        // One payload, one key; and another payload under the same key is refused, or a conflict.
        (RouteKeyFrom::Jq(text), KeyFrom::Header(name)) => {
            !varies(text) && (name == IDEMPOTENCY_KEY || name == ID_HEADER)
        }
    }
}

/// Whether a route's expression may make another key of the same payload another time.
#[must_use]
pub fn varies(expression: &str) -> bool {
    ["$now", "$headers"].iter().any(|variable| expression.contains(variable))
}
