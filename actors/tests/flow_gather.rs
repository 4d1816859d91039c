//! Batches of two partitions, gathered into one call: a fault in it costs each of them one attempt, and what one record
//! does is its own. `wait` is so long here that a call begins only once all its records are there.

mod rig;

use bulkhead_core::gather::Gather;
use rig::{Act, Behaviour, Outcomes, Plan, Rig};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const RECORDS: u32 = 20;

fn ids() -> Vec<String> {
    (0..RECORDS).map(|i| format!("r{i:05}")).collect()
}

/// One worker, and records of two partitions that all fit into one call.
async fn gathered(behaviour: Behaviour) -> Rig {
    let rig = Rig::start(Plan {
        behaviour,
        partitions: 2,
        workers: 1,
        tune: |spec| {
            let stage = &mut spec.stages[0];
            stage.gather = Gather { records_max: RECORDS, wait: Duration::from_secs(20) };
            // Nobody is charged for what a record does.
            stage.restart.intensity = 0;
        },
        ..Plan::default()
    });
    rig.send(ids()).await;
    rig
}

/// Records of one partition come out in its order.
fn in_order(outcomes: &Outcomes) {
    let mut last = BTreeMap::new();
    for (partition, id) in &outcomes.out {
        let number: u32 = id[1..].parse().expect("a number");
        let before = last.insert((*partition, number % 2), number);
        assert!(before.is_none_or(|before| before < number), "{id} after {before:?}");
    }
}

/// The ids of the first call, sorted, and how many records each call after it had.
fn calls(rig: &Rig) -> (Vec<String>, Vec<usize>) {
    let calls = rig.calls.lock();
    let mut first = calls[0].clone();
    first.sort_unstable();
    (first, calls[1..].iter().map(Vec::len).collect())
}

#[actix_rt::test]
async fn two_partitions_go_through_in_one_call() {
    let rig = gathered(Arc::new(|_, _| Act::Pass)).await;
    let outcomes = rig.outcomes(RECORDS as usize).await;
    assert_eq!(outcomes.results(), ids());
    in_order(&outcomes);
    assert_eq!(calls(&rig), (ids(), Vec::new()));
    let metrics = rig.metrics.render();
    for line in [
        "queue_seconds_count{pipeline=\"flow\",stage=\"work\"} 2",
        "seconds_count{pipeline=\"flow\",stage=\"work\"} 1",
        "preprocess_seconds_sum{pipeline=\"flow\",stage=\"work\"} 0.25",
        "infer_seconds_sum{pipeline=\"flow\",stage=\"work\"} 0.5",
        "postprocess_seconds_sum{pipeline=\"flow\",stage=\"work\"} 0.125",
    ] {
        let line = format!("bulkhead_stage_{line}");
        assert!(metrics.lines().any(|found| found == line), "no {line} in {metrics}");
    }
    rig.finish().await;
}

#[actix_rt::test]
async fn one_poison_among_them_is_rejected_alone_and_nothing_runs_again() {
    let rig = gathered(Arc::new(|id: &str, _| if id == "r00007" { Act::Poison } else { Act::Pass })).await;
    let outcomes = rig.outcomes(RECORDS as usize).await;
    assert_eq!((outcomes.out.len(), &*outcomes.dlq[0].1), (19, "r00007"));
    in_order(&outcomes);
    assert_eq!(calls(&rig), (ids(), Vec::new()));
    rig.finish().await;
}

#[actix_rt::test]
async fn a_crash_among_them_is_found_and_nobody_else_pays() {
    let rig = gathered(Arc::new(|id: &str, _| if id == "r00007" { Act::Panic } else { Act::Pass })).await;
    let outcomes = rig.outcomes(RECORDS as usize).await;
    assert_eq!((outcomes.out.len(), &*outcomes.dlq[0].1), (19, "r00007"));
    assert_eq!(outcomes.dlq[0].2["__bulkhead.errors.code"], "crashed_worker");
    in_order(&outcomes);
    let (first, others) = calls(&rig);
    assert_eq!((rig.runs_of("r00007"), first), (4, ids()), "once among all, then three times by name");
    let worst = rig.runs.lock().iter().filter(|(id, _)| *id != "r00007").map(|(_, runs)| *runs).max();
    assert_eq!(worst, Some(2), "once among all, then alone");
    assert!(others.iter().all(|records| *records == 1), "{others:?}");
    rig.finish().await;
}

#[actix_rt::test]
async fn a_transient_fault_costs_each_batch_one_attempt() {
    let behaviour = |id: &str, run| if id == "r00007" && run < 3 { Act::Transient } else { Act::Pass };
    let rig = gathered(Arc::new(behaviour)).await;
    let outcomes = rig.outcomes(RECORDS as usize).await;
    assert_eq!((outcomes.results().len(), outcomes.dlq.len()), (RECORDS as usize, 0));
    in_order(&outcomes);
    let (first, others) = calls(&rig);
    assert_eq!((rig.runs_of("r00007"), first), (3, ids()));
    assert!(others.iter().all(|records| *records == 1), "{others:?}");
    let retries = rig.metrics.stage_retries.with(["flow", "work"]).get();
    assert_eq!(retries, 3, "each of the two batches once, then the one with the record");
    rig.finish().await;
}
