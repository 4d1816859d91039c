//! The configuration: files, read and checked once at start, every problem told at once. What leaves here is valid;
//! nobody behind it parses or defaults anything. Never connects to anything.

pub mod cases;
mod check;
pub mod daemon;
mod document;
mod formats;
pub mod load;
pub mod pipeline;
pub mod problem;
mod properties;
pub mod reference;
pub mod route;
pub mod schema;
pub mod secret;
mod shape;
pub mod single;
pub mod text;
pub mod units;
pub mod variables;

use crate::steps::{CallLimits, StepContext};
use bulkhead_actors::hints::Hints;
use bulkhead_actors::log::Delivery;
use pipeline::{
    Batch, DeliveryMode, InFlight, Lane, Ledger, OnFailure, OnGap, Output, Outputs, PipelineFile, Restart, Stage,
};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The version of the format, which every file begins with: `version = 1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(transparent)]
pub struct Version(u32);

impl schemars::JsonSchema for Version {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Version".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "integer", "minimum": 1, "maximum": 1 })
    }
}

/// What the command line says, which beats the files.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--instance`
    pub instance: Option<text::Name>,
    /// `--data`
    pub data: Option<PathBuf>,
    /// `--listen`
    pub listen: Option<SocketAddr>,
    /// `--admin`
    pub admin: Option<SocketAddr>,
    /// `--worker`
    pub worker: Option<PathBuf>,
    /// `--kafka`
    pub brokers: Option<String>,
    /// `--log-level`
    pub log_level: Option<String>,
    /// `--log-format`
    pub log_format: Option<daemon::LogFormat>,
}

impl Overrides {
    fn apply(&self, daemon: &mut daemon::Daemon) {
        fn set<T: Clone>(given: Option<&T>, value: &mut T) {
            if let Some(given) = given {
                value.clone_from(given);
            }
        }
        if self.instance.is_some() {
            daemon.instance.clone_from(&self.instance);
        }
        set(self.data.as_ref(), &mut daemon.data.dir);
        set(self.listen.as_ref(), &mut daemon.http.listen);
        set(self.admin.as_ref(), &mut daemon.admin.listen);
        set(self.brokers.as_ref(), &mut daemon.kafka.brokers);
        set(self.log_level.as_ref(), &mut daemon.log.level);
        set(self.log_format.as_ref(), &mut daemon.log.format);
    }
}

/// A whole configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its directory; relative paths of steps start there.
    pub dir: PathBuf,
    /// What belongs to the process.
    pub daemon: daemon::Daemon,
    /// Whether steps and requests may break things on purpose (`--chaos`).
    pub chaos: bool,
    /// The program of isolated workers, where it is not this one (`--worker`).
    pub worker: Option<PathBuf>,
    /// The pipelines, by file name.
    pub pipelines: Vec<Pipeline>,
}

/// A checked pipeline: what a file may leave out is filled in.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Its name; no other pipeline has it.
    pub name: text::Name,
    /// What is promised where the process dies.
    pub delivery: Delivery,
    /// Where records come from.
    pub source: Source,
    /// Which records are the same one, come again.
    pub ledger: Option<Ledger>,
    /// Where results go.
    pub output: Output,
    /// Where records go that a step sends to an output by name.
    pub outputs: Outputs,
    /// Where something outside writes the results, where it does.
    pub results: Option<pipeline::results::Results>,
    /// Where records go that cannot be processed.
    pub dlq: Dlq,
    /// How records are cut into batches.
    pub batch: Batch,
    /// How much of a partition may be unsettled at once.
    pub in_flight: InFlight,
    /// How results are committed.
    pub lane: Lane,
    /// How long a partition that is taken away may take to finish what is in flight.
    pub drain: units::Period,
    /// The restart budget of its supervisor.
    pub restart: Restart,
    /// How long it rests once it has failed.
    pub failed_retry: units::Period,
    /// What its failure means for the process.
    pub on_failure: OnFailure,
    /// Whether each record's way is logged.
    pub log_records: bool,
    /// Its stages in order, at least one.
    pub stages: Vec<Stage>,
    /// Its routes.
    pub routes: Vec<route::Route>,
}

