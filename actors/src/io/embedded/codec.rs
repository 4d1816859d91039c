//! The values of the embedded log: versioned, and checked when they are read. Never panics on damage.
//!
//! A record: version (1) · the low half of the rest's XXH3-64 (4) · flags (1: key, 2: value) · appended ms (8) · timestamp ms (8)
//! · key, value, header count, header names and values, each behind its length; lengths and the count are LEB128.
//! A record that waits to be sent: version, checksum, its topic and the record as above, each behind its length.

use crate::io::local::store::{TopicId, TopicMeta};
use crate::log::Outgoing;
use bulkhead_core::record::{Header, Record};
use bulkhead_core::time::WallMs;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

const VERSION: u8 = 1;
const HAS_KEY: u8 = 1;
const HAS_VALUE: u8 = 2;
/// Version and checksum.
const PREFIX: usize = 5;
/// Flags, appended and timestamp.
const FIXED: usize = 17;

/// Why bytes are not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodecError {
    #[error("written by version {0} of the format, this is version {VERSION}")]
    Version(u8),
    #[error("its checksum does not match")]
    Checksum,
    #[error("it ends too early or goes on too long")]
    Shape,
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) appended: WallMs,
    pub(super) record: Record,
}

pub(super) fn encode_record(record: &Record, appended: WallMs) -> Vec<u8> {
    let mut out = Vec::with_capacity(PREFIX + FIXED + record.size());
    out.extend([VERSION, 0, 0, 0, 0]);
    let flag = |present: bool, flag| if present { flag } else { 0 };
    out.push(flag(record.key.is_some(), HAS_KEY) | flag(record.value.is_some(), HAS_VALUE));
    out.extend(appended.0.to_be_bytes());
    out.extend(record.timestamp.0.to_be_bytes());
    for bytes in [&record.key, &record.value].into_iter().flatten() {
        put_bytes(&mut out, bytes);
    }
    put_length(&mut out, record.headers.len());
    for header in &record.headers {
        put_bytes(&mut out, &header.name);
        put_bytes(&mut out, &header.value);
    }
    seal(out)
}

/// The record's fields share the one allocation made here.
pub(super) fn decode_record(value: &[u8]) -> Result<Stored, CodecError> {
    let mut input = Input(Bytes::copy_from_slice(open(value)?));
    let flags = input.u8()?;
    let appended = WallMs(input.i64()?);
    let timestamp = WallMs(input.i64()?);
    let key = if flags & HAS_KEY == 0 { None } else { Some(input.bytes()?) };
    let value = if flags & HAS_VALUE == 0 { None } else { Some(input.bytes()?) };
    let count = input.length()?;
    // A header takes two bytes at least, so damage cannot ask for more memory than there is input.
    if count > input.0.len() {
        return Err(CodecError::Shape);
    }
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        headers.push(Header { name: input.bytes()?, value: input.bytes()? });
    }
    input.end()?;
    Ok(Stored { appended, record: Record { key, value, headers, timestamp } })
}

/// The partition is left to the sender: a record that waits has none yet.
pub(super) fn encode_parcel(outgoing: &Outgoing) -> Vec<u8> {
    let mut out = vec![VERSION, 0, 0, 0, 0];
    put_bytes(&mut out, outgoing.topic.as_bytes());
    put_bytes(&mut out, &encode_record(&outgoing.record, WallMs(0)));
    seal(out)
}

pub(super) fn decode_parcel(value: &[u8]) -> Result<Outgoing, CodecError> {
    let mut input = Input(Bytes::copy_from_slice(open(value)?));
    let topic = input.bytes()?;
    let topic = std::str::from_utf8(&topic).map_err(|_| CodecError::Shape)?.into();
    let record = decode_record(&input.bytes()?)?.record;
    input.end()?;
    Ok(Outgoing { topic, partition: None, record })
}

pub(super) fn encode_topic(topic: &TopicMeta) -> Vec<u8> {
    let mut out = vec![VERSION, 0, 0, 0, 0];
    out.extend(topic.id.0.to_be_bytes());
    out.extend(topic.partitions.to_be_bytes());
    let retention = topic.retention.map_or(-1, |r| i64::try_from(r.as_millis()).unwrap_or(i64::MAX));
    out.extend(retention.to_be_bytes());
    seal(out)
}

pub(super) fn decode_topic(name: Arc<str>, value: &[u8]) -> Result<TopicMeta, CodecError> {
    let mut input = Input(Bytes::copy_from_slice(open(value)?));
    let id = TopicId(u32::from_be_bytes(input.array()?));
    let partitions = i32::from_be_bytes(input.array()?);
    let retention = u64::try_from(input.i64()?).ok().map(Duration::from_millis);
    input.end()?;
    if partitions < 1 {
        return Err(CodecError::Shape);
    }
    Ok(TopicMeta { name, id, partitions, retention })
}

