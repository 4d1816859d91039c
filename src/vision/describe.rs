//! A model's description: what a graph cannot say of itself: what its input means, how pictures are fitted into it and
//! what its outputs are called. Never opens the model; `model` does.

use schemars::JsonSchema;
use serde::Deserialize;
use std::path::{Component, Path, PathBuf};

/// Pixels a side; a larger input is a mistake (EfficientNet-B7, the largest common classifier, takes 600).
const SIDE_MAX: usize = 4096;
/// Characters of a name or a version.
const WORD_MAX: usize = 100;

/// An ONNX image classifier, as a TOML file beside the model describes it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// What the model is called in every result. Absent: this file's name without its ending.
    pub name: Option<String>,
    /// Which version of it this is, in every result. Absent: the first 12 digits of `sha256`.
    pub version: Option<String>,
    /// The ONNX file, relative to this description.
    pub file: PathBuf,
    /// The ONNX file's SHA-256, 64 hexadecimal digits, as `sha256sum` prints it. Another file is refused.
    pub sha256: String,
    /// What the graph takes.
    pub input: Input,
    /// The output that holds the classes, by name. Needed only where the graph has several.
    pub output: Option<String>,
    /// The classes' names, in the order of the graph's outputs. Either this or `labels_file`.
    pub labels: Option<Vec<String>>,
    /// A text file with one class name a line, relative to this description. Either this or `labels`.
    pub labels_file: Option<PathBuf>,
    /// Whether the outputs are logits, which softmax turns into scores. `false` where the graph's last node is one.
    pub softmax: bool,
    /// How many classes an answer names, best first.
    #[serde(default = "default_top")]
    pub top: usize,
}

fn default_top() -> usize {
    3
}

/// A graph's input: one picture at a time.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// The order of the dimensions.
    pub layout: Layout,
    /// What a pixel is made of.
    pub channels: Channels,
    /// How a picture of another size is brought into this one.
    pub fit: Fit,
    /// Of what `fit = "cover"` shows, the share of each side in the middle that is used: 0.875 for a model that is tested with
    /// "resize to 256, crop to 224".
    #[serde(default = "default_crop")]
    pub crop: f32,
    /// What a white pixel's channel is before mean and standard deviation: 1 (most models) or 255.
    #[serde(default = "default_white")]
    pub white: f32,
    /// Subtracted: one value, or one a channel in the order of `channels`.
    #[serde(default = "default_mean")]
    pub mean: Vec<f32>,
    /// Divided by, after `mean`: one value, or one a channel.
    #[serde(default = "default_std")]
    pub std: Vec<f32>,
}

fn default_crop() -> f32 {
    1.0
}

fn default_white() -> f32 {
    1.0
}

fn default_mean() -> Vec<f32> {
    vec![0.0]
}

fn default_std() -> Vec<f32> {
    vec![1.0]
}

/// The order of a picture's dimensions; `n` is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Channel by channel (PyTorch's).
    Nchw,
    /// Pixel by pixel (TensorFlow's).
    Nhwc,
}

/// What a pixel is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Channels {
    /// One: Rec. 601 luma.
    Grey,
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red (Caffe's and OpenCV's).
    Bgr,
}

impl Channels {
    /// How many.
    #[must_use]
    pub const fn count(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgb | Self::Bgr => 3,
        }
    }
}

/// How a picture is brought into the input's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// Scaled; its proportions are lost.
    Stretch,
    /// Scaled until it covers the input; what sticks out is cut off ("resize, then centre crop").
    Cover,
    /// Scaled until all of it fits, in the middle; what stays free is filled.
    Letterbox {
        /// Each channel's value there, 0 (black) to 255.
        #[serde(default)]
        fill: u8,
    },
    /// What is drawn in it is found, made bright on black, scaled and put in the middle.
    Ink {
        /// Pixels left free around it.
        margin: usize,
    },
}

