//! `classify`: a picture in, its class out, by an ONNX model that the configuration describes.
//!
//! Takes a record whose value is a JPEG, PNG or WebP picture; gives one whose value is
//! `{"label", "score", "top": [{"label", "score"}, …], "model": {"name", "version"}}`, with the same key, timestamp and
//! headers but for `content-type`.
//! Never fetches, never stores, and never answers for a picture it could not read: that one is rejected.

use super::StepContext;
use super::picture::{ImageLimits, JSON, replaced};
use super::runs::{self, Timer};
use crate::vision::decode::{Limits, decode};
use crate::vision::loaded::{Loaded, RunOptions};
use crate::vision::model::{Described, Identity};
use crate::vision::onnx::{GraphLevel, Provider, SessionOptions};
use crate::vision::prepare::Preparation;
use crate::vision::rank::{Answer, rank};
use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_core::fault::{Fault, FaultClass};
use bulkhead_core::phases::Phases;
use bulkhead_core::record::{Origin, Record};
use bulkhead_core::verdict::Verdict;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The step's name in pipelines, metrics and dead letters.
pub const NAME: &str = "classify";

/// `{ classify = { model = "models/digits.toml", top = 3 } }`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassifyConfig {
    /// The model's description, relative to the config directory.
    pub model: PathBuf,
    /// How many classes an answer names, best first. Absent: as the description says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub top: Option<usize>,
    /// Threads that work on one picture, in each worker. More workers mostly do more than more threads.
    #[serde(default = "runs::one")]
    #[schemars(range(min = 1, max = 256))]
    pub threads: usize,
    /// Whether those threads burn time while they wait for one another: a little faster alone, slower beside others.
    #[serde(default)]
    pub spinning: bool,
    /// How far the graph is optimised when it is loaded.
    #[serde(default)]
    pub graph: GraphLevel,
    /// What runs the model: the first of these that can be had; a warning in the log tells of each that cannot. `cpu`
    /// always can.
    #[serde(default = "runs::cpu")]
    #[schemars(length(min = 1, max = 2))]
    pub providers: Vec<Provider>,
    /// What a picture may cost; a larger one is rejected before memory is taken.
    #[serde(default)]
    pub image: ImageLimits,
}

impl ClassifyConfig {
    /// Everything that is wrong with it by itself. Opens no file.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = runs::problems(&self.model, self.threads, &self.providers);
        if self.top == Some(0) {
            problems.push("top: 0 classes would be named; at least 1 is needed".to_owned());
        }
        problems.extend(self.image.problems());
        problems
    }

    /// Everything that is wrong with it and with what it names: the description, the model's file and SHA-256, its graph,
    /// its labels.
    #[must_use]
    pub fn check(&self, context: StepContext<'_>) -> Vec<String> {
        match self.described(context.dir) {
            Ok(described) => {
                Loaded::load(&described, context.onnxruntime, &self.run_options(context)).err().unwrap_or_default()
            }
            Err(problems) => problems,
        }
    }

    /// What builds the step. The description is read now, so that every incarnation works by the same one; the model is
    /// read, and its SHA-256 compared, for each.
    ///
    /// # Errors
    /// Everything that is wrong with the settings or the description.
    pub fn factory(&self, context: StepContext<'_>) -> Result<Arc<dyn StepFactory>, Vec<String>> {
        let described = self.described(context.dir)?;
        Ok(Arc::new(Factory {
            top: self.top.unwrap_or(described.description.top),
            described: Arc::new(described),
            library: context.onnxruntime.map(Path::to_owned),
            options: self.run_options(context),
            limit: runs::limit(context.call.timeout),
            limits: self.image.into(),
        }))
    }

    fn run_options(&self, context: StepContext<'_>) -> RunOptions {
        let Self { threads, spinning, graph, ref providers, .. } = *self;
        let session = SessionOptions { threads, spinning, graph, providers: providers.clone() };
        RunOptions { session, pictures_max: context.call.run_records_max }
    }

    fn described(&self, dir: &Path) -> Result<Described, Vec<String>> {
        let problems = self.problems();
        if problems.is_empty() { Described::load(&dir.join(&self.model)) } else { Err(problems) }
    }
}

