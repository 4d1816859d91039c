//! Runs a stage's steps back to back over rows: source records as what they have become so far. In the worker's thread or
//! in its child process alike. Never knows a batch, and never decides what a fault leads to.

use crate::step::{Step, StepFactory};
use bulkhead_core::fault::{Fault, FaultClass};
use bulkhead_core::phases::Phases;
use bulkhead_core::record::{Origin, Record, output_of};
use bulkhead_core::verdict::{Emitted, Ended, Verdict};
use std::sync::Arc;

struct Named {
    name: Arc<str>,
    step: Box<dyn Step>,
}

/// The steps of one incarnation of a worker, or of whoever else runs a stage's steps back to back.
pub struct StepRun {
    emit_max: usize,
    steps: Vec<Named>,
    phases: Option<Phases>,
}

/// A source record on its way through the steps.
struct Row {
    /// What it is now; what came of it once `ended` is set does not matter.
    records: Emitted,
    /// Records made of it that are on their way to an output: no later step sees them.
    sent: Emitted,
    ended: Option<Ended>,
}

impl StepRun {
    /// Fresh steps; one record may become at most `emit_max` records.
    ///
    /// # Errors
    /// What a step cannot be built without.
    pub fn build(factories: &[Arc<dyn StepFactory>], emit_max: usize) -> Result<Self, Fault> {
        let named = factories.iter().map(|f| Ok(Named { name: Arc::from(f.name()), step: f.build()? }));
        Ok(Self { emit_max, steps: named.collect::<Result<_, Fault>>()?, phases: None })
    }

    /// Runs all steps over the rows, each step over all that are left; what became of each row, in their order. `origins`
    /// says where each row's source record lies, as many as rows; `None` where they lie in no log yet.
    ///
    /// # Errors
    /// The first fault of a step that concerns all rows; what earlier steps made of them is gone.
    pub fn run(&mut self, rows: Vec<Emitted>, origins: Option<&[Origin]>) -> Result<Vec<Ended>, Fault> {
        debug_assert!(origins.is_none_or(|origins| origins.len() == rows.len()), "each row has its origin");
        let mut rows: Vec<Row> = rows.into_iter().map(Row::new).collect();
        for position in 0..self.steps.len() {
            self.run_step(position, &mut rows, origins)?;
        }
        Ok(rows.into_iter().map(Row::end).collect())
    }

    /// What the runs since it was last asked spent their time on, where a step runs a model.
    pub(crate) fn take_phases(&mut self) -> Option<Phases> {
        self.phases.take()
    }

    fn run_step(&mut self, position: usize, rows: &mut [Row], origins: Option<&[Origin]>) -> Result<(), Fault> {
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
        // One for each input: a row that became several records lends its origin to each of them.
        let origins: Option<Vec<Origin>> = origins.map(|origins| {
            let each = origins.iter().zip(&counts);
            each.flat_map(|(origin, count)| std::iter::repeat_n(*origin, *count)).collect()
        });
        let verdicts = named.step.run(&inputs, origins.as_deref())?;
        self.phases = match (self.phases, named.step.phases()) {
            (Some(before), Some(spent)) => Some(before + spent),
            (before, spent) => before.or(spent),
        };
        if verdicts.len() != inputs.len() {
            let message =
                format!("step {} answered {} verdicts for {} records", named.name, verdicts.len(), inputs.len());
            return Err(Fault::fatal("step_contract", message));
        }
        let mut verdicts = verdicts.into_iter();
        let step = u32::try_from(position).unwrap_or(u32::MAX);
        for (row, count) in rows.iter_mut().zip(counts) {
            row.take(verdicts.by_ref().take(count), step, self.emit_max);
        }
        Ok(())
    }
}

impl Row {
    fn new(records: Emitted) -> Self {
        let mut row = Self { records: Emitted::new(), sent: Emitted::new(), ended: None };
        row.emit(records);
        row
    }

    fn emit(&mut self, records: Emitted) {
        for record in records {
            let way = if output_of(&record).is_some() { &mut self.sent } else { &mut self.records };
            way.push(record);
        }
    }

    /// What became of it: of records to the same output, those of earlier steps come first.
    fn end(self) -> Ended {
        let Self { records, mut sent, ended } = self;
        ended.unwrap_or_else(|| {
            sent.extend(records);
            Ended::Emitted(sent)
        })
    }

    /// What the step said of the records that this source record had become: one rejection rejects it whole.
    fn take(&mut self, verdicts: impl Iterator<Item = Verdict>, step: u32, emit_max: usize) {
        let (mut dropped, mut answered) = (None, false);
        for verdict in verdicts {
            answered = true;
            match verdict {
                Verdict::Emit(records) => self.emit(records),
                Verdict::Drop(reason) => dropped = Some(reason),
                Verdict::Reject(fault) => {
                    self.reject(fault, step);
                    return;
                }
            }
        }
        let count = self.records.len() + self.sent.len();
        if count > emit_max {
            let message = format!("became {count} records, emit_max is {emit_max}");
            self.reject(Fault::poison("too_many_records", message), step);
        } else if answered && count == 0 {
            self.ended = Some(Ended::Dropped(dropped.unwrap_or_else(|| "emitted nothing".to_owned())));
        }
    }

    fn reject(&mut self, fault: Fault, step: u32) {
        debug_assert_ne!(fault.class, FaultClass::Fatal, "a stage's own fault is no verdict on a record");
        self.records = Emitted::new();
        self.sent = Emitted::new();
        self.ended = Some(Ended::Rejected { step: Some(step), fault });
    }
}
