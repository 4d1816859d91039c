//! A store that fails while writing: told truly, opened again, nothing lost or doubled by it.

use super::store::{Loaded, ReadLimit, Slot, Span, Store, TopicMeta, Writes};
use super::{LocalLog, LocalOptions, WriterOptions};
use crate::io::memory::MemoryStore;
use crate::log::{
    AssignmentListener, Closing, Delivery, Group, GroupSpec, Log, LogError, Outgoing, PublishError, Publisher,
    TopicSpec,
};
use bulkhead_core::ids::{Partition, Position};
use bulkhead_core::record::{Record, SourceRecord};
use bulkhead_core::time::WallMs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const WORKS: u8 = 0;
/// The write fails, and nothing of it is there afterwards.
const LOSES: u8 = 1;
/// The write fails, but it is there afterwards.
const KEEPS: u8 = 2;
/// The write panics.
const PANICS: u8 = 3;

#[derive(Clone, Default)]
struct FlakyStore {
    inner: MemoryStore,
    mode: Arc<AtomicU8>,
}

impl Store for FlakyStore {
    fn load(&self) -> Result<Loaded, LogError> {
        self.inner.load()
    }

    fn put_topic(&self, topic: &TopicMeta) -> Result<(), LogError> {
        self.inner.put_topic(topic)
    }

    fn write(&self, writes: Writes) -> Result<(), LogError> {
        match self.mode.swap(WORKS, Ordering::SeqCst) {
            WORKS => return self.inner.write(writes),
            KEEPS => self.inner.write(writes)?,
            PANICS => panic!("the disk is on fire"),
            _ => {}
        }
        Err(LogError::Unavailable("no room".to_owned()))
    }

    fn read(&self, slot: Slot, span: Span, limit: ReadLimit) -> Result<Vec<SourceRecord>, LogError> {
        self.inner.read(slot, span, limit)
    }

    fn trim(&self, slot: Slot, span: Span, before: WallMs, max: usize) -> Result<i64, LogError> {
        self.inner.trim(slot, span, before, max)
    }
}

struct Quiet;

impl AssignmentListener for Quiet {
    fn assigned(&self, _partitions: &[Partition]) {}
    fn revoked(&self, _partitions: &[Partition], _lost: bool) {}
}

fn log(store: &FlakyStore, writer: bool) -> LocalLog {
    let thread =
        WriterOptions { waiting_max: 100, waiting_bytes_max: 1 << 20, retain_every: Duration::from_secs(3600) };
    let options = LocalOptions {
        name: "the log under test".to_owned(),
        record_bytes_max: 1_000,
        read_bytes_max: 1_000,
        transaction_bytes_max: 10_000,
        reopen_after: Duration::from_millis(1),
        writer: writer.then_some(thread),
    };
    let store = store.clone();
    let log = LocalLog::open(move || Ok(Box::new(store.clone())), &options).expect("it opens");
    let spec = TopicSpec { name: "t".to_owned(), partitions: 1, replicas: 1, retention: None };
    log.create_topics(&[spec]).expect("it is created");
    log
}

fn group(log: &LocalLog) -> Arc<dyn Group> {
    let spec = GroupSpec {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        instance: "i".to_owned(),
        session_timeout: Duration::from_secs(1),
    };
    log.join(&spec, Arc::new(Quiet)).expect("it joins")
}

fn publish(publisher: &mut dyn Publisher, position: i64) -> Result<(), PublishError> {
    publisher.begin()?;
    let record = Record { value: Some(position.to_string().into()), ..Record::default() };
    publisher.produce(&Outgoing { topic: "t".into(), partition: None, record })?;
    publisher.commit(&Closing { segments: Vec::new(), positions: vec![(Partition(0), Position(position))] })
}

/// Tries until the log works again.
fn until_open<T, E: std::fmt::Display>(mut call: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match call() {
            Ok(value) => return value,
            Err(e) => assert!(Instant::now() < deadline, "still: {e}"),
        }
    }
}

#[test]
fn a_failed_write_is_unknown_and_what_is_there_afterwards_is_the_truth() {
    for writer in [false, true] {
        for (mode, kept) in [(LOSES, false), (KEEPS, true), (PANICS, false)] {
            let store = FlakyStore::default();
            let log = log(&store, writer);
            let group = group(&log);
            assert!(group.poll(&|_| true, 10, Duration::ZERO).expect("it polls").is_empty());
            let mut publisher = group.publisher(0, Delivery::ExactlyOnce).expect("a publisher");
            publisher.rebuild().expect("ready");
            publish(&mut *publisher, 1).expect("the store works");
            store.mode.store(mode, Ordering::SeqCst);
            let failed = publish(&mut *publisher, 2);
            assert!(matches!(failed, Err(PublishError::Unknown(_))), "{failed:?}");
            // Whatever comes while it is out of order brings it back, when it is time to.
            until_open(|| {
                publisher
                    .rebuild()
                    .and_then(|()| publisher.committed(&[Partition(0)]))
                    .map(|_| ())
                    .or_else(|_| log.committed("g", "t", &[Partition(0)], PATIENCE).map(|_| ()))
            });
            let expected = if kept { 2 } else { 1 };
            let committed = log.committed("g", "t", &[Partition(0)], PATIENCE).expect("it works");
            assert_eq!(committed, [Some(Position(expected))]);
            assert_eq!(log.extent("t", Partition(0)).expect("it is there").end, Position(expected));
            until_open(|| publisher.rebuild());
            publish(&mut *publisher, expected + 1).expect("the store works");
            let fetched = group.poll(&|_| true, 10, Duration::from_secs(1)).expect("it polls");
            let read: Vec<_> = fetched[0].records.iter().map(|r| r.record.payload().to_vec()).collect();
            let all: Vec<_> = (1..=expected + 1).map(|i| i.to_string().into_bytes()).collect();
            assert_eq!(read, all);
        }
    }
}

#[test]
fn a_log_that_nobody_writes_to_comes_back_too() {
    let store = FlakyStore::default();
    let log = log(&store, true);
    let producer = log.producer().expect("a producer");
    store.mode.store(LOSES, Ordering::SeqCst);
    let record = Record::default();
    let sent = futures::executor::block_on(producer.send(Outgoing { topic: "t".into(), partition: None, record }));
    assert!(matches!(sent, Err(LogError::Unavailable(_))), "{sent:?}");
    until_open(|| log.ping(Duration::ZERO));
}
