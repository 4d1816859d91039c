//! Makes records durable: in the log, or in the outbox of a route that has one while the log does not take them. Never says
//! that a record is durable before it is.

use super::admission::Refusal;
use super::keys::IDEMPOTENCY_KEY;
use super::problem::Problem;
use super::route::Accept;
use super::{Intake, Shared};
use actix_web::http::StatusCode;
use bulkhead_actors::log::{LogError, Outgoing};
use bulkhead_actors::outbox::{NotTaken, Queue};
use bulkhead_core::outbox::Full;
use bulkhead_core::record::ID_HEADER;
use futures::future::join_all;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout_at;

/// Where records are that were made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In their topic.
    Log,
    /// Some of them, or all, in this gateway's outbox.
    Outbox,
}

/// Why the log has not acknowledged a record.
enum Unsent {
    Failed(LogError),
    Late,
}

/// What records are for.
#[derive(Clone, Copy)]
pub(super) struct For<'a> {
    pub pipeline: &'a str,
    pub fallback: Option<&'a Fallback>,
    /// Whether the log tells where each came to lie.
    pub log_records: bool,
}

/// The outbox of a route.
#[derive(Clone)]
pub(super) struct Fallback {
    pub queue: Arc<Queue>,
    /// How long the log may take before a record goes there.
    pub after: Duration,
}

impl Fallback {
    /// Whether nothing more can be taken, whoever could take it: what waits must not be overtaken.
    pub(super) fn check(&self) -> Result<(), Problem> {
        self.queue.check().map_err(|full| is_full(&full))
    }
}

/// Makes records durable, all of them. After an error some may be; each has an id, under which it is processed once.
pub(super) async fn store(shared: &Shared, intake: &Intake, records: Vec<Outgoing>) -> Result<Place, Problem> {
    let Accept { jobs, log_records, .. } = &intake.route;
    let of = For { pipeline: &jobs.pipeline, fallback: intake.fallback.as_ref(), log_records: *log_records };
    store_for(shared, of, records).await
}

/// The same for records that come by another kind of route.
pub(super) async fn store_for(shared: &Shared, of: For<'_>, records: Vec<Outgoing>) -> Result<Place, Problem> {
    for outgoing in &records {
        let (size, limit) = (outgoing.record.size(), shared.producer.record_bytes_max(&outgoing.topic));
        if size > limit {
            let detail = format!("As a record this has {size} bytes; the log takes {limit}.");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "record-too-large", "Record too large", detail));
        }
    }
    let For { pipeline, fallback, log_records } = of;
    let Some(Fallback { queue, after }) = fallback else {
        let unsent = send(shared, log_records, &records, shared.limits.ack_timeout).await;
        return unsent.into_iter().next().map_or(Ok(Place::Log), |(at, why)| Err(problem(&records[at], why)));
    };
    // What waits is not overtaken; nor is a log asked that is known to be away.
    if !queue.is_empty() || shared.pressure.refuses(pipeline) == Some(Refusal::LogAway) {
        return put(queue, &records).await;
    }
    let unsent = send(shared, log_records, &records, *after).await;
    if unsent.is_empty() {
        return Ok(Place::Log);
    }
    if let Some((at, why)) = unsent.iter().find(|(_, why)| matches!(why, Unsent::Failed(LogError::Refused(_)))) {
        let Unsent::Failed(error) = why else { return Ok(Place::Log) };
        return Err(problem(&records[*at], Unsent::Failed(error.clone())));
    }
    // A record that was sent and whose acknowledgement is missing may be in the log all the same: the ledger knows its id.
    let left: Vec<_> = unsent.into_iter().map(|(at, _)| records[at].clone()).collect();
    put(queue, &left).await
}

/// Hands records to the log in order; those that it did not acknowledge within `patience`, by their place, and why.
async fn send(shared: &Shared, log_records: bool, records: &[Outgoing], patience: Duration) -> Vec<(usize, Unsent)> {
    let began = tokio::time::Instant::now();
    let until = began + patience;
    let sends: Vec<_> = records.iter().map(|record| shared.producer.send(record.clone())).collect();
    let sends = sends.into_iter().zip(records).map(|(sent, outgoing)| async move {
        let (id, topic) = (id(outgoing), &outgoing.topic);
        match timeout_at(until, sent).await {
            Ok(Ok((partition, offset))) => {
                let took = began.elapsed();
                shared.metrics.produce_duration_seconds.with([topic]).observe(took.as_secs_f64());
                let produce_ms = took.as_millis();
                if log_records {
                    let key = String::from_utf8_lossy(outgoing.record.key.as_deref().unwrap_or_default());
                    tracing::info!(
                        target: "bulkhead::record", %id, %topic, %partition, %offset, %key, produce_ms, "produced"
                    );
                } else {
                    tracing::debug!(%id, %topic, %partition, %offset, produce_ms, "record accepted");
                }
                None
            }
            Ok(Err(error)) => Some(Unsent::Failed(error)),
            Err(_) => Some(Unsent::Late),
        }
    });
    join_all(sends).await.into_iter().enumerate().filter_map(|(at, unsent)| Some((at, unsent?))).collect()
}

async fn put(queue: &Arc<Queue>, records: &[Outgoing]) -> Result<Place, Problem> {
    match queue.put(records).await {
        Ok(()) => {
            for outgoing in records {
                tracing::debug!(id = %id(outgoing), topic = %outgoing.topic, "record accepted into the outbox");
            }
            Ok(Place::Outbox)
        }
        Err(NotTaken::Full(full)) => Err(is_full(&full)),
        Err(NotTaken::Failed(error)) => {
            tracing::error!(%error, "the outbox does not take records");
            let detail = "Neither the log nor the outbox takes the record; try again.";
            Err(Problem::unavailable("log-unavailable", "Log unavailable", detail))
        }
    }
}

fn id(outgoing: &Outgoing) -> Cow<'_, str> {
    outgoing.record.header(ID_HEADER).map_or(Cow::Borrowed(""), |id| String::from_utf8_lossy(id))
}

fn is_full(full: &Full) -> Problem {
    let detail = format!("The log is away and this gateway's outbox is full: {full}.");
    Problem::unavailable("outbox-full", "Outbox full", detail)
}

fn problem(outgoing: &Outgoing, why: Unsent) -> Problem {
    let (id, topic) = (id(outgoing), &outgoing.topic);
    match why {
        Unsent::Failed(LogError::Refused(reason)) => {
            tracing::error!(%id, %topic, %reason, "the log refuses a record");
            let detail = "The log refuses the record; the daemon's log says why.";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "log-refused", "Log refuses the record", detail)
        }
        Unsent::Failed(error) => {
            tracing::warn!(%id, %topic, %error, "record not accepted");
            Problem::unavailable("log-unavailable", "Log unavailable", "The record was not stored; try again.")
        }
        Unsent::Late => {
            tracing::warn!(%id, %topic, "record not acknowledged in time");
            let detail = format!(
                "Whether the record was stored is not known. Sent again with the same {IDEMPOTENCY_KEY}, it is \
                 processed once."
            );
            Problem::unavailable("not-acknowledged", "Not acknowledged in time", detail)
        }
    }
}
