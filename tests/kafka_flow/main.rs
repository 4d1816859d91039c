//! The daemon from outside on a real Kafka, one broker for all tests of this binary; the auditor judges every run.
//! Never looks inside the daemon but through its ports, its topics and what it prints.

mod end_to_end;
mod hangs;
mod kills;
mod membership;
mod operators;
mod outputs;
mod pictures;
mod poison;
mod processes;
mod rebalance;
mod restarts;
mod seeded;

use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use bulkhead_testkit::flow::Flow;
use bulkhead_testkit::kafka::Kafka;
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_bulkhead");
/// How long anything may take on a busy machine; nothing waits that long where all is well.
const PATIENCE: Duration = Duration::from_secs(90);

/// How to run an instance of this flow on the shared broker.
fn spec(flow: &Flow, instance: &str) -> DaemonSpec {
    flow.daemon(BINARY, Kafka::shared(), instance)
}

/// A running instance that owns all partitions.
fn start(flow: &Flow, instance: &str) -> Daemon {
    let daemon = Daemon::start(&spec(flow, instance));
    flow.wait_open(&daemon, PATIENCE);
    daemon
}

/// The engine's own alarms, which are always silent.
fn assert_no_sentinel(flow: &Flow, daemon: &Daemon) {
    for sentinel in ["position_mismatch", "order_violation", "segment_gap"] {
        let seen = flow.metric(daemon, &format!("bulkhead_{sentinel}_total"));
        assert!(seen < 1.0, "sentinel {sentinel}: {seen}");
    }
}
