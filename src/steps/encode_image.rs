//! `encode_image`: a picture in, the same picture out as a smaller file: upright, scaled down where it is larger than it may
//! be, without metadata.
//!
//! Takes a record whose value is a JPEG, PNG or WebP picture; gives one with the new file, its `content-type`, and what
//! was done in headers: `image-bytes-before`, `image-bytes-after`, `image-width`, `image-height`; key, timestamp and all
//! other headers stay. Works in a stage and at the edge.
//! Never enlarges a picture, never keeps what a camera wrote beside the pixels, and never passes on what it could not read.

use super::picture::{ImageLimits, replaced};
use crate::vision::decode::{Limits, Picture, decode_told};
use crate::vision::encode::{Format, encode};
use crate::vision::resample::{Scaler, Window};
use crate::vision::strip::strip;
use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_core::fault::{Fault, FaultClass};
use bulkhead_core::record::{Header, Origin, Record};
use bulkhead_core::verdict::Verdict;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The step's name in pipelines, metrics and dead letters.
pub const NAME: &str = "encode_image";
/// Of the file as it came, in bytes.
const BEFORE: &str = "image-bytes-before";
/// Of the file as it goes on, in bytes.
const AFTER: &str = "image-bytes-after";
/// Pixels.
const WIDTH: &str = "image-width";
/// Pixels.
const HEIGHT: &str = "image-height";
const QUALITY: u8 = 85;

/// `{ encode_image = { format = "jpeg", quality = 80, max_side = 1600 } }`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EncodeImageConfig {
    /// What the file becomes.
    #[serde(default)]
    pub format: Format,
    /// JPEG's quality: 75 to 90 for photographs. Absent: 85. The other formats lose nothing and have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub quality: Option<u8>,
    /// The longest side, in pixels; a larger picture is scaled down, its proportions kept. Absent: as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub max_side: Option<u32>,
    /// Whether a file that would not become smaller goes on in the format in which it came, without its metadata. Not where
    /// the picture had to be turned or scaled: those are always written anew.
    #[serde(default = "yes")]
    pub keep_smaller: bool,
    /// What a picture may cost; a larger one is rejected before memory is taken.
    #[serde(default)]
    pub image: ImageLimits,
}

const fn yes() -> bool {
    true
}

impl EncodeImageConfig {
    /// Everything that is wrong with it.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        let mut problems = self.image.problems();
        match self.quality {
            Some(_) if self.format != Format::Jpeg => {
                problems.push("quality: is for format = \"jpeg\"; the others lose nothing".to_owned());
            }
            Some(0 | 101..) => problems.push("quality: must be 1 to 100".to_owned()),
            _ => {}
        }
        if self.max_side.is_some_and(|side| !(1..=65_535).contains(&side)) {
            problems.push("max_side: must be 1 to 65535 pixels".to_owned());
        }
        problems
    }

    /// What builds the step.
    ///
    /// # Errors
    /// Everything that is wrong with the settings.
    pub fn factory(&self) -> Result<EncodeImageFactory, Vec<String>> {
        let problems = self.check();
        if problems.is_empty() { Ok(EncodeImageFactory(self.clone())) } else { Err(problems) }
    }
}

/// Builds the step.
#[derive(Clone, Debug)]
pub struct EncodeImageFactory(EncodeImageConfig);

impl StepFactory for EncodeImageFactory {
    fn name(&self) -> &str {
        NAME
    }

    fn build(&self) -> Result<Box<dyn Step>, Fault> {
        let limits = self.0.image.into();
        Ok(Box::new(EncodeImage { config: self.0.clone(), limits, scaler: Scaler::default() }))
    }
}

struct EncodeImage {
    config: EncodeImageConfig,
    limits: Limits,
    scaler: Scaler,
}

impl Step for EncodeImage {
    fn run(&mut self, records: &[Record], _: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        let verdict = |record| match self.encode(record) {
            Ok(record) => Ok(Verdict::one(record)),
            Err(fault) if fault.class == FaultClass::Poison => Ok(Verdict::Reject(fault)),
            Err(fault) => Err(fault),
        };
        records.iter().map(verdict).collect()
    }
}

impl EncodeImage {
    fn encode(&mut self, record: &Record) -> Result<Record, Fault> {
        let before = record.payload();
        let (picture, is_turned) = decode_told(before, &self.limits)?;
        let scaled = self.scaled(&picture);
        let is_same = !is_turned && scaled.is_none();
        let picture = scaled.unwrap_or(picture);
        let mut format = self.config.format;
        let mut file = encode(&picture, format, self.config.quality.unwrap_or(QUALITY))?;
        if self.config.keep_smaller
            && is_same
            && let (Some(bare), Some(kept)) = (strip(before), Format::of(before))
            && bare.len() <= file.len()
        {
            (file, format) = (bare, kept);
        }
        let numbers = [(BEFORE, before.len()), (AFTER, file.len()), (WIDTH, picture.width), (HEIGHT, picture.height)];
        tracing::debug!(
            before_bytes = before.len(),
            after_bytes = file.len(),
            width = picture.width,
            height = picture.height,
            "picture encoded"
        );
        let mut encoded = replaced(record, file, format.media_type());
        encoded.headers.retain(|header| numbers.iter().all(|(name, _)| header.name != name.as_bytes()));
        encoded.headers.extend(numbers.map(|(name, number)| Header::new(name, number.to_string())));
        Ok(encoded)
    }

    /// The picture as large as it may be; `None` where it is not larger.
    fn scaled(&mut self, picture: &Picture) -> Option<Picture> {
        let most = self.config.max_side? as usize;
        let longest = picture.width.max(picture.height);
        if longest <= most {
            return None;
        }
        let scale = |side: usize| ((side as f64 * most as f64 / longest as f64).round() as usize).max(1);
        let (width, height) = (scale(picture.width), scale(picture.height));
        let rgb = self.scaler.rgb(picture, Window::whole(picture), width, height);
        Some(Picture { width, height, rgb })
    }
}

#[cfg(test)]
#[path = "encode_image_tests.rs"]
mod tests;
