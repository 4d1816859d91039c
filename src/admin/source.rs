//! What the admin port tells, as the daemon provides it. Never computes it.

use serde::Serialize;
use serde_json::Value;

/// Where the admin port's answers come from. Each call is quick and does not block on the log: what must be asked for
/// (can the broker be reached?) is asked in the background and kept.
pub trait AdminSource: Send + Sync {
    /// Whether the root supervisor's loop turns: it handled a message within the last few seconds.
    fn live(&self) -> bool;

    /// Everything that must hold before records may be sent here; one status for each condition, whether it holds or not.
    fn ready(&self) -> Vec<Status>;

    /// Why nothing at all is worked on, or a whole pipeline is not: the log is away, a pipeline or a partition has stopped.
    /// Empty where all can work.
    fn standstill(&self) -> Vec<Status>;

    /// Every assigned partition and how old its oldest unfinished record is.
    fn progress(&self) -> Vec<PartitionProgress>;

    /// The tree of actors: id, state, incarnation, restarts with reason and time, link depth, loans in flight.
    fn actors(&self) -> Value;

    /// Kills the actor at this path now, as a fault would; its supervisor is charged nothing.
    ///
    /// # Errors
    /// No such actor.
    fn kill(&self, actor: &str) -> Result<(), String>;

    /// How often each step ran on each batch, where the daemon counts it for tests.
    fn runs(&self) -> Value;
}

/// One condition of readiness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// What must hold, e.g. `broker reachable`.
    pub label: String,
    /// Whether it does.
    pub ok: bool,
    /// What is wrong, where it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Status {
    /// A condition that holds.
    pub fn ok(label: impl Into<String>) -> Self {
        Self { label: label.into(), ok: true, error: None }
    }

    /// A condition that does not hold, and why.
    pub fn failed(label: impl Into<String>, error: impl Into<String>) -> Self {
        Self { label: label.into(), ok: false, error: Some(error.into()) }
    }
}

/// How far one assigned partition is behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionProgress {
    /// The pipeline.
    pub pipeline: String,
    /// The partition's number.
    pub partition: i32,
    /// The stage that holds the oldest unfinished record, or what holds it outside of any stage (`ledger`, `lane`); absent
    /// where nothing is unfinished.
    pub stage: Option<String>,
    /// How long the oldest unfinished record has been where it is, milliseconds.
    pub oldest_unfinished_ms: u64,
    /// How long it may be there: the stage's `timeout` and the backoff that is running, milliseconds.
    pub allowed_ms: u64,
}

impl PartitionProgress {
    /// Whether work on it goes on. An idle partition is fine.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.stage.is_none() || self.oldest_unfinished_ms <= self.allowed_ms
    }
}
