//! A stage's worker: borrows a batch and runs its step over it, one small move a turn, so that it can die between any
//! two. Never retries by itself. An incarnation that hung goes on as a ghost and answers late.

use crate::ctx::{Ctx, Mutant};
use crate::slots::Slots;
use crate::source_log::{Fate, Id, id_of};
use bulkhead_core::batch::{Batch, Outcome, Rejection};
use bulkhead_core::fault::Fault;
use bulkhead_core::link::Borrower;
use bulkhead_core::machine::Machine;
use bulkhead_core::record::Record;
use bulkhead_core::stage::{StageEffect, StageEvent, Work};
use bulkhead_core::trial::Mode;
use bulkhead_core::verdict::Emitted;
use std::collections::VecDeque;

/// A batch in a worker's hands.
struct Hand {
    work: Work,
    todo: VecDeque<u32>,
    /// The records that a run was begun for and whose verdict was not told.
    running: Vec<u32>,
    /// Told that it begins with `running[0]`.
    begun: bool,
    given: Vec<(u32, Outcome)>,
}

/// What a run over some records came to.
enum Ran {
    All(Vec<(u32, Outcome)>),
    Fault(Fault),
    Crash(&'static str),
}

pub(crate) struct Worker {
    stage: usize,
    borrower: Borrower,
    incarnation: u32,
    hand: Option<Hand>,
    /// Hung incarnations that will still answer.
    ghosts: Vec<Hand>,
}

impl Worker {
    pub(crate) fn new(stage: usize, borrower: u32) -> Self {
        Self { stage, borrower: Borrower(borrower), incarnation: 1, hand: None, ghosts: Vec::new() }
    }

    pub(crate) fn turn(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        if !self.ghosts.is_empty() && ctx.rng.per_mille(100) {
            return self.haunt(slots, ctx);
        }
        let Some(mut hand) = self.hand.take() else { return self.ask(slots, ctx) };
        match hand.work.mode {
            Mode::Whole => self.whole(hand, slots, ctx),
            Mode::Single => {
                if !self.single(&mut hand, slots, ctx) {
                    return;
                }
                self.hand = Some(hand);
            }
        }
    }

    fn ask(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        let effects = slots.stages[self.stage].step(StageEvent::Ask(self.borrower), ctx.now);
        if let Some(work) = self.perform(effects, slots, ctx) {
            ctx.saw(if work.mode == Mode::Single { "worker: single" } else { "worker: whole" });
            if work.attempt > 1 {
                ctx.saw("worker: lent again");
            }
            let todo = work.todo.iter().copied().collect();
            self.hand = Some(Hand { work, todo, running: Vec::new(), begun: false, given: Vec::new() });
        }
    }

    /// One turn runs the step over all, the next one answers.
    fn whole(&mut self, mut hand: Hand, slots: &mut Slots, ctx: &mut Ctx) {
        let loan = hand.work.loan;
        if !hand.running.is_empty() {
            return self.tell(StageEvent::Done(loan, hand.given), slots, ctx);
        }
        hand.running = hand.todo.drain(..).collect();
        match self.run(&hand, slots, ctx) {
            Ran::All(given) => {
                hand.given = given;
                self.hand = Some(hand);
            }
            Ran::Fault(fault) => self.fail(&hand, fault, slots, ctx),
            Ran::Crash(reason) => self.die(Some(hand), Some(reason), slots, ctx),
        }
    }

    /// Each turn says where it is, or runs the step over one record, or gives its verdict. False once it is out of hand.
    fn single(&mut self, hand: &mut Hand, slots: &mut Slots, ctx: &mut Ctx) -> bool {
        let loan = hand.work.loan;
        if let Some((index, outcome)) = hand.given.pop() {
            hand.running.clear();
            if ctx.mutant != Mutant::ForgottenVerdicts {
                self.tell(StageEvent::Verdict(loan, index, outcome), slots, ctx);
            }
            return true;
        }
        let Some(index) = hand.todo.front().copied() else {
            self.tell(StageEvent::Done(loan, Vec::new()), slots, ctx);
            return false;
        };
        if !hand.begun {
            hand.begun = true;
            self.tell(StageEvent::Begin(loan, index), slots, ctx);
            return true;
        }
        hand.begun = false;
        hand.todo.pop_front();
        hand.running.push(index);
        match self.run(hand, slots, ctx) {
            Ran::All(given) => {
                hand.given = given;
                return true;
            }
            Ran::Fault(fault) => self.fail(hand, fault, slots, ctx),
            Ran::Crash(reason) => {
                ctx.lost(slots.process, self.stage, hand.work.batch.ticket, &hand.running);
                self.blame(hand, ctx);
                self.die(None, Some(reason), slots, ctx);
            }
        }
        false
    }

    fn run(&self, hand: &Hand, slots: &Slots, ctx: &mut Ctx) -> Ran {
        let batch = &hand.work.batch;
        let mut given = Vec::new();
        for index in &hand.running {
            ctx.run((slots.process, self.stage, batch.ticket, *index));
            let record = &batch.records[*index as usize].record;
            let id = id_of(record);
            let fate = ctx.broker.source.fate(id);
            let at_once = ctx.rng.per_mille(500);
            match fate {
                Fate::Crasher if self.stage == 0 => return Ran::Crash("crasher"),
                Fate::Flaky if self.stage == 1 && at_once => return Ran::Crash("flaky"),
                Fate::Transient if at_once && ctx.hurt => return Ran::Fault(Fault::transient("away", "try later")),
                _ => given.push((*index, self.verdict(batch, *index, fate, hand.work.attempt))),
            }
        }
        Ran::All(given)
    }

