//! What a partition's ledger shard shares with the lane and the partition, and what outlives it.
//! Never answers a claim.

use super::wake::Slot;
use crate::shell::Lifeline;
use bulkhead_core::batch::Batch;
use bulkhead_core::ids::{BatchSeq, Generation, Position, SegmentSeq};
use bulkhead_core::ledger::{Claimed, Segment, SegmentHead};
use bulkhead_core::link::Link;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// See the module.
pub(crate) struct LedgerSlot {
    /// Batches that wait for their claims to be answered.
    pub(crate) link: Slot<Link<Batch>>,
    inbox: Mutex<Inbox>,
    /// Where the next segment goes; `None` while the shard must find out.
    head: Slot<Option<Head>>,
}

/// A ready shard's word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) generation: Generation,
    /// The committed position that the ledger was checked against.
    pub(crate) position: Option<Position>,
    pub(crate) head: SegmentHead,
}

/// What a lane tells the shard: at most what is in flight, and read by the shard's next incarnation if need be.
#[derive(Default)]
struct Inbox {
    generation: Generation,
    /// A shard has worked under this generation.
    begun: bool,
    committed: VecDeque<Vec<Segment>>,
    /// Batches were found committed whose segments nobody holds: read them.
    resync: bool,
    /// The claims that were answered fresh, of batches that are not settled.
    open: BTreeMap<BatchSeq, Vec<Claimed>>,
    /// The expiry that answers were given under: it must reach the ledger with them, whichever shard is there by then.
    expired_below: SegmentSeq,
}

/// What a shard finds in its inbox.
pub(crate) struct News {
    pub(crate) committed: Vec<Vec<Segment>>,
    pub(crate) resync: bool,
}

impl Default for LedgerSlot {
    fn default() -> Self {
        // It holds what one partition has in flight; the partition's own credits bound it.
        Self { link: Slot::new(Link::new(usize::MAX)), inbox: Mutex::default(), head: Slot::new(None) }
    }
}

impl LedgerSlot {
    /// A new assignment: nothing of the old one counts.
    pub(crate) fn open(&self, generation: Generation) {
        *self.inbox.lock() = Inbox { generation, ..Inbox::default() };
        *self.head.lock() = None;
    }

    /// The shard answered these claims as fresh; they stand until the batch is settled.
    pub(crate) fn answered(&self, generation: Generation, seq: BatchSeq, claims: Vec<Claimed>) {
        let mut inbox = self.inbox.lock();
        if inbox.generation == generation {
            inbox.open.insert(seq, claims);
        }
    }

    /// A shard begins: whether one was at work under this generation before, and the claims that stand.
    pub(crate) fn begin(&self) -> (bool, Vec<(BatchSeq, Vec<Claimed>)>) {
        let mut inbox = self.inbox.lock();
        let restarted = std::mem::replace(&mut inbox.begun, true);
        (restarted, inbox.open.iter().map(|(seq, claims)| (*seq, claims.clone())).collect())
    }

    /// A lane committed these segments.
    pub(crate) fn committed(&self, generation: Generation, segments: Vec<Segment>) {
        if segments.is_empty() {
            return;
        }
        let mut inbox = self.inbox.lock();
        if inbox.generation != generation {
            return;
        }
        if let Some(known) = self.head.lock().as_mut().filter(|known| known.generation == generation) {
            known.head = known.head.after(&segments);
        }
        inbox.committed.push_back(segments);
        drop(inbox);
        self.link.wake();
    }

    /// A batch is settled: its claims stand no more.
    pub(crate) fn settled(&self, generation: Generation, seq: BatchSeq) {
        let mut inbox = self.inbox.lock();
        if inbox.generation == generation {
            inbox.open.remove(&seq);
        }
    }

    /// What was committed may not all be known: the shard reads the changelog before the next commit.
    pub(crate) fn resync(&self) {
        let mut inbox = self.inbox.lock();
        *self.head.lock() = None;
        inbox.resync = true;
        drop(inbox);
        self.link.wake();
    }

    /// What has come for the shard.
    pub(crate) fn news(&self) -> News {
        let mut inbox = self.inbox.lock();
        News { committed: std::mem::take(&mut inbox.committed).into(), resync: std::mem::take(&mut inbox.resync) }
    }

    /// The shard is ready; unless a resync was asked for meanwhile.
    pub(crate) fn ready(&self, head: Head) {
        let inbox = self.inbox.lock();
        if inbox.generation == head.generation && !inbox.resync {
            let mut known = self.head.lock();
            // While the shard read, the lane may have committed under the head it had.
            let ahead = known
                .filter(|known| known.generation == head.generation)
                .map_or(head.head.next, |known| known.head.next);
            let next = ahead.max(head.head.next);
            let expired_below = inbox.expired_below.max(head.head.expired_below);
            *known = Some(Head { head: SegmentHead { next, expired_below }, ..head });
        }
        drop(inbox);
        self.head.wake();
    }

    /// Segments built from now on record at least this.
    pub(crate) fn expire(&self, generation: Generation, below: SegmentSeq) {
        let mut inbox = self.inbox.lock();
        if inbox.generation != generation {
            return;
        }
        inbox.expired_below = inbox.expired_below.max(below);
        if let Some(known) = self.head.lock().as_mut() {
            known.head.expired_below = known.head.expired_below.max(below);
        }
    }

    /// Waits as a task until the shard is ready under this generation.
    pub(crate) async fn until_ready(&self, generation: Generation) -> Head {
        loop {
            let known = *self.head.lock();
            if let Some(head) = known.filter(|head| head.generation == generation) {
                return head;
            }
            self.head.woken().await;
        }
    }

    /// The assignment is over: a lane that waits for its shard looks again.
    pub(crate) fn fenced(&self) {
        self.head.wake();
    }

    /// Waits on a thread, at most `wait`, and not for an assignment that is over.
    pub(crate) fn wait_for_head(
        &self,
        lifeline: &Lifeline,
        generation: Generation,
        wait: Duration,
        is_over: impl Fn() -> bool,
    ) -> Option<SegmentHead> {
        let deadline = Instant::now() + wait;
        let waited = self.head.wait_for(lifeline, |known| match known {
            Some(head) if head.generation == generation => Ok(Some(head.head)),
            Some(head) if head.generation > generation => Ok(None),
            _ if is_over() || Instant::now() >= deadline => Ok(None),
            _ => Err(None),
        });
        waited.ok().flatten()
    }
}
