//! What a pipeline's actors share and what outlives every one of them: links, gates, the group, the source machine.
//! Never runs anything by itself.

use super::gate::Gate;
use super::journal;
use super::ledger_slot::LedgerSlot;
use super::spec::PipelineSpec;
use super::trace;
use super::wake::Slot;
use crate::clock::Clock;
use crate::io::segment_cache::SegmentStore;
use crate::log::{Extent, Group, Log, LogError, Outgoing};
use crate::metrics::Metrics;
use bulkhead_core::batch::{Batch, Outcome};
use bulkhead_core::dlq::LEDGER_STAGE;
use bulkhead_core::fault::FaultClass;
use bulkhead_core::ids::{Assignment, BatchSeq, Generation, Partition, Position};
use bulkhead_core::ledger::Segment;
use bulkhead_core::letter::LetterSpec;
use bulkhead_core::link::{Link, LinkEvent};
use bulkhead_core::machine::Machine;
use bulkhead_core::record::{ACCEPTED_HEADER, Record, SourceRecord};
use bulkhead_core::source::{SourceEffect, SourceMachine};
use bulkhead_core::stage::{StageEvent, StageLink};
use bulkhead_core::supervisor::{Charge, Exit};
use bulkhead_core::time::Now;
use bulkhead_core::trial::Patience;
use parking_lot::Mutex;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// How long to wait for another owner's open transaction: past Kafka's own limit on it (10 s, looked after every 10 s).
const STABLE_WAIT: Duration = Duration::from_secs(25);

/// A pipeline's shared state.
pub(crate) struct Slots {
    pub(crate) spec: PipelineSpec,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) log: Arc<dyn Log>,
    /// The membership; `None` before the source joined and after it left.
    pub(crate) group: Slot<Option<Arc<dyn Group>>>,
    /// Held by whoever polls the group.
    pub(crate) polling: Mutex<()>,
    pub(crate) source: Mutex<SourceMachine>,
    /// What the group told and the source has not done yet.
    pub(crate) rebalance: Mutex<VecDeque<SourceEffect>>,
    /// Partition actors that are ready for their records.
    pub(crate) begins: Mutex<VecDeque<(Assignment, Position)>>,
    /// Partitions that are ours and whose actors are not started yet: those of an earlier assignment still end.
    pub(crate) starting: Mutex<BTreeSet<Partition>>,
    pub(crate) partitions: Vec<PartitionSlot>,
    /// The ledger's cache, where there is a ledger.
    pub(crate) segments: Option<Arc<SegmentStore>>,
    pub(crate) stages: Vec<Slot<StageLink>>,
    /// For each stage: how many workers have built their steps and live.
    pub(crate) ready_workers: Vec<AtomicU32>,
    /// For each stage: crashes that no record was found guilty of, not charged yet.
    pub(crate) uncharged: Vec<AtomicU32>,
    pub(crate) dlq: Slot<Link<Batch>>,
    pub(crate) lanes: Vec<Slot<Link<Batch>>>,
    /// Told when the pipeline has spent its restart budget.
    pub(crate) gave_up: tokio::sync::Notify,
    /// Why the pipeline takes no records, as its parts say it.
    pub(crate) halted: Mutex<Option<String>>,
    /// Why it takes no records, as its topics say it.
    pub(crate) mismatch: Mutex<Option<String>>,
}

/// What the actors of one partition share.
#[derive(Default)]
pub(crate) struct PartitionSlot {
    pub(crate) gate: Gate,
    /// Whether the source may fetch; set by the partition's actor.
    pub(crate) room: AtomicBool,
    pub(crate) inbox: Slot<Inbox>,
    pub(crate) account: Mutex<Account>,
    pub(crate) ledger: LedgerSlot,
    pub(crate) progress: Mutex<Progress>,
    /// The last generation that an actor took.
    pub(crate) claimed: Mutex<Generation>,
    /// The generation that the partition's actor works under; `None` while it finds out.
    pub(crate) attached: Slot<Option<Generation>>,
}

