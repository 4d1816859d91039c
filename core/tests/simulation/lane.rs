//! A lane's actor: drives the lane machine, one effect a turn, and a commit in several. Never decides what to replay.

mod commit;

use crate::broker::{Item, Producer};
use crate::ctx::{Ctx, Mutant};
use crate::sends::Session;
use crate::slots::{LANES, Slots, letter_spec};
use crate::source_log::{Fate, Id, id_of, id_of_letter};
use bulkhead_core::audit::Delivery;
use bulkhead_core::batch::{Batch, Outcome, Rejection};
use bulkhead_core::fault::Fault;
use bulkhead_core::ids::{Assignment, BatchSeq, Partition, Ticket};
use bulkhead_core::lane::{Held, LaneEffect, LaneEvent, LaneFault, LaneLimits, LaneMachine};
use bulkhead_core::letter::{TRUNCATED_HEADER, cut, letter};
use bulkhead_core::link::{Borrower, Lent, LinkEffect, LinkEvent};
use bulkhead_core::machine::Machine;
use bulkhead_core::time::WallMs;
use commit::{Commit, Step};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

const LANE: Borrower = Borrower(0);
const LIMITS: LaneLimits = LaneLimits {
    commit_interval: Duration::from_millis(40),
    commit_records_max: 20,
    backoff_initial: Duration::from_millis(4),
    backoff_max: Duration::from_millis(30),
};

pub(crate) struct Lane {
    number: usize,
    producer: Producer,
    epoch: u32,
    machine: LaneMachine,
    pending: VecDeque<LaneEffect>,
    commit: Option<Commit>,
    /// Which source record each produced record came from.
    produced: Vec<(Ticket, u32)>,
    /// One of them is refused, and it is told with the commit.
    refused: Option<usize>,
    pub(crate) failed: bool,
    incarnation: u32,
    /// Abandoned: another incarnation has its place.
    replaced: bool,
}

impl Lane {
    /// A new incarnation: what its last self committed and did not settle is in the ledger's topic only.
    pub(crate) fn new(number: usize, incarnation: u32, slots: &mut Slots) -> Self {
        slots.partitions_of(number).for_each(|slot| slot.ledger.resync());
        Self {
            number,
            producer: (slots.daemon, number),
            epoch: 0,
            machine: LaneMachine::new(LIMITS),
            pending: VecDeque::new(),
            commit: None,
            produced: Vec::new(),
            refused: None,
            failed: false,
            incarnation,
            replaced: false,
        }
    }

    pub(crate) fn describe(&self) -> String {
        format!("{:?} then {} effects, committing {}", self.machine, self.pending.len(), self.commit.is_some())
    }

    pub(crate) fn kill(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        ctx.saw(match self.commit.as_ref().map(|commit| &commit.step) {
            None => "lane: killed",
            Some(Step::Heads) => "lane: killed before its gates",
            Some(Step::Drain) => "lane: killed behind its gates",
            Some(Step::Positions(_)) => "lane: killed before its positions",
            Some(Step::End) => "lane: killed before its end",
            Some(Step::Record) => "lane: killed before its segments",
            Some(Step::Recorded) => "lane: killed before its segments were acknowledged",
            Some(Step::Close) => "lane: killed between its segments and its positions",
        });
        if let Some(commit) = self.commit.take().filter(Commit::is_past_gates) {
            self.leave_gates(&commit.ends, slots);
        }
        ctx.broker.retire(self.session(), &mut ctx.rng);
        slots.lanes[self.number].step(LinkEvent::Down(LANE), ctx.now);
        *self = Self::new(self.number, self.incarnation + 1, slots);
    }

    /// It is killed while its log does not answer: the thread is abandoned, and goes on as a ghost until it does.
    pub(crate) fn abandon(&mut self, slots: &mut Slots, ctx: &mut Ctx) -> Option<Self> {
        self.commit.as_ref().filter(|commit| commit.is_past_gates())?;
        ctx.saw("lane: abandoned in a commit");
        slots.lanes[self.number].step(LinkEvent::Down(LANE), ctx.now);
        let next = Self::new(self.number, self.incarnation + 1, slots);
        Some(Self { replaced: true, ..std::mem::replace(self, next) })
    }

