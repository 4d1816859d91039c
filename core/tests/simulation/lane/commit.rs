//! A lane's commit, step by step, so that it can be fenced or die between any two: all in one transaction, or, at least
//! once, outputs acknowledged, then segments acknowledged, then positions. Never decides what is in it.

use super::Lane;
use crate::broker::Ending;
use crate::ctx::{Ctx, Mutant};
use crate::group::Metadata;
use crate::slots::Slots;
use bulkhead_core::audit::Delivery;
use bulkhead_core::batch::Batch;
use bulkhead_core::ids::{Assignment, Partition, Position};
use bulkhead_core::lane::{LaneEvent, LaneFault};
use bulkhead_core::ledger::{SEGMENT_BYTES_MAX, Segment};

type Ends = Vec<(Assignment, Position)>;
type Segments = Vec<(Assignment, Vec<Segment>)>;

/// What comes next.
pub(super) enum Step {
    /// The shards say where the next segments go. While a lane waits for them it holds up no fence.
    Heads,
    /// Past the gates: all that was produced is acknowledged.
    Drain,
    /// The positions are sent under the membership as it was taken.
    Positions(Option<Metadata>),
    /// The transaction's end is asked for.
    End,
    /// At least once: the segments are sent.
    Record,
    /// At least once: the segments are acknowledged.
    Recorded,
    /// At least once: the positions are committed.
    Close,
}

/// A commit under way.
pub(super) struct Commit {
    pub(super) step: Step,
    pub(super) ends: Ends,
    segments: Segments,
}

impl Commit {
    pub(super) const fn of(ends: Ends) -> Self {
        Self { step: Step::Heads, ends, segments: Vec::new() }
    }

    /// Whether it holds its gates.
    pub(super) const fn is_past_gates(&self) -> bool {
        !matches!(self.step, Step::Heads)
    }
}

impl Lane {
    /// The next part of a commit; `None` once it is done.
    pub(super) fn go_on(
        &mut self,
        mut commit: Commit,
        slots: &mut Slots,
        ctx: &mut Ctx,
    ) -> Result<Option<Commit>, LaneFault> {
        let next = match commit.step {
            Step::Heads => return self.heads(commit, slots, ctx),
            // Deliveries are drained, which takes as long as the log likes.
            Step::Drain | Step::Recorded if ctx.fault("commit: drains", 850) => return Ok(Some(commit)),
            Step::Drain if ctx.delivery == Delivery::AtLeastOnce => self.acknowledge_outputs(&commit, slots, ctx),
            Step::Drain => self.look(&commit.ends, slots, ctx).map(|member| Some(Step::Positions(member))),
            Step::Positions(member) => self.send_positions(&commit, member, ctx).map(|()| Some(Step::End)),
            Step::End => {
                let ending = draw_ending(ctx);
                let ended = ctx.broker.commit(self.session(), ending);
                self.ended(ended, &mut commit, slots)
            }
            Step::Record => self.record(&commit, ctx).map(|()| Some(Step::Recorded)),
            Step::Recorded => self.acknowledge_segments(&mut commit, slots, ctx),
            Step::Close => {
                let closed = self.close(&commit.ends, slots, ctx);
                self.ended(closed, &mut commit, slots)
            }
        };
        match next {
            Ok(Some(step)) => Ok(Some(Commit { step, ..commit })),
            Ok(None) => {
                self.leave_gates(&commit.ends, slots);
                self.answer(LaneEvent::Done, ctx);
                Ok(None)
            }
            Err(fault) => {
                self.leave_gates(&commit.ends, slots);
                if ctx.delivery == Delivery::AtLeastOnce && !self.replaced {
                    // Its segments may be in the changelog all the same: the next ones go behind them.
                    let over = commit.ends.iter().map(|(assignment, _)| assignment.partition);
                    over.for_each(|partition| slots.partition(partition).ledger.resync());
                }
                Err(fault)
            }
        }
    }

    fn ended(
        &self,
        ended: Result<(), LaneFault>,
        commit: &mut Commit,
        slots: &mut Slots,
    ) -> Result<Option<Step>, LaneFault> {
        ended?;
        for (assignment, segments) in std::mem::take(&mut commit.segments) {
            slots.partition(assignment.partition).ledger.committed(assignment.generation, segments);
        }
        Ok(None)
    }

    fn heads(&mut self, mut commit: Commit, slots: &mut Slots, ctx: &mut Ctx) -> Result<Option<Commit>, LaneFault> {
        let mut segments = Vec::new();
        for (assignment, _) in &commit.ends {
            let slot = slots.partition(assignment.partition);
            if slot.gate.open != Some(assignment.generation) && ctx.mutant != Mutant::OpenGate {
                return Err(LaneFault::Fenced(vec![*assignment]));
            }
            match slot.ledger.head {
                Some(known) if known.generation == assignment.generation => {
                    let batches: Vec<&Batch> =
                        self.machine.published(assignment.partition).iter().map(|held| &*held.batch).collect();
                    let built = Segment::build(&batches, known.head, ctx.wall(slots.daemon), SEGMENT_BYTES_MAX);
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
                    return Ok(Some(commit));
                }
            }
        }
        self.pass_gates(&commit.ends, slots, ctx)?;
        commit.segments = segments;
        Ok(Some(Commit { step: Step::Drain, ..commit }))
    }

