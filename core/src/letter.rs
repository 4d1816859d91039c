//! A dead letter: the source record as it was, and why it ended. Never decides that a record ends.
//!
//! Key, value and headers stay untouched; what happened stands in headers under [`ERRORS_PREFIX`], all UTF-8. Those
//! of an earlier failure are replaced, but for the time of the first one. A letter above its size limit loses bytes
//! of its value first, then headers of the source, then bytes of its key, each marked with what there was.

use crate::batch::Rejection;
use crate::ids::{Partition, Round};
use crate::ledger::round_of;
use crate::record::{Header, Record, SourceRecord};
use crate::time::WallMs;
use bytes::Bytes;
use std::sync::Arc;

/// What the names of a letter's own headers begin with.
pub const ERRORS_PREFIX: &str = "__bulkhead.errors.";
/// Present, as `true`, where the record has come back `rounds_max` times: a redrive leaves it.
pub const PARKED_HEADER: &str = "__bulkhead.errors.parked";
/// How many bytes the value had, where it was cut.
pub const TRUNCATED_HEADER: &str = "__bulkhead.errors.truncated";
/// How many headers of the source are missing, where they did not fit.
pub const TRUNCATED_HEADERS_HEADER: &str = "__bulkhead.errors.truncated.headers";
/// How many bytes the key had, where it was cut.
pub const TRUNCATED_KEY_HEADER: &str = "__bulkhead.errors.truncated.key";

const FIRST_FAILURE: &str = "first.failure.ts";

/// How many bytes a letter must be allowed at least: its own headers, with names of a usual length.
pub const LETTER_BYTES_MIN: usize = 8 * 1024;

/// What all letters of a pipeline have in common, and how large they may be.
#[derive(Clone, Debug)]
pub struct LetterSpec {
    /// The source topic.
    pub topic: Arc<str>,
    /// The consumer group.
    pub group: Arc<str>,
    /// The pipeline.
    pub pipeline: Arc<str>,
    /// How large a letter may be, in the bytes of [`Record::size`]; at least [`LETTER_BYTES_MIN`].
    pub bytes_max: usize,
    /// How many bytes of an error message are kept.
    pub message_bytes_max: usize,
    /// From which round on a letter is parked.
    pub rounds_max: u32,
}

/// The dead letter of a record that was rejected at `failed_at`.
///
/// Its timestamp is that moment and not the source's: the log's retention goes by it.
#[must_use]
pub fn letter(
    spec: &LetterSpec,
    partition: Partition,
    source: &SourceRecord,
    why: &Rejection,
    failed_at: WallMs,
) -> Record {
    let record = &source.record;
    let first = record.header(&name(FIRST_FAILURE)).filter(|ts| is_number(ts)).cloned();
    let round = round_of(record);
    let mut headers: Vec<Header> = record.headers.iter().filter(|header| !is_ours(header)).cloned().collect();
    let mut add = |what: &str, value: Bytes| headers.push(Header::new(&name(what), value));
    add("topic", text(&spec.topic));
    add("partition", number(partition));
    add("offset", number(source.offset));
    add("timestamp", number(record.timestamp.0));
    add("group", text(&spec.group));
    add("pipeline", text(&spec.pipeline));
    add("stage", text(&why.stage));
    if let Some(step) = &why.step {
        add("step", text(step));
    }
    add("class", text(why.fault.class.as_str()));
    add("code", text(&why.fault.code));
    add("message", text(head(&why.fault.message, spec.message_bytes_max)));
    add("attempts", number(why.attempts));
    add(FIRST_FAILURE, first.unwrap_or_else(|| number(failed_at.0)));
    add("last.failure.ts", number(failed_at.0));
    add("incarnation", number(why.incarnation));
    add("redrive.count", number(round));
    if round >= Round(spec.rounds_max) {
        headers.push(Header::new(PARKED_HEADER, "true"));
    }
    let mut letter = Record { key: record.key.clone(), value: record.value.clone(), headers, timestamp: failed_at };
    fit(&mut letter, spec.bytes_max);
    letter
}

/// Whether a redrive must leave this letter.
#[must_use]
pub fn is_parked(letter: &Record) -> bool {
    letter.header(PARKED_HEADER).is_some()
}

/// Makes a letter fit `bytes_max`, as far as its own headers let it: its value is cut, then headers of the source go,
/// the last one first, then its key is cut. A mark that is there already says what there was at first and stays.
pub fn fit(letter: &mut Record, bytes_max: usize) {
    if letter.size() <= bytes_max {
        return;
    }
    if let Some(value) = letter.value.clone().filter(|value| !value.is_empty()) {
        mark(letter, TRUNCATED_HEADER, value.len());
        letter.value = Some(value.slice(..value.len().saturating_sub(excess(letter, bytes_max))));
    }
    while excess(letter, bytes_max) > 0
        && let Some(at) = letter.headers.iter().rposition(|header| !is_ours(header) && !is_kept(header))
    {
        letter.headers.remove(at);
        count_removed(letter);
    }
    if excess(letter, bytes_max) > 0
        && let Some(key) = letter.key.clone().filter(|key| !key.is_empty())
    {
        mark(letter, TRUNCATED_KEY_HEADER, key.len());
        letter.key = Some(key.slice(..key.len().saturating_sub(excess(letter, bytes_max))));
    }
}

/// Cuts a letter that the log refused to half its size, or to the least that says what happened. False where nothing of it
/// can go any more.
pub fn cut(letter: &mut Record) -> bool {
    let size = letter.size();
    fit(letter, LETTER_BYTES_MIN.min(size / 2));
    letter.size() < size
}

fn excess(letter: &Record, bytes_max: usize) -> usize {
    letter.size().saturating_sub(bytes_max)
}

fn mark(letter: &mut Record, mark: &str, size: usize) {
    if letter.header(mark).is_none() {
        letter.headers.push(Header::new(mark, number(size)));
    }
}

fn count_removed(letter: &mut Record) {
    match letter.headers.iter_mut().find(|header| header.name == TRUNCATED_HEADERS_HEADER.as_bytes()) {
        Some(count) => {
            let so_far = std::str::from_utf8(&count.value).ok().and_then(|n| n.parse().ok()).unwrap_or(0u64);
            count.value = number(so_far + 1);
        }
        None => letter.headers.push(Header::new(TRUNCATED_HEADERS_HEADER, "1")),
    }
}

/// A header of ours about an error.
fn is_ours(header: &Header) -> bool {
    header.name.starts_with(ERRORS_PREFIX.as_bytes())
}

/// A header that says which record this is: a letter without it could not come back as itself.
fn is_kept(header: &Header) -> bool {
    header.name.starts_with(crate::record::RESERVED_PREFIX.as_bytes())
}

fn name(what: &str) -> String {
    format!("{ERRORS_PREFIX}{what}")
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn number(number: impl ToString) -> Bytes {
    number.to_string().into()
}

fn is_number(value: &[u8]) -> bool {
    !value.is_empty() && value.len() <= 20 && value.iter().all(u8::is_ascii_digit)
}

/// The first bytes of a text, whole characters only.
fn head(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}
