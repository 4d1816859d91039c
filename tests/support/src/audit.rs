//! The auditor's eyes: reads what went into a pipeline and what came out of it, on a real broker. Never judges:
//! `bulkhead_core::audit` does.

use crate::kafka::Kafka;
use crate::process::eventually;
use crate::topics::{Isolation, Stored, stored};
use bulkhead_core::audit::{Delivery, Entry, Evidence, History, Kind, Sent, Violation, Visible, audit, not_a_prefix};
use bulkhead_core::ids::{Partition, Position, SegmentSeq};
use bulkhead_core::ledger::{self, Claimer, KeySource, Segment};
use bulkhead_core::record::{ID_HEADER, Record, SourceRecord};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Message, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a pipeline reads, writes and promises.
#[derive(Clone, Debug)]
pub struct Audited {
    /// Its source topic.
    pub source: String,
    /// Its consumer group.
    pub group: String,
    /// Its result topics.
    pub outputs: Vec<String>,
    /// Its dead letter topics.
    pub dead_letters: Vec<String>,
    /// Which promise it gives.
    pub delivery: Delivery,
    /// What a record and its outcomes are known by; `None` marks a stranger.
    pub id: fn(&Record) -> Option<String>,
    /// How many outputs a source record makes.
    pub outputs_of: fn(&Record) -> u32,
    /// The topic of its ledger and how it makes claims, where it has one.
    pub ledger: Option<(String, Claimer)>,
}

impl Audited {
    /// An exactly-once pipeline without a ledger: one output or one dead letter a record, known by its id header.
    #[must_use]
    pub fn new(source: &str, group: &str, output: &str, dead_letters: &str) -> Self {
        Self {
            source: source.into(),
            group: group.into(),
            outputs: vec![output.into()],
            dead_letters: vec![dead_letters.into()],
            delivery: Delivery::ExactlyOnce,
            id: id_header,
            outputs_of: |_| 1,
            ledger: None,
        }
    }

    /// With a ledger: that of the pipeline of this name.
    #[must_use]
    pub fn with_ledger(mut self, pipeline: &str, key: KeySource) -> Self {
        self.ledger = Some((format!("{pipeline}.ledger"), Claimer::new(pipeline, &self.source, key)));
        self
    }

    fn visible(&self, topic: &str, stored: &[Stored]) -> Vec<Visible<String>> {
        let (name, letters) = (Arc::from(topic), self.dead_letters.iter().any(|t| t == topic));
        let kind = if letters { Kind::DeadLetter } else { Kind::Output };
        let seen = stored.iter().map(|s| Visible {
            topic: Arc::clone(&name),
            partition: s.partition,
            id: (self.id)(&s.record).unwrap_or_else(|| format!("no id: {:?}", s.record)),
            kind,
        });
        seen.collect()
    }
}

/// The record's id header as text.
#[must_use]
pub fn id_header(record: &Record) -> Option<String> {
    record.header(ID_HEADER).map(|id| String::from_utf8_lossy(id).into_owned())
}

/// A thread that reads topics committed-only while faults happen.
pub struct Follower {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(String, Stored)>>,
}

impl Follower {
    /// What it has read, in order; it ends.
    ///
    /// # Panics
    /// When the thread panicked.
    #[must_use]
    pub fn finish(self) -> Vec<(String, Stored)> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("the follower does not panic")
    }
}

