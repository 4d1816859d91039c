//! Takes a record: reads it, names its job, hands it to the log, and answers once it is durable. Never answers before.

use super::problem::Problem;
use super::route::Key;
use super::{Intake, Shared, scope, upload};
use actix_web::http::{StatusCode, header};
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};
use bulkhead_actors::log::{LogError, Outgoing};
use bulkhead_core::job_id::JobId;
use bulkhead_core::record::{ACCEPTED_HEADER, Header, ID_HEADER, Record};
use bulkhead_core::time::WallMs;
use serde_json::json;
use std::sync::Arc;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// The header by which a client names its request (draft-ietf-httpapi-idempotency-key-header).
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// Longest header that is taken over, characters.
const HEADER_LEN_MAX: usize = 255;

/// Clients' headers that travel with the record: what a ledger may use as its key, and what it can be followed by from
/// outside. All others stay behind, `__bulkhead.*` among them.
const PASSED_ON: [&str; 3] = ["idempotency-key", "traceparent", "x-request-id"];

/// Bytes of budget a permit stands for: the semaphore counts in `u32`.
const PERMIT_BYTES: usize = 1024;

/// Permits for so many bytes of bodies.
pub(super) fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX)
}

/// Serves one request.
pub(super) async fn serve(
    shared: &Shared,
    intake: &Intake,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    if shared.is_draining() {
        return Err(Problem::unavailable("draining", "Shutting down", "This daemon is shutting down; ask another."));
    }
    let (route, scope) = (&intake.route, scope(&intake.route.pipeline));
    let client_key = header_text(&request, IDEMPOTENCY_KEY)?;
    let _request = reserve(&shared.requests, 1)?;
    let declared = upload::declared_len(&request, route.body_bytes_max)?;
    let _room = reserve(&shared.room, permits(declared.unwrap_or(route.body_bytes_max)))?;
    let upload = timeout(shared.limits.body_timeout, upload::read(&request, payload, route))
        .await
        .map_err(|_| slow_body(shared.limits.body_timeout.as_secs_f64()))??;

    let accepted = shared.clock.wall();
    let id = match client_key.map(unquoted) {
        Some(key) => shared.ids.from_key(scope, &intake.path, key),
        None => shared.ids.random(scope, accepted, rand::random()),
    };
    let record = record(&route.key, &request, id, accepted, upload)?;
    send(shared, Outgoing { topic: route.topic.clone(), partition: None, record }, id).await?;

    let id = id.to_string();
    let mut response = HttpResponse::Accepted();
    if let Some((before, after)) = &intake.location {
        response.insert_header((header::LOCATION, format!("{before}{id}{after}")));
    }
    Ok(response.json(json!({ "jobId": id, "status": "accepted" })))
}

/// Room that is held until the record is durable; refused before a byte of the body is read where there is none.
fn reserve(room: &Semaphore, permits: u32) -> Result<SemaphorePermit<'_>, Problem> {
    room.try_acquire_many(permits).map_err(|_| {
        Problem::unavailable("overloaded", "Overloaded", "Too many requests are being served; try again shortly.")
    })
}

fn slow_body(seconds: f64) -> Problem {
    let detail = format!("The body did not come within {seconds} s.");
    Problem::new(StatusCode::REQUEST_TIMEOUT, "slow-body", "Body too slow", detail)
}

/// A header that is taken over: at most once, visible ASCII, not endless.
fn header_text<'a>(request: &'a HttpRequest, name: &str) -> Result<Option<&'a str>, Problem> {
    let mut values = request.headers().get_all(name);
    let Some(value) = values.next() else { return Ok(None) };
    match value.to_str() {
        Ok(text) if values.next().is_none() && (1..=HEADER_LEN_MAX).contains(&unquoted(text).len()) => Ok(Some(text)),
        _ => {
            let detail = format!("{name} comes at most once and has 1 to {HEADER_LEN_MAX} visible ASCII characters.");
            Err(Problem::bad_request("bad-header", "Bad header", detail))
        }
    }
}

/// The draft's quoted form of a key and the bare one, which most clients send, are the same key.
fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

fn record(
    key: &Key,
    request: &HttpRequest,
    id: JobId,
    accepted: WallMs,
    upload: upload::Upload,
) -> Result<Record, Problem> {
    let key = match key {
        Key::JobId => id.to_string(),
        Key::Header(name) => header_text(request, name)?.map(str::to_owned).ok_or_else(|| {
            Problem::bad_request("missing-header", "Missing header", format!("This route needs the header {name}."))
        })?,
    };
    let mut headers = vec![
        Header::new(ID_HEADER, id.to_string()),
        Header::new(ACCEPTED_HEADER, accepted.0.to_string()),
        Header::new("content-type", upload.content_type),
    ];
    for name in PASSED_ON {
        // One that is malformed is left behind: W3C Trace Context has a bad `traceparent` ignored.
        if let Ok(Some(value)) = header_text(request, name) {
            headers.push(Header::new(name, unquoted(value).to_owned()));
        }
    }
    Ok(Record { key: Some(key.into()), value: Some(upload.value), headers, timestamp: accepted })
}

async fn send(shared: &Shared, outgoing: Outgoing, id: JobId) -> Result<(), Problem> {
    let topic = Arc::clone(&outgoing.topic);
    let (size, limit) = (outgoing.record.size(), shared.producer.record_bytes_max(&topic));
    if size > limit {
        let detail = format!("As a record this has {size} bytes; the log takes {limit}.");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "record-too-large", "Record too large", detail));
    }
    match timeout(shared.limits.ack_timeout, shared.producer.send(outgoing)).await {
        Ok(Ok((partition, offset))) => {
            tracing::debug!(%id, %topic, %partition, %offset, "record accepted");
            Ok(())
        }
        Ok(Err(LogError::Refused(reason))) => {
            tracing::error!(%id, %topic, %reason, "the log refuses a record");
            let detail = "The log refuses the record; the daemon's log says why.";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "log-refused", "Log refuses the record", detail))
        }
        Ok(Err(error)) => {
            tracing::warn!(%id, %topic, %error, "record not accepted");
            Err(Problem::unavailable("log-unavailable", "Log unavailable", "The record was not stored; try again."))
        }
        Err(_) => {
            tracing::warn!(%id, %topic, "record not acknowledged in time");
            let detail = format!(
                "Whether the record was stored is not known. Sent again with the same {IDEMPOTENCY_KEY}, it is \
                 processed once."
            );
            Err(Problem::unavailable("not-acknowledged", "Not acknowledged in time", detail))
        }
    }
}
