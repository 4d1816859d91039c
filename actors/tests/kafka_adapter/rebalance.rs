//! Members come and go while records flow: with the generation fence, every record is copied exactly once, in order.

use crate::harness::{PATIENCE, TURN, fill, log, outgoing, read_all, spec, topic, unique};
use bulkhead_actors::io::kafka::KafkaLog;
use bulkhead_actors::log::{AssignmentListener, Closing, Delivery, Log, PublishError, Publisher};
use bulkhead_core::ids::{Partition, Position};
use bulkhead_testkit::kafka::Kafka;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const PARTITIONS: i32 = 4;
const RECORDS: usize = 3000;

/// A generation for each partition: what the engine's lanes are fenced by (DESIGN §6, rule 4), in its smallest form.
#[derive(Default)]
struct Fence {
    /// Held by a commit in progress; a revoke waits for it.
    owned: Mutex<BTreeMap<Partition, u64>>,
    next: AtomicI64,
}

impl AssignmentListener for Fence {
    fn assigned(&self, partitions: &[Partition]) {
        let mut owned = self.owned.lock().unwrap();
        for partition in partitions {
            let generation = u64::try_from(self.next.fetch_add(1, Ordering::Relaxed)).unwrap();
            owned.insert(*partition, generation);
        }
    }

    fn revoked(&self, partitions: &[Partition], _: bool) {
        let mut owned = self.owned.lock().unwrap();
        owned.retain(|partition, _| !partitions.contains(partition));
    }
}

/// Copies the source to the output, partition by partition, until told to stop.
fn copy(log: &KafkaLog, group: &str, instance: &str, topics: &(Arc<str>, Arc<str>), stop: &AtomicBool) {
    let fence = Arc::new(Fence::default());
    let member = log.join(&spec(group, &topics.0, instance), fence.clone()).unwrap();
    let mut publisher = member.publisher(0, Delivery::ExactlyOnce).unwrap();
    publisher.rebuild().unwrap();
    let mut next: BTreeMap<Partition, (u64, i64)> = BTreeMap::new();
    while !stop.load(Ordering::Acquire) {
        for fetched in member.poll(&|_| true, 200, TURN).unwrap() {
            let partition = fetched.partition;
            let owned = fence.owned.lock().unwrap();
            let Some(generation) = owned.get(&partition).copied() else { continue };
            let first = fetched.records[0].offset.0;
            match next.get(&partition) {
                Some((seen, at)) if *seen == generation => assert_eq!(first, *at, "a gap in partition {partition}"),
                _ => {}
            }
            let end = fetched.records.last().unwrap().offset.next();
            let texts: Vec<String> = fetched.records.iter().map(|r| format!("{}", r.offset.0)).collect();
            // Held: a revoke waits until this is committed or given up.
            while let Err(error) = publish(&mut *publisher, &topics.1, partition, &texts, end) {
                assert!(matches!(error, PublishError::Void(_) | PublishError::Unknown(_)), "{error}");
                if matches!(error, PublishError::Unknown(_)) {
                    publisher.rebuild().unwrap();
                    let committed = publisher.committed(&[partition]).unwrap()[0];
                    if committed.is_some_and(|at| at >= end) {
                        break;
                    }
                } else {
                    publisher.abort().unwrap();
                }
            }
            next.insert(partition, (generation, end.0));
        }
    }
    member.leave().unwrap();
}

fn publish(
    publisher: &mut dyn Publisher,
    output: &Arc<str>,
    partition: Partition,
    texts: &[String],
    end: Position,
) -> Result<(), PublishError> {
    publisher.begin()?;
    for text in texts {
        publisher.produce(&outgoing(output, partition.0, text.clone()))?;
    }
    publisher.commit(&Closing { segments: Vec::new(), positions: vec![(partition, end)] })
}

#[test]
fn members_come_and_go_and_every_record_is_copied_once() {
    let log = log(Kafka::shared());
    let topics = (topic(&log, "in", PARTITIONS), topic(&log, "out", PARTITIONS));
    let name = unique("group");
    let stop: [AtomicBool; 3] = Default::default();
    std::thread::scope(|scope| {
        let member = |i: usize| {
            let (log, name, topics, stop) = (&log, &name, &topics, &stop[i]);
            let copies = move || copy(log, name, &format!("member-{i}"), topics, stop);
            scope.spawn(copies)
        };
        let first = member(0);
        fill(&log, &topics.0, PARTITIONS, RECORDS / 3);
        let second = member(1);
        fill(&log, &topics.0, PARTITIONS, RECORDS / 3);
        let third = member(2);
        stop[0].store(true, Ordering::Release);
        first.join().unwrap();
        fill(&log, &topics.0, PARTITIONS, RECORDS / 3);
        await_copied(&log, &name, &topics.0);
        stop.iter().for_each(|flag| flag.store(true, Ordering::Release));
        second.join().unwrap();
        third.join().unwrap();
    });
    for partition in 0..PARTITIONS {
        let copied: Vec<i64> = read_all(&log, &topics.1, partition)
            .iter()
            .map(|r| std::str::from_utf8(r.record.payload()).unwrap().parse().unwrap())
            .collect();
        let expected: Vec<i64> = (0..i64::try_from(RECORDS).unwrap()).collect();
        assert!(copied == expected, "partition {partition}: {} records, not 0..{RECORDS} in order", copied.len());
    }
}

fn await_copied(log: &KafkaLog, group: &str, source: &str) {
    let all: Vec<_> = (0..PARTITIONS).map(Partition).collect();
    let deadline = Instant::now() + PATIENCE;
    let end = Some(Position(i64::try_from(RECORDS).unwrap()));
    loop {
        let committed = log.committed(group, source, &all, PATIENCE).unwrap();
        if committed.iter().all(|at| *at == end) {
            return;
        }
        assert!(Instant::now() < deadline, "copied up to {committed:?}");
    }
}