impl Description {
    /// Reads a description from TOML.
    ///
    /// # Errors
    /// What is wrong with the text, with line and column.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())
    }

    /// Everything that is wrong with it by itself, each as `key: what, and what would be right`. Opens no file.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut refuse = |problem: String| problems.push(problem);
        for (key, path) in [("file", Some(&self.file)), ("labels_file", self.labels_file.as_ref())] {
            if let Some(path) = path.filter(|p| !is_below(p)) {
                refuse(format!(
                    "{key}: `{}` must be a path below the description's directory, without `..`",
                    path.display()
                ));
            }
        }
        if self.sha256.len() != 64 || !self.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            refuse(format!(
                "sha256: `{}` is no SHA-256; 64 hexadecimal digits are needed, `sha256sum {}` prints them",
                self.sha256,
                self.file.display()
            ));
        }
        for (key, text) in [("name", &self.name), ("version", &self.version)] {
            if let Some(text) = text.as_ref().filter(|t| !is_word(t)) {
                refuse(format!(
                    "{key}: `{}` is not possible; 1 to {WORD_MAX} printable characters without spaces are",
                    text.escape_debug()
                ));
            }
        }
        match (&self.labels, &self.labels_file) {
            (Some(_), Some(_)) => refuse("labels, labels_file: both are given; one of them is needed".to_owned()),
            (None, None) => refuse("labels: missing; a list of class names, or labels_file, is needed".to_owned()),
            (Some(labels), None) if labels.len() < 2 => {
                refuse(format!("labels: {} of them; a classifier has at least 2 classes", labels.len()));
            }
            _ => {}
        }
        if self.top == 0 {
            refuse("top: 0 classes would be named; at least 1 is needed".to_owned());
        }
        problems.extend(self.input.problems());
        problems
    }
}

impl Input {
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (key, side) in [("width", self.width), ("height", self.height)] {
            if !(1..=SIDE_MAX).contains(&side) {
                problems.push(format!("input.{key}: {side} pixels; 1 to {SIDE_MAX} are possible"));
            }
        }
        let count = self.channels.count();
        for (key, values) in [("mean", &self.mean), ("std", &self.std)] {
            if values.len() != 1 && values.len() != count {
                let needed = if count == 1 { "1 is".to_owned() } else { format!("1 or {count} (one a channel) are") };
                problems.push(format!("input.{key}: {} values; {needed} needed", values.len()));
            }
        }
        if self.mean.iter().any(|v| !v.is_finite()) {
            problems.push("input.mean: every value must be a finite number".to_owned());
        }
        if self.std.iter().any(|v| !v.is_normal()) {
            problems
                .push("input.std: every value is divided by, so none may be 0, infinite or not a number".to_owned());
        }
        if !(self.white.is_normal() && self.white > 0.0) {
            problems.push(format!(
                "input.white: {} is not possible; a number above 0 is needed, mostly 1 or 255",
                self.white
            ));
        }
        if !(self.crop > 0.0 && self.crop <= 1.0) {
            problems.push(format!("input.crop: {} is no share of a side; above 0 and up to 1 are possible", self.crop));
        } else if self.crop < 1.0 && self.fit != Fit::Cover {
            problems.push("input.crop: only fit = \"cover\" cuts anything off".to_owned());
        }
        if let Fit::Ink { margin } = self.fit {
            if self.width != self.height {
                problems
                    .push(format!("input.fit: ink needs a square input, this one is {} x {}", self.width, self.height));
            }
            if self.channels != Channels::Grey {
                problems.push("input.fit: ink gives one channel; it needs channels = \"grey\"".to_owned());
            }
            if margin.saturating_mul(2) >= self.width {
                problems.push(format!(
                    "input.fit: a margin of {margin} leaves no room for the ink in {} pixels; less than half is needed",
                    self.width
                ));
            }
        }
        problems
    }
}

/// Whether a text can stand for something in results, headers and lines of a log.
fn is_word(text: &str) -> bool {
    (1..=WORD_MAX).contains(&text.chars().count()) && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

/// Whether a path from a configuration stays below the directory that it is relative to.
#[must_use]
pub fn is_below(path: &Path) -> bool {
    path.components().next().is_some()
        && path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
#[path = "describe_tests.rs"]
mod tests;
