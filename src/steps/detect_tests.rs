//! The step with a small detector (tests/models/blobs.py) that really finds bright discs, on pictures of every shape.

use super::*;
use crate::steps::testing::context_in as context;
use crate::vision::decode::Picture;
use crate::vision::encode::{Format, encode};
use serde_json::Value;
use tempfile::TempDir;

fn blobs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/blobs.onnx")
}

/// A config directory with the model, described as it is but for what a test replaces.
fn described(replace: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().expect("a folder can be made");
    let model = std::fs::read(blobs()).expect("the model is there");
    let mut text = format!(
        "file = \"blobs.onnx\"\nsha256 = \"{}\"\nlabels = [\"small\", \"medium\", \"large\"]\n\
         [input]\nwidth = 64\nheight = 64\nlayout = \"nchw\"\nchannels = \"grey\"\nfit = \"stretch\"\n\
         [output]\nboxes = \"boxes\"\nscores = \"scores\"\nclasses = \"classes\"\nformat = \"cxcywh\"\nunit = \"pixels\"\n",
        crate::vision::model::sha256(&model)
    );
    for (from, to) in replace {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    std::fs::write(dir.path().join("blobs.onnx"), model).expect("it can be written");
    std::fs::write(dir.path().join("blobs.toml"), text).expect("it can be written");
    dir
}

fn config(more: &str) -> DetectConfig {
    toml::from_str(&format!("model = \"blobs.toml\"\n{more}")).expect("settings of a test are right")
}

fn found(dir: &Path, more: &str, file: Vec<u8>) -> Value {
    let mut step = config(more).factory(context(dir)).expect("it is right").build().expect("the model loads");
    let record = Record { value: Some(file.into()), ..Record::default() };
    match step.run(&[record], None).expect("it is not the stage's fault").remove(0) {
        Verdict::Emit(records) => serde_json::from_slice(records[0].payload()).expect("it is JSON"),
        other => panic!("{other:?}"),
    }
}

/// White discs on black: centre and radii across and down.
fn discs(width: usize, height: usize, discs: &[(f32, f32, f32, f32)]) -> Vec<u8> {
    let pixel = |at: usize| {
        let (x, y) = ((at % width) as f32 + 0.5, (at / width) as f32 + 0.5);
        let within = |(cx, cy, rx, ry): &(f32, f32, f32, f32)| ((x - cx) / rx).powi(2) + ((y - cy) / ry).powi(2) <= 1.0;
        if discs.iter().any(within) { [255; 3] } else { [0; 3] }
    };
    let picture = Picture { width, height, rgb: (0..width * height).flat_map(pixel).collect() };
    encode(&picture, Format::Png, 90).expect("it can be written")
}

/// Objects as label and box, each side within so many pixels.
fn assert_found(answer: &Value, wanted: &[(&str, [f32; 4])], tolerance: f32) {
    let objects = answer["objects"].as_array().expect("there is a list");
    assert_eq!(objects.len(), wanted.len(), "{answer}");
    for (label, wanted) in wanted {
        let is_near = |object: &&Value| {
            let sides: Vec<f32> = object["box"]
                .as_array()
                .expect("a box")
                .iter()
                .map(|side| side.as_f64().expect("a number") as f32)
                .collect();
            object["label"] == *label && sides.iter().zip(wanted).all(|(is, should)| (is - should).abs() <= tolerance)
        };
        assert!(objects.iter().any(|object| is_near(&object)), "no {label} at {wanted:?} in {answer}");
    }
}

#[test]
fn discs_are_found_by_size_each_once_and_in_the_pictures_own_pixels() {
    let dir = described(&[]);
    let picture = discs(64, 64, &[(14.0, 12.0, 3.0, 3.0), (45.0, 20.0, 6.0, 6.0), (26.0, 46.0, 11.0, 11.0)]);
    let answer = found(dir.path(), "", picture);
    let wanted =
        [("small", [11.0, 9.0, 17.0, 15.0]), ("medium", [39.0, 14.0, 51.0, 26.0]), ("large", [15.0, 35.0, 37.0, 57.0])];
    assert_found(&answer, &wanted, 2.0);
    assert_eq!((answer["width"].as_u64(), answer["height"].as_u64()), (Some(64), Some(64)));
    assert_eq!(answer["model"]["name"], "blobs");
    let scores: Vec<f64> =
        answer["objects"].as_array().expect("a list").iter().filter_map(|o| o["score"].as_f64()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "the surest first: {scores:?}");
}

#[test]
fn boxes_come_back_to_the_picture_however_it_was_fitted() {
    // Four times as wide, twice as high; a disc on the model's input is an ellipse here.
    let wide = discs(256, 128, &[(120.0, 60.0, 24.0, 12.0)]);
    assert_found(&found(described(&[]).path(), "", wide), &[("medium", [96.0, 48.0, 144.0, 72.0])], 6.0);
    // The whole picture in the middle of the input, half its height left free above and below.
    let dir = described(&[("\"stretch\"", "\"letterbox\"")]);
    let wide = discs(256, 128, &[(60.0, 44.0, 24.0, 24.0)]);
    assert_found(&found(dir.path(), "", wide), &[("medium", [36.0, 20.0, 84.0, 68.0])], 6.0);
    // The middle square: 64 pixels are cut off on either side.
    let dir = described(&[("\"stretch\"", "\"cover\"")]);
    let wide = discs(256, 128, &[(120.0, 60.0, 12.0, 12.0), (20.0, 60.0, 12.0, 12.0)]);
    assert_found(&found(dir.path(), "", wide), &[("medium", [108.0, 48.0, 132.0, 72.0])], 4.0);
}

#[test]
fn nothing_is_found_where_nothing_is_and_limits_hold() {
    let dir = described(&[]);
    assert_found(&found(dir.path(), "", discs(64, 64, &[])), &[], 0.0);
    let two = discs(64, 64, &[(16.0, 16.0, 6.0, 6.0), (46.0, 46.0, 6.0, 6.0)]);
    assert_eq!(found(dir.path(), "found_max = 1", two.clone())["objects"].as_array().map(Vec::len), Some(1));
    assert_found(&found(dir.path(), "threshold = 0.99", two), &[], 0.0);
}

#[test]
fn what_is_no_picture_is_rejected() {
    let dir = described(&[]);
    let mut step = config("").factory(context(dir.path())).expect("it is right").build().expect("the model loads");
    let record = |value: &'static [u8]| Record { value: Some(value.into()), ..Record::default() };
    let verdicts = step.run(&[record(b"GIF89a"), record(b"")], None).expect("it is their own fault");
    for (verdict, code) in verdicts.iter().zip(["not_an_image", "empty_image"]) {
        assert!(matches!(verdict, Verdict::Reject(fault) if fault.code == code), "{verdict:?}");
    }
}

#[test]
fn a_description_that_is_wrong_is_told_with_its_key() {
    for (from, to, problem) in [
        ("\"boxes\"", "\"bboxes\"", "output.boxes: the graph has no output `bboxes`; it has boxes, scores, classes"),
        ("width = 64", "width = 32", "input: gives 32-bit floats [1, 1, 64, 32]"),
        ("\"stretch\"", "\"ink\"", "input.fit"),
        ("labels = [\"small\", \"medium\", \"large\"]", "labels = []", "labels"),
        ("boxes = \"boxes\"", "boxes = \"scores\"", "output: boxes are [1, 3072]; rows of 4 are needed"),
        ("classes = \"classes\"\n", "", "output: 3072 boxes, but scores [1, 3072]"),
        ("sha256 = \"", "threshold = 1.5\nsha256 = \"", "threshold"),
    ] {
        let dir = described(&[(from, to)]);
        let problems = config("").check(context(dir.path()));
        assert!(problems.len() == 1 && problems[0].contains(problem), "{to}: {problems:?}");
    }
    let dir = described(&[]);
    std::fs::write(dir.path().join("blobs.onnx"), b"another").expect("it can be written");
    let problems = config("").check(context(dir.path()));
    assert!(problems.len() == 1 && problems[0].contains("sha256: "), "{problems:?}");
    for (more, problem) in
        [("threshold = 2.0", "threshold: must be 0 to 1"), ("found_max = 0", "found_max:"), ("threads = 0", "threads:")]
    {
        let problems = config(more).check(context(dir.path()));
        assert!(problems.len() == 1 && problems[0].starts_with(problem), "{more}: {problems:?}");
    }
}
