//! What `actors/src/log.rs` promises, as checks that every adapter passes. Never knows an adapter.
//!
//! An adapter's test file says `#[macro_use] mod contract;` (with `#[path]` where it lies elsewhere) and
//! `log_contract!(make)`, `make` being a function beside it that returns an `Arc<dyn Log>`, or
//! anything else that dereferences to a log; each check calls it once. Checks use names nobody else uses.

#![allow(dead_code, reason = "each test file uses the part it needs")]
#![allow(clippy::unwrap_used, reason = "a check that cannot go on has failed")]

pub(crate) mod groups;
pub(crate) mod publishing;
pub(crate) mod reading;
pub(crate) mod topics;
pub(crate) mod transactions;

use bulkhead_actors::log::{
    AssignmentListener, Closing, Delivery, Group, GroupSpec, Log, LogError, Outgoing, Publisher, Read, Reader, Tail,
    TopicSpec,
};
use bulkhead_core::ids::{Offset, Partition, Position};
use bulkhead_core::record::{Header, Record, SourceRecord};
use bulkhead_core::time::WallMs;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a check waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long one call waits.
pub(crate) const TURN: Duration = Duration::from_millis(100);

/// Runs every check of the contract as a test of its own.
#[macro_export]
macro_rules! log_contract {
    ($make:ident) => {
        $crate::log_contract!(@tests $make;
            topics: creates_topics_once, keeps_records_as_long_as_it_is_told, tells_of_missing_topics, begins_empty, pings;
            publishing: keeps_records_whole, keys_keep_their_partition, keyless_records_land_somewhere,
                answers_many_at_once, refuses_what_is_too_large;
            groups: assigns_all_to_one_member, resumes_at_the_committed_position, leaves_unwanted_partitions_alone,
                seeks_back, leaving_revokes, rejoining_reads_from_the_committed_position, takes_at_most_max,
                a_second_member_is_never_ours_at_once;
            transactions: commits_all_at_once, aborts_without_a_trace, hides_what_is_open, refuses_one_record,
                fences_the_earlier_publisher, tells_the_truth_after_rebuild, delivers_at_least_once,
                lanes_are_independent, empty_transactions_move_positions;
            reading: reads_from_the_start, reads_from_a_position, catches_up_once_a_tail, sees_what_comes_later;
        );
    };
    (@tests $make:ident; $($module:ident: $($check:ident),+;)+) => {
        $(mod $module { $(
            #[test]
            fn $check() { $crate::contract::$module::$check(&*super::$make()); }
        )+ })+
    };
}

