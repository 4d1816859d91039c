//! A pipeline as its file in `pipelines/` says it. Never checks one value against another: `check.rs` does.

pub mod outputs;
pub mod results;

use super::Version;
use super::route::RouteFile;
use super::text::{Name, RecordKey, Topic};
use super::units::{Period, Size};
use crate::steps::{CallLimits, StepConfig};
pub use outputs::{NamedOutput, Outputs};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One file in `pipelines/`: a pipeline, its stages in order and its routes.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PipelineFile {
    /// The version of this format.
    pub version: Version,
    /// The pipeline.
    pub pipeline: PipelineSection,
    /// Its stages, in the order in which records pass them.
    #[schemars(length(min = 1, max = 64))]
    pub stage: Vec<Stage>,
    /// The HTTP routes that feed it or answer for it.
    #[serde(default)]
    pub route: Vec<RouteFile>,
}

/// From a topic, through stages, to a topic.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PipelineSection {
    /// Its name: in metrics, `/actors`, `transactional.id` and the ledger's topic `<name>.ledger`.
    pub name: Name,
    /// What is promised where the process dies.
    #[serde(default)]
    pub delivery: DeliveryMode,
    /// Where records come from.
    pub source: SourceSection,
    /// Which records are the same one, come again. Absent: every record counts by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<Ledger>,
    /// Where results go.
    pub output: Output,
    /// Where else records go, by name, when a step (`route`, `map`) sends them there: in the same transaction.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(length(max = 64))]
    pub outputs: Outputs,
    /// Where something outside writes the results, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<results::Results>,
    /// Where records go that cannot be processed.
    #[serde(default)]
    pub dlq: DlqSection,
    /// How records are cut into batches.
    #[serde(default)]
    pub batch: Batch,
    /// How much of a partition may be unsettled at once; at the limit its records stay in the log.
    #[serde(default)]
    pub in_flight: InFlight,
    /// How results are committed.
    #[serde(default)]
    pub lane: Lane,
    /// How long a partition that is taken away may take to finish what is in flight: at least `"1.5s"` (healthy commits
    /// can stall a second) and below half of `kafka.session_timeout`.
    #[serde(default = "drain")]
    pub drain: Period,
    /// How often its actors may crash without a record being to blame before the pipeline is `failed`.
    #[serde(default)]
    pub restart: Restart,
    /// How long a failed pipeline rests before it is tried again.
    #[serde(default = "failed_retry")]
    pub failed_retry: Period,
    /// What its failure means for the process.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Whether the log tells each record's way: produced, consumed, processed (with its attempt) and committed, with
    /// partition, offset and key, which may be somebody's name. For few records and for who wants to see Kafka work. Absent:
    /// what was rejected is told, and the rest at `--log-level info,bulkhead::record=debug`.
    #[serde(default)]
    pub log_records: bool,
}

const fn drain() -> Period {
    Period::secs(4)
}

const fn failed_retry() -> Period {
    Period::secs(30)
}

/// What is promised where the process dies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryMode {
    /// Results, dead letters and position in one transaction: nothing lost, nothing doubled.
    #[default]
    ExactlyOnce,
    /// Results acknowledged, then the position: nothing lost, doubled where the process dies in between.
    AtLeastOnce,
}

/// Where records come from.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceSection {
    /// The topic.
    pub topic: Topic,
    /// How many partitions it has; it is created with as many if it does not exist.
    #[schemars(range(min = 1, max = 10_000))]
    pub partitions: i32,
    /// The consumer group. Absent: the pipeline's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Topic>,
    /// What to do where the log's start has passed the position.
    #[serde(default)]
    pub on_gap: OnGap,
    /// How long its records are kept: what the topic is created with. A topic that exists with another retention is reported,
    /// and changed by `bulkhead topics --apply`. Absent: what the log does by itself (Kafka: seven days; embedded: for ever).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Period>,
    /// How many records may wait in the topic before its routes answer 503 with `Retry-After`, unread; looked at once a
    /// second, and judged by the partitions that this daemon works on.
    #[serde(default = "backlog_max")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64))]
    pub backlog_max: u64,
}

const fn backlog_max() -> u64 {
    1_000_000
}