/// What waits for a partition's actor.
#[derive(Default)]
pub(crate) struct Inbox {
    pub(crate) generation: Generation,
    /// The source reads from where the actor asked: it may open.
    pub(crate) begun: Option<Position>,
    pub(crate) fetched: VecDeque<Vec<SourceRecord>>,
    pub(crate) settled: VecDeque<(BatchSeq, Position)>,
}

/// How many batches of the current generation are unsettled, and which is the first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Account {
    pub(crate) generation: Generation,
    pub(crate) next: BatchSeq,
    pub(crate) unsettled: usize,
}

/// What health says of a partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// The oldest unsettled batch: its first offset and since when.
    pub(crate) oldest: Option<(i64, Now)>,
    /// The lowest unsettled position.
    pub(crate) watermark: Option<Position>,
    /// Why the partition stands still, if it says so itself.
    pub(crate) stopped: Option<String>,
    /// Since when it has had no room, counted into the metric when it has again.
    pub(crate) full_since: Option<Now>,
}

impl Slots {
    pub(crate) fn new(spec: PipelineSpec, log: Arc<dyn Log>, clock: Clock, metrics: Arc<Metrics>) -> Arc<Self> {
        let partitions = usize::try_from(spec.source.partitions).unwrap_or(0);
        let capacity = partitions * spec.limits.in_flight_batches_max;
        let stages = spec.stages.iter().map(|stage| {
            let (crashes_max, retry) = (stage.crashes_max, stage.retry.clone());
            let patience = Patience { stage: Arc::clone(&stage.name), crashes_max, retry };
            let mut link = StageLink::new(capacity, patience, stage.gather);
            if !stage.journal.exists() {
                let (pipeline, stage, journal) = (&spec.name, &stage.name, stage.journal.display());
                tracing::info!(%pipeline, %stage, %journal, "no crash journal here: deaths before this start are not counted");
            }
            match journal::recover(&stage.journal) {
                Ok(suspicions) => link.suspect(suspicions),
                // Without it a record that kills the process is not found; nothing else depends on it.
                Err(error) => tracing::warn!(pipeline = %spec.name, stage = %stage.name, %error, "no crash journal"),
            }
            Slot::new(link)
        });
        Arc::new(Self {
            partitions: (0..partitions).map(|_| PartitionSlot::default()).collect(),
            segments: spec.ledger.as_ref().map(|ledger| SegmentStore::new(ledger.cache.clone())),
            ready_workers: spec.stages.iter().map(|_| AtomicU32::new(0)).collect(),
            uncharged: spec.stages.iter().map(|_| AtomicU32::new(0)).collect(),
            stages: stages.collect(),
            dlq: Slot::new(Link::new(capacity)),
            lanes: (0..spec.lanes).map(|_| Slot::new(Link::new(capacity))).collect(),
            spec,
            clock,
            metrics,
            log,
            group: Slot::new(None),
            polling: Mutex::default(),
            source: Mutex::default(),
            rebalance: Mutex::default(),
            begins: Mutex::default(),
            starting: Mutex::default(),
            gave_up: tokio::sync::Notify::new(),
            halted: Mutex::new(None),
            mismatch: Mutex::new(None),
        })
    }

    /// The partition's slot; `None` where the log has more partitions than the config.
    pub(crate) fn partition(&self, partition: Partition) -> Option<&PartitionSlot> {
        self.partitions.get(usize::try_from(partition.0).ok()?)
    }

    /// The lane that publishes a partition's batches.
    pub(crate) fn lane_of(&self, partition: Partition) -> usize {
        usize::try_from(partition.0).unwrap_or(0) % self.lanes.len().max(1)
    }

    /// The partitions of a lane.
    pub(crate) fn partitions_of(&self, lane: usize) -> impl Iterator<Item = (Partition, &PartitionSlot)> {
        let all = (0i32..).map(Partition).zip(&self.partitions);
        all.filter(move |(partition, _)| self.lane_of(*partition) == lane)
    }

