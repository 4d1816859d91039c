//! A lane's actor: drives the lane machine, one effect a turn, and a commit in several, so that it can be fenced or die
//! between any two. Never decides what to replay.

use crate::broker::{Ending, Producer};
use crate::ctx::{Ctx, Mutant};
use crate::group::Metadata;
use crate::slots::{Slots, letter_spec};
use crate::source_log::{Fate, Id, id_of};
use bulkhead_core::batch::{Batch, Outcome, Rejection};
use bulkhead_core::fault::Fault;
use bulkhead_core::ids::{Assignment, BatchSeq, Partition, Position, Ticket};
use bulkhead_core::lane::{Held, LaneEffect, LaneEvent, LaneFault, LaneLimits, LaneMachine};
use bulkhead_core::ledger::{SEGMENT_BYTES_MAX, Segment};
use bulkhead_core::letter::letter;
use bulkhead_core::link::{Borrower, Lent, LinkEffect, LinkEvent};
use bulkhead_core::machine::Machine;
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

/// How far a commit has come.
enum Commit {
    /// Waits for the shards to say where the next segments go.
    Heads(Vec<(Assignment, Position)>),
    /// Past the gates: takes the membership as it is.
    Passed(Vec<(Assignment, Position)>, Segments),
    /// Sends the positions under it.
    Positions(Vec<(Assignment, Position)>, Segments, Option<Metadata>),
    /// Asks for the end.
    End(Vec<(Assignment, Position)>, Segments),
}

type Segments = Vec<(Assignment, Vec<Segment>)>;

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
}

