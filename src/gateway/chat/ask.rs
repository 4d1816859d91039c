//! Takes a query: names its job, hands it to the log under its session's key, and answers once it is durable. Never takes an
//! empty one.

use super::{Session, body};
use crate::gateway::jobs::Asked;
use crate::gateway::keys::{self, Turn, header_key};
use crate::gateway::problem::Problem;
use crate::gateway::route::{Idempotency, JobsOf};
use crate::gateway::{RETRY_AFTER_S, Shared, accept, admission, client, store};
use actix_web::http::{StatusCode, header};
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};
use bulkhead_actors::log::Outgoing;
use bulkhead_core::job_id::{JobId, Scope};
use bulkhead_core::ledger::{TENANT_HEADER, fingerprint};
use bulkhead_core::record::{ACCEPTED_HEADER, FINGERPRINT_HEADER, Header, ID_HEADER, Record};
use bulkhead_core::time::WallMs;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

/// What JSON may make of a text at worst, and what stands around it.
const ESCAPED: usize = 6;
const ENVELOPE: usize = 1_024;

/// How a route takes queries.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The pipeline that they are for.
    pub jobs: JobsOf,
    /// The topic that they go to.
    pub topic: Arc<str>,
    /// Whether the log tells where each came to lie.
    pub log_records: bool,
    /// The longest text, bytes.
    pub text_bytes_max: usize,
    /// What queries' own keys are to it.
    pub idempotency: Idempotency,
}

/// A query that is durable.
pub(super) struct Taken {
    /// Its job.
    pub(super) id: JobId,
    /// Whether it was taken before, under its key.
    pub(super) is_replay: bool,
}

/// A query as a client sends it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    text: String,
}

/// Serves one request; `location` surrounds the job id in the path of its result.
pub(in crate::gateway) async fn serve(
    shared: &Shared,
    route: &Ask,
    path: &str,
    location: Option<&(String, String)>,
    http: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let tenant = client::tenant(shared, &http)?;
    let session = Session::of(shared, &route.jobs.pipeline, tenant, &http)?;
    let key = header_key(&http)?;
    let most = route.text_bytes_max.saturating_mul(ESCAPED).saturating_add(ENVELOPE);
    let body = body::read(shared, &http, payload, most).await?;
    let Query { text } = serde_json::from_slice(&body).map_err(|why| {
        let detail = format!("The body is no {{\"text\": \"…\"}}: {why}.");
        Problem::bad_request("bad-query", "Bad query", detail)
    })?;
    let of_path = key.as_ref().map(|key| format!("{path} {key}"));
    let Taken { id, is_replay } = accept(shared, route, &http, &session, &text, of_path.as_deref()).await?;
    let mut response = HttpResponse::Accepted();
    if let Some(key) = &key {
        keys::mark(&mut response, &route.idempotency, key, is_replay);
    }
    if let Some((before, after)) = location {
        response.insert_header((header::LOCATION, format!("{before}{id}{after}")));
    }
    response.insert_header((header::RETRY_AFTER, RETRY_AFTER_S)).insert_header((header::CACHE_CONTROL, "no-store"));
    Ok(response.json(json!({ "jobId": id.to_string(), "session": session.token, "status": "accepted" })))
}

/// Takes one query of a session; one with a `key` is the same job whenever it comes again in this session.
pub(super) async fn accept(
    shared: &Shared,
    route: &Ask,
    http: &HttpRequest,
    session: &Session,
    text: &str,
    key: Option<&str>,
) -> Result<Taken, Problem> {
    let tenant = client::tenant(shared, http)?;
    admission::admit_to(shared, http, tenant, &route.jobs.pipeline, None)?;
    check(route, text)?;
    let _request = accept::reserve(&shared.requests, 1)?;
    let (scope, accepted) = (Scope { tenant, pipeline: &route.jobs.pipeline }, shared.clock.wall());
    let value = json!({ "text": text }).to_string();
    let Some(key) = key else {
        let id = shared.ids.random(scope, accepted, rand::random());
        store(shared, route, record(session, tenant, id, accepted, value)).await?;
        return Ok(Taken { id, is_replay: false });
    };
    let of_session = String::from_utf8_lossy(&session.key);
    let id = shared.ids.from_key(scope, &format!("session {of_session}"), key);
    let asked = Asked { of: &route.jobs, tenant, id };
    let (print, in_progress) = (fingerprint(value.as_bytes()), route.idempotency.in_progress);
    let outcome = || asked.find(shared).and_then(|job| job.fingerprint);
    match shared.keys.turn(id, print, in_progress, shared.limits.ack_timeout, outcome).await? {
        Turn::Replay => Ok(Taken { id, is_replay: true }),
        Turn::First(first) => {
            let mut record = record(session, tenant, id, accepted, value);
            record.headers.push(Header::new(FINGERPRINT_HEADER, format!("{print:016x}")));
            store(shared, route, record).await?;
            drop(first.durable(in_progress));
            Ok(Taken { id, is_replay: false })
        }
    }
}

fn check(route: &Ask, text: &str) -> Result<(), Problem> {
    if text.trim().is_empty() {
        return Err(Problem::bad_request("empty-query", "Empty query", "The text has nothing in it."));
    }
    if text.len() > route.text_bytes_max {
        let detail = format!("The text has {} bytes; at most {} are taken.", text.len(), route.text_bytes_max);
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "query-too-long", "Query too long", detail));
    }
    Ok(())
}

fn record(session: &Session, tenant: &str, id: JobId, accepted: WallMs, value: String) -> Record {
    let mut headers = vec![
        Header::new(ID_HEADER, id.to_string()),
        Header::new(ACCEPTED_HEADER, accepted.0.to_string()),
        Header::new("content-type", "application/json"),
    ];
    if !tenant.is_empty() {
        headers.push(Header::new(TENANT_HEADER, tenant.to_owned()));
    }
    Record { key: Some(session.key.clone()), value: Some(value.into()), headers, timestamp: accepted }
}

async fn store(shared: &Shared, route: &Ask, record: Record) -> Result<(), Problem> {
    let outgoing = Outgoing { topic: Arc::clone(&route.topic), partition: None, record };
    let of = store::For { pipeline: &route.jobs.pipeline, fallback: None, log_records: route.log_records };
    store::store_for(shared, of, vec![outgoing]).await.map(drop)
}
