//! Judges values by one another, within a file and across files: what fits the schema one by one may still not fit
//! together. Never reads a config file, never changes a value.

mod chat;
mod outbox;
mod outputs;
mod pages;
mod pipeline;
mod routes;

use super::daemon::{Daemon, Http};
use super::document::Document;
use super::pipeline::{PipelineFile, Stage};
use super::problem::Problem;
use super::units::{Period, Size};
use crate::steps::{CallLimits, StepContext};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

/// Kafka's own bounds of a session timeout (`group.min.session.timeout.ms`, `group.max.session.timeout.ms`).
const SESSION: [Duration; 2] = [Duration::from_secs(6), Duration::from_secs(1_800)];
/// Kafka's own bound of a transaction timeout (`transaction.max.timeout.ms`).
const TRANSACTION_MAX: Duration = Duration::from_secs(900);
/// librdkafka's socket timeout as the engine sets it: a transaction must outlive one call.
const TRANSACTION_MIN: Duration = Duration::from_secs(5);
/// actix-http's own clock ticks every 500 ms: a shorter time may have passed when it begins.
const CONNECTION_MIN: Duration = Duration::from_secs(1);
/// Kafka's own bound of a request is 100 MiB (`socket.request.max.bytes`).
const BODY_MAX: Size = Size::mib(64);
/// Fewer bytes than a 128-bit key are guessable.
const SECRET_BYTES_MIN: usize = 16;

/// All files of a config, each with its text.
pub(super) struct Loaded {
    pub(super) daemon: (Document, Daemon),
    pub(super) pipelines: Vec<(Document, PipelineFile)>,
    /// Whether a pipeline's file could not be read, so that what it names is not known.
    pub(super) incomplete: bool,
}

/// Everything that does not fit together.
pub(super) fn all(loaded: &Loaded, dir: &Path, chaos: bool) -> Vec<Problem> {
    let mut found = Found::default();
    daemon(&mut found, loaded);
    let onnxruntime = loaded.daemon.1.onnxruntime.library.as_deref();
    for (document, file) in &loaded.pipelines {
        let context = |call: CallLimits| StepContext {
            dir,
            chaos,
            onnxruntime,
            call,
            pipeline: &file.pipeline.name.0,
            source: &file.pipeline.source.topic.0,
            data: &loaded.daemon.1.data.dir,
            outputs: &file.pipeline.outputs,
            expressions: loaded.daemon.1.limits.expressions(),
            hints: None,
        };
        let mut at = At { document, found: &mut found };
        pipeline::check(&mut at, file, &loaded.daemon.1, &|stage: &Stage| context(stage.call()));
        routes::steps(&mut at, file, context(loaded.daemon.1.http.call()));
    }
    across(&mut found, loaded);
    routes::check(&mut found, loaded, dir);
    found.problems
}

/// Problems found so far.
#[derive(Default)]
struct Found {
    problems: Vec<Problem>,
}

impl Found {
    /// Notes a problem of a key, unless its value is a stand-in for one that has a problem already.
    fn at(&mut self, document: &Document, path: &str, why: impl Display) {
        if !document.is_bad(path) {
            self.problems.push(document.problem(path, why));
        }
    }
}

/// Where problems of one file go.
struct At<'a> {
    document: &'a Document,
    found: &'a mut Found,
}

impl At<'_> {
    fn at(&mut self, path: &str, why: impl Display) {
        self.found.at(self.document, path, why);
    }

    /// Something that is likely not meant.
    fn warn(&mut self, path: &str, why: impl Display) {
        if !self.document.is_bad(path) {
            self.found.problems.push(Problem { is_warning: true, ..self.document.problem(path, why) });
        }
    }

    /// A span of time that must not be zero.
    fn some(&mut self, path: &str, period: Period) {
        if period.0.is_zero() {
            self.at(path, "must be longer than nothing");
        }
    }
}