impl Lane {
    /// A new incarnation: what its last self committed and did not settle is in the ledger's topic only.
    pub(crate) fn new(number: usize, slots: &mut Slots) -> Self {
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
        }
    }

    pub(crate) fn describe(&self) -> String {
        format!("{:?} then {} effects, committing {}", self.machine, self.pending.len(), self.commit.is_some())
    }

    pub(crate) fn kill(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        ctx.saw(match &self.commit {
            None => "lane: killed",
            Some(Commit::Heads(_)) => "lane: killed before its gates",
            Some(Commit::Passed(..)) => "lane: killed behind its gates",
            Some(Commit::Positions(..)) => "lane: killed before its positions",
            Some(Commit::End(..)) => "lane: killed before its end",
        });
        if let Some(Commit::Passed(ends, _) | Commit::Positions(ends, ..) | Commit::End(ends, _)) = self.commit.take() {
            leave_gates(&ends, slots);
        }
        slots.lanes[self.number].step(LinkEvent::Down(LANE), ctx.now);
        *self = Self::new(self.number, slots);
    }

    /// It is killed while its log does not answer: the thread is abandoned, and goes on as a ghost until it does.
    pub(crate) fn abandon(&mut self, slots: &mut Slots, ctx: &mut Ctx) -> Option<Self> {
        if matches!(self.commit, None | Some(Commit::Heads(_))) {
            return None;
        }
        ctx.saw("lane: abandoned in a commit");
        slots.lanes[self.number].step(LinkEvent::Down(LANE), ctx.now);
        Some(std::mem::replace(self, Self::new(self.number, slots)))
    }

    /// A ghost's next move; false once it has ended.
    pub(crate) fn haunt(&mut self, slots: &mut Slots, ctx: &mut Ctx) -> bool {
        let Some(commit) = self.commit.take() else { return false };
        match self.go_on(commit, slots, ctx) {
            Ok(commit) => self.commit = commit,
            Err(_) => ctx.saw("lane: a ghost's commit failed"),
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
                let wall = ctx.wall();
                self.machine.amend(ticket, |batch| {
                    let fault = Fault::poison("refused_by_log", reason);
                    let why = Rejection { stage: "lane".into(), step: None, fault, attempts: 1, incarnation: 1 };
                    let source = &batch.records[index as usize];
                    let made = letter(&letter_spec(), ticket.assignment.partition, source, &why, wall);
                    let at = batch.letters.partition_point(|(of, _)| *of < index);
                    batch.letters.insert(at, (index, made));
                    batch.outcomes[index as usize] = Outcome::Rejected(Box::new(why));
                });
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
                self.commit = Some(Commit::Heads(ends));
                return None;
            }
            LaneEffect::ReadPositions(partitions) => return Some(self.read_positions(&partitions, ctx)),
            LaneEffect::Rebuild => self.rebuild(ctx),
            LaneEffect::Begin => self.begin(ctx),
            LaneEffect::Publish(batches) => self.publish(&batches, ctx),
            LaneEffect::Abort if ctx.fault("abort: unknown", 50) => Err(LaneFault::Unknown("abort".into())),
            LaneEffect::Abort => ctx.broker.abort(self.producer, self.epoch),
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
        self.epoch = ctx.broker.init(self.producer);
        Ok(())
    }

    fn begin(&mut self, ctx: &mut Ctx) -> Result<(), LaneFault> {
        self.produced.clear();
        self.refused = None;
        if ctx.fault("begin: unknown", 20) {
            return Err(LaneFault::Unknown("begin".into()));
        }
        ctx.broker.begin(self.producer, self.epoch, ctx.now)
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
                    ctx.broker.letter(self.producer, self.epoch, id_of(record), code)?;
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
        if ctx.broker.source.fate(id) == Fate::Refused {
            let index = self.produced.len() - 1;
            if ctx.rng.per_mille(500) {
                return Err(self.refusal(index));
            }
            self.refused.get_or_insert(index);
        }
        ctx.broker.output(self.producer, self.epoch, id)
    }

    fn refusal(&self, index: usize) -> LaneFault {
        let (ticket, index) = self.produced[index];
        LaneFault::Refused { ticket, index, reason: "too large".into() }
    }

    /// The next part of a commit. The heads come first: while a lane waits for them it holds up no fence.
    fn go_on(&mut self, commit: Commit, slots: &mut Slots, ctx: &mut Ctx) -> Result<Option<Commit>, LaneFault> {
        match commit {
            Commit::Heads(ends) => self.heads(ends, slots, ctx),
            // Deliveries are drained first, which takes as long as the log likes.
            Commit::Passed(ends, segments) if ctx.fault("commit: drains", 850) => {
                Ok(Some(Commit::Passed(ends, segments)))
            }
            Commit::Passed(ends, segments) => {
                let member = ctx.metadata(slots.daemon);
                // A fence that did not wait closed the gate behind us; a membership newer than that would be accepted.
                let looks = !matches!(ctx.mutant, Mutant::OpenGate | Mutant::HastyFence | Mutant::OneLook);
                if looks
                    && ends.iter().any(|(over, _)| slots.partition(over.partition).gate.open != Some(over.generation))
                {
                    ctx.saw("commit: its gate was closed behind it");
                    leave_gates(&ends, slots);
                    return Err(LaneFault::Void("not ours any more".into()));
                }
                Ok(Some(Commit::Positions(ends, segments, member)))
            }
            Commit::Positions(ends, segments, member) => {
                let sent = self.send(&ends, &segments, member, ctx);
                if sent.is_err() {
                    leave_gates(&ends, slots);
                }
                sent.map(|()| Some(Commit::End(ends, segments)))
            }
            Commit::End(ends, segments) => {
                let ending = draw_ending(ctx);
                let ended = ctx.broker.commit(self.producer, self.epoch, ending);
                if ended.is_ok() {
                    for (assignment, segments) in segments {
                        slots.partition(assignment.partition).ledger.committed(assignment.generation, segments);
                    }
                }
                leave_gates(&ends, slots);
                ended?;
                self.answer(LaneEvent::Done, ctx);
                Ok(None)
            }
        }
    }

    fn heads(
        &mut self,
        ends: Vec<(Assignment, Position)>,
        slots: &mut Slots,
        ctx: &mut Ctx,
    ) -> Result<Option<Commit>, LaneFault> {
        let mut segments = Vec::new();
        for (assignment, _) in &ends {
            let slot = slots.partition(assignment.partition);
            if slot.gate.open != Some(assignment.generation) && ctx.mutant != Mutant::OpenGate {
                return Err(LaneFault::Fenced(vec![*assignment]));
            }
            match slot.ledger.head {
                Some(known) if known.generation == assignment.generation => {
                    let batches: Vec<&Batch> =
                        self.machine.published(assignment.partition).iter().map(|held| &*held.batch).collect();
                    let built = Segment::build(&batches, known.head, ctx.wall(), SEGMENT_BYTES_MAX);
                    segments.push((*assignment, built));
                }
                Some(known) if known.generation > assignment.generation => {
                    return Err(LaneFault::Void("the shard is another's".into()));
                }
                _ if ctx.fault("commit: the shard took too long", 20) => {
                    return Err(LaneFault::Void("the shard is not ready".into()));
                }
                _ => {
                    ctx.saw("commit: waits for a shard");
                    return Ok(Some(Commit::Heads(ends)));
                }
            }
        }
        pass_gates(&ends, slots, ctx)?;
        Ok(Some(Commit::Passed(ends, segments)))
    }

    fn send(
        &mut self,
        ends: &[(Assignment, Position)],
        segments: &Segments,
        member: Option<Metadata>,
        ctx: &mut Ctx,
    ) -> Result<(), LaneFault> {
        for (_, segments) in segments {
            ctx.broker.segments(self.producer, self.epoch, segments)?;
        }
        if let Some(index) = self.refused.take() {
            return Err(self.refusal(index));
        }
        let positions: Vec<_> = ends.iter().map(|(assignment, end)| (assignment.partition, *end)).collect();
        ctx.broker.send_positions(self.producer, self.epoch, member, &positions)
    }

    fn settle(&self, held: &[Held], slots: &mut Slots, ctx: &Ctx) {
        for Held { loan, batch } in held {
            slots.lanes[self.number].step(LinkEvent::Settle(*loan), ctx.now);
            slots.settle(batch.ticket.assignment, batch.ticket.seq, batch.end());
        }
    }
}

