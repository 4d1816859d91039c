//! A session's socket: queries in; hints, answers and failures out, as the feed tells them. Never holds the feed up: a client
//! that does not keep up is cut, comes again with its last position, and misses nothing.
//!
//! In: `{"type": "query", "text": …, "id": …}` (the id, at most 64 characters, makes a query that is sent again the same one).
//! Out: `session` (first), `accepted`, `token`, `completed`, `failed`, `error`. `session`, `completed` and `failed` carry the
//! position (`epoch`, `offset`) to come again with.

use super::ask::{self, Ask};
use super::{Session, variable};
use crate::gateway::problem::Problem;
use crate::gateway::{Shared, client, results};
use actix_web::http::{StatusCode, header};
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason};
use bulkhead_actors::feed::{Listener, Marks, News};
use bulkhead_actors::hints::{ATTEMPT_HEADER, INDEX_HEADER};
use bulkhead_core::feed::Mark;
use bulkhead_core::ids::Offset;
use bulkhead_core::jobs::{Job, Sighting};
use bulkhead_core::rate::{Rate, RateSpec};
use bulkhead_core::record::{ID_HEADER, Record};
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use prometheus_client::metrics::gauge::Gauge;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};

/// Dead letters are the feed's second topic, after answers.
const FAILURES: usize = 1;
/// Hints are its third.
const TOKENS: usize = 2;
/// Queries of one socket that wait for the log to take the one before.
const QUERIES_WAITING_MAX: usize = 8;
/// Characters of a query's own id.
const ID_CHARS_MAX: usize = 64;
/// What JSON may make of a text at worst, and what stands around it.
const ESCAPED: usize = 6;
const ENVELOPE: usize = 1_024;

/// How a route serves sockets.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Where queries go.
    pub ask: Ask,
    /// Sites whose pages may open sockets beside the gateway's own, as browsers write them (`Origin`).
    pub origins: Vec<String>,
    /// Sockets that are open at a time.
    pub places: Arc<Semaphore>,
    /// How often one may send a query, a second, and at once after a rest.
    pub rate: (u32, u32),
    /// How often a client is asked whether it is there; one that says nothing for two such times is gone.
    pub ping: Duration,
    /// How long a message may take to leave.
    pub send_timeout: Duration,
    /// How long a socket lasts.
    pub lifetime: Duration,
}

/// What a client says.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Said {
    Query { text: String, id: Option<String> },
}

/// Serves one client: the answer to its upgrade; the socket lives on by itself.
pub(in crate::gateway) fn serve(
    shared: &Arc<Shared>,
    route: &Arc<Socket>,
    request: &HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let pipeline = &route.ask.jobs.pipeline;
    let tenant = client::tenant(shared, request)?;
    check_origin(route, request)?;
    if shared.is_draining() {
        return Err(Problem::draining());
    }
    let session = Session::of(shared, pipeline, tenant, request)?;
    let since = position(request)?;
    let place = Arc::clone(&route.places).try_acquire_owned().map_err(|_| {
        Problem::unavailable("too-many-sockets", "Too many sockets", "Too many sockets are open; try again.")
    })?;
    let not_ready = |why: &dyn std::fmt::Display| {
        tracing::debug!(%why, "no socket yet");
        Problem::unavailable("not-started", "Not started", "Answers are not read yet; try again.")
    };
    let feed = shared.chats.feeds.get(pipeline).ok_or_else(|| not_ready(&"there is no feed"))?;
    let listener = feed.listen(&session.key, since.as_ref()).map_err(|why| not_ready(&why))?;
    let (response, socket, stream) = actix_ws::handle(request, payload).map_err(|why| {
        let detail = format!("This path is a WebSocket (RFC 6455): {why}.");
        Problem::new(StatusCode::UPGRADE_REQUIRED, "websocket-needed", "WebSocket needed", detail)
    })?;
    let frame_bytes_max = route.ask.text_bytes_max.saturating_mul(ESCAPED).saturating_add(ENVELOPE);
    let stream =
        stream.max_frame_size(frame_bytes_max).aggregate_continuations().max_continuation_size(frame_bytes_max);
    let open = Open {
        shared: Arc::clone(shared),
        route: Arc::clone(route),
        request: request.clone(),
        session: Arc::new(session),
        socket,
        rate: Rate::new(RateSpec { per_second: route.rate.0, burst: route.rate.1, clients_max: 1 }),
        waiting: VecDeque::new(),
        asking: None,
        _place: Place::take(shared, pipeline, place),
    };
    drop(actix_web::rt::spawn(open.live(listener, stream)));
    Ok(response)
}

/// A page of another site must not open a socket in the name of whoever looks at it.
fn check_origin(route: &Socket, request: &HttpRequest) -> Result<(), Problem> {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let own = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let is_own = origin.split_once("://").is_some_and(|(_, host)| host.eq_ignore_ascii_case(own));
    if is_own || route.origins.iter().any(|known| known == origin) {
        return Ok(());
    }
    let detail = format!("Pages of {origin:?} may not open sockets here.");
    Err(Problem::new(StatusCode::FORBIDDEN, "foreign-origin", "Foreign origin", detail))
}

