//! Small files that would be large pictures: what they take stays under the limit, and what is refused takes next to
//! nothing. Each is decoded in a process of its own, whose peak the system tells.

use super::decode_tests::encoded;
use super::*;
use image::{DynamicImage, GrayImage, ImageBuffer, RgbImage};
use std::path::Path;
use std::process::Command;

const MIB: u64 = 1 << 20;

/// Bytes of memory, by the line's name in /proc/self/status.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// The child's side: decodes the file that it is told to, and says what came of it and what it took.
#[test]
fn decodes_in_a_process_of_its_own() {
    let Some(path) = std::env::var_os("BULKHEAD_TEST_BOMB") else { return };
    let bytes = std::fs::read(path).unwrap();
    // The code counts, too, once it has run; unoptimised, it is more than what a refusal may take.
    for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP] {
        decode(&encoded(RgbImage::new(8, 8), format), &Limits::default()).unwrap();
    }
    let before = memory("VmRSS:");
    let code = decode(&bytes, &Limits::default()).map_or_else(|fault| fault.code, |_| "ok".into());
    println!("<{code} {}>", memory("VmHWM:").saturating_sub(before));
}

/// What becomes of a file under the default limits, and how many bytes that took at the peak.
fn exploded(name: &str, bytes: &[u8]) -> (String, u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "vision::decode::bomb_tests::decodes_in_a_process_of_its_own", "--nocapture"])
        .env("BULKHEAD_TEST_BOMB", Path::new(&path))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    let answer = said.split_once('<').and_then(|(_, rest)| rest.split_once('>')).unwrap_or_else(|| panic!("{said}")).0;
    let (code, peak) = answer.split_once(' ').unwrap();
    (code.to_owned(), peak.parse().unwrap())
}

fn assert_refused(name: &str, bytes: &[u8]) {
    let (code, peak) = exploded(name, bytes);
    assert_eq!(code, "image_too_large", "{name}");
    let allowed = MIB + bytes.len() as u64;
    assert!(peak <= allowed, "refusing {name} took {peak} bytes, more than {allowed}");
}

fn assert_decodes(name: &str, bytes: &[u8], peak_max: u64) {
    let (code, peak) = exploded(name, bytes);
    assert_eq!(code, "ok", "{name}");
    assert!(peak <= peak_max, "{name} took {peak} bytes, more than {peak_max}");
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &b| (0..8).fold(crc ^ u32::from(b), step))
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let named = [&kind[..], data].concat();
    [&(data.len() as u32).to_be_bytes()[..], &named, &crc32(&named).to_be_bytes()].concat()
}

/// A PNG that says it is this large and holds next to nothing.
pub(super) fn png_of_size(width: u32, height: u32) -> Vec<u8> {
    let png = encoded(GrayImage::new(1, 1), ImageFormat::Png);
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &png[24..29]].concat();
    [&png[..8], &chunk(b"IHDR", &header), &png[33..]].concat()
}

/// A small PNG with one more chunk behind its header.
fn png_with(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let png = encoded(GrayImage::new(8, 8), ImageFormat::Png);
    [&png[..33], &chunk(kind, data), &png[33..]].concat()
}

/// 64 MiB, packed by zlib into a few hundred kB.
fn packed() -> Vec<u8> {
    let png = encoded(GrayImage::new(8192, 8192), ImageFormat::Png);
    let (mut rest, mut packed) = (&png[33..], Vec::new());
    while rest.len() >= 12 {
        let length = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        if &rest[4..8] == b"IDAT" {
            packed.extend_from_slice(&rest[8..8 + length]);
        }
        rest = &rest[12 + length..];
    }
    packed
}

/// A progressive JPEG of one scan whose blocks are all alike, each a bit a component.
fn progressive(side: u16, components: u8, blocks: usize) -> Vec<u8> {
    let segment = |marker: u8, data: &[u8]| {
        let length = (data.len() as u16 + 2).to_be_bytes();
        [&[0xFF, marker][..], &length, data].concat()
    };
    let each = |of: fn(u8) -> Vec<u8>| (1..=components).flat_map(of).collect::<Vec<u8>>();
    let size = [side.to_be_bytes(), side.to_be_bytes()].concat();
    let frame = [&[8][..], &size, &[components], &each(|id| vec![id, 0x11, 0])].concat();
    // One code of one bit: the coefficient does not change.
    let table = [&[0][..], &[1], &[0; 15], &[0]].concat();
    let scan = [&[components][..], &each(|id| vec![id, 0]), &[0, 0, 0]].concat();
    [
        vec![0xFF, 0xD8],
        segment(0xDB, &[&[0][..], &[1; 64]].concat()),
        segment(0xC2, &frame),
        segment(0xC4, &table),
        segment(0xDA, &scan),
        vec![0; blocks / 8 + 1],
        vec![0xFF, 0xD9],
    ]
    .concat()
}

