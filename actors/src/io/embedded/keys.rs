//! The keys of the embedded log, so that byte order is log order. Never holds a value.
//!
//! `records`: topic (4 bytes) · partition (4) · offset (8), big-endian.
//! `meta`: `c` the number of the last commit · `t` name · `s` slot (a partition's start, once records were deleted)
//! · `p` group length (2) group topic length (2) topic partition (4).

use crate::io::local::store::{GroupKey, Slot};
use bulkhead_core::ids::Partition;

/// How many bytes the key of a record has.
const RECORD_LEN: usize = 16;

/// The number of the last commit.
pub(super) const COMMIT: &[u8] = b"c";
pub(super) const TOPICS: &[u8] = b"t";
pub(super) const POSITIONS: &[u8] = b"p";

fn slot(slot: Slot) -> [u8; 8] {
    let mut key = [0; 8];
    key[..4].copy_from_slice(&slot.topic.0.to_be_bytes());
    key[4..].copy_from_slice(&slot.partition.0.to_be_bytes());
    key
}

pub(super) fn record(at: Slot, offset: i64) -> [u8; RECORD_LEN] {
    let mut key = [0; RECORD_LEN];
    key[..8].copy_from_slice(&slot(at));
    key[8..].copy_from_slice(&offset.to_be_bytes());
    key
}

/// The offset in a record's key; `None` where it is no such key.
pub(super) fn offset(key: &[u8]) -> Option<i64> {
    let key: &[u8; RECORD_LEN] = key.try_into().ok()?;
    Some(i64::from_be_bytes(key[8..].try_into().ok()?))
}

pub(super) fn topic(name: &str) -> Vec<u8> {
    [TOPICS, name.as_bytes()].concat()
}

pub(super) fn start(at: Slot) -> Vec<u8> {
    [b"s".as_slice(), &slot(at)].concat()
}

/// Names are at most 65,535 bytes; Kafka allows 249.
pub(super) fn position(key: &GroupKey, partition: Partition) -> Option<Vec<u8>> {
    let mut bytes = POSITIONS.to_vec();
    for name in [&key.group, &key.topic] {
        bytes.extend(u16::try_from(name.len()).ok()?.to_be_bytes());
        bytes.extend(name.as_bytes());
    }
    bytes.extend(partition.0.to_be_bytes());
    Some(bytes)
}

pub(super) fn parse_position(key: &[u8]) -> Option<(GroupKey, Partition)> {
    let rest = key.strip_prefix(POSITIONS)?;
    let (group, rest) = name(rest)?;
    let (topic, rest) = name(rest)?;
    let partition = Partition(i32::from_be_bytes(rest.try_into().ok()?));
    Some((GroupKey { group: group.into(), topic: topic.into() }, partition))
}

fn name(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    let (name, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    Some((std::str::from_utf8(name).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::local::store::TopicId;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn byte_order_is_log_order(a in (0_u32..4, 0_i32..4, 0_i64..1_000), b in (0_u32..4, 0_i32..4, 0_i64..1_000)) {
            let key = |(t, p, o): (u32, i32, i64)| record(Slot { topic: TopicId(t), partition: Partition(p) }, o);
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
            prop_assert_eq!(offset(&key(a)), Some(a.2));
        }

        #[test]
        fn positions_come_back(group in ".{0,20}", topic in ".{0,20}", partition in 0_i32..) {
            let key = GroupKey { group: group.into(), topic: topic.into() };
            let bytes = position(&key, Partition(partition)).expect("short names");
            prop_assert_eq!(parse_position(&bytes), Some((key, Partition(partition))));
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            parse_position(&bytes);
            offset(&bytes);
        }
    }
}
