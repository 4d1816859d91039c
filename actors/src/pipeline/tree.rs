//! A pipeline's supervision tree as data: who is supervised by whom, under which name and with which budget.
//! Never runs anything.
//!
//! ```text
//! pipeline/<name> (one_for_one): source · lane/<n> … · dlq · stage/<name> … · partitions
//!   stage/<name> (one_for_one): worker-<n> …
//!   partitions (dynamic): p<n> (rest_for_one): partition · ledger
//! ```
//! A drain goes the other way round: partitions take no more and wait until all they sent off is settled, then there is
//! nothing left to do for the rest. The source is told last: until then it serves the group, whose rebalances would void
//! the commits of a member that does not answer.

use super::dlq::DlqSeat;
use super::lane::LaneSeat;
use super::ledger::ShardSeat;
use super::partition::PartitionSeat;
use super::slots::Slots;
use super::source::SourceSeat;
use super::spec::{RestartSpec, StageSpec};
use super::stage::Seat;
use crate::shell::Body;
use crate::supervisor::{ChildSpec, OnFailed, StopOrder, Strategy, SupervisorSpec};
use bulkhead_core::ids::Partition;
use bulkhead_core::link::Borrower;
use bulkhead_core::supervisor::SupervisorState;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long a part without work of its own may take to stop.
const STOP: Duration = Duration::from_secs(2);
/// How long one call of a lane's producer may take: well past its own limits, and below what a person waits for. librdkafka
/// was seen to ignore its time limit in `send_offsets_to_transaction` when a node died.
const LANE_HANGS: Duration = Duration::from_secs(60);

fn budget(spec: SupervisorSpec, restart: RestartSpec) -> SupervisorSpec {
    SupervisorSpec { intensity: restart.intensity, period: restart.period, ..spec }
}

/// Where a pipeline hangs below the root.
pub(crate) fn pipeline_path(slots: &Slots) -> String {
    format!("pipeline/{}", slots.spec.name)
}

fn partitions_path(slots: &Slots) -> String {
    format!("{}/partitions", pipeline_path(slots))
}

/// Where a partition's actors hang.
pub(crate) fn partition_path(slots: &Slots, partition: Partition) -> String {
    format!("{}/p{partition}", partitions_path(slots))
}

/// The pipeline's supervisor.
pub(crate) fn pipeline(source: &SourceSeat) -> ChildSpec {
    let source = source.clone();
    let path = pipeline_path(&source.slots);
    ChildSpec::supervisor(path.clone(), move || {
        let slots = &source.slots;
        let mut children = vec![source_spec(&source)];
        children.extend((0..slots.lanes.len()).map(|lane| lane_spec(slots, lane)));
        children.push(dlq_spec(slots));
        children.extend((0..slots.stages.len()).map(|stage| stage_supervisor(slots, stage)));
        children.push(partitions(slots));
        let spec = SupervisorSpec::new(path.clone(), children);
        SupervisorSpec {
            on_failed: OnFailed::Retry(slots.spec.failed_retry),
            on_state: Some(state_hook(slots)),
            ..budget(spec, slots.spec.restart)
        }
    })
}

/// A failed pipeline takes no records, and says so; its membership stays.
fn state_hook(slots: &Arc<Slots>) -> crate::supervisor::StateFn {
    let slots = Arc::clone(slots);
    Arc::new(move |state| match state {
        SupervisorState::Failed => {
            slots.halt(Some("restart budget spent".to_owned()));
            slots.gave_up.notify_one();
        }
        SupervisorState::Running => slots.halt(None),
        _ => {}
    })
}

fn lane_spec(slots: &Arc<Slots>, lane: usize) -> ChildSpec {
    let seat = LaneSeat { slots: Arc::clone(slots), lane };
    let (down, slots) = (seat.clone(), Arc::clone(slots));
    let mut spec = ChildSpec::body(format!("lane/{lane}"), move |_| {
        let seat = seat.clone();
        Body::thread(move |lifeline| seat.run(&lifeline))
    });
    spec.heartbeat = Some(LANE_HANGS);
    spec.shutdown = slots.spec.drain;
    spec.on_exit = Box::new(move |_, exit| down.down(exit));
    spec.observe = Some(Arc::new(move || {
        let link = slots.lanes[lane].lock();
        json!({ "link_depth": link.depth(), "in_flight": link.lent() })
    }));
    spec
}

fn dlq_spec(slots: &Arc<Slots>) -> ChildSpec {
    let seat = DlqSeat { slots: Arc::clone(slots) };
    let (down, slots) = (seat.clone(), Arc::clone(slots));
    let mut spec = ChildSpec::body("dlq", move |_| {
        let seat = seat.clone();
        Body::task(move |lifeline| seat.run(lifeline))
    });
    spec.shutdown = STOP;
    spec.on_exit = Box::new(move |_, exit| down.down(exit));
    spec.observe = Some(Arc::new(move || {
        let link = slots.dlq.lock();
        json!({ "link_depth": link.depth(), "in_flight": link.lent() })
    }));
    spec
}

