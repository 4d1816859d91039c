//! Turns a picture into the numbers that a model takes, as its description says. Never looks at what they mean.

use super::decode::Picture;
use super::describe::{Channels, Fit, Input, Layout};
use super::ink;
use super::resample::Plane;
use bulkhead_core::fault::Fault;

/// A picture as the model's input: `channels * height * width` values in the described layout.
///
/// # Errors
/// The poison fault `no_ink`, where `fit = { ink }` finds nothing drawn.
pub fn prepare(picture: &Picture, input: &Input) -> Result<Vec<f32>, Fault> {
    let planes = match input.fit {
        Fit::Ink { margin } => vec![inked(picture, input.width, margin)?],
        Fit::Stretch => {
            channels(picture, input.channels).into_iter().map(|p| p.resized(input.width, input.height)).collect()
        }
        Fit::Cover => channels(picture, input.channels).into_iter().map(|p| covering(&p, input)).collect(),
    };
    Ok(laid_out(&planes, input))
}

fn inked(picture: &Picture, side: usize, margin: usize) -> Result<Plane, Fault> {
    let mut plane = ink::fit(picture, side, margin).map_err(|ink::NoInk| {
        Fault::poison("no_ink", "nothing is drawn on the picture: no part stands out from its background")
    })?;
    plane.values.iter_mut().for_each(|v| *v *= 255.0);
    Ok(plane)
}

/// The picture's channels, 0..=255, in the model's order.
fn channels(picture: &Picture, channels: Channels) -> Vec<Plane> {
    let plane = |values| Plane { width: picture.width, height: picture.height, values };
    let channel = |i: usize| plane(picture.rgb.iter().skip(i).step_by(3).map(|&v| f32::from(v)).collect());
    match channels {
        Channels::Rgb => vec![channel(0), channel(1), channel(2)],
        Channels::Bgr => vec![channel(2), channel(1), channel(0)],
        Channels::Grey => vec![ink::grey(picture)],
    }
}

/// Scaled until it covers the input, the middle of it.
fn covering(plane: &Plane, input: &Input) -> Plane {
    let scale = (input.width as f64 / plane.width as f64).max(input.height as f64 / plane.height as f64);
    let scaled = |n: usize, least: usize| ((n as f64 * scale + 0.5) as usize).max(least);
    let (width, height) = (scaled(plane.width, input.width), scaled(plane.height, input.height));
    // A thin picture would be scaled to something huge only to be cut: what is cut anyway is cut first.
    let (left, top) = ((width - input.width) / 2, (height - input.height) / 2);
    let (keep_width, keep_height) = (kept(plane.width, input.width, width), kept(plane.height, input.height, height));
    let (from_x, from_y) = (left * plane.width / width, top * plane.height / height);
    let mut values = Vec::with_capacity(keep_width * keep_height);
    for y in from_y..from_y + keep_height {
        values.extend_from_slice(&plane.values[y * plane.width + from_x..][..keep_width]);
    }
    Plane { width: keep_width, height: keep_height, values }.resized(input.width, input.height)
}

/// How many source pixels lie under `target` of the `scaled` ones that `source` becomes.
fn kept(source: usize, target: usize, scaled: usize) -> usize {
    ((source as f64 * target as f64 / scaled as f64 + 0.5) as usize).clamp(1, source)
}

/// Normalised and in the model's order of dimensions.
fn laid_out(planes: &[Plane], input: &Input) -> Vec<f32> {
    let of = |values: &[f32], channel: usize| values[channel.min(values.len() - 1)];
    let factor = input.white / 255.0;
    let normal = |v: f32, channel: usize| (v * factor - of(&input.mean, channel)) / of(&input.std, channel);
    match input.layout {
        Layout::Nchw => {
            let channel =
                |(i, plane): (usize, &Plane)| plane.values.iter().map(move |&v| normal(v, i)).collect::<Vec<_>>();
            planes.iter().enumerate().flat_map(channel).collect()
        }
        Layout::Nhwc => (0..input.width * input.height)
            .flat_map(|pixel| planes.iter().enumerate().map(move |(i, plane)| normal(plane.values[pixel], i)))
            .collect(),
    }
}

#[cfg(test)]
#[path = "prepare_tests.rs"]
mod tests;
