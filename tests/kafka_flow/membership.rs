//! The ways to be a member of a group, as the config names them: each survives a SIGKILL.

use crate::{PATIENCE, assert_no_sentinel, start};
use bulkhead_testkit::flow::{CHAOS, Flow, FlowSpec, numbered};
use bulkhead_testkit::kafka::Kafka;

/// Records sent before the kill, and after it.
const WAVE: u32 = 1_000;

fn survives_sigkill(name: &'static str, daemon: &'static str) {
    let kafka = Kafka::shared();
    let flow = Flow::on(kafka, FlowSpec { name, daemon, pipeline: "drain = \"2s\"", ..FlowSpec::default() });
    let follower = flow.follow(kafka);
    let first = start(&flow, "a");
    flow.send(kafka, numbered(0..WAVE, 4));
    flow.wait_metric(&first, "bulkhead_records_out_total", f64::from(WAVE / 10), PATIENCE);
    first.sigkill();
    let second = start(&flow, "a");
    flow.send(kafka, numbered(WAVE..2 * WAVE, 4));
    flow.converge(kafka, vec![follower], PATIENCE);
    assert!(second.chaos_runs(CHAOS).values().all(|runs| *runs == 1), "nothing ran twice in one process");
    assert_no_sentinel(&flow, &second);
}

#[test]
fn a_static_member() {
    survives_sigkill("static", "[kafka]\nsession_timeout = \"6s\"\nmembership = \"static\"");
}

#[test]
fn a_member_by_the_consumer_protocol() {
    survives_sigkill("kip848", "[kafka]\nmembership = \"consumer\"");
}
