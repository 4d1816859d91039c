//! A route's outbox as its file says it. Never opens one.

use crate::config::units::{Period, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a route's records wait while the brokers do not take them: in `outbox` in the data directory, each on the disk before
/// its request is answered (202 with `Bulkhead-Outbox: queued`). They are sent in order once the brokers are back, and the
/// ledger lets each through once, however often it was sent; new ones wait behind them. It is this gateway's own: records wait
/// on its disk until it runs again. On the embedded log, which is on that disk itself, it is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OutboxSection {
    /// How many records wait at most; then requests are answered with 503 and `Retry-After`.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub records_max: u64,
    /// How many bytes they take at most.
    pub bytes_max: Size,
    /// How long the brokers may take to acknowledge a record before it goes to the outbox.
    pub after: Period,
}

impl Default for OutboxSection {
    fn default() -> Self {
        Self { records_max: 100_000, bytes_max: Size::mib(256), after: Period::secs(2) }
    }
}
