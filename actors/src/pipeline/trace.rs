//! Follows single records through the log by their ids. Never logs a payload, and costs nothing while nobody listens.
//!
//! Target `bulkhead::record`: a rejection is told at `info`, every other outcome at `debug`
//! (`--log-level info,bulkhead::record=debug`).

use bulkhead_core::batch::{Batch, Outcome};
use bulkhead_core::record::{ID_HEADER, Record};
use std::borrow::Cow;

const TARGET: &str = "bulkhead::record";

/// The record's id, else its key, for a log line.
fn id(record: &Record) -> Cow<'_, str> {
    let id = record.header(ID_HEADER).or(record.key.as_ref());
    id.map_or(Cow::Borrowed("-"), |id| String::from_utf8_lossy(&id[..id.len().min(128)]))
}

/// The batch is settled: what became of each of its records.
pub(crate) fn settled(pipeline: &str, batch: &Batch) {
    let all = tracing::enabled!(target: TARGET, tracing::Level::DEBUG);
    let partition = batch.ticket.assignment.partition;
    for (source, outcome) in batch.records.iter().zip(&batch.outcomes) {
        if let Outcome::Rejected(why) = outcome {
            tracing::info!(target: TARGET, pipeline, id = %id(&source.record), %partition, offset = %source.offset,
                batch = %batch.ticket, stage = %why.stage, attempts = why.attempts, fault = %why.fault, "dead letter");
        } else if all {
            let became = match outcome {
                Outcome::Emitted(_) | Outcome::Pending => "result",
                Outcome::Dropped(_) => "dropped",
                Outcome::Duplicate(_) => "duplicate",
                Outcome::Conflict(_) => "conflict",
                Outcome::Rejected(_) => "dead letter",
            };
            tracing::debug!(target: TARGET, pipeline, id = %id(&source.record), %partition, offset = %source.offset,
                batch = %batch.ticket, "{became}, committed");
        }
    }
}
