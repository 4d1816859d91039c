//! The watermark of one partition: the lowest position that is not settled. Never moves back.

use crate::ids::{BatchSeq, Position};
use std::collections::BTreeMap;

/// Batches in flight by sequence, and how far all of them are settled without a gap.
#[derive(Debug)]
pub struct Watermark {
    position: Position,
    next: BatchSeq,
    settled: BTreeMap<BatchSeq, Position>,
}

impl Watermark {
    /// Nothing settled beyond `position`; the first batch is number 0.
    #[must_use]
    pub const fn new(position: Position) -> Self {
        Self { position, next: BatchSeq(0), settled: BTreeMap::new() }
    }

    /// The position below which everything is settled.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// The first batch that is not settled.
    #[must_use]
    pub const fn next(&self) -> BatchSeq {
        self.next
    }

    /// Notes that a batch which ends at `end` is settled. False where it was settled before.
    pub fn settle(&mut self, seq: BatchSeq, end: Position) -> bool {
        if seq < self.next || self.settled.insert(seq, end).is_some() {
            return false;
        }
        while let Some(end) = self.settled.remove(&self.next) {
            self.position = self.position.max(end);
            self.next = BatchSeq(self.next.0 + 1);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_the_naive_model_in_any_order(order in Just((0u64..40).collect::<Vec<_>>()).prop_shuffle(), again in 0usize..40) {
            let mut watermark = Watermark::new(Position(0));
            let mut done = std::collections::BTreeSet::new();
            for (i, seq) in order.iter().enumerate() {
                prop_assert!(watermark.settle(BatchSeq(*seq), Position(*seq as i64 * 10 + 10)));
                done.insert(*seq);
                let contiguous = (0..).take_while(|s| done.contains(s)).count() as i64;
                prop_assert_eq!(watermark.position(), Position(contiguous * 10));
                if i >= again {
                    let repeated = order[again];
                    prop_assert!(!watermark.settle(BatchSeq(repeated), Position(repeated as i64 * 10 + 10)));
                }
            }
        }
    }
}
