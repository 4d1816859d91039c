//! Boxes that a detector gives: read from its outputs, freed of those that say the same, and brought back to the picture as
//! it came. Never runs a model.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a row of a detector's boxes is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Left, top, right, bottom.
    Xyxy,
    /// Top, left, bottom, right (TensorFlow's).
    Yxyx,
    /// Left, top, width, height.
    Xywh,
    /// The centre's place, width, height (YOLO's).
    Cxcywh,
}

/// A box: left, top, right, bottom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rect {
    /// Its left side.
    pub left: f32,
    /// Its upper side.
    pub top: f32,
    /// Its right side.
    pub right: f32,
    /// Its lower side.
    pub bottom: f32,
}

/// Something that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Where.
    pub rect: Rect,
    /// How sure the model is.
    pub score: f32,
    /// Which class.
    pub class: usize,
}

impl Rect {
    /// The box that a row says, in the row's own unit.
    #[must_use]
    pub fn read(row: [f32; 4], format: Format) -> Self {
        let [a, b, c, d] = row;
        match format {
            Format::Xyxy => Self { left: a, top: b, right: c, bottom: d },
            Format::Yxyx => Self { left: b, top: a, right: d, bottom: c },
            Format::Xywh => Self { left: a, top: b, right: a + c, bottom: b + d },
            Format::Cxcywh => Self { left: a - c / 2.0, top: b - d / 2.0, right: a + c / 2.0, bottom: b + d / 2.0 },
        }
    }

    /// Its area; nothing where its sides are the wrong way round, or are no numbers.
    #[must_use]
    pub fn area(&self) -> f32 {
        let (width, height) = (self.right - self.left, self.bottom - self.top);
        if width > 0.0 && height > 0.0 { width * height } else { 0.0 }
    }

    /// How much two boxes are the same: their common area over that of both together, 0 to 1.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> f32 {
        let common = Self {
            left: self.left.max(other.left),
            top: self.top.max(other.top),
            right: self.right.min(other.right),
            bottom: self.bottom.min(other.bottom),
        };
        let (common, both) = (common.area(), self.area() + other.area());
        if common > 0.0 { common / (both - common) } else { 0.0 }
    }

    /// Moved and scaled, then cut at the sides of a picture.
    #[must_use]
    pub fn placed(&self, placement: &Placement, width: usize, height: usize) -> Self {
        let x = |x: f32| ((f64::from(x) * placement.across + placement.left) as f32).clamp(0.0, width as f32);
        let y = |y: f32| ((f64::from(y) * placement.down + placement.top) as f32).clamp(0.0, height as f32);
        Self { left: x(self.left), top: y(self.top), right: x(self.right), bottom: y(self.bottom) }
    }
}

/// Where a model's input lies on the picture that it was made of: `picture = input * across + left`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// Pixels of the picture for one of the input.
    pub across: f64,
    /// Pixels of the picture for one of the input.
    pub down: f64,
    /// Where the input's left side is.
    pub left: f64,
    /// Where its upper side is.
    pub top: f64,
}

