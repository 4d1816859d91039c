//! A model on disk: its description, its labels and its verified bytes, and whether its graph is what the description
//! says. Never runs it; `onnx` does.

use super::describe::{Description, Layout};
use super::examine::names;
use super::onnx::{Dimension, Signature, Tensor};
use crate::config::problem::Problem;
use crate::config::single::Single;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes; an ONNX file is one protobuf message, which cannot be larger (external weights are not supported).
const MODEL_BYTES_MAX: u64 = 2 << 30;
/// Bytes of a list of labels.
const TEXT_BYTES_MAX: u64 = 1 << 20;
/// Digits of the SHA-256 that tell one version from another.
const VERSION_DIGITS: usize = 12;

/// A model's description with its labels, read once and valid. The model itself is read for each session.
#[derive(Clone, Debug)]
pub struct Described {
    /// Where the description is, for messages.
    pub path: PathBuf,
    /// The description.
    pub description: Description,
    /// The classes' names, in the order of the graph's outputs.
    pub labels: Arc<[Box<str>]>,
    /// What every result is stamped with.
    pub identity: Identity,
}

/// Which model gave an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// The description's `name`, or its file's.
    pub name: Box<str>,
    /// The description's `version`, or the first digits of the model's SHA-256.
    pub version: Box<str>,
}

impl Identity {
    /// Of the description at `path`, which says this of its model.
    pub(super) fn of(path: &Path, name: Option<&str>, version: Option<&str>, sha256: &str) -> Self {
        let stem = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let digits = || sha256.chars().take(VERSION_DIGITS).collect::<String>().to_ascii_lowercase();
        Self {
            name: name.map_or_else(stem, str::to_owned).into(),
            version: version.map_or_else(digits, str::to_owned).into(),
        }
    }
}

impl Described {
    /// Reads and checks a description and its labels.
    ///
    /// # Errors
    /// Everything that is wrong, each with the file, the place and the key.
    pub fn load(path: &Path) -> Result<Self, Vec<String>> {
        let told = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (file, described) = Self::examine(path).map_err(told)?;
        if file.problems.is_empty() { Ok(described) } else { Err(told(file.into_problems())) }
    }

    /// The same, for whoever wants to look further: the description with its problems, and a model that is only as good as
    /// its description.
    ///
    /// # Errors
    /// The description cannot be read, or is no TOML.
    pub fn examine(path: &Path) -> Result<(Single<Description>, Self), Vec<Problem>> {
        let mut file = Single::<Description>::read(path)?;
        Description::judge(&mut file);
        let description = file.value.clone();
        let mut labels: Vec<Box<str>> = description.labels.iter().flatten().map(|l| l.as_str().into()).collect();
        if let Some(names) = description.labels_file.as_ref().filter(|_| !file.is_bad("labels_file")) {
            match read_text(&beside(path, names)) {
                Ok(text) => labels = text.lines().map(|l| l.trim_end().into()).collect(),
                Err(why) => file.refuse("labels_file", why),
            }
        }
        let Description { name, version, sha256, .. } = &description;
        let identity = Identity::of(path, name.as_deref(), version.as_deref(), sha256);
        Ok((file, Self { path: path.to_owned(), description, labels: labels.into(), identity }))
    }

    /// Reads the model's file and compares its SHA-256.
    ///
    /// # Errors
    /// The file is missing, unreadable, too large or another one.
    pub fn read_model(&self) -> Result<Vec<u8>, String> {
        let within = |(key, why): (&str, String)| format!("{}: {key}: {why}", self.path.display());
        let bytes = read_graph(&self.file()).map_err(|why| within(("file", why)))?;
        self.compare(&sha256(&bytes)).map_err(|why| within(("sha256", why)))?;
        Ok(bytes)
    }

