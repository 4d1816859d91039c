//! What a stage's worker and the child process that runs its steps say to each other, as frames on a stream of bytes.
//! Never touches the stream, and takes nothing on trust: native code in the child may have written anywhere.
//!
//! ```text
//! frame   = "BW" version kind length:u32 checksum:u64 payload     (little-endian, checksum = XXH3-64 of the payload)
//! worker:  Start · (Row… Work)…            child:  Ready | Failed | Panicked · (Ended… | Failed | Panicked)…
//! ```
//! A payload is at most as long as both sides agreed on, so no bytes make a reader take more memory than that.

use crate::fault::{Fault, FaultClass};
use crate::ids::{Offset, Partition};
use crate::phases::Phases;
use crate::record::{Header, Origin, Record};
use crate::time::WallMs;
use crate::verdict::{Emitted, Ended};
use crate::wire::{Damage, Reader, put_varint};
use bytes::Bytes;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// What every frame begins with, its payload apart.
pub const HEAD_BYTES: usize = 16;
/// How much of a fault's message crosses.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;
const MAGIC: [u8; 2] = *b"BW";
const VERSION: u8 = 2;

/// One thing that is said.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// To the child, first: what it builds its steps from.
    Start(Bytes),
    /// To the child: a source record, as where it came from and the records that earlier stages made of it.
    Row(Origin, Emitted),
    /// To the child: run the steps over the rows said since the last time; there are so many.
    Work(u32),
    /// From the child: its steps are built.
    Ready,
    /// From the child: what became of a row; one for each, in their order.
    Ended(Ended),
    /// From the child, before what became of the rows, where a step runs a model: what it spent its time on.
    Spent(Phases),
    /// From the child, in place of all that: the steps could not be built, or the batch as a whole failed.
    Failed(Fault),
    /// From the child, its last word: a step panicked.
    Panicked(String),
}

/// A message that does not fit a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes, a frame has at most {bytes_max}")]
pub struct TooLarge {
    /// How long its payload is.
    pub bytes: usize,
    /// How long it may be.
    pub bytes_max: usize,
}

/// A frame's head, checked: its payload is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    kind: u8,
    /// How long the payload is, in bytes.
    pub payload_bytes: usize,
    sum: u64,
}

impl Message {
    const fn kind(&self) -> u8 {
        match self {
            Self::Start(_) => 1,
            Self::Work(_) => 2,
            Self::Row(..) => 3,
            Self::Ready => 16,
            Self::Ended(_) => 17,
            Self::Failed(_) => 18,
            Self::Panicked(_) => 19,
            Self::Spent(_) => 20,
        }
    }

    /// Appends the message's frame.
    ///
    /// # Errors
    /// Its payload would be longer than `bytes_max`; nothing is appended then.
    pub fn encode(&self, bytes_max: usize, out: &mut Vec<u8>) -> Result<(), TooLarge> {
        let start = out.len();
        out.resize(start + HEAD_BYTES, 0);
        match self {
            Self::Start(bytes) => out.extend_from_slice(bytes),
            Self::Work(rows) => put_varint(out, u64::from(*rows)),
            Self::Row(origin, records) => {
                put_origin(out, *origin);
                put_records(out, records);
            }
            Self::Ready => {}
            Self::Ended(ended) => put_ended(out, ended),
            Self::Spent(phases) => put_phases(out, *phases),
            Self::Failed(fault) => put_fault(out, fault),
            Self::Panicked(message) => put_message(out, message),
        }
        let bytes = out.len() - start - HEAD_BYTES;
        let Some(length) = u32::try_from(bytes).ok().filter(|_| bytes <= bytes_max) else {
            out.truncate(start);
            return Err(TooLarge { bytes, bytes_max });
        };
        let sum = xxh3_64(&out[start + HEAD_BYTES..]);
        let head = &mut out[start..start + HEAD_BYTES];
        head[..2].copy_from_slice(&MAGIC);
        (head[2], head[3]) = (VERSION, self.kind());
        head[4..8].copy_from_slice(&length.to_le_bytes());
        head[8..].copy_from_slice(&sum.to_le_bytes());
        Ok(())
    }
}

