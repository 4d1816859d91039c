//! Kills every kind of actor while records flow on the memory log: nothing lost, doubled or reordered, nobody else
//! restarted, and no step run again for a batch that the victim did not hold.

mod rig;

use bulkhead_actors::supervisor::RootHandle;
use rig::{Act, Plan, Rig};
use std::collections::BTreeMap;
use std::sync::Arc;

const RECORDS: u32 = 4_000;

fn ids(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|i| format!("r{i:05}")).collect()
}

/// The incarnation of every living actor.
fn incarnations(root: &RootHandle) -> BTreeMap<String, u32> {
    root.actors().into_iter().map(|actor| (actor.path, actor.incarnation.0)).collect()
}

/// Waits until every actor of the pipeline is there.
async fn settled(rig: &Rig) {
    for partition in 0..rig.partitions {
        let path = format!("pipeline/flow/partitions/p{partition}/partition");
        rig.root.until(&path, |actor| actor.is_some()).await;
    }
}

/// Sends records in waves and kills `victim` before each but the first; then audits. `falls_with` comes back with it.
async fn kill_while_flowing(victim: &str, falls_with: &[&str]) {
    let rig = Rig::start(Plan::default());
    rig.send(ids(0..RECORDS / 4)).await;
    drop(rig.outcomes(usize::try_from(RECORDS / 8).expect("small")).await);
    settled(&rig).await;
    let before = incarnations(&rig.root);
    for wave in 1..4 {
        rig.root.kill(victim).unwrap_or_else(|error| panic!("{victim} lives: {error}"));
        rig.send(ids(RECORDS / 4 * wave..RECORDS / 4 * (wave + 1))).await;
    }
    let outcomes = rig.outcomes(RECORDS as usize).await;
    assert_eq!(outcomes.results(), ids(0..RECORDS), "{victim} was killed");
    in_order(&outcomes);
    let after = incarnations(&rig.root);
    for (path, incarnation) in &before {
        let falls = path == victim || falls_with.iter().any(|with| path == with);
        if falls {
            assert!(after[path] > *incarnation, "{path} came back");
        } else {
            assert_eq!(after.get(path), Some(incarnation), "{path} was not touched when {victim} was killed");
        }
    }
    rig.finish().await;
}

/// Each source partition's records come out in its order: ids rise along each of them.
fn in_order(outcomes: &rig::Outcomes) {
    let mut last: BTreeMap<(i32, u32), &str> = BTreeMap::new();
    for (partition, id) in &outcomes.out {
        let number: u32 = id[1..].parse().expect("a number");
        let before = last.insert((*partition, number % 4), id);
        assert!(before.is_none_or(|before| before < id.as_str()), "{id} after {before:?}");
    }
}

#[actix_rt::test]
async fn a_worker() {
    kill_while_flowing("pipeline/flow/stage/work/worker-0", &[]).await;
}

#[actix_rt::test]
async fn a_lane() {
    kill_while_flowing("pipeline/flow/lane/0", &[]).await;
}

#[actix_rt::test]
async fn the_dlq() {
    kill_while_flowing("pipeline/flow/dlq", &[]).await;
}

#[actix_rt::test]
async fn a_ledger_shard() {
    kill_while_flowing("pipeline/flow/partitions/p0/ledger", &[]).await;
}

#[actix_rt::test]
async fn a_partition_and_its_ledger_shard_with_it() {
    let shard = "pipeline/flow/partitions/p0/ledger";
    kill_while_flowing("pipeline/flow/partitions/p0/partition", &[shard]).await;
}

#[actix_rt::test]
async fn the_source() {
    kill_while_flowing("pipeline/flow/source", &[]).await;
}

#[actix_rt::test]
async fn no_step_runs_again_when_a_lane_dies() {
    let rig = Rig::start(Plan { partitions: 1, ..Plan::default() });
    rig.send(ids(0..500)).await;
    drop(rig.outcomes(100).await);
    rig.root.kill("pipeline/flow/lane/0").expect("it lives");
    rig.send(ids(500..1_000)).await;
    assert_eq!(rig.outcomes(1_000).await.results(), ids(0..1_000));
    assert!(rig.runs.lock().values().all(|runs| *runs == 1), "the stage did not fall, nothing ran twice");
    rig.finish().await;
}

#[actix_rt::test]
async fn twenty_poison_records_leave_the_pipeline_up() {
    let behaviour = Arc::new(|id: &str, _| if id.ends_with("50") { Act::Panic } else { Act::Pass });
    let rig = Rig::start(Plan { behaviour, tune: |spec| spec.stages[0].restart.intensity = 5, ..Plan::default() });
    rig.send(ids(0..2_000)).await;
    let outcomes = rig.outcomes(2_000).await;
    assert_eq!((outcomes.out.len(), outcomes.dlq.len()), (1_980, 20));
    rig.finish().await;
}