/// How far the client has come, as it was told; `None` where it was never here.
fn position(request: &HttpRequest) -> Result<Option<Marks>, Problem> {
    let (epoch, offset) = match (variable(request, "epoch"), variable(request, "offset")) {
        (None, None) => return Ok(None),
        (epoch, offset) => (epoch.unwrap_or_default(), offset.unwrap_or_default()),
    };
    let digests = epoch.split('.').map(|digest| u64::from_str_radix(digest, 16).ok());
    let offsets = offset.split('.').map(|offset| offset.parse().ok());
    let marks: Option<Marks> = (epoch.split('.').count() == offset.split('.').count())
        .then(|| {
            digests
                .zip(offsets)
                .map(|(digest, offset)| Some(Mark { digest: digest?, offset: Offset(offset?) }))
                .collect()
        })
        .flatten();
    let bad = || {
        let detail = "epoch and offset are those that the socket told last, both or neither.";
        Problem::bad_request("bad-position", "Bad position", detail)
    };
    marks.map(Some).ok_or_else(bad)
}

/// The position as it is told.
fn with_position(mut message: Value, marks: &Marks) -> Value {
    let join = |parts: Vec<String>| Value::String(parts.join("."));
    message["epoch"] = join(marks.iter().map(|mark| format!("{:x}", mark.digest)).collect());
    message["offset"] = join(marks.iter().map(|mark| mark.offset.to_string()).collect());
    message
}

