//! Every kind of file that people send shows the same scene; what is none is named.

use super::*;
use bulkhead_core::fault::FaultClass;
use image::{DynamicImage, GrayAlphaImage, GrayImage, ImageBuffer, Luma, LumaA, Rgb, RgbImage, Rgba, RgbaImage};
use proptest::prelude::*;

pub(super) fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture.into().write_to(&mut file, format).unwrap();
    file.into_inner()
}

fn gradient(width: u32, height: u32) -> RgbImage {
    let of = |v: u32| u8::try_from(v % 256).unwrap();
    RgbImage::from_fn(width, height, |x, y| Rgb([of(x * 3), of(y * 5), of(x + y)]))
}

fn png(picture: impl Into<DynamicImage>) -> Picture {
    decode(&encoded(picture, ImageFormat::Png), &Limits::default()).unwrap()
}

fn code(bytes: &[u8]) -> String {
    let fault = decode(bytes, &Limits::default()).unwrap_err();
    assert_eq!(fault.class, FaultClass::Poison);
    fault.code.into_owned()
}

const RED: [u8; 3] = [220, 30, 30];
const GREEN: [u8; 3] = [30, 180, 60];
const BLUE: [u8; 3] = [40, 60, 200];
const YELLOW: [u8; 3] = [240, 220, 40];
const WHITE: [u8; 3] = [255, 255, 255];

/// The middles of the four quarters, row by row.
fn quarters(picture: &Picture) -> [[u8; 3]; 4] {
    let (w, h) = (picture.width, picture.height);
    [(w / 4, h / 4), (3 * w / 4, h / 4), (w / 4, 3 * h / 4), (3 * w / 4, 3 * h / 4)].map(|(x, y)| {
        let at = (y * w + x) * 3;
        [picture.rgb[at], picture.rgb[at + 1], picture.rgb[at + 2]]
    })
}

