//! A stage's link: it lends batches to the stage's workers and holds what they said, over all attempts.
//! Never runs a step, and never lets a batch go on before each of its records has a verdict.

use crate::batch::{Batch, Outcome};
use crate::fault::Fault;
use crate::gather::{Candidate, Gather, Gathered};
use crate::ids::{Assignment, LoanId, Offset, Partition, Position, Ticket};
use crate::link::{Borrower, Lent, Link, LinkEffect, LinkEvent};
use crate::machine::Machine;
use crate::time::Now;
use crate::trial::{Crash, Mode, Patience, Trial};
use crate::unexplained::Unexplained;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What happens at a stage.
#[derive(Debug)]
pub enum StageEvent {
    /// A batch arrives from the part before.
    Push(Batch),
    /// A worker has nothing to do. It may be lent several batches at once, for one call.
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
    /// How long it could have been lent before it was.
    pub waited: Duration,
}

/// What a stage's link wants done.
#[derive(Debug)]
pub enum StageEffect {
    /// Something can be borrowed: wake a worker.
    Wake,
    /// Here is work for the worker that asked. Several of them are for one call over all their records; each is answered
    /// for itself, and none of them is in single mode.
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

impl StageEffect {
    fn work(&mut self) -> Option<&mut Work> {
        if let Self::Lend(work) = self { Some(work) } else { None }
    }
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
    gather: Gather,
    unexplained: Unexplained,
    suspicions: Vec<Suspicion>,
}

impl StageLink {
    /// An empty link. `capacity` is what the credits of all partitions add up to.
    #[must_use]
    pub fn new(capacity: usize, patience: Patience, gather: Gather) -> Self {
        Self {
            link: Link::new(capacity),
            trials: BTreeMap::new(),
            patience,
            gather,
            unexplained: Unexplained::default(),
            suspicions: Vec::new(),
        }
    }

    /// Records to be handled one by one, because a process died over them; at most one suspicion a loan of that process.
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

    fn push(&mut self, batch: Batch, now: Now) -> Vec<StageEffect> {
        self.recall(&batch);
        self.relay(LinkEvent::Push(batch), now)
    }

    /// How many batches the next call works on.
    fn gathered(&self, now: Now) -> Option<Gathered> {
        let candidates = self.link.due(now).map(|due| {
            let trial = self.trials.get(&due.item.ticket);
            let live = || due.item.outcomes.iter().filter(|outcome| outcome.is_live()).count();
            let records = trial.map_or_else(live, |trial| trial.todo(&due.item.outcomes).len());
            let alone = due.attempts > 0 || trial.is_some_and(|trial| trial.mode() == Mode::Single);
            Candidate { records: u32::try_from(records).unwrap_or(u32::MAX), since: due.since, alone }
        });
        self.gather.decide(candidates, now)
    }

    fn ask(&mut self, borrower: Borrower, now: Now) -> Vec<StageEffect> {
        let batches = match self.gathered(now) {
            Some(Gathered::Take(batches)) => batches,
            Some(Gathered::Wait(until)) => {
                let until = self.link.next_deferred().map_or(until, |at| at.min(until));
                return vec![StageEffect::Idle(Some(until))];
            }
            None => return vec![StageEffect::Idle(self.link.next_deferred())],
        };
        let mut effects: Vec<StageEffect> = (0..batches).flat_map(|_| self.lend(borrower, now)).collect();
        let mut works: Vec<&mut Work> = effects.iter_mut().filter_map(StageEffect::work).collect();
        match &mut works[..] {
            // All of it passed through. The worker asks again: what is forwarded must not wait for it.
            [] => effects.push(StageEffect::Idle(Some(now))),
            // A single record needs no search: a crash or a fault is its own.
            [work] if work.todo.len() == 1 => work.mode = Mode::Single,
            _ => {}
        }
        effects
    }

    /// Lends the first batch; one that nothing is to be done for goes on.
    fn lend(&mut self, borrower: Borrower, now: Now) -> Vec<StageEffect> {
        let Some(LinkEffect::Lend(lent)) = self.link.step(LinkEvent::Ask(borrower), now).pop() else {
            return Vec::new();
        };
        let trial = self.trials.entry(lent.item.ticket).or_default();
        let (todo, mode) = (trial.todo(&lent.item.outcomes), trial.mode());
        if todo.is_empty() {
            drop(lent.item);
            return self.finish(lent.loan, now);
        }
        let Lent { loan, item: batch, attempt, waited } = lent;
        vec![StageEffect::Lend(Work { loan, batch, todo, mode, attempt, waited })]
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
        let crashes = self.unexplained.cleared(batch.ticket);
        if crashes > 0 {
            effects.push(StageEffect::Charge(crashes));
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
        let (mut effects, mut unnamed) = (Vec::new(), BTreeSet::new());
        for ticket in held {
            let trial = self.trials.entry(ticket).or_default();
            let Some(reason) = crash else { continue };
            match trial.crashed(&self.patience, incarnation, reason) {
                Crash::Unnamed => drop(unnamed.insert(ticket)),
                Crash::Named { index, poison } => {
                    self.unexplained.explained_by(ticket);
                    effects.push(StageEffect::Culprit { ticket, index, poison });
                }
            }
        }
        self.unexplained.crashed(unnamed);
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
            StageEvent::Push(batch) => self.push(batch, now),
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
                self.unexplained.fenced(assignment);
                self.relay(LinkEvent::Fence(assignment), now)
            }
        }
    }
}
