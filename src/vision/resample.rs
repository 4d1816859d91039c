//! Scales pictures and planes of floats by one separable triangle filter, bilinear where it enlarges and counting every
//! pixel where it shrinks, as Pillow's `BILINEAR` does. The only place that names `fast_image_resize`. Never decides a
//! size.

use super::decode::Picture;
use fast_image_resize::images::{Image, ImageRef, TypedImage, TypedImageRef};
use fast_image_resize::pixels::F32;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

const TRIANGLE: ResizeAlg = ResizeAlg::Convolution(FilterType::Bilinear);

/// The part of a picture that is scaled, in pixels; it may begin within one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Window {
    /// The whole picture.
    #[must_use]
    pub fn whole(picture: &Picture) -> Self {
        Self { left: 0.0, top: 0.0, width: picture.width as f64, height: picture.height as f64 }
    }

    /// Where it lies and how large it is: left, top, width, height.
    #[must_use]
    pub fn place(&self) -> (f64, f64, f64, f64) {
        (self.left, self.top, self.width, self.height)
    }

    /// The middle of a picture; what is asked for beyond its sides is not given.
    #[must_use]
    pub fn middle(picture: &Picture, width: f64, height: f64) -> Self {
        let (left, width) = centred(picture.width, width);
        let (top, height) = centred(picture.height, height);
        Self { left, top, width, height }
    }
}

/// Where the middle part of a side begins, and how long it is: in steps so small that no pixel is missed and so large that
/// adding them up is exact.
fn centred(side: usize, part: f64) -> (f64, f64) {
    const STEPS: f64 = (1_u32 << 20) as f64;
    let side = side as f64;
    let part = (part.clamp(1.0 / STEPS, side) * STEPS).round() / STEPS;
    (((side - part) / 2.0 * STEPS).floor() / STEPS, part)
}

/// Scales pictures, one after another; keeps its buffers.
#[derive(Debug, Default)]
pub struct Scaler {
    resizer: Resizer,
}

impl Scaler {
    /// A window of a picture at another size (each side at least 1): `3 * width * height` bytes, red first.
    pub fn rgb(&mut self, picture: &Picture, window: Window, width: usize, height: usize) -> Vec<u8> {
        let source = ImageRef::new(pixels(picture.width), pixels(picture.height), &picture.rgb, PixelType::U8x3)
            .expect("a picture has three bytes a pixel");
        let mut scaled = Image::new(pixels(width), pixels(height), PixelType::U8x3);
        let Window { left, top, width, height } = window;
        let options = ResizeOptions::new().resize_alg(TRIANGLE).crop(left, top, width, height);
        self.resizer.resize(&source, &mut scaled, &options).expect("a window lies within its picture");
        scaled.into_vec()
    }
}

fn pixels(side: usize) -> u32 {
    u32::try_from(side).expect("a picture's side is limited")
}

/// One channel of a picture, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Plane {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// `width * height` values.
    pub values: Vec<f32>,
}

impl Plane {
    /// The value at a column and a row.
    #[must_use]
    pub fn at(&self, x: usize, y: usize) -> f32 {
        self.values[y * self.width + x]
    }

    /// This plane at another size (each side at least 1).
    #[must_use]
    pub fn resized(&self, width: usize, height: usize) -> Self {
        let values: Vec<F32> = self.values.iter().map(|&v| F32::new(v)).collect();
        let source = TypedImageRef::new(pixels(self.width), pixels(self.height), &values)
            .expect("a plane has one value a pixel");
        let mut scaled = TypedImage::<F32>::new(pixels(width), pixels(height));
        let options = ResizeOptions::new().resize_alg(TRIANGLE);
        Resizer::new().resize_typed(&source, &mut scaled, &options).expect("the whole plane lies within it");
        Self { width, height, values: scaled.pixels().iter().map(|p| p.0).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plane(width: usize, height: usize, seed: u64) -> Plane {
        let values = (0..width * height).map(|i| ((i as u64 * 2_654_435_761 + seed) % 256) as f32).collect();
        Plane { width, height, values }
    }

    /// Straight from the definition: every target pixel looks at every source pixel.
    fn naive(plane: &Plane, width: usize, height: usize) -> Vec<f32> {
        let weight = |from: usize, to: usize, i: usize, j: usize| {
            let scale = from as f64 / to as f64;
            (1.0 - (j as f64 + 0.5 - (i as f64 + 0.5) * scale).abs() / scale.max(1.0)).max(0.0)
        };
        let mut out = Vec::new();
        for y in 0..height {
            for x in 0..width {
                let (mut sum, mut total) = (0.0, 0.0);
                for sy in 0..plane.height {
                    for sx in 0..plane.width {
                        let w = weight(plane.width, width, x, sx) * weight(plane.height, height, y, sy);
                        sum += w * f64::from(plane.at(sx, sy));
                        total += w;
                    }
                }
                out.push((sum / total) as f32);
            }
        }
        out
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(w in 1..20usize, h in 1..20usize, to_w in 1..20usize, to_h in 1..20usize, seed: u64) {
            let source = plane(w, h, seed % 1000);
            let resized = source.resized(to_w, to_h);
            prop_assert_eq!((resized.width, resized.height), (to_w, to_h));
            let wanted = naive(&source, to_w, to_h);
            for (got, wanted) in resized.values.iter().zip(&wanted) {
                prop_assert!((got - wanted).abs() < 1e-2, "{got} is not {wanted}");
            }
            let rgb = source.values.iter().flat_map(|&v| [v as u8; 3]).collect();
            let picture = Picture { width: w, height: h, rgb };
            let scaled = Scaler::default().rgb(&picture, Window::whole(&picture), to_w, to_h);
            for (got, wanted) in scaled.chunks_exact(3).zip(wanted) {
                prop_assert!((f32::from(got[0]) - wanted).abs() <= 2.0, "{got:?} is not {wanted}");
                prop_assert!(got[0] == got[1] && got[1] == got[2]);
            }
        }

        #[test]
        fn the_middle_lies_within(side in 1..20_000usize, part in 0.0..30_000.0f64) {
            let (from, length) = centred(side, part);
            prop_assert!(from >= 0.0 && length > 0.0 && from + length <= side as f64);
            prop_assert!((length - part.min(side as f64)).abs() < 1e-5);
            prop_assert!((from * 2.0 + length - side as f64).abs() < 1e-5);
        }
    }

    #[test]
    fn the_same_size_is_the_same_picture() {
        let source = plane(7, 5, 3);
        assert_eq!(source.resized(7, 5), source);
    }
}
