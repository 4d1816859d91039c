//! The machines of the flow, each alone against a naive model of it. Never wires two of them: that is the simulation's.

mod gather;
mod lane;
mod link;
mod partition;
mod source;
mod stage;
mod trial;
mod unexplained;

use bulkhead_core::batch::Batch;
use bulkhead_core::ids::{Assignment, BatchSeq, Generation, Offset, Partition, Ticket};
use bulkhead_core::record::{Record, SourceRecord};

fn assignment(partition: i32, generation: u64) -> Assignment {
    Assignment { partition: Partition(partition), generation: Generation(generation) }
}

fn record(offset: i64) -> SourceRecord {
    SourceRecord { offset: Offset(offset), record: Record::default() }
}

/// A batch of these offsets.
fn batch(assignment: Assignment, seq: u64, offsets: std::ops::Range<i64>) -> Batch {
    Batch::new(Ticket { assignment, seq: BatchSeq(seq) }, offsets.map(record).collect())
}
