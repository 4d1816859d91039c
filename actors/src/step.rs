//! The step trait: one operation inside a stage. A step never retries, publishes, commits or knows its neighbours.

use bulkhead_core::fault::Fault;
use bulkhead_core::phases::Phases;
use bulkhead_core::record::{Origin, Record};
use bulkhead_core::verdict::Verdict;

/// One operation of a stage, owned by one worker and called on that worker's own thread. It may block.
///
/// A panic or a hang costs the worker its incarnation, no more: the batch is handed to the next one.
pub trait Step: Send {
    /// Answers for each record, in the order of `records` and exactly as many. `origins` says where each of them lies in
    /// the source topic, as many as records (records that one source record became share its origin); `None` at the
    /// edge, where a record has no place in a log yet.
    ///
    /// # Errors
    /// A fault of the whole batch: `Transient` is tried again after a backoff, `Fatal` ends the worker. A record's
    /// own fault is not an error but a [`Verdict::Reject`].
    fn run(&mut self, records: &[Record], origins: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault>;

    /// What the last run spent its time on; `None` for a step that runs no model.
    fn phases(&self) -> Option<Phases> {
        None
    }
}

/// Builds a step for a new incarnation of a worker: nothing of the old one is left over.
pub trait StepFactory: Send + Sync {
    /// The step's name in config, metrics and dead letters.
    fn name(&self) -> &str;

    /// A fresh step.
    ///
    /// # Errors
    /// What is missing, e.g. a model file; the worker does not start.
    fn build(&self) -> Result<Box<dyn Step>, Fault>;
}
