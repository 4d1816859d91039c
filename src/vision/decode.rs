//! Bytes that somebody sent, to pixels: JPEG, PNG or WebP by content, under limits that are checked before memory is
//! taken. Never trusts a file's name, and never lets a decoder's panic out.
//!
//! The limits are ours because the decoders' are not enough: `image`'s JPEG decoder sets none by itself and takes a
//! file that ends in the middle for whole.

use bulkhead_core::fault::Fault;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};
use std::io::{Cursor, ErrorKind};
use std::panic::catch_unwind;

/// What a picture may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the encoded picture.
    pub bytes_max: usize,
    /// Pixels of its longer side.
    pub side_max: u32,
    /// Pixels in all.
    pub pixels_max: u64,
    /// Bytes that the decoder may take: the decoded picture as the file has it, and what the decoder keeps beside it
    /// (that half is best effort in some decoders). The 8-bit RGB copy, `3 * pixels_max`, comes on top.
    pub alloc_max: u64,
}

impl Default for Limits {
    /// A picture of 4096 x 4096 with alpha, just; a worker's decoding stays under 128 MiB or so.
    fn default() -> Self {
        Self { bytes_max: 16 << 20, side_max: 16_384, pixels_max: 4096 * 4096, alloc_max: 64 << 20 }
    }
}

/// Decoded pixels, 8 bits a channel; what was transparent is white.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels, at least 1.
    pub width: usize,
    /// Pixels, at least 1.
    pub height: usize,
    /// `3 * width * height` bytes, row by row, red first.
    pub rgb: Vec<u8>,
}

/// Decodes a picture.
///
/// # Errors
/// A poison fault: `empty_image`, `not_an_image`, `image_too_large`, `truncated_image` or `undecodable_image`.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Picture, Fault> {
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

