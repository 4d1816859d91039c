//! Bytes that somebody sent, to pixels as a person sees them: JPEG, PNG or WebP by content, upright, on white, under
//! limits that are checked before memory is taken. Never trusts a file's name, and never lets a decoder's panic out.
//!
//! The limits are ours because the decoders' are not enough: `image`'s JPEG decoder sets none by itself and takes a file
//! that ends in the middle for whole; its WebP decoder ignores the one it is given. One thing no limit here holds: a
//! lossless WebP may carry up to 65,536 groups of Huffman tables, a few hundred bytes of memory for each byte of the
//! file, and `image-webp` builds them all. A stage in a process of its own, with its memory limit, contains that.

mod exif;
mod jpeg;
mod pixels;

use bulkhead_core::fault::Fault;
use image::codecs::jpeg::JpegDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{ImageDecoder, ImageError, ImageFormat};
use std::io::{Cursor, ErrorKind};
use std::panic::catch_unwind;

/// Bytes that a PNG's text, profile and EXIF may have in all, unpacked.
const METADATA_BYTES_MAX: u64 = 8 << 20;

/// What a picture may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the encoded picture.
    pub bytes_max: usize,
    /// Pixels of its longer side.
    pub side_max: u32,
    /// Pixels in all.
    pub pixels_max: u64,
    /// Bytes that decoding may take at its peak, beside the encoded picture.
    pub alloc_max: u64,
}

impl Limits {
    /// Of memory for each pixel that is allowed: enough for every common picture, and for the costliest kinds (16 bits
    /// with alpha, progressive without subsampling, animated WebP) up to three quarters of the pixels.
    const BYTES_PER_PIXEL: u64 = 8;
    /// What a decoder takes beside its pixels: rows, tables, metadata, a copy of the file.
    const BESIDE: u64 = 16 << 20;

    /// Limits whose memory follows from them.
    #[must_use]
    pub fn new(bytes_max: usize, side_max: u32, pixels_max: u64) -> Self {
        let alloc_max =
            pixels_max.saturating_mul(Self::BYTES_PER_PIXEL).saturating_add(bytes_max as u64 + Self::BESIDE);
        Self { bytes_max, side_max, pixels_max, alloc_max }
    }
}

impl Default for Limits {
    /// A picture of 4096 x 4096; a worker's decoding stays under 160 MiB.
    fn default() -> Self {
        Self::new(16 << 20, 16_384, 4096 * 4096)
    }
}

/// Decoded pixels, 8 bits a channel, upright; what was transparent is white.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels, at least 1.
    pub width: usize,
    /// Pixels, at least 1.
    pub height: usize,
    /// `3 * width * height` bytes, row by row, red first.
    pub rgb: Vec<u8>,
}

/// Decodes a picture: turned as its EXIF says, alpha laid over white, 16 bits rounded to 8, CMYK as sRGB without a
/// profile, the first frame of an animation.
///
/// # Errors
/// A poison fault: `empty_image`, `not_an_image`, `image_too_large`, `truncated_image` or `undecodable_image`.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Picture, Fault> {
    decode_told(bytes, limits).map(|(picture, _)| picture)
}

/// As [`decode`], and whether the picture had to be turned or mirrored for it.
///
/// # Errors
/// As [`decode`].
pub fn decode_told(bytes: &[u8], limits: &Limits) -> Result<(Picture, bool), Fault> {
    if bytes.is_empty() {
        return Err(Fault::poison("empty_image", "the picture has 0 bytes"));
    }
    if bytes.len() > limits.bytes_max {
        return Err(too_large(format!(
            "the picture has {} bytes, at most {} are taken",
            bytes.len(),
            limits.bytes_max
        )));
    }
    catch_unwind(|| decode_unguarded(bytes, limits))
        .unwrap_or_else(|_| Err(Fault::poison("undecodable_image", "the picture made its decoder panic")))
}

