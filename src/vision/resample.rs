//! Scales planes of floats: one separable triangle filter, bilinear where it enlarges and counting every pixel where it
//! shrinks, as Pillow's `BILINEAR` does. Never decides a size.

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
        self.columns_to(width).rows_to(height)
    }

    fn columns_to(&self, width: usize) -> Self {
        let taps = taps(self.width, width);
        let mut values = Vec::with_capacity(width * self.height);
        for row in self.values.chunks_exact(self.width) {
            for tap in &taps {
                values.push(row[tap.first..].iter().zip(&tap.weights).map(|(v, w)| v * w).sum());
            }
        }
        Self { width, height: self.height, values }
    }

    fn rows_to(&self, height: usize) -> Self {
        let mut values = vec![0.0; self.width * height];
        for (tap, out) in taps(self.height, height).iter().zip(values.chunks_exact_mut(self.width)) {
            for (row, weight) in self.values[tap.first * self.width..].chunks_exact(self.width).zip(&tap.weights) {
                for (sum, value) in out.iter_mut().zip(row) {
                    *sum += value * weight;
                }
            }
        }
        Self { width: self.width, height, values }
    }
}

/// The source pixels that one target pixel is made of, and how much of each; the weights sum to 1.
struct Tap {
    first: usize,
    weights: Vec<f32>,
}

fn taps(from: usize, to: usize) -> Vec<Tap> {
    let scale = from as f64 / to as f64;
    let support = scale.max(1.0);
    (0..to)
        .map(|i| {
            let centre = (i as f64 + 0.5) * scale;
            let first = (centre - support - 0.5).floor().max(0.0) as usize;
            let last = ((centre + support - 0.5).ceil() as usize).min(from - 1);
            let weight = |j: usize| (1.0 - (j as f64 + 0.5 - centre).abs() / support).max(0.0);
            let sum: f64 = (first..=last).map(weight).sum();
            Tap { first, weights: (first..=last).map(|j| (weight(j) / sum) as f32).collect() }
        })
        .collect()
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
            for (got, wanted) in resized.values.iter().zip(naive(&source, to_w, to_h)) {
                prop_assert!((got - wanted).abs() < 1e-2, "{got} is not {wanted}");
            }
        }
    }

    #[test]
    fn the_same_size_is_the_same_picture() {
        let source = plane(7, 5, 3);
        assert_eq!(source.resized(7, 5), source);
    }
}