fn decode_unguarded(bytes: &[u8], limits: &Limits) -> Result<Picture, Fault> {
    let format = format_of(bytes)?;
    if format == ImageFormat::Jpeg && !jpeg_is_whole(bytes) {
        return Err(Fault::poison("truncated_image", "the JPEG ends before its end marker"));
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut allowed = image::Limits::no_limits();
    allowed.max_alloc = Some(limits.alloc_max);
    reader.limits(allowed.clone());
    // Reads the header, no pixels; dimensions are limited below, to say which they are.
    let mut decoder = reader.into_decoder().map_err(|e| fault(&e, format))?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, decoder.total_bytes(), limits)?;
    allowed.max_image_width = Some(limits.side_max);
    allowed.max_image_height = Some(limits.side_max);
    allowed.max_alloc = Some(limits.alloc_max - decoder.total_bytes());
    decoder.set_limits(allowed).map_err(|e| fault(&e, format))?;
    let decoded = DynamicImage::from_decoder(decoder).map_err(|e| fault(&e, format))?;
    Ok(Picture { width: width as usize, height: height as usize, rgb: on_white(decoded) })
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

fn check_size(width: u32, height: u32, decoded_bytes: u64, limits: &Limits) -> Result<(), Fault> {
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
    if decoded_bytes > limits.alloc_max {
        return Err(too_large(format!(
            "the picture decodes to {decoded_bytes} bytes ({width} x {height} pixels), at most {} are taken",
            limits.alloc_max
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

/// Whether a JPEG reaches its end marker, walking its segments and scans (ITU T.81, B.1): zune-jpeg fills what is missing
/// with grey, so its word is not enough. What follows the end marker does not matter; cameras put thumbnails there.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const STUFFED: u8 = 0x00;
    const RESTARTS: std::ops::RangeInclusive<u8> = 0xD0..=0xD7;
    const START_OF_IMAGE: u8 = 0xD8;
    const END_OF_IMAGE: u8 = 0xD9;
    let mut at = 0;
    while at + 1 < bytes.len() {
        if bytes[at] != 0xFF {
            at += 1; // the scan's data
            continue;
        }
        match bytes[at + 1] {
            END_OF_IMAGE => return true,
            0xFF => at += 1, // a fill byte
            STUFFED | 0x01 | START_OF_IMAGE => at += 2,
            marker if RESTARTS.contains(&marker) => at += 2,
            _ => match bytes.get(at + 2..at + 4) {
                Some(length) => at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]])),
                None => return false,
            },
        }
    }
    false
}

/// As 8-bit RGB; alpha is laid over white, as a page is.
fn on_white(decoded: DynamicImage) -> Vec<u8> {
    if !decoded.color().has_alpha() {
        return decoded.into_rgb8().into_raw();
    }
    let over_white = |channel: u8, alpha: u8| {
        let mixed = u32::from(channel) * u32::from(alpha) + 255 * (255 - u32::from(alpha));
        u8::try_from((mixed + 127) / 255).unwrap_or(u8::MAX)
    };
    let rgba = decoded.into_rgba8();
    rgba.pixels().flat_map(|p| [over_white(p[0], p[3]), over_white(p[1], p[3]), over_white(p[2], p[3])]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_core::fault::FaultClass;
    use image::{GrayAlphaImage, GrayImage, LumaA, Rgb, RgbImage, Rgba, RgbaImage};
    use proptest::prelude::*;

    fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        picture.into().write_to(&mut file, format).unwrap();
        file.into_inner()
    }

    fn gradient(width: u32, height: u32) -> RgbImage {
        let of = |v: u32| u8::try_from(v % 256).unwrap();
        RgbImage::from_fn(width, height, |x, y| Rgb([of(x * 3), of(y * 5), of(x + y)]))
    }

    fn code(bytes: &[u8]) -> String {
        let fault = decode(bytes, &Limits::default()).unwrap_err();
        assert_eq!(fault.class, FaultClass::Poison);
        fault.code.into_owned()
    }

    /// A PNG that says it is this large and holds next to nothing.
    fn png_of_size(width: u32, height: u32) -> Vec<u8> {
        let mut png = encoded(GrayImage::new(1, 1), ImageFormat::Png);
        png[16..20].copy_from_slice(&width.to_be_bytes());
        png[20..24].copy_from_slice(&height.to_be_bytes());
        let crc = crc32(&png[12..29]);
        png[29..33].copy_from_slice(&crc.to_be_bytes());
        png
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
        !bytes.iter().fold(!0, |crc, &b| (0..8).fold(crc ^ u32::from(b), step))
    }

    #[test]
    fn reads_each_format_by_its_content() {
        let source = gradient(37, 23);
        for (format, tolerance) in [(ImageFormat::Png, 0), (ImageFormat::WebP, 0), (ImageFormat::Jpeg, 60)] {
            let picture = decode(&encoded(source.clone(), format), &Limits::default()).unwrap();
            assert_eq!((picture.width, picture.height), (37, 23));
            let worst = picture.rgb.iter().zip(source.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(worst <= tolerance, "{format:?} is off by {worst}");
        }
    }

    #[test]
    fn lays_alpha_over_white_and_spreads_grey() {
        let rgba = RgbaImage::from_pixel(2, 1, Rgba([200, 100, 0, 127]));
        let picture = decode(&encoded(rgba, ImageFormat::Png), &Limits::default()).unwrap();
        assert_eq!(&picture.rgb[..3], [228, 178, 128]);
        let clear = GrayAlphaImage::from_pixel(1, 1, LumaA([0, 0]));
        assert_eq!(decode(&encoded(clear, ImageFormat::Png), &Limits::default()).unwrap().rgb, [255, 255, 255]);
        let grey = GrayImage::from_pixel(1, 1, image::Luma([77]));
        assert_eq!(decode(&encoded(grey, ImageFormat::Png), &Limits::default()).unwrap().rgb, [77, 77, 77]);
    }

    #[test]
    fn names_what_is_no_picture() {
        assert_eq!(code(b""), "empty_image");
        assert_eq!(code(b"%PDF-1.7 not a picture"), "not_an_image");
        assert_eq!(code(b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"), "not_an_image");
        assert_eq!(code(b"\x89PNG\r\n\x1a\nand then something else"), "undecodable_image");
    }

    #[test]
    fn refuses_a_file_that_ends_early() {
        for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP] {
            let whole = encoded(gradient(200, 150), format);
            for share in [3, 5, 8, 9] {
                let cut = &whole[..whole.len() * share / 10];
                let code = code(cut);
                assert!(
                    code == "truncated_image" || format == ImageFormat::WebP && code == "undecodable_image",
                    "{format:?} {share}: {code}"
                );
            }
        }
        let mut followed = encoded(gradient(20, 20), ImageFormat::Jpeg);
        followed.extend_from_slice(b"what a camera left behind");
        assert!(decode(&followed, &Limits::default()).is_ok());
    }

    #[test]
    fn refuses_by_its_header_what_is_too_large() {
        let fault = decode(&png_of_size(50_000, 50_000), &Limits::default()).unwrap_err();
        assert_eq!(fault.code, "image_too_large");
        assert!(fault.message.contains("50000 x 50000"), "{fault}");
        assert_eq!(code(&png_of_size(20_000, 1)), "image_too_large");
        assert_eq!(code(&png_of_size(u32::MAX >> 1, u32::MAX >> 1)), "image_too_large");
        let small = encoded(gradient(100, 100), ImageFormat::Png);
        let with = |limits: Limits| decode(&small, &limits).unwrap_err();
        let defaults = Limits::default();
        assert_eq!(with(Limits { bytes_max: 100, ..defaults }).code, "image_too_large");
        assert_eq!(with(Limits { pixels_max: 9_999, ..defaults }).code, "image_too_large");
        assert_eq!(with(Limits { alloc_max: 29_999, ..defaults }).code, "image_too_large");
        assert!(decode(&small, &Limits { pixels_max: 10_000, side_max: 100, ..defaults }).is_ok());
    }

    /// The most memory that this process has had, in bytes.
    fn peak_memory() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Runs in a process of its own (see the next test): other tests' memory is not counted.
    #[test]
    fn bombs_in_a_process_of_their_own() {
        if std::env::var_os("BULKHEAD_TEST_BOMBS").is_none() {
            return;
        }
        let zeros = encoded(GrayImage::new(4096, 4096), ImageFormat::Png);
        let huge = encoded(GrayImage::new(12_000, 9_000), ImageFormat::Png);
        let before = peak_memory();
        assert_eq!(code(&png_of_size(50_000, 50_000)), "image_too_large");
        assert_eq!(code(&huge), "image_too_large");
        let refused = peak_memory() - before;
        assert!(refused < 1 << 20, "refusing took {refused} bytes");
        assert!(decode(&zeros, &Limits::default()).is_ok());
        println!("peak {}", peak_memory());
    }

    #[test]
    fn a_bomb_takes_no_memory() {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "vision::decode::tests::bombs_in_a_process_of_their_own", "--nocapture"])
            .env("BULKHEAD_TEST_BOMBS", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("1 passed") && said.contains("peak"), "{said}");
    }

    proptest! {
        /// Whatever is sent, an answer comes back: a picture of the size it says, or a poison fault.
        #[test]
        fn any_damage_is_survived(at in prop::collection::vec((0.0..1.0f64, any::<u8>()), 1..30), which in 0..3usize) {
            let format = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP][which];
            let mut bytes = encoded(gradient(40, 30), format);
            for (share, byte) in at {
                let index = (share * bytes.len() as f64) as usize;
                bytes[index] = byte;
            }
            match decode(&bytes, &Limits::default()) {
                Ok(picture) => prop_assert_eq!(picture.rgb.len(), picture.width * picture.height * 3),
                Err(fault) => prop_assert_eq!(fault.class, FaultClass::Poison),
            }
        }
    }
}
