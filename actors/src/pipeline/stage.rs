//! The shell of a stage's worker: borrows batches, runs the steps over them, answers for each. Never retries, publishes or
//! decides what a failure means.

use super::journal::Line;
use super::slots::Slots;
use super::spec::StageSpec;
use super::steps::{Gone, Halt, Portion, StageRun};
use super::trace;
use super::wake::Slot;
use crate::shell::Lifeline;
use bulkhead_core::batch::{Outcome, Rejection};
use bulkhead_core::deadline::passed;
use bulkhead_core::fault::{Fault, FaultClass};
use bulkhead_core::link::Borrower;
use bulkhead_core::machine::Machine;
use bulkhead_core::phases::Phases;
use bulkhead_core::stage::{StageEffect, StageEvent, StageLink, Work};
use bulkhead_core::supervisor::{Charge, Exit, Signal};
use bulkhead_core::trial::Mode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// One place for a worker in a stage; it outlives the incarnations that fill it.
#[derive(Clone)]
pub(crate) struct Seat {
    pub(crate) slots: Arc<Slots>,
    pub(crate) stage: usize,
    pub(crate) borrower: Borrower,
    /// The process that its steps run in; 0 where they run in the daemon's.
    pub(crate) pid: Arc<AtomicU32>,
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
        let mut run = match self.build(lifeline) {
            Ok(run) => run,
            Err(halt) => return self.exit(halt),
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
            let call = match self.borrow(lifeline, &mut run) {
                Ok(call) => call,
                Err(halt) => return self.exit(halt),
            };
            lifeline.beat();
            let call = self.in_time(lifeline, call);
            if call.is_empty() {
                continue;
            }
            call.iter().for_each(|work| trace::tried(&self.slots.spec, &self.spec().name, work));
            line.holds(call.iter().map(|work| &*work.batch), None);
            let worked = self.work(lifeline, &mut run, &call, &line);
            line.clear();
            if let Err(halt) = worked {
                return self.exit(halt);
            }
        }
    }

    /// Builds the steps, in a process of their own where the stage wants it.
    fn build(&self, lifeline: &Lifeline) -> Result<StageRun, Halt> {
        let (timer, seat) = (Instant::now(), self.clone());
        let over = move || seat.slot().wake();
        let run = StageRun::build(self.spec(), &self.slots.spec.name, self.borrower.0, lifeline, over)?;
        if let Some(pid) = run.pid() {
            let labels = [&*self.slots.spec.name, &*self.spec().name];
            self.slots.metrics.worker_process_start_seconds.with(labels).observe(timer.elapsed().as_secs_f64());
            self.pid.store(pid, Ordering::Release);
        }
        Ok(run)
    }

    /// How the incarnation ends for this.
    fn exit(&self, halt: Halt) -> Exit {
        match halt {
            Halt::Stopped => Exit::Done,
            Halt::Fault(fault) => Exit::Failed(fault),
            Halt::Gone(Gone { exit, died }) => {
                if let Some(reason) = died {
                    self.count_process(reason);
                }
                exit
            }
        }
    }

    fn count_process(&self, reason: &str) {
        let labels = [&*self.slots.spec.name, &*self.spec().name, reason];
        self.slots.metrics.worker_process_ended.with(labels).inc();
    }

    /// Waits for work, at least one batch. Batches on which there is nothing to do pass through here.
    fn borrow(&self, lifeline: &Lifeline, run: &mut StageRun) -> Result<Vec<Work>, Halt> {
        lifeline.idle();
        loop {
            let now = || lifeline.clock().now();
            let effects = self.slot().wait_for(lifeline, |link| {
                if !run.is_alive() {
                    return Ok(Vec::new());
                }
                let effects = link.step(StageEvent::Ask(self.borrower), now());
                match effects.last() {
                    Some(StageEffect::Idle(until)) if effects.len() == 1 => Err(*until),
                    _ => Ok(effects),
                }
            });
            let effects = effects.map_err(|signal| match signal {
                Signal::Kill => Halt::Gone(Exit::Killed.into()),
                Signal::Run | Signal::Drain => Halt::Stopped,
            })?;
            let call = self.perform(effects);
            if !call.is_empty() {
                return Ok(call);
            }
            if !run.is_alive() {
                return Err(run.found_dead());
            }
        }
    }

    /// Rejects the records whose deadline has passed; what is left to do.
    fn in_time(&self, lifeline: &Lifeline, call: Vec<Work>) -> Vec<Work> {
        let now = lifeline.clock().wall();
        let labels = [&*self.slots.spec.name, &*self.spec().name];
        let mut left = Vec::with_capacity(call.len());
        for mut work in call {
            for index in std::mem::take(&mut work.todo) {
                let Some(fault) = passed(&work.batch.records[index as usize].record, now) else {
                    work.todo.push(index);
                    continue;
                };
                self.slots.metrics.records_expired.with(labels).inc();
                let (stage, incarnation) = (Arc::clone(&self.spec().name), lifeline.incarnation().0);
                let why = Rejection { stage, step: None, fault, attempts: work.attempt, incarnation };
                self.tell(lifeline, StageEvent::Verdict(work.loan, index, Outcome::Rejected(Box::new(why))));
            }
            if work.todo.is_empty() {
                self.tell(lifeline, StageEvent::Done(work.loan, Vec::new()));
            } else {
                left.push(work);
            }
        }
        left
    }

    /// How long the batches waited, how long the call took, and on what.
    fn observe(&self, call: &[Work], took: Duration, phases: Option<Phases>) {
        let (metrics, labels) = (&self.slots.metrics, [&*self.slots.spec.name, &*self.spec().name]);
        let queue = metrics.stage_queue_seconds.with(labels);
        call.iter().for_each(|work| queue.observe(work.waited.as_secs_f64()));
        metrics.stage_seconds.with(labels).observe(took.as_secs_f64());
        let Some(Phases { preprocess, infer, postprocess }) = phases else { return };
        metrics.stage_preprocess_seconds.with(labels).observe(preprocess.as_secs_f64());
        metrics.stage_infer_seconds.with(labels).observe(infer.as_secs_f64());
        metrics.stage_postprocess_seconds.with(labels).observe(postprocess.as_secs_f64());
    }

    /// Runs the steps and answers for each batch. An error ends this incarnation.
    fn work(&self, lifeline: &Lifeline, run: &mut StageRun, call: &[Work], line: &Line) -> Result<(), Halt> {
        let timer = Instant::now();
        let answered = match call {
            [work] if work.mode == Mode::Single => self.one_by_one(lifeline, run, work, line),
            _ => together(run, call),
        };
        self.observe(call, timer.elapsed(), run.take_phases());
        match answered {
            Ok(answers) => answers.into_iter().for_each(|answer| self.tell(lifeline, answer)),
            Err(Halt::Stopped) => {}
            Err(Halt::Fault(fault)) if fault.class == FaultClass::Transient => {
                call.iter().for_each(|work| self.defer(lifeline, work, &fault));
            }
            Err(halt) => return Err(halt),
        }
        Ok(())
    }

    /// The batch is to be tried again later.
    fn defer(&self, lifeline: &Lifeline, work: &Work, fault: &Fault) {
        let (pipeline, stage) = (&*self.slots.spec.name, &*self.spec().name);
        tracing::warn!(pipeline, stage, batch = %work.batch.ticket, attempt = work.attempt,
            first = %work.batch.first(), %fault, "transient fault, the batch is tried again");
        self.slots.metrics.stage_retries.with([pipeline, stage]).inc();
        let incarnation = lifeline.incarnation().0;
        let (loan, fault, jitter) = (work.loan, fault.clone(), rand::random());
        self.tell(lifeline, StageEvent::Failed { loan, fault, incarnation, jitter });
    }

    /// Record by record: a crash or a fault then has a name, and verdicts already given stay.
    fn one_by_one(
        &self,
        lifeline: &Lifeline,
        run: &mut StageRun,
        work: &Work,
        line: &Line,
    ) -> Result<Vec<StageEvent>, Halt> {
        for index in &work.todo {
            if lifeline.signal() == Signal::Kill || !lifeline.current() {
                return Err(Halt::Stopped);
            }
            self.tell(lifeline, StageEvent::Begin(work.loan, *index));
            line.holds([&*work.batch], Some(work.batch.records[*index as usize].offset));
            lifeline.beat();
            let portion = Portion { todo: std::slice::from_ref(index), ..Portion::all(work) };
            for (index, outcome) in run.run(&[portion])?.into_iter().flatten() {
                self.tell(lifeline, StageEvent::Verdict(work.loan, index, outcome));
            }
        }
        Ok(vec![StageEvent::Done(work.loan, Vec::new())])
    }

    fn tell(&self, lifeline: &Lifeline, event: StageEvent) {
        let now = lifeline.clock().now();
        let effects = self.slot().lock().step(event, now);
        drop(self.perform(effects));
    }

    fn perform(&self, effects: Vec<StageEffect>) -> Vec<Work> {
        let mut lent = Vec::new();
        for effect in effects {
            match effect {
                StageEffect::Lend(work) => lent.push(work),
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
            Exit::Crashed(message) => Some(message.clone()),
            Exit::Hung => Some(format!("no answer within {:?}", self.spec().timeout)),
            Exit::Done | Exit::Killed | Exit::Failed(_) => None,
        };
        let crashed = crash.is_some();
        let labels = [&*self.slots.spec.name, &*self.spec().name, exit.label()];
        self.slots.metrics.stage_restarts.with(labels).inc();
        self.pid.store(0, Ordering::Release);
        if self.spec().process.is_some() && matches!(exit, Exit::Hung | Exit::Panicked(_)) {
            self.count_process(exit.label());
        }
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

/// One call over all records of these batches, an answer for each.
fn together(run: &mut StageRun, call: &[Work]) -> Result<Vec<StageEvent>, Halt> {
    let portions: Vec<Portion<'_>> = call.iter().map(Portion::all).collect();
    let outcomes = run.run(&portions)?;
    Ok(call.iter().zip(outcomes).map(|(work, outcomes)| StageEvent::Done(work.loan, outcomes)).collect())
}