fn stage_supervisor(slots: &Arc<Slots>, stage: usize) -> ChildSpec {
    let observed = Arc::clone(slots);
    let slots = Arc::clone(slots);
    let name = format!("stage/{}", slots.spec.stages[stage].name);
    let mut spec = ChildSpec::supervisor(name.clone(), move || {
        let stage_spec = &slots.spec.stages[stage];
        let workers = (0..stage_spec.workers).map(|worker| worker_spec(&slots, stage, stage_spec, worker)).collect();
        let spec = SupervisorSpec::new(name.clone(), workers);
        SupervisorSpec { stop_order: StopOrder::Together, ..budget(spec, stage_spec.restart) }
    });
    spec.observe = Some(Arc::new(move || {
        let link = observed.stages[stage].lock();
        json!({ "link_depth": link.depth(), "in_flight": link.lent() })
    }));
    spec
}

fn worker_spec(slots: &Arc<Slots>, stage: usize, stage_spec: &StageSpec, worker: u32) -> ChildSpec {
    let pid = Arc::new(AtomicU32::new(0));
    let seat = Seat { slots: Arc::clone(slots), stage, borrower: Borrower(worker), pid: Arc::clone(&pid) };
    let down = seat.clone();
    let mut spec = ChildSpec::body(format!("worker-{worker}"), move |_| {
        let seat = seat.clone();
        Body::thread(move |lifeline| seat.run(&lifeline))
    });
    spec.heartbeat = Some(stage_spec.timeout);
    spec.shutdown = STOP;
    spec.on_exit = Box::new(move |incarnation, exit| down.down(incarnation.0, exit));
    if stage_spec.process.is_some() {
        spec.observe = Some(Arc::new(move || match pid.load(Ordering::Acquire) {
            0 => json!({ "pid": null }),
            pid => json!({ "pid": pid }),
        }));
    }
    spec
}

fn partitions(slots: &Arc<Slots>) -> ChildSpec {
    let slots = Arc::clone(slots);
    ChildSpec::supervisor("partitions", move || {
        // Each incarnation begins without children: the source adds those of the partitions that are ours.
        let ours: Vec<Partition> = slots.source.lock().assignments().map(|assignment| assignment.partition).collect();
        slots.starting.lock().extend(ours);
        let spec = SupervisorSpec::new("partitions", Vec::new());
        SupervisorSpec { stop_order: StopOrder::Together, ..budget(spec, slots.spec.restart) }
    })
}

/// The actors of one partition, and the supervisor to add them to.
pub(crate) fn partition(slots: &Arc<Slots>, partition: Partition) -> (String, ChildSpec) {
    let parent = partitions_path(slots);
    let slots = Arc::clone(slots);
    let name = format!("p{partition}");
    let spec = ChildSpec::supervisor(name.clone(), move || {
        let mut children = vec![partition_spec(&slots, partition)];
        children.extend(slots.spec.ledger.is_some().then(|| shard_spec(&slots, partition)));
        let spec = SupervisorSpec::new(name.clone(), children);
        // Told to drain together: the shard answers until the partition has ended.
        let (strategy, stop_order) = (Strategy::RestForOne, StopOrder::Together);
        SupervisorSpec { strategy, stop_order, ..budget(spec, slots.spec.restart) }
    });
    (parent, spec)
}

fn partition_spec(slots: &Arc<Slots>, partition: Partition) -> ChildSpec {
    let seat = PartitionSeat { slots: Arc::clone(slots), partition };
    let (down, slots) = (seat.clone(), Arc::clone(slots));
    let mut spec = ChildSpec::body("partition", move |_| {
        seat.detach();
        let seat = seat.clone();
        Body::task(move |lifeline| seat.run(lifeline))
    });
    spec.shutdown = slots.spec.drain;
    spec.on_exit = Box::new(move |_, exit| down.down(exit));
    spec.observe = Some(Arc::new(move || {
        let Some(slot) = slots.partition(partition) else { return json!({}) };
        let (account, progress) = (*slot.account.lock(), slot.progress.lock().clone());
        json!({
            "generation": account.generation, "in_flight": account.unsettled,
            "watermark": progress.watermark, "stopped": progress.stopped,
        })
    }));
    spec
}

fn shard_spec(slots: &Arc<Slots>, partition: Partition) -> ChildSpec {
    let seat = ShardSeat { slots: Arc::clone(slots), partition };
    let (down, slots) = (seat.clone(), Arc::clone(slots));
    let mut spec = ChildSpec::body("ledger", move |_| {
        let seat = seat.clone();
        Body::task(move |lifeline| seat.run(lifeline))
    });
    spec.shutdown = slots.spec.drain + STOP;
    spec.on_exit = Box::new(move |_, exit| down.down(exit));
    spec.observe = Some(Arc::new(move || {
        let Some(slot) = slots.partition(partition) else { return json!({}) };
        let link = slot.ledger.link.lock();
        json!({ "link_depth": link.depth(), "in_flight": link.lent() })
    }));
    spec
}

fn source_spec(source: &SourceSeat) -> ChildSpec {
    let (seat, down, slots) = (source.clone(), source.clone(), Arc::clone(&source.slots));
    let mut spec = ChildSpec::body("source", move |_| {
        let seat = seat.clone();
        Body::thread(move |lifeline| seat.run(&lifeline))
    });
    // A revoke may hold the polling thread for the drain budget.
    spec.heartbeat = Some(slots.spec.drain + slots.spec.source.session_timeout);
    spec.shutdown = STOP;
    spec.on_exit = Box::new(move |_, exit| down.down(exit));
    spec.observe = Some(Arc::new(move || {
        let source = slots.source.lock();
        let assigned: Vec<_> =
            source.assignments().map(|a| json!({ "partition": a.partition, "generation": a.generation })).collect();
        json!({ "assigned": assigned })
    }));
    spec
}
