//! Isolated workers on a real broker: what becomes of their processes is nobody else's business, in the auditor's eyes too.

use crate::{PATIENCE, assert_no_sentinel, start};
use bulkhead_testkit::flow::{CHAOS, Flow, FlowSpec, asking, id, incarnations, numbered, reborn};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::process::{eventually, send};

const PARTITIONS: i32 = 4;
const RECORDS: u32 = 3_000;
/// The record that ends its process.
const ABORTS: u32 = 2_800;
/// How many records must be out before each kill.
const KILL_AT: [f64; 3] = [300.0, 900.0, 1_500.0];
/// Records of a batch, as `Flow` configures it.
const BATCH: usize = 50;

#[test]
fn killed_and_aborted_ones_cost_their_batches_a_second_run() {
    let kafka = Kafka::shared();
    let stage = "workers = 2\nisolation = \"process\"";
    let flow = Flow::on(kafka, FlowSpec { name: "processes", stage, ..FlowSpec::default() });
    let (daemon, follower) = (start(&flow, "a"), flow.follow(kafka));
    let workers = ["0", "1"].map(|worker| flow.actor(&format!("stage/work/worker-{worker}")));
    let before = incarnations(&daemon);
    // Every fifth takes 3 ms, so that they flow for a second or two; one takes its process along when it is run first. It
    // comes after the kills: otherwise one of them could meet a process that it has ended.
    let mut load = numbered(0..RECORDS, PARTITIONS).zip(0u32..).map(|((partition, record), number)| {
        let wish = if number == ABORTS { "abort:1" } else { "slow:3" };
        (partition, if number % 20 < 4 { asking(record, wish) } else { record })
    });
    flow.send(kafka, load.by_ref().take(ABORTS as usize));
    let mut last = 0;
    for least in KILL_AT {
        flow.wait_metric(&daemon, "bulkhead_records_out_total", least, PATIENCE);
        let pid = eventually("the worker is another incarnation, with a process", PATIENCE, || {
            let worker = daemon.actors().remove(&workers[0]).ok_or("it is gone")?;
            let pid = worker.page["pid"].as_u64().filter(|_| worker.incarnation > last);
            last = pid.map_or(last, |_| worker.incarnation);
            pid.ok_or_else(|| format!("{:?}", worker.page))
        });
        send(u32::try_from(pid).expect("a process id"), "KILL");
    }
    flow.send(kafka, load);
    flow.converge(kafka, vec![follower], PATIENCE);
    assert_no_sentinel(&flow, &daemon);
    let touched = reborn(&before, &incarnations(&daemon));
    assert!(touched.iter().all(|path| workers.contains(path)), "more than the workers fell: {touched:?}");
    assert!(flow.metric(&daemon, "bulkhead_worker_process_ended_total") >= 4.0);
    let runs = daemon.chaos_runs(CHAOS);
    assert_eq!((runs.len(), runs[&id(ABORTS)]), (RECORDS as usize, 2), "every record was run");
    let again = runs.values().filter(|runs| **runs > 1).count();
    assert!(again <= (KILL_AT.len() + 1) * BATCH, "{again} records ran again, more than the victims held");
}
