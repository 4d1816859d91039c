//! What a pipeline is, as its actors need it. Never a default: config has decided everything.

use crate::log::{Delivery, TopicSpec};
use crate::step::StepFactory;
use crate::worker::ProcessSpec;
use bulkhead_core::gather::Gather;
use bulkhead_core::lane::LaneLimits;
use bulkhead_core::ledger::KeySource;
use bulkhead_core::letter::LetterSpec;
use bulkhead_core::limit::StopAbove;
use bulkhead_core::partition::PartitionLimits;
use bulkhead_core::retry::RetryPolicy;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How much of an error message a dead letter keeps.
const MESSAGE_BYTES_MAX: usize = 2 * 1024;

/// A pipeline.
#[derive(Clone)]
pub struct PipelineSpec {
    /// Its name, unique in the daemon.
    pub name: Arc<str>,
    /// What it promises where the process dies.
    pub delivery: Delivery,
    /// Where its records come from.
    pub source: SourceSpec,
    /// What one partition may hold.
    pub limits: PartitionLimits,
    /// Its ledger, where it has one.
    pub ledger: Option<LedgerSpec>,
    /// Its stages, in order.
    pub stages: Vec<StageSpec>,
    /// Its dead letters.
    pub dlq: DlqSpec,
    /// Where results go; `None`: the steps' effects are all there is.
    pub output: Option<OutputSpec>,
    /// Where records go that a step sends to an output by name.
    pub outputs: BTreeMap<Arc<str>, OutputSpec>,
    /// How many lanes publish.
    pub lanes: u32,
    /// When they commit.
    pub commit: LaneLimits,
    /// How long a revoke waits for a commit in progress, and a stop for what is in flight.
    pub drain: Duration,
    /// Restarts of the pipeline's own parts.
    pub restart: RestartSpec,
    /// After how long a failed pipeline is tried again.
    pub failed_retry: Duration,
    /// Whether each record's way is logged, and not only what was rejected.
    pub log_records: bool,
    /// Its topics, created where they do not exist.
    pub topics: Vec<PipelineTopic>,
}

/// A topic of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineTopic {
    /// What it is created as.
    pub spec: TopicSpec,
    /// What one must be like that is there already.
    pub needs: Needs,
}

/// How many partitions a topic must have that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// As many as it would be created with: order or dedupe rests on them, or somebody reads its one partition.
    Exactly,
    /// That many or more: what is written to it goes to a partition by its number.
    AtLeast,
    /// Any number: partitions are chosen by key among those that are there.
    Any,
}

impl PipelineTopic {
    /// Why so many partitions are not enough, or too many; `None` where they will do.
    #[must_use]
    pub fn mismatch(&self, found: i32) -> Option<String> {
        let wanted = self.spec.partitions;
        match self.needs {
            Needs::Exactly if found != wanted => Some(format!("has {found} partitions, the config says {wanted}")),
            Needs::AtLeast if found < wanted => Some(format!("has {found} partitions, {wanted} or more are needed")),
            Needs::Exactly | Needs::AtLeast | Needs::Any => None,
        }
    }
}

impl PipelineSpec {
    /// What all of its dead letters have in common.
    pub(crate) fn letter_spec(&self) -> LetterSpec {
        LetterSpec {
            topic: Arc::clone(&self.source.topic),
            group: Arc::from(&*self.source.group),
            pipeline: Arc::clone(&self.name),
            bytes_max: self.dlq.letter_bytes_max,
            message_bytes_max: MESSAGE_BYTES_MAX,
            rounds_max: self.dlq.rounds_max,
        }
    }
}

/// Where results go.
#[derive(Clone, Debug)]
pub struct OutputSpec {
    /// The topic.
    pub topic: Arc<str>,
    /// What their key is taken from.
    pub key: KeySource,
    /// Whether a record here tells how its job ended.
    pub is_result: bool,
}

/// Where records come from.
#[derive(Clone, Debug)]
pub struct SourceSpec {
    /// The topic.
    pub topic: Arc<str>,
    /// How many partitions it has; another number stops the pipeline.
    pub partitions: i32,
    /// The consumer group.
    pub group: String,
    /// After how long a silent member is out of the group.
    pub session_timeout: Duration,
    /// What to do where the log's start is past the position.
    pub on_gap: OnGap,
}

/// What to do where records were deleted before they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnGap {
    /// Stop the partition and say so.
    Stop,
    /// Go on from the log's start, counted.
    Skip,
}

/// A ledger.
#[derive(Clone, Debug)]
pub struct LedgerSpec {
    /// Its topic, with as many partitions as the source.
    pub topic: Arc<str>,
    /// Where a record's key is.
    pub key: KeySource,
    /// For how long a key is remembered.
    pub ttl: Duration,
    /// How many keys a partition remembers at most.
    pub keys_max: usize,
    /// A segment record above this is split, in bytes.
    pub segment_bytes_max: usize,
    /// The cache's directory.
    pub cache: PathBuf,
    /// How long to wait for a position and a changelog that do not agree yet.
    pub settle_wait: Duration,
}

/// A stage.
#[derive(Clone)]
pub struct StageSpec {
    /// Its name, unique in the pipeline.
    pub name: Arc<str>,
    /// How many workers, at least 1.
    pub workers: u32,
    /// Its steps, in order.
    pub steps: Vec<Arc<dyn StepFactory>>,
    /// How many batches, of any partitions, one call of its steps works on.
    pub gather: Gather,
    /// Where each worker has a process of its own for them; `None`: they run on its thread.
    pub process: Option<ProcessSpec>,
    /// A worker that is silent for longer over a batch is replaced.
    pub timeout: Duration,
    /// A record that crashed its worker this often is poison.
    pub crashes_max: u32,
    /// For transient faults.
    pub retry: RetryPolicy,
    /// Restarts of its workers.
    pub restart: RestartSpec,
    /// Records that one record may become in the stage.
    pub emit_max: usize,
    /// Where its workers note what they hold, for the next process.
    pub journal: PathBuf,
}

/// How often parts may be restarted before their supervisor gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartSpec {
    /// Crashes without a culprit.
    pub intensity: u32,
    /// Within this time.
    pub period: Duration,
}

/// Where dead letters go.
#[derive(Clone, Debug)]
pub struct DlqSpec {
    /// The topic.
    pub topic: Arc<str>,
    /// Stop the pipeline where more than this part of its records is rejected within the window.
    pub stop_above: Option<StopAbove>,
    /// How many partitions it has.
    pub partitions: i32,
    /// How large a dead letter may be, in bytes; its value is cut to fit.
    pub letter_bytes_max: usize,
    /// A dead letter that came back this often is parked: marked, and not to be redriven again.
    pub rounds_max: u32,
}