impl Head {
    /// Reads a frame's first [`HEAD_BYTES`].
    ///
    /// # Errors
    /// These are no frame's, or its payload would be longer than `bytes_max`.
    pub fn read(head: &[u8; HEAD_BYTES], bytes_max: usize) -> Result<Self, Damage> {
        let mut reader = Reader::new(head);
        if reader.array()? != MAGIC {
            return Err(Damage::Malformed("start of a frame"));
        }
        let (version, kind) = (reader.byte()?, reader.byte()?);
        if version != VERSION {
            return Err(Damage::Version(version));
        }
        let length = u32::from_le_bytes(reader.array()?);
        let payload_bytes = usize::try_from(length).ok().filter(|length| *length <= bytes_max);
        let payload_bytes = payload_bytes.ok_or(Damage::Malformed("length of a frame"))?;
        Ok(Self { kind, payload_bytes, sum: u64::from_le_bytes(reader.array()?) })
    }

    /// The message whose payload this is; its records share the payload's memory.
    ///
    /// # Errors
    /// It is not the payload that was written, or no payload that this version writes.
    pub fn open(self, payload: &Bytes) -> Result<Message, Damage> {
        if payload.len() != self.payload_bytes {
            return Err(Damage::Short);
        }
        if xxh3_64(payload) != self.sum {
            return Err(Damage::Checksum);
        }
        let mut taker = Taker { payload, reader: Reader::new(payload) };
        let message = match self.kind {
            1 => return Ok(Message::Start(payload.clone())),
            2 => Message::Work(taker.number("number of rows")?),
            3 => Message::Row(taker.origin()?, taker.records()?),
            16 => Message::Ready,
            17 => Message::Ended(taker.ended()?),
            18 => Message::Failed(taker.fault()?),
            19 => Message::Panicked(taker.text()?),
            20 => Message::Spent(taker.phases()?),
            _ => return Err(Damage::Malformed("kind of frame")),
        };
        if taker.reader.left() > 0 {
            return Err(Damage::Malformed("end of a frame"));
        }
        Ok(message)
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// `None` is 0, bytes are their length plus one and then themselves.
fn put_optional(out: &mut Vec<u8>, bytes: Option<&Bytes>) {
    match bytes {
        None => out.push(0),
        Some(bytes) => {
            put_varint(out, bytes.len() as u64 + 1);
            out.extend_from_slice(bytes);
        }
    }
}

fn put_origin(out: &mut Vec<u8>, origin: Origin) {
    out.extend_from_slice(&origin.partition.0.to_le_bytes());
    out.extend_from_slice(&origin.offset.0.to_le_bytes());
    out.extend_from_slice(&origin.attempt.to_le_bytes());
}

fn put_records(out: &mut Vec<u8>, records: &[Record]) {
    put_varint(out, records.len() as u64);
    for record in records {
        out.extend_from_slice(&record.timestamp.0.to_le_bytes());
        put_optional(out, record.key.as_ref());
        put_optional(out, record.value.as_ref());
        put_varint(out, record.headers.len() as u64);
        for header in &record.headers {
            put_bytes(out, &header.name);
            put_bytes(out, &header.value);
        }
    }
}

fn put_ended(out: &mut Vec<u8>, ended: &Ended) {
    match ended {
        Ended::Emitted(records) => {
            out.push(0);
            put_records(out, records);
        }
        Ended::Dropped(reason) => {
            out.push(1);
            put_message(out, reason);
        }
        Ended::Rejected { step, fault } => {
            out.push(2);
            put_varint(out, step.map_or(0, |step| u64::from(step) + 1));
            put_fault(out, fault);
        }
    }
}

/// Each as whole nanoseconds.
fn put_phases(out: &mut Vec<u8>, phases: Phases) {
    for span in [phases.preprocess, phases.infer, phases.postprocess] {
        put_varint(out, u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
    }
}

fn put_fault(out: &mut Vec<u8>, fault: &Fault) {
    out.push(match fault.class {
        FaultClass::Transient => 0,
        FaultClass::Poison => 1,
        FaultClass::Fatal => 2,
    });
    put_message(out, &fault.code);
    put_message(out, &fault.message);
}

/// A text for people, cut to fit.
fn put_message(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, &text.as_bytes()[..text.floor_char_boundary(MESSAGE_BYTES_MAX)]);
}

/// Takes values off a payload, sharing its memory.
struct Taker<'a> {
    payload: &'a Bytes,
    reader: Reader<'a>,
}

impl Taker<'_> {
    fn number(&mut self, what: &'static str) -> Result<u32, Damage> {
        u32::try_from(self.reader.varint()?).map_err(|_| Damage::Malformed(what))
    }

