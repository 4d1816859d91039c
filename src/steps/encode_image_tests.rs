//! Pictures of every kind through `encode_image`: what becomes smaller, what stays, what is refused.

use super::*;
use crate::vision::decode::decode;

fn config(text: &str) -> EncodeImageConfig {
    toml::from_str(text).expect("settings of a test are right")
}

fn run(settings: &str, file: Vec<u8>) -> Verdict {
    let headers = vec![Header::new("content-type", "image/x"), Header::new("dag_id", "d")];
    let record = Record { key: Some("k".into()), value: Some(file.into()), headers, ..Record::default() };
    let mut step = config(settings).factory().expect("settings are right").build().expect("it needs nothing");
    step.run(&[record], None).expect("no fault is the stage's").remove(0)
}

fn encoded(settings: &str, file: Vec<u8>) -> (Record, Picture) {
    match run(settings, file) {
        Verdict::Emit(mut records) => {
            let record = records.remove(0);
            let picture = decode(record.payload(), &Limits::default()).expect("what goes on can be decoded");
            (record, picture)
        }
        other => panic!("{other:?}"),
    }
}

fn text<'a>(record: &'a Record, header: &str) -> &'a str {
    std::str::from_utf8(record.header(header).unwrap_or_else(|| panic!("no header {header}"))).expect("it is text")
}

/// A gradient with a dark corner, which tells how a picture was turned, and grain, as photographs have it.
fn picture(width: usize, height: usize) -> Picture {
    let pixel = |at: usize| {
        let (x, y) = (at % width, at / width);
        let bright = if x < width / 4 && y < height / 4 { 0 } else { 100 + (x * 90 / width + y * 30 / height) as u8 };
        let grain = (at.wrapping_mul(at).wrapping_mul(2_654_435_761) >> 16) as u8 & 15;
        [bright + grain, bright / 2 + 60 + grain, 240 - bright + grain]
    };
    Picture { width, height, rgb: (0..width * height).flat_map(pixel).collect() }
}

fn file(format: Format, width: usize, height: usize) -> Vec<u8> {
    encode(&picture(width, height), format, 95).expect("it can be written")
}

/// With an EXIF block behind the JPEG's start that says how the camera was held (TIFF, big-endian, one tag).
fn turned(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let tiff = [b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(), &[orientation], &[0; 6]].concat();
    let exif = [b"Exif\0\0".as_slice(), &tiff].concat();
    let length = u16::try_from(exif.len() + 2).expect("it is short").to_be_bytes();
    [&jpeg[..2], &[0xFF, 0xE1], &length, &exif, &jpeg[2..]].concat()
}

#[test]
fn a_png_becomes_a_smaller_jpeg_and_headers_tell() {
    let png = file(Format::Png, 320, 200);
    let before = png.len();
    let (record, picture) = encoded("quality = 60", png);
    assert_eq!((picture.width, picture.height), (320, 200));
    assert_eq!(text(&record, "content-type"), "image/jpeg");
    assert_eq!(text(&record, BEFORE), before.to_string());
    assert_eq!(text(&record, AFTER), record.payload().len().to_string());
    assert_eq!((text(&record, WIDTH), text(&record, HEIGHT)), ("320", "200"));
    assert_eq!((text(&record, "dag_id"), record.key.as_deref()), ("d", Some(b"k".as_slice())));
    assert!(record.payload().len() < before);
}

#[test]
fn a_large_picture_is_scaled_and_keeps_its_proportions() {
    let (_, picture) = encoded("max_side = 100", file(Format::Jpeg, 300, 150));
    assert_eq!((picture.width, picture.height), (100, 50));
    let (_, thin) = encoded("max_side = 10", file(Format::Png, 400, 2));
    assert_eq!((thin.width, thin.height), (10, 1), "a side is never nothing");
    let (_, small) = encoded("max_side = 1000", file(Format::Png, 40, 20));
    assert_eq!((small.width, small.height), (40, 20), "nothing is enlarged");
}

#[test]
fn a_file_that_would_grow_stays_without_its_metadata() {
    let tight = encode(&picture(64, 64), Format::Jpeg, 20).expect("it can be written");
    let laden = turned(&tight, 1);
    let (record, _) = encoded("quality = 100", laden.clone());
    assert_eq!(record.payload(), tight, "the file as it came, but for its EXIF");
    assert_eq!(text(&record, BEFORE), laden.len().to_string());
    let (record, _) = encoded("quality = 100\nkeep_smaller = false", laden);
    assert!(record.payload().len() > tight.len());
    let photo = file(Format::Jpeg, 64, 64);
    let (record, _) = encoded("format = \"png\"", photo.clone());
    assert_eq!((record.payload(), text(&record, "content-type")), (&photo[..], "image/jpeg"));
}

#[test]
fn what_the_camera_held_sideways_is_upright_afterwards_and_says_nothing_more() {
    let jpeg = file(Format::Jpeg, 80, 40);
    let (record, picture) = encoded("quality = 100", turned(&jpeg, 6));
    assert_eq!((picture.width, picture.height), (40, 80), "a quarter to the right");
    let corner = |x: usize, y: usize| u32::from(picture.rgb[3 * (y * picture.width + x)]);
    assert!(corner(37, 3) < 60 && corner(3, 3) > 90, "the dark corner came from the left to the right");
    assert!(!record.payload().windows(4).any(|bytes| bytes == b"Exif"));
}

#[test]
fn what_is_no_picture_or_too_large_is_rejected_by_name() {
    let jpeg = file(Format::Jpeg, 64, 64);
    for (settings, file, code) in [
        ("", Vec::new(), "empty_image"),
        ("", b"GIF89a".to_vec(), "not_an_image"),
        ("", jpeg[..jpeg.len() / 2].to_vec(), "truncated_image"),
        ("image = { side_max = 63 }", jpeg.clone(), "image_too_large"),
        ("image = { bytes_max = \"100B\" }", jpeg, "image_too_large"),
    ] {
        match run(settings, file) {
            Verdict::Reject(fault) => assert_eq!(fault.code, code, "{fault}"),
            other => panic!("{code}: {other:?}"),
        }
    }
}

#[test]
fn settings_that_mean_nothing_are_told() {
    for (settings, problem) in [
        ("format = \"png\"\nquality = 80", "quality: is for format = \"jpeg\""),
        ("quality = 0", "quality: must be 1 to 100"),
        ("max_side = 0", "max_side: must be 1 to 65535"),
        ("image = { pixels_max = 0 }", "image.pixels_max: 0 would reject"),
    ] {
        let problems = config(settings).check();
        assert!(problems.len() == 1 && problems[0].starts_with(problem), "{settings}: {problems:?}");
    }
    assert!(config("").check().is_empty());
}
