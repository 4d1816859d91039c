//! The log port: what the engine needs of a log, whoever keeps it (Kafka, the embedded store, memory).
//! Never names an adapter; `tests/log_contract.rs` holds every adapter to what is written here.
//!
//! All calls may block their thread and are made from threads that may be blocked, but for [`Producer::send`].

use bulkhead_core::ids::{Offset, Partition, Position};
use bulkhead_core::record::{Record, SourceRecord};
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// What a log call failed with, by what the caller should do about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// The log cannot be reached or is overloaded: it may pass, call again.
    #[error("log unavailable: {0}")]
    Unavailable(String),
    /// This client is dead (fenced, fatal): build it anew ([`Group::rejoin`], [`Publisher::rebuild`]).
    #[error("log client is dead: {0}")]
    ClientDead(String),
    /// The log refuses this for good: configuration, authorisation, a topic that does not exist, damage.
    #[error("log refuses: {0}")]
    Refused(String),
}

/// A topic as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// How many partitions, at least 1.
    pub partitions: i32,
    /// How many replicas; the embedded log has one whatever this says.
    pub replicas: i32,
    /// How long records are kept; `None` leaves it to the log.
    pub retention: Option<Duration>,
}

/// A topic as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// How many partitions it has.
    pub partitions: i32,
}

/// Where a partition's readable records begin and end. `end` counts committed records only (Kafka's last stable offset).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The position of the oldest record kept.
    pub start: Position,
    /// The position after the newest record that `read_committed` may see.
    pub end: Position,
}

/// A log: topics of partitions of records, consumer groups and transactions.
pub trait Log: Send + Sync {
    /// Joins a consumer group. Assignments are told to `listener` from within [`Group::poll`].
    fn join(&self, spec: &GroupSpec, listener: Arc<dyn AssignmentListener>) -> Result<Arc<dyn Group>, LogError>;

    /// A producer whose sends are answered once every in-sync replica has the record (acks=all).
    fn producer(&self) -> Result<Arc<dyn Producer>, LogError>;

    /// A producer that gives no record up by itself: of the records of one partition none is overtaken by a later one, however
    /// long the log is away. For a caller who can wait.
    fn patient_producer(&self) -> Result<Arc<dyn Producer>, LogError> {
        self.producer()
    }

    /// Reads partitions outside of any group, `read_committed`, each from its position (from its start where `None`).
    fn reader(&self, tails: &[Tail]) -> Result<Box<dyn Reader>, LogError>;

    /// The topic as it is, `None` where it does not exist.
    fn topic(&self, name: &str) -> Result<Option<TopicInfo>, LogError>;

    /// The largest record that the topic takes, in the bytes of [`Record::size`]; asks where that can be asked.
    fn record_bytes_max(&self, topic: &str) -> Result<usize, LogError> {
        Ok(self.producer()?.record_bytes_max(topic))
    }

    /// Creates the topics that do not exist and waits until they can be used; those that exist are left as they are.
    fn create_topics(&self, specs: &[TopicSpec]) -> Result<(), LogError>;

    /// How long the topic keeps its records, as it is set now; `None`: for ever.
    fn retention(&self, topic: &str) -> Result<Option<Duration>, LogError>;

    /// Sets how long the topic keeps its records; its other settings stay as they are.
    fn set_retention(&self, topic: &str, retention: Duration) -> Result<(), LogError>;

    /// Where the partition's readable records begin and end now.
    fn extent(&self, topic: &str, partition: Partition) -> Result<Extent, LogError>;

    /// The group's committed position of each partition, `None` where it has none. Waits for open transactions that
    /// hold positions of these partitions (stable offsets), at most `wait`.
    fn committed(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
        wait: Duration,
    ) -> Result<Vec<Option<Position>>, LogError>;

    /// Whether the log can be reached now; bounded by `wait`.
    fn ping(&self, wait: Duration) -> Result<(), LogError>;
}

/// A consumer group to join, for one topic.
#[derive(Clone, Debug)]
pub struct GroupSpec {
    /// The group's name.
    pub group: String,
    /// The source topic.
    pub topic: String,
    /// What tells this daemon's clients from another's; part of `transactional.id`.
    pub instance: String,
    /// How long a silent member stays in the group.
    pub session_timeout: Duration,
}

/// Told when partitions come and go. Called on the polling thread; `revoked` may block it up to the drain budget.
pub trait AssignmentListener: Send + Sync {
    /// These partitions are ours from now on.
    fn assigned(&self, partitions: &[Partition]);
    /// These partitions are ours until this returns; `lost`: they are another's already.
    fn revoked(&self, partitions: &[Partition], lost: bool);
}

/// Records of one partition, in offset order.
#[derive(Debug)]
pub struct Fetched {
    /// The partition.
    pub partition: Partition,
    /// At least one record.
    pub records: Vec<SourceRecord>,
}

/// One membership in a consumer group.
pub trait Group: Send + Sync {
    /// Serves the membership and takes at most `max` records from each assigned partition that `wanted` names; the others
    /// are left where they are, which is the backpressure. Waits at most `wait` when there is nothing. One thread calls this, and never stops.
    fn poll(&self, wanted: &dyn Fn(Partition) -> bool, max: usize, wait: Duration) -> Result<Vec<Fetched>, LogError>;

    /// Reads the partition again from this position; records taken before may not follow.
    fn seek(&self, partition: Partition, position: Position) -> Result<(), LogError>;

