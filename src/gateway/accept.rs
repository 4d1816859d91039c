//! Takes a record: reads it, names its job, hands it to the log, and answers once it is durable. Never answers before.

use super::client::{self, header_text};
use super::keys::{self, IDEMPOTENCY_KEY, Turn};
use super::problem::Problem;
use super::route::{Accept, Key};
use super::{Intake, RETRY_AFTER_S, Shared, jobs, upload};
use actix_web::http::{StatusCode, header};
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use bulkhead_actors::log::{LogError, Outgoing};
use bulkhead_core::job_id::{JobId, Scope};
use bulkhead_core::ledger::{TENANT_HEADER, fingerprint};
use bulkhead_core::record::{ACCEPTED_HEADER, FINGERPRINT_HEADER, Header, ID_HEADER, Record};
use bulkhead_core::time::WallMs;
use serde_json::json;
use std::sync::Arc;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// The record's header that carries a client's idempotency key: a ledger may go by it.
const KEY_HEADER: &str = "idempotency-key";
/// Clients' headers that travel with the record, so that it can be followed from outside. All others stay behind,
/// `__bulkhead.*` among them.
const PASSED_ON: [&str; 2] = ["traceparent", "x-request-id"];

/// Bytes of budget a permit stands for: the semaphore counts in `u32`.
const PERMIT_BYTES: usize = 1024;

/// Permits for so many bytes of bodies.
pub(super) fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX)
}

/// What a request says of itself before its body is read.
struct Asked<'a> {
    scope: Scope<'a>,
    key: Option<String>,
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
    let (route, keys) = (&intake.route, &intake.route.idempotency);
    let scope = Scope { tenant: client::tenant(shared, &request)?, pipeline: &route.jobs.pipeline };
    let asked = Asked { scope, key: keys::key_of(&request, keys.is_required)? };
    let accepted = shared.clock.wall();
    let id = match &asked.key {
        Some(key) => shared.ids.from_key(scope, &intake.path, key),
        None => shared.ids.random(scope, accepted, rand::random()),
    };
    if asked.key.is_some() {
        shared.keys.refuse_early(id, keys.in_progress)?;
    }
    let _request = reserve(&shared.requests, 1)?;
    let declared = upload::declared_len(&request, route.body_bytes_max)?;
    let _room = reserve(&shared.room, permits(declared.unwrap_or(route.body_bytes_max)))?;
    let upload = timeout(shared.limits.body_timeout, upload::read(&request, payload, route))
        .await
        .map_err(|_| slow_body(shared.limits.body_timeout.as_secs_f64()))??;
    let record = record(&route.key, &request, &asked, id, accepted, upload)?;
    let outgoing = Outgoing { topic: route.topic.clone(), partition: None, record };
    if asked.key.is_none() {
        send(shared, outgoing, id).await?;
        return Ok(accept(intake, id, &mut HttpResponse::Accepted()));
    }
    let mut response = HttpResponse::Accepted();
    let is_replay = send_once(shared, route, scope, outgoing, id).await?;
    keys::mark(&mut response, keys.ttl, is_replay);
    Ok(accept(intake, id, &mut response))
}

/// Sends the record unless it was sent before under its key; whether it was.
async fn send_once(
    shared: &Shared,
    route: &Accept,
    scope: Scope<'_>,
    mut outgoing: Outgoing,
    id: JobId,
) -> Result<bool, Problem> {
    let (print, in_progress) = (fingerprint(outgoing.record.payload()), route.idempotency.in_progress);
    outgoing.record.headers.push(Header::new(FINGERPRINT_HEADER, format!("{print:016x}")));
    let outcome = || jobs::find(shared, &route.jobs, scope.tenant, id).and_then(|job| job.fingerprint);
    let turn = shared.keys.turn(id, print, in_progress, shared.limits.ack_timeout, outcome).await?;
    let Turn::First(mut first) = turn else { return Ok(true) };
    send(shared, outgoing, id).await?;
    first.durable();
    Ok(false)
}

/// The answer to a request whose record is durable: the same for the same id, whoever gives it.
fn accept(intake: &Intake, id: JobId, response: &mut HttpResponseBuilder) -> HttpResponse {
    let id = id.to_string();
    if let Some((before, after)) = &intake.location {
        response.insert_header((header::LOCATION, format!("{before}{id}{after}")));
    }
    response.insert_header((header::RETRY_AFTER, RETRY_AFTER_S));
    response.json(json!({ "jobId": id, "status": "accepted" }))
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

fn record(
    key: &Key,
    request: &HttpRequest,
    asked: &Asked<'_>,
    id: JobId,
    accepted: WallMs,
    upload: upload::Upload,
) -> Result<Record, Problem> {
    let key = match key {
        Key::JobId => id.to_string(),
        // The draft's quoted form of a key and the bare one must lie in one partition.
        Key::Header(name) if name.eq_ignore_ascii_case(IDEMPOTENCY_KEY) => {
            asked.key.clone().ok_or_else(|| missing(name))?
        }
        Key::Header(name) => header_text(request, name)?.map(str::to_owned).ok_or_else(|| missing(name))?,
    };
    let mut headers = vec![
        Header::new(ID_HEADER, id.to_string()),
        Header::new(ACCEPTED_HEADER, accepted.0.to_string()),
        Header::new("content-type", upload.content_type),
    ];
    if !asked.scope.tenant.is_empty() {
        headers.push(Header::new(TENANT_HEADER, asked.scope.tenant.to_owned()));
    }
    headers.extend(asked.key.as_ref().map(|key| Header::new(KEY_HEADER, key.clone())));
    for name in PASSED_ON {
        // One that is malformed is left behind: W3C Trace Context has a bad `traceparent` ignored.
        if let Ok(Some(value)) = header_text(request, name) {
            headers.push(Header::new(name, value.to_owned()));
        }
    }
    Ok(Record { key: Some(key.into()), value: Some(upload.value), headers, timestamp: accepted })
}

fn missing(name: &str) -> Problem {
    Problem::bad_request("missing-header", "Missing header", format!("This route needs the header {name}."))
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
