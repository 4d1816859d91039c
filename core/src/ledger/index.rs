//! Which recorded keys still count: bounded, in memory, answering without I/O. Never holds unsettled claims.
//!
//! Segments expire together in *spans*, runs of neighbours that cover at most 1/256 of the TTL or of `keys_max`, so
//! that what is kept about segments is bounded too. An expired key counts as absent at once; its memory is swept
//! later, one of 48 parts of the map at a time, so no commit waits for a pass over all keys.

use crate::batch::KeyHash;
use crate::ids::{Offset, Round, SegmentSeq};
use crate::ledger::{Entry, ROUND_MAX, Recorded, Segment};
use crate::time::WallMs;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::time::Duration;

/// Into how many parts the map is divided: what one sweep looks at, and what one growth moves.
const PARTS: usize = 48;
/// Parts take 4, 5 or 7 of 256 shares of the keys. A part doubles when it is full; of parts of one size all would
/// double at once, and the map would be half empty after it.
const SHARES: [usize; 3] = [4, 5, 7];
/// The part that each share belongs to.
const PART_OF: [u8; 256] = {
    let mut parts = [0; 256];
    let (mut share, mut part, mut taken) = (0, 0, 0);
    while share < parts.len() {
        if taken == SHARES[part % SHARES.len()] {
            part += 1;
            taken = 0;
        }
        parts[share] = part as u8;
        taken += 1;
        share += 1;
    }
    assert!(part + 1 == PARTS);
    parts
};
/// Into how many spans the TTL, and `keys_max`, are divided.
const SPANS: usize = 256;

/// Keys that left before their time, because `keys_max` was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// How many keys.
    pub keys: usize,
    /// Segments below this one no longer count.
    pub below: SegmentSeq,
}

/// What is known of a recorded key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// Where the record lay that settled it.
    pub(crate) offset: Offset,
    /// Whether a higher round may try again.
    pub(crate) rejected: bool,
    pub(crate) round: Round,
    pub(crate) fingerprint: u64,
}

/// A key's line, packed to 40 bytes with its key: most of the ledger's memory.
#[derive(Clone, Copy)]
struct Slot {
    fingerprint: u64,
    /// Offset (48 bits: 89 years at 100,000 records/s) and round (16 bits).
    place: u64,
    /// Segment (63 bits) and whether it was rejected (the lowest bit).
    segment: u64,
}

impl Slot {
    fn new(seq: SegmentSeq, entry: &Entry) -> Self {
        let round = u64::from(entry.claim.round.min(ROUND_MAX).0);
        Self {
            fingerprint: entry.claim.fingerprint,
            place: entry.offset.0.cast_unsigned() << 16 | round,
            segment: seq.0 << 1 | u64::from(entry.recorded == Recorded::Rejected),
        }
    }

    const fn seq(self) -> SegmentSeq {
        SegmentSeq(self.segment >> 1)
    }

    const fn known(self) -> Known {
        Known {
            offset: Offset((self.place >> 16).cast_signed()),
            rejected: self.segment & 1 == 1,
            round: Round((self.place & 0xffff) as u32),
            fingerprint: self.fingerprint,
        }
    }
}

/// Neighbouring segments that expire together.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: SegmentSeq,
    opened_at: WallMs,
    /// The latest of their times: clocks of successive owners may differ.
    closed_at: WallMs,
    /// Keys whose newest entry lies in them.
    keys: usize,
}

/// A key of the map; two words, so that it needs no 16-byte alignment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key([u64; 2]);

