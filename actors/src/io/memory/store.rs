//! Records in vectors. Never forgets before it is dropped, but for retention.

use crate::io::local::store::{GroupKey, Loaded, ReadLimit, Slot, Span, Store, TopicMeta, Writes};
use crate::log::LogError;
use bulkhead_core::ids::{Partition, Position};
use bulkhead_core::record::SourceRecord;
use bulkhead_core::time::WallMs;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Shared by its clones, so that a log that is opened again finds what it wrote.
#[derive(Clone, Default)]
pub(in crate::io) struct MemoryStore(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    topics: Vec<TopicMeta>,
    partitions: BTreeMap<Slot, Kept>,
    positions: BTreeMap<(GroupKey, Partition), Position>,
}

#[derive(Default)]
struct Kept {
    start: i64,
    records: VecDeque<(WallMs, SourceRecord)>,
}

impl Kept {
    fn span(&self) -> Span {
        Span { start: self.start, end: self.start + i64::try_from(self.records.len()).unwrap_or(i64::MAX) }
    }
}

impl Store for MemoryStore {
    fn load(&self) -> Result<Loaded, LogError> {
        let content = self.0.lock();
        let span = |topic: &TopicMeta, p| {
            content.partitions.get(&Slot { topic: topic.id, partition: Partition(p) }).map(Kept::span)
        };
        let spans = |topic: &TopicMeta| (0..topic.partitions).map(|p| span(topic, p).unwrap_or_default()).collect();
        Ok(Loaded {
            topics: content.topics.iter().map(|topic| (topic.clone(), spans(topic))).collect(),
            positions: content.positions.iter().map(|((key, p), at)| (key.clone(), *p, *at)).collect(),
        })
    }

    fn put_topic(&self, topic: &TopicMeta) -> Result<(), LogError> {
        let topics = &mut self.0.lock().topics;
        topics.retain(|known| known.id != topic.id);
        topics.push(topic.clone());
        Ok(())
    }

    fn write(&self, writes: Writes) -> Result<(), LogError> {
        let mut content = self.0.lock();
        for append in writes.appends {
            let record = SourceRecord { offset: append.offset, record: append.record };
            content.partitions.entry(append.slot).or_default().records.push_back((writes.appended, record));
        }
        for (key, partition, position) in writes.positions {
            content.positions.insert((key, partition), position);
        }
        Ok(())
    }

    fn read(&self, slot: Slot, span: Span, limit: ReadLimit) -> Result<Vec<SourceRecord>, LogError> {
        let content = self.0.lock();
        let Some(kept) = content.partitions.get(&slot) else { return Ok(Vec::new()) };
        let skip = usize::try_from(span.start - kept.start).unwrap_or(0);
        let mut bytes = 0;
        let fits = |record: &&SourceRecord| {
            let first = bytes == 0;
            bytes += record.record.size();
            record.offset.0 < span.end && (first || bytes <= limit.bytes)
        };
        let records = kept.records.range(skip.min(kept.records.len())..).map(|(_, record)| record);
        Ok(records.take(limit.records).take_while(fits).cloned().collect())
    }

    fn trim(&self, slot: Slot, span: Span, before: WallMs, max: usize) -> Result<i64, LogError> {
        let mut content = self.0.lock();
        let Some(kept) = content.partitions.get_mut(&slot) else { return Ok(span.start) };
        for _ in 0..max {
            if kept.records.pop_front_if(|(appended, _)| *appended < before).is_none() {
                break;
            }
            kept.start += 1;
        }
        Ok(kept.start)
    }
}