/// What to do where records were deleted before they were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnGap {
    /// Stop the partition and say so.
    #[default]
    Stop,
    /// Count them and go on at the log's start.
    Skip,
}

/// Which records are the same one, come again.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// Where the idempotency key comes from. A record without it counts by itself.
    pub key: RecordKey,
    /// How long a key is remembered.
    #[serde(default = "ledger_ttl")]
    pub ttl: Period,
    /// How many keys a partition remembers; at the limit the oldest leave early, counted.
    #[serde(default = "ledger_keys_max")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub keys_max: u32,
    /// The size above which a segment is split.
    #[serde(default = "segment_bytes_max")]
    pub segment_bytes_max: Size,
}

const fn ledger_ttl() -> Period {
    Period::secs(24 * 3_600)
}

const fn ledger_keys_max() -> u32 {
    1_000_000
}

const fn segment_bytes_max() -> Size {
    Size::kib(512)
}

/// Where results go.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// The topic.
    pub topic: Topic,
    /// Where a result's key comes from.
    #[serde(default = "record_key")]
    pub key: RecordKey,
    /// How long its records are kept: what the topic is created with. A topic that exists with another retention is reported,
    /// and changed by `bulkhead topics --apply`. Absent: what the log does by itself (Kafka: seven days; embedded: for ever).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Period>,
}

const fn record_key() -> RecordKey {
    RecordKey(super::text::KeyFrom::Key)
}

/// Where records go that cannot be processed.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DlqSection {
    /// The topic. Absent: the source topic's name with `.dlq` after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<Topic>,
    /// How long its records are kept: what the topic is created with. A topic that exists with another retention is reported,
    /// and changed by `bulkhead topics --apply`. Absent: what the log does by itself (Kafka: seven days; embedded: for ever).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Period>,
    /// Stops the pipeline where too much is rejected: then it is the stage that is wrong, not the records.
    #[serde(default)]
    pub stop_above: StopAbove,
}

/// The share of rejected records at which a pipeline stops.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StopAbove {
    /// The share, 0 to 1; 1 never stops.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub ratio: f64,
    /// Over how long it is taken.
    pub window: Period,
    /// How many records a window has at least before its share counts.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub records_min: u32,
}

impl Default for StopAbove {
    fn default() -> Self {
        Self { ratio: 0.5, window: Period::secs(60), records_min: 100 }
    }
}

/// How records are cut into batches: at whichever limit comes first.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Batch {
    /// How many records at most.
    #[schemars(range(min = 1, max = 100_000))]
    pub records_max: u32,
    /// How many bytes at most; a larger record is a batch of its own.
    pub bytes_max: Size,
    /// How long a batch that is not full waits for more.
    pub linger: Period,
}

impl Default for Batch {
    fn default() -> Self {
        Self { records_max: 1_000, bytes_max: Size::mib(1), linger: Period::ms(5) }
    }
}

/// How much of a partition may be unsettled at once.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InFlight {
    /// How many batches.
    #[schemars(range(min = 1, max = 10_000))]
    pub batches_max: u32,
    /// How many bytes of source records; one batch is always allowed.
    pub bytes_max: Size,
}

impl Default for InFlight {
    fn default() -> Self {
        Self { batches_max: 64, bytes_max: Size::mib(32) }
    }
}

/// How results are committed.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Lane {
    /// How many lanes. Absent: one for each core, at most 4 and at most one for each partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub count: Option<u32>,
    /// How long finished batches are gathered into one transaction while more are on their way; none waits where none
    /// is.
    pub commit_interval: Period,
    /// How many records a transaction has at most, within a batch.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub commit_records_max: u32,
}

impl Default for Lane {
    fn default() -> Self {
        Self { count: None, commit_interval: Period::ms(100), commit_records_max: 50_000 }
    }
}

/// A restart budget: more crashes than `intensity` within `period`, and whoever holds the budget has failed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Restart {
    /// How many crashes.
    #[schemars(range(min = 0, max = 10_000))]
    pub intensity: u32,
    /// Within how long.
    pub period: Period,
}

impl Default for Restart {
    fn default() -> Self {
        Self { intensity: 5, period: Period::secs(30) }
    }
}

/// What a failed pipeline means for the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The other pipelines go on; this one is tried again every `failed_retry`.
    #[default]
    Retry,
    /// The process exits.
    Exit,
}

