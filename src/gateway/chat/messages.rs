//! The topics of a conversation as queues: the next message of a group, and its acknowledgement. Never answers with a message
//! before it is committed or leased, and says where somebody was given it before.

use super::{body, variable};
use crate::config::secret::Secret;
use crate::gateway::problem::Problem;
use crate::gateway::{Shared, jobs};
use actix_web::http::{StatusCode, header};
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};
use bulkhead_actors::fifo::{Served, Want};
use bulkhead_core::record::{ID_HEADER, SourceRecord};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// The group of whoever names none.
const GROUP: &str = "default";
/// A group's name is a part of a consumer group's.
const GROUP_CHARS_MAX: usize = 64;
/// The largest acknowledgement, bytes.
const ACK_BYTES_MAX: usize = 1_024;
/// Says whether somebody was given this message before.
const REDELIVERED: &str = "redelivered";
const LEASE: &str = "x-lease";
/// The message's place.
const OFFSET: &str = "x-offset";

/// How a route serves messages.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    /// The pipeline whose topics they are.
    pub pipeline: Arc<str>,
    /// The types that clients ask for, by the number of their topic.
    pub types: Vec<String>,
    /// What clients must know; `None`: nothing.
    pub token: Option<Secret>,
    /// How long a lease lasts where its client does not say.
    pub lease: Duration,
    /// How long it may last.
    pub lease_max: Duration,
    /// How long a request waits for a message where its client does not say.
    pub wait: Duration,
    /// How long it may wait.
    pub wait_max: Duration,
}

/// An acknowledgement.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Done {
    lease: String,
}

impl Messages {
    async fn ask(&self, shared: &Shared, topic: usize, group: &str, want: Want) -> Result<Served, Problem> {
        let missing =
            || Problem::unavailable("not-started", "Not started", "The queues are not served yet; try again.");
        let queues = shared.chats.queues.get(&self.pipeline).ok_or_else(missing)?;
        let served = queues.ask(topic, group, want).await;
        shared.metrics.queue_requests.with([&self.pipeline, &self.types[topic], served.as_str()]).inc();
        Ok(served)
    }

    fn admit(&self, shared: &Shared, request: &HttpRequest) -> Result<(), Problem> {
        if shared.is_draining() {
            return Err(Problem::draining());
        }
        let Some(token) = &self.token else { return Ok(()) };
        let said = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let said = said.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        if is_same(said.as_bytes(), token.expose().as_bytes()) {
            return Ok(());
        }
        let detail = "Messages are given to those who know the token: Authorization: Bearer TOKEN.";
        Err(Problem::new(StatusCode::FORBIDDEN, "token-needed", "Token needed", detail))
    }

    fn topic(&self, name: &str) -> Result<usize, Problem> {
        let known = self.types.iter().position(|known| known == name);
        known.ok_or_else(|| bad(format!("type is one of {}, not {name:?}.", self.types.join(", "))))
    }
}

/// Takes the same time wherever the two differ.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

fn bad(detail: String) -> Problem {
    Problem::bad_request("bad-message-request", "Bad request for messages", detail)
}

fn group(name: String) -> Result<String, Problem> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if (1..=GROUP_CHARS_MAX).contains(&name.len()) && name.chars().all(legal) {
        return Ok(name);
    }
    Err(bad(format!("group has 1 to {GROUP_CHARS_MAX} letters, digits, - and _.")))
}

/// Serves one request for the next message.
pub(in crate::gateway) async fn next(
    shared: &Shared,
    route: &Messages,
    request: &HttpRequest,
) -> Result<HttpResponse, Problem> {
    route.admit(shared, request)?;
    let name =
        variable(request, "type").ok_or_else(|| bad(format!("type is missing: one of {}.", route.types.join(", "))))?;
    let topic = route.topic(&name)?;
    let group = group(variable(request, "group").unwrap_or_else(|| GROUP.to_owned()))?;
    let lease = lease(route, request)?;
    let granted = jobs::granted(request, route.wait_max, route.wait);
    let Ok(_waiting) = shared.waiting.try_acquire() else {
        return Err(Problem::unavailable("too-many-waiting", "Too many waiting", "Too many clients wait; try again."));
    };
    let _counted = shared.count_waiting();
    match route.ask(shared, topic, &group, Want::Next { lease, wait: granted.wait }).await? {
        Served::Record { record, redelivered, lease } => {
            let lease = lease.map(|id| format!("{name}.{group}.{id}"));
            Ok(message(&name, &record, redelivered, lease))
        }
        Served::Empty => Ok(HttpResponse::NoContent().insert_header((header::CACHE_CONTROL, "no-store")).finish()),
        other => Err(refused(other)),
    }
}

