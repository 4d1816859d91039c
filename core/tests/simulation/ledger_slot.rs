//! What a partition's ledger shard shares with the lane and the partition, as the shells share it.
//! Never answers a claim.

use bulkhead_core::batch::Batch;
use bulkhead_core::ids::{BatchSeq, Generation, Position, SegmentSeq};
use bulkhead_core::ledger::{Claimed, Segment, SegmentHead};
use bulkhead_core::link::Link;
use std::collections::{BTreeMap, VecDeque};

/// A ready shard's word.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    pub(crate) generation: Generation,
    pub(crate) position: Option<Position>,
    pub(crate) head: SegmentHead,
}

pub(crate) struct LedgerSlot {
    pub(crate) link: Link<Batch>,
    generation: Generation,
    begun: bool,
    pub(crate) committed: VecDeque<Vec<Segment>>,
    pub(crate) resync: bool,
    open: BTreeMap<BatchSeq, Vec<Claimed>>,
    expired_below: SegmentSeq,
    pub(crate) head: Option<Head>,
}

impl Default for LedgerSlot {
    fn default() -> Self {
        Self {
            link: Link::new(usize::MAX),
            generation: Generation::default(),
            begun: false,
            committed: VecDeque::new(),
            resync: false,
            open: BTreeMap::new(),
            expired_below: SegmentSeq(0),
            head: None,
        }
    }
}

impl LedgerSlot {
    pub(crate) fn open(&mut self, generation: Generation) {
        let link = std::mem::replace(&mut self.link, Link::new(usize::MAX));
        *self = Self { link, generation, ..Self::default() };
    }

    pub(crate) fn answered(&mut self, generation: Generation, seq: BatchSeq, claims: Vec<Claimed>) {
        if self.generation == generation {
            self.open.insert(seq, claims);
        }
    }

    /// A shard begins: whether one was at work under this generation before, and the claims that stand.
    pub(crate) fn begin(&mut self) -> (bool, Vec<(BatchSeq, Vec<Claimed>)>) {
        let restarted = std::mem::replace(&mut self.begun, true);
        (restarted, self.open.iter().map(|(seq, claims)| (*seq, claims.clone())).collect())
    }

    pub(crate) fn committed(&mut self, generation: Generation, segments: Vec<Segment>) {
        if segments.is_empty() || self.generation != generation {
            return;
        }
        if let Some(known) = self.head.as_mut().filter(|known| known.generation == generation) {
            known.head = known.head.after(&segments);
        }
        self.committed.push_back(segments);
    }

    pub(crate) fn settled(&mut self, generation: Generation, seq: BatchSeq) {
        if self.generation == generation {
            self.open.remove(&seq);
        }
    }

    pub(crate) fn resync(&mut self) {
        self.head = None;
        self.resync = true;
    }

    pub(crate) fn ready(&mut self, head: Head) {
        if self.generation == head.generation && !self.resync {
            let known = self.head.filter(|known| known.generation == head.generation);
            let ahead = known.map_or(head.head.next, |known| known.head.next);
            let next = ahead.max(head.head.next);
            let expired_below = self.expired_below.max(head.head.expired_below);
            self.head = Some(Head { head: SegmentHead { next, expired_below }, ..head });
        }
    }

    pub(crate) fn expire(&mut self, generation: Generation, below: SegmentSeq) {
        if self.generation != generation {
            return;
        }
        self.expired_below = self.expired_below.max(below);
        if let Some(known) = &mut self.head {
            known.head.expired_below = known.head.expired_below.max(below);
        }
    }
}
