//! The lane machine: puts finished batches back in order and commits one transaction for all that is ready.
//! Never settles what it has not seen committed, and never publishes again what was.

mod stream;

pub use stream::{Held, Stream};

use crate::batch::Batch;
use crate::ids::{Assignment, BatchSeq, LoanId, Partition, Position, Ticket};
use crate::machine::Machine;
use crate::time::Now;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// When a lane commits and how long it waits after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    /// A transaction is committed after this long even where more is on its way.
    pub commit_interval: Duration,
    /// A transaction is committed at this many source records.
    pub commit_records_max: usize,
    /// The wait after the first void transaction; doubles up to `backoff_max`.
    pub backoff_initial: Duration,
    /// The longest wait.
    pub backoff_max: Duration,
}

/// What happens to a lane.
#[derive(Debug)]
pub enum LaneEvent {
    /// A finished batch arrives; `expected` is its partition's first unsettled batch.
    Arrived {
        /// The loan it is held by.
        loan: LoanId,
        /// The batch.
        batch: Arc<Batch>,
        /// For a stream that the lane does not know yet.
        expected: BatchSeq,
    },
    /// The assignment is over.
    Fenced(Assignment),
    /// Time passed, or something was asked of the log and answered; `elsewhere`: unsettled batches that are not here yet.
    Tick {
        /// How many.
        elsewhere: usize,
    },
    /// What was asked for is done.
    Done,
    /// The committed positions that were asked for.
    Positions(Vec<(Partition, Option<Position>)>),
    /// What was asked for failed.
    Failed(LaneFault),
}

/// What an operation of a lane fails with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaneFault {
    /// Nothing of the transaction will be seen.
    Void(String),
    /// The log refuses a record of this batch for good.
    Refused {
        /// The batch.
        ticket: Ticket,
        /// The index of the source record that it came from.
        index: u32,
        /// Why.
        reason: String,
    },
    /// These assignments ended before the commit; nothing was committed.
    Fenced(Vec<Assignment>),
    /// Whether the transaction ended cannot be told, or the producer is dead.
    Unknown(String),
    /// The log refuses this producer for good.
    Fatal(String),
}

/// What a lane wants done. Each vector holds at most one operation (`Rebuild` … `Abort`), as its last element; the
/// shell answers it with `Done`, `Positions` or `Failed`.
#[derive(Clone, Debug)]
pub enum LaneEffect {
    /// These batches are committed.
    Settle(Vec<Held>),
    /// These batches were found committed by an earlier transaction: what the ledger wrote for them must be read.
    FoundCommitted(Vec<Held>),
    /// The source record of this index cannot be published: make it a dead letter in this batch.
    Refuse {
        /// The batch, changed in place.
        ticket: Ticket,
        /// The index of the source record.
        index: u32,
        /// Why.
        reason: String,
    },
    /// A sentinel: the committed position lies within a batch that is not settled.
    PositionMismatch(Ticket, Position),
    /// Call `Tick` at this time.
    WakeAt(Now),
    /// Give up: the supervisor decides.
    Fail(String),
    /// Make the producer ready, settle what its earlier self left open.
    Rebuild,
    /// Read the committed positions.
    ReadPositions(Vec<Partition>),
    /// Open a transaction.
    Begin,
    /// Produce what these batches became.
    Publish(Vec<Arc<Batch>>),
    /// Commit the transaction with these positions.
    Commit(Vec<(Assignment, Position)>),
    /// Give the transaction up.
    Abort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The producer must be (re)built before anything else.
    Down,
    Rebuilding,
    Reading,
    Idle,
    Beginning,
    Open,
    Publishing,
    Committing,
    /// The transaction must be given up.
    Doomed,
    Aborting,
    /// After a failure; what comes next: a rebuild or a new transaction.
    Waiting {
        until: Now,
        rebuild: bool,
    },
}

/// See the module.
#[derive(Debug)]
pub struct LaneMachine {
    limits: LaneLimits,
    streams: BTreeMap<Partition, Stream>,
    phase: Phase,
    since: Now,
    records: usize,
    failures: u32,
}

impl LaneMachine {
    /// A lane that has not spoken to the log yet.
    #[must_use]
    pub const fn new(limits: LaneLimits) -> Self {
        Self { limits, streams: BTreeMap::new(), phase: Phase::Down, since: Now(0), records: 0, failures: 0 }
    }

