//! What can be found out about a model before it is used: what its graph takes and gives, how long a run takes, what its
//! description lacks or contradicts, and, where there is no description, one to begin with. Never changes a file.

use super::describe::{Channels, Description, Layout};
use super::model::{Described, read_graph, sha256};
use super::onnx::{Dimension, Library, Session, SessionOptions, Signature, Tensor};
use super::prepare::Preparation;
use super::provenance::Provenance;
use super::suggest;
use crate::config::single::Single;
use std::path::Path;
use std::time::{Duration, Instant};

/// How far scores may be from summing up to 1.
const SUM_TOLERANCE: f32 = 1e-2;
/// How long one run may take.
const RUN: Duration = Duration::from_secs(300);
/// Class names that are shown.
const LABELS_SHOWN: usize = 4;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What there is: a word and what is to be said of it.
    pub facts: Vec<(&'static str, String)>,
    /// What is wrong, each with the file and, in a description, the place and the key.
    pub problems: Vec<String>,
    /// A description to begin with, where there is none.
    pub suggestion: Option<String>,
}

impl Findings {
    fn say(&mut self, what: &'static str, text: impl Into<String>) {
        self.facts.push((what, text.into()));
    }

    fn refuse(&mut self, file: &Path, why: impl std::fmt::Display) {
        self.problems.push(format!("{}: {why}", file.display()));
    }
}

/// Looks at a description, its labels, its model and the graph in it; runs that `runs` times.
#[must_use]
pub fn described(path: &Path, library: &Library, runs: usize) -> Findings {
    let mut findings = Findings::default();
    let (mut file, described) = match Described::examine(path) {
        Ok(examined) => examined,
        Err(problems) => {
            findings.problems = problems.iter().map(ToString::to_string).collect();
            return findings;
        }
    };
    say_description(&described, &file, &mut findings);
    if !file.is_bad("file") {
        look_at_file(&mut file, &described, library, runs, &mut findings);
    }
    let own = file.into_problems();
    findings.problems.splice(0..0, own.iter().map(ToString::to_string));
    findings
}

fn say_description(described: &Described, file: &Single<Description>, findings: &mut Findings) {
    if !["name", "version", "sha256"].iter().any(|key| file.is_bad(key)) {
        findings.say("model", format!("{} {}", described.identity.name, described.identity.version));
    }
    let input = &described.description.input;
    if !file.is_bad("input") {
        let (layout, channels) = names(input.layout, input.channels);
        let fit = format!("{:?}", input.fit).to_lowercase();
        findings.say("pictures", format!("{} x {}, {channels}, {layout}, fit {fit}", input.width, input.height));
    }
    if !file.is_bad("labels") && !file.is_bad("labels_file") {
        let labels = &described.labels;
        let shown = labels.iter().take(LABELS_SHOWN).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
        let more = if labels.len() > LABELS_SHOWN { ", …" } else { "" };
        findings.say("classes", format!("{}: {shown}{more}", labels.len()));
    }
}

fn look_at_file(
    file: &mut Single<Description>,
    described: &Described,
    library: &Library,
    runs: usize,
    findings: &mut Findings,
) {
    let model = match read_graph(&described.file()) {
        Ok(model) => model,
        Err(why) => return file.refuse("file", why),
    };
    let digest = sha256(&model);
    if let Err(why) = described.compare(&digest) {
        file.refuse("sha256", why);
    }
    say_file(&described.file(), &model, &digest, findings);
    let mut session = match Session::open(library, &model, &SessionOptions::default()) {
        Ok(session) => session,
        Err(why) => return file.refuse("file", why),
    };
    say_graph(session.signature(), findings);
    // What the graph contradicts is only worth telling of keys that are right by themselves.
    let is_judged = ["input", "labels", "labels_file", "output"].iter().all(|key| !file.is_bad(key));
    let output = match described.check_graph(session.signature()) {
        Ok(output) if is_judged => output,
        Ok(_) => return,
        Err(problems) => {
            findings.problems.extend(problems.into_iter().filter(|_| is_judged));
            return;
        }
    };
    let input = Preparation::new(&described.description.input).test_picture();
    match Timed::run(&mut session, &described.input_shape(), &input, output, runs) {
        Ok(timed) => {
            for (key, why) in contradictions(&described.description, described.labels.len(), &timed.outputs) {
                file.refuse(key, why);
            }
            findings.say("one run", timed.to_string());
        }
        Err(why) => file.refuse("file", why),
    }
}

/// What a description says that the outputs for a test picture deny.
fn contradictions(description: &Description, labels: usize, outputs: &[f32]) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if outputs.len() != labels {
        found.push(("labels", format!("{labels} of them, but the graph gives {} values", outputs.len())));
    }
    let range = Range::of(outputs);
    if !range.is_finite {
        let key = if description.output.is_some() { "output" } else { "file" };
        found.push((key, "gives values that are no numbers for a test picture".to_owned()));
    } else if description.softmax && range.are_scores {
        let why =
            "the graph's outputs for a test picture are scores already: they sum up to 1; false is right".to_owned();
        found.push(("softmax", why));
    } else if !description.softmax && !range.could_be_scores() {
        found.push(("softmax", format!("the graph's outputs for a test picture go {range}: logits; true is right")));
    }
    found
}

