//! Runs a pipeline's stages over one record at a time, without a log and without actors: the real links decide, the real steps
//! run, and time passes only where something waits for it. For tests of a config. Never publishes anything.

use super::spec::{PipelineSpec, StageSpec};
use super::steps::{Gone, Halt, Portion, StageRun};
use crate::shell::Exit;
use crate::supervisor::tombstone::{catch, note_panics};
use bulkhead_core::batch::{Batch, Outcome, Rejection};
use bulkhead_core::fault::{Fault, FaultClass};
use bulkhead_core::gather::Gather;
use bulkhead_core::ids::{Assignment, BatchSeq, Generation, Partition, Ticket};
use bulkhead_core::letter::letter;
use bulkhead_core::link::Borrower;
use bulkhead_core::machine::Machine;
use bulkhead_core::record::{Record, SourceRecord};
use bulkhead_core::stage::{StageEffect, StageEvent, StageLink, Work};
use bulkhead_core::time::{Now, WallMs};
use bulkhead_core::trial::Patience;
use bulkhead_core::verdict::Emitted;
use std::collections::VecDeque;
use std::sync::Arc;

/// The one worker there is.
const WORKER: Borrower = Borrower(0);
/// Where the records are said to lie.
const PARTITION: Partition = Partition(0);

/// What a stage meets at a record in place of its steps.
#[derive(Clone, Debug)]
pub struct Injection {
    /// The stage.
    pub stage: String,
    /// What happens there, at every attempt.
    pub act: Injected,
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Injected {
    /// The steps answer with this fault: a transient one is tried again as the stage's `retry` says.
    Fault(Fault),
    /// The worker dies of this.
    Crash(String),
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// It left as these records; [`bulkhead_core::record::output_of`] tells where each goes.
    Sent(Vec<Record>),
    /// It ended on purpose, for this reason.
    Dropped(String),
    /// It is this dead letter.
    Letter(Box<Record>),
}

/// Why there is no ending.
#[derive(Debug, thiserror::Error)]
pub enum Unended {
    /// A stage cannot go on, or would try again until something outside has changed.
    #[error("stage {stage}: {fault}")]
    Stage {
        /// The stage.
        stage: Arc<str>,
        /// What it met.
        fault: Fault,
    },
    /// A stage neither works nor waits for a time.
    #[error("stage {0} waits for nothing: this is a bug in bulkhead")]
    Stuck(Arc<str>),
}

/// A pipeline's stages with their steps built.
pub struct Rehearsal {
    spec: PipelineSpec,
    runs: Vec<Worker>,
}

/// A stage's steps, and how often they were built.
struct Worker {
    run: StageRun,
    incarnation: u32,
}

impl Rehearsal {
    /// Builds all steps, in this process whatever the stages' isolation.
    ///
    /// # Errors
    /// What a step cannot be built without.
    pub fn new(spec: PipelineSpec) -> Result<Self, Unended> {
        note_panics();
        let runs = spec.stages.iter().map(|stage| Worker::build(stage, 1)).collect::<Result<_, _>>()?;
        Ok(Self { spec, runs })
    }

