//! A job's news as server-sent events: `pending`, then `completed` or `failed`, and the stream ends. Never says an event
//! twice to a client that names the last one it has (`Last-Event-ID`), never streams longer than its limit.

use super::jobs::{Asked, News, is_final};
use super::problem::Problem;
use super::route::Results;
use super::{Shared, client, results};
use actix_web::http::header::{self, HeaderName};
use actix_web::{HttpRequest, HttpResponse};
use bulkhead_core::job_id::JobId;
use bulkhead_core::jobs::Job;
use bytes::Bytes;
use futures::{Stream, stream};
use serde_json::Value;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};

/// Where a client that comes again says what it has.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Asks a proxy to pass events on as they come.
const NO_BUFFERING: (HeaderName, &str) = (HeaderName::from_static("x-accel-buffering"), "no");
/// The id of the event `pending`. An outcome's is its round, counted from 1: a redrive's follows the one before it.
const PENDING: u64 = 0;
/// How soon a client comes again whose stream was cut, milliseconds.
const RETRY_MS: u32 = 1_000;

/// One open stream.
struct Following {
    shared: Arc<Shared>,
    route: Arc<Results>,
    tenant: String,
    id: JobId,
    news: News,
    /// The last event that the client has.
    last: Option<u64>,
    until: Instant,
    state: State,
    _place: OwnedSemaphorePermit,
    _counted: super::Waiting,
}

enum State {
    Opening,
    Open,
    Closing,
}

/// Serves one client of this route.
pub(super) fn serve(
    shared: &Arc<Shared>,
    route: &Arc<Results>,
    request: &HttpRequest,
) -> Result<HttpResponse, Problem> {
    let tenant = client::tenant(shared, request)?;
    let asked = Asked::verify(shared, &route.jobs, tenant, request.match_info().query(&route.variable))?;
    let news = asked.news(&shared.jobs);
    let last = request.headers().get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.parse().ok());
    match asked.find(shared) {
        // By this a browser knows not to come again.
        Some(job) if last.is_some_and(|last| last >= event_id(&job)) => return Ok(HttpResponse::NoContent().finish()),
        Some(_) => {}
        None => asked.check_age(shared)?,
    }
    if shared.is_draining() {
        return Err(Problem::draining());
    }
    let place = Arc::clone(&shared.waiting).try_acquire_owned().map_err(|_| {
        Problem::unavailable("too-many-waiting", "Too many waiting", "Too many clients wait for jobs; try again.")
    })?;
    let following = Following {
        shared: Arc::clone(shared),
        route: Arc::clone(route),
        tenant: tenant.to_owned(),
        id: asked.id,
        news,
        last,
        until: Instant::now() + shared.limits.stream_max,
        state: State::Opening,
        _place: place,
        _counted: shared.count_waiting(),
    };
    let mut response = HttpResponse::Ok();
    response.content_type("text/event-stream").insert_header((header::CACHE_CONTROL, "no-store"));
    Ok(response.insert_header(NO_BUFFERING).streaming(following.stream()))
}

fn event_id(job: &Job) -> u64 {
    u64::from(job.round.0) + 1
}

fn event(id: u64, document: &Value) -> String {
    let name = document["status"].as_str().unwrap_or_default();
    format!("id: {id}\nevent: {name}\ndata: {document}\n\n")
}

impl Following {
    fn stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        stream::unfold(self, |mut following| async move {
            let text = following.next().await?;
            Some((Ok(text.into()), following))
        })
    }

    /// What is to be said next; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        match self.state {
            State::Opening => {
                self.state = State::Open;
                let said = self.said().unwrap_or_default();
                Some(format!("retry: {RETRY_MS}\n\n{said}"))
            }
            State::Open => self.wait().await,
            State::Closing => None,
        }
    }

    /// The event that is due, if one is.
    fn said(&mut self) -> Option<String> {
        let asked = Asked { of: &self.route.jobs, tenant: &self.tenant, id: self.id };
        let job = asked.find(&self.shared).filter(is_final);
        let (id, document) = match &job {
            Some(job) => (event_id(job), results::ended(self.id, job)),
            None => (PENDING, results::pending(self.id)),
        };
        if job.is_some() {
            self.state = State::Closing;
        }
        if self.last.is_some_and(|last| last >= id) {
            return None;
        }
        self.last = Some(id);
        Some(event(id, &document))
    }

    async fn wait(&mut self) -> Option<String> {
        let beat = (Instant::now() + self.shared.limits.heartbeat).min(self.until);
        loop {
            tokio::select! {
                () = self.news.changed() => {}
                () = self.shared.drained() => return None,
                // A comment: it keeps proxies from closing, and finds out that the client is gone.
                () = sleep_until(beat) => return (beat < self.until).then(|| ":\n\n".to_owned()),
            }
            if let Some(said) = self.said() {
                return Some(said);
            }
        }
    }
}
