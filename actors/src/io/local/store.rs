//! What a log inside the process needs of its storage. Never knows groups' members, lanes or who waits for what.

use crate::log::LogError;
use bulkhead_core::ids::{Offset, Partition, Position};
use bulkhead_core::record::{Record, SourceRecord};
use bulkhead_core::time::WallMs;
use std::sync::Arc;
use std::time::Duration;

/// A topic's number in its store: names are long, keys should not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TopicId(pub(crate) u32);

/// One partition of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot {
    pub(crate) topic: TopicId,
    pub(crate) partition: Partition,
}

/// A topic as the store remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicMeta {
    pub(crate) name: Arc<str>,
    pub(crate) id: TopicId,
    pub(crate) partitions: i32,
    pub(crate) retention: Option<Duration>,
}

/// A consumer group's view of one topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GroupKey {
    pub(crate) group: Arc<str>,
    pub(crate) topic: Arc<str>,
}

/// Where a partition's records begin and end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: i64,
    pub(crate) end: i64,
}

/// What a store knows when it is opened.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// Each topic with the spans of its partitions, in order.
    pub(crate) topics: Vec<(TopicMeta, Vec<Span>)>,
    pub(crate) positions: Vec<(GroupKey, Partition, Position)>,
}

/// A record and the place it was given.
pub(crate) struct Append {
    pub(crate) slot: Slot,
    pub(crate) offset: Offset,
    pub(crate) record: Record,
}

/// What is written together, all or nothing.
#[derive(Default)]
pub(crate) struct Writes {
    pub(crate) appends: Vec<Append>,
    pub(crate) positions: Vec<(GroupKey, Partition, Position)>,
    /// When the log took these records; what retention counts from, whatever the records' own timestamps say.
    pub(crate) appended: WallMs,
}

/// How much one read takes at most; one record is taken however large it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadLimit {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

/// Keeps topics, records and positions. Calls of one method may overlap those of another; writes never overlap each other.
pub(crate) trait Store: Send + Sync {
    fn load(&self) -> Result<Loaded, LogError>;
    /// Keeps a topic, in place of what it was before.
    fn put_topic(&self, topic: &TopicMeta) -> Result<(), LogError>;
    /// Writes all of it or nothing, durable when this returns `Ok`; after an error nobody knows which.
    fn write(&self, writes: Writes) -> Result<(), LogError>;
    /// Records of the slot with offsets in `span`, in order.
    fn read(&self, slot: Slot, span: Span, limit: ReadLimit) -> Result<Vec<SourceRecord>, LogError>;
    /// Deletes records from the start of `span` that were appended before `before`, at most `max`; returns the new start.
    fn trim(&self, slot: Slot, span: Span, before: WallMs, max: usize) -> Result<i64, LogError>;
}