    /// A ghost's next move; false once it has ended.
    pub(crate) fn haunt(&mut self, slots: &mut Slots, ctx: &mut Ctx) -> bool {
        let Some(commit) = self.commit.take() else { return false };
        match self.go_on(commit, slots, ctx) {
            Ok(commit) => self.commit = commit,
            Err(_) => ctx.saw("lane: a ghost's commit failed"),
        }
        if self.commit.is_none() {
            ctx.broker.retire(self.session(), &mut ctx.rng);
        }
        self.commit.is_some()
    }

    pub(crate) fn turn(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        if let Some(commit) = self.commit.take() {
            match self.go_on(commit, slots, ctx) {
                Ok(commit) => self.commit = commit,
                Err(fault) => {
                    saw_fault(&fault, ctx);
                    self.answer(LaneEvent::Failed(fault), ctx);
                }
            }
        } else if let Some(effect) = self.pending.pop_front() {
            if let Some(event) = self.perform(effect, slots, ctx) {
                self.answer(event, ctx);
            }
        } else {
            self.look_around(slots, ctx);
        }
    }

    pub(crate) fn is_committing(&self) -> bool {
        self.commit.as_ref().is_some_and(Commit::is_past_gates)
    }

    const fn session(&self) -> Session {
        (self.producer, self.epoch)
    }

    fn answer(&mut self, event: LaneEvent, ctx: &Ctx) {
        self.pending.extend(self.machine.step(event, ctx.now));
    }

    /// Fences first, then batches, then time.
    fn look_around(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        let open: Vec<_> = slots.partitions.iter().map(|slot| slot.gate.open).collect();
        let is_over = |over: &Assignment| open[over.partition.0 as usize] != Some(over.generation);
        let over = self.machine.assignments().find(is_over);
        if let Some(over) = over {
            ctx.saw("lane: told of a fence");
            return self.answer(LaneEvent::Fenced(over), ctx);
        }
        let Some(LinkEffect::Lend(lent)) = slots.lanes[self.number].step(LinkEvent::Ask(LANE), ctx.now).pop() else {
            let elsewhere = slots.unsettled_of(self.number).saturating_sub(self.machine.held());
            return self.answer(LaneEvent::Tick { elsewhere }, ctx);
        };
        let Lent { loan, item: batch, attempt, .. } = lent;
        let assignment = batch.ticket.assignment;
        let account = slots.partition(assignment.partition).account;
        if account.generation != assignment.generation {
            ctx.saw("lane: a batch slipped past its fence");
            slots.lanes[self.number].step(LinkEvent::Settle(loan), ctx.now);
            return;
        }
        if attempt > 1 {
            ctx.saw("lane: lent again");
        }
        let forgets = ctx.mutant == Mutant::ForgottenOrder;
        let expected = if forgets { BatchSeq(batch.ticket.seq.0) } else { account.next };
        self.answer(LaneEvent::Arrived { loan, batch, expected }, ctx);
    }

