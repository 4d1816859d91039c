//! What a ledger shard is told and what it asks for: its events, effects and answers. Never decides anything.

use crate::batch::{Batch, Claim, Outcome};
use crate::ids::{Offset, Partition, Position, SegmentSeq, Ticket};
use crate::ledger::{Evicted, Segment, SegmentHead};
use crate::time::WallMs;
use crate::wire::Damage;
use std::time::Duration;

/// A segment and where it lies in the changelog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its offset in the changelog, or one below it: where a reader must begin to see it.
    pub at: Offset,
    /// The segment.
    pub segment: Segment,
}

/// A record's claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Which record claims.
    pub offset: Offset,
    /// What it claims.
    pub claim: Claim,
}

/// A batch whose claims were answered and which is not settled yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The batch.
    pub ticket: Ticket,
    /// Those of its claims that were answered [`Standing::Fresh`]. They are taken at their word: asked again, a key
    /// that had just expired would be answered otherwise.
    pub fresh: Vec<Claimed>,
}

impl Open {
    /// What is open of a batch that has its answers, however far it has come.
    #[must_use]
    pub fn of(batch: &Batch) -> Self {
        let records = batch.records.iter().zip(&batch.claims).zip(&batch.outcomes);
        let fresh = records.filter(|(_, outcome)| !matches!(outcome, Outcome::Duplicate(_) | Outcome::Conflict(_)));
        let fresh = fresh.map(|((record, claim), _)| Claimed { offset: record.offset, claim: *claim });
        Self { ticket: batch.ticket, fresh: fresh.collect() }
    }
}

/// The answer to one claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The key is the record's own: work on it.
    Fresh,
    /// The key was claimed before by the record at this offset.
    Duplicate(Offset),
    /// The key was claimed before by the record at this offset, with another payload.
    Conflict(Offset),
}

/// Writes the answers into the batch they were asked for.
pub fn settle(batch: &mut Batch, standings: &[Standing]) {
    debug_assert_eq!(batch.outcomes.len(), standings.len());
    for (outcome, standing) in batch.outcomes.iter_mut().zip(standings) {
        match standing {
            Standing::Fresh => {}
            Standing::Duplicate(of) => *outcome = Outcome::Duplicate(*of),
            Standing::Conflict(with) => *outcome = Outcome::Conflict(*with),
        }
    }
}

/// How the changelog's last segment must stand to the committed position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionCheck {
    /// It carries exactly that position: `exactly_once`.
    Exact,
    /// It may be ahead, where the process died before the position was committed: `at_least_once`.
    AtLeast,
}

/// What a shard is configured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardSpec {
    /// Its partition.
    pub partition: Partition,
    /// How long a key counts.
    pub ttl: Duration,
    /// How many keys count at most.
    pub keys_max: usize,
    /// How the last segment must stand to the committed position.
    pub check: PositionCheck,
    /// How long to wait until it does: `transaction.timeout`.
    pub wait: Duration,
}

/// Why a shard starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The partition was assigned: nobody works on it.
    Assigned,
    /// An earlier shard of the same assignment died: these batches have its answers and are not settled.
    Restarted(Vec<Open>),
}

/// What can happen to a shard.
#[derive(Clone, Debug)]
pub enum Event {
    /// It was built. First event, once.
    Start(Start),
    /// Cached segments, in order; none or more of these, then [`Event::CacheRead`] or [`Event::CacheFailed`].
    Cached(Vec<Placed>),
    /// All cached segments were given.
    CacheRead,
    /// The cache failed or panicked: while it was read, or at any time later.
    CacheFailed(String),
    /// Segments of the changelog, in order.
    Segments {
        /// The pass they belong to ([`Effect::CatchUp`]).
        pass: u32,
        /// The segments.
        segments: Vec<Placed>,
    },
    /// A changelog record that is no segment.
    Unreadable {
        /// The pass it belongs to.
        pass: u32,
        /// Where it lies in the changelog.
        at: Offset,
        /// What is wrong with it.
        damage: Damage,
    },
    /// Every segment that was committed when the pass began was given.
    CaughtUp {
        /// Which pass.
        pass: u32,
        /// The group's committed position of the source partition, read before the changelog's end was.
        position: Option<Position>,
    },
    /// The records of a batch claim their keys, in offset order.
    Claim {
        /// The batch.
        ticket: Ticket,
        /// Its claims.
        claims: Vec<Claimed>,
        /// The time that decides which keys have expired.
        wall: WallMs,
    },
    /// The lane committed these segments.
    Committed(Vec<Segment>),
    /// A commit took place whose segments nobody holds any more: read them from the changelog.
    Resync,
    /// The batch was dropped without a commit: fenced.
    Dropped(Ticket),
}

