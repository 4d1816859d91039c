//! The daemon on a cluster of three nodes, each of which dies and comes back while records flow.

use bulkhead_testkit::daemon::Daemon;
use bulkhead_testkit::flow::{Flow, FlowSpec, numbered};
use bulkhead_testkit::kafka::Kafka;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);
/// Records sent before and after each death.
const WAVE: u32 = 1_000;

#[test]
fn every_node_dies_once() {
    let kafka = Kafka::start(3);
    let daemon = "[kafka]\nreplicas = 3";
    let flow = Flow::on(&kafka, FlowSpec { name: "replicated", daemon, ..FlowSpec::default() });
    let daemon = Daemon::start(&flow.daemon(env!("CARGO_BIN_EXE_bulkhead"), &kafka, "a"));
    flow.wait_open(&daemon, PATIENCE);
    let follower = flow.follow(&kafka);
    for node in 1..=3 {
        let sent = u32::from(node - 1) * WAVE * 2;
        flow.send(&kafka, numbered(sent..sent + WAVE, 4));
        kafka.kill_node(node);
        flow.send(&kafka, numbered(sent + WAVE..sent + 2 * WAVE, 4));
        kafka.wait_done(&flow.audited(), PATIENCE);
        kafka.start_node(node);
    }
    flow.converge(&kafka, vec![follower], PATIENCE);
    daemon.wait_ready(PATIENCE);
    daemon.sigterm();
    assert_eq!(daemon.wait_exit(PATIENCE).code(), Some(0), "{}", daemon.output());
}
