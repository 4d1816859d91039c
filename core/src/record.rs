//! A record: what a log stores and what steps work on. Never copies its bytes when it is cloned.

use crate::ids::{Offset, Partition};
use crate::time::WallMs;
use bytes::Bytes;

/// Headers that start with this are the engine's own and are stripped from what clients send.
pub const RESERVED_PREFIX: &str = "__bulkhead.";
/// The header that carries a record's id (its job id, where a gateway accepted it).
pub const ID_HEADER: &str = "__bulkhead.id";
/// The header that carries a record's round, a UTF-8 decimal number.
pub const ROUND_HEADER: &str = "__bulkhead.round";

/// The header that carries when a gateway accepted the record, Unix milliseconds as a UTF-8 decimal number.
pub const ACCEPTED_HEADER: &str = "__bulkhead.accepted";

/// The header that carries the ledger's fingerprint of the payload that a client's idempotency key came with, 16 hex
/// digits: results inherit it, so that every gateway can tell a repeated request from another one under the same key.
pub const FINGERPRINT_HEADER: &str = "__bulkhead.fingerprint";

/// The header that names the output which a step sends a record to. It is the engine's own between a step and the lane: no
/// record is published with it, and one that was read with it is taken for one without.
pub const OUTPUT_HEADER: &str = "__bulkhead.output";

/// One named value beside a record's key and value. Names may repeat, as in Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name, UTF-8.
    pub name: Bytes,
    /// The value, any bytes.
    pub value: Bytes,
}

impl Header {
    /// A header from text.
    #[must_use]
    pub fn new(name: &str, value: impl Into<Bytes>) -> Self {
        Self { name: Bytes::copy_from_slice(name.as_bytes()), value: value.into() }
    }
}

/// A record that is to be produced, or the content of one that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// What its partition is chosen by; `None` where it does not matter.
    pub key: Option<Bytes>,
    /// The payload; `None` is Kafka's tombstone.
    pub value: Option<Bytes>,
    /// Headers in the order in which they were added.
    pub headers: Vec<Header>,
    /// When it was created.
    pub timestamp: WallMs,
}

impl Record {
    /// The last header of this name, as Kafka's `lastHeader`.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().rev().find(|h| h.name == name.as_bytes()).map(|h| &h.value)
    }

    /// The payload, empty for a tombstone.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.value.as_deref().unwrap_or_default()
    }

    /// Bytes that this record takes on the wire, within a few bytes a header: key, value, headers and framing
    /// (21 bytes is the most that a v2 record's own varints take, `DefaultRecord.MAX_RECORD_OVERHEAD` in Kafka).
    #[must_use]
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|h| h.name.len() + h.value.len() + 4).sum();
        self.key.as_ref().map_or(0, Bytes::len) + self.payload().len() + headers + 21
    }
}

/// A record as it was read: its content and where it lay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRecord {
    /// Where it lies in its partition.
    pub offset: Offset,
    /// What it holds.
    pub record: Record,
}

/// Where a record that is being worked on lies in its source topic, and how often it has been tried: what a step names it
/// by to the outside world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its partition.
    pub partition: Partition,
    /// Where it lies in it.
    pub offset: Offset,
    /// How often its batch has been lent to a worker of this stage, from 1.
    pub attempt: u32,
}

/// The record on its way to this output of its pipeline: no later step sees it.
#[must_use]
pub fn send_to(record: Record, output: &str) -> Record {
    let mut record = without_output(record);
    record.headers.push(Header::new(OUTPUT_HEADER, output.to_owned()));
    record
}

/// The output that a record is on its way to; none where it goes the way of all records.
#[must_use]
pub fn output_of(record: &Record) -> Option<&str> {
    // A name that is no text names no output; whoever looks for it finds none.
    record.header(OUTPUT_HEADER).map(|name| std::str::from_utf8(name).unwrap_or_default())
}

/// The record as it is published.
#[must_use]
pub fn without_output(mut record: Record) -> Record {
    if output_of(&record).is_some() {
        record.headers.retain(|header| header.name != OUTPUT_HEADER.as_bytes());
    }
    record
}
