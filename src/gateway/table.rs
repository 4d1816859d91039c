//! The routes that the checked config describes, as the gateway serves them. Never checks them again.

use super::answer::Answers;
use super::chat::ask::Ask;
use super::chat::messages::Messages;
use super::chat::socket::Socket;
use super::edge::{EdgeSteps, TextOf};
use super::fields::Field;
use super::files::StaticFile;
use super::openapi::About;
use super::route::{Accept, Action, Body, Derive, Idempotency, InOutbox, InProgress, JobsOf, Key, Results, Route};
use super::{Limits, docs};
use crate::config::daemon::Daemon;
use crate::config::route::answer::{self, Answer};
use crate::config::route::chat::{ChatFile, MessagesFile};
use crate::config::route::page::{PageFile, PagePath};
use crate::config::route::{self as checked, Produce, RouteKind, fields};
use crate::config::text::{ContentFrom, KeyFrom, RouteKeyFrom};
use crate::config::units::Size;
use crate::config::{Config, Pipeline};
use crate::expression::Jq;
use crate::steps::StepConfig;
use actix_web::http::{Method, StatusCode};
use bulkhead_core::idempotency::KeyLimits;
use bulkhead_core::ledger::{Claimer, KeySource};
use bulkhead_core::rate::RateSpec;
use bulkhead_core::record::ID_HEADER;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Every route of this config. Pages are read here, once.
///
/// # Errors
/// What is wrong with a route's steps, all of it, or with a page: files can change after the check.
pub fn routes(config: &Config) -> Result<Vec<Route>, String> {
    let mut routes = Vec::new();
    for (pipeline, route) in config.pipelines.iter().flat_map(|of| of.routes.iter().map(move |route| (of, route))) {
        let method = match route.method {
            checked::Method::Get => Method::GET,
            checked::Method::Post => Method::POST,
            checked::Method::Put => Method::PUT,
        };
        let action = match &route.does {
            RouteKind::Produce(produce) => {
                let steps = steps(config, pipeline, &route.path.0, produce)?;
                let schema = schema(config, &produce.steps)?;
                Action::Accept(Accept { steps, schema, ..accept(config, pipeline, route, produce) })
            }
            RouteKind::Results(of) => Action::Results(results(config, of)),
            RouteKind::Events(of) => Action::Events(results(config, of)),
            RouteKind::Chat(chat) => self::chat(config, pipeline, chat),
            RouteKind::Page(of) => {
                assets(config, of, &mut routes)?;
                Action::File(Arc::new(file(config, of, &of.file)?))
            }
        };
        routes.push(Route { method, path: route.path.0.clone(), summary: route.summary.clone(), action });
    }
    if config.daemon.http.docs {
        let tenant_header = config.daemon.http.tenant_header.as_ref().map(|name| name.0.clone());
        routes.extend(docs::routes(&routes, &About { tenant_header }));
    }
    Ok(routes)
}

/// What a page links to; pages may share it.
fn assets(config: &Config, page: &PageFile, routes: &mut Vec<Route>) -> Result<(), String> {
    for asset in &page.assets {
        let path = asset.url();
        if !routes.iter().any(|route| route.path == path) {
            let action = Action::File(Arc::new(file(config, page, asset)?));
            routes.push(Route { method: Method::GET, path, summary: None, action });
        }
    }
    Ok(())
}

fn file(config: &Config, page: &PageFile, path: &PagePath) -> Result<StaticFile, String> {
    let file = StaticFile::new(page.read(&config.dir, path)?, path.media().unwrap_or("application/octet-stream"));
    Ok(match page.max_age {
        Some(max_age) => file.kept_for(max_age.0),
        None => file,
    })
}

/// What the records of a route pass before they are accepted.
fn steps(
    config: &Config,
    pipeline: &Pipeline,
    path: &str,
    produce: &Produce,
) -> Result<Option<Arc<EdgeSteps>>, String> {
    let key = match &produce.key {
        RouteKeyFrom::Jq(text) => Some(text_of(config, text.parse().map_err(|why| format!("route {path}: {why}"))?)),
        RouteKeyFrom::Id | RouteKeyFrom::Header(_) => None,
    };
    if produce.steps.is_empty() && key.is_none() {
        return Ok(None);
    }
    let factories = produce.steps.iter().map(|step| step.factory(config.edge_context(pipeline)));
    let factories = factories.collect::<Result<_, _>>();
    let factories = factories.map_err(|problems| format!("route {path}: {}", problems.join("; ")))?;
    Ok(Some(Arc::new(EdgeSteps::new(path.to_owned(), factories, key))))
}