/// Passes every partition's gate, or names those that are closed.
fn pass_gates(ends: &[(Assignment, Position)], slots: &mut Slots, ctx: &mut Ctx) -> Result<(), LaneFault> {
    if ctx.mutant == Mutant::OpenGate {
        return Ok(());
    }
    let mut passed = Vec::new();
    let mut closed = Vec::new();
    let mut busy = false;
    for (assignment, end) in ends {
        let gate = &mut slots.partition(assignment.partition).gate;
        if gate.enter(assignment.generation) {
            passed.push((*assignment, *end));
        } else if gate.open == Some(assignment.generation) && ctx.mutant != Mutant::HeldIsClosed {
            busy = true;
        } else {
            closed.push(*assignment);
        }
    }
    if closed.is_empty() && !busy {
        return Ok(());
    }
    leave_gates(&passed, slots);
    if closed.is_empty() {
        // It ends; taking this for a fence would drop batches that are still ours.
        ctx.saw("lane: met a ghost at the gate");
        return Err(LaneFault::Void("a ghost is committing".into()));
    }
    Err(LaneFault::Fenced(closed))
}

fn leave_gates(ends: &[(Assignment, Position)], slots: &mut Slots) {
    for (assignment, _) in ends {
        slots.partition(assignment.partition).gate.committing = false;
    }
}

fn draw_ending(ctx: &mut Ctx) -> Ending {
    let commit = ctx.rng.per_mille(500);
    if ctx.fault("commit: void", 30) {
        Ending::Void
    } else if ctx.fault("commit: unknown", 50) {
        Ending::Unknown { commit }
    } else if ctx.fault("commit: unknown and under way", 40) {
        Ending::Pending { commit }
    } else {
        Ending::Told
    }
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
