//! The codec of a segment: what one commit adds to a partition's ledger. Never reads a clock or a log.
//!
//! A segment is immutable and always carries the bytes it was decoded from or encoded to, so the changelog, the cache
//! and a comparison of the two use the very same bytes. Layout, all integers little endian or LEB128 varints:
//! `version 1 | flags | partition | seq | position | committed_at | expired_below | count | entry* | checksum (8
//! bytes)`; an entry is `offset delta | key (16 bytes) | fingerprint (8 bytes) | kind and flag | [round] | [count or
//! offset]`: 26 bytes in the common case. The checksum is the first 8 bytes of BLAKE3 over all that stands before it.

use crate::batch::{Batch, Claim, KeyHash, Outcome};
use crate::ids::{Offset, Partition, Position, Round, SegmentSeq};
use crate::ledger::ROUND_MAX;
use crate::time::WallMs;
use crate::wire::{Damage, Reader, put_varint};
use bytes::Bytes;

/// How large a segment may grow before it is split, in bytes: half of Kafka's default `max.message.bytes`
/// (`notes/kafka-measured.md` E7).
pub const SEGMENT_BYTES_MAX: usize = 512 * 1024;

const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 8;
/// The fewest bytes of an entry: what bounds the allocation for a count that a damaged segment claims.
const ENTRY_BYTES_MIN: usize = 1 + 16 + 8 + 1;
/// The most bytes of an entry: three more varints of at most 10 bytes.
const ENTRY_BYTES_MAX: usize = ENTRY_BYTES_MIN + 9 + 10 + 10;
/// The most bytes of what stands before the entries and of the checksum.
const FRAME_BYTES_MAX: usize = 2 + 6 * 10 + CHECKSUM_BYTES;

/// What became of a record, as its segment says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It became so many records, at least 1.
    Emitted(u32),
    /// It ended on purpose.
    Dropped,
    /// It ended as a dead letter.
    Rejected,
    /// Its key belonged to the record at this offset: nothing was done.
    Duplicate(Offset),
    /// Its key belonged to the record at this offset, which had another payload: a dead letter.
    Conflict(Offset),
}

impl Recorded {
    /// What an outcome is recorded as. A record that no stage touched was published as it is: it counts as emitted.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Pending => Self::Emitted(1),
            Outcome::Emitted(records) if records.is_empty() => Self::Dropped,
            Outcome::Emitted(records) => Self::Emitted(u32::try_from(records.len()).unwrap_or(u32::MAX)),
            Outcome::Dropped(_) => Self::Dropped,
            Outcome::Rejected(_) => Self::Rejected,
            Outcome::Duplicate(of) => Self::Duplicate(*of),
            Outcome::Conflict(with) => Self::Conflict(*with),
        }
    }
}

/// One record's line in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it lay.
    pub offset: Offset,
    /// What it claimed.
    pub claim: Claim,
    /// What became of it.
    pub recorded: Recorded,
}

/// Where the next segment goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHead {
    /// Its sequence number.
    pub next: SegmentSeq,
    /// The lowest sequence number that still counts: what it records for every later owner.
    pub expired_below: SegmentSeq,
}

impl SegmentHead {
    /// The head once these were committed.
    #[must_use]
    pub fn after(self, segments: &[Segment]) -> Self {
        segments.last().map_or(self, |last| Self { next: last.seq.next(), ..self })
    }
}

/// What one commit adds to a partition's ledger, or one part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    partition: Partition,
    seq: SegmentSeq,
    position: Position,
    committed_at: WallMs,
    expired_below: SegmentSeq,
    closes: bool,
    entries: Vec<Entry>,
    wire: Bytes,
}

impl Segment {
    /// The partition it belongs to.
    #[must_use]
    pub const fn partition(&self) -> Partition {
        self.partition
    }

    /// Its place in the partition's ledger.
    #[must_use]
    pub const fn seq(&self) -> SegmentSeq {
        self.seq
    }

    /// The source position after its last entry; for the segment that closes its commit the position committed.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// When it was built, just before its commit.
    #[must_use]
    pub const fn committed_at(&self) -> WallMs {
        self.committed_at
    }

