//! Typed ids and positions: what tells an offset from a position and one assignment from the next.
//! Never converts between them silently.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A partition's number within its topic.
    Partition(i32)
);
id!(
    /// Where one record lies in its partition.
    Offset(i64)
);
id!(
    /// The next offset to read: one past the last record that is done.
    Position(i64)
);
id!(
    /// The number of an assignment of one partition to this process. A counter, so that a partition which
    /// leaves and comes back is told from one that stayed (`notes`: a zombie can be given the same partition again).
    Generation(u64)
);
id!(
    /// The place of a batch among the batches of its partition and generation, from 0 without gaps.
    BatchSeq(u64)
);
id!(
    /// The number of a loan on one link; only the answer that carries the current one counts.
    LoanId(u64)
);
id!(
    /// How many times an actor has been built, from 1.
    Incarnation(u32)
);
id!(
    /// How often a dead letter has been sent back on purpose; 0 for a record's first journey.
    Round(u32)
);
id!(
    /// The place of a segment in a partition's ledger, from 0 without gaps.
    SegmentSeq(u64)
);

impl Offset {
    /// The position after this record.
    #[must_use]
    pub const fn next(self) -> Position {
        Position(self.0 + 1)
    }
}

impl Generation {
    /// The generation of the next assignment.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl SegmentSeq {
    /// The segment after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Incarnation {
    /// The first incarnation of an actor.
    pub const FIRST: Self = Self(1);

    /// The incarnation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One assignment of one partition: what late work is fenced by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Assignment {
    /// The partition.
    pub partition: Partition,
    /// Which of its assignments to this process.
    pub generation: Generation,
}

/// Names a batch for as long as it is unsettled, and tells its partition what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// The assignment the batch was cut under.
    pub assignment: Assignment,
    /// Its place in that assignment.
    pub seq: BatchSeq,
}

impl fmt::Display for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}/g{}", self.partition, self.generation)
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/b{}", self.assignment, self.seq)
    }
}