    fn sized(&mut self, length: u64) -> Result<Bytes, Damage> {
        let length = usize::try_from(length).map_err(|_| Damage::Short)?;
        Ok(self.payload.slice_ref(self.reader.bytes(length)?))
    }

    fn bytes(&mut self) -> Result<Bytes, Damage> {
        let length = self.reader.varint()?;
        self.sized(length)
    }

    fn optional(&mut self) -> Result<Option<Bytes>, Damage> {
        match self.reader.varint()? {
            0 => Ok(None),
            more => self.sized(more - 1).map(Some),
        }
    }

    fn text(&mut self) -> Result<String, Damage> {
        let bytes = self.bytes()?;
        let text = std::str::from_utf8(&bytes).map_err(|_| Damage::Malformed("text"))?;
        Ok(text.to_owned())
    }

    fn origin(&mut self) -> Result<Origin, Damage> {
        let partition = Partition(i32::from_le_bytes(self.reader.array()?));
        let offset = Offset(i64::from_le_bytes(self.reader.array()?));
        Ok(Origin { partition, offset, attempt: u32::from_le_bytes(self.reader.array()?) })
    }

    /// Every record takes a byte at least, so a false count ends with the payload and not with the memory.
    fn records(&mut self) -> Result<Emitted, Damage> {
        let count = self.reader.varint()?;
        (0..count).map(|_| self.record()).collect()
    }

    fn record(&mut self) -> Result<Record, Damage> {
        let timestamp = WallMs(i64::from_le_bytes(self.reader.array()?));
        let (key, value) = (self.optional()?, self.optional()?);
        let headers = self.reader.varint()?;
        let headers = (0..headers).map(|_| Ok(Header { name: self.bytes()?, value: self.bytes()? }));
        Ok(Record { key, value, headers: headers.collect::<Result<_, _>>()?, timestamp })
    }

    fn ended(&mut self) -> Result<Ended, Damage> {
        Ok(match self.reader.byte()? {
            0 => Ended::Emitted(self.records()?),
            1 => Ended::Dropped(self.text()?),
            2 => Ended::Rejected { step: self.number("step")?.checked_sub(1), fault: self.fault()? },
            _ => return Err(Damage::Malformed("verdict")),
        })
    }

    fn phases(&mut self) -> Result<Phases, Damage> {
        let mut span = || self.reader.varint().map(Duration::from_nanos);
        Ok(Phases { preprocess: span()?, infer: span()?, postprocess: span()? })
    }

    fn fault(&mut self) -> Result<Fault, Damage> {
        let class = match self.reader.byte()? {
            0 => FaultClass::Transient,
            1 => FaultClass::Poison,
            2 => FaultClass::Fatal,
            _ => return Err(Damage::Malformed("class of a fault")),
        };
        Ok(Fault { class, code: self.text()?.into(), message: self.text()?, violations: Box::default() })
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
