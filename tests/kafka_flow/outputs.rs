//! Outputs by name: their topics are made as the config says, and what steps send there leaves in the transaction of its
//! record, once, through a SIGKILL.

use crate::{PATIENCE, assert_no_sentinel, start};
use bulkhead_testkit::audit::{Audited, id_header};
use bulkhead_testkit::flow::{Flow, FlowSpec, numbered};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::topics::Isolation;

const COPIES: &str = "outputs.copies";
const RECORDS: u32 = 2_000;

#[test]
fn copies_leave_once_with_their_record_through_a_sigkill() {
    let kafka = Kafka::shared();
    let spec = FlowSpec {
        name: "outputs",
        daemon: "[kafka]\nsession_timeout = \"6s\"",
        pipeline: r#"drain = "2s"
outputs = { copies = { topic = "outputs.copies", partitions = 2, retention = "1h" } }"#,
        stage: r#"workers = 2

[[stage]]
name  = "copy"
steps = [
  { map    = { value = '{copy_of: $id, at: $origin.offset}', output = "copies", keep = true } },
  { filter = { where = '.id | endswith("9") | not' } },
]"#,
        ..FlowSpec::default()
    };
    let flow = Flow::on(kafka, spec);
    let killed = start(&flow, "a");
    flow.send(kafka, numbered(0..RECORDS, 4));
    flow.wait_metric(&killed, "bulkhead_records_out_total", 1.0, PATIENCE);
    killed.sigkill();
    let daemon = start(&flow, "a");
    flow.send(kafka, numbered(RECORDS..RECORDS + 200, 4));
    let audited = Audited {
        outputs: vec![flow.output(), COPIES.to_owned()],
        outputs_of: |record| if id_header(record).is_some_and(|id| id.ends_with('9')) { 1 } else { 2 },
        ..flow.audited()
    };
    Flow::converge_as(kafka, &audited, Vec::new(), PATIENCE);
    assert_no_sentinel(&flow, &daemon);
    assert_eq!(kafka.end_offsets(COPIES, Isolation::Committed).len(), 2, "it was made as the config says");
    let copies = kafka.read_topic(COPIES, Isolation::Committed);
    assert_eq!(copies.len() as u32, RECORDS + 200);
    let copy = String::from_utf8_lossy(copies[0].record.payload()).into_owned();
    assert!(copy.starts_with(r#"{"copy_of":"r"#) && copy.contains(r#","at":"#), "{copy}");
}
