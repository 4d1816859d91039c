//! Finds what is drawn in a picture and fits it into a model's input: dark on light or light on dark, thin or thick, large
//! or small, anywhere, with a little noise. Never guesses what it is, and never invents ink on an empty page.
//!
//! `config/models/training/ink.py` is the reference: the model was trained on what it makes of pictures, so a change here
//! is a change there. A test compares the two.

use super::decode::Picture;
use super::resample::Plane;

/// Pixels; a larger picture is scaled down to this before anything is looked for.
const WORK_SIDE_MAX: usize = 512;
/// Pixels; a smaller picture (an 8 x 8 scan) has no pixel to spare for smoothing.
const SMOOTH_SIDE_MIN: usize = 48;
/// Of 255; nothing that differs less from the background counts as drawn.
const PEAK_MIN: f32 = 12.0;
/// Of the ink's peak; what lies above is a stroke.
const THRESHOLD: f32 = 0.3;
/// What lies within so many standard deviations of the background is noise.
const NOISE_SIGMAS: f32 = 4.0;
/// The standard deviation of normal noise over its median absolute deviation.
const SIGMA_OF_MAD: f32 = 1.4826;
/// Of the largest component's mass; a smaller one is dirt.
const SPECK_MASS: f32 = 0.04;

/// Nothing stands out from the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoInk;

/// The picture's ink as a `side` x `side` plane in 0..=1: bright on 0, cropped, its longer side `side - 2 * margin`, in
/// the middle.
///
/// # Errors
/// [`NoInk`] where the page is empty, or drowned in noise.
pub fn fit(picture: &Picture, side: usize, margin: usize) -> Result<Plane, NoInk> {
    let mut grey = grey(picture);
    let longer = grey.width.max(grey.height);
    if longer > WORK_SIDE_MAX {
        let scale = WORK_SIDE_MAX as f64 / longer as f64;
        grey = grey.resized(scaled(grey.width, scale), scaled(grey.height, scale));
    }
    let ink = Ink::of(grey)?;
    let strokes = ink.strokes();
    let cropped = ink.cropped(&strokes).ok_or(NoInk)?;
    let scale = (side - 2 * margin) as f64 / cropped.width.max(cropped.height) as f64;
    let small = cropped.resized(scaled(cropped.width, scale), scaled(cropped.height, scale));
    Ok(centred(&small, side))
}

fn scaled(n: usize, scale: f64) -> usize {
    ((n as f64 * scale + 0.5) as usize).max(1)
}

/// A picture's Rec. 601 luma, 0..=255, rounded.
fn grey(picture: &Picture) -> Plane {
    let values = picture.rgb.as_chunks::<3>().0.iter().map(|p| f32::from(luma(*p))).collect();
    Plane { width: picture.width, height: picture.height, values }
}

/// A pixel's Rec. 601 luma, rounded.
#[must_use]
pub fn luma([red, green, blue]: [u8; 3]) -> u8 {
    let sum = 299 * u32::from(red) + 587 * u32::from(green) + 114 * u32::from(blue);
    u8::try_from((sum + 500) / 1000).unwrap_or(u8::MAX)
}

/// How far each pixel lies from the background, positive on the side on which the ink is.
struct Ink {
    plane: Plane,
    peak: f32,
    threshold: f32,
}

impl Ink {
    fn of(mut grey: Plane) -> Result<Self, NoInk> {
        let background = median(&mut border(&grey));
        let (mut above, mut below) = (0.0, 0.0);
        for value in &mut grey.values {
            *value -= background;
            let square = f64::from(*value) * f64::from(*value);
            if *value > 0.0 { above += square } else { below += square }
        }
        if below > above {
            grey.values.iter_mut().for_each(|v| *v = -*v);
        }
        let plane = if grey.width.min(grey.height) >= SMOOTH_SIDE_MIN { smoothed(&grey) } else { grey };
        let mut deviations: Vec<f32> = border(&plane).iter().map(|v| v.abs()).collect();
        let noise = SIGMA_OF_MAD * median(&mut deviations);
        let peak = peak(&plane);
        if peak < PEAK_MIN.max(NOISE_SIGMAS * noise) {
            return Err(NoInk);
        }
        Ok(Self { plane, peak, threshold: (THRESHOLD * peak).max(NOISE_SIGMAS * noise) })
    }

