//! An ONNX detector: its description, and the model in one worker's hands, which finds things on pictures. Never decodes a
//! picture, and never says what is done with what it found.

use super::boxes::{Format, Found, Placement, Rect, suppress};
use super::decode::Picture;
use super::describe::{Fit, Input, Layout, is_below, is_word};
use super::model::{Identity, beside, read_graph, read_text, sha256};
use super::onnx::{Dimension, Halt, Library, Output, Session, SessionOptions, Signature};
use crate::config::single::Single;
use bulkhead_core::fault::Fault;
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long the first run may take: it allocates what all later ones use.
const WARM_UP: Duration = Duration::from_secs(60);
/// Rows of boxes that a graph may give for one picture.
const ROWS_MAX: usize = 1_000_000;

/// An ONNX detector, as a TOML file beside the model describes it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// What the model is called in every result. Absent: this file's name without its ending.
    pub name: Option<String>,
    /// Which version of it this is, in every result. Absent: the first 12 digits of `sha256`.
    pub version: Option<String>,
    /// The ONNX file, relative to this description.
    pub file: PathBuf,
    /// The ONNX file's SHA-256. Another file is refused.
    pub sha256: String,
    /// What the graph takes: one picture a run.
    pub input: Input,
    /// What the graph gives.
    pub output: Outputs,
    /// The classes' names, from class 0. Either this or `labels_file`.
    pub labels: Option<Vec<String>>,
    /// A text file with one class name a line, relative to this description. Either this or `labels`.
    pub labels_file: Option<PathBuf>,
    /// How sure the model must be of what is told, 0 to 1.
    #[serde(default = "threshold")]
    pub threshold: f32,
    /// How much two boxes of one class may overlap (their common area over that of both) before the less sure is dropped; 1
    /// keeps all, for models that do this themselves.
    #[serde(default = "overlap_max")]
    pub overlap_max: f32,
    /// How many things are told of one picture, the surest first.
    #[serde(default = "found_max")]
    #[schemars(range(min = 1, max = 10_000))]
    pub found_max: usize,
}

const fn threshold() -> f32 {
    0.5
}

const fn overlap_max() -> f32 {
    0.45
}

const fn found_max() -> usize {
    100
}

/// A graph's outputs, by name, and what their numbers mean.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Outputs {
    /// The boxes: `[1, rows, 4]` or `[rows, 4]`.
    pub boxes: String,
    /// How sure the model is: `[1, rows]` or `[rows]` beside `classes`, else `[1, rows, classes]` or `[rows, classes]`.
    pub scores: String,
    /// The classes: `[1, rows]` or `[rows]`, integers or floats. Absent: each row's surest class is taken.
    pub classes: Option<String>,
    /// What a row of boxes is made of.
    pub format: Format,
    /// What boxes are measured in.
    pub unit: Unit,
    /// What is taken off a class' number: 1 where class 0 is the background.
    #[serde(default)]
    #[schemars(range(max = 1_000))]
    pub class_offset: u16,
}

/// What boxes are measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Pixels of the model's input.
    Pixels,
    /// Its sides: 0 to 1.
    Normalised,
}

/// A description that is right, with its labels.
#[derive(Clone, Debug)]
pub struct Described {
    path: PathBuf,
    /// The description.
    pub description: Description,
    /// The classes' names.
    pub labels: Arc<[Box<str>]>,
    /// What results are stamped with.
    pub identity: Identity,
}

impl Description {
    fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut refuse = |key, why: String| problems.push((key, why));
        for (key, path) in [("file", Some(&self.file)), ("labels_file", self.labels_file.as_ref())] {
            if path.is_some_and(|path| !is_below(path)) {
                refuse(key, "must be a path below the description's directory, without `..`".to_owned());
            }
        }
        if self.sha256.len() != 64 || !self.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            refuse("sha256", "is no SHA-256: 64 hexadecimal digits, as `sha256sum` prints them".to_owned());
        }
        for (key, word) in [("name", &self.name), ("version", &self.version)] {
            if word.as_ref().is_some_and(|word| !is_word(word)) {
                refuse(key, "must be printable characters without spaces, at most 100".to_owned());
            }
        }
        match (&self.labels, &self.labels_file) {
            (Some(_), Some(_)) => refuse("labels_file", "is given beside labels; one of them is needed".to_owned()),
            (None, None) => refuse("labels", "is missing; a list of class names, or labels_file, is needed".to_owned()),
            (Some(labels), None) if labels.is_empty() => refuse("labels", "is empty; 1 is needed at least".to_owned()),
            _ => {}
        }
        for (key, share) in [("threshold", self.threshold), ("overlap_max", self.overlap_max)] {
            if !(0.0..=1.0).contains(&share) {
                refuse(key, format!("{share} is not 0 to 1"));
            }
        }
        if self.found_max == 0 {
            refuse("found_max", "0 would find nothing".to_owned());
        }
        if self.input.fit == Fit::Ink {
            refuse("input.fit", "\"ink\" moves what is drawn; boxes could not be placed; use another one".to_owned());
        }
        problems.extend(self.input.problems());
        problems
    }
}