/// A name nobody used before, on a broker that others use too.
pub(crate) fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    format!("{prefix}-{}-{}-{}", std::process::id(), since.as_micros(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn now() -> WallMs {
    WallMs(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap())
}

/// A new topic.
pub(crate) fn topic(log: &dyn Log, partitions: i32) -> Arc<str> {
    let name = unique("contract");
    let spec = TopicSpec { name: name.clone(), partitions, replicas: 1, retention: None };
    log.create_topics(&[spec]).unwrap();
    name.into()
}

/// A record without a key.
pub(crate) fn record(text: &str) -> Record {
    Record { value: Some(text.to_owned().into()), timestamp: now(), ..Record::default() }
}

pub(crate) fn outgoing(topic: &Arc<str>, partition: i32, text: &str) -> Outgoing {
    Outgoing { topic: topic.clone(), partition: Some(Partition(partition)), record: record(text) }
}

/// Sends and waits.
pub(crate) fn send(log: &dyn Log, outgoing: Outgoing) -> Result<(Partition, Offset), LogError> {
    futures::executor::block_on(log.producer().unwrap().send(outgoing))
}

/// Sends these texts to one partition, one after the other.
pub(crate) fn fill(log: &dyn Log, topic: &Arc<str>, partition: i32, texts: &[&str]) -> Vec<Offset> {
    let producer = log.producer().unwrap();
    let send = |text: &&str| futures::executor::block_on(producer.send(outgoing(topic, partition, text)));
    texts.iter().map(|text| send(text).unwrap().1).collect()
}

pub(crate) fn text(record: &SourceRecord) -> String {
    String::from_utf8(record.record.payload().to_vec()).unwrap()
}

pub(crate) fn texts(records: &[SourceRecord]) -> Vec<String> {
    records.iter().map(text).collect()
}

/// The whole of one partition, read outside of any group up to where it is caught up.
pub(crate) fn read_all(log: &dyn Log, topic: &Arc<str>, partition: i32) -> Vec<SourceRecord> {
    let tail = Tail { topic: topic.clone(), partition: Partition(partition), from: None };
    let mut reader = log.reader(&[tail]).unwrap();
    let (records, caught_up) = read_until_caught_up(&mut *reader, 1);
    assert_eq!(caught_up, [0]);
    records.into_iter().map(|(_, record)| record).collect()
}

/// Reads until `tails` tails are caught up: the records with their tails, and which were caught up, in order.
pub(crate) fn read_until_caught_up(reader: &mut dyn Reader, tails: usize) -> (Vec<(usize, SourceRecord)>, Vec<usize>) {
    let deadline = Instant::now() + PATIENCE;
    let (mut records, mut caught_up) = (Vec::new(), Vec::new());
    while caught_up.len() < tails {
        assert!(Instant::now() < deadline, "caught up with {caught_up:?} only");
        for seen in reader.read(100, TURN).unwrap() {
            match seen {
                Read::Record { tail, record } => records.push((tail, record)),
                Read::CaughtUp { tail } => caught_up.push(tail),
            }
        }
    }
    (records, caught_up)
}

/// What a listener was told, checked as it comes: nothing is assigned twice or revoked that is not assigned.
#[derive(Default)]
pub(crate) struct Assignments {
    pub(crate) ours: Mutex<BTreeSet<Partition>>,
    pub(crate) revokes: Mutex<Vec<(Vec<Partition>, bool)>>,
}

impl AssignmentListener for Assignments {
    fn assigned(&self, partitions: &[Partition]) {
        let mut ours = self.ours.lock().unwrap();
        partitions.iter().for_each(|p| assert!(ours.insert(*p), "{p} was assigned twice"));
    }

    fn revoked(&self, partitions: &[Partition], lost: bool) {
        let mut ours = self.ours.lock().unwrap();
        partitions.iter().for_each(|p| assert!(ours.remove(p), "{p} was revoked, but never assigned"));
        self.revokes.lock().unwrap().push((partitions.to_vec(), lost));
    }
}

impl Assignments {
    pub(crate) fn now(&self) -> Vec<i32> {
        self.ours.lock().unwrap().iter().map(|p| p.0).collect()
    }
}

/// A member of a group and what it was told.
pub(crate) struct Member {
    pub(crate) group: Arc<dyn Group>,
    pub(crate) told: Arc<Assignments>,
    pub(crate) name: String,
}

/// Joins and polls until every partition is assigned.
pub(crate) fn join(log: &dyn Log, name: &str, topic: &str, partitions: i32) -> Member {
    let told = Arc::new(Assignments::default());
    let spec = GroupSpec {
        group: name.to_owned(),
        topic: topic.to_owned(),
        instance: "contract".to_owned(),
        session_timeout: Duration::from_secs(6),
    };
    let member = Member { group: log.join(&spec, told.clone()).unwrap(), told, name: name.to_owned() };
    member.await_assignment(partitions);
    member
}

impl Member {
    pub(crate) fn await_assignment(&self, partitions: i32) {
        let deadline = Instant::now() + PATIENCE;
        while self.told.now() != (0..partitions).collect::<Vec<_>>() {
            assert!(Instant::now() < deadline, "assigned {:?} only", self.told.now());
            let fetched = self.group.poll(&|_| false, 100, TURN).unwrap();
            assert!(fetched.is_empty(), "fetched what was not wanted: {fetched:?}");
        }
    }

    /// Polls the wanted partitions until `count` records came, and returns them in the order in which they came.
    pub(crate) fn take(&self, wanted: &dyn Fn(Partition) -> bool, count: usize) -> Vec<(i32, SourceRecord)> {
        let deadline = Instant::now() + PATIENCE;
        let mut records = Vec::new();
        while records.len() < count {
            assert!(Instant::now() < deadline, "only {} of {count} records came", records.len());
            for fetched in self.group.poll(wanted, count, TURN).unwrap() {
                assert!(!fetched.records.is_empty());
                records.extend(fetched.records.into_iter().map(|record| (fetched.partition.0, record)));
            }
        }
        records
    }

    /// A publisher of this member that is ready.
    pub(crate) fn publisher(&self, lane: u32) -> Box<dyn Publisher> {
        let mut publisher = self.group.publisher(lane, Delivery::ExactlyOnce).unwrap();
        publisher.rebuild().unwrap();
        publisher
    }

    /// Commits a position, with nothing else.
    pub(crate) fn commit(&self, partition: i32, position: Position) {
        let mut publisher = self.publisher(0);
        publisher.begin().unwrap();
        let positions = vec![(Partition(partition), position)];
        publisher.commit(&Closing { segments: Vec::new(), positions }).unwrap();
    }
}

/// The group's committed positions.
pub(crate) fn committed(log: &dyn Log, group: &str, topic: &str, partitions: i32) -> Vec<Option<Position>> {
    let partitions: Vec<_> = (0..partitions).map(Partition).collect();
    log.committed(group, topic, &partitions, PATIENCE).unwrap()
}

pub(crate) fn header(name: &str, value: &str) -> Header {
    Header::new(name, value.to_owned())
}