    /// Segments below this one no longer count.
    #[must_use]
    pub const fn expired_below(&self) -> SegmentSeq {
        self.expired_below
    }

    /// Whether it is the last segment of its commit.
    #[must_use]
    pub const fn closes(&self) -> bool {
        self.closes
    }

    /// Its entries, by ascending offset.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The bytes of its record's value.
    #[must_use]
    pub const fn wire(&self) -> &Bytes {
        &self.wire
    }

    /// The segments that one commit adds to a partition's ledger: those of its batches, in order, each at most
    /// `bytes_max` on the wire (but never without an entry). Batches without claims add nothing.
    ///
    /// The same arguments give the same bytes.
    #[must_use]
    pub fn build(batches: &[&Batch], head: SegmentHead, now: WallMs, bytes_max: usize) -> Vec<Self> {
        let mut entries = batches.iter().flat_map(|batch| entries_of(batch)).peekable();
        let Some(partition) = batches.first().map(|batch| batch.ticket.assignment.partition) else {
            return Vec::new();
        };
        debug_assert!(batches.iter().all(|batch| batch.ticket.assignment.partition == partition));
        let per_segment = bytes_max.saturating_sub(FRAME_BYTES_MAX);
        let mut segments = Vec::new();
        let mut seq = head.next;
        while entries.peek().is_some() {
            let mut body = Vec::new();
            let mut part = Vec::new();
            while let Some(entry) = entries.next_if(|_| part.is_empty() || body.len() + ENTRY_BYTES_MAX <= per_segment)
            {
                put_entry(&mut body, part.last(), &entry);
                part.push(entry);
            }
            let position = part.last().map_or(Position(0), |entry| entry.offset.next());
            let closes = entries.peek().is_none();
            let mut segment = Self {
                partition,
                seq,
                position,
                committed_at: now,
                expired_below: head.expired_below,
                closes,
                entries: part,
                wire: Bytes::new(),
            };
            segment.wire = segment.encode(&body);
            segments.push(segment);
            seq = seq.next();
        }
        segments
    }

    fn encode(&self, body: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(body.len() + FRAME_BYTES_MAX);
        out.push(VERSION);
        out.push(u8::from(self.closes));
        put_varint(&mut out, u64::from(self.partition.0.cast_unsigned()));
        put_varint(&mut out, self.seq.0);
        put_varint(&mut out, self.position.0.cast_unsigned());
        put_varint(&mut out, self.committed_at.0.cast_unsigned());
        put_varint(&mut out, self.expired_below.0);
        put_varint(&mut out, self.entries.len() as u64);
        out.extend_from_slice(body);
        let checksum = checksum(&out);
        out.extend_from_slice(&checksum);
        out.into()
    }

    /// Reads a segment. Any bytes may be given; what is allocated is bounded by their length.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(wire: Bytes) -> Result<Self, Damage> {
        let (body, sum) = wire.split_last_chunk::<CHECKSUM_BYTES>().ok_or(Damage::Short)?;
        match body.first() {
            Some(&VERSION) => {}
            Some(&version) => return Err(Damage::Version(version)),
            None => return Err(Damage::Short),
        }
        if *sum != checksum(body) {
            return Err(Damage::Checksum);
        }
        let mut reader = Reader::new(&body[1..]);
        let closes = match reader.byte()? {
            0 => false,
            1 => true,
            _ => return Err(Damage::Malformed("flags")),
        };
        let partition = i32::try_from(reader.varint()?).map_err(|_| Damage::Malformed("partition"))?;
        let seq = SegmentSeq(reader.varint()?);
        let position = Position(reader.signed("position")?);
        let committed_at = WallMs(reader.varint()?.cast_signed());
        let expired_below = SegmentSeq(reader.varint()?);
        let count = reader.varint()?;
        if count > (reader.left() / ENTRY_BYTES_MIN) as u64 {
            return Err(Damage::Malformed("count"));
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let entry = read_entry(&mut reader, entries.last())?;
            entries.push(entry);
        }
        if reader.left() > 0 {
            return Err(Damage::Malformed("length"));
        }
        let end = entries.last().map_or(Position(0), |last| last.offset.next());
        if position < end || expired_below > seq {
            return Err(Damage::Malformed("position or expiry"));
        }
        let partition = Partition(partition);
        Ok(Self { partition, seq, position, committed_at, expired_below, closes, entries, wire })
    }
}

