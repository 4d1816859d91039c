//! Takes a query: names its job, hands it to the log under its session's key, and answers once it is durable. Never takes an
//! empty one.

use super::Session;
use crate::gateway::keys::header_key;
use crate::gateway::problem::Problem;
use crate::gateway::route::JobsOf;
use crate::gateway::{RETRY_AFTER_S, Shared, accept, admission, client, store, upload};
use actix_web::http::{StatusCode, header};
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};
use bulkhead_actors::log::Outgoing;
use bulkhead_core::job_id::{JobId, Scope};
use bulkhead_core::ledger::{TENANT_HEADER, fingerprint};
use bulkhead_core::record::{ACCEPTED_HEADER, FINGERPRINT_HEADER, Header, ID_HEADER, Record};
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use tokio::time::timeout;

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
    let body = body(shared, route, &http, payload).await?;
    let Query { text } = serde_json::from_slice(&body).map_err(|why| {
        let detail = format!("The body is no {{\"text\": \"…\"}}: {why}.");
        Problem::bad_request("bad-query", "Bad query", detail)
    })?;
    let key = key.map(|key| format!("{path} {key}"));
    let id = accept(shared, route, &http, &session, &text, key.as_deref()).await?;
    let mut response = HttpResponse::Accepted();
    if let Some((before, after)) = location {
        response.insert_header((header::LOCATION, format!("{before}{id}{after}")));
    }
    response.insert_header((header::RETRY_AFTER, RETRY_AFTER_S)).insert_header((header::CACHE_CONTROL, "no-store"));
    Ok(response.json(json!({ "jobId": id.to_string(), "session": session.token, "status": "accepted" })))
}

async fn body(shared: &Shared, route: &Ask, http: &HttpRequest, mut payload: Payload) -> Result<Vec<u8>, Problem> {
    let most = route.text_bytes_max.saturating_mul(ESCAPED).saturating_add(ENVELOPE);
    upload::declared_len(http, most)?;
    let read = async {
        let mut body = Vec::new();
        while let Some(bytes) = payload.next().await {
            let broken = |_| Problem::bad_request("broken-body", "Broken body", "The body broke off before its end.");
            body.extend_from_slice(&bytes.map_err(broken)?);
            if body.len() > most {
                return Err(Problem::too_large(most));
            }
        }
        Ok(body)
    };
    let limit = shared.limits.body_timeout;
    timeout(limit, read).await.unwrap_or_else(|_| {
        let detail = format!("The body did not come within {} s.", limit.as_secs_f64());
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "slow-body", "Body too slow", detail))
    })
}

/// Takes one query of a session; one with a `key` is the same job whenever it comes again in this session.
pub(super) async fn accept(
    shared: &Shared,
    route: &Ask,
    http: &HttpRequest,
    session: &Session,
    text: &str,
    key: Option<&str>,
) -> Result<JobId, Problem> {
    let tenant = client::tenant(shared, http)?;
    admission::admit_to(shared, http, tenant, &route.jobs.pipeline, None)?;
    if text.trim().is_empty() {
        return Err(Problem::bad_request("empty-query", "Empty query", "The text has nothing in it."));
    }
    if text.len() > route.text_bytes_max {
        let detail = format!("The text has {} bytes; at most {} are taken.", text.len(), route.text_bytes_max);
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "query-too-long", "Query too long", detail));
    }
    let _request = accept::reserve(&shared.requests, 1)?;
    let (scope, accepted) = (Scope { tenant, pipeline: &route.jobs.pipeline }, shared.clock.wall());
    let of_session = String::from_utf8_lossy(&session.key);
    let id = match key {
        Some(key) => shared.ids.from_key(scope, &format!("session {of_session}"), key),
        None => shared.ids.random(scope, accepted, rand::random()),
    };
    let value = json!({ "text": text }).to_string();
    let mut headers = vec![
        Header::new(ID_HEADER, id.to_string()),
        Header::new(ACCEPTED_HEADER, accepted.0.to_string()),
        Header::new("content-type", "application/json"),
    ];
    if !tenant.is_empty() {
        headers.push(Header::new(TENANT_HEADER, tenant.to_owned()));
    }
    if key.is_some() {
        headers.push(Header::new(FINGERPRINT_HEADER, format!("{:016x}", fingerprint(value.as_bytes()))));
    }
    let record = Record { key: Some(session.key.clone()), value: Some(value.into()), headers, timestamp: accepted };
    let outgoing = Outgoing { topic: Arc::clone(&route.topic), partition: None, record };
    let of = store::For { pipeline: &route.jobs.pipeline, fallback: None, log_records: route.log_records };
    store::store_for(shared, of, vec![outgoing]).await?;
    Ok(id)
}
