//! One partition's finished batches at a lane: put back in order, replayed after an abort, dropped when fenced.
//! Never publishes past a gap.

use crate::batch::Batch;
use crate::ids::{BatchSeq, Generation, LoanId, Position, Ticket};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A finished batch in the lane's hands, on loan until it is settled.
#[derive(Clone, Debug)]
pub struct Held {
    /// The loan, for settling.
    pub loan: LoanId,
    /// The batch.
    pub batch: Arc<Batch>,
}

/// See the module.
#[derive(Debug)]
pub struct Stream {
    generation: Generation,
    /// The next batch to publish; all before it are in the open transaction or settled.
    next: BatchSeq,
    waiting: BTreeMap<BatchSeq, Held>,
    /// In the open transaction, in order.
    published: Vec<Held>,
}

impl Stream {
    /// A stream of this generation whose first unsettled batch is `next`.
    #[must_use]
    pub const fn new(generation: Generation, next: BatchSeq) -> Self {
        Self { generation, next, waiting: BTreeMap::new(), published: Vec::new() }
    }

    /// The generation of its batches.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// Takes a batch in; it is published once all before it are.
    pub fn hold(&mut self, held: Held) {
        self.waiting.insert(held.batch.ticket.seq, held);
    }

    /// Batches here, published or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len() + self.published.len()
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the next batch to publish is here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.waiting.contains_key(&self.next)
    }

    /// The next batch in order, now part of the open transaction.
    pub fn publish(&mut self) -> Option<Arc<Batch>> {
        let held = self.waiting.remove(&self.next)?;
        self.next = BatchSeq(self.next.0 + 1);
        self.published.push(held.clone());
        Some(held.batch)
    }

    /// The batches in the open transaction.
    #[must_use]
    pub fn published(&self) -> &[Held] {
        &self.published
    }

    /// The position that the open transaction brings the partition to.
    #[must_use]
    pub fn end(&self) -> Option<Position> {
        self.published.last().map(|held| held.batch.end())
    }

    /// The transaction is committed: its batches are done.
    pub fn committed(&mut self) -> Vec<Held> {
        std::mem::take(&mut self.published)
    }

    /// The transaction is void: its batches will be published again.
    pub fn replay(&mut self) {
        for held in std::mem::take(&mut self.published).into_iter().rev() {
            self.next = held.batch.ticket.seq;
            self.waiting.insert(self.next, held);
        }
    }

    /// The partition was found committed up to `position`: takes out what lies below it. Nothing may be published.
    pub fn settled_below(&mut self, position: Position) -> Vec<Held> {
        debug_assert!(self.published.is_empty(), "positions are read outside of a transaction");
        let mut settled = Vec::new();
        while let Some(held) = self.waiting.get(&self.next)
            && held.batch.end() <= position
        {
            settled.extend(self.waiting.remove(&self.next));
            self.next = BatchSeq(self.next.0 + 1);
        }
        settled
    }

    /// The first unsettled batch, where `position` lies within it.
    #[must_use]
    pub fn straddled(&self, position: Position) -> Option<Ticket> {
        let batch = &self.waiting.get(&self.next)?.batch;
        (batch.first().0 < position.0 && position < batch.end()).then_some(batch.ticket)
    }

    /// Replaces a waiting batch's content.
    pub fn amend(&mut self, seq: BatchSeq, amend: impl FnOnce(&mut Batch)) {
        if let Some(held) = self.waiting.get_mut(&seq) {
            amend(Arc::make_mut(&mut held.batch));
        }
    }
}
