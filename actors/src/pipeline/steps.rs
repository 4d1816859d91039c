//! A stage's steps over portions of batches, on the worker's own thread or in its child process: records in, outcomes
//! out. Never decides what a fault leads to.

use super::spec::StageSpec;
use crate::shell::{Exit, Lifeline};
use crate::worker::{self, Master, Process, StepRun};
use bulkhead_core::batch::{Batch, Outcome, Rejection};
use bulkhead_core::fault::Fault;
use bulkhead_core::phases::Phases;
use bulkhead_core::record::{Origin, without_output};
use bulkhead_core::stage::Work;
use bulkhead_core::verdict::{Emitted, Ended};
use std::sync::Arc;

/// Why there is no answer for a batch.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The worker was told to stop.
    Stopped,
    /// The batch as a whole failed.
    Fault(Fault),
    /// The steps are gone, and the worker with them.
    Gone(Gone),
}

/// How the steps went.
#[derive(Debug)]
pub(crate) struct Gone {
    /// The worker's exit.
    pub(crate) exit: Exit,
    /// Where its process died: why, as a metric's label.
    pub(crate) died: Option<&'static str>,
}

impl From<Exit> for Gone {
    fn from(exit: Exit) -> Self {
        Self { exit, died: None }
    }
}

impl From<worker::Halt> for Halt {
    fn from(halt: worker::Halt) -> Self {
        Self::Gone(match halt {
            worker::Halt::Fault(fault) => return Self::Fault(fault),
            worker::Halt::Panicked(message) => Exit::Panicked(message).into(),
            worker::Halt::Killed => Exit::Killed.into(),
            worker::Halt::Died(death) => Gone { exit: Exit::Crashed(death.message), died: Some(death.reason) },
        })
    }
}

/// The steps of one incarnation of a worker.
pub(crate) struct StageRun {
    stage: Arc<str>,
    names: Vec<Arc<str>>,
    incarnation: u32,
    place: Place,
}

enum Place {
    Here(StepRun),
    Away(Process),
}

/// What a call is to work on: these records of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Portion<'work> {
    pub(crate) batch: &'work Batch,
    /// Their indices.
    pub(crate) todo: &'work [u32],
    /// How often the batch has been lent, from 1.
    pub(crate) attempt: u32,
}

impl<'work> Portion<'work> {
    pub(crate) fn all(work: &'work Work) -> Self {
        Self { batch: &work.batch, todo: &work.todo, attempt: work.attempt }
    }

    /// The records, each as what earlier stages made of it.
    fn rows(self) -> impl Iterator<Item = Emitted> {
        self.todo.iter().map(move |index| match &self.batch.outcomes[*index as usize] {
            Outcome::Emitted(records) => records.clone(),
            _ => Emitted::from_buf([without_output(self.batch.records[*index as usize].record.clone())]),
        })
    }

    /// Where they lie.
    fn origins(self) -> impl Iterator<Item = Origin> {
        let (partition, attempt) = (self.batch.ticket.assignment.partition, self.attempt);
        let offset = move |index: &u32| self.batch.records[*index as usize].offset;
        self.todo.iter().map(move |index| Origin { partition, offset: offset(index), attempt })
    }
}

impl StageRun {
    /// Fresh steps. `over` is called when a process that they run in has died.
    pub(crate) fn build(
        spec: &StageSpec,
        pipeline: &Arc<str>,
        worker: u32,
        lifeline: &Lifeline,
        over: impl FnOnce() + Send + 'static,
    ) -> Result<Self, Halt> {
        let (stage, incarnation) = (Arc::clone(&spec.name), lifeline.incarnation().0);
        let place = match &spec.process {
            None => Place::Here(StepRun::build(&spec.steps, spec.emit_max).map_err(Halt::Fault)?),
            Some(process) => {
                let (pipeline, stage, steps) = (Arc::clone(pipeline), Arc::clone(&stage), spec.steps.len());
                let master = Master { pipeline, stage, worker, steps };
                Place::Away(Process::start(process, &master, lifeline, over)?)
            }
        };
        let names = spec.steps.iter().map(|step| Arc::from(step.name())).collect();
        Ok(Self { stage, names, incarnation, place })
    }

    /// Fresh steps on the caller's thread.
    pub(crate) fn here(spec: &StageSpec, incarnation: u32) -> Result<Self, Fault> {
        let names = spec.steps.iter().map(|step| Arc::from(step.name())).collect();
        let place = Place::Here(StepRun::build(&spec.steps, spec.emit_max)?);
        Ok(Self { stage: Arc::clone(&spec.name), names, incarnation, place })
    }

    /// The process that the steps run in, where it is not the daemon's.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.place {
            Place::Here(_) => None,
            Place::Away(process) => Some(process.pid()),
        }
    }

    /// Whether the steps can be used.
    pub(crate) fn is_alive(&self) -> bool {
        match &self.place {
            Place::Here(_) => true,
            Place::Away(process) => process.is_alive(),
        }
    }

    /// How steps ended that are not alive and had nothing to do.
    pub(crate) fn found_dead(&mut self) -> Halt {
        match &mut self.place {
            Place::Here(_) => Halt::Stopped,
            Place::Away(process) => process.found_dead().into(),
        }
    }

    /// Runs all steps over the records of all portions in one go; the outcomes of each portion.
    pub(crate) fn run(&mut self, portions: &[Portion<'_>]) -> Result<Vec<Vec<(u32, Outcome)>>, Halt> {
        let rows = portions.iter().flat_map(|portion| portion.rows()).collect();
        let origins: Vec<Origin> = portions.iter().flat_map(|portion| portion.origins()).collect();
        let ended = match &mut self.place {
            Place::Here(run) => run.run(rows, Some(&origins)).map_err(Halt::Fault)?,
            Place::Away(process) => process.run(rows, &origins)?,
        };
        let mut ended = ended.into_iter();
        let outcomes = portions.iter().map(|portion| {
            let indices = portion.todo.iter().copied();
            indices.zip(ended.by_ref()).map(|(index, ended)| (index, self.outcome(ended, portion.attempt))).collect()
        });
        Ok(outcomes.collect())
    }

    /// What the runs since it was last asked spent their time on, where a step runs a model.
    pub(crate) fn take_phases(&mut self) -> Option<Phases> {
        match &mut self.place {
            Place::Here(run) => run.take_phases(),
            Place::Away(process) => process.take_phases(),
        }
    }

    fn outcome(&self, ended: Ended, attempts: u32) -> Outcome {
        match ended {
            Ended::Emitted(records) => Outcome::Emitted(records),
            Ended::Dropped(reason) => Outcome::Dropped(reason),
            Ended::Rejected { step, fault } => {
                let step = step.and_then(|step| self.names.get(usize::try_from(step).ok()?)).map(Arc::clone);
                let (stage, incarnation) = (Arc::clone(&self.stage), self.incarnation);
                Outcome::Rejected(Box::new(Rejection { stage, step, fault, attempts, incarnation }))
            }
        }
    }
}
