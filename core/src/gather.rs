//! How many waiting batches one call of a stage works on, and how long it waits for more of them. Never takes one itself.

use crate::time::Now;
use std::time::Duration;

/// Dynamic batching: several batches, of any partitions, in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gather {
    /// Records that are gathered at most. A batch is never split, so one that is larger is worked on alone.
    pub records_max: u32,
    /// How long the oldest batch waits for others.
    pub wait: Duration,
}

/// A batch that waits, as the decision sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its records that want a verdict.
    pub records: u32,
    /// Since when it has been waiting.
    pub since: Now,
    /// It is tried again, or record by record: its faults must be its own.
    pub alone: bool,
}

/// What to do with the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gathered {
    /// Work on so many batches from its front, at least one.
    Take(usize),
    /// More may come: decide again then, or when something came.
    Wait(Now),
}

impl Gather {
    /// One batch a call, at once.
    pub const OFF: Self = Self { records_max: 1, wait: Duration::ZERO };

    /// What to do with a queue, given from its front; `None` where it is empty.
    pub fn decide(&self, mut queue: impl Iterator<Item = Candidate>, now: Now) -> Option<Gathered> {
        let first = queue.next()?;
        if first.alone || first.records == 0 {
            return Some(Gathered::Take(1));
        }
        let (mut batches, mut records) = (1, first.records);
        while records < self.records_max {
            let Some(next) = queue.next() else {
                let due = first.since + self.wait;
                return Some(if due <= now { Gathered::Take(batches) } else { Gathered::Wait(due) });
            };
            let sum = records.saturating_add(next.records);
            if next.alone || sum > self.records_max {
                break;
            }
            (batches, records) = (batches + 1, sum);
        }
        Some(Gathered::Take(batches))
    }
}