/// A compartment: one kind of supervised worker with its own link and restart budget.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Its name: in metrics, `/actors` and dead letters.
    pub name: Name,
    /// How many workers, each with steps of its own, on a thread of its own.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_024))]
    pub workers: u32,
    /// Its steps: a record passes them back to back, without a hop.
    #[schemars(length(min = 1, max = 64))]
    pub steps: Vec<StepConfig>,
    /// Gathers batches, of any partitions, into one call of the steps, for steps that work better on many records.
    /// Absent: one batch a call, one record a run of a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<StageBatch>,
    /// How long a call may take before its worker counts as hung and is replaced.
    #[serde(default = "timeout")]
    pub timeout: Period,
    /// What a worker shares with the others. Absent: `"process"` where a step runs native code (`classify`), else
    /// `"thread"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// How much memory a worker's process may take, beside its program and mapped files; at the limit it ends and is
    /// replaced. Absent: as much as there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<Size>,
    /// How large a record, and what a worker's process makes of it, may be; a larger one is rejected.
    #[serde(default = "frame_max")]
    pub frame_max: Size,
    /// How long a worker's process may take to build its steps, e.g. to load a model.
    #[serde(default = "start_timeout")]
    pub start_timeout: Period,
    /// How transient failures are tried again.
    #[serde(default)]
    pub retry: Retry,
    /// How often its workers may crash without a record being to blame.
    #[serde(default)]
    pub restart: Restart,
    /// How many crashes one record may cause, tried alone, before it is rejected.
    #[serde(default = "crashes_max")]
    #[schemars(range(min = 1, max = 100))]
    pub crashes_max: u32,
    /// How many records one record may become; more reject it.
    #[serde(default = "emit_max")]
    #[schemars(range(min = 1, max = 100_000))]
    pub emit_max: u32,
}

impl Stage {
    /// What its steps must keep to.
    #[must_use]
    pub fn call(&self) -> CallLimits {
        let run_records_max = self.batch.map_or(1, |batch| batch.max as usize);
        CallLimits { run_records_max, timeout: self.timeout.0, emit_max: self.emit_max as usize }
    }
}

const fn one() -> u32 {
    1
}

const fn timeout() -> Period {
    Period::secs(30)
}

const fn frame_max() -> Size {
    Size::mib(64)
}

const fn start_timeout() -> Period {
    Period::secs(60)
}

const fn crashes_max() -> u32 {
    3
}

const fn emit_max() -> u32 {
    100
}

/// How batches are gathered into one call. A batch is never split: one that is larger than `max` is a call of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StageBatch {
    /// How many records at most; also how many of them one run of a model takes.
    #[schemars(range(min = 2, max = 1_024))]
    pub max: u32,
    /// How long the first of them waits for others where a worker is free: at most `"1s"`.
    #[serde(default = "gather_wait")]
    pub wait: Period,
}

const fn gather_wait() -> Period {
    Period::ms(5)
}

impl Stage {
    /// Whether each of its workers has a process of its own.
    #[must_use]
    pub fn is_isolated(&self) -> bool {
        let native = || self.steps.iter().any(StepConfig::is_native);
        self.isolation.map_or_else(native, |isolation| isolation == Isolation::Process)
    }
}

/// What a worker shares with the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// The process: a panic costs the worker, native code that crashes costs the daemon.
    Thread,
    /// Nothing: its steps run in a process of their own, and native code that crashes costs the worker.
    Process,
}

/// How transient failures are tried again: after a random part of a delay that grows from `initial` by `factor` up to
/// `max`. What is still failing after `max_elapsed` or `attempts` is rejected.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// The first delay.
    pub initial: Period,
    /// What each delay is multiplied by.
    #[schemars(range(min = 1.0, max = 100.0))]
    pub factor: f64,
    /// The longest delay.
    pub max: Period,
    /// For how long it is tried.
    pub max_elapsed: Period,
    /// How often it is tried at most. Absent: as often as `max_elapsed` allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub attempts: Option<u32>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            initial: Period::ms(250),
            factor: 2.0,
            max: Period::secs(30),
            max_elapsed: Period::secs(600),
            attempts: None,
        }
    }
}
