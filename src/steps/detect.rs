//! `detect`: a picture in, what is on it and where out, by an ONNX detector that a description file describes.
//!
//! Takes a record whose value is a JPEG, PNG or WebP picture; gives one whose value is
//! `{"width", "height", "objects": [{"label", "score", "box": [left, top, right, bottom]}, …], "model": {"name", "version"}}`,
//! the surest first, boxes in pixels of the picture as a person sees it, with the same key, timestamp and headers but for
//! `content-type`.
//! Never fetches, never stores, and never answers for a picture it could not read: that one is rejected.

use super::StepContext;
use super::picture::{ImageLimits, JSON, replaced};
use super::runs::{self, Timer};
use crate::vision::boxes::Found;
use crate::vision::decode::{Limits, decode};
use crate::vision::detector::{Described, Detector};
use crate::vision::model::Identity;
use crate::vision::onnx::{GraphLevel, Provider, SessionOptions};
use crate::vision::prepare::Preparation;
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
pub const NAME: &str = "detect";

/// `{ detect = { model = "models/faces.toml", threshold = 0.6 } }`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DetectConfig {
    /// The detector's description, relative to the config directory; docs/detectors.md has its keys.
    pub model: PathBuf,
    /// How sure the model must be. Absent: as the description says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// How many things are told of one picture. Absent: as the description says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub found_max: Option<usize>,
    /// Threads that work on one picture, in each worker.
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

impl DetectConfig {
    /// Everything that is wrong with it and with what it names.
    #[must_use]
    pub fn check(&self, context: StepContext<'_>) -> Vec<String> {
        let described = match self.described(context.dir) {
            Ok(described) => Arc::new(described),
            Err(problems) => return problems,
        };
        Detector::load(&described, context.onnxruntime, &self.options()).err().unwrap_or_default()
    }

    /// What builds the step. The description is read now, so that every incarnation works by the same one.
    ///
    /// # Errors
    /// Everything that is wrong with the settings or the description.
    pub fn factory(&self, context: StepContext<'_>) -> Result<Arc<dyn StepFactory>, Vec<String>> {
        Ok(Arc::new(Factory {
            described: Arc::new(self.described(context.dir)?),
            library: context.onnxruntime.map(Path::to_owned),
            options: self.options(),
            limit: runs::limit(context.call.timeout),
            limits: self.image.into(),
        }))
    }

    fn options(&self) -> SessionOptions {
        let Self { threads, spinning, graph, ref providers, .. } = *self;
        SessionOptions { threads, spinning, graph, providers: providers.clone() }
    }

    fn described(&self, dir: &Path) -> Result<Described, Vec<String>> {
        let mut problems = runs::problems(&self.model, self.threads, &self.providers);
        problems.extend(self.image.problems());
        if self.threshold.is_some_and(|threshold| !(0.0..=1.0).contains(&threshold)) {
            problems.push("threshold: must be 0 to 1".to_owned());
        }
        if self.found_max == Some(0) {
            problems.push("found_max: 0 would find nothing".to_owned());
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut described = Described::load(&dir.join(&self.model))?;
        let description = &mut described.description;
        description.threshold = self.threshold.unwrap_or(description.threshold);
        description.found_max = self.found_max.unwrap_or(description.found_max);
        Ok(described)
    }
}

struct Factory {
    described: Arc<Described>,
    library: Option<PathBuf>,
    options: SessionOptions,
    limit: Duration,
    limits: Limits,
}

impl StepFactory for Factory {
    fn name(&self) -> &str {
        NAME
    }

    fn build(&self) -> Result<Box<dyn Step>, Fault> {
        let detector = Detector::load(&self.described, self.library.as_deref(), &self.options)
            .map_err(|problems| Fault::fatal("model_unusable", problems.join("; ")))?;
        Ok(Box::new(Detect {
            preparation: Preparation::new(&self.described.description.input),
            described: Arc::clone(&self.described),
            detector,
            limit: self.limit,
            limits: self.limits,
            phases: Phases::default(),
        }))
    }
}

struct Detect {
    described: Arc<Described>,
    detector: Detector,
    preparation: Preparation,
    /// How long a call may take.
    limit: Duration,
    limits: Limits,
    phases: Phases,
}

impl Step for Detect {
    fn run(&mut self, records: &[Record], _: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        let deadline = Instant::now() + self.limit;
        self.phases = Phases::default();
        let verdict = |record: &Record| match self.detect(record, deadline) {
            Ok(json) => Ok(Verdict::one(replaced(record, json, JSON))),
            Err(fault) if fault.class == FaultClass::Poison => Ok(Verdict::Reject(fault)),
            Err(fault) => Err(fault),
        };
        records.iter().map(verdict).collect()
    }

    fn phases(&self) -> Option<Phases> {
        Some(self.phases)
    }
}

/// A record's value: what was found, and by which model.
#[derive(Serialize)]
struct Answer<'a> {
    width: usize,
    height: usize,
    objects: Vec<Object<'a>>,
    model: &'a Identity,
}

#[derive(Serialize)]
struct Object<'a> {
    label: &'a str,
    score: f32,
    #[serde(rename = "box")]
    rect: [f32; 4],
}

impl Detect {
    fn detect(&mut self, record: &Record, deadline: Instant) -> Result<Vec<u8>, Fault> {
        let mut timer = Timer::start();
        let picture = decode(record.payload(), &self.limits)?;
        let mut values = Vec::new();
        self.preparation.append(&picture, &mut values)?;
        let placement = self.preparation.placement(&picture);
        self.phases.preprocess += timer.lap();
        let left = deadline.saturating_duration_since(timer.last());
        let found = self.detector.find(&values, &placement, &picture, left);
        self.phases.infer += timer.lap();
        let labels = &self.described.labels;
        let tenth = |pixels: f32| (pixels * 10.0).round() / 10.0;
        let object = |Found { rect, score, class }| Object {
            label: &labels[class],
            score: (score * 10_000.0).round() / 10_000.0,
            rect: [rect.left, rect.top, rect.right, rect.bottom].map(tenth),
        };
        let answer = Answer {
            width: picture.width,
            height: picture.height,
            objects: found?.into_iter().map(object).collect(),
            model: &self.described.identity,
        };
        let json = serde_json::to_vec(&answer).map_err(|why| Fault::fatal("answer_unprintable", why));
        self.phases.postprocess += timer.lap();
        json
    }
}

#[cfg(test)]
#[path = "detect_tests.rs"]
mod tests;