    fn perform(&mut self, effect: LaneEffect, slots: &mut Slots, ctx: &mut Ctx) -> Option<LaneEvent> {
        ctx.saw(name(&effect));
        let done = match effect {
            LaneEffect::Settle(held) => {
                if ctx.mutant != Mutant::EarlySettle {
                    self.settle(&held, slots, ctx);
                }
                return None;
            }
            LaneEffect::FoundCommitted(held) => {
                for Held { batch, .. } in &held {
                    slots.partition(batch.ticket.assignment.partition).ledger.resync();
                }
                self.settle(&held, slots, ctx);
                return None;
            }
            LaneEffect::Refuse { ticket, index, reason } => {
                let (wall, mutant, mut fits) = (ctx.wall(slots.daemon), ctx.mutant, true);
                self.machine.amend(ticket, |batch| fits = refuse(batch, index, reason, wall, mutant));
                if !fits {
                    ctx.saw("lane: gave up over a letter");
                    self.failed = true;
                }
                return None;
            }
            LaneEffect::PositionMismatch(ticket, position) => {
                // A zombie that does not know it yet reads what the next owner committed.
                if ctx.broker.group.is_owner(slots.daemon, ticket.assignment.partition) {
                    ctx.broke(format!("{ticket}: the committed position {position} lies within it"));
                }
                return None;
            }
            LaneEffect::WakeAt(_) => return None,
            LaneEffect::Fail(_) => {
                self.failed = true;
                return None;
            }
            LaneEffect::Commit(ends) => {
                if ctx.mutant == Mutant::EarlySettle {
                    let all = ends.iter().flat_map(|(assignment, _)| self.machine.published(assignment.partition));
                    let all: Vec<Held> = all.cloned().collect();
                    self.settle(&all, slots, ctx);
                }
                self.commit = Some(Commit::of(ends));
                return None;
            }
            LaneEffect::ReadPositions(partitions) => return Some(self.read_positions(&partitions, ctx)),
            LaneEffect::Rebuild => self.rebuild(ctx),
            LaneEffect::Begin => self.begin(ctx),
            LaneEffect::Publish(batches) => self.publish(&batches, ctx),
            LaneEffect::Abort if ctx.fault("abort: unknown", 50) => Err(LaneFault::Unknown("abort".into())),
            LaneEffect::Abort => ctx.broker.abort(self.session()),
        };
        Some(match done {
            Ok(()) => LaneEvent::Done,
            Err(fault) => {
                saw_fault(&fault, ctx);
                LaneEvent::Failed(fault)
            }
        })
    }

    fn rebuild(&mut self, ctx: &mut Ctx) -> Result<(), LaneFault> {
        if ctx.fault("rebuild: fatal", 10) {
            return Err(LaneFault::Fatal("not authorised".into()));
        }
        if ctx.fault("rebuild: unknown", 50) {
            return Err(LaneFault::Unknown("init".into()));
        }
        ctx.broker.retire(self.session(), &mut ctx.rng);
        if ctx.mutant == Mutant::UnfencedSuccessor {
            // An id of its own.
            self.producer.1 = self.number + LANES * self.incarnation as usize;
        }
        self.epoch = ctx.broker.init(self.producer);
        Ok(())
    }

    fn begin(&mut self, ctx: &mut Ctx) -> Result<(), LaneFault> {
        self.produced.clear();
        self.refused = None;
        if ctx.fault("begin: unknown", 20) {
            return Err(LaneFault::Unknown("begin".into()));
        }
        ctx.broker.begin(self.session(), ctx.now)
    }

    fn read_positions(&self, partitions: &[Partition], ctx: &mut Ctx) -> LaneEvent {
        if ctx.fault("positions: void", 30) {
            return LaneEvent::Failed(LaneFault::Void("positions".into()));
        }
        if ctx.mutant == Mutant::BlindReplay {
            return LaneEvent::Positions(partitions.iter().map(|partition| (*partition, None)).collect());
        }
        let read = |partition: &Partition| Ok((*partition, ctx.broker.stable_position(*partition)?));
        match partitions.iter().map(read).collect::<Result<_, ()>>() {
            Ok(positions) => LaneEvent::Positions(positions),
            Err(()) => LaneEvent::Failed(LaneFault::Unknown("positions are not stable".into())),
        }
    }

    fn publish(&mut self, batches: &[Arc<Batch>], ctx: &mut Ctx) -> Result<(), LaneFault> {
        if ctx.fault("publish: void", 20) {
            return Err(LaneFault::Void("message timed out".into()));
        }
        for batch in batches {
            let mut letters = batch.letters.iter().peekable();
            for (index, outcome) in (0u32..).zip(&batch.outcomes) {
                if let Some((_, record)) = letters.next_if(|(of, _)| *of == index) {
                    self.produced.push((batch.ticket, index));
                    let code = record.header("__bulkhead.errors.code").map_or(&[][..], |code| &code[..]);
                    let code = String::from_utf8_lossy(code).into_owned();
                    let id = id_of_letter(record);
                    let refuses = match ctx.broker.source.fate(id) {
                        Fate::Bulky => record.header(TRUNCATED_HEADER).is_none(),
                        Fate::Unwanted => ctx.hurt,
                        _ => false,
                    };
                    self.send(Item::Letter(id, code), refuses, ctx)?;
                }
                let records = match outcome {
                    Outcome::Emitted(records) => &records[..],
                    Outcome::Pending => std::slice::from_ref(&batch.records[index as usize].record),
                    _ => continue,
                };
                for record in records {
                    self.produced.push((batch.ticket, index));
                    self.emit(id_of(record), ctx)?;
                }
            }
        }
        Ok(())
    }