/// Of boxes of one class that overlap more than `limit`, the surest alone; at most `most` in all, the surest first. Of equals
/// the first counts.
#[must_use]
pub fn suppress(mut found: Vec<Found>, limit: f32, most: usize) -> Vec<Found> {
    found.retain(|one| one.score.is_finite() && one.rect.area() > 0.0);
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<Found> = Vec::new();
    for one in found {
        if kept.len() == most {
            break;
        }
        if kept.iter().all(|other| other.class != one.class || other.rect.overlap(&one.rect) <= limit) {
            kept.push(one);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found() -> impl Strategy<Value = Found> {
        (0..40_u8, 0..40_u8, 0..20_u8, 0..20_u8, 0..100_u8, 0..3_usize).prop_map(|(x, y, w, h, score, class)| {
            let (left, top) = (f32::from(x), f32::from(y));
            let rect = Rect { left, top, right: left + f32::from(w), bottom: top + f32::from(h) };
            Found { rect, score: f32::from(score) / 100.0, class }
        })
    }

    /// Pixel by pixel: boxes have whole sides.
    fn counted(a: &Rect, b: &Rect) -> f32 {
        let holds = |r: &Rect, x: u8, y: u8| {
            let (x, y) = (f32::from(x) + 0.5, f32::from(y) + 0.5);
            r.left < x && x < r.right && r.top < y && y < r.bottom
        };
        let (mut common, mut either) = (0_u32, 0_u32);
        for (x, y) in (0..64).flat_map(|x| (0..64).map(move |y| (x, y))) {
            common += u32::from(holds(a, x, y) && holds(b, x, y));
            either += u32::from(holds(a, x, y) || holds(b, x, y));
        }
        if either == 0 { 0.0 } else { common as f32 / either as f32 }
    }

    /// Takes the surest that is left, strikes out what is too much like it, and begins again.
    fn naive(mut left: Vec<Found>, limit: f32, most: usize) -> Vec<Found> {
        let mut kept = Vec::new();
        left.retain(|one| one.rect.area() > 0.0);
        while kept.len() < most && !left.is_empty() {
            let mut best = 0;
            for (at, one) in left.iter().enumerate() {
                if one.score > left[best].score {
                    best = at;
                }
            }
            let one = left.remove(best);
            left.retain(|other| other.class != one.class || counted(&one.rect, &other.rect) <= limit);
            kept.push(one);
        }
        kept
    }

    proptest! {
        #[test]
        fn it_keeps_what_the_naive_way_keeps(found in prop::collection::vec(found(), 0..30), limit in 0..100_u8, most in 0..12_usize) {
            // Between the fractions that small whole boxes can have, so that rounding decides nothing.
            let limit = f32::from(limit) / 100.0 + 0.000_7;
            prop_assert_eq!(suppress(found.clone(), limit, most), naive(found, limit, most));
        }

        #[test]
        fn overlap_is_what_counting_pixels_gives(a in found(), b in found()) {
            let (a, b) = (a.rect, b.rect);
            prop_assert!((a.overlap(&b) - counted(&a, &b)).abs() < 1e-5);
            prop_assert!((a.overlap(&b) - b.overlap(&a)).abs() < 1e-6);
        }

        #[test]
        fn every_format_says_the_same_box(x in -50.0..50.0_f32, y in -50.0..50.0_f32, w in 0.0..50.0_f32, h in 0.0..50.0_f32) {
            let rect = Rect::read([x, y, x + w, y + h], Format::Xyxy);
            for other in [
                Rect::read([y, x, y + h, x + w], Format::Yxyx),
                Rect::read([x, y, w, h], Format::Xywh),
                Rect::read([x + w / 2.0, y + h / 2.0, w, h], Format::Cxcywh),
            ] {
                let off = [rect.left - other.left, rect.top - other.top, rect.right - other.right, rect.bottom - other.bottom];
                prop_assert!(off.iter().all(|off| off.abs() < 1e-3), "{:?} {:?}", rect, other);
            }
        }
    }

    #[test]
    fn what_is_no_number_or_inside_out_is_nothing() {
        let rect = Rect { left: 0.0, top: 0.0, right: 4.0, bottom: 4.0 };
        let one = Found { rect, score: 0.5, class: 0 };
        let odd = [
            Found { score: f32::NAN, ..one },
            Found { rect: Rect { right: -1.0, ..rect }, ..one },
            Found { rect: Rect { bottom: f32::NAN, ..rect }, ..one },
        ];
        assert_eq!(suppress([odd.as_slice(), &[one]].concat(), 0.5, 9), [one]);
    }

    #[test]
    fn a_box_is_cut_at_the_pictures_sides() {
        let placement = Placement { across: 2.0, down: 3.0, left: -4.0, top: 6.0 };
        let rect = Rect { left: 1.0, top: 1.0, right: 9.0, bottom: 9.0 }.placed(&placement, 10, 20);
        assert_eq!(rect, Rect { left: 0.0, top: 9.0, right: 10.0, bottom: 20.0 });
    }
}