/// How long the client wants to hold the message; `None`: it is done with once it is given.
fn lease(route: &Messages, request: &HttpRequest) -> Result<Option<Duration>, Problem> {
    match variable(request, "ack").as_deref() {
        None | Some("auto") => return Ok(None),
        Some("manual") => {}
        Some(other) => return Err(bad(format!("ack is auto or manual, not {other:?}."))),
    }
    let Some(seconds) = variable(request, "lease") else { return Ok(Some(route.lease)) };
    let most = route.lease_max.as_secs();
    let seconds = seconds.parse::<u64>().ok().filter(|seconds| (1..=most).contains(seconds));
    seconds
        .map(|seconds| Some(Duration::from_secs(seconds)))
        .ok_or_else(|| bad(format!("lease is 1 to {most} seconds.")))
}

fn message(name: &str, record: &SourceRecord, redelivered: bool, lease: Option<String>) -> HttpResponse {
    let SourceRecord { offset, record } = record;
    let value: Value = serde_json::from_slice(record.payload())
        .unwrap_or_else(|_| String::from_utf8_lossy(record.payload()).into_owned().into());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let document = json!({
        "type": name,
        "offset": offset.0,
        "id": record.header(ID_HEADER).map(|id| text(id)),
        "key": record.key.as_ref().map(|key| text(key)),
        "timestamp": record.timestamp.0,
        "value": value,
        "redelivered": redelivered,
        "lease": lease,
    });
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    response.insert_header((REDELIVERED, redelivered.to_string())).insert_header((OFFSET, offset.0.to_string()));
    if let Some(lease) = lease {
        response.insert_header((LEASE, lease));
    }
    response.json(document)
}

/// Serves one acknowledgement.
pub(in crate::gateway) async fn done(
    shared: &Shared,
    route: &Messages,
    request: &HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    route.admit(shared, request)?;
    let body = body::read(shared, request, payload, ACK_BYTES_MAX).await?;
    let unknown = || {
        let detail =
            "There is no such lease any more: it ran out and the message was given to another, or it never was one.";
        Problem::new(StatusCode::NOT_FOUND, "unknown-lease", "Unknown lease", detail)
    };
    let Done { lease } =
        serde_json::from_slice(&body).map_err(|why| bad(format!("The body is no {{\"lease\": \"…\"}}: {why}.")))?;
    let mut parts = lease.splitn(3, '.');
    let (Some(name), Some(of), Some(id)) = (parts.next(), parts.next(), parts.next()) else { return Err(unknown()) };
    let (Ok(topic), Ok(of)) = (route.topic(name), group(of.to_owned())) else { return Err(unknown()) };
    match route.ask(shared, topic, &of, Want::Ack(id.to_owned())).await? {
        Served::Acked => Ok(HttpResponse::NoContent().finish()),
        Served::UnknownLease => Err(unknown()),
        other => Err(refused(other)),
    }
}

fn refused(served: Served) -> Problem {
    match served {
        Served::Leased(left) => {
            let seconds = u64::try_from(left.as_millis().div_ceil(1_000)).unwrap_or(u64::MAX).max(1);
            let detail =
                "The next message is leased to somebody; it is theirs until they acknowledge it or the lease runs out.";
            let problem = Problem::new(StatusCode::CONFLICT, "leased", "Leased", detail);
            Problem { retry_after_s: Some(seconds), ..problem }
        }
        Served::Elsewhere => {
            let detail =
                "Another daemon of this group serves this queue, or the group is still being joined; try again.";
            Problem::unavailable("served-elsewhere", "Served elsewhere", detail)
        }
        Served::Busy(why) => Problem::unavailable("overloaded", "Overloaded", format!("{why}; try again.")),
        Served::Failed(why) => {
            tracing::info!(why, "messages are not served now");
            Problem::unavailable(
                "log-unavailable",
                "Log unavailable",
                "The log does not let messages be served now; try again.",
            )
        }
        Served::Record { .. } | Served::Empty | Served::Acked | Served::UnknownLease => Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "out-of-turn",
            "Out of turn",
            "The queue answered another question.",
        ),
    }
}