/// Why a socket ends.
struct End(CloseCode, &'static str);

/// A query that waits for its turn.
struct Waiting {
    text: String,
    id: Option<String>,
}

/// One open socket.
struct Open {
    shared: Arc<Shared>,
    route: Arc<Socket>,
    request: HttpRequest,
    session: Arc<Session>,
    socket: actix_ws::Session,
    rate: Rate,
    waiting: VecDeque<Waiting>,
    asking: Option<LocalBoxFuture<'static, Value>>,
    _place: Place,
}

/// A socket's place among those that are open.
struct Place {
    open: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn take(shared: &Shared, pipeline: &str, permit: OwnedSemaphorePermit) -> Self {
        let open = shared.metrics.sockets_open.with([pipeline]);
        open.inc();
        Self { open, _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.dec();
    }
}

impl Open {
    async fn live(mut self, listener: Listener, stream: AggregatedMessageStream) {
        let End(code, why) = match self.talk(listener, stream).await {
            Ok(()) => return,
            Err(end) => end,
        };
        let reason = CloseReason { code, description: Some(why.to_owned()) };
        let closed = timeout(self.route.send_timeout, self.socket.close(Some(reason))).await;
        tracing::debug!(why, told = matches!(closed, Ok(Ok(()))), "a socket ends");
    }

    /// Goes on until the client is gone, or there is a reason to end.
    async fn talk(&mut self, mut listener: Listener, mut stream: AggregatedMessageStream) -> Result<(), End> {
        let hello = json!({ "type": "session", "session": self.session.token, "recovered": listener.is_whole });
        self.send(&with_position(hello, &listener.marks)).await?;
        for news in std::mem::take(&mut listener.missed) {
            self.tell(&news).await?;
        }
        let until = Instant::now() + self.route.lifetime;
        let (mut ping, mut heard) = (Instant::now() + self.route.ping, Instant::now());
        let shared = Arc::clone(&self.shared);
        let drained = shared.drained();
        tokio::pin!(drained);
        loop {
            let asking = async {
                match &mut self.asking {
                    Some(asking) => asking.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = stream.recv() => {
                    heard = Instant::now();
                    match message {
                        Some(Ok(AggregatedMessage::Close(_))) | None => return Ok(()),
                        Some(Ok(AggregatedMessage::Text(text))) => self.hear(&text).await?,
                        Some(Ok(AggregatedMessage::Binary(_))) => return Err(End(CloseCode::Unsupported, "messages are text")),
                        Some(Ok(AggregatedMessage::Ping(bytes))) => self.pong(&bytes).await?,
                        Some(Ok(AggregatedMessage::Pong(_))) => {}
                        Some(Err(_)) => return Err(End(CloseCode::Size, "the message is broken or too large")),
                    }
                }
                answer = asking => {
                    self.asking = None;
                    self.send(&answer).await?;
                }
                news = listener.news.recv() => match news {
                    Some(news) => self.tell(&news).await?,
                    None => return Err(End(CloseCode::Again, "too slow: come again with your last position")),
                },
                () = &mut drained => return Err(End(CloseCode::Away, "the daemon is shutting down")),
                () = sleep_until(ping.min(until)) => {
                    let now = Instant::now();
                    if now >= until {
                        return Err(End(CloseCode::Away, "come again: sockets do not last for ever"));
                    }
                    if heard.elapsed() > self.route.ping * 2 {
                        return Err(End(CloseCode::Policy, "nothing was heard for too long"));
                    }
                    ping = now + self.route.ping;
                    self.ping().await?;
                }
            }
            self.ask_next();
        }
    }

    /// A message has come.
    async fn hear(&mut self, text: &str) -> Result<(), End> {
        let Said::Query { text, id } = match serde_json::from_str(text) {
            Ok(said) => said,
            Err(why) => {
                let detail =
                    format!("A message is {{\"type\": \"query\", \"text\": …}}, with an id or without: {why}.");
                return self.send(&error(None, "bad-message", &detail, None)).await;
            }
        };
        let reference = id.clone();
        let refuse = |code, detail: &str, after| error(reference.as_deref(), code, detail, after);
        if id.as_ref().is_some_and(|id| id.is_empty() || id.chars().count() > ID_CHARS_MAX) {
            let detail = format!("An id has 1 to {ID_CHARS_MAX} characters.");
            return self.send(&refuse("bad-message", &detail, None)).await;
        }
        if let Err(after) = self.rate.admit("", self.shared.clock.now()) {
            let detail = "This socket sends more queries than are taken from one.";
            return self.send(&refuse("too-many-requests", detail, Some(after))).await;
        }
        if self.waiting.len() >= QUERIES_WAITING_MAX {
            let detail = "Too many queries of this socket wait for the log.";
            return self.send(&refuse("overloaded", detail, Some(Duration::from_secs(1)))).await;
        }
        self.waiting.push_back(Waiting { text, id });
        Ok(())
    }

    /// Hands the next query to the log, one at a time: their order is the client's.
    fn ask_next(&mut self) {
        if self.asking.is_some() {
            return;
        }
        let Some(Waiting { text, id }) = self.waiting.pop_front() else { return };
        let (shared, route) = (Arc::clone(&self.shared), Arc::clone(&self.route));
        let (request, session) = (self.request.clone(), Arc::clone(&self.session));
        let asked = async move {
            match ask::accept(&shared, &route.ask, &request, &session, &text, id.as_deref()).await {
                Ok(taken) => json!({ "type": "accepted", "id": id, "jobId": taken.id.to_string() }),
                Err(Problem { code, detail, retry_after_s, .. }) => {
                    error(id.as_deref(), code, &detail, retry_after_s.map(Duration::from_secs))
                }
            }
        };
        self.asking = Some(asked.boxed_local());
    }

    /// Tells what the feed told.
    async fn tell(&mut self, news: &News) -> Result<(), End> {
        let record = &news.record.record;
        let message = match news.topic {
            TOKENS => token(record),
            topic => ended(topic, record),
        };
        let Some(message) = message else { return Ok(()) };
        match &news.marks {
            Some(marks) => self.send(&with_position(message, marks)).await,
            None => self.send(&message).await,
        }
    }

    async fn send(&mut self, message: &Value) -> Result<(), End> {
        in_time(self.route.send_timeout, self.socket.text(message.to_string())).await
    }

    async fn ping(&mut self) -> Result<(), End> {
        in_time(self.route.send_timeout, self.socket.ping(b"")).await
    }

    async fn pong(&mut self, bytes: &[u8]) -> Result<(), End> {
        in_time(self.route.send_timeout, self.socket.pong(bytes)).await
    }
}

async fn in_time(limit: Duration, sent: impl Future<Output = Result<(), actix_ws::Closed>>) -> Result<(), End> {
    match timeout(limit, sent).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End(CloseCode::Abnormal, "the client is gone")),
        Err(_) => Err(End(CloseCode::Again, "too slow: come again with your last position")),
    }
}

fn error(id: Option<&str>, code: &str, detail: &str, after: Option<Duration>) -> Value {
    let after = after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
    json!({ "type": "error", "id": id, "code": code, "detail": detail, "retryAfterMs": after })
}

fn header<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    record.header(name).and_then(|value| std::str::from_utf8(value).ok())
}

/// Words of an answer that is being made.
fn token(record: &Record) -> Option<Value> {
    let number = |name| header(record, name)?.parse::<u32>().ok();
    Some(json!({
        "type": "token",
        "jobId": header(record, ID_HEADER)?,
        "attempt": number(ATTEMPT_HEADER)?,
        "index": number(INDEX_HEADER)?,
        "text": String::from_utf8_lossy(record.payload()),
    }))
}

/// A job that ended, as its own route tells it.
fn ended(topic: usize, record: &Record) -> Option<Value> {
    let sighting = if topic == FAILURES { Sighting::of_dead_letter(record) } else { Sighting::of_result(record) };
    let id = header(record, ID_HEADER)?.parse().ok()?;
    let Sighting { round, accepted, ended, fingerprint, outcome, .. } = sighting?;
    let job = Job { round, accepted, ended, fingerprint, outcome, conflicts: 0 };
    let mut message = results::ended(id, &job);
    message["type"] = message["status"].clone();
    Some(message)
}