#[test]
fn what_says_it_is_huge_is_refused_unread() {
    assert_refused("50000.png", &png_of_size(50_000, 50_000));
    assert_refused("line.png", &png_of_size(20_000, 1));
    assert_refused("largest.png", &png_of_size(u32::MAX >> 1, u32::MAX >> 1));
    assert_refused("65500.jpg", &progressive(65_500, 3, 0));
    let webp = encoded(RgbImage::new(16, 16), ImageFormat::WebP);
    let mut huge = webp.clone();
    // VP8L: fourteen bits each for width and height, less one. (`image-webp` takes 16384 for 0.)
    huge[21..24].copy_from_slice(&[0xFE, 0xBF, 0xFF]);
    huge[24] |= 0x0F;
    assert_refused("16383.webp", &huge);
    // The extended header has three bytes a side, less one.
    let extended = [&b"VP8X\x0A\0\0\0\0\0\0\0"[..], &[0x4F, 0xC3, 0, 0x4F, 0xC3, 0]].concat();
    let riff = (webp.len() as u32 - 8 + extended.len() as u32).to_le_bytes();
    assert_refused("50000.webp", &[&b"RIFF"[..], &riff, b"WEBP", &extended, &webp[12..]].concat());
}

#[test]
fn what_is_huge_is_refused_unread() {
    assert_refused("real.png", &encoded(GrayImage::new(12_000, 9_000), ImageFormat::Png));
    let deep = DynamicImage::ImageRgba16(ImageBuffer::new(4096, 4096));
    assert_refused("deep.png", &encoded(deep, ImageFormat::Png));
    assert_refused("cmyk-progressive.jpg", &progressive(4096, 4, 512 * 512 * 4));
}

#[test]
fn the_largest_that_are_taken_stay_under_the_limit() {
    let limit = Limits::default().alloc_max;
    assert!(limit <= 160 * MIB);
    assert_decodes("grey.png", &encoded(GrayImage::new(4096, 4096), ImageFormat::Png), limit);
    let deep = DynamicImage::ImageRgba16(ImageBuffer::new(3600, 3600));
    assert_decodes("deep.png", &encoded(deep, ImageFormat::Png), limit);
    assert_decodes("progressive.jpg", &progressive(4096, 3, 512 * 512 * 3), limit);
    assert_decodes("baseline.jpg", &encoded(RgbImage::new(4096, 4096), ImageFormat::Jpeg), limit);
    assert_decodes("wide.jpg", &encoded(RgbImage::new(16_384, 1024), ImageFormat::Jpeg), limit);
    assert_decodes("lossless.webp", &encoded(RgbImage::new(4096, 4096), ImageFormat::WebP), limit);
}

#[test]
fn packed_metadata_is_not_unpacked() {
    let data = packed();
    assert!((data.len() as u64) < MIB, "{}", data.len());
    let limit = METADATA_BYTES_MAX * 2 + 2 * MIB;
    for (kind, head) in [(b"iCCP", &b"profile\0\0"[..]), (b"zTXt", b"Comment\0\0"), (b"iTXt", b"Comment\0\x01\0\0\0")] {
        let name = String::from_utf8_lossy(kind).into_owned();
        assert_decodes(&name, &png_with(kind, &[head, &data].concat()), limit);
    }
    let text = [&b"Comment\0"[..], &vec![b' '; 12 << 20]].concat();
    let (code, peak) = exploded("text.png", &png_with(b"tEXt", &text));
    assert_eq!(code, "image_too_large");
    assert!(peak <= limit, "{peak}");
}

#[test]
fn each_limit_holds_and_is_named() {
    let fault = decode(&png_of_size(50_000, 50_000), &Limits::default()).unwrap_err();
    assert!(fault.message.contains("50000 x 50000"), "{fault}");
    let small = encoded(RgbImage::new(100, 100), ImageFormat::Png);
    let defaults = Limits::default();
    let said = |limits: Limits| {
        let fault = decode(&small, &limits).unwrap_err();
        assert_eq!(fault.code, "image_too_large");
        fault.message
    };
    assert!(said(Limits { bytes_max: 50, ..defaults }).ends_with("at most 50 are taken"));
    assert!(said(Limits { pixels_max: 9_999, ..defaults }).contains("at most 9999"));
    assert!(said(Limits { side_max: 99, ..defaults }).contains("99 a side"));
    assert!(said(Limits { alloc_max: 29_999, ..defaults }).contains("may take"));
    assert!(decode(&small, &Limits { pixels_max: 10_000, side_max: 100, ..defaults }).is_ok());
}
