//! What outlives the actors of one simulated process, wired as the shells wire it: links, gates, accounts, the ledger's
//! inbox. Never outlives the process, but for the cache.

use crate::ctx::{Ctx, Mutant};
use crate::ledger_slot::LedgerSlot;
use crate::source_log::PARTITIONS;
use bulkhead_core::batch::Batch;
use bulkhead_core::gather::Gather;
use bulkhead_core::ids::{Assignment, BatchSeq, Generation, Partition, Position, SegmentSeq};
use bulkhead_core::ledger::Placed;
use bulkhead_core::letter::{LETTER_BYTES_MIN, LetterSpec};
use bulkhead_core::link::{Link, LinkEvent};
use bulkhead_core::machine::Machine;
use bulkhead_core::record::SourceRecord;
use bulkhead_core::retry::RetryPolicy;
use bulkhead_core::source::{SourceEffect, SourceMachine};
use bulkhead_core::stage::{StageEvent, StageLink};
use bulkhead_core::trial::Patience;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub(crate) const STAGES: usize = 2;
pub(crate) const LANES: usize = 2;
pub(crate) const CRASHES_MAX: u32 = 2;
pub(crate) const IN_FLIGHT_MAX: usize = 4;

/// One partition's cached segments, as a disk keeps them.
pub(crate) type Cache = BTreeMap<SegmentSeq, Placed>;

/// Lets commits of one generation through, one at a time.
#[derive(Default)]
pub(crate) struct Gate {
    pub(crate) open: Option<Generation>,
    /// The lane's incarnation that commits.
    pub(crate) committing: Option<u32>,
}

impl Gate {
    /// An earlier incarnation that still holds it is a ghost.
    pub(crate) fn enter(&mut self, generation: Generation, by: u32) -> bool {
        let enters = self.open == Some(generation) && self.committing.is_none_or(|holder| holder < by);
        if enters {
            self.committing = Some(by);
        }
        enters
    }

    pub(crate) fn leave(&mut self, by: u32) {
        self.committing = self.committing.filter(|holder| *holder != by);
    }

    /// Whether a fence of this generation has to wait.
    pub(crate) fn is_held(&self, generation: Generation) -> bool {
        self.open == Some(generation) && self.committing.is_some()
    }

    pub(crate) fn fence(&mut self, generation: Generation) {
        self.open = self.open.filter(|open| *open != generation);
    }
}

#[derive(Default)]
pub(crate) struct Inbox {
    pub(crate) generation: Generation,
    pub(crate) begun: Option<Position>,
    pub(crate) fetched: VecDeque<Vec<SourceRecord>>,
    pub(crate) settled: VecDeque<(BatchSeq, Position)>,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Account {
    pub(crate) generation: Generation,
    pub(crate) next: BatchSeq,
    pub(crate) unsettled: usize,
}

#[derive(Default)]
pub(crate) struct PartitionSlot {
    pub(crate) gate: Gate,
    pub(crate) room: bool,
    pub(crate) inbox: Inbox,
    pub(crate) account: Account,
    pub(crate) ledger: LedgerSlot,
    pub(crate) claimed: Generation,
    pub(crate) attached: Option<Generation>,
}

pub(crate) struct Slots {
    pub(crate) daemon: usize,
    pub(crate) process: u64,
    pub(crate) source: SourceMachine,
    /// What the group told and the source has not done yet.
    pub(crate) rebalance: VecDeque<SourceEffect>,
    pub(crate) begins: VecDeque<(Assignment, Position)>,
    pub(crate) starting: BTreeSet<Partition>,
    pub(crate) partitions: Vec<PartitionSlot>,
    pub(crate) stages: Vec<StageLink>,
    pub(crate) dlq: Link<Batch>,
    pub(crate) lanes: Vec<Link<Batch>>,
    pub(crate) caches: Vec<Cache>,
    /// Batches that left one link and have not reached the next.
    between: Vec<(usize, Batch)>,
}

pub(crate) fn letter_spec() -> LetterSpec {
    LetterSpec {
        topic: "source".into(),
        group: "group".into(),
        pipeline: "sim".into(),
        bytes_max: LETTER_BYTES_MIN,
        message_bytes_max: 200,
        rounds_max: 3,
    }
}

impl Slots {
    pub(crate) fn new(daemon: usize, process: u64, caches: Vec<Cache>, gather: Gather) -> Self {
        let capacity = PARTITIONS * IN_FLIGHT_MAX;
        let (initial, max) = (Duration::from_millis(2), Duration::from_millis(20));
        let retry = RetryPolicy { initial, max, ..RetryPolicy::default() };
        let patience = |stage: usize| Patience {
            stage: format!("s{stage}").into(),
            crashes_max: CRASHES_MAX,
            retry: retry.clone(),
        };
        Self {
            daemon,
            process,
            source: SourceMachine::default(),
            rebalance: VecDeque::new(),
            begins: VecDeque::new(),
            starting: BTreeSet::new(),
            partitions: (0..PARTITIONS).map(|_| PartitionSlot::default()).collect(),
            stages: (0..STAGES).map(|stage| StageLink::new(capacity, patience(stage), gather)).collect(),
            dlq: Link::new(capacity),
            lanes: (0..LANES).map(|_| Link::new(capacity)).collect(),
            caches,
            between: Vec::new(),
        }
    }

