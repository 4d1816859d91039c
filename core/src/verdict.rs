//! What a step says of one record. Never says what is done about it.

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
