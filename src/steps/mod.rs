//! The steps that a stage can have: one arm a step. A new step is one file here, one arm, one example, one test.
//! Never runs a step: workers do.

pub mod chaos;
mod chaos_runs;
pub mod classify;
pub mod detect;
pub mod encode_image;
pub mod field;
pub mod filter;
pub mod generate;
pub mod http;
mod identity;
pub mod log;
pub mod map;
pub mod pass;
pub mod picture;
pub mod postgres;
pub mod profanity;
pub mod redis;
mod redis_client;
pub mod reject;
pub mod retrieve;
pub mod route;
mod runs;
pub mod session;
mod session_store;
mod stateless;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod validate;

use crate::config::pipeline::Outputs;
use crate::expression::ExpressionLimits;
use bulkhead_actors::hints::Hints;
use bulkhead_actors::step::StepFactory;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// One step of a stage: its name and its own settings, which reach a worker's process as they are serialized; secrets among
/// them are confided to it ([`crate::config::secret`]) and are hidden everywhere else.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepConfig {
    /// Names what a picture shows, by an ONNX model.
    Classify(classify::ClassifyConfig),
    /// Finds things on a picture, by an ONNX model.
    Detect(detect::DetectConfig),
    /// Makes a picture a smaller file: re-encoded, scaled down, without metadata.
    EncodeImage(encode_image::EncodeImageConfig),
    /// Lets go on what an expression holds for.
    Filter(filter::FilterConfig),
    /// Calls an HTTP API, and goes on with its answer.
    Http(Box<http::HttpConfig>),
    /// Writes a line for each record into a file.
    Log(log::LogConfig),
    /// Makes new records by expressions.
    Map(map::MapConfig),
    /// Lets every record pass as it is.
    Pass(pass::PassConfig),
    /// Stores a row for each record in a PostgreSQL table.
    Postgres(postgres::PostgresConfig),
    /// Rejects what an expression holds for.
    Reject(reject::RejectConfig),
    /// Sends records to the outputs that an expression names.
    Route(route::RouteConfig),
    /// Holds a record's value against a JSON Schema.
    Validate(validate::ValidateConfig),
    /// Answers a text with a language model, or with what passages say.
    Generate(generate::GenerateConfig),
    /// Finds bad words in a text.
    Profanity(profanity::ProfanityConfig),
    /// Writes values to Redis.
    Redis(redis::RedisConfig),
    /// Finds passages of documents that a text is about.
    Retrieve(retrieve::RetrieveConfig),
    /// Keeps the turns of conversations.
    Session(session::SessionConfig),
    /// Fails as records ask it to, for tests; only with `--chaos`.
    Chaos(chaos::ChaosConfig),
}

/// What steps are checked against and built from, beside their own settings.
#[derive(Clone, Copy, Debug)]
pub struct StepContext<'a> {
    /// The config directory, where relative paths start.
    pub dir: &'a Path,
    /// Whether chaos was asked for on the command line.
    pub chaos: bool,
    /// ONNX Runtime's library, where the config names one.
    pub onnxruntime: Option<&'a Path>,
    /// What a call of the step's stage may be.
    pub call: CallLimits,
    /// The name of the pipeline that the step belongs to.
    pub pipeline: &'a str,
    /// The topic that the pipeline reads, so that its records' origins can be named.
    pub source: &'a str,
    /// The data directory: what a step keeps there lies in a folder of its own. It may not exist while a config is checked.
    pub data: &'a Path,
    /// The pipeline's outputs by name.
    pub outputs: &'a Outputs,
    /// What one run of an expression may take.
    pub expressions: ExpressionLimits,
    /// Where what is worth seeing before it is the truth is told; `None` in a worker's process, and while a config is checked.
    pub hints: Option<&'a Hints>,
}

/// What one call of a stage's steps may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallLimits {
    /// How many records one run of a model takes at most.
    pub run_records_max: usize,
    /// How long the call may take.
    pub timeout: Duration,
    /// How many records one record may become.
    pub emit_max: usize,
}