struct Factory {
    described: Arc<Described>,
    library: Option<PathBuf>,
    options: RunOptions,
    top: usize,
    limit: Duration,
    limits: Limits,
}

impl StepFactory for Factory {
    fn name(&self) -> &str {
        NAME
    }

    fn build(&self) -> Result<Box<dyn Step>, Fault> {
        let loaded = Loaded::load(&self.described, self.library.as_deref(), &self.options)
            .map_err(|problems| Fault::fatal("model_unusable", problems.join("; ")))?;
        Ok(Box::new(Classify {
            preparation: Preparation::new(&self.described.description.input),
            described: Arc::clone(&self.described),
            loaded,
            top: self.top,
            limit: self.limit,
            limits: self.limits,
            phases: Phases::default(),
        }))
    }
}

struct Classify {
    described: Arc<Described>,
    loaded: Loaded,
    preparation: Preparation,
    top: usize,
    /// How long a call may take.
    limit: Duration,
    limits: Limits,
    phases: Phases,
}

impl Step for Classify {
    fn run(&mut self, records: &[Record], _: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        let deadline = Instant::now() + self.limit;
        self.phases = Phases::default();
        let mut verdicts = Vec::with_capacity(records.len());
        for pictures in records.chunks(self.loaded.pictures_max()) {
            verdicts.extend(self.classify(pictures, deadline)?);
        }
        Ok(verdicts)
    }

    fn phases(&self) -> Option<Phases> {
        Some(self.phases)
    }
}

impl Classify {
    /// The verdicts on records whose pictures go through the model in one run; an error is the stage's fault, not theirs.
    fn classify(&mut self, records: &[Record], deadline: Instant) -> Result<Vec<Verdict>, Fault> {
        let mut timer = Timer::start();
        let mut values = Vec::with_capacity(records.len() * self.loaded.values());
        let prepared: Vec<Result<(), Fault>> = records.iter().map(|record| self.prepare(record, &mut values)).collect();
        self.phases.preprocess += timer.lap();
        let outputs = if values.is_empty() {
            Vec::new()
        } else {
            self.loaded.run(&values, deadline.saturating_duration_since(timer.last()))?
        };
        self.phases.infer += timer.lap();
        let mut outputs = outputs.into_iter();
        let verdicts = records.iter().zip(prepared).map(|(record, prepared)| {
            let answer = prepared.and_then(|()| {
                let missing =
                    || Err(Fault::fatal("class_count", "the model answered for fewer pictures than it was given"));
                self.answer(&outputs.next().unwrap_or_else(missing)?)
            });
            verdict(record, answer)
        });
        let verdicts = verdicts.collect();
        self.phases.postprocess += timer.lap();
        verdicts
    }

    /// Appends a record's picture to the model's input.
    fn prepare(&mut self, record: &Record, values: &mut Vec<f32>) -> Result<(), Fault> {
        let picture = decode(record.payload(), &self.limits)?;
        self.preparation.append(&picture, values)
    }

    fn answer(&self, outputs: &[f32]) -> Result<Vec<u8>, Fault> {
        let described = &self.described;
        let answer = rank(outputs, &described.labels, described.description.softmax, self.top)?;
        let stamped = Stamped { answer, model: &described.identity };
        serde_json::to_vec(&stamped).map_err(|e| Fault::fatal("answer_unprintable", e))
    }
}

/// A record's value: what was answered, and by which model.
#[derive(Serialize)]
struct Stamped<'a> {
    #[serde(flatten)]
    answer: Answer<'a>,
    model: &'a Identity,
}

/// A fault that is the record's own rejects it; another one is the stage's.
fn verdict(record: &Record, answer: Result<Vec<u8>, Fault>) -> Result<Verdict, Fault> {
    match answer {
        Ok(json) => Ok(Verdict::one(replaced(record, json, JSON))),
        Err(fault) if fault.class == FaultClass::Poison => Ok(Verdict::Reject(fault)),
        Err(fault) => Err(fault),
    }
}

#[cfg(test)]
#[path = "classify_run_tests.rs"]
mod run_tests;
#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
