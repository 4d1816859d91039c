//! The segment codec: what is written comes back, what was not written is refused, and no bytes make it panic.

use bulkhead_core::batch::{Batch, Claim, KeyHash, Outcome, Rejection};
use bulkhead_core::fault::Fault;
use bulkhead_core::ids::{Assignment, BatchSeq, Generation, Offset, Partition, Round, SegmentSeq, Ticket};
use bulkhead_core::ledger::{Recorded, Segment, SegmentHead};
use bulkhead_core::record::{Record, SourceRecord};
use bulkhead_core::time::WallMs;
use bulkhead_core::wire::Damage;
use bytes::Bytes;
use proptest::prelude::*;

const HEAD: SegmentHead = SegmentHead { next: SegmentSeq(41), expired_below: SegmentSeq(3) };

fn outcome() -> impl Strategy<Value = Outcome> {
    let rejection = Rejection {
        stage: "check".into(),
        step: None,
        fault: Fault::poison("bad", "bad"),
        attempts: 1,
        incarnation: 1,
    };
    prop_oneof![
        8 => Just(Outcome::Pending),
        8 => (0usize..4).prop_map(|n| Outcome::Emitted(vec![Record::default(); n].into())),
        1 => Just(Outcome::Dropped("why".into())),
        1 => Just(Outcome::Rejected(Box::new(rejection))),
        1 => (0..i64::MAX).prop_map(|of| Outcome::Duplicate(Offset(of))),
        1 => (0..i64::MAX).prop_map(|with| Outcome::Conflict(Offset(with))),
    ]
}

fn claim() -> impl Strategy<Value = Claim> {
    let round = prop_oneof![9 => Just(0), 1 => 0u32..65_536];
    (any::<u128>(), any::<u64>(), round).prop_map(|(key, fingerprint, round)| Claim {
        key: KeyHash(key),
        fingerprint,
        round: Round(round),
    })
}

/// Finished batches of one partition, in order, with gaps between offsets.
fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let record = (1i64..1_000, claim(), outcome());
    let start = prop_oneof![Just(0), 0i64..1 << 45];
    (start, prop::collection::vec(prop::collection::vec(record, 1..40), 1..6)).prop_map(|(start, batches)| {
        let mut offset = start;
        let batch = |(seq, records): (usize, Vec<(i64, Claim, Outcome)>)| {
            let assignment = Assignment { partition: Partition(5), generation: Generation(2) };
            let source = records.iter().map(|(gap, ..)| {
                offset += gap;
                SourceRecord { offset: Offset(offset), record: Record::default() }
            });
            let ticket = Ticket { assignment, seq: BatchSeq(seq as u64) };
            let mut batch = Batch::new(ticket, source.collect());
            batch.claims = records.iter().map(|(_, claim, _)| *claim).collect();
            batch.outcomes = records.into_iter().map(|(.., outcome)| outcome).collect();
            batch
        };
        batches.into_iter().enumerate().map(batch).collect()
    })
}

fn build(batches: &[Batch], bytes_max: usize) -> Vec<Segment> {
    Segment::build(&batches.iter().collect::<Vec<_>>(), HEAD, WallMs(1_700_000_000_000), bytes_max)
}

/// A body with the version in front and a right checksum behind.
fn sealed(body: &[u8]) -> Bytes {
    let mut wire = vec![1];
    wire.extend_from_slice(body);
    let sum = blake3::hash(&wire);
    wire.extend_from_slice(&sum.as_bytes()[..8]);
    wire.into()
}

proptest! {
    #[test]
    fn segments_say_what_became_of_each_record(batches in batches(), bytes_max in 0usize..4_000) {
        let segments = build(&batches, bytes_max);
        let mut entries = Vec::new();
        for (n, segment) in segments.iter().enumerate() {
            prop_assert_eq!(&Segment::decode(segment.wire().clone()), &Ok(segment.clone()));
            prop_assert_eq!(segment.seq(), SegmentSeq(41 + n as u64));
            prop_assert_eq!(segment.partition(), Partition(5));
            prop_assert_eq!(segment.expired_below(), SegmentSeq(3));
            prop_assert_eq!(segment.closes(), n == segments.len() - 1, "only the last part closes its commit");
            prop_assert!(segment.wire().len() <= bytes_max || segment.entries().len() == 1);
            prop_assert_eq!(segment.position(), segment.entries()[segment.entries().len() - 1].offset.next());
            entries.extend_from_slice(segment.entries());
        }
        prop_assert_eq!(segments[segments.len() - 1].position(), batches[batches.len() - 1].end());
        prop_assert_eq!(HEAD.after(&segments).next, SegmentSeq(41 + segments.len() as u64));
        let records = batches.iter().flat_map(|b| b.records.iter().zip(&b.claims).zip(&b.outcomes));
        let expected: Vec<_> = records.map(|((r, c), o)| (r.offset, *c, Recorded::of(o))).collect();
        let found: Vec<_> = entries.iter().map(|e| (e.offset, e.claim, e.recorded)).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_damaged_segment_is_never_taken_for_another(
        batches in batches(), at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>(),
    ) {
        let wire = build(&batches, 1 << 20)[0].wire().clone();
        let mut flipped = wire.to_vec();
        flipped[at.index(wire.len())] ^= 1 << bit;
        prop_assert!(Segment::decode(flipped.into()).is_err());
        prop_assert!(Segment::decode(wire.slice(..cut.index(wire.len()))).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Segment::decode(bytes.into()).is_err());
    }

    /// With a right checksum the values themselves are read.
    #[test]
    fn no_body_makes_it_panic(body in prop::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..120)) {
        let wire = sealed(&body);
        if let Ok(segment) = Segment::decode(wire.clone()) {
            prop_assert!(segment.entries().windows(2).all(|pair| pair[0].offset < pair[1].offset));
            prop_assert_eq!(segment.wire(), &wire);
        }
    }
}

#[test]
fn another_version_is_named() {
    assert_eq!(Segment::decode(vec![2; 40].into()), Err(Damage::Version(2)));
}

#[test]
fn a_count_beyond_the_bytes_allocates_nothing() {
    let u64_max = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let head = [1, 0, 0, 1, 0, 0];
    assert_eq!(Segment::decode(sealed(&[&head[..], &u64_max].concat())), Err(Damage::Malformed("count")));
}

#[test]
fn a_batch_without_claims_adds_nothing() {
    let assignment = Assignment { partition: Partition(0), generation: Generation(0) };
    let record = SourceRecord { offset: Offset(1), record: Record::default() };
    let batch = Batch::new(Ticket { assignment, seq: BatchSeq(0) }, vec![record]);
    assert!(Segment::build(&[&batch], HEAD, WallMs(0), 1 << 20).is_empty());
    assert_eq!(HEAD.after(&[]), HEAD);
}
