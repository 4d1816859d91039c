//! Follows single records through the log by their ids. Never logs a payload, and costs nothing while nobody listens.
//!
//! Target `bulkhead::record`: a rejection is told at `info`, every other step of a record's way at `debug`
//! (`--log-level info,bulkhead::record=debug`), or at `info`, too, where the pipeline wants it (`log_records`).

use super::spec::PipelineSpec;
use bulkhead_core::batch::{Batch, Outcome};
use bulkhead_core::record::{ID_HEADER, Record};
use bulkhead_core::stage::Work;
use std::borrow::Cow;

const TARGET: &str = "bulkhead::record";

/// How many bytes of an id or a key are shown.
const SHOWN_BYTES_MAX: usize = 128;

/// Tells at `info` where the pipeline wants it, else at `debug`.
macro_rules! tell {
    ($spec:expr, $($what:tt)+) => {
        if $spec.log_records {
            tracing::info!(target: TARGET, $($what)+)
        } else {
            tracing::debug!(target: TARGET, $($what)+)
        }
    };
}

/// Whether anybody listens to what every record does.
fn is_told(spec: &PipelineSpec) -> bool {
    spec.log_records || tracing::enabled!(target: TARGET, tracing::Level::DEBUG)
}

fn shown(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES_MAX)])
}

/// The record's id, else its key, for a log line.
fn id(record: &Record) -> Cow<'_, str> {
    record.header(ID_HEADER).or(record.key.as_ref()).map_or(Cow::Borrowed("-"), |id| shown(id))
}

fn key(record: &Record) -> Cow<'_, str> {
    record.key.as_ref().map_or(Cow::Borrowed("-"), |key| shown(key))
}

/// The batch was cut of what the group's member fetched.
pub(crate) fn consumed(spec: &PipelineSpec, batch: &Batch) {
    if !is_told(spec) {
        return;
    }
    let partition = batch.ticket.assignment.partition;
    for source in batch.records.iter() {
        let record = &source.record;
        tell!(spec, pipeline = %spec.name, topic = %spec.source.topic, %partition, offset = %source.offset,
            key = %key(record), id = %id(record), group = spec.source.group, batch = %batch.ticket, "consumed");
    }
}

/// A worker begins with these records of a batch.
pub(crate) fn tried(spec: &PipelineSpec, stage: &str, work: &Work) {
    if !is_told(spec) {
        return;
    }
    let partition = work.batch.ticket.assignment.partition;
    for source in work.todo.iter().filter_map(|index| work.batch.records.get(usize::try_from(*index).ok()?)) {
        let record = &source.record;
        tell!(spec, pipeline = %spec.name, stage, attempt = work.attempt, %partition, offset = %source.offset,
            key = %key(record), id = %id(record), "processing");
    }
}

/// The batch is settled: what became of each of its records. Their outcomes and the group's position, that of the next
/// record to read, were committed together.
pub(crate) fn settled(spec: &PipelineSpec, batch: &Batch) {
    let all = is_told(spec);
    let (partition, position) = (batch.ticket.assignment.partition, batch.end());
    for (source, outcome) in batch.records.iter().zip(&batch.outcomes) {
        let record = &source.record;
        if let Outcome::Rejected(why) = outcome {
            tracing::info!(target: TARGET, pipeline = %spec.name, id = %id(record), %partition, offset = %source.offset,
                key = %key(record), batch = %batch.ticket, %position, topic = %spec.dlq.topic, stage = %why.stage,
                attempts = why.attempts, fault = %why.fault, "dead letter, committed");
        } else if all {
            let became = match outcome {
                Outcome::Emitted(_) | Outcome::Pending => "result",
                Outcome::Dropped(_) => "dropped",
                Outcome::Duplicate(_) => "duplicate",
                Outcome::Conflict(_) => "conflict",
                Outcome::Rejected(_) => "dead letter",
            };
            tell!(spec, pipeline = %spec.name, id = %id(record), %partition, offset = %source.offset,
                key = %key(record), batch = %batch.ticket, %position, "{became}, committed");
        }
    }
}