impl From<KeyHash> for Key {
    fn from(key: KeyHash) -> Self {
        Self([key.0 as u64, (key.0 >> 64) as u64])
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

/// Takes a key's own bits: they are BLAKE3's, so uniform already.
#[derive(Default)]
pub(crate) struct Uniform(u64);

impl Hasher for Uniform {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

pub(crate) type KeyMap<V> = HashMap<Key, V, BuildHasherDefault<Uniform>>;

/// The recorded keys of one partition.
pub struct Index {
    parts: Vec<KeyMap<Slot>>,
    spans: VecDeque<Span>,
    floor: SegmentSeq,
    /// The segment after the newest one.
    next: SegmentSeq,
    /// Keys that count.
    live: usize,
    /// Keys in the map, those that no longer count among them.
    held: usize,
    /// The part that is swept next.
    sweep: usize,
    /// How many parts may hold keys that no longer count.
    unswept: usize,
    ttl: Duration,
    keys_max: usize,
}

impl Index {
    /// An empty index. A key counts for `ttl`; at most `keys_max` (at least 1) count.
    #[must_use]
    pub fn new(ttl: Duration, keys_max: usize) -> Self {
        let parts = (0..PARTS).map(|_| KeyMap::default()).collect();
        let keys_max = keys_max.max(1);
        Self {
            parts,
            spans: VecDeque::new(),
            floor: SegmentSeq(0),
            next: SegmentSeq(0),
            live: 0,
            held: 0,
            sweep: 0,
            unswept: 0,
            ttl,
            keys_max,
        }
    }

    /// How many keys count.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.live
    }

    /// Whether no key counts.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// How many keys are held in memory: at most an eighth of `keys_max` more than count.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held
    }

    /// Segments below this one no longer count.
    #[must_use]
    pub const fn floor(&self) -> SegmentSeq {
        self.floor
    }

    /// Whether a key counts.
    #[must_use]
    pub fn contains(&self, key: KeyHash) -> bool {
        self.get(key).is_some()
    }

    /// What is known of a key that counts.
    pub(crate) fn get(&self, key: KeyHash) -> Option<Known> {
        let (part, key) = place(key);
        self.parts[part].get(&key).filter(|slot| slot.seq() >= self.floor).map(|slot| slot.known())
    }

    /// Adds a segment's keys. Says what had to leave for them.
    pub fn apply(&mut self, segment: &Segment) -> Option<Evicted> {
        self.open_span(segment);
        for entry in segment.entries() {
            self.insert(segment.seq(), entry);
        }
        self.expire_below(segment.expired_below());
        let evicted = self.evict();
        self.sweep_some();
        evicted
    }

    /// Lets go of what is older than the TTL at `wall`; [`Index::floor`] says how far.
    pub fn expire_at(&mut self, wall: WallMs) {
        let ttl_ms = i64::try_from(self.ttl.as_millis()).unwrap_or(i64::MAX);
        let horizon = wall.0.saturating_sub(ttl_ms);
        while self.spans.front().is_some_and(|oldest| oldest.closed_at.0 <= horizon) {
            self.expire_below(self.second());
        }
    }

    /// Lets go of all segments below this one.
    pub fn expire_below(&mut self, floor: SegmentSeq) {
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        self.unswept = PARTS;
        while !self.spans.is_empty() && self.second() <= floor {
            let gone = self.spans.pop_front().map_or(0, |span| span.keys);
            self.live -= gone;
        }
    }

    /// The first segment after the oldest span.
    fn second(&self) -> SegmentSeq {
        self.spans.get(1).map_or(self.next, |span| span.first)
    }

    fn open_span(&mut self, segment: &Segment) {
        let at = segment.committed_at();
        self.next = self.next.max(segment.seq().next());
        let age_max_ms = i64::try_from(self.ttl.as_millis() / SPANS as u128).unwrap_or(i64::MAX);
        let keys_max = self.keys_max / SPANS;
        match self.spans.back_mut() {
            // A number that came before, from an owner that overlapped: spans begin in ascending order.
            Some(span) if segment.seq() <= span.first => span.closed_at = span.closed_at.max(at),
            Some(span) if at.0.saturating_sub(span.opened_at.0) <= age_max_ms && span.keys <= keys_max => {
                span.closed_at = span.closed_at.max(at);
            }
            _ => self.spans.push_back(Span { first: segment.seq(), opened_at: at, closed_at: at, keys: 0 }),
        }
    }

    /// The span that counts a segment's keys; `None` where it left already.
    fn span_of(&mut self, seq: SegmentSeq) -> Option<&mut Span> {
        let after = self.spans.partition_point(|span| span.first <= seq);
        after.checked_sub(1).and_then(|at| self.spans.get_mut(at))
    }

    fn insert(&mut self, seq: SegmentSeq, entry: &Entry) {
        // Duplicates and conflicts say nothing new of their key.
        if matches!(entry.recorded, Recorded::Duplicate(_) | Recorded::Conflict(_)) || seq < self.floor {
            return;
        }
        let Some(span) = self.span_of(seq) else { return };
        span.keys += 1;
        self.live += 1;
        let (part, key) = place(entry.claim.key);
        match self.parts[part].insert(key, Slot::new(seq, entry)) {
            Some(old) => self.uncount(old.seq()),
            None => self.held += 1,
        }
    }

    /// A key no longer counts for this segment.
    fn uncount(&mut self, seq: SegmentSeq) {
        if let Some(span) = self.span_of(seq) {
            span.keys -= 1;
            self.live -= 1;
        }
    }

    /// Lets the oldest spans go until `keys_max` is kept; never the newest, whose keys may still be in flight
    /// elsewhere.
    fn evict(&mut self) -> Option<Evicted> {
        let before = self.live;
        while self.live > self.keys_max && self.spans.len() > 1 {
            self.expire_below(self.second());
        }
        (self.live < before).then(|| Evicted { keys: before - self.live, below: self.floor })
    }

    /// One part a segment in quiet times; more where memory would grow past its bound.
    fn sweep_some(&mut self) {
        let slack = self.keys_max / 8;
        let mut first = true;
        while self.unswept > 0 && (first || self.held > self.live + slack) {
            self.sweep_part();
            first = false;
        }
    }

    fn sweep_part(&mut self) {
        let floor = self.floor;
        let mut gone = Vec::new();
        let oldest = self.spans.front().map(|span| span.first);
        let part = &mut self.parts[self.sweep];
        let before = part.len();
        part.retain(|_, slot| {
            let keep = slot.seq() >= floor;
            if !keep && oldest.is_some_and(|oldest| slot.seq() >= oldest) {
                gone.push(slot.seq());
            }
            keep
        });
        self.held -= before - part.len();
        // A floor that another owner chose may lie inside a span: its keys are counted off here.
        for seq in gone {
            self.uncount(seq);
        }
        self.sweep = (self.sweep + 1) % PARTS;
        self.unswept -= 1;
    }
}

/// The part of the map that a key belongs to, and the key as the map has it. The part is chosen by bits that the map
/// itself does not use.
fn place(key: KeyHash) -> (usize, Key) {
    (usize::from(PART_OF[(key.0 >> 120) as usize]), key.into())
}