impl Described {
    /// Reads and checks a description and its labels.
    ///
    /// # Errors
    /// Everything that is wrong, each with the file, the place and the key.
    pub fn load(path: &Path) -> Result<Self, Vec<String>> {
        let told = |problems: Vec<_>| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut file = Single::<Description>::read(path).map_err(told)?;
        for (key, why) in file.value.problems() {
            if !file.is_bad(key) {
                file.refuse(key, why);
            }
        }
        let description = file.value.clone();
        let mut labels: Vec<Box<str>> =
            description.labels.iter().flatten().map(|label| label.as_str().into()).collect();
        if let Some(names) = description.labels_file.as_ref().filter(|_| !file.is_bad("labels_file")) {
            match read_text(&beside(path, names)) {
                Ok(text) => labels = text.lines().map(|line| line.trim_end().into()).collect(),
                Err(why) => file.refuse("labels_file", why),
            }
        }
        if !file.problems.is_empty() {
            return Err(told(file.into_problems()));
        }
        let Description { name, version, sha256, .. } = &description;
        let identity = Identity::of(path, name.as_deref(), version.as_deref(), sha256);
        Ok(Self { path: path.to_owned(), description, labels: labels.into(), identity })
    }

    fn shape(&self) -> [usize; 4] {
        let input = &self.description.input;
        match input.layout {
            Layout::Nchw => [1, input.channels.count(), input.height, input.width],
            Layout::Nhwc => [1, input.height, input.width, input.channels.count()],
        }
    }

    /// Where boxes, scores and classes are among the graph's outputs.
    fn outputs(&self, graph: &Signature) -> Result<Vec<usize>, String> {
        let [input] = &graph.inputs[..] else {
            return Err(format!("file: the graph has {} inputs, only one is possible", graph.inputs.len()));
        };
        let wanted = self.shape();
        let fits = input.shape.len() == 4 && input.shape.iter().zip(wanted).all(|(side, size)| side.takes(size));
        if !input.is_f32 || !fits {
            let shape = Dimension::list(&input.shape);
            return Err(format!(
                "input: gives 32-bit floats {wanted:?}, but the graph's input is {} {shape}",
                input.kind
            ));
        }
        let output = &self.description.output;
        let named =
            [("boxes", Some(&output.boxes)), ("scores", Some(&output.scores)), ("classes", output.classes.as_ref())];
        let named = named.into_iter().filter_map(|(key, name)| Some((key, name?)));
        named
            .map(|(key, name)| {
                let names: Vec<&str> = graph.outputs.iter().map(|output| output.name.as_str()).collect();
                let missing = || format!("output.{key}: the graph has no output `{name}`; it has {}", names.join(", "));
                names.iter().position(|known| known == name).ok_or_else(missing)
            })
            .collect()
    }
}

/// A worker's own session.
pub struct Detector {
    described: Arc<Described>,
    session: Session,
    outputs: Vec<usize>,
    shape: [usize; 4],
    blank: Vec<f32>,
}

impl Detector {
    /// Loads what is described and runs it once on a blank picture, which shows what its outputs are.
    ///
    /// # Errors
    /// Everything that is wrong with the model.
    pub fn load(
        described: &Arc<Described>,
        library: Option<&Path>,
        options: &SessionOptions,
    ) -> Result<Self, Vec<String>> {
        let within = |why: String| vec![format!("{}: {why}", described.path.display())];
        let library = Library::load(library).map_err(|why| vec![why.to_string()])?;
        let file = beside(&described.path, &described.description.file);
        let model = read_graph(&file).map_err(|why| within(format!("file: {why}")))?;
        let digest = sha256(&model);
        if !digest.eq_ignore_ascii_case(&described.description.sha256) {
            let told = &described.description.sha256;
            return Err(within(format!("sha256: `{told}` is described, but {} has {digest}", file.display())));
        }
        let session = Session::open(&library, &model, options).map_err(|why| within(format!("file: {why}")))?;
        let outputs = described.outputs(session.signature()).map_err(within)?;
        let shape = described.shape();
        let blank = vec![0.0; shape.iter().product()];
        let mut detector = Self { described: Arc::clone(described), session, outputs, shape, blank };
        let blank = detector.blank.clone();
        let given = detector.session.run_outputs(&shape, &blank, &detector.outputs, WARM_UP);
        let given = given.map_err(|halt| within(format!("file: {halt}")))?;
        detector.read(&given).map_err(|why| within(format!("output: {why}")))?;
        Ok(detector)
    }

