//! HTTP routes as a pipeline's file says them, and as the gateway serves them. Never serves them.

pub mod answer;
pub mod chat;
pub mod fields;
pub mod outbox;
pub mod page;

mod idempotency;

pub use idempotency::{Derive, IDEMPOTENCY_KEY, Idempotency, InProgress, follows_requests, varies};

use super::daemon::Http;
use super::text::{Content, ContentFrom, MediaName, Name, RouteKey, RouteKeyFrom, RoutePath};
use super::units::{Period, Size};
use crate::steps::StepConfig;
use answer::Answer;
use chat::ChatFile;
use fields::Fields;
use outbox::OutboxSection;
use page::PageFile;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A route: it accepts records (`produce`), answers for jobs (`results`), streams their news (`events`), or serves a page
/// (`page`).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteFile {
    /// Its path.
    pub path: RoutePath,
    /// Its method.
    pub method: Method,
    /// What it is for, in a line; the API's description shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Makes every request a record of the pipeline's source topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub produce: Option<ProduceFile>,
    /// Answers for the job that the path's only variable names; `Prefer: wait=SECONDS` waits for its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<ResultsFile>,
    /// Tells that job's news as server-sent events: `pending`, then `completed` or `failed`, and ends. A client that comes
    /// again with `Last-Event-ID` gets what it missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<ResultsFile>,
    /// Serves a file of the config directory, e.g. a page that uses the routes beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<PageFile>,
    /// A part of a conversation: queries, sockets, messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<ChatFile>,
    /// When a request that was accepted is answered; only beside `produce`. Absent: `"accepted"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
    /// How it tells how its job ended; only beside `reply = "result"`. Absent: with the job's document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// How its requests are named, so that a repeated one is known; only beside `produce`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Idempotency>,
    /// Takes its records while the brokers do not; only beside `produce`. Absent: they are refused with 503 meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbox: Option<OutboxSection>,
    /// Steps at the edge, only beside `produce`: a record passes them before it is accepted. What they make of it is
    /// stored, under its own idempotency key: a repeated request is known by what its client sent. What they reject or
    /// drop is answered with 422 and not stored. Not every step runs here: `check` names those that do.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub steps: Vec<StepConfig>,
    /// How long an answer waits for a job at most, beside `produce` and `results`. Absent: `http.wait_max`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_max: Option<Period>,
}

/// HTTP methods that a route can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// For `results`, `events` and `page`.
    Get,
    /// For `produce`.
    Post,
    /// For `produce`.
    Put,
}

impl Method {
    /// The method as HTTP writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
        }
    }
}

/// How a request becomes a record.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProduceFile {
    /// Where the record's key comes from: a jq expression looks at the record's value, as the route's steps left it. With the
    /// job id, or what an expression makes of the value alone, requests that repeat one another lie in one partition, as dedupe
    /// needs it.
    #[serde(default = "job_id")]
    pub key: RouteKey,
    /// What becomes the record's value.
    #[serde(default = "body")]
    pub content: Content,
    /// How many events a body has at most, where `content` is `"events"`; more are answered with 413.
    #[serde(default = "events_max")]
    #[schemars(range(min = 1, max = 100_000))]
    pub events_max: u32,
    /// The largest request body. Absent: `http.body_max`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_max: Option<Size>,
    /// The media types that are taken; all others are answered with 415. JPEG, PNG and WebP are told by their first bytes,
    /// others as declared. Beside `content = "field:NAME"`, a body that is declared to be one of them is the file itself.
    /// Empty: any.
    #[serde(default)]
    pub accept: Vec<MediaName>,
    /// Fields that come beside the content, in the URL's query or in a form: each becomes the record's header of its name.
    #[serde(default)]
    pub fields: Fields,
    /// How long after it was accepted a record is still worth working on: a stage whose turn comes later makes it a dead
    /// letter (`deadline_passed`). Absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Period>,
}

const fn job_id() -> RouteKey {
    RouteKey(RouteKeyFrom::Id)
}

const fn events_max() -> u32 {
    1_000
}

const fn body() -> Content {
    Content(ContentFrom::Body)
}

/// Whose jobs a route answers for.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResultsFile {
    /// The pipeline. Absent: the one of this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<Name>,
}