    /// The assignment begins: commits of it pass, its accounts are empty.
    pub(crate) fn open(&self, assignment: Assignment) {
        let Some(slot) = self.partition(assignment.partition) else { return };
        let generation = assignment.generation;
        *slot.account.lock() = Account { generation, ..Account::default() };
        *slot.inbox.lock() = Inbox { generation, ..Inbox::default() };
        slot.ledger.open(generation);
        slot.gate.open(generation);
    }

    /// The assignment is over: waits for a commit in progress, then nothing of it passes any more. Blocks up to `drain`;
    /// not at all where the assignment is `lost`: a commit that is past the gate looks at it once more
    /// ([`crate::log::Publisher::commit_if`]).
    pub(crate) fn fence(&self, over: Assignment, lost: bool) {
        let Some(slot) = self.partition(over.partition) else { return };
        slot.room.store(false, Ordering::Release);
        let wait = if lost { Duration::ZERO } else { self.spec.drain };
        if !slot.gate.fence(over.generation, wait) && !lost {
            tracing::warn!(pipeline = %self.spec.name, assignment = %over, "a commit outlasted the drain budget; fenced without it");
        }
        {
            // Its batches are nobody's any more, and none may set off: a lane must not wait for them.
            let mut account = slot.account.lock();
            if account.generation == over.generation {
                *account = Account::default();
            }
        }
        let now = self.clock.now();
        slot.ledger.link.lock().step(LinkEvent::Fence(over), now);
        slot.ledger.link.wake();
        slot.ledger.fenced();
        for stage in &self.stages {
            stage.lock().step(StageEvent::Fence(over), now);
        }
        self.dlq.lock().step(LinkEvent::Fence(over), now);
        let lane = &self.lanes[self.lane_of(over.partition)];
        lane.lock().step(LinkEvent::Fence(over), now);
        lane.wake();
        *slot.progress.lock() = Progress::default();
    }

    /// A batch sets off: it counts as unsettled from now on.
    pub(crate) fn set_off(&self, batch: Batch) {
        let Assignment { partition, generation } = batch.ticket.assignment;
        let Some(slot) = self.partition(partition) else { return };
        // Held until the batch lies on its link: a fence comes before both or after both.
        let mut account = slot.account.lock();
        if account.generation != generation {
            return;
        }
        account.unsettled += 1;
        trace::consumed(&self.spec, &batch);
        if self.spec.ledger.is_some() {
            slot.ledger.link.lock().step(LinkEvent::Push(batch), self.clock.now());
            slot.ledger.link.wake();
        } else {
            self.enter_stage(0, batch);
        }
    }

    /// A batch goes on to the stage of this number, or past the last one to the dlq.
    pub(crate) fn enter_stage(&self, stage: usize, batch: Batch) {
        let now = self.clock.now();
        match self.stages.get(stage) {
            Some(slot) => {
                slot.lock().step(StageEvent::Push(batch), now);
                slot.wake();
            }
            None => {
                self.dlq.lock().step(LinkEvent::Push(batch), now);
                self.dlq.wake();
            }
        }
    }

    /// A finished batch goes to its lane.
    pub(crate) fn enter_lane(&self, batch: Batch) {
        let lane = &self.lanes[self.lane_of(batch.ticket.assignment.partition)];
        lane.lock().step(LinkEvent::Push(batch), self.clock.now());
        lane.wake();
    }

    /// A batch is settled: its partition hears of it.
    pub(crate) fn settle(&self, assignment: Assignment, seq: BatchSeq, end: Position) {
        let Some(slot) = self.partition(assignment.partition) else { return };
        {
            let mut account = slot.account.lock();
            if account.generation != assignment.generation {
                return;
            }
            account.unsettled = account.unsettled.saturating_sub(1);
            account.next = BatchSeq(seq.0 + 1);
        }
        let mut inbox = slot.inbox.lock();
        if inbox.generation == assignment.generation {
            inbox.settled.push_back((seq, end));
        }
        drop(inbox);
        slot.ledger.settled(assignment.generation, seq);
        slot.inbox.wake();
    }

    /// Batches of a lane's partitions that are unsettled, wherever they are.
    pub(crate) fn unsettled_of(&self, lane: usize) -> usize {
        self.partitions_of(lane).map(|(_, slot)| slot.account.lock().unsettled).sum()
    }

