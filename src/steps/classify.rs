//! `classify`: a picture in, its class out, by an ONNX model that the configuration describes.
//!
//! Takes a record whose value is a JPEG, PNG or WebP picture; gives one whose value is
//! `{"label", "score", "top": [{"label", "score"}, …], "model": {"name", "version"}}`, with the same key, timestamp and
//! headers but for `content-type`.
//! Never fetches, never stores, and never answers for a picture it could not read: that one is rejected.

use super::StepContext;
use crate::config::units::Size;
use crate::vision::decode::{Limits, decode};
use crate::vision::describe::is_below;
use crate::vision::model::{Described, Identity};
use crate::vision::onnx::{Library, Session};
use crate::vision::prepare::Preparation;
use crate::vision::rank::{Answer, rank};
use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_core::fault::Fault;
use bulkhead_core::record::{Header, Record};
use bulkhead_core::verdict::Verdict;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The step's name in pipelines, metrics and dead letters.
pub const NAME: &str = "classify";
const CONTENT_TYPE: &str = "content-type";
const JSON: &[u8] = b"application/json";
/// More would only wait for each other.
const THREADS_MAX: usize = 256;
/// 8 GB of pixels.
const PIXELS_MAX: u64 = 1_000_000_000;

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
    #[serde(default = "default_threads")]
    #[schemars(range(min = 1, max = 256))]
    pub threads: usize,
    /// What a picture may cost; a larger one is rejected before memory is taken.
    #[serde(default)]
    pub image: ImageLimits,
}

fn default_threads() -> usize {
    1
}

/// What a picture may cost.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ImageLimits {
    /// Its encoded size.
    pub bytes_max: Size,
    /// Pixels of its longer side.
    #[schemars(range(min = 1))]
    pub side_max: u32,
    /// Pixels in all. A worker takes up to 8 bytes for each, `bytes_max` and 16 MiB; a picture of a kind that would take
    /// more (16 bits with alpha, progressive CMYK) is rejected before it does.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub pixels_max: u64,
}

impl Default for ImageLimits {
    fn default() -> Self {
        let Limits { bytes_max, side_max, pixels_max, .. } = Limits::default();
        Self { bytes_max: Size(bytes_max as u64), side_max, pixels_max }
    }
}

impl From<ImageLimits> for Limits {
    fn from(image: ImageLimits) -> Self {
        Self::new(image.bytes_max.bytes(), image.side_max, image.pixels_max)
    }
}

impl ClassifyConfig {
    /// Everything that is wrong with it by itself. Opens no file.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !is_below(&self.model) {
            problems.push(format!(
                "model: `{}` must be a path below the config directory, without `..`",
                self.model.display()
            ));
        }
        if self.top == Some(0) {
            problems.push("top: 0 classes would be named; at least 1 is needed".to_owned());
        }
        if !(1..=THREADS_MAX).contains(&self.threads) {
            problems.push(format!("threads: {}; 1 to {THREADS_MAX} are possible", self.threads));
        }
        let ImageLimits { bytes_max, side_max, pixels_max } = self.image;
        for (key, limit, most) in [
            ("bytes_max", bytes_max.0, u64::MAX),
            ("side_max", side_max.into(), u64::MAX),
            ("pixels_max", pixels_max, PIXELS_MAX),
        ] {
            if limit == 0 {
                problems.push(format!("image.{key}: 0 would reject every picture; at least 1 is needed"));
            } else if limit > most {
                problems.push(format!(
                    "image.{key}: {limit} is no limit that memory could hold; at most {most} is possible"
                ));
            }
        }
        problems
    }

    /// Everything that is wrong with it and with what it names: the description, the model's file and SHA-256, its graph,
    /// its labels.
    #[must_use]
    pub fn check(&self, context: StepContext<'_>) -> Vec<String> {
        match self.described(context.dir) {
            Ok(described) => Loaded::load(&described, context.onnxruntime, self.threads).err().unwrap_or_default(),
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
            threads: self.threads,
            limits: self.image.into(),
        }))
    }

    fn described(&self, dir: &Path) -> Result<Described, Vec<String>> {
        let problems = self.problems();
        if problems.is_empty() { Described::load(&dir.join(&self.model)) } else { Err(problems) }
    }
}

