//! What the adapter's tests share: logs, members and records. Never starts a broker of its own.

use bulkhead_actors::io::kafka::{KafkaConfig, KafkaLog};
use bulkhead_actors::log::{
    AssignmentListener, Closing, Delivery, Fetched, Group, GroupSpec, Log, Outgoing, Publisher, Read, Tail, TopicSpec,
};
use bulkhead_core::ids::{Partition, Position};
use bulkhead_core::record::{Record, SourceRecord};
use bulkhead_testkit::kafka::Kafka;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long what must come may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How long one call waits.
pub(crate) const TURN: Duration = Duration::from_millis(50);

pub(crate) fn log(kafka: &Kafka) -> KafkaLog {
    KafkaLog::new(KafkaConfig::new(kafka.bootstrap(), "test")).unwrap()
}

/// A name nobody used before on this broker.
pub(crate) fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn topic(log: &dyn Log, prefix: &str, partitions: i32) -> Arc<str> {
    let name = unique(prefix);
    log.create_topics(&[TopicSpec { name: name.clone(), partitions, replicas: 1, retention: None }]).unwrap();
    name.into()
}

pub(crate) fn outgoing(topic: &Arc<str>, partition: i32, text: impl Into<String>) -> Outgoing {
    let record = Record { value: Some(text.into().into()), ..Record::default() };
    Outgoing { topic: Arc::clone(topic), partition: Some(Partition(partition)), record }
}

/// Fills partitions with numbered records, `count` each.
pub(crate) fn fill(log: &dyn Log, topic: &Arc<str>, partitions: i32, count: usize) {
    let producer = log.producer().unwrap();
    let all: Vec<_> = (0..count).flat_map(|i| (0..partitions).map(move |p| (p, i))).collect();
    for some in all.chunks(5000) {
        let sends = some.iter().map(|(p, i)| producer.send(outgoing(topic, *p, i.to_string())));
        for sent in futures::executor::block_on(futures::future::join_all(sends)) {
            sent.unwrap();
        }
    }
}

/// What a listener was told.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) ours: Mutex<BTreeSet<Partition>>,
    pub(crate) lost: Mutex<Vec<bool>>,
}

impl AssignmentListener for Told {
    fn assigned(&self, partitions: &[Partition]) {
        self.ours.lock().unwrap().extend(partitions);
    }

    fn revoked(&self, partitions: &[Partition], lost: bool) {
        let mut ours = self.ours.lock().unwrap();
        partitions.iter().for_each(|p| assert!(ours.remove(p), "{p} was revoked, but never assigned"));
        self.lost.lock().unwrap().push(lost);
    }
}

pub(crate) fn spec(group: &str, topic: &str, instance: &str) -> GroupSpec {
    GroupSpec {
        group: group.to_owned(),
        topic: topic.to_owned(),
        instance: instance.to_owned(),
        session_timeout: Duration::from_secs(6),
    }
}

/// A member that polls until it owns `partitions` partitions.
pub(crate) fn join(log: &dyn Log, group: &str, topic: &str, partitions: usize) -> (Arc<dyn Group>, Arc<Told>) {
    let told = Arc::new(Told::default());
    let group = log.join(&spec(group, topic, "test"), told.clone()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while told.ours.lock().unwrap().len() < partitions {
        assert!(Instant::now() < deadline, "assigned {:?} only", told.ours.lock().unwrap());
        assert!(group.poll(&|_| false, 1, TURN).unwrap().is_empty());
    }
    (group, told)
}

/// Polls until `count` records of the wanted partitions came.
pub(crate) fn take(group: &dyn Group, wanted: &dyn Fn(Partition) -> bool, count: usize) -> Vec<Fetched> {
    let deadline = Instant::now() + PATIENCE;
    let (mut all, mut have) = (Vec::new(), 0);
    while have < count {
        assert!(Instant::now() < deadline, "only {have} of {count} records came");
        let turn = group.poll(wanted, (count - have).min(256), TURN).unwrap();
        have += turn.iter().map(|f| f.records.len()).sum::<usize>();
        all.extend(turn);
    }
    all
}

pub(crate) fn offsets(fetched: &[Fetched], partition: i32) -> Vec<i64> {
    fetched.iter().filter(|f| f.partition.0 == partition).flat_map(|f| f.records.iter().map(|r| r.offset.0)).collect()
}

pub(crate) fn ready(group: &dyn Group, lane: u32) -> Box<dyn Publisher> {
    let mut publisher = group.publisher(lane, Delivery::ExactlyOnce).unwrap();
    publisher.rebuild().unwrap();
    publisher
}

pub(crate) fn closing(partition: i32, position: i64) -> Closing {
    Closing { segments: Vec::new(), positions: vec![(Partition(partition), Position(position))] }
}

/// What a `read_committed` reader sees of a partition.
pub(crate) fn committed_texts(log: &dyn Log, topic: &Arc<str>, partition: i32) -> Vec<String> {
    read_all(log, topic, partition)
        .into_iter()
        .map(|r| String::from_utf8(r.record.payload().to_vec()).unwrap())
        .collect()
}

pub(crate) fn read_all(log: &dyn Log, topic: &Arc<str>, partition: i32) -> Vec<SourceRecord> {
    let tail = Tail { topic: Arc::clone(topic), partition: Partition(partition), from: None };
    let mut reader = log.reader(&[tail]).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut records = Vec::new();
    loop {
        assert!(Instant::now() < deadline, "not caught up after {} records", records.len());
        for seen in reader.read(1000, TURN).unwrap() {
            match seen {
                Read::Record { record, .. } => records.push(record),
                Read::CaughtUp { .. } => return records,
            }
        }
    }
}

pub(crate) fn position(log: &dyn Log, group: &str, topic: &str, partition: i32) -> Option<i64> {
    log.committed(group, topic, &[Partition(partition)], PATIENCE).unwrap()[0].map(|p| p.0)
}
