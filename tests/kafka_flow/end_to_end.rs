//! From topic to topic through four partitions, and out at a SIGTERM.

use crate::{PATIENCE, assert_no_sentinel, start};
use bulkhead_testkit::flow::{CHAOS, Flow, FlowSpec, asking, id, numbered, record};
use bulkhead_testkit::kafka::Kafka;
use std::collections::BTreeSet;

const PARTITIONS: i32 = 4;
const RECORDS: u32 = 2_000;

#[test]
fn every_record_ends_once_and_a_sigterm_drains() {
    let kafka = Kafka::shared();
    let flow = Flow::on(kafka, FlowSpec { name: "end-to-end", ..FlowSpec::default() });
    let (daemon, follower) = (start(&flow, "a"), flow.follow(kafka));
    flow.send(kafka, numbered(0..RECORDS, PARTITIONS));
    // A client's retries: the same records once more, in their partitions.
    flow.send(kafka, numbered(0..100, PARTITIONS));
    let poison: Vec<String> = (RECORDS..RECORDS + 10).map(id).collect();
    flow.send(kafka, poison.iter().map(|id| (Some(1), asking(record(id), "poison"))));
    flow.converge(kafka, vec![follower], PATIENCE);

    let metric = |name: &str| flow.metric(&daemon, &format!("bulkhead_{name}_total"));
    let counted = ["records_in", "records_out", "duplicates", "dlq_published"].map(metric);
    assert_eq!(counted, [2_110.0, 2_000.0, 100.0, 10.0]);
    assert_no_sentinel(&flow, &daemon);
    let runs = daemon.chaos_runs(CHAOS);
    assert_eq!(runs.len(), 2_010, "every record was run");
    assert!(runs.values().all(|runs| *runs == 1), "no record was run twice, duplicates least of all");
    let letters = kafka.read_topic(&flow.dead_letters(), bulkhead_testkit::topics::Isolation::Committed);
    let rejected: BTreeSet<String> =
        letters.iter().filter_map(|s| bulkhead_testkit::audit::id_header(&s.record)).collect();
    assert_eq!(rejected, poison.into_iter().collect::<BTreeSet<String>>());
    daemon.wait_ready(PATIENCE);

    daemon.sigterm();
    assert_eq!(daemon.wait_exit(PATIENCE).code(), Some(0), "{}", daemon.output());
}