fn text_of(config: &Config, jq: Jq) -> TextOf {
    TextOf { jq, limits: config.daemon.limits.expressions() }
}

/// A part of a conversation; acknowledgements are those of the pipeline's messages, which the check has seen to be there.
fn chat(config: &Config, pipeline: &Pipeline, chat: &ChatFile) -> Action {
    let ask = |text_max: Size| Ask {
        jobs: JobsOf { pipeline: Arc::from(pipeline.name.0.as_str()), claims: claims(pipeline) },
        topic: Arc::from(pipeline.source.topic.0.as_str()),
        log_records: pipeline.log_records,
        text_bytes_max: text_max.bytes(),
        // A query's id is what names it, as it is for records whose key is their id.
        idempotency: Idempotency { ttl: keys_ttl(config, pipeline, &RouteKeyFrom::Id), ..Idempotency::default() },
    };
    match chat {
        ChatFile::Ask(file) => Action::Ask(ask(file.text_max)),
        ChatFile::Socket(file) => Action::Socket(Socket {
            ask: ask(file.text_max),
            origins: file.origins.clone(),
            places: Arc::new(Semaphore::new(file.sockets_max as usize)),
            rate: (file.per_second, file.burst),
            ping: file.ping.0,
            send_timeout: file.send_timeout.0,
            lifetime: file.lifetime.0,
        }),
        ChatFile::Messages(file) => Action::Messages(messages(config, pipeline, file)),
        ChatFile::Acks(_) => {
            let of = pipeline.routes.iter().find_map(|route| match &route.does {
                RouteKind::Chat(ChatFile::Messages(file)) => Some(messages(config, pipeline, file)),
                _ => None,
            });
            Action::Acks(of.unwrap_or_default())
        }
    }
}

fn messages(config: &Config, pipeline: &Pipeline, file: &MessagesFile) -> Messages {
    Messages {
        pipeline: Arc::from(pipeline.name.0.as_str()),
        types: file.types.keys().map(|name| name.0.clone()).collect(),
        token: file.token.clone(),
        lease: file.lease.0,
        lease_max: file.lease_max.0,
        wait: file.wait.0,
        wait_max: config.daemon.http.wait_max.0,
    }
}

/// What the first step holds a body against: later ones see what those before them made of it.
fn schema(config: &Config, steps: &[StepConfig]) -> Result<Option<Arc<serde_json::Value>>, String> {
    match steps.first() {
        Some(StepConfig::Validate(validate)) => validate.document(&config.dir).map(|schema| Some(Arc::new(schema))),
        _ => Ok(None),
    }
}

fn results(config: &Config, of: &checked::Results) -> Results {
    let claims = config.pipelines.iter().find(|pipeline| pipeline.name == of.pipeline).and_then(claims);
    let pipeline = Arc::from(of.pipeline.0.as_str());
    Results { jobs: JobsOf { claims, pipeline }, variable: of.variable.clone(), wait_max: of.wait_max.0 }
}

/// What a gateway remembers of keys by itself: a job's outcome remembers longer.
#[must_use]
pub fn keys(daemon: &Daemon) -> KeyLimits {
    KeyLimits { keys_max: daemon.http.keys_max as usize, ttl: daemon.jobs.ttl.0 }
}

/// The bounds that the config sets.
#[must_use]
pub fn limits(daemon: &Daemon) -> Limits {
    let (http, defaults) = (&daemon.http, Limits::default());
    Limits {
        workers: defaults.workers,
        connections_max: http.connections_max as usize,
        requests_max: http.requests_max as usize,
        bodies_bytes_max: http.bodies_max.bytes(),
        parts_max: http.parts_max as usize,
        head_timeout: http.head_timeout.0,
        body_timeout: http.body_timeout.0,
        idle_timeout: http.idle_timeout.0,
        ack_timeout: http.ack_timeout.0,
        steps_threads: http.steps_threads as usize,
        steps_timeout: http.steps_timeout.0,
        rate: http.rate.map(|rate| RateSpec {
            per_second: rate.per_second,
            burst: rate.burst.unwrap_or(rate.per_second),
            clients_max: rate.clients_max as usize,
        }),
        waiting_max: http.waiting_max as usize,
        heartbeat: http.heartbeat.0,
        stream_max: http.stream_max.0,
        // The gateway drains first; what it leaves of the daemon's drain time is the pipelines'.
        drain: defaults.drain.min(daemon.limits.drain.0 / 2),
    }
}

