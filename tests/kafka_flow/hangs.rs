//! Workers that stand still: replaced, their batch lent again, and what they say in the end is dropped.

use crate::{PATIENCE, assert_no_sentinel, start};
use bulkhead_testkit::flow::{CHAOS, Flow, FlowSpec, asking, id, incarnations, numbered, reborn};
use bulkhead_testkit::kafka::Kafka;

/// Sends 200 records of which number 50 asks for `wish`; each is to come out once.
fn hang(name: &'static str, wish: &str, late: f64) {
    let kafka = Kafka::shared();
    let flow = Flow::on(kafka, FlowSpec { name, stage: "workers = 2\ntimeout = \"1s\"", ..FlowSpec::default() });
    let (daemon, follower) = (start(&flow, "a"), flow.follow(kafka));
    let before = incarnations(&daemon);
    let records = numbered(0..200, 4).zip(0..);
    flow.send(kafka, records.map(|((p, record), n)| (p, if n == 50 { asking(record, wish) } else { record })));
    flow.wait_metric(&daemon, "bulkhead_records_out_total", 200.0, PATIENCE);
    flow.wait_metric(&daemon, "bulkhead_late_answers_total", late, PATIENCE);
    flow.converge(kafka, vec![follower], PATIENCE);
    assert_eq!(flow.metric(&daemon, "bulkhead_late_answers_total"), late);
    let workers = ["0", "1"].map(|worker| flow.actor(&format!("stage/work/worker-{worker}")));
    let touched = reborn(&before, &incarnations(&daemon));
    assert!(touched.len() == 1 && workers.contains(&touched[0]), "one worker was replaced: {touched:?}");
    let runs = daemon.chaos_runs(CHAOS);
    assert_eq!(runs[&id(50)], 2);
    let again = runs.values().filter(|runs| **runs > 1).count();
    assert!(again <= 50, "{again} records ran again, more than the batch held");
    assert_no_sentinel(&flow, &daemon);
}

#[test]
fn a_worker_that_hangs_is_replaced() {
    hang("hang", "hang:1", 0.0);
}

#[test]
fn a_late_answer_is_dropped() {
    hang("late", "slow:3000:1", 1.0);
}