    fn verdict(&self, batch: &Batch, index: u32, fate: Fate, attempts: u32) -> Outcome {
        let emitted = |n: u32, record: &Record| Outcome::Emitted((0..n).map(|_| record.clone()).collect::<Emitted>());
        let record = match &batch.outcomes[index as usize] {
            Outcome::Emitted(records) => &records[0],
            _ => &batch.records[index as usize].record,
        };
        match fate {
            Fate::Poison if self.stage == 0 => Outcome::Rejected(Box::new(Rejection {
                stage: format!("s{}", self.stage).into(),
                step: None,
                fault: Fault::poison("poison", "it is"),
                attempts,
                incarnation: self.incarnation,
            })),
            Fate::Good(0) if self.stage == 1 => Outcome::Dropped("on purpose".into()),
            Fate::Good(n) if self.stage == 1 => emitted(n, record),
            _ => emitted(1, record),
        }
    }

    fn fail(&mut self, hand: &Hand, fault: Fault, slots: &mut Slots, ctx: &mut Ctx) {
        ctx.saw("worker: transient fault");
        ctx.lost(slots.process, self.stage, hand.work.batch.ticket, &hand.running);
        let jitter = ctx.rng.draw() as u32;
        let event = StageEvent::Failed { loan: hand.work.loan, fault, incarnation: self.incarnation, jitter };
        self.tell(event, slots, ctx);
    }

    /// The record that a worker was at is named by its death.
    fn blame(&self, hand: &Hand, ctx: &mut Ctx) {
        let at = hand.running.first().or_else(|| hand.todo.front().filter(|_| hand.begun));
        if let Some(index) = at.filter(|_| hand.work.mode == Mode::Single) {
            let id: Id = id_of(&hand.work.batch.records[*index as usize].record);
            *ctx.culprits.entry(id).or_default() += 1;
        }
    }

    /// The incarnation ends: by a crash of its own (with a reason), or because it was ordered to.
    fn die(&mut self, hand: Option<Hand>, crash: Option<&str>, slots: &mut Slots, ctx: &mut Ctx) {
        ctx.saw(if crash.is_some() { "worker: crashed" } else { "worker: killed" });
        if let Some(hand) = hand {
            ctx.lost(slots.process, self.stage, hand.work.batch.ticket, &hand.running);
        }
        let crash = crash.map(str::to_owned);
        let event = StageEvent::Down { borrower: self.borrower, incarnation: self.incarnation, crash };
        let effects = slots.stages[self.stage].step(event, ctx.now);
        self.perform(effects, slots, ctx);
        self.incarnation += 1;
    }

    pub(crate) fn kill(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        let hand = self.hand.take();
        self.die(hand, None, slots, ctx);
    }

    /// It is given up as hung, and goes on as a ghost; a ghost's runs are lost, whatever it answers.
    pub(crate) fn hang(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        let Some(hand) = self.hand.take() else { return };
        ctx.saw("worker: hung");
        ctx.lost(slots.process, self.stage, hand.work.batch.ticket, &hand.running);
        self.blame(&hand, ctx);
        self.die(None, Some("no answer"), slots, ctx);
        self.ghosts.push(hand);
    }

    /// A ghost answers: it must be told that it is late.
    fn haunt(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        let Some(hand) = self.ghosts.pop() else { return };
        let loan = hand.work.loan;
        let drop_all = |index: &u32| (*index, Outcome::Dropped("by a ghost".into()));
        let event = match ctx.rng.below(4) {
            0 => StageEvent::Begin(loan, hand.work.todo[0]),
            1 => StageEvent::Verdict(loan, hand.work.todo[0], Outcome::Dropped("by a ghost".into())),
            2 => StageEvent::Failed { loan, fault: Fault::transient("ghost", "late"), incarnation: 0, jitter: 0 },
            _ => StageEvent::Done(loan, hand.work.todo.iter().map(drop_all).collect()),
        };
        let effects = slots.stages[self.stage].step(event, ctx.now);
        match effects[..] {
            [StageEffect::Late] => ctx.saw("worker: late answer"),
            _ => ctx.broke(format!("a ghost's answer counted: {effects:?}")),
        }
    }

    fn tell(&mut self, event: StageEvent, slots: &mut Slots, ctx: &mut Ctx) {
        let effects = slots.stages[self.stage].step(event, ctx.now);
        self.perform(effects, slots, ctx);
    }

    fn perform(&mut self, effects: Vec<StageEffect>, slots: &mut Slots, ctx: &mut Ctx) -> Option<Work> {
        let mut lent = None;
        for effect in effects {
            match effect {
                StageEffect::Lend(work) => lent = Some(work),
                StageEffect::Forward(batch) => {
                    ctx.saw("stage: forward");
                    slots.enter(self.stage + 1, batch);
                }
                StageEffect::Overflow => ctx.broke("more batches than credits allow".into()),
                StageEffect::Late => ctx.saw("worker: answered what was fenced"),
                StageEffect::Culprit { poison, .. } => {
                    ctx.saw(if poison { "stage: culprit, poison" } else { "stage: culprit" });
                }
                StageEffect::Charge(_) => ctx.saw("stage: charged"),
                StageEffect::Wake => ctx.saw("stage: wake"),
                StageEffect::Idle(_) => {}
            }
        }
        lent
    }
}