impl Kafka {
    /// Reads topics from their beginnings, committed-only, until it is told to finish.
    ///
    /// # Panics
    /// When a topic does not exist.
    #[must_use]
    pub fn follow(&self, topics: &[&str]) -> Follower {
        let consumer = self.reader(Isolation::Committed);
        let mut assignment = TopicPartitionList::new();
        for topic in topics {
            for partition in self.ends(&consumer, topic).keys() {
                assignment
                    .add_partition_offset(topic, *partition, Offset::Beginning)
                    .expect("a beginning is an offset");
            }
        }
        consumer.assign(&assignment).expect("partitions that exist can be assigned");
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || read_until(&consumer, &told));
        Follower { stop, thread }
    }

    /// Waits until the group's positions lie behind the last record of every partition.
    ///
    /// # Panics
    /// When they do not in time, with where they are.
    pub fn wait_done(&self, audited: &Audited, timeout: Duration) {
        let last = last_records(&self.read_topic(&audited.source, Isolation::Committed));
        let positions = self.positions(&audited.group, &audited.source);
        eventually(&format!("{} is done with {}", audited.group, audited.source), timeout, || {
            let committed = positions.committed();
            let behind: Vec<_> =
                last.iter().filter(|(p, end)| committed.get(&p.0).is_none_or(|c| *c < end.0)).collect();
            if behind.is_empty() {
                Ok(())
            } else {
                Err(format!("committed {committed:?}, last records end at {last:?}"))
            }
        });
    }

    /// Reads all of it and lets the auditor judge; `followers` must have seen the beginning of the same.
    #[must_use]
    pub fn audit(&self, audited: &Audited, followers: Vec<Follower>) -> Vec<Violation<String>> {
        let during: Vec<_> = followers.into_iter().map(Follower::finish).collect();
        let mut visible = Vec::new();
        for topic in audited.outputs.iter().chain(&audited.dead_letters) {
            visible.extend(audited.visible(topic, &self.read_topic(topic, Isolation::Committed)));
        }
        for read in during {
            let read: Vec<_> = read.into_iter().flat_map(|(topic, s)| audited.visible(&topic, &[s])).collect();
            let broken = not_a_prefix(&read, &visible);
            assert!(
                broken.is_empty(),
                "a reader saw what is not there in the end (topic, partition, in common): {broken:?}"
            );
        }
        let source = self.read_topic(&audited.source, Isolation::Committed);
        let sent = source.iter().map(|s| Sent {
            partition: s.partition,
            offset: s.offset,
            id: (audited.id)(&s.record).unwrap_or_else(|| format!("{}/{}", s.partition, s.offset)),
            claim: audited.ledger.as_ref().map(|(_, claimer)| {
                claimer.claim(s.partition, &SourceRecord { offset: s.offset, record: s.record.clone() })
            }),
            outputs: (audited.outputs_of)(&s.record),
        });
        let ledger = audited.ledger.as_ref().map(|(topic, _)| self.read_ledger(topic));
        let places = |map: BTreeMap<i32, i64>| map.into_iter().map(|(p, at)| (Partition(p), Position(at))).collect();
        let ends = places(self.end_offsets(&audited.source, Isolation::Committed));
        let positions = places(self.committed(&audited.group, &audited.source));
        let history = History { source: sent.collect(), ends };
        audit(&history, &Evidence { visible, ledger, positions }, audited.delivery)
    }

    /// Every entry of a ledger's topic.
    ///
    /// # Panics
    /// When a segment is damaged, or the sequence of a partition has a gap or a fork.
    #[must_use]
    pub fn read_ledger(&self, topic: &str) -> Vec<Entry> {
        let mut next: BTreeMap<Partition, SegmentSeq> = BTreeMap::new();
        let mut entries = Vec::new();
        for stored in self.read_topic(topic, Isolation::Committed) {
            let (partition, place) = (stored.partition, format!("{topic}/{}/{}", stored.partition, stored.offset));
            let segment = Segment::decode(stored.record.value.unwrap_or_default());
            let segment = segment.unwrap_or_else(|damage| panic!("{place}: {damage:?}"));
            let expected = next.insert(partition, SegmentSeq(segment.seq().0 + 1)).unwrap_or(SegmentSeq(0));
            assert_eq!(segment.seq(), expected, "{place}: a gap or a fork in the ledger's sequence");
            let entry = |e: &ledger::Entry| Entry { partition, offset: e.offset, recorded: e.recorded };
            entries.extend(segment.entries().iter().map(entry));
        }
        entries
    }

    /// Reads all of it and panics unless every promise was kept.
    ///
    /// # Panics
    /// With the first 20 violations.
    pub fn assert_clean(&self, audited: &Audited, followers: Vec<Follower>) {
        let violations = self.audit(audited, followers);
        let shown: Vec<String> = violations.iter().take(20).map(ToString::to_string).collect();
        assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), shown.join("\n"));
    }
}

fn read_until(consumer: &BaseConsumer, stop: &AtomicBool) -> Vec<(String, Stored)> {
    let mut seen = Vec::new();
    while !stop.load(Ordering::Acquire) {
        match consumer.poll(Duration::from_millis(20)) {
            Some(Ok(message)) => seen.push((message.topic().to_owned(), stored(&message))),
            // Brokers come and go in these tests; the ends of partitions are no news.
            Some(Err(KafkaError::PartitionEOF(_))) | None => {}
            Some(Err(error)) => eprintln!("follower: {error}"),
        }
    }
    seen
}

fn last_records(source: &[Stored]) -> BTreeMap<Partition, Position> {
    source.iter().fold(BTreeMap::new(), |mut map, s| {
        let end = map.entry(s.partition).or_insert(Position(0));
        *end = (*end).max(s.offset.next());
        map
    })
}
