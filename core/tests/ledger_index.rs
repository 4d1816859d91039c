//! The ledger's index stays within its bounds, whatever is put in, and lets the oldest keys go first.

use bulkhead_core::batch::{Batch, Claim, KeyHash};
use bulkhead_core::ids::{Assignment, BatchSeq, Generation, Offset, Partition, Round, SegmentSeq, Ticket};
use bulkhead_core::ledger::{Index, SEGMENT_BYTES_MAX, Segment, SegmentHead};
use bulkhead_core::record::{Record, SourceRecord};
use bulkhead_core::time::WallMs;
use proptest::prelude::*;
use std::collections::HashMap;
use std::time::Duration;

/// As uniform as the real ones.
fn key(n: u64) -> KeyHash {
    let hash = blake3::hash(&n.to_le_bytes());
    let (first, _) = hash.as_bytes().split_first_chunk().expect("32 bytes");
    KeyHash(u128::from_le_bytes(*first))
}

fn segment(seq: u64, expired_below: u64, keys: &[u64], at: WallMs) -> Segment {
    let assignment = Assignment { partition: Partition(0), generation: Generation(0) };
    let records = (seq as i64 * 1_000..).zip(keys);
    let records = records.map(|(offset, _)| SourceRecord { offset: Offset(offset), record: Record::default() });
    let mut batch = Batch::new(Ticket { assignment, seq: BatchSeq(seq) }, records.collect());
    batch.claims = keys.iter().map(|n| Claim { key: key(*n), fingerprint: *n, round: Round(0) }).collect();
    let head = SegmentHead { next: SegmentSeq(seq), expired_below: SegmentSeq(expired_below) };
    Segment::build(&[&batch], head, at, SEGMENT_BYTES_MAX).remove(0)
}

proptest! {
    /// At the limit only the oldest go, no more than a span of them too many, and all of it is said.
    #[test]
    fn the_oldest_leave_at_the_limit(
        keys_max in 1usize..400,
        segments in prop::collection::vec(prop::collection::vec(0u64..600, 1..30), 1..120),
    ) {
        let mut index = Index::new(Duration::from_secs(3_600), keys_max);
        let mut newest: HashMap<u64, u64> = HashMap::new();
        let mut floor = SegmentSeq(0);
        for (seq, keys) in segments.iter().enumerate() {
            newest.extend(keys.iter().map(|key| (*key, seq as u64)));
            if let Some(evicted) = index.apply(&segment(seq as u64, 0, keys, WallMs(seq as i64 * 60_000))) {
                prop_assert!(evicted.keys > 0);
                prop_assert_eq!(evicted.below, index.floor());
                prop_assert!(evicted.below > floor);
                floor = evicted.below;
            }
            let counting = newest.iter().filter(|(_, at)| **at >= floor.0).count();
            prop_assert_eq!(index.len(), counting);
            // The floor may rise over a span without a key of its own: then nothing left.
            prop_assert!(counting <= keys_max || index.floor().0 == seq as u64, "only the newest segment may be too large");
            prop_assert!(index.held() <= index.len() + keys_max / 8);
            prop_assert!(newest.iter().all(|(n, at)| index.contains(key(*n)) == (*at >= floor.0)));
        }
    }

    /// Another owner's `expired_below` may lie anywhere.
    #[test]
    fn what_was_recorded_as_expired_is_absent(
        segments in prop::collection::vec((prop::collection::vec(0u64..200, 1..20), 0u64..4, 0i64..2_000), 1..100),
    ) {
        let mut index = Index::new(Duration::from_secs(60), 10_000);
        let mut newest: HashMap<u64, u64> = HashMap::new();
        let (mut floor, mut wall) = (0, 0);
        for (seq, (keys, step, later_ms)) in segments.iter().enumerate() {
            floor = (floor + step).min(seq as u64);
            wall += later_ms;
            newest.extend(keys.iter().map(|key| (*key, seq as u64)));
            prop_assert_eq!(index.apply(&segment(seq as u64, floor, keys, WallMs(wall))), None);
            prop_assert!(newest.iter().all(|(n, at)| index.contains(key(*n)) == (*at >= floor)));
        }
        for seq in segments.len() as u64..segments.len() as u64 + 70 {
            newest.insert(1_000, seq);
            index.apply(&segment(seq, floor, &[1_000], WallMs(wall)));
        }
        prop_assert_eq!(index.len(), newest.values().filter(|at| **at >= floor).count(), "once all was swept");
        prop_assert_eq!(index.held(), index.len());
    }
}

#[test]
fn keys_leave_when_their_time_is_over_and_not_before() {
    let mut index = Index::new(Duration::from_secs(256), 10_000);
    for seq in 0..100 {
        index.apply(&segment(seq, 0, &[seq], WallMs(seq as i64 * 1_000)));
    }
    index.expire_at(WallMs(256_000 - 1));
    assert_eq!(index.len(), 100);
    index.expire_at(WallMs(256_000 + 50_000));
    assert!((48..=51).contains(&index.len()), "{} of 49 left, give or take a span", index.len());
    assert!(index.contains(key(51)));
    index.expire_at(WallMs(i64::MAX));
    assert!(index.is_empty());
    assert_eq!(index.floor(), SegmentSeq(100), "the next segment still counts");
}