    fn emit(&mut self, id: Id, ctx: &mut Ctx) -> Result<(), LaneFault> {
        let refuses = ctx.broker.source.fate(id).is_refused();
        self.send(Item::Output(id), refuses, ctx)
    }

    /// Sends the record that was noted last. A refusal is told at once or with the commit.
    fn send(&mut self, item: Item, refuses: bool, ctx: &mut Ctx) -> Result<(), LaneFault> {
        if refuses {
            let index = self.produced.len() - 1;
            if ctx.rng.per_mille(500) {
                return Err(self.refusal(index));
            }
            self.refused.get_or_insert(index);
        }
        if self.refused.is_some() && ctx.delivery == Delivery::AtLeastOnce {
            // It never arrives, nor does what is behind it.
            return Ok(());
        }
        ctx.broker.produce(self.session(), item)
    }

    fn refusal(&self, index: usize) -> LaneFault {
        let (ticket, index) = self.produced[index];
        LaneFault::Refused { ticket, index, reason: "too large".into() }
    }

    fn settle(&self, held: &[Held], slots: &mut Slots, ctx: &Ctx) {
        for Held { loan, batch } in held {
            slots.lanes[self.number].step(LinkEvent::Settle(*loan), ctx.now);
            slots.settle(batch.ticket.assignment, batch.ticket.seq, batch.end());
        }
    }
}

/// A result that is refused becomes a dead letter, a letter that is refused is cut. False where nothing of it can go.
fn refuse(batch: &mut Batch, index: u32, reason: String, wall: WallMs, mutant: Mutant) -> bool {
    if let Some((_, letter)) = batch.letters.iter_mut().find(|(of, _)| *of == index) {
        let fits = cut(letter);
        if !fits && mutant == Mutant::DroppedLetter {
            batch.letters.retain(|(of, _)| *of != index);
            return true;
        }
        return fits;
    }
    let fault = Fault::poison("refused_by_log", reason);
    let why = Rejection { stage: "lane".into(), step: None, fault, attempts: 1, incarnation: 1 };
    let source = &batch.records[index as usize];
    let made = letter(&letter_spec(), batch.ticket.assignment.partition, source, &why, wall);
    let at = batch.letters.partition_point(|(of, _)| *of < index);
    batch.letters.insert(at, (index, made));
    batch.outcomes[index as usize] = Outcome::Rejected(Box::new(why));
    true
}

fn saw_fault(fault: &LaneFault, ctx: &mut Ctx) {
    ctx.saw(match fault {
        LaneFault::Void(_) => "lane: void",
        LaneFault::Refused { .. } => "lane: refused",
        LaneFault::Fenced(_) => "lane: fenced at the gate",
        LaneFault::Unknown(_) => "lane: unknown",
        LaneFault::Fatal(_) => "lane: fatal",
    });
}

fn name(effect: &LaneEffect) -> &'static str {
    match effect {
        LaneEffect::Settle(_) => "lane: settle",
        LaneEffect::FoundCommitted(_) => "lane: found committed",
        LaneEffect::Refuse { .. } => "lane: refuse",
        LaneEffect::PositionMismatch(..) => "lane: position mismatch",
        LaneEffect::WakeAt(_) => "lane: wake later",
        LaneEffect::Fail(_) => "lane: fail",
        LaneEffect::Rebuild => "lane: rebuild",
        LaneEffect::ReadPositions(_) => "lane: read positions",
        LaneEffect::Begin => "lane: begin",
        LaneEffect::Publish(_) => "lane: publish",
        LaneEffect::Commit(_) => "lane: commit",
        LaneEffect::Abort => "lane: abort",
    }
}