/// When an accepted request is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// 202 with the job id, once the log has the record for good.
    #[default]
    Accepted,
    /// 200 with the job, once it has ended; 202 where it has not within `wait_max`, or the client prefers that
    /// (`Prefer: respond-async`).
    Result,
}

/// A checked route.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its path; no other route of its method overlaps it.
    pub path: RoutePath,
    /// Its method.
    pub method: Method,
    /// What it is for, in a line.
    pub summary: Option<String>,
    /// What it does.
    pub does: RouteKind,
}

/// What a route does.
#[derive(Clone, Debug)]
pub enum RouteKind {
    /// A request becomes a record.
    Produce(Produce),
    /// A request asks for a job.
    Results(Results),
    /// A request asks for a job's news.
    Events(Results),
    /// A request asks for a page.
    Page(PageFile),
    /// A request is a part of a conversation.
    Chat(ChatFile),
}

/// A route that makes requests records.
#[derive(Clone, Debug)]
pub struct Produce {
    /// The pipeline whose source topic the records go to.
    pub pipeline: Name,
    /// Where the record's key comes from.
    pub key: RouteKeyFrom,
    /// What becomes the record's value.
    pub content: ContentFrom,
    /// How many events a body has at most.
    pub events_max: u32,
    /// The largest request body, bytes.
    pub body_max: Size,
    /// The media types that are taken; empty: any.
    pub accept: Vec<MediaName>,
    /// What comes beside the content.
    pub fields: Fields,
    /// How it tells how its job ended.
    pub answer: Answer,
    /// What its records pass before they are accepted.
    pub steps: Vec<StepConfig>,
    /// How long after it was accepted a record is still worth working on.
    pub deadline: Option<Period>,
    /// When a request is answered.
    pub reply: Reply,
    /// How long an answer waits for the job's end at most.
    pub wait_max: Period,
    /// What its requests' own keys are to it.
    pub idempotency: Idempotency,
    /// Takes its records while the brokers do not.
    pub outbox: Option<OutboxSection>,
}

/// A route that answers for jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Results {
    /// The pipeline that the jobs are of.
    pub pipeline: Name,
    /// The path's variable that holds the job id.
    pub variable: String,
    /// How long an answer waits for the job's end at most.
    pub wait_max: Period,
}

impl RouteFile {
    /// The route with what the file left out filled in; `None` where it does not do exactly one of what a route can do.
    pub(super) fn resolve(self, pipeline: &Name, http: &Http) -> Option<Route> {
        let wait_max = self.wait_max.unwrap_or(http.wait_max);
        let variable = self.path.variables().first().map(|name| (*name).to_owned());
        let results = |results: ResultsFile| {
            let pipeline = results.pipeline.unwrap_or_else(|| pipeline.clone());
            Some(Results { pipeline, variable: variable?, wait_max })
        };
        if let Some(chat) = self.chat {
            let is_alone =
                self.produce.is_none() && self.results.is_none() && self.events.is_none() && self.page.is_none();
            let does = RouteKind::Chat(chat);
            return is_alone.then_some(Route { path: self.path, method: self.method, summary: self.summary, does });
        }
        let does = match (self.produce, self.results, self.events, self.page) {
            (Some(produce), None, None, None) => RouteKind::Produce(Produce {
                pipeline: pipeline.clone(),
                key: produce.key.0,
                content: produce.content.0,
                events_max: produce.events_max,
                body_max: produce.body_max.unwrap_or(http.body_max),
                accept: produce.accept,
                fields: produce.fields,
                answer: self.answer.unwrap_or_default(),
                steps: self.steps,
                deadline: produce.deadline,
                reply: self.reply.unwrap_or_default(),
                wait_max,
                idempotency: self.idempotency.unwrap_or_default(),
                outbox: self.outbox,
            }),
            (None, Some(of), None, None) => RouteKind::Results(results(of)?),
            (None, None, Some(of), None) => RouteKind::Events(results(of)?),
            (None, None, None, Some(page)) => RouteKind::Page(page),
            _ => return None,
        };
        Some(Route { path: self.path, method: self.method, summary: self.summary, does })
    }
}
