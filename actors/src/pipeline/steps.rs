//! Runs a stage's steps back to back over the records of one call. Never decides what a fault leads to.

use super::spec::StageSpec;
use crate::step::Step;
use bulkhead_core::batch::{Batch, Outcome, Rejection};
use bulkhead_core::fault::{Fault, FaultClass};
use bulkhead_core::ids::Incarnation;
use bulkhead_core::record::Record;
use bulkhead_core::stage::Work;
use bulkhead_core::verdict::{Emitted, Verdict};
use std::sync::Arc;

/// Why there is no answer for a batch.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The worker was told to stop.
    Stopped,
    /// The batch as a whole failed.
    Fault(Fault),
}

struct Named {
    name: Arc<str>,
    step: Box<dyn Step>,
}

/// The steps of one incarnation.
pub(crate) struct StepRun {
    stage: Arc<str>,
    emit_max: usize,
    incarnation: u32,
    steps: Vec<Named>,
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

    fn rows(self) -> impl Iterator<Item = Row> {
        self.todo.iter().map(move |index| Row::new(self.batch, *index, self.attempt))
    }
}

/// A source record on its way through the steps.
struct Row {
    index: u32,
    attempt: u32,
    /// What it is now; what came of it once `ended` is set does not matter.
    records: Emitted,
    ended: Option<Outcome>,
}

impl StepRun {
    /// Fresh steps.
    pub(crate) fn build(spec: &StageSpec, incarnation: Incarnation) -> Result<Self, Fault> {
        let named =
            spec.steps.iter().map(|factory| Ok(Named { name: Arc::from(factory.name()), step: factory.build()? }));
        let steps = named.collect::<Result<_, Fault>>()?;
        Ok(Self { stage: Arc::clone(&spec.name), emit_max: spec.emit_max, incarnation: incarnation.0, steps })
    }

    /// Runs all steps over the records of all portions, each step over all that are left; the outcomes of each portion.
    pub(crate) fn run(&mut self, portions: &[Portion<'_>]) -> Result<Vec<Vec<(u32, Outcome)>>, Halt> {
        let mut rows: Vec<Row> = portions.iter().flat_map(|portion| portion.rows()).collect();
        for position in 0..self.steps.len() {
            self.run_step(position, &mut rows)?;
        }
        let mut outcomes = rows.into_iter().map(|row| (row.index, row.ended.unwrap_or(Outcome::Emitted(row.records))));
        Ok(portions.iter().map(|portion| outcomes.by_ref().take(portion.todo.len()).collect()).collect())
    }

    fn run_step(&mut self, position: usize, rows: &mut [Row]) -> Result<(), Halt> {
        let named = &mut self.steps[position];
        let mut inputs: Vec<Record> = Vec::with_capacity(rows.len());
        let mut counts = Vec::with_capacity(rows.len());
        for row in rows.iter_mut() {
            let before = inputs.len();
            if row.ended.is_none() {
                inputs.extend(std::mem::take(&mut row.records));
            }
            counts.push(inputs.len() - before);
        }
        if inputs.is_empty() {
            return Ok(());
        }
        let verdicts = named.step.run(&inputs).map_err(Halt::Fault)?;
        if verdicts.len() != inputs.len() {
            let message =
                format!("step {} answered {} verdicts for {} records", named.name, verdicts.len(), inputs.len());
            return Err(Halt::Fault(Fault::fatal("step_contract", message)));
        }
        let mut verdicts = verdicts.into_iter();
        let place =
            Place { stage: &self.stage, step: &named.name, emit_max: self.emit_max, incarnation: self.incarnation };
        for (row, count) in rows.iter_mut().zip(counts) {
            row.take(verdicts.by_ref().take(count), &place);
        }
        Ok(())
    }
}

/// Where a verdict is given.
struct Place<'run> {
    stage: &'run Arc<str>,
    step: &'run Arc<str>,
    emit_max: usize,
    incarnation: u32,
}

impl Row {
    fn new(batch: &Batch, index: u32, attempt: u32) -> Self {
        let records = match &batch.outcomes[index as usize] {
            Outcome::Emitted(records) => records.clone(),
            _ => Emitted::from_buf([batch.records[index as usize].record.clone()]),
        };
        Self { index, attempt, records, ended: None }
    }

    /// What the step said of the records that this source record had become: one rejection rejects it whole.
    fn take(&mut self, verdicts: impl Iterator<Item = Verdict>, place: &Place<'_>) {
        let (mut dropped, mut answered) = (None, false);
        for verdict in verdicts {
            answered = true;
            match verdict {
                Verdict::Emit(records) => self.records.extend(records),
                Verdict::Drop(reason) => dropped = Some(reason),
                Verdict::Reject(fault) => {
                    self.reject(fault, place);
                    return;
                }
            }
        }
        if self.records.len() > place.emit_max {
            let message = format!("became {} records, emit_max is {}", self.records.len(), place.emit_max);
            self.reject(Fault::poison("too_many_records", message), place);
        } else if answered && self.records.is_empty() {
            self.ended = Some(Outcome::Dropped(dropped.unwrap_or_else(|| "emitted nothing".to_owned())));
        }
    }

    fn reject(&mut self, fault: Fault, place: &Place<'_>) {
        debug_assert_ne!(fault.class, FaultClass::Fatal, "a stage's own fault is no verdict on a record");
        let (stage, step) = (Arc::clone(place.stage), Some(Arc::clone(place.step)));
        let (attempts, incarnation) = (self.attempt, place.incarnation);
        self.records = Emitted::new();
        self.ended = Some(Outcome::Rejected(Box::new(Rejection { stage, step, fault, attempts, incarnation })));
    }
}
