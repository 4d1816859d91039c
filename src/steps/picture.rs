//! What steps that take pictures have in common: what a picture may cost, and a record with another value. Never decodes.

use crate::config::units::Size;
use crate::vision::decode::Limits;
use bulkhead_core::record::{Header, Record};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The header that says what a record's value is.
const CONTENT_TYPE: &str = "content-type";
/// JSON's media type.
pub(super) const JSON: &str = "application/json";
/// 8 GB of pixels.
const PIXELS_MAX: u64 = 1_000_000_000;

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

impl ImageLimits {
    /// What is wrong with them.
    pub(super) fn problems(self) -> Vec<String> {
        let Self { bytes_max, side_max, pixels_max } = self;
        let mut problems = Vec::new();
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
}

/// The record with another value: the same key, timestamp and headers but for `content-type`.
pub(super) fn replaced(record: &Record, value: impl Into<Bytes>, content_type: &str) -> Record {
    let other = |header: &&Header| !header.name.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes());
    let mut headers: Vec<Header> = record.headers.iter().filter(other).cloned().collect();
    headers.push(Header::new(CONTENT_TYPE, content_type.to_owned()));
    Record { key: record.key.clone(), value: Some(value.into()), headers, timestamp: record.timestamp }
}
