//! A stage's link: it lends batches to the stage's workers and holds what they said, over all attempts.
//! Never runs a step, and never lets a batch go on before each of its records has a verdict.

use crate::batch::{Batch, Outcome};
use crate::fault::Fault;
use crate::ids::{Assignment, LoanId, Offset, Partition, Position, Ticket};
use crate::link::{Borrower, Link, LinkEffect, LinkEvent};
use crate::machine::Machine;
use crate::time::Now;
use crate::trial::{Crash, Mode, Patience, Trial};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What happens at a stage.
#[derive(Debug)]
pub enum StageEvent {
    /// A batch arrives from the part before.
    Push(Batch),
    /// A worker has nothing to do.
    Ask(Borrower),
    /// In single mode: a worker begins with the record of this index.
    Begin(LoanId, u32),
    /// In single mode: the verdict of one record.
    Verdict(LoanId, u32, Outcome),
    /// The worker has answered for all of it; verdicts of records without one so far.
    Done(LoanId, Vec<(u32, Outcome)>),
    /// The worker met a transient fault.
    Failed {
        /// The loan.
        loan: LoanId,
        /// The fault, transient.
        fault: Fault,
        /// The worker's incarnation.
        incarnation: u32,
        /// Any uniformly drawn number.
        jitter: u32,
    },
    /// An incarnation is gone.
    Down {
        /// Whose.
        borrower: Borrower,
        /// Which.
        incarnation: u32,
        /// Of its own doing, with this reason; `None`: it was ordered or it was the stage's own fault.
        crash: Option<String>,
    },
    /// The assignment is over.
    Fence(Assignment),
}

/// Work for a worker.
#[derive(Debug)]
pub struct Work {
    /// Its number, for the answers.
    pub loan: LoanId,
    /// The batch.
    pub batch: Arc<Batch>,
    /// The records that want a verdict, by index, ascending; never empty.
    pub todo: Vec<u32>,
    /// At once or one by one.
    pub mode: Mode,
    /// How often the batch has been lent, from 1.
    pub attempt: u32,
}

/// What a stage's link wants done.
#[derive(Debug)]
pub enum StageEffect {
    /// Something can be borrowed: wake a worker.
    Wake,
    /// Here is work for the worker that asked.
    Lend(Work),
    /// Nothing for the worker that asked; at this time there may be.
    Idle(Option<Now>),
    /// The batch goes on.
    Forward(Batch),
    /// The answer came from a loan that is not current: dropped.
    Late,
    /// A sentinel: more batches than credits allow.
    Overflow,
    /// A death named its culprit.
    Culprit {
        /// The batch.
        ticket: Ticket,
        /// The record's index.
        index: u32,
        /// Whether it was rejected as poison for it.
        poison: bool,
    },
    /// This many crashes turned out to be nobody's: the stage's budget is charged for them.
    Charge(u32),
}

/// Records that a process before this one held when it died.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspicion {
    /// Their partition.
    pub partition: Partition,
    /// The first of them.
    pub first: Offset,
    /// The position after the last of them.
    pub end: Position,
    /// How often the process died over a record that it had named.
    pub deaths: BTreeMap<Offset, u32>,
}

/// See the module.
#[derive(Debug)]
pub struct StageLink {
    link: Link<Batch>,
    trials: BTreeMap<Ticket, Trial>,
    patience: Patience,
    suspicions: Vec<Suspicion>,
}

impl StageLink {
    /// An empty link. `capacity` is what the credits of all partitions add up to.
    #[must_use]
    pub const fn new(capacity: usize, patience: Patience) -> Self {
        Self { link: Link::new(capacity), trials: BTreeMap::new(), patience, suspicions: Vec::new() }
    }

    /// Records to be handled one by one, because a process died over them; at most one suspicion a worker of that process.
    pub fn suspect(&mut self, suspicions: Vec<Suspicion>) {
        self.suspicions = suspicions;
    }