    fn send_positions(&mut self, commit: &Commit, member: Option<Metadata>, ctx: &mut Ctx) -> Result<(), LaneFault> {
        self.record(commit, ctx)?;
        if let Some(index) = self.refused.take() {
            return Err(self.refusal(index));
        }
        ctx.broker.send_positions(self.session(), member, &positions(&commit.ends))
    }

    fn record(&self, commit: &Commit, ctx: &mut Ctx) -> Result<(), LaneFault> {
        commit.segments.iter().try_for_each(|(_, segments)| ctx.broker.segments(self.session(), segments))
    }

    fn acknowledge_outputs(
        &mut self,
        commit: &Commit,
        slots: &Slots,
        ctx: &mut Ctx,
    ) -> Result<Option<Step>, LaneFault> {
        if !matches!(ctx.mutant, Mutant::RecordsFirst | Mutant::PositionsFirst) {
            self.acknowledge(ctx)?;
        }
        if let Some(index) = self.refused.take() {
            return Err(self.refusal(index));
        }
        if matches!(ctx.mutant, Mutant::PositionsFirst | Mutant::PositionsBeforeRecords) {
            self.close(&commit.ends, slots, ctx)?;
        }
        Ok(Some(Step::Record))
    }

    fn acknowledge_segments(
        &mut self,
        commit: &mut Commit,
        slots: &mut Slots,
        ctx: &mut Ctx,
    ) -> Result<Option<Step>, LaneFault> {
        self.acknowledge(ctx)?;
        if matches!(ctx.mutant, Mutant::PositionsFirst | Mutant::PositionsBeforeRecords) {
            return self.ended(Ok(()), commit, slots);
        }
        Ok(Some(Step::Close))
    }

    /// Every record on its way arrives, or one does not and what was sent behind it is thrown away.
    fn acknowledge(&self, ctx: &mut Ctx) -> Result<(), LaneFault> {
        if ctx.fault("acknowledge: void", 20) {
            ctx.broker.purge(self.session(), &mut ctx.rng);
            return Err(LaneFault::Void("message timed out".into()));
        }
        ctx.broker.deliver_all(self.session());
        Ok(())
    }

    /// One move: between the look and the call a client cannot leave the group, join it again and be assigned.
    fn close(&self, ends: &Ends, slots: &Slots, ctx: &mut Ctx) -> Result<(), LaneFault> {
        let member = self.look(ends, slots, ctx)?;
        let ending = draw_ending(ctx);
        ctx.broker.commit_positions(self.session(), member, &positions(ends), ending)
    }

    /// Takes the membership, then looks whether all is still ours: a fence that did not wait closed the gate behind us,
    /// and a membership newer than that would be accepted.
    fn look(&self, ends: &Ends, slots: &Slots, ctx: &mut Ctx) -> Result<Option<Metadata>, LaneFault> {
        let looks = !matches!(ctx.mutant, Mutant::OpenGate | Mutant::HastyFence | Mutant::OneLook);
        let is_over =
            |over: &Assignment| slots.partitions[over.partition.0 as usize].gate.open != Some(over.generation);
        if looks && ends.iter().any(|(over, _)| is_over(over)) {
            ctx.saw("commit: its gate was closed behind it");
            return Err(LaneFault::Void("not ours any more".into()));
        }
        if looks && self.replaced && ctx.mutant != Mutant::UnfencedSuccessor {
            ctx.saw("lane: a ghost saw that it was replaced");
            return Err(LaneFault::Void("replaced".into()));
        }
        Ok(ctx.metadata(slots.daemon))
    }

    /// Passes every partition's gate, or names those that are closed.
    fn pass_gates(&self, ends: &Ends, slots: &mut Slots, ctx: &mut Ctx) -> Result<(), LaneFault> {
        if ctx.mutant == Mutant::OpenGate {
            return Ok(());
        }
        let mut passed = Vec::new();
        let mut closed = Vec::new();
        for (assignment, end) in ends {
            let gate = &mut slots.partition(assignment.partition).gate;
            if gate.committing.is_some() {
                ctx.saw("lane: took the gate from a ghost");
            }
            if gate.enter(assignment.generation, self.incarnation) {
                passed.push((*assignment, *end));
            } else {
                closed.push(*assignment);
            }
        }
        if closed.is_empty() {
            return Ok(());
        }
        self.leave_gates(&passed, slots);
        Err(LaneFault::Fenced(closed))
    }

    pub(super) fn leave_gates(&self, ends: &Ends, slots: &mut Slots) {
        for (assignment, _) in ends {
            slots.partition(assignment.partition).gate.leave(self.incarnation);
        }
    }
}

fn positions(ends: &Ends) -> Vec<(Partition, Position)> {
    ends.iter().map(|(assignment, end)| (assignment.partition, *end)).collect()
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