    /// A publisher that commits this group's positions with what it publishes. `lane` is its number, part of `transactional.id`.
    fn publisher(&self, lane: u32, delivery: Delivery) -> Result<Box<dyn Publisher>, LogError>;

    /// Replaces a client that is dead by a new one that joins again. Publishers made before go on with the new membership.
    fn rejoin(&self) -> Result<(), LogError>;

    /// Leaves the group (a revoke of all partitions is told first). Nothing may be called after it.
    fn leave(&self) -> Result<(), LogError>;
}

/// What a pipeline promises where the process dies (DESIGN §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Outputs, segment and position in one transaction.
    ExactlyOnce,
    /// Outputs acknowledged, then the segment acknowledged, then the position.
    AtLeastOnce,
}

/// A record and where it goes.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition; `None`: by key as Java clients choose it (murmur2), or any where there is no key.
    pub partition: Option<Partition>,
    /// The record.
    pub record: Record,
}

/// What closes a transaction: the ledger's segments and the positions that the outputs bring their partitions to.
#[derive(Clone, Debug, Default)]
pub struct Closing {
    /// Segment records; under [`Delivery::AtLeastOnce`] they are sent after every output was acknowledged.
    pub segments: Vec<Outgoing>,
    /// The position of each source partition in the transaction.
    pub positions: Vec<(Partition, Position)>,
}

/// What a publisher's call failed with.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishError {
    /// Nothing of this transaction will be seen. Abort, then publish it again.
    #[error("transaction void: {0}")]
    Void(String),
    /// The log refuses this record for good (too large, invalid). Abort, reject it, publish the rest again.
    #[error("record {index} refused: {reason}")]
    Refused {
        /// Which record of the transaction: how many `produce` calls came before its own.
        index: usize,
        /// What the log said.
        reason: String,
    },
    /// Whether the transaction ended cannot be told, or the producer is dead. Rebuild, read the committed positions, then decide.
    #[error("transaction outcome unknown: {0}")]
    Unknown(String),
    /// The log refuses this producer for good (authorisation, configuration).
    #[error("publisher refused: {0}")]
    Fatal(String),
}

impl PublishError {
    /// The answer to a commit whose partitions were taken away while it was under way.
    #[must_use]
    pub fn not_ours() -> Self {
        Self::Void("the assignment ended while its transaction was being committed".to_owned())
    }
}

/// A transactional producer: one transaction open at a time. Its caller owns a thread that may block.
pub trait Publisher: Send {
    /// Makes the producer ready, fences its earlier selves and settles what they left open. First call, and after `Unknown`.
    fn rebuild(&mut self) -> Result<(), PublishError>;
    /// Opens a transaction.
    fn begin(&mut self) -> Result<(), PublishError>;
    /// Hands a record over; it may wait for room, not for the acknowledgement.
    fn produce(&mut self, outgoing: &Outgoing) -> Result<(), PublishError>;
    /// Commits the transaction: outputs, segments and positions, all or nothing under [`Delivery::ExactlyOnce`].
    fn commit(&mut self, closing: &Closing) -> Result<(), PublishError>;
    /// As [`Publisher::commit`], but void where `ours` says no. A log that takes the membership as it is when positions
    /// are sent asks it after that: a membership that is newer than a lost assignment would be accepted.
    fn commit_if(&mut self, closing: &Closing, ours: &dyn Fn() -> bool) -> Result<(), PublishError> {
        if ours() { self.commit(closing) } else { Err(PublishError::not_ours()) }
    }
    /// Gives the transaction up; none of it is ever seen under [`Delivery::ExactlyOnce`].
    fn abort(&mut self) -> Result<(), PublishError>;
    /// The group's committed positions, stable ones; `None` where there is none.
    fn committed(&mut self, partitions: &[Partition]) -> Result<Vec<Option<Position>>, PublishError>;
    /// The largest record that the topic takes, in the bytes of [`Record::size`], as far as that is known without asking.
    fn record_bytes_max(&self, topic: &str) -> usize;
}

/// Sends single records, each acknowledged by itself.
pub trait Producer: Send + Sync {
    /// Sends one record. Resolves once it is durable, to where it lies. Bounded: `Unavailable` where too many are waiting or the log is away.
    fn send(&self, outgoing: Outgoing) -> BoxFuture<'static, Result<(Partition, Offset), LogError>>;

    /// The largest record that the topic takes, in the bytes of [`Record::size`], as far as that is known without asking;
    /// a larger one is `Refused`. For whoever can tell a client before it sends.
    fn record_bytes_max(&self, topic: &str) -> usize;
}

/// One partition to read, and from where.
#[derive(Clone, Debug)]
pub struct Tail {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: Partition,
    /// The first position wanted; `None`: the partition's start.
    pub from: Option<Position>,
}

/// What a reader saw.
#[derive(Debug)]
pub enum Read {
    /// A record of the tail with this number in the list the reader was made from.
    Record {
        /// Which tail.
        tail: usize,
        /// The record.
        record: SourceRecord,
    },
    /// Every record of this tail that was committed when the reader was made has been given; told once a tail.
    CaughtUp {
        /// Which tail.
        tail: usize,
    },
}

/// Reads partitions, `read_committed`, without a group.
pub trait Reader: Send {
    /// What has come, at most `max`, waiting at most `wait` when there is nothing.
    fn read(&mut self, max: usize, wait: Duration) -> Result<Vec<Read>, LogError>;
}
