//! The whole flow on the memory log: source, partitions, ledger, stage, dlq and lanes as real shells under the real
//! supervisor. Each test ends with no actor left and no ticket open.

mod rig;

use bulkhead_actors::io::memory::CommitFault;
use bulkhead_actors::log::Delivery;
use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_core::deadline::DEADLINE_HEADER;
use bulkhead_core::fault::Fault;
use bulkhead_core::ids::Partition;
use bulkhead_core::record::{Header, Origin, Record};
use bulkhead_core::verdict::Verdict;
use rig::{Act, Plan, Rig, record_of};
use std::sync::{Arc, Barrier};
use std::time::Duration;

fn ids(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|i| format!("r{i:05}")).collect()
}

#[actix_rt::test]
async fn records_come_out_once_and_in_order() {
    let rig = Rig::start(Plan::default());
    rig.send(ids(0..2_000)).await;
    let outcomes = rig.outcomes(2_000).await;
    assert_eq!(outcomes.results(), ids(0..2_000));
    rig.finish().await;
}

#[actix_rt::test]
async fn at_least_once_delivers_the_same_without_faults() {
    let rig = Rig::start(Plan { delivery: Delivery::AtLeastOnce, ..Plan::default() });
    rig.send(ids(0..500)).await;
    assert_eq!(rig.outcomes(500).await.results(), ids(0..500));
    rig.finish().await;
}

#[actix_rt::test]
async fn without_a_ledger_there_is_one_actor_less_and_the_same_outcome() {
    let rig = Rig::start(Plan { ledger: false, ..Plan::default() });
    rig.send(ids(0..500)).await;
    assert_eq!(rig.outcomes(500).await.results(), ids(0..500));
    assert!(rig.root.actor("pipeline/flow/partitions/p0/ledger").is_none());
    rig.finish().await;
}

#[actix_rt::test]
async fn a_repeated_key_is_worked_on_once() {
    let rig = Rig::start(Plan { partitions: 1, ..Plan::default() });
    let mut twice = ids(0..200);
    twice.extend(ids(0..200));
    twice.extend(ids(200..210));
    rig.send(twice).await;
    let outcomes = rig.outcomes(210).await;
    assert_eq!(outcomes.results(), ids(0..210));
    assert_eq!(rig.runs_of("r00000"), 1, "the duplicate never reached the stage");
    rig.finish().await;
}

#[actix_rt::test]
async fn poison_is_a_dead_letter_and_its_batch_mates_go_on() {
    let behaviour = Arc::new(|id: &str, _| if id == "r00007" { Act::Poison } else { Act::Pass });
    let rig = Rig::start(Plan { behaviour, ..Plan::default() });
    rig.send(ids(0..100)).await;
    let outcomes = rig.outcomes(100).await;
    assert_eq!(outcomes.out.len(), 99);
    let (_, id, headers) = &outcomes.dlq[0];
    assert_eq!(id, "r00007");
    assert_eq!(headers["__bulkhead.errors.stage"], "work");
    assert_eq!(headers["__bulkhead.errors.code"], "told");
    rig.finish().await;
}

#[actix_rt::test]
async fn a_record_that_crashes_its_worker_is_found_and_the_others_complete() {
    let behaviour = Arc::new(|id: &str, _| if id == "r00007" { Act::Panic } else { Act::Pass });
    let rig = Rig::start(Plan { behaviour, partitions: 1, ..Plan::default() });
    rig.send(ids(0..100)).await;
    let outcomes = rig.outcomes(100).await;
    assert_eq!(outcomes.out.len(), 99);
    assert_eq!(outcomes.dlq[0].1, "r00007");
    assert_eq!(outcomes.dlq[0].2["__bulkhead.errors.code"], "crashed_worker");
    assert_eq!(rig.runs_of("r00007"), 4, "once in the batch, then three times by name");
    rig.finish().await;
}

#[actix_rt::test]
async fn a_transient_fault_is_retried_in_order_and_never_a_dead_letter() {
    let behaviour = Arc::new(|id: &str, run| if id.ends_with('3') && run < 4 { Act::Transient } else { Act::Pass });
    let rig = Rig::start(Plan { behaviour, partitions: 1, ..Plan::default() });
    rig.send(ids(0..100)).await;
    let outcomes = rig.outcomes(100).await;
    let order: Vec<&String> = outcomes.out.iter().map(|(_, id)| id).collect();
    assert_eq!(order.len(), 100);
    assert!(outcomes.dlq.is_empty());
    rig.finish().await;
}

