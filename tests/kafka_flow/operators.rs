//! What operators are told: lag as Kafka's own tool prints it, and a pipeline that does not fit its topics.

use crate::{PATIENCE, spec, start};
use bulkhead_testkit::daemon::Daemon;
use bulkhead_testkit::flow::{Flow, FlowSpec, asking, numbered, record};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::process::eventually;
use std::time::Duration;

/// How old what health says may be.
const HONEST: Duration = Duration::from_secs(5);

/// Waits until `/ready` is 503 and says this.
fn wait_unready(daemon: &Daemon, why: &str, timeout: Duration) {
    eventually(&format!("/ready says {why:?}"), timeout, || {
        assert!(daemon.is_running(), "the daemon ended");
        let (status, page) = daemon.get_json(&daemon.admin("/ready"));
        if status == 503 && page.to_string().contains(why) { Ok(()) } else { Err(format!("{status}: {page}")) }
    });
}

#[test]
fn lag_is_what_kafkas_own_tool_prints() {
    let kafka = Kafka::shared();
    let flow = Flow::on(kafka, FlowSpec { name: "lag", ..FlowSpec::default() });
    let daemon = start(&flow, "a");
    flow.send(kafka, numbered(0..400, 4));
    kafka.wait_done(&flow.audited(), PATIENCE);
    // Two partitions stand still behind a record each, one with more records behind it than the other.
    let stuck = |partition| (Some(partition), asking(record(&format!("stuck-{partition}")), "hang"));
    flow.send(kafka, [stuck(0), stuck(2)].into_iter().chain(numbered(400..410, 1)));
    flow.send(kafka, (410..415).map(|n| (Some(2), record(&format!("r{n}")))));
    eventually("both say the same", PATIENCE, || {
        let metrics = daemon.metrics();
        let lag = |p| metrics.get(&format!("bulkhead_consumer_lag{{topic=\"lag.in\",partition=\"{p}\"}}")).copied();
        let ours: Vec<_> = (0..4).map(|p| (p, lag(p).map(|lag| lag as i64))).collect();
        let mut theirs: Vec<_> = kafka.describe_group("lag").iter().map(|row| (row.partition, row.lag)).collect();
        theirs.sort();
        let expected = [(0, Some(11)), (1, Some(0)), (2, Some(6)), (3, Some(0))];
        if ours == theirs && ours == expected { Ok(()) } else { Err(format!("ours {ours:?}, Kafka's {theirs:?}")) }
    });
}

#[test]
fn a_topic_with_another_number_of_partitions_stops_the_pipeline_alone() {
    let kafka = Kafka::shared();
    let flow = Flow::new(FlowSpec { name: "mismatch", ..FlowSpec::default() });
    kafka.create_topic(&flow.source(), 3);
    // Results go to whichever partitions there are.
    kafka.create_topic(&flow.output(), 2);
    let daemon = Daemon::start(&spec(&flow, "a"));
    wait_unready(&daemon, "topic mismatch.in has 3 partitions, the config says 4", PATIENCE);
    assert_eq!(daemon.get_json(&daemon.admin("/live")).0, 200);
    // Mended: it goes on by itself.
    kafka.add_partitions(&flow.source(), 4);
    daemon.wait_ready(PATIENCE);
    flow.wait_open(&daemon, PATIENCE);
    flow.send(kafka, numbered(0..400, 4));
    kafka.wait_done(&flow.audited(), PATIENCE);
    // Changed while it runs.
    kafka.add_partitions(&flow.source(), 6);
    wait_unready(&daemon, "topic mismatch.in has 6 partitions, the config says 4", HONEST);
    assert_eq!(daemon.get_json(&daemon.admin("/live")).0, 200);
    flow.send(kafka, numbered(400..800, 4));
    let out = flow.metric(&daemon, "bulkhead_records_out_total");
    wait_unready(&daemon, "has 6 partitions", HONEST);
    assert_eq!((out, flow.metric(&daemon, "bulkhead_records_out_total")), (400.0, 400.0), "it took records");
}