    /// Where the model's file is.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        beside(&self.path, &self.description.file)
    }

    /// Whether a file with this SHA-256 is the one that is described.
    ///
    /// # Errors
    /// What both are.
    pub fn compare(&self, actual: &str) -> Result<(), String> {
        if actual.eq_ignore_ascii_case(&self.description.sha256) {
            return Ok(());
        }
        let (described, file) = (&self.description.sha256, self.file());
        Err(format!("`{described}` is described, but {} has {actual}; either is the wrong one", file.display()))
    }

    /// The shape of the graph's input for one picture, as the description has it.
    #[must_use]
    pub fn input_shape(&self) -> [usize; 4] {
        let input = &self.description.input;
        match input.layout {
            Layout::Nchw => [1, input.channels.count(), input.height, input.width],
            Layout::Nhwc => [1, input.height, input.width, input.channels.count()],
        }
    }

    /// The index of the output that holds the classes.
    ///
    /// # Errors
    /// Everything in which the graph is not what the description says.
    pub fn check_graph(&self, graph: &Signature) -> Result<usize, Vec<String>> {
        let mut problems = Vec::new();
        if let Err(problem) = self.check_input(&graph.inputs) {
            problems.push(problem);
        }
        match self.classes_of(&graph.outputs) {
            Ok(index) if problems.is_empty() => return Ok(index),
            Ok(_) => {}
            Err(problem) => problems.push(problem),
        }
        Err(problems.into_iter().map(|p| format!("{}: {p}", self.path.display())).collect())
    }

    fn check_input(&self, inputs: &[Tensor]) -> Result<(), String> {
        let [input] = inputs else {
            let names: Vec<&str> = inputs.iter().map(|i| i.name.as_str()).collect();
            return Err(format!(
                "file: the graph has {} inputs ({}), only one is possible",
                inputs.len(),
                names.join(", ")
            ));
        };
        if !input.is_f32 {
            return Err(format!(
                "file: the graph's input `{}` is {}; 32-bit floats are needed",
                input.name, input.kind
            ));
        }
        let wanted = self.input_shape();
        let fits = input.shape.len() == wanted.len()
            && input.shape.iter().zip(wanted).all(|(dimension, size)| dimension.takes(size));
        if fits {
            return Ok(());
        }
        let (layout, channels) = names(self.description.input.layout, self.description.input.channels);
        Err(format!(
            "input: width, height, layout = \"{layout}\" and channels = \"{channels}\" give {wanted:?}, but the graph's input \
             `{}` is {}",
            input.name,
            Dimension::list(&input.shape)
        ))
    }

    fn classes_of(&self, outputs: &[Tensor]) -> Result<usize, String> {
        let names: Vec<&str> = outputs.iter().map(|o| o.name.as_str()).collect();
        let index = match &self.description.output {
            Some(name) => names
                .iter()
                .position(|n| n == name)
                .ok_or_else(|| format!("output: the graph has no output `{name}`; it has {}", names.join(", ")))?,
            None if outputs.len() == 1 => 0,
            None => return Err(format!("output: missing; the graph has several outputs: {}", names.join(", "))),
        };
        let output = &outputs[index];
        if !output.is_f32 {
            return Err(format!(
                "output: the graph's output `{}` is {}; 32-bit floats are needed",
                output.name, output.kind
            ));
        }
        let known: Option<usize> = output.shape.iter().skip(1).map(|d| d.size()).product();
        match known {
            Some(classes) if classes != self.labels.len() => Err(format!(
                "labels: {} of them, but the graph's output `{}` is {}: {classes} labels are needed",
                self.labels.len(),
                output.name,
                Dimension::list(&output.shape)
            )),
            _ => Ok(index),
        }
    }
}

/// Reads a model's file.
///
/// # Errors
/// It is missing, unreadable or too large.
pub fn read_graph(file: &Path) -> Result<Vec<u8>, String> {
    read(file, MODEL_BYTES_MAX)
}

/// Bytes' SHA-256, as `sha256sum` prints it.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// A path that is relative to a file's directory.
pub(super) fn beside(file: &Path, relative: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(relative)
}

fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let refuse = |e: std::io::Error| format!("`{}` cannot be read: {e}", path.display());
    let length = std::fs::metadata(path).map_err(refuse)?.len();
    if length > bytes_max {
        return Err(format!("`{}` has {length} bytes, at most {bytes_max} are possible", path.display()));
    }
    std::fs::read(path).map_err(refuse)
}

pub(super) fn read_text(path: &Path) -> Result<String, String> {
    String::from_utf8(read(path, TEXT_BYTES_MAX)?).map_err(|e| format!("`{}` is not UTF-8: {e}", path.display()))
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
