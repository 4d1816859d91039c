//! Ink is found wherever, however large, thick and light it is; and what Rust finds is what Python finds.

use super::*;
use crate::vision::decode::{Limits, decode};
use proptest::prelude::*;
use serde::Deserialize;
use std::path::Path;

/// An L of two strokes on a page, with a stripe of noise from a fixed generator.
fn page(size: usize, at: (usize, usize), height: usize, pen: usize, ink: u8, ground: u8, noise: u8) -> Picture {
    let mut random = 1_u32;
    let mut rgb = Vec::with_capacity(size * size * 3);
    for y in 0..size {
        for x in 0..size {
            let (dx, dy) = (x.wrapping_sub(at.0), y.wrapping_sub(at.1));
            let on = dy < height && dx < height / 2 && (dx < pen || dy >= height - pen);
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let shift = if noise == 0 { 0 } else { (random >> 24) as i32 % i32::from(noise) - i32::from(noise) / 2 };
            let value = (i32::from(if on { ink } else { ground }) + shift).clamp(0, 255) as u8;
            rgb.extend([value; 3]);
        }
    }
    Picture { width: size, height: size, rgb }
}

fn distance(a: &Plane, b: &Plane) -> f32 {
    a.values.iter().zip(&b.values).map(|(x, y)| (x - y).abs()).sum::<f32>() / a.values.len() as f32
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn place_size_polarity_and_noise_do_not_matter(x in 0..100usize, y in 0..60usize, size in 180..600usize, dark: bool, noise in 0..16u8) {
        let (ink, ground) = if dark { (30, 220) } else { (225, 20) };
        let wanted = fit(&page(200, (40, 40), 100, 10, 20, 240, 0), 28, 4).unwrap();
        let got = fit(&page(size, (20 + x, 20 + y), 100, 10, ink, ground, noise), 28, 4).unwrap();
        prop_assert!(distance(&wanted, &got) < 0.03, "off by {}", distance(&wanted, &got));
        let rows: Vec<usize> = (0..28).filter(|r| got.values[r * 28..][..28].iter().any(|&v| v > 0.0)).collect();
        prop_assert_eq!((rows[0], rows[rows.len() - 1]), (4, 23), "not within its margin");
    }

    #[test]
    fn any_picture_is_answered(width in 1..70usize, height in 1..70usize, seed: u32, contrast in 0..255u32) {
        let mut random = seed;
        let rgb = (0..width * height * 3).map(|_| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((random >> 24) * contrast / 255) as u8
        }).collect();
        if let Ok(plane) = fit(&Picture { width, height, rgb }, 28, 4) {
            prop_assert!(plane.values.iter().all(|v| (0.0..=1.0).contains(v)));
        }
    }
}

#[test]
fn specks_are_not_part_of_it() {
    let clean = page(200, (60, 60), 100, 8, 20, 240, 0);
    let mut dirty = clean.clone();
    for pixel in [5 * 200 + 5, 190 * 200 + 190, 20 * 200 + 180] {
        dirty.rgb[pixel * 3..pixel * 3 + 3].fill(0);
    }
    assert_eq!(fit(&clean, 28, 4), fit(&dirty, 28, 4));
}

#[test]
fn an_empty_page_has_no_ink() {
    assert_eq!(fit(&page(100, (0, 0), 0, 0, 0, 255, 0), 28, 4), Err(NoInk));
    assert_eq!(fit(&page(100, (0, 0), 0, 0, 0, 200, 12), 28, 4), Err(NoInk));
    assert_eq!(fit(&Picture { width: 1, height: 1, rgb: vec![9; 3] }, 28, 4), Err(NoInk));
}

#[derive(Deserialize)]
struct Golden {
    side: usize,
    margin: usize,
    pictures: Vec<GoldenPicture>,
}

#[derive(Deserialize)]
struct GoldenPicture {
    sample: String,
    input: Vec<f32>,
}

/// The model was trained on what Python makes of pictures.
#[test]
fn agrees_with_the_reference_in_python() {
    let golden: Golden = serde_json::from_str(include_str!("ink_golden.json")).unwrap();
    assert!(golden.pictures.len() >= 5);
    for picture in golden.pictures {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/models/samples").join(&picture.sample);
        let decoded = decode(&std::fs::read(path).unwrap(), &Limits::default()).unwrap();
        let fitted = fit(&decoded, golden.side, golden.margin).unwrap();
        let worst = fitted.values.iter().zip(&picture.input).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-3, "{}: a pixel is off by {worst}", picture.sample);
    }
}