fn assert_shows(name: &str, picture: &Picture, wanted: [[u8; 3]; 4], tolerance: u8) {
    assert_eq!((picture.width, picture.height), (32, 24), "{name}");
    let got = quarters(picture);
    let worst = got.iter().flatten().zip(wanted.iter().flatten()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(worst <= tolerance, "{name}: {got:?} is not {wanted:?}");
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/src/vision/decode/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Files that Pillow made, see `fixtures/make.py`.
#[test]
fn every_kind_of_file_shows_the_same_scene() {
    let colours = [RED, GREEN, BLUE, YELLOW];
    let holed = [RED, GREEN, BLUE, WHITE];
    // Rec. 601, as Pillow made them grey.
    let greys = [87, 121, 70, 205].map(|y| [y; 3]);
    for (name, wanted, tolerance) in [
        ("turned.jpg", colours, 6),
        ("turned.png", colours, 0),
        ("turned-late.png", colours, 0),
        ("turned.webp", colours, 12),
        ("turned-lossless.webp", colours, 0),
        ("progressive.jpg", colours, 6),
        ("restarts.jpg", colours, 6),
        ("grey.jpg", greys, 3),
        ("cmyk.jpg", colours, 6),
        ("cmyk-progressive.jpg", colours, 6),
        ("ycck.jpg", colours, 6),
        ("palette.png", colours, 0),
        ("alpha.png", holed, 0),
        ("alpha.webp", holed, 12),
        ("alpha-lossless.webp", holed, 0),
        ("alpha-palette.png", holed, 0),
        ("sixteen.png", greys, 1),
        ("bilevel.png", [[0; 3], [0; 3], [0; 3], [255; 3]], 0),
        ("animated.webp", colours, 0),
        ("lossy.webp", colours, 12),
    ] {
        let picture = decode(&fixture(name), &Limits::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_shows(name, &picture, wanted, tolerance);
    }
}

/// A JPEG with an EXIF segment that holds the orientation alone.
fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let tiff = [&b"MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0"[..], &[orientation], &[0; 6]].concat();
    let segment = [&b"Exif\0\0"[..], &tiff].concat();
    let length = u16::try_from(segment.len() + 2).unwrap().to_be_bytes();
    [&jpeg[..2], &[0xFF, 0xE1], &length, &segment, &jpeg[2..]].concat()
}

#[test]
fn each_orientation_is_undone() {
    let stored: RgbImage = ImageBuffer::from_raw(2, 1, [[255, 0, 0], [0, 0, 255]].concat()).unwrap();
    let stored = encoded(image::imageops::resize(&stored, 32, 16, image::imageops::Nearest), ImageFormat::Jpeg);
    // Red is left of blue in the file; where it is to be seen, and how wide the picture then is.
    for (orientation, red_first, across, width) in
        [(1, true, true, 32), (2, false, true, 32), (3, false, true, 32), (4, true, true, 32)]
            .into_iter()
            .chain([(5, true, false, 16), (6, true, false, 16), (7, false, false, 16), (8, false, false, 16)])
            .chain([(0, true, true, 32), (9, true, true, 32)])
    {
        let picture = decode(&with_orientation(&stored, orientation), &Limits::default()).unwrap();
        assert_eq!(picture.width, width, "orientation {orientation}");
        let last = if across { 3 * (width - 1) } else { 3 * width * (picture.height - 1) };
        assert_eq!(picture.rgb[0] > 128, red_first, "orientation {orientation}");
        assert_eq!(picture.rgb[last] > 128, !red_first, "orientation {orientation}");
    }
}

#[test]
fn damaged_exif_leaves_the_picture_as_it_lies() {
    let jpeg = encoded(gradient(16, 8), ImageFormat::Jpeg);
    let mut damaged = with_orientation(&jpeg, 6);
    damaged[12..16].copy_from_slice(b"none");
    assert_eq!(decode(&damaged, &Limits::default()), decode(&jpeg, &Limits::default()));
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
    assert_eq!(png(RgbaImage::from_pixel(2, 1, Rgba([200, 100, 0, 127]))).rgb[..3], [228, 178, 128]);
    assert_eq!(png(GrayAlphaImage::from_pixel(1, 1, LumaA([0, 0]))).rgb, [255; 3]);
    assert_eq!(png(GrayImage::from_pixel(1, 1, Luma([77]))).rgb, [77; 3]);
}

#[test]
fn rounds_sixteen_bits_to_eight() {
    let wide = |v: u16| v * 257;
    let rgb = ImageBuffer::from_pixel(1, 1, Rgb([wide(200), wide(100) + 128, wide(3) + 129]));
    assert_eq!(png(DynamicImage::ImageRgb16(rgb)).rgb, [200, 100, 4]);
    let rgba = ImageBuffer::from_pixel(1, 1, Rgba([wide(200), wide(100), 0, wide(127)]));
    assert_eq!(png(DynamicImage::ImageRgba16(rgba)).rgb, [228, 178, 128]);
    let grey = ImageBuffer::from_pixel(1, 1, LumaA([wide(77), u16::MAX]));
    assert_eq!(png(DynamicImage::ImageLumaA16(grey)).rgb, [77; 3]);
    assert_eq!(png(DynamicImage::ImageLuma16(ImageBuffer::from_pixel(1, 1, Luma([u16::MAX])))).rgb, [255; 3]);
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
            let code = code(&whole[..whole.len() * share / 10]);
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
fn a_survey_tells_which_jpegs_are_kept_until_the_last_scan() {
    let of = |name: &str| jpeg::survey(&fixture(name));
    assert_eq!(of("restarts.jpg"), jpeg::Survey { is_whole: true, coefficient_bytes: 0 });
    assert_eq!(of("grey.jpg").coefficient_bytes, 0);
    // Two by two units of 16 x 16, six blocks each, two bytes a coefficient.
    assert_eq!(of("progressive.jpg").coefficient_bytes, 2 * 2 * 6 * 64 * 2);
    let whole = fixture("progressive.jpg");
    assert!(!jpeg::survey(&whole[..whole.len() - 2]).is_whole);
}

proptest! {
    /// Whatever is sent, an answer comes back: a picture of the size it says, or a poison fault.
    #[test]
    fn any_damage_is_survived(at in prop::collection::vec((0.0..1.0f64, any::<u8>()), 1..30), which in 0..6usize) {
        let mut bytes = match which {
            0 => encoded(gradient(40, 30), ImageFormat::Jpeg),
            1 => encoded(gradient(40, 30), ImageFormat::Png),
            2 => encoded(gradient(40, 30), ImageFormat::WebP),
            3 => fixture("progressive.jpg"),
            4 => fixture("turned-late.png"),
            _ => fixture("alpha.webp"),
        };
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