fn decode_unguarded(bytes: &[u8], limits: &Limits) -> Result<(Picture, bool), Fault> {
    let format = format_of(bytes)?;
    let refused = |e: ImageError| fault(&e, format);
    let input = Cursor::new(bytes);
    match format {
        ImageFormat::Jpeg => {
            let survey = jpeg::survey(bytes);
            if !survey.is_whole {
                return Err(Fault::poison("truncated_image", "the JPEG ends before its end marker"));
            }
            let decoder = JpegDecoder::new(input).map_err(refused)?;
            Opened { decoder, format, working_bytes: survey.coefficient_bytes + bytes.len() as u64 }.read(limits, None)
        }
        ImageFormat::Png => {
            let mut metadata = image::Limits::no_limits();
            metadata.max_alloc = Some(METADATA_BYTES_MAX.min(limits.alloc_max));
            let decoder = PngDecoder::with_limits(input, metadata).map_err(refused)?;
            Opened { decoder, format, working_bytes: METADATA_BYTES_MAX }.read(limits, exif::in_png(bytes))
        }
        _ => {
            let decoder = WebPDecoder::new(input).map_err(refused)?;
            let (width, height) = decoder.dimensions();
            // Beside its output: four bytes a pixel where it is lossless; YCbCr and an alpha plane, unpacked like that,
            // where it is lossy; and in an animation a canvas and a frame.
            let per_pixel = if decoder.has_animation() { 12 } else { 7 };
            let working_bytes = u64::from(width) * u64::from(height) * per_pixel;
            Opened { decoder, format, working_bytes }.read(limits, None)
        }
    }
}

fn format_of(bytes: &[u8]) -> Result<ImageFormat, Fault> {
    match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP)) => Ok(format),
        Ok(other) => {
            Err(Fault::poison("not_an_image", format!("{other:?} pictures are not taken, only JPEG, PNG and WebP")))
        }
        Err(_) => Err(Fault::poison("not_an_image", "the bytes are no JPEG, PNG or WebP picture")),
    }
}

/// A decoder that has read its header and no pixels.
struct Opened<D> {
    decoder: D,
    format: ImageFormat,
    /// What it will take beside its output, at most.
    working_bytes: u64,
}

impl<D: ImageDecoder> Opened<D> {
    /// The pixels, if they may cost that much. EXIF that the decoder does not find can be given.
    fn read(mut self, limits: &Limits, exif: Option<&[u8]>) -> Result<(Picture, bool), Fault> {
        let ((width, height), color) = (self.decoder.dimensions(), self.decoder.color_type());
        check_size(width, height, limits)?;
        let (pixels, output) = (u64::from(width) * u64::from(height), self.decoder.total_bytes());
        // Three moments: decoding; the copy as 8-bit RGB; the copy that is turned.
        let needed = (output + self.working_bytes).max(output + 3 * pixels);
        if needed > limits.alloc_max {
            return Err(too_large(format!(
                "decoding the picture ({width} x {height} pixels, {color:?}) may take {needed} bytes, at most {} are taken",
                limits.alloc_max
            )));
        }
        // Damaged EXIF is no reason to refuse a picture.
        let own = self.decoder.exif_metadata().ok().flatten();
        let orientation = own.as_deref().or(exif).and_then(exif::orientation).unwrap_or(Orientation::NoTransforms);
        let mut raw = vec![0; usize::try_from(output).map_err(|_| too_large(format!("{output} bytes")))?];
        self.decoder.read_image(&mut raw).map_err(|e| fault(&e, self.format))?;
        let is_turned = orientation != Orientation::NoTransforms;
        Ok((pixels::upright(pixels::on_white(raw, color), width, height, orientation), is_turned))
    }
}

fn check_size(width: u32, height: u32, limits: &Limits) -> Result<(), Fault> {
    let (side, pixels) = (width.max(height), u64::from(width) * u64::from(height));
    if pixels == 0 {
        return Err(Fault::poison("undecodable_image", format!("the picture is {width} x {height} pixels")));
    }
    if side > limits.side_max || pixels > limits.pixels_max {
        return Err(too_large(format!(
            "the picture is {width} x {height} pixels, at most {} and {} a side are taken",
            limits.pixels_max, limits.side_max
        )));
    }
    Ok(())
}

fn too_large(message: String) -> Fault {
    Fault::poison("image_too_large", message)
}

/// What a decoder's error says of the picture.
fn fault(error: &ImageError, format: ImageFormat) -> Fault {
    let code = match error {
        ImageError::Limits(_) => "image_too_large",
        ImageError::IoError(e) if e.kind() == ErrorKind::UnexpectedEof => "truncated_image",
        _ => "undecodable_image",
    };
    Fault::poison(code, format!("{format:?}: {error}"))
}

#[cfg(test)]
mod bomb_tests;
#[cfg(test)]
mod decode_tests;
