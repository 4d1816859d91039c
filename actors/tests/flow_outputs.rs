//! Outputs by name on the memory log: a step's copies leave in the transaction of their record, once, and no later step sees
//! them.

mod rig;

use bulkhead_actors::io::memory::CommitFault;
use bulkhead_actors::log::{Delivery, Log, Read, Tail, TopicSpec};
use bulkhead_actors::pipeline::{OutputSpec, PipelineSpec};
use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_core::fault::Fault;
use bulkhead_core::ids::Partition;
use bulkhead_core::ledger::KeySource;
use bulkhead_core::record::{Header, OUTPUT_HEADER, Origin, Record, send_to};
use bulkhead_core::verdict::Verdict;
use rig::{Plan, Rig, exactly, record_of};
use std::sync::Arc;
use std::time::Duration;

const AUDIT: &str = "flow.audit";
const PARTITIONS: i32 = 3;
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends a copy of every record to the output `audit`, and those whose id ends with 9 nowhere else; those that end with 8 to
/// an output that is not there.
struct Copies;

impl StepFactory for Copies {
    fn name(&self) -> &str {
        "copies"
    }

    fn build(&self) -> Result<Box<dyn Step>, Fault> {
        Ok(Box::new(Self))
    }
}

impl Step for Copies {
    fn run(&mut self, records: &[Record], _: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        let one = |record: &Record| match record.payload().last() {
            Some(b'9') => Verdict::one(send_to(record.clone(), "audit")),
            Some(b'8') => Verdict::one(send_to(record.clone(), "nowhere")),
            _ => Verdict::Emit([send_to(record.clone(), "audit"), record.clone()].into_iter().collect()),
        };
        Ok(records.iter().map(one).collect())
    }
}

/// The step first, then the one that counts, and a second stage that counts nothing.
fn with_audit(spec: &mut PipelineSpec) {
    spec.stages[0].steps.insert(0, Arc::new(Copies));
    let key = KeySource::Header("id".to_owned());
    spec.outputs.insert("audit".into(), OutputSpec { topic: AUDIT.into(), key, is_result: false });
    spec.topics.push(exactly(TopicSpec {
        name: AUDIT.to_owned(),
        partitions: PARTITIONS,
        replicas: 1,
        retention: None,
    }));
}

fn ids(range: std::ops::Range<u32>, ends: impl Fn(u32) -> bool) -> Vec<String> {
    range.filter(|i| ends(i % 10)).map(|i| format!("r{i:05}")).collect()
}

/// The ids in the audit topic, sorted, once there are `count`; none of them is on its way any more.
async fn audited(log: &Arc<dyn Log>, count: usize) -> Vec<String> {
    let log = Arc::clone(log);
    let read = move || {
        let tail = |partition| Tail { topic: AUDIT.into(), partition: Partition(partition), from: None };
        let tails: Vec<Tail> = (0..PARTITIONS).map(tail).collect();
        let mut reader = log.reader(&tails).expect("a reader");
        let (mut ids, deadline) = (Vec::new(), std::time::Instant::now() + PATIENCE);
        while ids.len() < count && std::time::Instant::now() < deadline {
            for read in reader.read(1_000, Duration::from_millis(100)).expect("the log reads") {
                let Read::Record { record, .. } = read else { continue };
                assert_eq!(record.record.header(OUTPUT_HEADER), None, "the engine's own header is not published");
                assert_eq!(record.record.key, record.record.header("id").cloned(), "keyed as the output says");
                ids.push(String::from_utf8_lossy(record.record.payload()).into_owned());
            }
        }
        ids.sort_unstable();
        ids
    };
    tokio::task::spawn_blocking(read).await.expect("no panic")
}

#[actix_rt::test]
async fn copies_leave_with_their_record_and_no_later_step_sees_them() {
    for delivery in [Delivery::ExactlyOnce, Delivery::AtLeastOnce] {
        let rig = Rig::start(Plan { delivery, tune: with_audit, ..Plan::default() });
        rig.send(ids(0..500, |end| end != 8)).await;
        let outcomes = rig.outcomes(400).await;
        assert_eq!(outcomes.results(), ids(0..500, |end| end < 8));
        assert_eq!(audited(&rig.log, 450).await, ids(0..500, |end| end != 8));
        let runs = rig.runs.lock().clone();
        assert!(runs.values().all(|runs| *runs == 1), "the next step saw a copy");
        assert_eq!(runs.len(), 400, "what left for an output is done");
        rig.finish().await;
    }
}

#[actix_rt::test]
async fn commits_of_unknown_outcome_double_no_copy() {
    let rig = Rig::start(Plan { tune: with_audit, ..Plan::default() });
    let faults = [CommitFault::UnknownCommitted, CommitFault::UnknownAborted, CommitFault::Void];
    for (wave, fault) in (0u32..).zip(faults) {
        rig.faults.on_commit(fault);
        rig.send(ids(wave * 400..(wave + 1) * 400, |end| end != 8)).await;
    }
    assert_eq!(rig.outcomes(960).await.results(), ids(0..1_200, |end| end < 8));
    let log = Arc::clone(&rig.log);
    rig.finish().await;
    assert_eq!(audited(&log, 1_080).await, ids(0..1_200, |end| end != 8), "each once, and all before the end");
}

#[actix_rt::test]
async fn an_output_that_is_not_there_makes_a_dead_letter_of_the_whole_record() {
    let rig = Rig::start(Plan { tune: with_audit, partitions: 1, ..Plan::default() });
    rig.send(ids(0..20, |_| true)).await;
    let outcomes = rig.outcomes(18).await;
    let dead: Vec<&str> = outcomes.dlq.iter().map(|(_, id, _)| id.as_str()).collect();
    assert_eq!(dead, ["r00008", "r00018"]);
    let headers = &outcomes.dlq[0].2;
    assert_eq!(headers["__bulkhead.errors.code"], "refused_by_log");
    assert!(headers["__bulkhead.errors.message"].contains("output nowhere"), "{headers:?}");
    assert_eq!(audited(&rig.log, 18).await, ids(0..20, |end| end != 8));
    rig.finish().await;
}

#[actix_rt::test]
async fn a_record_that_was_read_names_no_output() {
    let rig = Rig::start(Plan { partitions: 1, ..Plan::default() });
    let mut forged = record_of("r00000".to_owned());
    forged.headers.push(Header::new(OUTPUT_HEADER, "audit"));
    rig.send_records([forged]).await;
    let outcomes = rig.outcomes(1).await;
    assert_eq!(outcomes.results(), ["r00000"]);
    assert_eq!(rig.runs_of("r00000"), 1, "no step is passed by");
    rig.finish().await;
}
