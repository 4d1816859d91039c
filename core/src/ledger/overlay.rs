//! Claims that are not settled yet: what is in flight of one assignment. Never holds a recorded key.

use crate::batch::{Claim, KeyHash};
use crate::ids::{BatchSeq, Offset};
use crate::ledger::Entry;
use crate::ledger::index::KeyMap;

/// A claim in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unsettled {
    /// The record that claims.
    pub(crate) offset: Offset,
    pub(crate) claim: Claim,
    pub(crate) batch: BatchSeq,
}

/// The unsettled claims, as many as the partition has records in flight.
#[derive(Default)]
pub(crate) struct Overlay(KeyMap<Unsettled>);

impl Overlay {
    pub(crate) fn get(&self, key: KeyHash) -> Option<&Unsettled> {
        self.0.get(&key.into())
    }

    pub(crate) fn insert(&mut self, batch: BatchSeq, offset: Offset, claim: Claim) {
        self.0.insert(claim.key.into(), Unsettled { offset, claim, batch });
    }

    /// The entry's record is settled.
    pub(crate) fn settle(&mut self, entry: &Entry) {
        let key = entry.claim.key;
        if self.get(key).is_some_and(|unsettled| unsettled.offset == entry.offset) {
            self.0.remove(&key.into());
        }
    }

    /// The batch was dropped: its claims were never made.
    pub(crate) fn forget(&mut self, batch: BatchSeq) {
        self.0.retain(|_, unsettled| unsettled.batch != batch);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