#[actix_rt::test]
async fn a_hung_worker_is_replaced_and_its_late_answer_dropped() {
    let barrier = Arc::new(std::sync::Barrier::new(2));
    let behaviour = {
        let barrier = Arc::clone(&barrier);
        Arc::new(move |id: &str, run| match (id, run) {
            ("r00007", 1) => Act::Hang(Arc::clone(&barrier)),
            _ => Act::Pass,
        })
    };
    let timeout = Duration::from_millis(300);
    let rig = Rig::start(Plan { behaviour, partitions: 1, workers: 1, timeout, ..Plan::default() });
    rig.send(ids(0..40)).await;
    assert_eq!(rig.outcomes(40).await.results(), ids(0..40));
    assert_eq!(rig.root.abandoned().0, 1, "the hung thread was left behind");
    tokio::task::spawn_blocking(move || barrier.wait()).await.expect("it wakes");
    let late = rig.metrics.late_answers.with(["flow", "work"]);
    rig.until("the late answer, counted", || late.get() >= 1).await;
    assert_eq!(rig.outcomes(40).await.results(), ids(0..40), "and nothing came of it");
    rig.finish().await;
}

#[actix_rt::test]
async fn a_fatal_fault_costs_the_worker_and_nothing_else() {
    let behaviour = Arc::new(|id: &str, run| if id == "r00007" && run == 1 { Act::Fatal } else { Act::Pass });
    let rig = Rig::start(Plan { behaviour, partitions: 1, ..Plan::default() });
    rig.send(ids(0..40)).await;
    assert_eq!(rig.outcomes(40).await.results(), ids(0..40));
    rig.finish().await;
}

#[actix_rt::test]
async fn commits_of_unknown_outcome_lose_and_double_nothing() {
    let rig = Rig::start(Plan::default());
    let faults = [CommitFault::UnknownCommitted, CommitFault::UnknownAborted, CommitFault::Void];
    for (wave, fault) in (0u32..).zip(faults) {
        rig.faults.on_commit(fault);
        rig.send(ids(wave * 400..(wave + 1) * 400)).await;
    }
    assert_eq!(rig.outcomes(1_200).await.results(), ids(0..1_200));
    assert!(rig.runs.lock().values().all(|runs| *runs == 1), "a commit that failed makes no step run again");
    rig.finish().await;
}

#[actix_rt::test]
async fn partitions_that_leave_and_come_back_are_read_on_from_where_they_were() {
    let rig = Rig::start(Plan::default());
    let all: Vec<Partition> = (0..4).map(Partition).collect();
    for wave in 0..4 {
        rig.send(ids(wave * 500..(wave + 1) * 500)).await;
        rig.faults.revoke("flow", &all[..2], wave == 3);
        rig.faults.assign("flow", &all[..2]);
    }
    assert_eq!(rig.outcomes(2_000).await.results(), ids(0..2_000));
    rig.finish().await;
}

#[actix_rt::test]
async fn a_record_past_its_deadline_is_a_dead_letter_that_no_step_saw() {
    let rig = Rig::start(Plan { partitions: 1, ..Plan::default() });
    let records = ids(0..40).into_iter().enumerate().map(|(i, id)| {
        let mut record = record_of(id);
        let deadline = if i % 4 == 3 { "1000" } else { "99999999999999" };
        record.headers.push(Header::new(DEADLINE_HEADER, deadline));
        record
    });
    rig.send_records(records).await;
    let outcomes = rig.outcomes(40).await;
    let late: Vec<String> = outcomes.dlq.iter().map(|(_, id, _)| id.clone()).collect();
    assert_eq!((outcomes.out.len(), late), (30, ids(0..40).into_iter().skip(3).step_by(4).collect()));
    assert_eq!(outcomes.dlq[0].2["__bulkhead.errors.code"], "deadline_passed");
    assert_eq!(outcomes.dlq[0].2["__bulkhead.errors.stage"], "work");
    assert_eq!((rig.runs_of("r00003"), rig.runs_of("r00004")), (0, 1));
    assert_eq!(rig.metrics.records_expired.with(["flow", "work"]).get(), 10);
    rig.finish().await;
}

/// A step that is built only once the test says so.
struct Gated;

static GATE: Barrier = Barrier::new(2);

impl StepFactory for Gated {
    fn name(&self) -> &str {
        "gated"
    }

    fn build(&self) -> Result<Box<dyn Step>, Fault> {
        GATE.wait();
        Ok(Box::new(Self))
    }
}

impl Step for Gated {
    fn run(&mut self, records: &[Record], _: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        Ok(records.iter().cloned().map(Verdict::one).collect())
    }
}

#[actix_rt::test]
async fn a_stage_has_no_worker_before_its_steps_are_built() {
    let rig =
        Rig::start(Plan { workers: 1, tune: |spec| spec.stages[0].steps.push(Arc::new(Gated)), ..Plan::default() });
    rig.until("the membership", || rig.pipeline.joined()).await;
    assert_eq!(rig.pipeline.stages_without_worker(), ["work"], "/ready says no");
    tokio::task::spawn_blocking(|| GATE.wait()).await.expect("no panic");
    rig.until("a worker", || rig.pipeline.stages_without_worker().is_empty()).await;
    rig.finish().await;
}
