//! The shell of a stage's worker: borrows a batch, runs the steps over it, answers. Never retries, publishes or
//! decides what a failure means.

use super::journal::Line;
use super::slots::Slots;
use super::spec::StageSpec;
use super::steps::{Halt, StepRun};
use super::wake::Slot;
use crate::shell::Lifeline;
use bulkhead_core::fault::{Fault, FaultClass};
use bulkhead_core::link::Borrower;
use bulkhead_core::machine::Machine;
use bulkhead_core::stage::{StageEffect, StageEvent, StageLink, Work};
use bulkhead_core::supervisor::{Charge, Exit, Signal};
use bulkhead_core::trial::Mode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// One place for a worker in a stage; it outlives the incarnations that fill it.
#[derive(Clone)]
pub(crate) struct Seat {
    pub(crate) slots: Arc<Slots>,
    pub(crate) stage: usize,
    pub(crate) borrower: Borrower,
}

/// Counts a worker as ready for as long as it lives, however it ends.
struct Ready<'stage>(&'stage AtomicU32);

impl<'stage> Ready<'stage> {
    fn new(count: &'stage AtomicU32) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Ready<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Seat {
    fn spec(&self) -> &StageSpec {
        &self.slots.spec.stages[self.stage]
    }

    /// Crashes of this stage that no record was found guilty of, not charged yet.
    fn uncharged(&self) -> &AtomicU32 {
        &self.slots.uncharged[self.stage]
    }

    fn slot(&self) -> &Slot<StageLink> {
        &self.slots.stages[self.stage]
    }

    /// Builds the steps anew and works until told to stop.
    pub(crate) fn run(&self, lifeline: &Lifeline) -> Exit {
        // Loading a model may take longer than a batch may.
        lifeline.idle();
        let mut run = match StepRun::build(self.spec(), lifeline.incarnation()) {
            Ok(run) => run,
            Err(fault) => return Exit::Failed(fault),
        };
        let line = match Line::open(&self.spec().journal, self.borrower.0) {
            Ok(line) => line,
            Err(error) => return Exit::Failed(Fault::fatal("crash_journal", error)),
        };
        lifeline.on_signal({
            let seat = self.clone();
            move || seat.slot().wake()
        });
        let _ready = Ready::new(&self.slots.ready_workers[self.stage]);
        loop {
            let work = match self.borrow(lifeline) {
                Ok(work) => work,
                Err(Signal::Kill) => return Exit::Killed,
                Err(_) => return Exit::Done,
            };
            lifeline.beat();
            line.holds(&work.batch, None);
            let worked = self.work(lifeline, &mut run, &work, &line);
            line.clear();
            if let Err(fault) = worked {
                return Exit::Failed(fault);
            }
        }
    }

    /// Waits for work. Batches on which there is nothing to do pass through here.
    fn borrow(&self, lifeline: &Lifeline) -> Result<Work, Signal> {
        lifeline.idle();
        loop {
            let now = || lifeline.clock().now();
            let effects = self.slot().wait_for(lifeline, |link| {
                let effects = link.step(StageEvent::Ask(self.borrower), now());
                match effects.last() {
                    Some(StageEffect::Idle(until)) if effects.len() == 1 => Err(*until),
                    _ => Ok(effects),
                }
            })?;
            if let Some(work) = self.perform(effects) {
                return Ok(work);
            }
        }
    }

    /// Runs the steps and answers. An error ends this incarnation.
    fn work(&self, lifeline: &Lifeline, run: &mut StepRun, work: &Work, line: &Line) -> Result<(), Fault> {
        let timer = std::time::Instant::now();
        let answered = match work.mode {
            Mode::Whole => {
                run.run(&work.batch, &work.todo, work.attempt).map(|outcomes| StageEvent::Done(work.loan, outcomes))
            }
            Mode::Single => self.one_by_one(lifeline, run, work, line),
        };
        let labels = [&*self.slots.spec.name, &*self.spec().name];
        self.slots.metrics.stage_seconds.with(labels).observe(timer.elapsed().as_secs_f64());
        let event = match answered {
            Ok(event) => event,
            Err(Halt::Stopped) => return Ok(()),
            Err(Halt::Fault(fault)) if fault.class == FaultClass::Transient => {
                tracing::warn!(pipeline = labels[0], stage = labels[1], batch = %work.batch.ticket, attempt = work.attempt,
                    first = %work.batch.first(), %fault, "transient fault, the batch is tried again");
                self.slots.metrics.stage_retries.with(labels).inc();
                let incarnation = lifeline.incarnation().0;
                StageEvent::Failed { loan: work.loan, fault, incarnation, jitter: rand::random() }
            }
            Err(Halt::Fault(fault)) => return Err(fault),
        };
        self.tell(lifeline, event);
        Ok(())
    }

    /// Record by record: a crash or a fault then has a name, and verdicts already given stay.
    fn one_by_one(&self, lifeline: &Lifeline, run: &mut StepRun, work: &Work, line: &Line) -> Result<StageEvent, Halt> {
        for index in &work.todo {
            if lifeline.signal() == Signal::Kill || !lifeline.current() {
                return Err(Halt::Stopped);
            }
            self.tell(lifeline, StageEvent::Begin(work.loan, *index));
            line.holds(&work.batch, Some(work.batch.records[*index as usize].offset));
            lifeline.beat();
            let outcomes = run.run(&work.batch, std::slice::from_ref(index), work.attempt)?;
            for (index, outcome) in outcomes {
                self.tell(lifeline, StageEvent::Verdict(work.loan, index, outcome));
            }
        }
        Ok(StageEvent::Done(work.loan, Vec::new()))
    }

    fn tell(&self, lifeline: &Lifeline, event: StageEvent) {
        let now = lifeline.clock().now();
        let effects = self.slot().lock().step(event, now);
        drop(self.perform(effects));
    }

    fn perform(&self, effects: Vec<StageEffect>) -> Option<Work> {
        let mut lent = None;
        for effect in effects {
            match effect {
                StageEffect::Lend(work) => lent = Some(work),
                StageEffect::Charge(crashes) => drop(self.uncharged().fetch_add(crashes, Ordering::AcqRel)),
                other => self.relay(other),
            }
        }
        lent
    }

    /// Effects that are the same from a worker and from a worker's death.
    fn relay(&self, effect: StageEffect) {
        let (pipeline, stage) = (&*self.slots.spec.name, &*self.spec().name);
        match effect {
            StageEffect::Forward(batch) => self.slots.enter_stage(self.stage + 1, batch),
            StageEffect::Wake => self.slot().wake(),
            StageEffect::Late => {
                tracing::info!(pipeline, stage, "late answer dropped");
                self.slots.metrics.late_answers.with([pipeline, stage]).inc();
            }
            StageEffect::Overflow => tracing::error!(pipeline, stage, "sentinel: more batches than credits allow"),
            StageEffect::Culprit { ticket, index, poison } => {
                tracing::warn!(pipeline, stage, batch = %ticket, index, poison, "a record crashed its worker");
            }
            StageEffect::Lend(_) | StageEffect::Idle(_) | StageEffect::Charge(_) => {}
        }
    }

    /// An incarnation is gone: what it held is lent again, and its record charged where one can be named.
    pub(crate) fn down(&self, incarnation: u32, exit: &Exit) -> Charge {
        let crash = match exit {
            Exit::Panicked(message) => Some(format!("panic: {message}")),
            Exit::Hung => Some(format!("no answer within {:?}", self.spec().timeout)),
            Exit::Done | Exit::Killed | Exit::Failed(_) => None,
        };
        let crashed = crash.is_some();
        let labels = [&*self.slots.spec.name, &*self.spec().name, reason(exit)];
        self.slots.metrics.stage_restarts.with(labels).inc();
        let mut link = self.slot().lock();
        let held = link.held_by(self.borrower);
        let effects =
            link.step(StageEvent::Down { borrower: self.borrower, incarnation, crash }, self.slots.clock.now());
        drop(link);
        effects.into_iter().for_each(|effect| self.relay(effect));
        match exit {
            Exit::Done | Exit::Killed => Charge::Nobody,
            // With work in hand the record is charged, if one turns out to be guilty. If none does, the stage is
            // (`StageEffect::Charge`), with its next death.
            _ if crashed && held > 0 && self.uncharged().swap(0, Ordering::AcqRel) == 0 => Charge::Culprit,
            _ => Charge::Crash,
        }
    }
}

/// An exit as a metric's label.
pub(crate) const fn reason(exit: &Exit) -> &'static str {
    match exit {
        Exit::Done => "done",
        Exit::Failed(_) => "failed",
        Exit::Panicked(_) => "panic",
        Exit::Killed => "killed",
        Exit::Hung => "hang",
    }
}
