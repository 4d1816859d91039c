//! The routes that the checked config describes, as the gateway serves them. Never checks them again.

use super::Limits;
use super::route::{Accept, Action, Body, Idempotency, InProgress, JobsOf, Key, Results, Route};
use crate::config::daemon::Daemon;
use crate::config::route::{self as checked, Produce, RouteKind};
use crate::config::text::{ContentFrom, KeyFrom, RouteKeyFrom};
use crate::config::{Config, Pipeline};
use actix_web::http::Method;
use bulkhead_core::idempotency::KeyLimits;
use bulkhead_core::ledger::{Claimer, KeySource};
use bulkhead_core::record::ID_HEADER;
use std::sync::Arc;
use std::time::Duration;

/// Every route of this config.
#[must_use]
pub fn routes(config: &Config) -> Vec<Route> {
    let pipelines = &config.pipelines;
    let all = pipelines.iter().flat_map(|pipeline| pipeline.routes.iter().map(move |route| (pipeline, route)));
    all.map(|(pipeline, route)| Route {
        method: match route.method {
            checked::Method::Get => Method::GET,
            checked::Method::Post => Method::POST,
            checked::Method::Put => Method::PUT,
        },
        path: route.path.0.clone(),
        action: match &route.does {
            RouteKind::Produce(produce) => Action::Accept(accept(config, pipeline, produce)),
            RouteKind::Results(results) => Action::Results(Results {
                jobs: JobsOf {
                    claims: pipelines.iter().find(|p| p.name == results.pipeline).and_then(claims),
                    pipeline: Arc::from(results.pipeline.0.as_str()),
                },
                variable: results.variable.clone(),
            }),
        },
    })
    .collect()
}

/// What a gateway remembers of keys by itself: a job's outcome remembers longer.
#[must_use]
pub fn keys(daemon: &Daemon) -> KeyLimits {
    KeyLimits { keys_max: daemon.http.keys_max as usize, ttl: daemon.jobs.ttl.0 }
}

/// The bounds that the config sets; the others keep their defaults.
#[must_use]
pub fn limits(daemon: &Daemon) -> Limits {
    let timeout = daemon.http.timeout.0;
    let defaults = Limits::default();
    Limits {
        requests_max: daemon.http.requests_max as usize,
        head_timeout: timeout,
        body_timeout: timeout,
        // The gateway drains first; what it leaves of the daemon's drain time is the pipelines'.
        drain: defaults.drain.min(daemon.limits.drain.0 / 2),
        ..defaults
    }
}

/// A route's records are for the pipeline in whose file it stands.
fn accept(config: &Config, pipeline: &Pipeline, produce: &Produce) -> Accept {
    Accept {
        jobs: JobsOf { pipeline: Arc::from(produce.pipeline.0.as_str()), claims: claims(pipeline) },
        topic: Arc::from(pipeline.source.topic.0.as_str()),
        body: match &produce.content {
            ContentFrom::Body => Body::Whole,
            ContentFrom::Field(field) => Body::File { field: field.clone() },
        },
        body_bytes_max: usize::try_from(produce.body_max.0).unwrap_or(usize::MAX),
        accept: Vec::new(),
        key: match &produce.key {
            RouteKeyFrom::Id => Key::JobId,
            RouteKeyFrom::Header(name) => Key::Header(name.clone()),
        },
        idempotency: Idempotency {
            is_required: produce.idempotency.required,
            in_progress: match produce.idempotency.in_progress {
                checked::InProgress::Replay => InProgress::Replay,
                checked::InProgress::Conflict => InProgress::Conflict,
            },
            ttl: keys_ttl(config, pipeline, produce),
        },
    }
}

/// For how long one key is one job: as long as the ledger knows it, and its outcome is kept.
fn keys_ttl(config: &Config, pipeline: &Pipeline, produce: &Produce) -> Option<Duration> {
    let ledger = pipeline.ledger.as_ref().filter(|ledger| checked::follows_requests(&ledger.key.0, &produce.key))?;
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
