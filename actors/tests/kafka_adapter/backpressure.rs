//! Partitions are taken one by one: what is not wanted waits, the others flow, and going back leaves nothing behind.

use crate::harness::{TURN, fill, join, log, offsets, take, topic, unique};
use bulkhead_core::ids::{Partition, Position};
use bulkhead_testkit::kafka::Kafka;

#[test]
fn one_partition_of_eight_waits_and_the_others_flow() {
    let log = log(Kafka::shared());
    let source = topic(&log, "in", 8);
    let (group, _) = join(&log, &unique("group"), &source, 8);
    fill(&log, &source, 8, 3000);
    let flowing = take(&*group, &|p| p.0 != 3, 7 * 3000);
    let all: Vec<i64> = (0..3000).collect();
    for partition in (0..8).filter(|p| *p != 3) {
        assert_eq!(offsets(&flowing, partition), all, "partition {partition}");
    }
    assert!(group.poll(&|p| p.0 != 3, 100, TURN).unwrap().is_empty());
    let held = take(&*group, &|p| p.0 == 3, 3000);
    assert_eq!(offsets(&held, 3), all);
    assert_eq!(log.stats().stray_records_total, 0);
    group.leave().unwrap();
}

/// The prefetched records of before may not follow, wherever the seek goes and however full the queue is.
#[test]
fn a_seek_leaves_nothing_behind() {
    let log = log(Kafka::shared());
    let source = topic(&log, "in", 2);
    fill(&log, &source, 2, 6000);
    let (group, _) = join(&log, &unique("group"), &source, 2);
    let mut at = offsets(&take(&*group, &|p| p.0 == 0, 2500), 0).len() as i64;
    for target in [100, 0, 2000, 1999, 5999, 3] {
        group.seek(Partition(0), Position(target)).unwrap();
        let count = usize::try_from((6000 - target).min(700)).unwrap();
        let again = offsets(&take(&*group, &|p| p.0 == 0, count), 0);
        let expected: Vec<i64> = (target..).take(again.len()).collect();
        assert_eq!(again, expected, "from {at} to {target}");
        at = target + again.len() as i64;
    }
    let other = offsets(&take(&*group, &|p| p.0 == 1, 6000), 1);
    assert_eq!(other, (0..6000).collect::<Vec<_>>(), "the other partition was not touched");
    group.leave().unwrap();
}

#[test]
fn a_seek_right_after_the_assignment_holds() {
    let log = log(Kafka::shared());
    let source = topic(&log, "in", 1);
    fill(&log, &source, 1, 500);
    let (group, _) = join(&log, &unique("group"), &source, 1);
    group.seek(Partition(0), Position(400)).unwrap();
    let first = offsets(&take(&*group, &|_| true, 100), 0);
    assert_eq!(first, (400..500).collect::<Vec<_>>());
    assert!(group.seek(Partition(1), Position(0)).is_err(), "not ours");
    group.leave().unwrap();
}
