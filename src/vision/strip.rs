//! Takes what is no picture out of a picture's file, without decoding it: EXIF (where it was taken, by which camera), XMP,
//! IPTC, comments, and whatever follows its end. What decides how it looks stays: colour profiles, animations.
//! Never changes a pixel, and never makes a file longer.

use super::encode::Format;

/// The file without metadata; `None` where it does not have the form that its first bytes promise.
#[must_use]
pub fn strip(file: &[u8]) -> Option<Vec<u8>> {
    match Format::of(file)? {
        Format::Jpeg => jpeg(file),
        Format::Png => png(file),
        Format::Webp => webp(file),
    }
}

/// Segments up to the first scan; APP0 (JFIF), APP2 (ICC) and APP14 (Adobe's colour transform) say how it looks.
fn jpeg(file: &[u8]) -> Option<Vec<u8>> {
    const START_OF_SCAN: u8 = 0xDA;
    let mut kept = file.get(..2)?.to_vec();
    let mut at = 2;
    loop {
        let &[0xFF, marker, high, low] = file.get(at..at + 4)? else { return None };
        if marker == START_OF_SCAN {
            let scans = &file[at..];
            // Behind the end of the picture cameras put thumbnails and whole second pictures, with their own EXIF.
            kept.extend_from_slice(&scans[..end_of_image(scans)?]);
            return Some(kept);
        }
        let end = at + 2 + usize::from(u16::from_be_bytes([high, low]));
        let segment = file.get(at..end)?;
        let is_metadata = matches!(marker, 0xE1 | 0xE3..=0xED | 0xEF | 0xFE)
            || (marker == 0xE2 && !segment[4..].starts_with(b"ICC_PROFILE\0"));
        if !is_metadata {
            kept.extend_from_slice(segment);
        }
        at = end;
    }
}

/// How long the scans are, with the segments between them and their end marker (ITU T.81, B.1.1).
fn end_of_image(scans: &[u8]) -> Option<usize> {
    const STUFFED: u8 = 0x00;
    const FILL: u8 = 0xFF;
    let mut at = 0;
    loop {
        at += scans.get(at..)?.iter().position(|byte| *byte == FILL)?;
        match *scans.get(at + 1)? {
            0xD9 => return Some(at + 2),
            FILL => at += 1,
            STUFFED | 0x01 | 0xD0..=0xD7 => at += 2,
            _ => at += 2 + usize::from(u16::from_be_bytes(scans.get(at + 2..at + 4)?.try_into().ok()?)),
        }
    }
}

fn png(file: &[u8]) -> Option<Vec<u8>> {
    const METADATA: [&[u8]; 5] = [b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"tIME"];
    let mut kept = file.get(..8)?.to_vec();
    let mut at = 8;
    loop {
        let length = u32::from_be_bytes(file.get(at..at + 4)?.try_into().ok()?) as usize;
        let (kind, end) = (file.get(at + 4..at + 8)?, at.checked_add(length)?.checked_add(12)?);
        let chunk = file.get(at..end)?;
        if !METADATA.contains(&kind) {
            kept.extend_from_slice(chunk);
        }
        if kind == b"IEND" {
            return Some(kept);
        }
        at = end;
    }
}

fn webp(file: &[u8]) -> Option<Vec<u8>> {
    const EXIF_FLAG: u8 = 0b1000;
    const XMP_FLAG: u8 = 0b100;
    let length = u32::from_le_bytes(file.get(4..8)?.try_into().ok()?) as usize;
    let whole = file.get(..length.checked_add(8)?)?;
    let mut kept = whole.get(..12)?.to_vec();
    let mut at = 12;
    while at < whole.len() {
        let size = u32::from_le_bytes(whole.get(at + 4..at + 8)?.try_into().ok()?) as usize;
        let end = at.checked_add(8)?.checked_add(size)?.checked_next_multiple_of(2)?.min(whole.len());
        let chunk = whole.get(at..end)?;
        if chunk.len() < 8 + size {
            return None;
        }
        if !matches!(&chunk[..4], b"EXIF" | b"XMP ") {
            let start = kept.len();
            kept.extend_from_slice(chunk);
            if chunk.starts_with(b"VP8X") && size > 0 {
                kept[start + 8] &= !(EXIF_FLAG | XMP_FLAG);
            }
        }
        at = end;
    }
    let length = u32::try_from(kept.len() - 8).ok()?;
    kept[4..8].copy_from_slice(&length.to_le_bytes());
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::decode::{Limits, Picture, decode};
    use crate::vision::encode::encode;
    use proptest::prelude::*;

    const SECRET: &[u8] = b"52.5163N 13.3777E";

    fn picture() -> Picture {
        Picture { width: 9, height: 7, rgb: (0..189).map(|i| (i * 5 % 256) as u8).collect() }
    }

    fn segment(marker: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len() + 2).expect("it is short");
        [&[0xFF, marker], &length.to_be_bytes()[..], content].concat()
    }

    fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
        [&(content.len() as u32).to_be_bytes()[..], kind, content, &[0; 4]].concat()
    }

    fn riff(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let pad = &[0u8][..content.len() % 2];
        [&kind[..], &(content.len() as u32).to_le_bytes(), content, pad].concat()
    }

    /// The picture with a secret in each place that a format has for one.
    fn laden(format: Format) -> Vec<u8> {
        let plain = encode(&picture(), format, 90).expect("it can be written");
        match format {
            Format::Jpeg => {
                let exif = segment(0xE1, &[b"Exif\0\0", SECRET].concat());
                [&plain[..2], &exif, &segment(0xED, SECRET), &segment(0xFE, SECRET), &plain[2..], SECRET].concat()
            }
            Format::Png => {
                let (head, rest) = plain.split_at(8 + 25);
                [head, &chunk(b"tEXt", SECRET), &chunk(b"eXIf", SECRET), &chunk(b"iTXt", SECRET), rest, SECRET].concat()
            }
            Format::Webp => {
                let extended = riff(b"VP8X", &[0b1100, 0, 0, 0, 8, 0, 0, 6, 0, 0]);
                let body =
                    [b"WEBP", &extended[..], &plain[12..], &riff(b"EXIF", SECRET), &riff(b"XMP ", SECRET)].concat();
                [b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body, SECRET].concat()
            }
        }
    }

    #[test]
    fn every_format_loses_its_metadata_and_no_pixel() {
        for format in [Format::Jpeg, Format::Png, Format::Webp] {
            let laden = laden(format);
            assert!(laden.windows(SECRET.len()).any(|w| w == SECRET));
            let bare = strip(&laden).expect("it has the right form");
            assert!(!bare.windows(SECRET.len()).any(|w| w == SECRET), "{format:?} still tells");
            let pixels = |file: &[u8]| decode(file, &Limits::default()).expect("it can be decoded").rgb;
            assert_eq!(
                pixels(&bare),
                pixels(&encode(&picture(), format, 90).expect("it can be written")),
                "{format:?}"
            );
            assert_eq!(strip(&bare).as_ref(), Some(&bare), "{format:?}: there is nothing more to take");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_it_ends_and_is_no_longer(
            format in 0..3usize,
            cut in 0..2_000usize,
            flips in prop::collection::vec((0..2_000usize, any::<u8>()), 0..8),
        ) {
            let mut file = laden([Format::Jpeg, Format::Png, Format::Webp][format]);
            for (at, value) in flips {
                if let Some(byte) = file.get_mut(at) { *byte = value; }
            }
            file.truncate(cut.max(1));
            if let Some(bare) = strip(&file) {
                prop_assert!(bare.len() <= file.len());
            }
        }
    }
}