    /// Batches that the lane holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.streams.values().map(Stream::len).sum()
    }

    /// The batches of a partition in the open transaction, in order.
    #[must_use]
    pub fn published(&self, partition: Partition) -> &[Held] {
        self.streams.get(&partition).map_or(&[], |stream| stream.published())
    }

    /// The assignments whose batches the lane holds.
    pub fn assignments(&self) -> impl Iterator<Item = Assignment> {
        self.streams.iter().map(|(p, stream)| Assignment { partition: *p, generation: stream.generation() })
    }

    /// Changes a batch that waits to be published again.
    pub fn amend(&mut self, ticket: Ticket, amend: impl FnOnce(&mut Batch)) {
        let Assignment { partition, generation } = ticket.assignment;
        if let Some(stream) = self.streams.get_mut(&partition).filter(|stream| stream.generation() == generation) {
            stream.amend(ticket.seq, amend);
        }
    }

    fn arrived(&mut self, loan: LoanId, batch: Arc<Batch>, expected: BatchSeq) {
        let Assignment { partition, generation } = batch.ticket.assignment;
        if self.streams.get(&partition).is_some_and(|stream| stream.generation() < generation) {
            self.fence(batch.ticket.assignment.partition);
        }
        let stream = self.streams.entry(partition).or_insert_with(|| Stream::new(generation, expected));
        if stream.generation() == generation {
            stream.hold(Held { loan, batch });
        }
    }

    /// Drops a partition's batches; a transaction that holds some of them is doomed.
    fn fence(&mut self, partition: Partition) {
        let Some(stream) = self.streams.remove(&partition) else { return };
        if !stream.published().is_empty() && matches!(self.phase, Phase::Open) {
            self.phase = Phase::Doomed;
        }
    }

    fn fence_assignment(&mut self, over: Assignment) {
        if self.streams.get(&over.partition).is_some_and(|stream| stream.generation() == over.generation) {
            self.fence(over.partition);
        }
    }

    /// What the state asks for next. `elsewhere` is `None` where it is not known: then nothing is committed for it.
    fn advance(&mut self, elsewhere: Option<usize>, now: Now) -> Vec<LaneEffect> {
        match self.phase {
            Phase::Waiting { until, .. } if now < until => vec![LaneEffect::WakeAt(until)],
            Phase::Waiting { rebuild, .. } => {
                self.phase = if rebuild { Phase::Down } else { Phase::Idle };
                self.advance(elsewhere, now)
            }
            // Only on a tick: what a dead incarnation held must all have arrived before positions are read.
            Phase::Down if elsewhere.is_some() => self.ask(Phase::Rebuilding, LaneEffect::Rebuild),
            Phase::Doomed => self.ask(Phase::Aborting, LaneEffect::Abort),
            Phase::Idle if self.streams.values().any(Stream::is_ready) => {
                self.since = now;
                self.records = 0;
                self.ask(Phase::Beginning, LaneEffect::Begin)
            }
            Phase::Open => self.fill_or_commit(elsewhere, now),
            _ => Vec::new(),
        }
    }

    fn ask(&mut self, phase: Phase, operation: LaneEffect) -> Vec<LaneEffect> {
        self.phase = phase;
        vec![operation]
    }

    fn fill_or_commit(&mut self, elsewhere: Option<usize>, now: Now) -> Vec<LaneEffect> {
        let mut ready = Vec::new();
        for stream in self.streams.values_mut() {
            while self.records < self.limits.commit_records_max
                && let Some(batch) = stream.publish()
            {
                self.records += batch.records.len();
                ready.push(batch);
            }
        }
        if !ready.is_empty() {
            return self.ask(Phase::Publishing, LaneEffect::Publish(ready));
        }
        let due = self.since + self.limits.commit_interval;
        if elsewhere == Some(0) || now >= due || self.records >= self.limits.commit_records_max {
            let ends = self.streams.iter().filter_map(|(partition, stream)| {
                let assignment = Assignment { partition: *partition, generation: stream.generation() };
                Some((assignment, stream.end()?))
            });
            let ends: Vec<_> = ends.collect();
            return self.ask(Phase::Committing, LaneEffect::Commit(ends));
        }
        vec![LaneEffect::WakeAt(due)]
    }

    fn done(&mut self, now: Now) -> Vec<LaneEffect> {
        match self.phase {
            Phase::Rebuilding => {
                let partitions: Vec<Partition> = self.streams.keys().copied().collect();
                if partitions.is_empty() {
                    self.phase = Phase::Idle;
                    return Vec::new();
                }
                self.ask(Phase::Reading, LaneEffect::ReadPositions(partitions))
            }
            Phase::Beginning => {
                self.phase = Phase::Open;
                self.advance(None, now)
            }
            Phase::Publishing => {
                self.phase = Phase::Open;
                self.check_published();
                self.advance(None, now)
            }
            Phase::Committing => {
                self.failures = 0;
                self.phase = Phase::Idle;
                let settled: Vec<Held> = self.streams.values_mut().flat_map(Stream::committed).collect();
                let mut effects = vec![LaneEffect::Settle(settled)];
                effects.extend(self.advance(None, now));
                effects
            }
            Phase::Aborting => {
                self.replay();
                self.back_off(false, now);
                self.advance(None, now)
            }
            _ => Vec::new(),
        }
    }

    /// A batch that was fenced while it was being produced is in the transaction, but in no stream any more.
    fn check_published(&mut self) {
        let held: usize = self.streams.values().flat_map(Stream::published).map(|held| held.batch.records.len()).sum();
        if held != self.records {
            self.phase = Phase::Doomed;
        }
    }

    fn replay(&mut self) {
        self.streams.values_mut().for_each(Stream::replay);
    }

    fn back_off(&mut self, rebuild: bool, now: Now) {
        let doubled = self.limits.backoff_initial.saturating_mul(1 << self.failures.min(16));
        let wait = if self.failures == 0 { Duration::ZERO } else { doubled.min(self.limits.backoff_max) };
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::Waiting { until: now + wait, rebuild };
    }

    fn positions(&mut self, positions: &[(Partition, Option<Position>)], now: Now) -> Vec<LaneEffect> {
        let mut effects = Vec::new();
        for (partition, position) in positions {
            let (Some(stream), Some(position)) = (self.streams.get_mut(partition), position) else { continue };
            let settled = stream.settled_below(*position);
            if !settled.is_empty() {
                effects.push(LaneEffect::FoundCommitted(settled));
            }
            if let Some(ticket) = stream.straddled(*position) {
                effects.push(LaneEffect::PositionMismatch(ticket, *position));
            }
        }
        self.phase = Phase::Idle;
        effects.extend(self.advance(None, now));
        effects
    }

    fn failed(&mut self, fault: LaneFault, now: Now) -> Vec<LaneEffect> {
        let was = self.phase;
        match fault {
            LaneFault::Fatal(reason) => {
                self.phase = Phase::Down;
                vec![LaneEffect::Fail(reason)]
            }
            LaneFault::Fenced(over) => {
                self.phase = Phase::Doomed;
                over.into_iter().for_each(|assignment| self.fence_assignment(assignment));
                self.advance(None, now)
            }
            LaneFault::Refused { ticket, index, reason } => {
                self.replay();
                let mut effects = vec![LaneEffect::Refuse { ticket, index, reason }];
                effects.extend(self.ask(Phase::Aborting, LaneEffect::Abort));
                effects
            }
            LaneFault::Void(_) if matches!(was, Phase::Publishing | Phase::Committing) => {
                self.ask(Phase::Aborting, LaneEffect::Abort)
            }
            LaneFault::Void(_) | LaneFault::Unknown(_) => {
                self.replay();
                self.back_off(true, now);
                self.advance(None, now)
            }
        }
    }
}

impl Machine for LaneMachine {
    type Event = LaneEvent;
    type Effect = LaneEffect;

    fn step(&mut self, event: LaneEvent, now: Now) -> Vec<LaneEffect> {
        match event {
            LaneEvent::Arrived { loan, batch, expected } => {
                self.arrived(loan, batch, expected);
                self.advance(None, now)
            }
            LaneEvent::Fenced(over) => {
                self.fence_assignment(over);
                self.advance(None, now)
            }
            LaneEvent::Tick { elsewhere } => self.advance(Some(elsewhere), now),
            LaneEvent::Done => self.done(now),
            LaneEvent::Positions(positions) => self.positions(&positions, now),
            LaneEvent::Failed(fault) => self.failed(fault, now),
        }
    }
}