fn entries_of(batch: &Batch) -> impl Iterator<Item = Entry> {
    debug_assert!(batch.claims.is_empty() || batch.claims.len() == batch.records.len());
    batch.records.iter().zip(&batch.claims).zip(&batch.outcomes).map(|((record, claim), outcome)| Entry {
        offset: record.offset,
        claim: *claim,
        recorded: Recorded::of(outcome),
    })
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::hash(bytes);
    *hash.as_bytes().first_chunk().expect("a BLAKE3 hash has 32 bytes")
}

const KIND_EMITTED_ONE: u8 = 0;
const KIND_EMITTED: u8 = 1;
const KIND_DROPPED: u8 = 2;
const KIND_REJECTED: u8 = 3;
const KIND_DUPLICATE: u8 = 4;
const KIND_CONFLICT: u8 = 5;
/// Set where a round other than 0 follows.
const HAS_ROUND: u8 = 0x80;

fn put_entry(out: &mut Vec<u8>, previous: Option<&Entry>, entry: &Entry) {
    let from = previous.map_or(0, |previous| previous.offset.0);
    put_varint(out, entry.offset.0.wrapping_sub(from).cast_unsigned());
    out.extend_from_slice(&entry.claim.key.0.to_le_bytes());
    out.extend_from_slice(&entry.claim.fingerprint.to_le_bytes());
    let (kind, detail) = match entry.recorded {
        Recorded::Emitted(1) => (KIND_EMITTED_ONE, None),
        Recorded::Emitted(count) => (KIND_EMITTED, Some(u64::from(count))),
        Recorded::Dropped => (KIND_DROPPED, None),
        Recorded::Rejected => (KIND_REJECTED, None),
        Recorded::Duplicate(of) => (KIND_DUPLICATE, Some(of.0.cast_unsigned())),
        Recorded::Conflict(with) => (KIND_CONFLICT, Some(with.0.cast_unsigned())),
    };
    let round = entry.claim.round.min(ROUND_MAX);
    out.push(if round == Round(0) { kind } else { kind | HAS_ROUND });
    if round != Round(0) {
        put_varint(out, u64::from(round.0));
    }
    if let Some(detail) = detail {
        put_varint(out, detail);
    }
}

fn read_entry(reader: &mut Reader<'_>, previous: Option<&Entry>) -> Result<Entry, Damage> {
    let delta = reader.signed("offset")?;
    if previous.is_some() && delta == 0 {
        return Err(Damage::Malformed("order"));
    }
    let from = previous.map_or(0, |previous| previous.offset.0);
    // Below the largest number, so that the position after it exists.
    let offset = from.checked_add(delta).filter(|offset| *offset < i64::MAX).ok_or(Damage::Malformed("offset"))?;
    let key = KeyHash(u128::from_le_bytes(reader.array()?));
    let fingerprint = u64::from_le_bytes(reader.array()?);
    let tag = reader.byte()?;
    let round = match tag & HAS_ROUND {
        0 => Round(0),
        _ => u32::try_from(reader.varint()?)
            .map(Round)
            .ok()
            .filter(|round| (Round(1)..=ROUND_MAX).contains(round))
            .ok_or(Damage::Malformed("round"))?,
    };
    let recorded = match tag & !HAS_ROUND {
        KIND_EMITTED_ONE => Recorded::Emitted(1),
        KIND_EMITTED => u32::try_from(reader.varint()?)
            .ok()
            .filter(|count| *count > 1)
            .map(Recorded::Emitted)
            .ok_or(Damage::Malformed("emitted"))?,
        KIND_DROPPED => Recorded::Dropped,
        KIND_REJECTED => Recorded::Rejected,
        KIND_DUPLICATE => Recorded::Duplicate(Offset(reader.signed("duplicate")?)),
        KIND_CONFLICT => Recorded::Conflict(Offset(reader.signed("conflict")?)),
        _ => return Err(Damage::Malformed("kind")),
    };
    Ok(Entry { offset: Offset(offset), claim: Claim { key, fingerprint, round }, recorded })
}
