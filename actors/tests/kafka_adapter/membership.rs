//! Ways to be a member: static, KIP-848, with a listener that panics; and what each one hears.

use crate::harness::{
    PATIENCE, TURN, Told, closing, fill, join, log, offsets, position, ready, spec, take, topic, unique,
};
use bulkhead_actors::io::kafka::{KafkaConfig, KafkaLog, Membership};
use bulkhead_actors::log::{AssignmentListener, Log};
use bulkhead_core::ids::Partition;
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::process::eventually;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// Joins, commits half, rejoins (as after a fatal error), reads the rest, leaves.
fn lives_through_a_rejoin(log: &KafkaLog) {
    let source = topic(log, "in", 2);
    fill(log, &source, 2, 100);
    let name = unique("group");
    let (group, told) = join(log, &name, &source, 2);
    take(&*group, &|_| true, 200);
    let mut publisher = ready(&*group, 0);
    publisher.begin().unwrap();
    let mut half = closing(0, 50);
    half.positions.extend(closing(1, 50).positions);
    publisher.commit(&half).unwrap();
    group.rejoin().unwrap();
    let rest = take(&*group, &|_| true, 100);
    let expected: Vec<i64> = (50..100).collect();
    assert_eq!((offsets(&rest, 0), offsets(&rest, 1)), (expected.clone(), expected));
    assert_eq!(*told.lost.lock().unwrap(), [true], "what a dead client held was lost");
    publisher.begin().unwrap();
    publisher.commit(&closing(0, 100)).unwrap();
    assert_eq!(position(log, &name, &source, 0), Some(100));
    group.leave().unwrap();
    assert!(told.ours.lock().unwrap().is_empty());
    eventually("all clients are dropped", PATIENCE, || match log.stats() {
        stats if stats.client_drops_pending == 0 && stats.client_drop_stuck_total == 0 => Ok(()),
        stats => Err(format!("{stats:?}")),
    });
}

#[test]
fn a_dynamic_classic_member() {
    lives_through_a_rejoin(&log(Kafka::shared()));
}

#[test]
fn a_static_classic_member() {
    let mut config = KafkaConfig::new(Kafka::shared().bootstrap(), "static");
    config.membership = Membership::Static;
    lives_through_a_rejoin(&KafkaLog::new(config).unwrap());
}

#[test]
fn a_kip_848_member() {
    let mut config = KafkaConfig::new(Kafka::shared().bootstrap(), "kip");
    config.membership = Membership::Consumer;
    lives_through_a_rejoin(&KafkaLog::new(config).unwrap());
}

#[derive(Default)]
struct Panics {
    told: Told,
    calls: AtomicU32,
}

impl AssignmentListener for Panics {
    fn assigned(&self, partitions: &[Partition]) {
        self.told.assigned(partitions);
        self.calls.fetch_add(1, Ordering::Relaxed);
        panic!("a listener's bug");
    }

    fn revoked(&self, _: &[Partition], _: bool) {
        panic!("a listener's other bug");
    }
}

/// Without the guard rdkafka would skip the assignment: no record would ever come, and nothing would say so.
#[test]
fn a_listener_that_panics_costs_nothing_but_a_count() {
    let log = log(Kafka::shared());
    let source = topic(&log, "in", 1);
    fill(&log, &source, 1, 10);
    let told = Arc::new(Panics::default());
    let group = log.join(&spec(&unique("group"), &source, "test"), told.clone()).unwrap();
    assert_eq!(offsets(&take(&*group, &|_| true, 10), 0), (0..10).collect::<Vec<_>>());
    assert_eq!(told.calls.load(Ordering::Relaxed), 1);
    group.leave().unwrap();
    assert_eq!(log.stats().callback_panics_total, 2);
}

/// Two processes with the same static id: the older one is told that its client is dead, and can come back.
#[test]
fn a_fenced_static_member_is_dead_until_it_rejoins() {
    let mut config = KafkaConfig::new(Kafka::shared().bootstrap(), "twins");
    config.membership = Membership::Static;
    let log = KafkaLog::new(config).unwrap();
    let source = topic(&log, "in", 1);
    let name = unique("group");
    let (first, told) = join(&log, &name, &source, 1);
    let second_told = Arc::new(Told::default());
    let second = log.join(&spec(&name, &source, "test"), second_told.clone()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let death = loop {
        assert!(Instant::now() < deadline, "the first never died");
        second.poll(&|_| false, 1, TURN).unwrap();
        if let Err(death) = first.poll(&|_| false, 1, TURN) {
            break death;
        }
    };
    assert!(matches!(death, bulkhead_actors::log::LogError::ClientDead(_)), "{death}");
    second.leave().unwrap();
    first.rejoin().unwrap();
    fill(&log, &source, 1, 5);
    assert_eq!(offsets(&take(&*first, &|_| true, 5), 0), (0..5).collect::<Vec<_>>());
    assert_eq!(told.ours.lock().unwrap().len(), 1);
    first.leave().unwrap();
}
