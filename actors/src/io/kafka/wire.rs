//! Records as they come from and go to librdkafka. Never keeps one of its messages: they are copied, many to an
//! allocation.

use bulkhead_core::ids::Offset;
use bulkhead_core::record::{Header, Record, SourceRecord};
use bulkhead_core::time::WallMs;
use bytes::{Bytes, BytesMut};
use rdkafka::message::{BorrowedMessage, Header as KafkaHeader, Headers, Message, OwnedHeaders};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What one allocation holds at most: a record that is kept for long (a dead letter) keeps no more than this with it.
const ARENA_BYTES_MAX: usize = 1 << 20;

/// Copies messages into few allocations and cuts records out of them.
#[derive(Default)]
pub(super) struct Arena {
    bytes: BytesMut,
    spans: Vec<Spans>,
    records: Vec<SourceRecord>,
    unreadable: u64,
}

struct Spans {
    offset: i64,
    timestamp: i64,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Vec<(Range<usize>, Range<usize>)>,
}

impl Arena {
    /// Copies one message.
    pub(super) fn push(&mut self, message: &BorrowedMessage<'_>) {
        let (key, value) = (message.key(), message.payload());
        let size = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        if !self.spans.is_empty() && self.bytes.len() + size > ARENA_BYTES_MAX {
            self.cut();
        }
        let key = key.map(|key| self.copy(key));
        let value = value.map(|value| self.copy(value));
        let headers = message.headers().map(|headers| self.copy_headers(headers)).unwrap_or_default();
        let timestamp = message.timestamp().to_millis().unwrap_or_default();
        self.spans.push(Spans { offset: message.offset(), timestamp, key, value, headers });
    }

    /// Adds a record that was copied before.
    pub(super) fn push_record(&mut self, record: SourceRecord) {
        self.cut();
        self.records.push(record);
    }

    /// How many records it holds.
    pub(super) fn len(&self) -> usize {
        self.records.len() + self.spans.len()
    }

    /// Gives all records in the order in which they came, and is empty again.
    pub(super) fn take(&mut self) -> Vec<SourceRecord> {
        self.cut();
        std::mem::take(&mut self.records)
    }

    /// How many headers could not be read since the last call.
    pub(super) fn take_unreadable(&mut self) -> u64 {
        std::mem::take(&mut self.unreadable)
    }

    fn copy(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    fn copy_headers<H: Headers>(&mut self, headers: &H) -> Vec<(Range<usize>, Range<usize>)> {
        let mut spans = Vec::with_capacity(headers.count());
        for index in 0..headers.count() {
            // rdkafka panics on a header whose name is not UTF-8; any client can send one, and it must not end the
            // source.
            match catch_unwind(AssertUnwindSafe(|| headers.try_get(index))) {
                Ok(Some(header)) => {
                    let name = self.copy(header.key.as_bytes());
                    spans.push((name, self.copy(header.value.unwrap_or_default())));
                }
                Ok(None) | Err(_) => self.unreadable += 1,
            }
        }
        spans
    }

    fn cut(&mut self) {
        if self.spans.is_empty() {
            return;
        }
        // The next allocation will be of the same size: no growing, step by step, every time.
        let next = BytesMut::with_capacity(self.bytes.len().min(ARENA_BYTES_MAX));
        let bytes = std::mem::replace(&mut self.bytes, next).freeze();
        self.records.reserve(self.spans.len());
        for spans in self.spans.drain(..) {
            self.records.push(spans.record(&bytes));
        }
    }
}

impl Spans {
    fn record(self, bytes: &Bytes) -> SourceRecord {
        let headers = self
            .headers
            .into_iter()
            .map(|(name, value)| Header { name: bytes.slice(name), value: bytes.slice(value) })
            .collect();
        SourceRecord {
            offset: Offset(self.offset),
            record: Record {
                key: self.key.map(|range| bytes.slice(range)),
                value: self.value.map(|range| bytes.slice(range)),
                headers,
                timestamp: WallMs(self.timestamp),
            },
        }
    }
}

/// One message by itself.
pub(super) fn single(message: &BorrowedMessage<'_>) -> SourceRecord {
    let mut arena = Arena::default();
    arena.push(message);
    arena.take().remove(0)
}

/// A record's headers for librdkafka, `None` where it has none.
pub(super) fn headers(record: &Record) -> Result<Option<OwnedHeaders>, String> {
    if record.headers.is_empty() {
        return Ok(None);
    }
    let mut owned = OwnedHeaders::new_with_capacity(record.headers.len());
    for header in &record.headers {
        let name = std::str::from_utf8(&header.name).map_err(|_| "a header's name is not UTF-8".to_owned())?;
        owned = owned.insert(KafkaHeader { key: name, value: Some(&header.value[..]) });
    }
    Ok(Some(owned))
}

#[cfg(test)]
mod tests {
    use super::{Arena, headers};
    use bulkhead_core::record::{Header, Record};
    use rdkafka::message::{Header as KafkaHeader, Headers, OwnedHeaders};

    /// The second of three has a name that is not UTF-8.
    struct Odd(OwnedHeaders);

    impl Headers for Odd {
        fn count(&self) -> usize {
            3
        }

        fn try_get(&self, index: usize) -> Option<KafkaHeader<'_, &[u8]>> {
            assert!(index != 1, "what rdkafka does");
            self.0.as_borrowed().try_get(index / 2)
        }
    }

    #[test]
    fn a_header_that_rdkafka_panics_on_is_left_out_and_counted() {
        let record = Record {
            headers: vec![Header::new("a", "1".to_owned()), Header::new("b", "2".to_owned())],
            ..Record::default()
        };
        let odd = Odd(headers(&record).expect("UTF-8 names").expect("two headers"));
        let mut arena = Arena::default();
        let spans = arena.copy_headers(&odd);
        assert_eq!((spans.len(), arena.take_unreadable()), (2, 1));
        assert_eq!(&arena.bytes[..], b"a1b2");
    }

    #[test]
    fn a_header_name_that_is_not_utf_8_is_refused() {
        let name = bytes::Bytes::from_static(&[0xff]);
        let record = Record { headers: vec![Header { name, value: bytes::Bytes::new() }], ..Record::default() };
        assert!(headers(&record).is_err());
        assert!(headers(&Record::default()).expect("none").is_none());
    }
}
