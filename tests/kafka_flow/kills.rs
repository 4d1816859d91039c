//! Kills each kind of actor while records flow: nothing is lost, doubled or reordered, nobody else is restarted, and no
//! step runs again for a batch that the victim did not hold.

use crate::{PATIENCE, assert_no_sentinel, start};
use bulkhead_testkit::daemon::Daemon;
use bulkhead_testkit::flow::{CHAOS, Flow, FlowSpec, asking, id, incarnations, numbered, reborn, record};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::process::eventually;
use bulkhead_testkit::topics::Produced;
use std::collections::BTreeMap;

const PARTITIONS: i32 = 4;
const RECORDS: u32 = 5_000;
/// How many records must be out before each kill.
const KILL_AT: [f64; 3] = [500.0, 1_500.0, 2_500.0];
/// Records of a batch, as `Flow` configures it.
const BATCH: usize = 50;

/// Records of which every fifth takes 3 ms, so that they flow for a second or two.
fn load() -> impl Iterator<Item = Produced> {
    numbered(0..RECORDS, PARTITIONS).zip(0u32..).map(|((partition, record), number)| {
        (partition, if number % 20 < 4 { asking(record, "slow:3") } else { record })
    })
}

fn wait_running(daemon: &Daemon, path: &str) {
    eventually(&format!("{path} runs"), PATIENCE, || match daemon.actors().get(path) {
        Some(actor) if actor.state == "running" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Kills `victim` three times while records flow; `falls_with` comes back with it. Returns which records ran more than
/// once, and how often.
fn kill_while_flowing(name: &'static str, victim: &str, falls_with: &[&str]) -> BTreeMap<String, u64> {
    let kafka = Kafka::shared();
    let flow = Flow::on(kafka, FlowSpec { name, ..FlowSpec::default() });
    let (daemon, follower) = (start(&flow, "a"), flow.follow(kafka));
    let before = incarnations(&daemon);
    assert!(before.contains_key(victim), "{victim} is none of {:?}", before.keys());
    flow.send(kafka, load());
    for least in KILL_AT {
        flow.wait_metric(&daemon, "bulkhead_records_out_total", least, PATIENCE);
        wait_running(&daemon, victim);
        daemon.kill_actor(victim);
    }
    let out = flow.metric(&daemon, "bulkhead_records_out_total");
    assert!(out < f64::from(RECORDS), "all {out} records were out before the last kill");
    flow.converge(kafka, vec![follower], PATIENCE);
    assert_no_sentinel(&flow, &daemon);
    let mut expected: Vec<String> = falls_with.iter().map(|part| flow.actor(part)).collect();
    expected.push(victim.to_owned());
    expected.sort();
    expected.iter().for_each(|path| wait_running(&daemon, path));
    assert_eq!(reborn(&before, &incarnations(&daemon)), expected, "only what was killed was built anew");
    let runs = daemon.chaos_runs(CHAOS);
    assert_eq!(runs.len(), RECORDS as usize, "every record was run");
    runs.into_iter().filter(|(_, runs)| *runs > 1).collect()
}

#[test]
fn a_worker() {
    let again = kill_while_flowing("kill-worker", "pipeline/kill-worker/stage/work/worker-0", &[]);
    assert!(again.len() <= KILL_AT.len() * BATCH, "{} records ran again, more than the victim held", again.len());
}

#[test]
fn a_lane() {
    let again = kill_while_flowing("kill-lane", "pipeline/kill-lane/lane/0", &[]);
    assert!(again.is_empty(), "finished batches outlive their lane: {again:?}");
}

#[test]
fn the_dlq() {
    let again = kill_while_flowing("kill-dlq", "pipeline/kill-dlq/dlq", &[]);
    assert!(again.is_empty(), "{again:?}");
}

#[test]
fn the_source() {
    let again = kill_while_flowing("kill-source", "pipeline/kill-source/source", &[]);
    assert!(again.is_empty(), "the membership outlives its actor: {again:?}");
}

#[test]
fn a_ledger_shard() {
    let again = kill_while_flowing("kill-ledger", "pipeline/kill-ledger/partitions/p0/ledger", &[]);
    assert!(again.is_empty(), "claims outlive their shard: {again:?}");
}

#[test]
fn a_partition() {
    let victim = "pipeline/kill-partition/partitions/p0/partition";
    let again = kill_while_flowing("kill-partition", victim, &["partitions/p0/ledger"]);
    let others: Vec<_> = (0..RECORDS).filter(|n| n % 4 != 0).map(id).filter(|id| again.contains_key(id)).collect();
    assert!(others.is_empty(), "records of other partitions ran again: {others:?}");
}

#[test]
fn the_reader_of_results() {
    let again = kill_while_flowing("kill-results", "results", &[]);
    assert!(again.is_empty(), "{again:?}");
}

#[test]
fn a_lane_between_commit_and_settling() {
    let kafka = Kafka::shared();
    let spec = FlowSpec { name: "kill-committed", pipeline: "lane = { count = 1 }", ..FlowSpec::default() };
    let flow = Flow::on(kafka, spec);
    let (daemon, follower) = (start(&flow, "a"), flow.follow(kafka));
    let lane = flow.actor("lane/0");
    let mut sent = 0;
    // A lane that works spends most of its time in a commit, so most kills fall there; the daemon says when one did.
    eventually("a batch was found committed by an earlier incarnation", PATIENCE, || {
        flow.send(kafka, numbered(sent..sent + 500, PARTITIONS));
        sent += 500;
        wait_running(&daemon, &lane);
        daemon.kill_actor(&lane);
        let found = daemon.output().contains("found committed by an earlier transaction");
        if found { Ok(()) } else { Err(format!("after {sent} records")) }
    });
    flow.converge(kafka, vec![follower], PATIENCE);
    assert_no_sentinel(&flow, &daemon);
    assert!(daemon.chaos_runs(CHAOS).values().all(|runs| *runs == 1), "finished batches outlive their lane");
}

#[test]
fn a_ledger_shard_with_a_duplicate_in_flight() {
    let kafka = Kafka::shared();
    let flow = Flow::on(kafka, FlowSpec { name: "kill-duplicate", partitions: 1, ..FlowSpec::default() });
    let (daemon, follower) = (start(&flow, "a"), flow.follow(kafka));
    let shard = flow.actor("partitions/p0/ledger");
    for round in 0..10 {
        let first = id(round);
        // The first of the two is in the stage, its claim unsettled, while the shard dies and the second one comes.
        flow.send(kafka, [(None, asking(record(&first), "slow:200"))]);
        eventually(&format!("{first} is in the stage"), PATIENCE, || {
            let runs = daemon.chaos_runs(CHAOS);
            if runs.contains_key(&first) { Ok(()) } else { Err(format!("{runs:?}")) }
        });
        wait_running(&daemon, &shard);
        daemon.kill_actor(&shard);
        flow.send(kafka, [(None, asking(record(&first), "slow:200"))]);
    }
    flow.converge(kafka, vec![follower], PATIENCE);
    assert_no_sentinel(&flow, &daemon);
    assert_eq!(flow.metric(&daemon, "bulkhead_duplicates_total"), 10.0);
    assert!(daemon.chaos_runs(CHAOS).values().all(|runs| *runs == 1), "no duplicate was run");
}