    pub(crate) fn partition(&mut self, partition: Partition) -> &mut PartitionSlot {
        &mut self.partitions[partition.0 as usize]
    }

    pub(crate) fn lane_of(partition: Partition) -> usize {
        partition.0 as usize % LANES
    }

    pub(crate) fn partitions_of(&mut self, lane: usize) -> impl Iterator<Item = &mut PartitionSlot> {
        self.partitions.iter_mut().enumerate().filter(move |(n, _)| n % LANES == lane).map(|(_, slot)| slot)
    }

    pub(crate) fn open(&mut self, assignment: Assignment) {
        let generation = assignment.generation;
        let slot = self.partition(assignment.partition);
        slot.account = Account { generation, ..Account::default() };
        slot.inbox = Inbox { generation, ..Inbox::default() };
        slot.ledger.open(generation);
        slot.gate.open = Some(generation);
    }

    /// Whether a fence must wait for a commit in progress; it does not wait for ever.
    pub(crate) fn fence_waits(&mut self, over: Assignment, ctx: &mut Ctx) -> bool {
        let held = self.partition(over.partition).gate.is_held(over.generation);
        if held {
            ctx.saw("fence: met a commit in progress");
        }
        held && ctx.mutant != Mutant::HastyFence && !ctx.fault("fence: waited too long", 50)
    }

    pub(crate) fn fence(&mut self, over: Assignment, ctx: &mut Ctx) {
        let slot = self.partition(over.partition);
        slot.room = false;
        slot.gate.fence(over.generation);
        if slot.account.generation == over.generation {
            slot.account = Account::default();
        }
        slot.ledger.link.step(LinkEvent::Fence(over), ctx.now);
        for stage in &mut self.stages {
            stage.step(StageEvent::Fence(over), ctx.now);
        }
        self.dlq.step(LinkEvent::Fence(over), ctx.now);
        self.lanes[Self::lane_of(over.partition)].step(LinkEvent::Fence(over), ctx.now);
    }

    pub(crate) fn set_off(&mut self, batch: Batch, ctx: &Ctx) {
        let Assignment { partition, generation } = batch.ticket.assignment;
        let slot = self.partition(partition);
        if slot.account.generation == generation {
            slot.account.unsettled += 1;
            slot.ledger.link.step(LinkEvent::Push(batch), ctx.now);
        }
    }

    /// A batch goes on: to this stage, or past the last one to the dlq, or past that to its lane.
    pub(crate) fn enter(&mut self, stage: usize, batch: Batch) {
        self.between.push((stage, batch));
    }

    /// A batch that was on its way arrives, perhaps after its fence.
    pub(crate) fn arrive(&mut self, ctx: &mut Ctx) {
        if self.between.is_empty() {
            return;
        }
        let (stage, batch) = self.between.swap_remove(ctx.rng.below(self.between.len()));
        match (self.stages.get_mut(stage), stage == STAGES) {
            (Some(link), _) => drop(link.step(StageEvent::Push(batch), ctx.now)),
            (None, true) => drop(self.dlq.step(LinkEvent::Push(batch), ctx.now)),
            (None, false) => {
                let lane = Self::lane_of(batch.ticket.assignment.partition);
                self.lanes[lane].step(LinkEvent::Push(batch), ctx.now);
            }
        }
    }

    pub(crate) fn settle(&mut self, assignment: Assignment, seq: BatchSeq, end: Position) {
        let slot = self.partition(assignment.partition);
        if slot.account.generation != assignment.generation {
            return;
        }
        slot.account.unsettled = slot.account.unsettled.saturating_sub(1);
        slot.account.next = BatchSeq(seq.0 + 1);
        if slot.inbox.generation == assignment.generation {
            slot.inbox.settled.push_back((seq, end));
        }
        slot.ledger.settled(assignment.generation, seq);
    }

    pub(crate) fn unsettled_of(&mut self, lane: usize) -> usize {
        self.partitions_of(lane).map(|slot| slot.account.unsettled).sum()
    }

    /// Whether nothing travels.
    pub(crate) fn is_idle(&self) -> bool {
        let links = self.lanes.iter().chain([&self.dlq]).chain(self.partitions.iter().map(|slot| &slot.ledger.link));
        let mut links = links.map(|link| link.depth() + link.lent());
        self.between.is_empty()
            && links.all(|held| held == 0)
            && self.stages.iter().all(|stage| stage.depth() + stage.lent() == 0)
    }
}