/// Where a pipeline's records come from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The topic.
    pub topic: text::Topic,
    /// How many partitions it must have.
    pub partitions: i32,
    /// The consumer group.
    pub group: text::Topic,
    /// What to do where the log's start has passed the position.
    pub on_gap: OnGap,
    /// How long its records are kept.
    pub retention: Option<units::Period>,
    /// How many records may wait before routes take no more.
    pub backlog_max: u64,
}

/// Where a pipeline's dead letters go.
#[derive(Clone, Debug)]
pub struct Dlq {
    /// The topic.
    pub topic: text::Topic,
    /// How long they are kept.
    pub retention: Option<units::Period>,
    /// When too many of them stop the pipeline.
    pub stop_above: pipeline::StopAbove,
}

impl Config {
    /// What the steps of a pipeline's stage are built from; chaos was settled by the check.
    #[must_use]
    pub fn step_context<'a>(
        &'a self,
        pipeline: &'a Pipeline,
        stage: &pipeline::Stage,
        hints: Option<&'a Hints>,
    ) -> StepContext<'a> {
        self.context(pipeline, stage.call(), hints)
    }

    /// What the steps of a pipeline's routes are built from.
    #[must_use]
    pub fn edge_context<'a>(&'a self, pipeline: &'a Pipeline) -> StepContext<'a> {
        self.context(pipeline, self.daemon.http.call(), None)
    }

    fn context<'a>(&'a self, pipeline: &'a Pipeline, call: CallLimits, hints: Option<&'a Hints>) -> StepContext<'a> {
        StepContext {
            dir: &self.dir,
            chaos: self.chaos,
            onnxruntime: self.daemon.onnxruntime.library.as_deref(),
            call,
            pipeline: &pipeline.name.0,
            source: &pipeline.source.topic.0,
            data: &self.daemon.data.dir,
            outputs: &pipeline.outputs,
            expressions: self.daemon.limits.expressions(),
            hints,
        }
    }
}

impl Pipeline {
    /// The topic of its ledger's segments.
    #[must_use]
    pub fn ledger_topic(&self) -> String {
        format!("{}.ledger", self.name)
    }

    /// Fills in what the file left out. The file was checked.
    fn resolve(file: PipelineFile, http: &daemon::Http) -> Self {
        let section = file.pipeline;
        let name = section.name;
        let source = Source {
            group: section.source.group.unwrap_or_else(|| text::Topic(name.0.clone())),
            topic: section.source.topic,
            partitions: section.source.partitions,
            on_gap: section.source.on_gap,
            retention: section.source.retention,
            backlog_max: section.source.backlog_max,
        };
        let dlq = Dlq {
            topic: section.dlq.topic.unwrap_or_else(|| text::Topic(format!("{}.dlq", source.topic))),
            retention: section.dlq.retention,
            stop_above: section.dlq.stop_above,
        };
        let routes = file.route.into_iter().filter_map(|route| route.resolve(&name, http)).collect();
        Self {
            delivery: section.delivery.into(),
            source,
            ledger: section.ledger,
            output: section.output,
            outputs: section.outputs,
            results: section.results,
            dlq,
            batch: section.batch,
            in_flight: section.in_flight,
            lane: section.lane,
            drain: section.drain,
            restart: section.restart,
            failed_retry: section.failed_retry,
            on_failure: section.on_failure,
            log_records: section.log_records,
            stages: file.stage,
            routes,
            name,
        }
    }
}

impl From<DeliveryMode> for Delivery {
    fn from(mode: DeliveryMode) -> Self {
        match mode {
            DeliveryMode::ExactlyOnce => Self::ExactlyOnce,
            DeliveryMode::AtLeastOnce => Self::AtLeastOnce,
        }
    }
}
