//! A description for a graph that has none: what its shapes tell, and marks where a person must decide. Never runs it.

use super::describe::{Channels, Layout};
use super::examine::names;
use super::onnx::{Dimension, Signature, Tensor};
use std::fmt::Write;

/// The side that most classifiers take, where a graph leaves it open.
const SIDE: usize = 224;

/// What a graph's input tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guess {
    layout: Layout,
    channels: Channels,
    width: usize,
    height: usize,
    /// The graph takes any size.
    is_open: bool,
}

impl Guess {
    /// From the only input of a graph.
    ///
    /// # Errors
    /// Everything for which it cannot be an image classifier that a description could describe.
    pub fn of(graph: &Signature) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let guess = match &graph.inputs[..] {
            [input] => Self::of_input(input).map_err(|why| problems.push(why)).ok(),
            inputs => {
                problems.push(format!("the graph has {} inputs, only one is possible", inputs.len()));
                None
            }
        };
        if !graph.outputs.iter().any(|output| output.is_f32) {
            problems.push("none of the graph's outputs is a tensor of 32-bit floats, as classes are".to_owned());
        }
        match guess {
            Some(guess) if problems.is_empty() => Ok(guess),
            _ => Err(problems),
        }
    }

    fn of_input(input: &Tensor) -> Result<Self, String> {
        let Tensor { name, kind, shape, is_f32 } = input;
        if !is_f32 {
            return Err(format!("the graph's input `{name}` is {kind}; 32-bit floats are needed"));
        }
        let sizes: Vec<Option<usize>> = shape.iter().map(|d| d.size()).collect();
        let channels = |size: usize| match size {
            1 => Some(Channels::Grey),
            3 => Some(Channels::Rgb),
            _ => None,
        };
        let (layout, channels, height, width) = match sizes[..] {
            [None | Some(1), Some(c), height, width] if channels(c).is_some() => (Layout::Nchw, c, height, width),
            [None | Some(1), height, width, Some(c)] if channels(c).is_some() => (Layout::Nhwc, c, height, width),
            _ => {
                let shape = Dimension::list(shape);
                return Err(format!(
                    "the graph's input `{name}` is {shape}; a picture is [?, 3, height, width] or [?, height, width, 3]"
                ));
            }
        };
        let is_open = height.is_none() || width.is_none();
        let channels = if channels == 1 { Channels::Grey } else { Channels::Rgb };
        Ok(Self { layout, channels, width: width.unwrap_or(SIDE), height: height.unwrap_or(SIDE), is_open })
    }

    /// The input's shape for one picture.
    #[must_use]
    pub fn shape(&self) -> [usize; 4] {
        match self.layout {
            Layout::Nchw => [1, self.channels.count(), self.height, self.width],
            Layout::Nhwc => [1, self.height, self.width, self.channels.count()],
        }
    }

    /// The description, as TOML.
    #[must_use]
    pub fn description(&self, file: &str, sha256: &str, outputs: &[Tensor], classes: usize, softmax: bool) -> String {
        let mut text = String::new();
        self.write(&mut text, file, sha256, outputs, classes, softmax).expect("writing to a String never fails");
        text
    }

    fn write(
        &self,
        text: &mut String,
        file: &str,
        sha256: &str,
        outputs: &[Tensor],
        classes: usize,
        softmax: bool,
    ) -> std::fmt::Result {
        let (layout, channels) = names(self.layout, self.channels);
        writeln!(text, "file = {}", toml::Value::from(file))?;
        writeln!(text, "sha256 = \"{sha256}\"")?;
        if let [first, _, ..] = outputs {
            let all: Vec<&str> = outputs.iter().map(|o| o.name.as_str()).collect();
            writeln!(text, "output = \"{}\" # decide: {}", first.name, all.join(", "))?;
        }
        writeln!(
            text,
            "labels_file = \"labels.txt\" # write it: {classes} lines, a class each, in the outputs' order"
        )?;
        let seen = if softmax { "logits" } else { "scores that sum up to 1" };
        writeln!(text, "softmax = {softmax} # a test run gave {seen}")?;
        writeln!(text, "\n[input]")?;
        let open = if self.is_open { " # the graph takes any: decide" } else { "" };
        writeln!(text, "width = {}{open}", self.width)?;
        writeln!(text, "height = {}{open}", self.height)?;
        writeln!(text, "layout = \"{layout}\"")?;
        let other = if self.channels == Channels::Rgb { " # decide: rgb or bgr" } else { "" };
        writeln!(text, "channels = \"{channels}\"{other}")?;
        writeln!(text, "fit = \"cover\" # decide: as it was trained; docs/models.md")?;
        match (self.channels, self.layout) {
            (Channels::Grey, _) => writeln!(text, "mean = [0.0] # decide: as it was trained\nstd = [1.0]"),
            (_, Layout::Nhwc) => {
                writeln!(text, "mean = [0.5] # decide: as it was trained; this is -1 to 1\nstd = [0.5]")
            }
            (_, Layout::Nchw) => writeln!(
                text,
                "mean = [0.485, 0.456, 0.406] # decide: as it was trained; this is ImageNet's\nstd = [0.229, 0.224, 0.225]"
            ),
        }
    }
}