/// What a shard asks its shell to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Read the cache.
    LoadCache,
    /// In this order: wait `after`; read the committed position (stable); read the changelog's end; read the changelog
    /// from `from` (its start where `None`, or where `from` is no longer kept) up to that end, `read_committed`; then
    /// say [`Event::CaughtUp`]. A new pass ends the one before.
    CatchUp {
        /// Names the pass in the events that answer it.
        pass: u32,
        /// The first changelog offset wanted.
        from: Option<Offset>,
        /// How long to wait first.
        after: Duration,
    },
    /// Move the cache aside, count it, go on with an empty one.
    RebuildCache {
        /// What was wrong with it.
        reason: String,
    },
    /// Write these to the cache.
    Store(Vec<Placed>),
    /// Segments below this may leave the cache.
    Trim(SegmentSeq),
    /// Claims are answered from now on.
    Ready {
        /// The committed position that the changelog was checked against.
        position: Option<Position>,
        /// Where the next segment goes.
        head: SegmentHead,
    },
    /// Segments built from now on record at least this `expired_below`.
    Expire(SegmentSeq),
    /// The answers to a batch's claims, as many as there were and in their order.
    Answer {
        /// The batch.
        ticket: Ticket,
        /// The answers.
        standings: Vec<Standing>,
    },
    /// `keys_max` was reached: count it and raise the alarm.
    Evicted(Evicted),
    /// The changelog is not what it must be: count it and raise the alarm.
    Anomaly(Anomaly),
    /// The partition must not go on. Nothing follows.
    Stop(StopReason),
}

/// A changelog that breaks its own rules (a sentinel).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Anomaly {
    /// Segments are missing: their keys may be accepted twice.
    #[error("the ledger has a gap: segment {expected} should follow, {found} does")]
    Gap {
        /// The segment that should have come.
        expected: SegmentSeq,
        /// The one that came.
        found: SegmentSeq,
    },
    /// Two owners wrote under the same number.
    #[error("the ledger has a fork: segment {found} came where {expected} should follow")]
    Fork {
        /// The segment that should have come.
        expected: SegmentSeq,
        /// The one that came.
        found: SegmentSeq,
    },
}

/// Why a partition cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    /// Ledger and group disagree on what is done, and waiting did not help.
    #[error(
        "the group's committed position is {committed}, the ledger's last segment says {recorded}: one of the two was \
         moved, or records of one were lost; set the group's position to the ledger's, or empty the ledger topic to \
         start without it",
        committed = show(*committed)
    )]
    Disagree {
        /// What the group says.
        committed: Option<Position>,
        /// What the ledger says.
        recorded: Position,
    },
    /// A changelog record cannot be read.
    #[error("the ledger's record at offset {at} cannot be read: {damage}")]
    Unreadable {
        /// Where it lies in the changelog.
        at: Offset,
        /// What is wrong with it.
        damage: Damage,
    },
    /// A changelog record belongs to another partition: the topics do not match.
    #[error("the ledger's record at offset {at} belongs to partition {found}, not to {expected}")]
    Foreign {
        /// Where it lies in the changelog.
        at: Offset,
        /// The partition that it names.
        found: Partition,
        /// The partition of this shard.
        expected: Partition,
    },
}

fn show(position: Option<Position>) -> String {
    position.map_or_else(|| "none".to_owned(), |position| position.to_string())
}
