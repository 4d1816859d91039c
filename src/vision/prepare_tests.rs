//! The order, the size and the scale of what a model is given.

use super::*;
use proptest::prelude::*;

fn input(width: usize, height: usize, fit: Fit) -> Input {
    Input {
        width,
        height,
        layout: Layout::Nchw,
        channels: Channels::Rgb,
        fit,
        crop: 1.0,
        fill: 0,
        margin: 0,
        white: 1.0,
        mean: vec![0.0],
        std: vec![1.0],
    }
}

fn prepare(picture: &Picture, input: &Input) -> Result<Vec<f32>, Fault> {
    let mut batch = vec![7.0];
    let appended = Preparation::new(input).append(picture, &mut batch);
    assert_eq!(batch[0], 7.0, "what is there already stays");
    appended.map(|()| batch[1..].to_vec())
}

/// Left half red (255, 0, 0), right half (0, 51, 102).
fn halves(width: usize, height: usize) -> Picture {
    let rgb =
        (0..width * height).flat_map(|p| if p % width < width / 2 { [255, 0, 0] } else { [0, 51, 102] }).collect();
    Picture { width, height, rgb }
}

#[test]
fn channels_and_layouts_are_ordered_as_described() {
    let picture = halves(2, 1);
    let given = |layout, channels| {
        let input = Input { layout, channels, ..input(2, 1, Fit::Stretch) };
        prepare(&picture, &input).unwrap().iter().map(|v| (v * 255.0).round() as u8).collect::<Vec<_>>()
    };
    assert_eq!(given(Layout::Nchw, Channels::Rgb), [255, 0, 0, 51, 0, 102]);
    assert_eq!(given(Layout::Nhwc, Channels::Rgb), [255, 0, 0, 0, 51, 102]);
    assert_eq!(given(Layout::Nchw, Channels::Bgr), [0, 102, 0, 51, 255, 0]);
    assert_eq!(given(Layout::Nhwc, Channels::Grey), [76, 42]);
}

#[test]
fn mean_and_deviation_are_applied_after_white() {
    let picture = halves(2, 1);
    let mut described = input(2, 1, Fit::Stretch);
    (described.mean, described.std) = (vec![0.5, 0.0, 0.2], vec![0.5, 1.0, 2.0]);
    let wanted = [1.0, -1.0, 0.0, 0.2, -0.1, 0.1];
    for (got, wanted) in prepare(&picture, &described).unwrap().iter().zip(wanted) {
        assert!((got - wanted).abs() < 1e-6, "{got} is not {wanted}");
    }
    let bytes = Input { white: 255.0, mean: vec![100.0], ..input(2, 1, Fit::Stretch) };
    assert_eq!(prepare(&picture, &bytes).unwrap(), [155.0, -100.0, -100.0, -49.0, -100.0, 2.0]);
}

#[test]
fn cover_keeps_the_middle_and_the_proportions() {
    // 8 x 2, so a square shows its middle 2 x 2: half red, half not.
    let covered = prepare(&halves(8, 2), &input(2, 2, Fit::Cover)).unwrap();
    assert_eq!(covered[..4], [1.0, 0.0, 1.0, 0.0]);
    let stretched = prepare(&halves(8, 2), &input(4, 2, Fit::Stretch)).unwrap();
    assert!(stretched[1] < 1.0 && stretched[1] > 0.5, "stretching mixes across the edge: {stretched:?}");
}

#[test]
fn crop_keeps_the_middle_of_what_covers() {
    // Black but for a white middle of 4 x 4 in 8 x 8.
    let inside = |p: usize| (2..6).contains(&(p % 8)) && (2..6).contains(&(p / 8));
    let rgb = (0..64).flat_map(|p| [if inside(p) { 255 } else { 0 }; 3]).collect();
    let picture = Picture { width: 8, height: 8, rgb };
    let half = Input { crop: 0.5, channels: Channels::Grey, ..input(4, 4, Fit::Cover) };
    assert_eq!(prepare(&picture, &half).unwrap(), [1.0; 16]);
    let whole = Input { crop: 1.0, ..half };
    assert!(prepare(&picture, &whole).unwrap()[0] < 0.5);
}

#[test]
fn a_letterbox_shows_all_and_fills_the_rest() {
    let boxed = Input { channels: Channels::Grey, fill: 51, ..input(4, 4, Fit::Letterbox) };
    let wide = prepare(&halves(8, 4), &boxed).unwrap();
    let (red, other) = (76.0 / 255.0, 42.0 / 255.0);
    let row = |from: usize| wide[from * 4..][..4].to_vec();
    let filled = |v: &f32| (v - 0.2).abs() < 1e-6;
    assert!(row(0).iter().chain(&row(3)).all(filled), "{wide:?}");
    for row in [row(1), row(2)] {
        assert!((row[0] - red).abs() < 0.05 && (row[3] - other).abs() < 0.05, "{row:?}");
    }
    let line = prepare(&halves(300, 1), &boxed).unwrap();
    assert_eq!(line.iter().filter(|v| filled(v)).count(), 12);
}

#[test]
fn an_empty_page_is_poison() {
    let page = Picture { width: 40, height: 40, rgb: vec![200; 4800] };
    let input = Input { channels: Channels::Grey, margin: 4, ..input(28, 28, Fit::Ink) };
    assert_eq!(prepare(&page, &input).unwrap_err().code, "no_ink");
}

proptest! {
    #[test]
    fn any_picture_fits_any_input(w in 1..90usize, h in 1..90usize, to_w in 1..40usize, to_h in 1..40usize, which in 0..3usize) {
        let picture = halves(w, h);
        let fitted = prepare(&picture, &input(to_w, to_h, [Fit::Cover, Fit::Stretch, Fit::Letterbox][which])).unwrap();
        prop_assert_eq!(fitted.len(), 3 * to_w * to_h);
        prop_assert!(fitted.iter().all(|v| (-1e-5..=1.00001).contains(v)));
    }
}