impl StepConfig {
    /// The step's name in config, metrics and dead letters.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Classify(_) => classify::NAME,
            Self::Detect(_) => detect::NAME,
            Self::EncodeImage(_) => encode_image::NAME,
            Self::Filter(_) => filter::NAME,
            Self::Http(_) => http::NAME,
            Self::Log(_) => log::NAME,
            Self::Map(_) => map::NAME,
            Self::Pass(_) => pass::NAME,
            Self::Postgres(_) => postgres::NAME,
            Self::Reject(_) => reject::NAME,
            Self::Route(_) => route::NAME,
            Self::Validate(_) => validate::NAME,
            Self::Generate(_) => generate::NAME,
            Self::Profanity(_) => profanity::NAME,
            Self::Redis(_) => redis::NAME,
            Self::Retrieve(_) => retrieve::NAME,
            Self::Session(_) => session::NAME,
            Self::Chaos(_) => chaos::NAME,
        }
    }

    /// Whether the step runs native code that can take the process down.
    #[must_use]
    pub const fn is_native(&self) -> bool {
        matches!(self, Self::Classify(_) | Self::Detect(_))
    }

    /// Whether a route can have the step, where it runs before a record is accepted: it says yes or no at once, to whoever
    /// sent the record, and needs nothing from outside.
    #[must_use]
    pub const fn is_edge(&self) -> bool {
        match self {
            Self::Chaos(_)
            | Self::EncodeImage(_)
            | Self::Filter(_)
            | Self::Pass(_)
            | Self::Profanity(_)
            | Self::Reject(_)
            | Self::Validate(_) => true,
            Self::Map(config) => config.is_edge(),
            Self::Classify(_)
            | Self::Detect(_)
            | Self::Generate(_)
            | Self::Http(_)
            | Self::Log(_)
            | Self::Postgres(_)
            | Self::Redis(_)
            | Self::Retrieve(_)
            | Self::Route(_)
            | Self::Session(_) => false,
        }
    }

    /// The outputs that the step sends records to by names that are known before it runs.
    #[must_use]
    pub fn outputs(&self) -> Vec<&str> {
        match self {
            Self::Map(config) => config.output.iter().map(|name| name.0.as_str()).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether the step tells hints, so that their topic is needed.
    #[must_use]
    pub fn tells_hints(&self) -> bool {
        matches!(self, Self::Generate(config) if config.tells_hints())
    }

    /// Why the step cannot be in a worker's process of its own; `None` where it can.
    #[must_use]
    pub fn must_stay(&self) -> Option<&'static str> {
        match self {
            Self::Session(config) if config.is_local() => Some(
                "the data directory's conversations belong to the daemon's process; name a redis server, or isolation = \"thread\"",
            ),
            _ => None,
        }
    }

    /// Everything that is wrong with the step's settings, each as one sentence that says what would be right; empty
    /// where nothing is.
    #[must_use]
    pub fn check(&self, context: StepContext<'_>) -> Vec<String> {
        match self {
            Self::Classify(config) => config.check(context),
            Self::Detect(config) => config.check(context),
            Self::EncodeImage(config) => config.check(),
            Self::Http(config) => config.check(context),
            Self::Filter(_) | Self::Pass(_) => Vec::new(),
            Self::Log(config) => config.check(context),
            Self::Map(config) => config.check(context),
            Self::Postgres(config) => config.check(context),
            Self::Reject(config) => config.check(),
            Self::Route(config) => config.check(context),
            Self::Validate(config) => config.check(context),
            Self::Generate(config) => config.check(context),
            Self::Profanity(config) => config.check(context),
            Self::Redis(config) => config.check(context),
            Self::Retrieve(config) => config.check(context),
            Self::Session(config) => config.check(context),
            Self::Chaos(config) => config.check(context),
        }
    }

    /// What builds the step for every incarnation of a worker.
    ///
    /// # Errors
    /// What is wrong with its settings or with what they name, as [`StepConfig::check`] says it: files can change after it.
    pub fn factory(&self, context: StepContext<'_>) -> Result<Arc<dyn StepFactory>, Vec<String>> {
        Ok(match self {
            Self::Classify(config) => config.factory(context)?,
            Self::Detect(config) => config.factory(context)?,
            Self::EncodeImage(config) => Arc::new(config.factory()?),
            Self::Filter(config) => config.factory(context),
            Self::Http(config) => Arc::new(config.factory(context)?),
            Self::Log(config) => Arc::new(config.factory(context)),
            Self::Map(config) => config.factory(context),
            Self::Pass(_) => Arc::new(pass::PassFactory),
            Self::Postgres(config) => Arc::new(config.factory(context)?),
            Self::Reject(config) => config.factory(context),
            Self::Route(config) => config.factory(context),
            Self::Validate(config) => config.factory(context)?,
            Self::Generate(config) => Arc::new(config.factory(context)),
            Self::Profanity(config) => Arc::new(config.factory()),
            Self::Redis(config) => Arc::new(config.factory(context)),
            Self::Retrieve(config) => Arc::new(config.factory(context)),
            Self::Session(config) => Arc::new(config.factory(context)),
            Self::Chaos(config) => Arc::new(config.factory()),
        })
    }
}