    /// Counts what became of a settled batch.
    pub(crate) fn count_outcomes(&self, batch: &Batch) {
        let (name, partition) = (&*self.spec.name, batch.ticket.assignment.partition.to_string());
        let (mut out, mut duplicates) = (0u64, 0);
        for outcome in &batch.outcomes {
            match outcome {
                Outcome::Pending => out += 1,
                Outcome::Emitted(records) => out += records.len() as u64,
                Outcome::Dropped(_) => {
                    self.metrics.records_dropped.with([name, ""]).inc();
                }
                Outcome::Rejected(why) => {
                    self.metrics.dlq_published.with([name, &why.stage, why.fault.class.as_str()]).inc();
                }
                Outcome::Conflict(_) => {
                    self.metrics.dlq_published.with([name, LEDGER_STAGE, FaultClass::Poison.as_str()]).inc();
                }
                Outcome::Duplicate(_) => duplicates += 1,
            }
        }
        self.metrics.records_out.with([name, &partition]).inc_by(out);
        if duplicates > 0 {
            self.metrics.duplicates.with([name, &partition]).inc_by(duplicates);
        }
        self.time_jobs(batch);
    }

    /// Notes how long the batch's jobs took, from the edge to now; a record that did not come by the edge is none.
    fn time_jobs(&self, batch: &Batch) {
        let accepted = |record: &Record| std::str::from_utf8(record.header(ACCEPTED_HEADER)?).ok()?.parse::<i64>().ok();
        let ended = batch.records.iter().zip(&batch.outcomes).filter(|(_, of)| !matches!(of, Outcome::Duplicate(_)));
        let mut times = ended.filter_map(|(source, _)| accepted(&source.record)).peekable();
        if times.peek().is_none() {
            return;
        }
        let (series, wall) = (self.metrics.job_duration_seconds.with([&self.spec.name]), self.clock.wall());
        for accepted in times {
            // Two machines' clocks may disagree: a job does not take less than nothing.
            let took = u64::try_from(wall.0.saturating_sub(accepted)).unwrap_or(0);
            series.observe(Duration::from_millis(took).as_secs_f64());
        }
    }

    /// What all of its dead letters have in common.
    pub(crate) fn letter_spec(&self) -> LetterSpec {
        self.spec.letter_spec()
    }

    /// The record that a segment is published as; `None` where there is no ledger.
    pub(crate) fn segment_record(&self, segment: &Segment) -> Option<Outgoing> {
        let topic = Arc::clone(&self.spec.ledger.as_ref()?.topic);
        let value = Some(segment.wire().clone());
        let record = Record { value, timestamp: segment.committed_at(), ..Record::default() };
        Some(Outgoing { topic, partition: Some(segment.partition()), record })
    }

    /// The group's committed position of a partition; blocks.
    pub(crate) fn committed_position(&self, partition: Partition) -> Result<Option<Position>, LogError> {
        let source = &self.spec.source;
        let positions = self.log.committed(&source.group, &source.topic, &[partition], STABLE_WAIT)?;
        Ok(positions.first().copied().flatten())
    }

    /// Where a source partition begins and ends; blocks.
    pub(crate) fn source_extent(&self, partition: Partition) -> Result<Extent, LogError> {
        self.log.extent(&self.spec.source.topic, partition)
    }

    /// Whether the pipeline takes no records, whoever says so.
    pub(crate) fn is_halted(&self) -> bool {
        self.halted.lock().is_some() || self.mismatch.lock().is_some()
    }

    /// An actor other than a worker has ended: counts it, and says whom to charge.
    pub(crate) fn ended(&self, actor: &str, exit: &Exit) -> Charge {
        let path = format!("pipeline/{}/{actor}", self.spec.name);
        self.metrics.actor_restarts.with([&path, exit.label()]).inc();
        if matches!(exit, Exit::Done | Exit::Killed) { Charge::Nobody } else { Charge::Crash }
    }

    /// Why the pipeline stands still, for health; `None` takes it back.
    pub(crate) fn halt(&self, why: Option<String>) {
        *self.halted.lock() = why;
    }
}
