//! Lets a step judge records by expressions, one at a time. Never decides what a record becomes.

use super::{ExpressionLimits, FAILED, Place, Subject, TOO_MUCH, Value};
use crate::steps::StepContext;
use bulkhead_core::fault::{Fault, FaultClass};
use bulkhead_core::record::{Origin, Record};
use bulkhead_core::verdict::Verdict;
use std::sync::Arc;

/// What a step's expressions are bounded by, and where its records come from.
#[derive(Clone, Debug)]
pub struct Judge {
    topic: Arc<str>,
    /// What one run of an expression may take.
    pub limits: ExpressionLimits,
    /// How many records one record may become.
    pub emit_max: usize,
}

impl Judge {
    /// The judge of a step.
    #[must_use]
    pub fn new(context: StepContext<'_>) -> Self {
        Self { topic: Arc::from(context.source), limits: context.expressions, emit_max: context.call.emit_max }
    }

    /// A value as the JSON of a record.
    ///
    /// # Errors
    /// The record's own fault: JSON cannot say it, or it is larger than a result may be.
    pub fn json(&self, value: &Value) -> Result<Vec<u8>, Fault> {
        value.to_json(self.limits.bytes_max).map_err(|why| Fault::poison(FAILED, why))
    }

    /// A text that is to be a record's value.
    ///
    /// # Errors
    /// The record's own fault: it is larger than a result may be.
    pub fn bounded(&self, text: String) -> Result<String, Fault> {
        if text.len() <= self.limits.bytes_max {
            return Ok(text);
        }
        let (bytes, bytes_max) = (text.len(), self.limits.bytes_max);
        Err(Fault::poison(TOO_MUCH, format_args!("the result has {bytes} bytes, {bytes_max} are possible")))
    }

    /// The verdict on each record; a fault that is the record's own rejects it.
    ///
    /// # Errors
    /// The first fault that is not a record's own.
    pub fn verdicts(
        &self,
        records: &[Record],
        origins: Option<&[Origin]>,
        mut judge: impl FnMut(&Record, &Subject<'_>) -> Result<Verdict, Fault>,
    ) -> Result<Vec<Verdict>, Fault> {
        let one = |(index, record)| {
            let origin: Option<&Origin> = origins.and_then(|origins| origins.get(index));
            let place = origin.map(|origin| Place { topic: &self.topic, origin: *origin });
            match Subject::new(record, place).and_then(|subject| judge(record, &subject)) {
                Err(fault) if fault.class == FaultClass::Poison => Ok(Verdict::Reject(fault)),
                judged => judged,
            }
        };
        records.iter().enumerate().map(one).collect()
    }
}
