//! A batch: records of one partition and one generation, in order, that travel together, and what became of each.
//! Never reorders them.

use crate::fault::Fault;
use crate::ids::{Offset, Position, Round, Ticket};
use crate::record::{Record, SourceRecord};
use crate::verdict::Emitted;
use std::sync::Arc;

/// A key of the ledger: BLAKE3, 128 bits, over (pipeline, tenant, key).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub u128);

/// What a record claims in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its idempotency key.
    pub key: KeyHash,
    /// The first 64 bits of BLAKE3 over its payload: another payload under the same key is a conflict.
    pub fingerprint: u64,
    /// How often it was sent back on purpose.
    pub round: Round,
}

/// Why and where a record was rejected.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejection {
    /// The stage that rejected it.
    pub stage: Arc<str>,
    /// The step of that stage, where one did.
    pub step: Option<Arc<str>>,
    /// What was wrong.
    pub fault: Fault,
    /// How often it was tried, at least 1.
    pub attempts: u32,
    /// The incarnation of the worker that gave the verdict.
    pub incarnation: u32,
}

/// What has become of one source record so far.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Nothing yet: the next stage works on the source record itself.
    Pending,
    /// It became these records; the next stage works on them, the lane publishes them.
    Emitted(Emitted),
    /// It ended on purpose, for this reason.
    Dropped(String),
    /// It ended as a dead letter.
    Rejected(Box<Rejection>),
    /// Its key was claimed before by the record at this offset: nothing is to be done.
    Duplicate(Offset),
    /// Its key was claimed before, by another payload: a dead letter.
    Conflict(Offset),
}

impl Outcome {
    /// Whether stages still have something to do for the record.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self, Self::Pending | Self::Emitted(_))
    }
}

/// Records that travel together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Names the batch until it is settled.
    pub ticket: Ticket,
    /// The source records, in offset order, at least one.
    pub records: Arc<[SourceRecord]>,
    /// What became of each, as many as records.
    pub outcomes: Vec<Outcome>,
    /// What each claims, as many as records; empty where the pipeline has no ledger.
    pub claims: Vec<Claim>,
    /// Dead letters made of the rejected ones, each with the index of its source record, ascending.
    pub letters: Vec<(u32, Record)>,
}

impl Batch {
    /// A batch nobody has worked on. `records` has at least one element.
    #[must_use]
    pub fn new(ticket: Ticket, records: Vec<SourceRecord>) -> Self {
        debug_assert!(!records.is_empty(), "a batch has at least one record");
        let outcomes = vec![Outcome::Pending; records.len()];
        Self { ticket, records: records.into(), outcomes, claims: Vec::new(), letters: Vec::new() }
    }

    /// The first record's offset.
    #[must_use]
    pub fn first(&self) -> Offset {
        self.records[0].offset
    }

    /// The position after the last record: what is committed when the batch is done.
    #[must_use]
    pub fn end(&self) -> Position {
        self.records[self.records.len() - 1].offset.next()
    }
}
