//! Pixels to the bytes of a JPEG, PNG or WebP file, without metadata. Never decodes, never scales, and never lets an
//! encoder's panic out.

use super::decode::Picture;
use bulkhead_core::fault::Fault;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder, ImageResult};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Kinds of file that can be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Lossy, for photographs.
    #[default]
    Jpeg,
    /// Lossless, for drawings and screenshots.
    Png,
    /// Lossless here (its lossy form is not written), smaller than PNG.
    Webp,
}

impl Format {
    /// Its media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Webp => "image/webp",
        }
    }

    /// The kind of a file by its first bytes.
    #[must_use]
    pub fn of(content: &[u8]) -> Option<Self> {
        match content {
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::Webp),
            _ => None,
        }
    }
}

/// Writes a picture; `quality` is JPEG's, 1 to 100.
///
/// # Errors
/// The poison fault `unencodable_image`: the format cannot hold a picture of this size.
pub fn encode(picture: &Picture, format: Format, quality: u8) -> Result<Vec<u8>, Fault> {
    let refused = |why: &dyn std::fmt::Display| Fault::poison("unencodable_image", format!("{format:?}: {why}"));
    let written = catch_unwind(AssertUnwindSafe(|| write(picture, format, quality)));
    written.map_err(|_| refused(&"the picture made its encoder panic"))?.map_err(|why| refused(&why))
}

fn write(picture: &Picture, format: Format, quality: u8) -> ImageResult<Vec<u8>> {
    let mut file = Vec::new();
    let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
    let (width, height, rgb) = (side(picture.width), side(picture.height), ExtendedColorType::Rgb8);
    match format {
        Format::Jpeg => {
            JpegEncoder::new_with_quality(&mut file, quality).write_image(&picture.rgb, width, height, rgb)?;
        }
        Format::Png => PngEncoder::new_with_quality(&mut file, CompressionType::Default, FilterType::Adaptive)
            .write_image(&picture.rgb, width, height, rgb)?,
        Format::Webp => WebPEncoder::new_lossless(&mut file).write_image(&picture.rgb, width, height, rgb)?,
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::decode::{Limits, decode};

    fn gradient(width: usize, height: usize) -> Picture {
        let pixel = |i: usize| [(i % width * 255 / width) as u8, (i / width * 255 / height) as u8, 128];
        Picture { width, height, rgb: (0..width * height).flat_map(pixel).collect() }
    }

    #[test]
    fn lossless_formats_give_back_every_pixel_and_jpeg_nearly() {
        let picture = gradient(61, 43);
        for format in [Format::Png, Format::Webp, Format::Jpeg] {
            let file = encode(&picture, format, 90).expect("it can be written");
            assert_eq!(Format::of(&file), Some(format));
            let back = decode(&file, &Limits::default()).expect("what was written can be read");
            assert_eq!((back.width, back.height), (61, 43));
            let off = picture.rgb.iter().zip(&back.rgb).map(|(a, b)| a.abs_diff(*b)).max().expect("there are pixels");
            assert!(off <= if format == Format::Jpeg { 24 } else { 0 }, "{format:?}: off by {off}");
        }
    }

    #[test]
    fn a_lower_quality_takes_fewer_bytes() {
        let picture = gradient(200, 200);
        let size = |quality| encode(&picture, Format::Jpeg, quality).expect("it can be written").len();
        assert!(size(30) < size(95));
    }

    #[test]
    fn a_side_that_the_format_cannot_say_is_the_pictures_fault() {
        let thin = Picture { width: 70_000, height: 1, rgb: vec![7; 210_000] };
        for format in [Format::Jpeg, Format::Webp] {
            let fault = encode(&thin, format, 80).expect_err("its header has 16 bits or fewer for a side");
            assert_eq!(fault.code, "unencodable_image", "{format:?}: {fault}");
        }
    }
}
