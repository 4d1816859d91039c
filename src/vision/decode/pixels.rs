//! Whatever pixels a decoder gives, as 8-bit RGB on white, the right way up. Never scales.

use super::Picture;
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, RgbImage};

/// As 8-bit RGB: grey is spread, 16 bits are rounded, alpha is laid over white, as a page is.
pub(super) fn on_white(raw: Vec<u8>, color: ColorType) -> Vec<u8> {
    match color {
        ColorType::L8 => rgb::<1>(&raw, |[y]| [y; 3]),
        ColorType::La8 => rgb::<2>(&raw, |[y, a]| [over_white(y, a); 3]),
        ColorType::Rgba8 => rgb::<4>(&raw, |[r, g, b, a]| [over_white(r, a), over_white(g, a), over_white(b, a)]),
        ColorType::L16 => rgb::<2>(&raw, |p| [eight_bits(p, 0); 3]),
        ColorType::La16 => rgb::<4>(&raw, |p| [over_white(eight_bits(p, 0), eight_bits(p, 1)); 3]),
        ColorType::Rgb16 => rgb::<6>(&raw, |p| [0, 1, 2].map(|channel| eight_bits(p, channel))),
        ColorType::Rgba16 => {
            rgb::<8>(&raw, |p| [0, 1, 2].map(|channel| over_white(eight_bits(p, channel), eight_bits(p, 3))))
        }
        // 8-bit RGB; the formats here have no other.
        _ => raw,
    }
}

/// Maps pixels of `N` bytes.
fn rgb<const N: usize>(raw: &[u8], of: impl Fn([u8; N]) -> [u8; 3]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() / N * 3);
    for pixel in raw.as_chunks::<N>().0 {
        out.extend_from_slice(&of(*pixel));
    }
    out
}

fn over_white(channel: u8, alpha: u8) -> u8 {
    let mixed = u32::from(channel) * u32::from(alpha) + 255 * (255 - u32::from(alpha));
    u8::try_from((mixed + 127) / 255).unwrap_or(u8::MAX)
}

/// A channel of 16 bits in the machine's byte order, rounded to 8.
fn eight_bits<const N: usize>(pixel: [u8; N], channel: usize) -> u8 {
    let wide = u16::from_ne_bytes([pixel[2 * channel], pixel[2 * channel + 1]]);
    u8::try_from((u32::from(wide) + 128) / 257).unwrap_or(u8::MAX)
}

/// Turned and mirrored as the camera says.
pub(super) fn upright(rgb: Vec<u8>, width: u32, height: u32, orientation: Orientation) -> Picture {
    let picture = |rgb, width: u32, height: u32| Picture { width: width as usize, height: height as usize, rgb };
    if orientation == Orientation::NoTransforms {
        return picture(rgb, width, height);
    }
    let image = RgbImage::from_raw(width, height, rgb).expect("every picture has three bytes a pixel");
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation);
    let (width, height) = (image.width(), image.height());
    picture(image.into_rgb8().into_raw(), width, height)
}