    /// Which pixels belong to strokes: 8-connected components above the threshold, without the dirt.
    fn strokes(&self) -> Vec<bool> {
        let (width, height) = (self.plane.width, self.plane.height);
        let mut component = vec![0_usize; width * height]; // 0: none yet
        let mut masses = vec![0.0_f32];
        let mut open = Vec::new();
        for start in 0..width * height {
            if component[start] != 0 || self.plane.values[start] <= self.threshold {
                continue;
            }
            let mut mass = 0.0;
            component[start] = masses.len();
            open.push(start);
            while let Some(pixel) = open.pop() {
                mass += self.plane.values[pixel];
                for next in around(pixel, width, height) {
                    if component[next] == 0 && self.plane.values[next] > self.threshold {
                        component[next] = masses.len();
                        open.push(next);
                    }
                }
            }
            masses.push(mass);
        }
        let least = SPECK_MASS * masses.iter().copied().fold(0.0, f32::max);
        component.iter().map(|&c| c != 0 && masses[c] >= least).collect()
    }

    /// The strokes' bounding box: their ink and its soft edge as 0..=1, all else 0. `None` where there are no strokes.
    fn cropped(&self, strokes: &[bool]) -> Option<Plane> {
        let (width, height) = (self.plane.width, self.plane.height);
        let (mut left, mut right, mut top, mut bottom) = (width, 0, height, 0);
        for pixel in (0..strokes.len()).filter(|&p| strokes[p]) {
            let (x, y) = (pixel % width, pixel / width);
            (left, right, top, bottom) = (left.min(x), right.max(x), top.min(y), bottom.max(y));
        }
        if left > right {
            return None;
        }
        let mut values = Vec::with_capacity((right - left + 1) * (bottom - top + 1));
        for y in top..=bottom {
            for pixel in y * width + left..=y * width + right {
                let near = strokes[pixel] || around(pixel, width, height).any(|p| strokes[p]);
                values.push(if near { (self.plane.values[pixel] / self.peak).clamp(0.0, 1.0) } else { 0.0 });
            }
        }
        Some(Plane { width: right - left + 1, height: bottom - top + 1, values })
    }
}

/// The pixels of the outermost frame, one pixel wide.
fn border(plane: &Plane) -> Vec<f32> {
    let (width, height) = (plane.width, plane.height);
    let on_border = |x: usize, y: usize| x == 0 || y == 0 || x + 1 == width || y + 1 == height;
    let rows = (0..height).flat_map(|y| {
        let step = if y == 0 || y + 1 == height { 1 } else { (width - 1).max(1) };
        (0..width).step_by(step).map(move |x| (x, y))
    });
    rows.filter(|&(x, y)| on_border(x, y)).map(|(x, y)| plane.at(x, y)).collect()
}

/// The upper median: an element, never a mean of two. `values` has at least one.
fn median(values: &mut [f32]) -> f32 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}

/// How strong the ink is: not the strongest pixel but one of the strongest, so that single bright pixels do not count.
fn peak(plane: &Plane) -> f32 {
    let rank = ((plane.width + plane.height) / 32).max(2).min(plane.values.len());
    let mut values = plane.values.clone();
    let at = values.len() - rank;
    *values.select_nth_unstable_by(at, f32::total_cmp).1
}

/// Binomially smoothed, 3 x 3; the edge continues outwards.
fn smoothed(plane: &Plane) -> Plane {
    let (width, height) = (plane.width, plane.height);
    let mut rows = Vec::with_capacity(plane.values.len());
    for y in 0..height {
        let (before, after) = (y.saturating_sub(1), (y + 1).min(height - 1));
        rows.extend((0..width).map(|x| (plane.at(x, before) + 2.0 * plane.at(x, y) + plane.at(x, after)) / 4.0));
    }
    let mut values = Vec::with_capacity(rows.len());
    for row in rows.chunks_exact(width) {
        values.extend((0..width).map(|x| {
            let (before, after) = (x.saturating_sub(1), (x + 1).min(width - 1));
            (row[before] + 2.0 * row[x] + row[after]) / 4.0
        }));
    }
    Plane { width, height, values }
}

/// The up to eight neighbours of a pixel.
fn around(pixel: usize, width: usize, height: usize) -> impl Iterator<Item = usize> {
    let (x, y) = (pixel % width, pixel / width);
    let rows = y.saturating_sub(1)..=(y + 1).min(height - 1);
    rows.flat_map(move |ny| (x.saturating_sub(1)..=(x + 1).min(width - 1)).map(move |nx| ny * width + nx))
        .filter(move |&p| p != pixel)
}

/// In the middle of an empty square, its strongest value 1.
fn centred(small: &Plane, side: usize) -> Plane {
    let strongest = small.values.iter().copied().fold(0.0, f32::max);
    let mut values = vec![0.0; side * side];
    let (top, left) = ((side - small.height) / 2, (side - small.width) / 2);
    for (y, row) in small.values.chunks_exact(small.width).enumerate() {
        let at = (top + y) * side + left;
        for (out, value) in values[at..at + small.width].iter_mut().zip(row) {
            *out = value / strongest;
        }
    }
    Plane { width: side, height: side, values }
}

#[cfg(test)]
#[path = "ink_tests.rs"]
mod tests;