fn daemon(found: &mut Found, loaded: &Loaded) {
    let (document, daemon) = &loaded.daemon;
    let mut at = At { document, found };
    let session = daemon.kafka.session_timeout.0;
    if session < SESSION[0] || session > SESSION[1] {
        at.at(
            "kafka.session_timeout",
            "must be \"6s\" to \"30m\": brokers refuse others unless they are set to allow them",
        );
    }
    let transaction = daemon.kafka.transaction_timeout.0;
    if transaction < TRANSACTION_MIN || transaction > TRANSACTION_MAX {
        at.at(
            "kafka.transaction_timeout",
            "must be \"5s\" (one call may take as long) to \"15m\" (brokers refuse more)",
        );
    }
    let (traffic, admin) = (daemon.http.listen, daemon.admin.listen);
    if traffic == admin && traffic.port() != 0 {
        let (path, other) = match document.has("admin.listen") {
            true => ("admin.listen", "http.listen"),
            false => ("http.listen", "admin.listen"),
        };
        at.at(path, format_args!("{admin} is {other}'s address too; the two need a port each"));
    }
    if daemon.jobs.secret.as_ref().is_some_and(|secret| secret.expose().len() < SECRET_BYTES_MIN) {
        at.at(
            "jobs.secret",
            format_args!("is shorter than {SECRET_BYTES_MIN} bytes; `openssl rand -hex 32` makes a good one"),
        );
    }
    http(&mut at, &daemon.http);
    for (path, period) in [("jobs.ttl", daemon.jobs.ttl), ("limits.drain", daemon.limits.drain)] {
        at.some(path, period);
    }
    for (path, size, least) in [
        ("http.body_max", daemon.http.body_max, 1_u64),
        ("jobs.bytes_max", daemon.jobs.bytes_max, 1 << 20),
        ("log.file.bytes_max", daemon.log.file.bytes_max, 1 << 16),
        ("limits.expression_bytes_max", daemon.limits.expression_bytes_max, 1 << 10),
    ] {
        if size.0 < least {
            at.at(path, format_args!("must be at least \"{}\"", Size(least)));
        }
    }
}

/// The edge's times and sizes.
fn http(at: &mut At<'_>, http: &Http) {
    for (path, period) in [
        ("http.body_timeout", http.body_timeout),
        ("http.ack_timeout", http.ack_timeout),
        ("http.steps_timeout", http.steps_timeout),
        ("http.wait_max", http.wait_max),
        ("http.heartbeat", http.heartbeat),
    ] {
        at.some(path, period);
    }
    for (path, period) in [("http.head_timeout", http.head_timeout), ("http.idle_timeout", http.idle_timeout)] {
        if period.0 < CONNECTION_MIN {
            at.at(path, "must be at least \"1s\": connections are timed by a clock that ticks twice a second");
        }
    }
    if http.stream_max.0 < http.heartbeat.0 {
        at.at("http.stream_max", format_args!("must be at least http.heartbeat ({})", http.heartbeat));
    }
    if http.body_max.0 > BODY_MAX.0 {
        at.at("http.body_max", format_args!("must be at most \"{BODY_MAX}\": brokers take no request above 100 MiB"));
    }
    if http.bodies_max.0 < http.body_max.0 {
        at.at("http.bodies_max", format_args!("must be at least http.body_max ({}): one body", http.body_max));
    }
}

/// What two pipelines must not share, or must agree on.
fn across(found: &mut Found, loaded: &Loaded) {
    let mut names = BTreeMap::new();
    let mut groups = BTreeMap::new();
    let mut topics = BTreeMap::new();
    for (document, file) in &loaded.pipelines {
        let section = &file.pipeline;
        let (name, source) = (&section.name, &section.source);
        if let Some(first) = names.insert(name, document.name.as_str()) {
            found.at(document, "pipeline.name", format_args!("{first} has this name too; every pipeline has its own"));
        }
        let group = source.group.as_ref().map_or(name.0.as_str(), |group| group.0.as_str());
        if let Some(first) = groups.insert((group, &source.topic), name) {
            let path = if source.group.is_some() { "pipeline.source.group" } else { "pipeline.source" };
            let why = format_args!(
                "pipeline {first} reads topic {} in group {group} too, so each gets only a part; name another group",
                source.topic
            );
            found.at(document, path, why);
        }
        let partitions = *topics.entry(&source.topic).or_insert(source.partitions);
        if partitions != source.partitions {
            let why = format_args!("another pipeline says that topic {} has {partitions}", source.topic);
            found.at(document, "pipeline.source.partitions", why);
        }
    }
}
