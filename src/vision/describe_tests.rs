//! What a description's mistakes are answered with.

use super::*;

const GOOD: &str = r#"
file = "a.onnx"
sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
labels = ["cat", "dog"]
softmax = true
[input]
width = 224
height = 224
layout = "nchw"
channels = "rgb"
fit = "cover"
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
"#;

fn problems(change: (&str, &str)) -> Vec<String> {
    assert!(GOOD.contains(change.0), "{}", change.0);
    Description::parse(&GOOD.replace(change.0, change.1)).unwrap().problems()
}

#[test]
fn a_good_one_has_no_problems_and_the_defaults() {
    let good = Description::parse(GOOD).unwrap();
    assert_eq!(good.problems(), Vec::<String>::new());
    assert_eq!((good.top, good.input.white, good.input.crop, good.input.fit), (3, 1.0, 1.0, Fit::Cover));
}

#[test]
fn each_mistake_is_named_with_what_would_be_right() {
    for (change, said) in [
        (
            ("\"a.onnx\"", "\"../a.onnx\""),
            "file: `../a.onnx` must be a path below the description's directory, without `..`",
        ),
        (
            ("\"a.onnx\"", "\"/a.onnx\""),
            "file: `/a.onnx` must be a path below the description's directory, without `..`",
        ),
        (
            ("\"e3b0", "\""),
            "sha256: `c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855` is no SHA-256; 64 hexadecimal digits are \
             needed, `sha256sum a.onnx` prints them",
        ),
        (("[\"cat\", \"dog\"]", "[\"cat\"]"), "labels: 1 of them; a classifier has at least 2 classes"),
        (("labels = [\"cat\", \"dog\"]", ""), "labels: missing; a list of class names, or labels_file, is needed"),
        (
            ("labels = ", "labels_file = \"l.txt\"\nlabels = "),
            "labels, labels_file: both are given; one of them is needed",
        ),
        (("softmax = true", "softmax = true\ntop = 0"), "top: 0 classes would be named; at least 1 is needed"),
        (("width = 224", "width = 0"), "input.width: 0 pixels; 1 to 4096 are possible"),
        (("[0.485, 0.456, 0.406]", "[0.4, 0.4]"), "input.mean: 2 values; 1 or 3 (one a channel) are needed"),
        (("0.229", "0.0"), "input.std: every value is divided by, so none may be 0, infinite or not a number"),
        (("0.485", "nan"), "input.mean: every value must be a finite number"),
        (
            ("fit = ", "white = -1\nfit = "),
            "input.white: -1 is not possible; a number above 0 is needed, mostly 1 or 255",
        ),
        (
            ("softmax = true", "softmax = true\nversion = \"1 b\""),
            "version: `1 b` is not possible; 1 to 100 printable characters without spaces are",
        ),
        (
            ("softmax = true", "softmax = true\nname = \"\""),
            "name: `` is not possible; 1 to 100 printable characters without spaces are",
        ),
        (("fit = ", "crop = 0\nfit = "), "input.crop: 0 is no share of a side; above 0 and up to 1 are possible"),
        (("fit = \"cover\"", "crop = 0.5\nfit = \"stretch\""), "input.crop: only fit = \"cover\" cuts anything off"),
        (("\"cover\"", "{ ink = { margin = 4 } }"), "input.fit: ink gives one channel; it needs channels = \"grey\""),
    ] {
        assert_eq!(problems(change), [said]);
    }
}

#[test]
fn all_mistakes_come_at_once() {
    let text = GOOD
        .replace("width = 224", "width = 9")
        .replace("\"cover\"", "{ ink = { margin = 5 } }")
        .replace("\"rgb\"", "\"grey\"");
    let found = Description::parse(&text).unwrap().problems();
    assert_eq!(
        found,
        [
            "input.mean: 3 values; 1 is needed",
            "input.std: 3 values; 1 is needed",
            "input.fit: ink needs a square input, this one is 9 x 224",
            "input.fit: a margin of 5 leaves no room for the ink in 9 pixels; less than half is needed",
        ]
    );
}

#[test]
fn a_wrong_key_or_value_is_told_with_its_place_and_the_choices() {
    let unknown = Description::parse(&GOOD.replace("softmax", "sofmax")).unwrap_err();
    assert!(unknown.contains("line 5") && unknown.contains("unknown field `sofmax`"), "{unknown}");
    let layout = Description::parse(&GOOD.replace("nchw", "chw")).unwrap_err();
    assert!(layout.contains("unknown variant `chw`, expected `nchw` or `nhwc`"), "{layout}");
    let fit = Description::parse(&GOOD.replace("\"cover\"", "\"crop\"")).unwrap_err();
    assert!(fit.contains("expected one of `stretch`, `cover`, `letterbox`, `ink`"), "{fit}");
}