/// fjall's own blocks use XXH3; half of it finds any damage that is not aimed at it.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    u32::try_from(xxh3_64(bytes) & u64::from(u32::MAX)).unwrap_or(0)
}

/// Writes the checksum of what follows the prefix.
fn seal(mut out: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&out[PREFIX..]);
    out[1..PREFIX].copy_from_slice(&sum.to_be_bytes());
    out
}

/// What follows the prefix, once it is known to be what was written.
fn open(value: &[u8]) -> Result<&[u8], CodecError> {
    let ([version, sum @ ..], rest) = value.split_first_chunk::<PREFIX>().ok_or(CodecError::Shape)?;
    if *version != VERSION {
        return Err(CodecError::Version(*version));
    }
    if u32::from_be_bytes(*sum) != checksum(rest) {
        return Err(CodecError::Checksum);
    }
    Ok(rest)
}

fn put_length(out: &mut Vec<u8>, mut length: usize) {
    while length > 0x7f {
        out.push(u8::try_from(length & 0x7f).unwrap_or(0x7f) | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap_or(0x7f));
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

struct Input(Bytes);

impl Input {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let array = *self.0.first_chunk::<N>().ok_or(CodecError::Shape)?;
        drop(self.0.split_to(N));
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, CodecError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn i64(&mut self) -> Result<i64, CodecError> {
        self.array().map(i64::from_be_bytes)
    }

    fn length(&mut self) -> Result<usize, CodecError> {
        let mut length = 0_usize;
        // 32 bits: no value of the store is longer.
        for shift in (0..35).step_by(7) {
            let byte = self.u8()?;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(length);
            }
        }
        Err(CodecError::Shape)
    }

    fn bytes(&mut self) -> Result<Bytes, CodecError> {
        let length = self.length()?;
        if length > self.0.len() {
            return Err(CodecError::Shape);
        }
        Ok(self.0.split_to(length))
    }

    fn end(&self) -> Result<(), CodecError> {
        if self.0.is_empty() { Ok(()) } else { Err(CodecError::Shape) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::option::of;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..300).prop_map(Bytes::from)
    }

    fn record() -> impl Strategy<Value = Record> {
        let headers = vec((bytes(), bytes()).prop_map(|(name, value)| Header { name, value }), 0..4);
        (of(bytes()), of(bytes()), headers, any::<i64>()).prop_map(|(key, value, headers, at)| Record {
            key,
            value,
            headers,
            timestamp: WallMs(at),
        })
    }

    proptest! {
        #[test]
        fn records_come_back(record in record(), appended in any::<i64>()) {
            let appended = WallMs(appended);
            let value = encode_record(&record, appended);
            prop_assert_eq!(decode_record(&value), Ok(Stored { appended, record }));
        }

        #[test]
        fn damage_is_told(record in record(), at in any::<proptest::sample::Index>(), flip in 1_u8..) {
            let mut value = encode_record(&record, WallMs(0));
            let at = at.index(value.len());
            value[at] ^= flip;
            prop_assert!(decode_record(&value).is_err());
            prop_assert!(decode_record(&value[..at]).is_err());
        }

        #[test]
        fn any_sealed_bytes_are_decoded_or_refused(bytes in vec(any::<u8>(), 0..60)) {
            let value = seal([vec![VERSION, 0, 0, 0, 0], bytes].concat());
            let _decoded = (decode_record(&value).is_ok(), decode_topic("t".into(), &value).is_ok());
            let _parcel = decode_parcel(&value).is_ok();
        }

        #[test]
        fn parcels_come_back_and_damage_is_told(record in record(), at in any::<proptest::sample::Index>()) {
            let parcel = Outgoing { topic: "events".into(), partition: None, record };
            let mut value = encode_parcel(&parcel);
            let back = decode_parcel(&value).expect("it is whole");
            prop_assert_eq!((&*back.topic, back.record), ("events", parcel.record));
            let at = at.index(value.len());
            value[at] ^= 1;
            prop_assert!(decode_parcel(&value).is_err());
        }

        #[test]
        fn topics_come_back(id in any::<u32>(), partitions in 1_i32.., retention in of(0_u64..1 << 50)) {
            let retention = retention.map(Duration::from_millis);
            let topic = TopicMeta { name: "t".into(), id: TopicId(id), partitions, retention };
            prop_assert_eq!(decode_topic("t".into(), &encode_topic(&topic)), Ok(topic));
        }
    }
}