/// Looks at a graph that nothing describes; runs it `runs` times where its shape says enough.
#[must_use]
pub fn bare(path: &Path, library: &Library, runs: usize) -> Findings {
    let mut findings = Findings::default();
    let model = match read_graph(path) {
        Ok(model) => model,
        Err(why) => {
            findings.problems.push(why);
            return findings;
        }
    };
    let digest = sha256(&model);
    say_file(path, &model, &digest, &mut findings);
    let mut session = match Session::open(library, &model, &SessionOptions::default()) {
        Ok(session) => session,
        Err(why) => {
            findings.refuse(path, why);
            return findings;
        }
    };
    say_graph(session.signature(), &mut findings);
    let guess = match suggest::Guess::of(session.signature()) {
        Ok(guess) => guess,
        Err(problems) => {
            problems.into_iter().for_each(|why| findings.refuse(path, why));
            return findings;
        }
    };
    let input = vec![0.5; guess.shape().iter().product()];
    match Timed::run(&mut session, &guess.shape(), &input, 0, runs) {
        Ok(timed) => {
            findings.say("one run", timed.to_string());
            let range = Range::of(&timed.outputs);
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let outputs = &session.signature().outputs;
            findings.suggestion =
                Some(guess.description(&name, &digest, outputs, timed.outputs.len(), !range.are_scores));
        }
        Err(why) => findings.refuse(path, why),
    }
    findings
}

fn say_file(path: &Path, model: &[u8], digest: &str, findings: &mut Findings) {
    findings.say("file", format!("{}, {} bytes", path.display(), model.len()));
    findings.say("sha256", digest);
    findings.say("made by", Provenance::read(model).to_string());
}

fn say_graph(graph: &Signature, findings: &mut Findings) {
    let one = |tensor: &Tensor| format!("{}: {} {}", tensor.name, tensor.kind, Dimension::list(&tensor.shape));
    graph.inputs.iter().for_each(|input| findings.say("input", one(input)));
    graph.outputs.iter().for_each(|output| findings.say("output", one(output)));
}

/// The layout's and the channels' names in a description.
#[must_use]
pub fn names(layout: Layout, channels: Channels) -> (&'static str, &'static str) {
    let layout = match layout {
        Layout::Nchw => "nchw",
        Layout::Nhwc => "nhwc",
    };
    let channels = match channels {
        Channels::Grey => "grey",
        Channels::Rgb => "rgb",
        Channels::Bgr => "bgr",
    };
    (layout, channels)
}

/// What a row of outputs looks like.
struct Range {
    lowest: f32,
    highest: f32,
    is_finite: bool,
    /// They lie in 0..=1 and sum up to 1.
    are_scores: bool,
}

impl Range {
    fn of(outputs: &[f32]) -> Self {
        let lowest = outputs.iter().copied().fold(f32::INFINITY, f32::min);
        let highest = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let is_finite = outputs.iter().all(|v| v.is_finite());
        let are_scores = lowest >= 0.0 && (outputs.iter().sum::<f32>() - 1.0).abs() < SUM_TOLERANCE;
        Self { lowest, highest, is_finite, are_scores: is_finite && are_scores }
    }

    /// Each for itself, as a sigmoid gives them.
    fn could_be_scores(&self) -> bool {
        self.lowest >= 0.0 && self.highest <= 1.0
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "from {:.2} to {:.2}", self.lowest, self.highest)
    }
}

/// A few runs of a graph.
struct Timed {
    outputs: Vec<f32>,
    /// Sorted.
    times: Vec<Duration>,
}

impl Timed {
    /// Runs a graph `runs` times, and once before, which allocates what the others use.
    fn run(session: &mut Session, shape: &[usize], input: &[f32], output: usize, runs: usize) -> Result<Self, String> {
        let run = |session: &mut Session| session.run(shape, input, output, RUN).map_err(|halt| halt.to_string());
        let outputs = run(session)?;
        let mut times = Vec::with_capacity(runs);
        for _ in 0..runs {
            let began = Instant::now();
            run(session)?;
            times.push(began.elapsed());
        }
        times.sort();
        Ok(Self { outputs, times })
    }
}

impl std::fmt::Display for Timed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |time: Option<&Duration>| time.map_or(0.0, |t| t.as_secs_f64() * 1e3);
        let (least, most) = (ms(self.times.first()), ms(self.times.last()));
        let median = ms(self.times.get(self.times.len() / 2));
        let runs = self.times.len();
        write!(f, "{median:.2} ms, median of {runs} ({least:.2} to {most:.2}), one picture, one thread")
    }
}
