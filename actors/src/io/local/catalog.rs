//! What a log inside the process knows in memory: topics and their extents, groups and lanes. Never touches the store.

use super::store::{GroupKey, Loaded, Slot, Span, TopicId, TopicMeta};
use crate::log::{LogError, Outgoing};
use bulkhead_core::ids::{Partition, Position};
use bulkhead_core::partitioner::partition_of;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Tells an incarnation of a lane or a member from its earlier and later selves.
pub(super) type Epoch = u64;

pub(super) struct Topic {
    pub(super) meta: TopicMeta,
    pub(super) spans: Vec<Span>,
}

#[derive(Default)]
struct GroupState {
    /// The member that may commit, `None` where nobody has joined.
    member: Option<Epoch>,
    positions: BTreeMap<Partition, Position>,
}

#[derive(Default)]
pub(super) struct Catalog {
    topics: HashMap<Arc<str>, Topic>,
    names: HashMap<TopicId, Arc<str>>,
    groups: HashMap<GroupKey, GroupState>,
    lanes: HashMap<String, Epoch>,
    epochs: Epoch,
    /// Where the next record without a key goes.
    keyless: u32,
}

impl Catalog {
    /// Takes over what the store holds. Members and lanes stay as they are: they belong to this process.
    pub(super) fn adopt(&mut self, loaded: Loaded) {
        self.topics.clear();
        self.names.clear();
        for (meta, spans) in loaded.topics {
            self.add(meta, spans);
        }
        for state in self.groups.values_mut() {
            state.positions.clear();
        }
        for (key, partition, position) in loaded.positions {
            self.set_position(key, partition, position);
        }
    }

    pub(super) fn add(&mut self, meta: TopicMeta, spans: Vec<Span>) {
        self.names.insert(meta.id, meta.name.clone());
        self.topics.insert(meta.name.clone(), Topic { meta, spans });
    }

    /// Takes over what a topic that is known is now.
    pub(super) fn amend(&mut self, meta: &TopicMeta) {
        if let Some(topic) = self.topics.get_mut(&meta.name) {
            topic.meta.clone_from(meta);
        }
    }

    pub(super) fn topic(&self, name: &str) -> Result<&Topic, LogError> {
        self.topics.get(name).ok_or_else(|| LogError::Refused(format!("topic {name} does not exist")))
    }

    pub(super) fn find(&self, name: &str) -> Option<&Topic> {
        self.topics.get(name)
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values()
    }

    pub(super) fn next_topic_id(&self) -> TopicId {
        TopicId(self.names.keys().map(|id| id.0 + 1).max().unwrap_or(0))
    }

    pub(super) fn slot(&self, topic: &str, partition: Partition) -> Result<Slot, LogError> {
        let topic = self.topic(topic)?;
        if partition.0 < 0 || partition.0 >= topic.meta.partitions {
            let (name, count) = (&topic.meta.name, topic.meta.partitions);
            return Err(LogError::Refused(format!("topic {name} has {count} partitions, no partition {partition}")));
        }
        Ok(Slot { topic: topic.meta.id, partition })
    }

    /// The span of a slot that this catalog handed out.
    pub(super) fn span(&self, slot: Slot) -> Span {
        let topic = self.names.get(&slot.topic).and_then(|name| self.topics.get(name));
        let index = usize::try_from(slot.partition.0).unwrap_or(usize::MAX);
        topic.and_then(|t| t.spans.get(index)).copied().unwrap_or_default()
    }

    pub(super) fn span_mut(&mut self, slot: Slot) -> Option<&mut Span> {
        let index = usize::try_from(slot.partition.0).ok()?;
        let name = self.names.get(&slot.topic)?;
        self.topics.get_mut(name)?.spans.get_mut(index)
    }

    /// Where a record goes: its own partition, its key's, or the next in turn.
    pub(super) fn place(&mut self, outgoing: &Outgoing) -> Result<Slot, LogError> {
        let partitions = self.topic(&outgoing.topic)?.meta.partitions;
        let partition = match (outgoing.partition, &outgoing.record.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of(key, partitions),
            (None, None) => {
                self.keyless = self.keyless.wrapping_add(1);
                Partition(i32::try_from(self.keyless % partitions.unsigned_abs()).unwrap_or(0))
            }
        };
        self.slot(&outgoing.topic, partition)
    }

    fn next_epoch(&mut self) -> Epoch {
        self.epochs += 1;
        self.epochs
    }

    /// Makes the caller the one member of the group; whoever was it before is fenced.
    pub(super) fn join(&mut self, key: &GroupKey) -> Epoch {
        let epoch = self.next_epoch();
        self.groups.entry(key.clone()).or_default().member = Some(epoch);
        epoch
    }

    pub(super) fn leave(&mut self, key: &GroupKey, epoch: Epoch) {
        if let Some(state) = self.groups.get_mut(key).filter(|state| state.member == Some(epoch)) {
            state.member = None;
        }
    }

    pub(super) fn is_member(&self, key: &GroupKey, epoch: Epoch) -> bool {
        self.groups.get(key).is_some_and(|state| state.member == Some(epoch))
    }

    /// Makes the caller the one publisher of the lane; its earlier selves are fenced.
    pub(super) fn take_lane(&mut self, lane: &str) -> Epoch {
        let epoch = self.next_epoch();
        self.lanes.insert(lane.to_owned(), epoch);
        epoch
    }

    pub(super) fn holds_lane(&self, lane: &str, epoch: Epoch) -> bool {
        self.lanes.get(lane) == Some(&epoch)
    }

    pub(super) fn position(&self, key: &GroupKey, partition: Partition) -> Option<Position> {
        self.groups.get(key)?.positions.get(&partition).copied()
    }

    pub(super) fn set_position(&mut self, key: GroupKey, partition: Partition, position: Position) {
        self.groups.entry(key).or_default().positions.insert(partition, position);
    }
}
