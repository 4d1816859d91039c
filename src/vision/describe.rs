//! A model's description: what a graph cannot say of itself: what its input means, how pictures are fitted into it and
//! what its outputs are called. Never opens the model; `model` does.

use crate::config::single::Single;
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::{Component, Path, PathBuf};

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
    #[schemars(range(min = 1))]
    pub top: usize,
}

fn default_top() -> usize {
    3
}

/// A graph's input: one picture at a time.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Pixels. (More is a mistake: EfficientNet-B7, the largest common classifier, takes 600.)
    #[schemars(range(min = 1, max = 4096))]
    pub width: usize,
    /// Pixels.
    #[schemars(range(min = 1, max = 4096))]
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
    /// What `fit = "letterbox"` leaves free is filled with: each channel's value, 0 (black) to 255.
    #[serde(default)]
    pub fill: u8,
    /// Pixels that `fit = "ink"` leaves free around what is drawn.
    #[serde(default)]
    pub margin: usize,
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
    /// Scaled until all of it fits, in the middle; what stays free has the value `fill`.
    Letterbox,
    /// What is drawn in it is found, made bright on black, scaled and put in the middle, `margin` pixels free around it.
    Ink,
}

/// What a key is judged by beside its own value: where that is wrong, nothing is said of the key.
const JUDGED_BY: &[(&str, &[&str])] = &[
    ("input.mean", &["input.channels"]),
    ("input.std", &["input.channels"]),
    ("input.crop", &["input.fit"]),
    ("input.fill", &["input.fit"]),
    ("input.margin", &["input.fit", "input.width"]),
    ("input.fit", &["input.channels", "input.width", "input.height"]),
];

impl Description {
    /// Notes everything that is wrong with a description by itself.
    pub fn judge(file: &mut Single<Self>) {
        let mut problems = file.value.problems();
        problems.retain(|(key, _)| {
            let judged_by = JUDGED_BY.iter().filter(|(judged, _)| judged == key).flat_map(|(_, by)| *by);
            !judged_by.copied().any(|by| file.is_bad(by))
        });
        for (key, why) in problems {
            file.refuse(key, why);
        }
    }

    /// Everything that is wrong with it by itself, each as a key and what would be right. Opens no file.
    fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut refuse = |key, why: String| problems.push((key, why));
        for (key, path) in [("file", Some(&self.file)), ("labels_file", self.labels_file.as_ref())] {
            if path.is_some_and(|p| !is_below(p)) {
                refuse(key, "must be a path below the description's directory, without `..`".to_owned());
            }
        }
        if self.sha256.len() != 64 || !self.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            let file = self.file.display();
            refuse("sha256", format!("is no SHA-256: 64 hexadecimal digits, as `sha256sum {file}` prints them"));
        }
        for (key, text) in [("name", &self.name), ("version", &self.version)] {
            if text.as_ref().is_some_and(|t| !is_word(t)) {
                refuse(key, format!("must be 1 to {WORD_MAX} printable characters without spaces"));
            }
        }
        match (&self.labels, &self.labels_file) {
            (Some(_), Some(_)) => refuse("labels_file", "is given beside labels; one of them is needed".to_owned()),
            (None, None) => refuse("labels", "is missing; a list of class names, or labels_file, is needed".to_owned()),
            (Some(labels), None) if labels.len() < 2 => {
                refuse("labels", format!("has {}; a classifier has at least 2 classes", labels.len()));
            }
            _ => {}
        }
        problems.extend(self.input.problems());
        problems
    }
}

impl Input {
    pub(super) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut refuse = |key, why: String| problems.push((key, why));
        let count = self.channels.count();
        for (key, values) in [("input.mean", &self.mean), ("input.std", &self.std)] {
            if values.len() != 1 && values.len() != count {
                let needed = if count == 1 { "1 is".to_owned() } else { format!("1 or {count} (one a channel) are") };
                refuse(key, format!("has {} values; {needed} needed", values.len()));
            }
        }
        if self.std.iter().any(|v| !v.is_normal()) {
            refuse("input.std", "is divided by, so no value may be 0".to_owned());
        }
        if !(self.white.is_normal() && self.white > 0.0) {
            refuse("input.white", "must be above 0, mostly 1 or 255".to_owned());
        }
        if !(self.crop > 0.0 && self.crop <= 1.0) {
            refuse("input.crop", "must be above 0 and at most 1".to_owned());
        } else if self.crop < 1.0 && self.fit != Fit::Cover {
            refuse("input.crop", "is for fit = \"cover\", which alone cuts anything off".to_owned());
        }
        if self.fill > 0 && self.fit != Fit::Letterbox {
            refuse("input.fill", "is for fit = \"letterbox\", which alone leaves anything free".to_owned());
        }
        if self.margin > 0 && self.fit != Fit::Ink {
            refuse("input.margin", "is for fit = \"ink\"".to_owned());
        }
        if self.fit == Fit::Ink {
            if self.width != self.height {
                refuse("input.fit", format!("needs a square input, this one is {} x {}", self.width, self.height));
            } else if self.channels != Channels::Grey {
                refuse("input.fit", "gives one channel; it needs channels = \"grey\"".to_owned());
            }
            if self.margin.saturating_mul(2) >= self.width {
                refuse("input.margin", format!("leaves no room for the ink in {} pixels", self.width));
            }
        }
        problems
    }
}

/// Whether a text can stand for something in results, headers and lines of a log.
pub(super) fn is_word(text: &str) -> bool {
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
