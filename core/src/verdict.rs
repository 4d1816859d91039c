//! What a step says of one record, and what a stage's steps together made of it. Never says what is done about it.

use crate::fault::Fault;
use crate::record::Record;
use smallvec::SmallVec;

/// The records that one record became; one in the common case.
pub type Emitted = SmallVec<[Record; 1]>;

/// A step's answer for one record.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It became these records (none is written as `Drop`).
    Emit(Emitted),
    /// It ends here on purpose, for this reason.
    Drop(String),
    /// It cannot be processed; it becomes a dead letter.
    Reject(Fault),
}

impl Verdict {
    /// The record became one record.
    #[must_use]
    pub fn one(record: Record) -> Self {
        let mut emitted = Emitted::new();
        emitted.push(record);
        Self::Emit(emitted)
    }
}

/// What the steps of one stage, run back to back, made of one record.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// It left as these records.
    Emitted(Emitted),
    /// It ended on purpose, for this reason.
    Dropped(String),
    /// It cannot be processed.
    Rejected {
        /// Which of the stage's steps said so, from 0; none where the stage itself did.
        step: Option<u32>,
        /// What is wrong with it.
        fault: Fault,
    },
}