    /// What becomes of the record; `wall` is when it fails, where it does.
    ///
    /// # Errors
    /// A stage met a fault of the world or of its own, which no record can be blamed for.
    pub fn run(
        &mut self,
        record: SourceRecord,
        injection: Option<&Injection>,
        wall: WallMs,
    ) -> Result<Ending, Unended> {
        let assignment = Assignment { partition: PARTITION, generation: Generation(1) };
        let mut batch = Batch::new(Ticket { assignment, seq: BatchSeq(0) }, vec![record]);
        for (stage, worker) in self.spec.stages.iter().zip(&mut self.runs) {
            let injected = injection.filter(|injection| *injection.stage == *stage.name).map(|found| &found.act);
            batch = pass(stage, worker, batch, injected)?;
        }
        Ok(match batch.outcomes.remove(0) {
            Outcome::Emitted(records) => Ending::Sent(records.into_vec()),
            Outcome::Dropped(reason) => Ending::Dropped(reason),
            Outcome::Rejected(why) => {
                Ending::Letter(Box::new(letter(&self.spec.letter_spec(), PARTITION, &batch.records[0], &why, wall)))
            }
            // No ledger is asked here.
            Outcome::Pending | Outcome::Duplicate(_) | Outcome::Conflict(_) => {
                Ending::Sent(Emitted::from_buf([batch.records[0].record.clone()]).into_vec())
            }
        })
    }
}

impl Worker {
    fn build(stage: &StageSpec, incarnation: u32) -> Result<Self, Unended> {
        let failed = |fault| Unended::Stage { stage: Arc::clone(&stage.name), fault };
        Ok(Self { run: StageRun::here(stage, incarnation).map_err(failed)?, incarnation })
    }
}

/// Passes the batch through the stage, with all retries and restarts that it takes.
fn pass(stage: &StageSpec, worker: &mut Worker, batch: Batch, injected: Option<&Injected>) -> Result<Batch, Unended> {
    let (crashes_max, retry) = (stage.crashes_max, stage.retry.clone());
    let patience = Patience { stage: Arc::clone(&stage.name), crashes_max, retry };
    let (mut link, mut now) = (StageLink::new(1, patience, Gather::OFF), Now(0));
    let mut effects = VecDeque::from(link.step(StageEvent::Push(batch), now));
    loop {
        let Some(effect) = effects.pop_front() else {
            effects.extend(link.step(StageEvent::Ask(WORKER), now));
            continue;
        };
        match effect {
            StageEffect::Forward(batch) => return Ok(batch),
            StageEffect::Lend(work) => {
                for event in answer(stage, worker, &work, injected)? {
                    effects.extend(link.step(event, now));
                }
            }
            StageEffect::Idle(Some(until)) => now = now.max(until),
            StageEffect::Idle(None) => return Err(Unended::Stuck(Arc::clone(&stage.name))),
            StageEffect::Wake | StageEffect::Late | StageEffect::Overflow => {}
            StageEffect::Culprit { .. } | StageEffect::Charge(_) => {}
        }
    }
}

/// What the worker says of the work.
fn answer(
    stage: &StageSpec,
    worker: &mut Worker,
    work: &Work,
    injected: Option<&Injected>,
) -> Result<Vec<StageEvent>, Unended> {
    let (loan, incarnation) = (work.loan, worker.incarnation);
    match injected {
        Some(Injected::Fault(fault)) if fault.class == FaultClass::Transient => {
            // The longest wait: a shorter one only means more attempts.
            return Ok(vec![StageEvent::Failed { loan, fault: fault.clone(), incarnation, jitter: u32::MAX }]);
        }
        Some(Injected::Fault(fault)) => {
            let (stage, fault) = (Arc::clone(&stage.name), fault.clone());
            let why = Rejection { stage, step: None, fault, attempts: work.attempt, incarnation };
            let rejected = |index: &u32| (*index, Outcome::Rejected(Box::new(why.clone())));
            return Ok(vec![StageEvent::Done(loan, work.todo.iter().map(rejected).collect())]);
        }
        Some(Injected::Crash(reason)) => return died(stage, worker, work, reason.clone()),
        None => {}
    }
    let failed = |fault| Err(Unended::Stage { stage: Arc::clone(&stage.name), fault });
    match catch(|| worker.run.run(&[Portion::all(work)])) {
        Ok(Ok(outcomes)) => Ok(vec![StageEvent::Done(loan, outcomes.into_iter().flatten().collect())]),
        Ok(Err(Halt::Fault(fault))) => failed(fault),
        Ok(Err(Halt::Gone(Gone { exit, .. }))) => died(stage, worker, work, exit.to_string()),
        Ok(Err(Halt::Stopped)) => failed(Fault::fatal("stopped", "the steps were stopped")),
        Err(Exit::Panicked(message)) => died(stage, worker, work, format!("panic: {message}")),
        Err(exit) => died(stage, worker, work, exit.to_string()),
    }
}

/// The worker dies over the record and is built anew.
fn died(stage: &StageSpec, worker: &mut Worker, work: &Work, crash: String) -> Result<Vec<StageEvent>, Unended> {
    let incarnation = worker.incarnation;
    *worker = Worker::build(stage, incarnation + 1)?;
    let begins = work.todo.first().map(|index| StageEvent::Begin(work.loan, *index));
    let down = StageEvent::Down { borrower: WORKER, incarnation, crash: Some(crash) };
    Ok(begins.into_iter().chain([down]).collect())
}
