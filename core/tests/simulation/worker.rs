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
    /// What one call works on: several batches where they were gathered.
    hands: Vec<Hand>,
    /// Hung incarnations that will still answer.
    ghosts: Vec<Hand>,
}

impl Worker {
    pub(crate) fn new(stage: usize, borrower: u32) -> Self {
        Self { stage, borrower: Borrower(borrower), incarnation: 1, hands: Vec::new(), ghosts: Vec::new() }
    }

    pub(crate) fn turn(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        if !self.ghosts.is_empty() && ctx.rng.per_mille(100) {
            return self.haunt(slots, ctx);
        }
        match self.hands.first().map(|hand| hand.work.mode) {
            None => self.ask(slots, ctx),
            Some(Mode::Whole) => self.whole(slots, ctx),
            Some(Mode::Single) => {
                let mut hand = self.hands.remove(0);
                if self.single(&mut hand, slots, ctx) {
                    self.hands.push(hand);
                }
            }
        }
    }

    fn ask(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        let effects = slots.stages[self.stage].step(StageEvent::Ask(self.borrower), ctx.now);
        let lent = self.perform(effects, slots, ctx);
        if lent.len() > 1 {
            ctx.saw("worker: gathered");
        }
        for work in lent {
            ctx.saw(if work.mode == Mode::Single { "worker: single" } else { "worker: whole" });
            if work.attempt > 1 {
                ctx.saw("worker: lent again");
            }
            let todo = work.todo.iter().copied().collect();
            self.hands.push(Hand { work, todo, running: Vec::new(), begun: false, given: Vec::new() });
        }
    }

    /// One turn runs the step over all batches of the call, each turn after it answers for one of them.
    fn whole(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        if !self.hands[0].running.is_empty() {
            let hand = self.hands.remove(0);
            return self.tell(StageEvent::Done(hand.work.loan, hand.given), slots, ctx);
        }
        let mut hands = std::mem::take(&mut self.hands);
        hands.iter_mut().for_each(|hand| hand.running = hand.todo.drain(..).collect());
        for index in 0..hands.len() {
            match self.run(&hands[index], slots, ctx) {
                Ran::All(given) => hands[index].given = given,
                Ran::Fault(fault) => {
                    let gathered = hands.len() > 1;
                    hands.iter().for_each(|hand| self.fail(hand, fault.clone(), slots, ctx));
                    return if gathered {
                        ctx.saw("worker: fault of a gathered call")
                    };
                }
                Ran::Crash(reason) => {
                    if hands.len() > 1 {
                        ctx.saw("worker: crash of a gathered call");
                    }
                    return self.die(&hands, Some(reason), slots, ctx);
                }
            }
        }
        self.hands = hands;
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
                self.die(&[], Some(reason), slots, ctx);
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
    fn die(&mut self, hands: &[Hand], crash: Option<&str>, slots: &mut Slots, ctx: &mut Ctx) {
        ctx.saw(if crash.is_some() { "worker: crashed" } else { "worker: killed" });
        for hand in hands {
            ctx.lost(slots.process, self.stage, hand.work.batch.ticket, &hand.running);
        }
        let crash = crash.map(str::to_owned);
        let event = StageEvent::Down { borrower: self.borrower, incarnation: self.incarnation, crash };
        let effects = slots.stages[self.stage].step(event, ctx.now);
        self.perform(effects, slots, ctx);
        self.incarnation += 1;
    }

    pub(crate) fn kill(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        let hands = std::mem::take(&mut self.hands);
        self.die(&hands, None, slots, ctx);
    }

    /// It is given up as hung, and goes on as a ghost; a ghost's runs are lost, whatever it answers.
    pub(crate) fn hang(&mut self, slots: &mut Slots, ctx: &mut Ctx) {
        let hands = std::mem::take(&mut self.hands);
        if hands.is_empty() {
            return;
        }
        ctx.saw("worker: hung");
        hands.iter().for_each(|hand| self.blame(hand, ctx));
        self.die(&hands, Some("no answer"), slots, ctx);
        self.ghosts.extend(hands);
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

    fn perform(&mut self, effects: Vec<StageEffect>, slots: &mut Slots, ctx: &mut Ctx) -> Vec<Work> {
        let mut lent = Vec::new();
        for effect in effects {
            match effect {
                StageEffect::Lend(work) => lent.push(work),
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
