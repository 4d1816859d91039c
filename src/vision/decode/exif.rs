//! Which way up a camera held the picture: EXIF's orientation, wherever a format keeps it. Never turns anything.

use image::metadata::Orientation;

const PNG_SIGNATURE: usize = 8;

/// The orientation in an EXIF block, with or without JPEG's prefix: some writers of WebP and PNG keep it.
pub(super) fn orientation(exif: &[u8]) -> Option<Orientation> {
    Orientation::from_exif_chunk(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif))
}

/// A PNG's `eXIf` chunk, wherever it stands: `image` does not look behind the pixels, where some writers put it.
pub(super) fn in_png(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.get(PNG_SIGNATURE..)?;
    loop {
        let (length, kind) = (rest.get(..4)?, rest.get(4..8)?);
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let data = rest.get(8..8 + length)?;
        if kind == b"eXIf" {
            return Some(data);
        }
        rest = rest.get(8 + length + 4..)?; // behind its CRC
    }
}
