//! Turns pictures into the numbers that a model takes, as its description says. Never looks at what they mean.

use super::boxes::Placement;
use super::decode::Picture;
use super::describe::{Channels, Fit, Input, Layout};
use super::ink;
use super::resample::{Scaler, Window};
use bulkhead_core::fault::Fault;

/// Prepares pictures for one model, one after another.
#[derive(Debug)]
pub struct Preparation {
    input: Input,
    scaler: Scaler,
    /// What becomes of each 8-bit value, for each of the model's channels.
    normalised: Vec<[f32; 256]>,
}

impl Preparation {
    /// For the model with this input, whose description has no problems.
    #[must_use]
    pub fn new(input: &Input) -> Self {
        let table = |channel| std::array::from_fn(|value| normalised(input, channel, value as f32));
        let normalised = (0..input.channels.count()).map(table).collect();
        Self { input: input.clone(), scaler: Scaler::default(), normalised }
    }

    /// Appends a picture to a batch: `channels * height * width` values in the described layout.
    ///
    /// # Errors
    /// The poison fault `no_ink`, where `fit = "ink"` finds nothing drawn; nothing is appended then.
    pub fn append(&mut self, picture: &Picture, batch: &mut Vec<f32>) -> Result<(), Fault> {
        let rgb = match self.input.fit {
            Fit::Ink => return self.append_ink(picture, batch),
            Fit::Stretch => self.scaler.rgb(picture, Window::whole(picture), self.input.width, self.input.height),
            Fit::Cover => {
                let window = covered(picture, &self.input);
                self.scaler.rgb(picture, window, self.input.width, self.input.height)
            }
            Fit::Letterbox => self.letterboxed(picture),
        };
        self.lay_out(&rgb, batch);
        Ok(())
    }

    /// What a model can be tried on: one picture that runs from black to white.
    #[must_use]
    pub fn test_picture(&self) -> Vec<f32> {
        let Input { width, height, channels, .. } = self.input;
        let count = width * height * channels.count();
        (0..count).map(|i| self.normalised[0][i * 255 / count]).collect()
    }

    /// Where the input lies on a picture that was fitted into it; for every fit but `ink`.
    #[must_use]
    pub fn placement(&self, picture: &Picture) -> Placement {
        let (width, height) = (picture.width as f64, picture.height as f64);
        let (across, down) = (self.input.width as f64, self.input.height as f64);
        match self.input.fit {
            Fit::Cover => {
                let (left, top, part_width, part_height) = covered(picture, &self.input).place();
                Placement { across: part_width / across, down: part_height / down, left, top }
            }
            Fit::Letterbox => {
                let (inner_width, inner_height) = self.inner(picture);
                let (left, top) = ((self.input.width - inner_width) / 2, (self.input.height - inner_height) / 2);
                let (across, down) = (width / inner_width as f64, height / inner_height as f64);
                Placement { across, down, left: -(left as f64) * across, top: -(top as f64) * down }
            }
            Fit::Stretch | Fit::Ink => Placement { across: width / across, down: height / down, left: 0.0, top: 0.0 },
        }
    }

    fn append_ink(&self, picture: &Picture, batch: &mut Vec<f32>) -> Result<(), Fault> {
        let plane = ink::fit(picture, self.input.width, self.input.margin).map_err(|ink::NoInk| {
            Fault::poison("no_ink", "nothing is drawn on the picture: no part stands out from its background")
        })?;
        batch.extend(plane.values.iter().map(|v| normalised(&self.input, 0, v * 255.0)));
        Ok(())
    }

    /// The size of the whole picture within the input, its proportions kept.
    fn inner(&self, picture: &Picture) -> (usize, usize) {
        let Input { width, height, .. } = self.input;
        let scale = (width as f64 / picture.width as f64).min(height as f64 / picture.height as f64);
        let scaled = |side: usize, most: usize| ((side as f64 * scale).round() as usize).clamp(1, most);
        (scaled(picture.width, width), scaled(picture.height, height))
    }

    /// The whole picture, its proportions kept, in the middle of the input.
    fn letterboxed(&mut self, picture: &Picture) -> Vec<u8> {
        let Input { width, height, fill, .. } = self.input;
        let (inner_width, inner_height) = self.inner(picture);
        let inner = self.scaler.rgb(picture, Window::whole(picture), inner_width, inner_height);
        let mut rgb = vec![fill; 3 * width * height];
        let (left, top) = ((width - inner_width) / 2, (height - inner_height) / 2);
        for (row, from) in inner.chunks_exact(3 * inner_width).enumerate() {
            let at = 3 * ((top + row) * width + left);
            rgb[at..at + from.len()].copy_from_slice(from);
        }
        rgb
    }

    /// Normalised, in the model's order of channels and dimensions.
    fn lay_out(&self, rgb: &[u8], batch: &mut Vec<f32>) {
        let pixels = rgb.as_chunks::<3>().0;
        let order = match self.input.channels {
            Channels::Rgb => [0, 1, 2],
            Channels::Bgr => [2, 1, 0],
            Channels::Grey => {
                let table = &self.normalised[0];
                return batch.extend(pixels.iter().map(|p| table[usize::from(ink::luma(*p))]));
            }
        };
        match self.input.layout {
            Layout::Nchw => {
                for (table, channel) in self.normalised.iter().zip(order) {
                    batch.extend(pixels.iter().map(|p| table[usize::from(p[channel])]));
                }
            }
            Layout::Nhwc => {
                let [a, b, c] = order;
                let [first, second, third] = &self.normalised[..] else { return };
                let of = |p: &[u8; 3]| [first[usize::from(p[a])], second[usize::from(p[b])], third[usize::from(p[c])]];
                batch.extend(pixels.iter().flat_map(of));
            }
        }
    }
}

/// What a value of 0..=255 is to the model.
fn normalised(input: &Input, channel: usize, value: f32) -> f32 {
    let of = |values: &[f32]| values[channel.min(values.len() - 1)];
    (value * (input.white / 255.0) - of(&input.mean)) / of(&input.std)
}

/// What of a picture covers the input: its middle, in the input's proportions, less what `crop` cuts off.
fn covered(picture: &Picture, input: &Input) -> Window {
    let scale = (input.width as f64 / picture.width as f64).max(input.height as f64 / picture.height as f64);
    let part = |side: usize| side as f64 / scale * f64::from(input.crop);
    Window::middle(picture, part(input.width), part(input.height))
}

#[cfg(test)]
#[path = "prepare_tests.rs"]
mod tests;
