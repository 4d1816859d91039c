//! Several daemons in one group: they join, leave, die and stand still while records flow.

use crate::{BINARY, PATIENCE, assert_no_sentinel, spec, start};
use bulkhead_testkit::daemon::Daemon;
use bulkhead_testkit::flow::{Flow, FlowSpec, asking, numbered};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::process::{Signal, eventually};
use bulkhead_testkit::topics::{Isolation, Produced};
use std::ops::Range;

/// A silent member is out after 6 s, Kafka's least; a drain must be below half of that.
const SPEC: FlowSpec = FlowSpec {
    name: "",
    partitions: 4,
    pipeline: "drain = \"2s\"",
    stage: "workers = 2",
    daemon: "[kafka]\nsession_timeout = \"6s\"",
    output: &[],
};

/// Records of which every tenth takes 3 ms.
fn load(numbers: Range<u32>) -> impl Iterator<Item = Produced> {
    let slow = |((p, record), n)| (p, if n % 40 < 4 { asking(record, "slow:3") } else { record });
    numbered(numbers, 4).zip(0u32..).map(slow)
}

/// Waits until this many partitions are assigned to a daemon.
fn wait_assigned(daemon: &Daemon, what: &str, is_enough: impl Fn(usize) -> bool) {
    eventually(what, PATIENCE, || {
        assert!(daemon.is_running(), "the daemon ended");
        let (_, page) = daemon.try_get_json(&daemon.admin("/progress"))?;
        let assigned = page["partitions"].as_array().map_or(0, Vec::len);
        if is_enough(assigned) { Ok(()) } else { Err(format!("{assigned} are assigned")) }
    });
}

#[test]
fn two_daemons_join_and_leave() {
    let kafka = Kafka::shared();
    let flow = Flow::on(kafka, FlowSpec { name: "rebalance", ..SPEC });
    let (first, follower) = (start(&flow, "a"), flow.follow(kafka));
    flow.send(kafka, load(0..2_000));
    let second = Daemon::start(&spec(&flow, "b"));
    wait_assigned(&second, "the second one takes its share", |n| n == 2);
    wait_assigned(&first, "the first one gives up the other half", |n| n == 2);
    flow.send(kafka, load(2_000..4_000));
    first.sigterm();
    assert_eq!(first.wait_exit(PATIENCE).code(), Some(0), "{}", first.output());
    wait_assigned(&second, "all of it goes to the one that stayed", |n| n == 4);
    flow.send(kafka, load(4_000..6_000));
    let first = Daemon::start(&spec(&flow, "a"));
    wait_assigned(&first, "the first one is back", |n| n == 2);
    flow.send(kafka, load(6_000..8_000));
    second.sigkill();
    wait_assigned(&first, "what the dead one had is taken over", |n| n == 4);
    flow.send(kafka, load(8_000..10_000));
    flow.converge(kafka, vec![follower], PATIENCE);
    assert_no_sentinel(&flow, &first);
}

/// A member that drains serves the group until it has nothing left to commit: a rebalance in between would void that.
#[test]
fn a_daemon_drains_while_another_joins() {
    let kafka = Kafka::shared();
    let flow = Flow::on(kafka, FlowSpec { name: "handover", ..SPEC });
    let (mut leaving, follower) = (start(&flow, "a"), flow.follow(kafka));
    for (round, joins) in (0u32..).zip(["b", "a", "b"]) {
        flow.send(kafka, load(round * 2_000..(round + 1) * 2_000));
        let joining = Daemon::start(&spec(&flow, joins));
        leaving.sigterm();
        assert_eq!(leaving.wait_exit(PATIENCE).code(), Some(0), "{}", leaving.output());
        let output = leaving.output();
        assert!(!output.contains("abandoned") && !output.contains("drain budget ran out"), "{output}");
        wait_assigned(&joining, "all of it goes to the one that joined", |n| n == 4);
        leaving = joining;
    }
    flow.converge(kafka, vec![follower], PATIENCE);
    assert_no_sentinel(&flow, &leaving);
}

#[test]
fn a_zombie_with_an_open_transaction_publishes_nothing_twice() {
    let kafka = Kafka::shared();
    let flow = Flow::on(kafka, FlowSpec { name: "zombie", ..SPEC });
    let (zombie, follower) = (start(&flow, "a"), flow.follow(kafka));
    let mut sent = 0;
    eventually("it stands still with a transaction open", PATIENCE, || {
        flow.send(kafka, load(sent..sent + 1_000));
        sent += 1_000;
        zombie.signal(Signal::Stop);
        let [all, stable] =
            [Isolation::Uncommitted, Isolation::Committed].map(|i| kafka.end_offsets(&flow.output(), i));
        if all != stable {
            return Ok(());
        }
        zombie.signal(Signal::Cont);
        Err(format!("no transaction was open: {all:?}"))
    });
    let heir = Daemon::start(&flow.daemon(BINARY, kafka, "b"));
    wait_assigned(&heir, "the heir takes over", |n| n == 4);
    flow.send(kafka, load(sent..sent + 1_000));
    sent += 1_000;
    zombie.signal(Signal::Cont);
    wait_assigned(&zombie, "the zombie comes back to its senses", |n| n == 2);
    flow.send(kafka, load(sent..sent + 1_000));
    flow.converge(kafka, vec![follower], PATIENCE);
    for daemon in [&zombie, &heir] {
        assert_no_sentinel(&flow, daemon);
    }
}