    /// What it finds on a picture that was prepared to these values, in the picture's own pixels.
    ///
    /// # Errors
    /// Transient where the run took longer than `limit`; poison where the model fails on this picture alone; else fatal.
    pub fn find(
        &mut self,
        values: &[f32],
        placement: &Placement,
        picture: &Picture,
        limit: Duration,
    ) -> Result<Vec<Found>, Fault> {
        let given = match self.session.run_outputs(&self.shape, values, &self.outputs, limit) {
            Ok(given) => given,
            Err(Halt::Ended) => return Err(ended(limit)),
            Err(Halt::Failed(why)) => {
                return match self.session.run_outputs(&self.shape, &self.blank, &self.outputs, limit) {
                    Ok(_) => Err(Fault::poison("inference_failed", why)),
                    Err(Halt::Ended) => Err(ended(limit)),
                    Err(Halt::Failed(again)) => Err(Fault::fatal("inference_failed", again)),
                };
            }
        };
        let found = self.read(&given).map_err(|why| Fault::fatal("detector_outputs", why))?;
        let Description { overlap_max, found_max, .. } = self.described.description;
        let kept = suppress(found, overlap_max, found_max).into_iter();
        let placed = |one: Found| Found { rect: one.rect.placed(placement, picture.width, picture.height), ..one };
        Ok(kept.map(placed).filter(|one| one.rect.area() > 0.0).collect())
    }

    /// The rows that are sure enough, in pixels of the input.
    fn read(&self, given: &[Output]) -> Result<Vec<Found>, String> {
        let [boxes, scores, classes @ ..] = given else { return Err("boxes and scores are missing".to_owned()) };
        let rows = boxes.values.len() / 4;
        if boxes.shape.last() != Some(&4) || rows > ROWS_MAX {
            return Err(format!("boxes are {:?}; rows of 4 are needed, at most {ROWS_MAX}", boxes.shape));
        }
        let Description { input, output, threshold, .. } = &self.described.description;
        let (width, height) = match output.unit {
            Unit::Pixels => (1.0, 1.0),
            Unit::Normalised => (input.width as f32, input.height as f32),
        };
        let rect = |row: usize| {
            let rect = Rect::read(std::array::from_fn(|at| boxes.values[4 * row + at]), output.format);
            let Rect { left, top, right, bottom } = rect;
            Rect { left: left * width, top: top * height, right: right * width, bottom: bottom * height }
        };
        let each: Vec<(f32, f32)> = match classes.first() {
            Some(classes) if classes.values.len() == rows && scores.values.len() == rows => {
                scores.values.iter().copied().zip(classes.values.iter().copied()).collect()
            }
            Some(classes) => {
                return Err(format!("{rows} boxes, but scores {:?} and classes {:?}", scores.shape, classes.shape));
            }
            None => {
                let count = scores.shape.last().copied().unwrap_or(0);
                if count == 0 || scores.values.len() != rows * count {
                    return Err(format!("{rows} boxes, but scores {:?}", scores.shape));
                }
                scores.values.chunks_exact(count).map(surest).collect()
            }
        };
        let labels = self.described.labels.len();
        let sure = (0..rows).filter(|row| each[*row].0 >= *threshold);
        let found = sure.filter_map(|row| {
            let (score, class) = each[row];
            // What stands for the background, or for nothing (-1 in some graphs), is none of the classes.
            let class = class - f32::from(output.class_offset);
            let is_class = class >= 0.0 && (class as usize) < labels;
            is_class.then(|| Found { rect: rect(row), score, class: class as usize })
        });
        Ok(found.collect())
    }
}

/// The surest class of a row: its score, its number.
fn surest(scores: &[f32]) -> (f32, f32) {
    let best = scores
        .iter()
        .copied()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (class, score)| if score > best.1 { (class, score) } else { best });
    (best.1, best.0 as f32)
}

fn ended(limit: Duration) -> Fault {
    Fault::transient("inference_timeout", format!("the model's run was ended after {limit:?}"))
}