/// A route's records are for the pipeline in whose file it stands.
fn accept(config: &Config, pipeline: &Pipeline, route: &checked::Route, produce: &Produce) -> Accept {
    Accept {
        jobs: JobsOf { pipeline: Arc::from(produce.pipeline.0.as_str()), claims: claims(pipeline) },
        topic: Arc::from(pipeline.source.topic.0.as_str()),
        body: match &produce.content {
            ContentFrom::Body => Body::Whole,
            ContentFrom::Field(field) => Body::File { field: field.clone() },
            ContentFrom::Fields => Body::Fields,
            ContentFrom::Events => Body::Events { events_max: produce.events_max as usize },
        },
        body_bytes_max: usize::try_from(produce.body_max.0).unwrap_or(usize::MAX),
        accept: produce.accept.iter().map(|name| name.0.clone()).collect(),
        fields: produce.fields.iter().map(|(name, of)| field(name, of)).collect(),
        key: match &produce.key {
            RouteKeyFrom::Id => Key::JobId,
            RouteKeyFrom::Header(name) => Key::Header(name.clone()),
            RouteKeyFrom::Jq(_) => Key::Made,
        },
        steps: None,
        schema: None,
        deadline: produce.deadline.map(|deadline| deadline.0),
        idempotency: Idempotency {
            is_required: produce.idempotency.required,
            in_progress: match produce.idempotency.in_progress {
                checked::InProgress::Replay => InProgress::Replay,
                checked::InProgress::Conflict => InProgress::Conflict,
            },
            ttl: keys_ttl(config, pipeline, &produce.key),
            field: produce.idempotency.field.clone().map(|jq| text_of(config, jq)),
            derive: produce.idempotency.derive.map(|derive| match derive {
                checked::Derive::Random => Derive::Random,
                checked::Derive::Payload => Derive::Payload,
            }),
        },
        waits: produce.reply == checked::Reply::Result,
        wait_max: produce.wait_max.0,
        answers: answers(config, pipeline, &produce.answer),
        outbox: produce.outbox.map(|outbox| InOutbox { queue: queue(route), after: outbox.after.0 }),
        log_records: pipeline.log_records,
    }
}

/// The check has compiled the pattern once.
fn field(name: &str, of: &fields::Field) -> Field {
    let pattern = of.pattern.as_ref().and_then(|pattern| Some((pattern.0.clone(), Arc::new(pattern.compile().ok()?))));
    Field {
        name: name.to_owned(),
        in_query: of.from.contains(&fields::FieldFrom::Query),
        in_form: of.from.contains(&fields::FieldFrom::Form),
        default: of.default.clone(),
        pattern,
        bytes_max: of.bytes_max.bytes(),
    }
}

fn answers(config: &Config, pipeline: &Pipeline, answer: &Answer) -> Answers {
    let is_deaf = pipeline.results.is_some() && config.daemon.kafka.brokers.is_empty();
    let statuses = answer.statuses.iter();
    Answers {
        result_alone: answer.completed == answer::Completed::Result,
        late_is_problem: answer.late == answer::Late::Timeout,
        failure_is_problem: answer.failed == answer::Failed::Problem,
        statuses: statuses.filter_map(|(code, n)| Some((code.clone(), StatusCode::from_u16(*n).ok()?))).collect(),
        late_hint: is_deaf.then_some(
            "This daemon runs on its embedded log, which nothing outside can read or write: results of this route come \
             from outside, so it needs Kafka.",
        ),
    }
}

/// What a route's queue in the outbox is called.
#[must_use]
pub fn queue(route: &checked::Route) -> Arc<str> {
    format!("{} {}", route.method.as_str(), route.path).into()
}

/// For how long one key is one job: as long as the ledger knows it, and its outcome is kept.
fn keys_ttl(config: &Config, pipeline: &Pipeline, key: &RouteKeyFrom) -> Option<Duration> {
    let ledger = pipeline.ledger.as_ref().filter(|ledger| checked::follows_requests(&ledger.key.0, key))?;
    Some(ledger.ttl.0.min(config.daemon.jobs.ttl.0))
}

/// Whether a ledger of these keys tells what became of jobs: they are the records' ids.
#[must_use]
pub fn names_jobs(key: &KeySource) -> bool {
    matches!(key, KeySource::Header(name) if name == ID_HEADER)
}

fn claims(pipeline: &Pipeline) -> Option<Claimer> {
    let KeyFrom::Header(name) = &pipeline.ledger.as_ref()?.key.0 else { return None };
    let key = KeySource::Header(name.clone());
    names_jobs(&key).then(|| Claimer::new(&pipeline.name.0, &pipeline.source.topic.0, key))
}