struct Factory {
    described: Arc<Described>,
    library: Option<PathBuf>,
    threads: usize,
    top: usize,
    limits: Limits,
}

impl StepFactory for Factory {
    fn name(&self) -> &str {
        NAME
    }

    fn build(&self) -> Result<Box<dyn Step>, Fault> {
        let loaded = Loaded::load(&self.described, self.library.as_deref(), self.threads)
            .map_err(|problems| Fault::fatal("model_unusable", problems.join("; ")))?;
        let preparation = Preparation::new(&self.described.description.input);
        let described = Arc::clone(&self.described);
        Ok(Box::new(Classify { described, loaded, preparation, top: self.top, limits: self.limits }))
    }
}

/// A worker's own session, warm.
struct Loaded {
    session: Session,
    shape: [usize; 4],
    output: usize,
    warm_up: Vec<f32>,
}

impl Loaded {
    fn load(described: &Described, library: Option<&Path>, threads: usize) -> Result<Self, Vec<String>> {
        let library = Library::load(library).map_err(|e| vec![e.to_string()])?;
        let model = described.read_model().map_err(|e| vec![e])?;
        let within = |e: String| vec![format!("{}: file: {e}", described.path.display())];
        let session = Session::open(&library, &model, threads).map_err(within)?;
        let output = described.check_graph(session.signature())?;
        let shape = described.input_shape();
        let warm_up = vec![0.0; shape.iter().product()];
        let mut loaded = Self { session, shape, output, warm_up };
        // The first run allocates what all later ones use, and shows how many classes a graph with a free shape gives.
        let outputs = loaded.session.run(&shape, &loaded.warm_up, output).map_err(within)?;
        if outputs.len() != described.labels.len() {
            return Err(vec![format!(
                "{}: labels: {} of them, but the graph gives {} values: as many labels are needed",
                described.path.display(),
                described.labels.len(),
                outputs.len()
            )]);
        }
        Ok(loaded)
    }

    /// Runs the graph. Where it fails, the warm-up is run again to tell whose fault it is.
    fn run(&mut self, values: &[f32]) -> Result<Vec<f32>, Fault> {
        self.session.run(&self.shape, values, self.output).map_err(|error| {
            match self.session.run(&self.shape, &self.warm_up, self.output) {
                Ok(_) => Fault::poison("inference_failed", error),
                Err(again) => Fault::fatal("inference_failed", again),
            }
        })
    }
}

struct Classify {
    described: Arc<Described>,
    loaded: Loaded,
    preparation: Preparation,
    top: usize,
    limits: Limits,
}

impl Step for Classify {
    fn run(&mut self, records: &[Record]) -> Result<Vec<Verdict>, Fault> {
        records.iter().map(|record| self.classify(record)).collect()
    }
}

impl Classify {
    /// The record's verdict; an error is the stage's fault, not the record's.
    fn classify(&mut self, record: &Record) -> Result<Verdict, Fault> {
        use bulkhead_core::fault::FaultClass;
        match self.answer(record) {
            Ok(json) => Ok(Verdict::one(answered(record, json))),
            Err(fault) if fault.class == FaultClass::Poison => Ok(Verdict::Reject(fault)),
            Err(fault) => Err(fault),
        }
    }

    fn answer(&mut self, record: &Record) -> Result<Vec<u8>, Fault> {
        let described = &self.described;
        let picture = decode(record.payload(), &self.limits)?;
        let mut input = Vec::with_capacity(self.loaded.warm_up.len());
        self.preparation.append(&picture, &mut input)?;
        let outputs = self.loaded.run(&input)?;
        let answer = rank(&outputs, &described.labels, described.description.softmax, self.top)?;
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

/// The answer as a record: the picture's, with another value and content type.
fn answered(record: &Record, json: Vec<u8>) -> Record {
    let mut headers: Vec<Header> =
        record.headers.iter().filter(|h| !h.name.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes())).cloned().collect();
    headers.push(Header::new(CONTENT_TYPE, JSON));
    Record { key: record.key.clone(), value: Some(json.into()), headers, timestamp: record.timestamp }
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