    /// Batches that wait for a worker.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.link.depth()
    }

    /// Batches in workers' hands.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.link.lent()
    }

    /// Every batch here, waiting or lent, in no order.
    pub fn batches(&self) -> impl Iterator<Item = &Arc<Batch>> {
        self.link.items()
    }

    /// How many batches a worker holds.
    #[must_use]
    pub fn held_by(&self, borrower: Borrower) -> usize {
        self.link.held_by(borrower).count()
    }

    /// The current loan's batch and trial.
    fn trial(&mut self, loan: LoanId) -> Option<(Arc<Batch>, &mut Trial)> {
        let batch = Arc::clone(self.link.item(loan)?);
        let trial = self.trials.entry(batch.ticket).or_default();
        Some((batch, trial))
    }

    fn ask(&mut self, borrower: Borrower, now: Now) -> Vec<StageEffect> {
        loop {
            let lent = match self.link.step(LinkEvent::Ask(borrower), now).pop() {
                Some(LinkEffect::Lend(lent)) => lent,
                Some(LinkEffect::Idle(until)) => return vec![StageEffect::Idle(until)],
                _ => return vec![StageEffect::Idle(None)],
            };
            if lent.attempt == 1 {
                self.recall(&lent.item);
            }
            let trial = self.trials.entry(lent.item.ticket).or_default();
            let todo = trial.todo(&lent.item.outcomes);
            let mode = if todo.len() == 1 { Mode::Single } else { trial.mode() };
            if !todo.is_empty() {
                let work = Work { loan: lent.loan, batch: lent.item, todo, mode, attempt: lent.attempt };
                return vec![StageEffect::Lend(work)];
            }
            drop(lent.item);
            let mut effects = self.finish(lent.loan, now);
            if !effects.is_empty() {
                // The worker asks again: what is forwarded must not wait for it.
                effects.push(StageEffect::Idle(Some(now)));
                return effects;
            }
        }
    }

    /// Applies what is known of the batch's records from a process before this one.
    fn recall(&mut self, batch: &Batch) {
        let concerns = |suspicion: &&Suspicion| {
            suspicion.partition == batch.ticket.assignment.partition
                && batch.first().next() <= suspicion.end
                && suspicion.first.next() <= batch.end()
        };
        for suspicion in self.suspicions.iter().filter(concerns) {
            let trial = self.trials.entry(batch.ticket).or_default();
            trial.suspect();
            for (index, record) in (0u32..).zip(batch.records.iter()) {
                if let Some(deaths) = suspicion.deaths.get(&record.offset) {
                    trial.remember(&self.patience, index, *deaths);
                }
            }
        }
    }

    /// Every record has a verdict: the batch goes on with them.
    fn finish(&mut self, loan: LoanId, now: Now) -> Vec<StageEffect> {
        let Some(LinkEffect::Release(batch)) = self.link.step(LinkEvent::Settle(loan), now).pop() else {
            return vec![StageEffect::Late];
        };
        let mut batch = Arc::unwrap_or_clone(batch);
        let trial = self.trials.remove(&batch.ticket).unwrap_or_default();
        let mut effects = Vec::new();
        if trial.unexplained() > 0 {
            effects.push(StageEffect::Charge(trial.unexplained()));
        }
        for (index, outcome) in trial.into_verdicts() {
            batch.outcomes[index as usize] = outcome;
        }
        effects.push(StageEffect::Forward(batch));
        effects
    }

    fn done(&mut self, loan: LoanId, verdicts: Vec<(u32, Outcome)>, now: Now) -> Vec<StageEffect> {
        let Some((batch, trial)) = self.trial(loan) else { return vec![StageEffect::Late] };
        for (index, outcome) in verdicts {
            trial.give(index, outcome);
        }
        debug_assert!(trial.todo(&batch.outcomes).is_empty(), "a stage answers for every record");
        drop(batch);
        self.finish(loan, now)
    }

    fn failed(&mut self, loan: LoanId, fault: &Fault, incarnation: u32, jitter: u32, now: Now) -> Vec<StageEffect> {
        let patience = self.patience.clone();
        let Some((batch, trial)) = self.trial(loan) else { return vec![StageEffect::Late] };
        let todo = trial.todo(&batch.outcomes);
        let wait = trial.failed(&patience, &todo, fault, incarnation, jitter, now);
        self.relay(LinkEvent::Defer(loan, wait), now)
    }

    fn down(&mut self, borrower: Borrower, incarnation: u32, crash: Option<&str>, now: Now) -> Vec<StageEffect> {
        let held: Vec<Ticket> = self.link.held_by(borrower).map(|(_, batch, _)| batch.ticket).collect();
        let mut effects = Vec::new();
        for ticket in held {
            let trial = self.trials.entry(ticket).or_default();
            let Some(reason) = crash else { continue };
            if let Crash::Named { index, poison } = trial.crashed(&self.patience, incarnation, reason) {
                effects.push(StageEffect::Culprit { ticket, index, poison });
            }
        }
        effects.extend(self.relay(LinkEvent::Down(borrower), now));
        effects
    }

    fn relay(&mut self, event: LinkEvent<Batch>, now: Now) -> Vec<StageEffect> {
        let effects = self.link.step(event, now).into_iter();
        let relayed = effects.filter_map(|effect| match effect {
            LinkEffect::Wake => Some(StageEffect::Wake),
            LinkEffect::Late => Some(StageEffect::Late),
            LinkEffect::Overflow => Some(StageEffect::Overflow),
            LinkEffect::Lend(_) | LinkEffect::Idle(_) | LinkEffect::Release(_) => None,
        });
        relayed.collect()
    }

    fn note(&mut self, loan: LoanId, note: impl FnOnce(&mut Trial)) -> Vec<StageEffect> {
        match self.trial(loan) {
            Some((_, trial)) => {
                note(trial);
                Vec::new()
            }
            None => vec![StageEffect::Late],
        }
    }
}

impl Machine for StageLink {
    type Event = StageEvent;
    type Effect = StageEffect;

    fn step(&mut self, event: StageEvent, now: Now) -> Vec<StageEffect> {
        match event {
            StageEvent::Push(batch) => self.relay(LinkEvent::Push(batch), now),
            StageEvent::Ask(borrower) => self.ask(borrower, now),
            StageEvent::Begin(loan, index) => self.note(loan, |trial| trial.begin(index)),
            StageEvent::Verdict(loan, index, outcome) => self.note(loan, |trial| trial.give(index, outcome)),
            StageEvent::Done(loan, verdicts) => self.done(loan, verdicts, now),
            StageEvent::Failed { loan, fault, incarnation, jitter } => {
                self.failed(loan, &fault, incarnation, jitter, now)
            }
            StageEvent::Down { borrower, incarnation, crash } => {
                self.down(borrower, incarnation, crash.as_deref(), now)
            }
            StageEvent::Fence(assignment) => {
                self.trials.retain(|ticket, _| ticket.assignment != assignment);
                self.relay(LinkEvent::Fence(assignment), now)
            }
        }
    }
}
