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

fn problems(text: &str) -> Vec<String> {
    let mut file = Single::<Description>::parse("m.toml".into(), text.into()).unwrap();
    Description::judge(&mut file);
    file.into_problems().iter().map(ToString::to_string).collect()
}

fn changed(changes: &[(&str, &str)]) -> Vec<String> {
    let text = changes.iter().fold(GOOD.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    });
    problems(&text)
}

#[test]
fn a_good_one_has_no_problems_and_the_defaults() {
    assert_eq!(problems(GOOD), Vec::<String>::new());
    let good = Single::<Description>::parse("m.toml".into(), GOOD.into()).unwrap().value;
    assert_eq!((good.top, good.input.white, good.input.crop, good.input.fit), (3, 1.0, 1.0, Fit::Cover));
    assert_eq!((good.name, good.version), (None, None));
}

#[test]
fn each_mistake_is_named_with_what_would_be_right() {
    for (change, said) in [
        (
            ("\"a.onnx\"", "\"../a.onnx\""),
            "m.toml:2:8: file = \"../a.onnx\": must be a path below the description's directory, without `..`",
        ),
        (
            ("\"a.onnx\"", "\"/a.onnx\""),
            "m.toml:2:8: file = \"/a.onnx\": must be a path below the description's directory, without `..`",
        ),
        (
            ("\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca49", "\""),
            "m.toml:3:10: sha256 = \"5991b7852b855\": is no SHA-256: 64 hexadecimal digits, as `sha256sum a.onnx` prints them",
        ),
        (("[\"cat\", \"dog\"]", "[\"cat\"]"), "m.toml:4:10: labels: has 1; a classifier has at least 2 classes"),
        (
            ("labels = [\"cat\", \"dog\"]", ""),
            "m.toml:1:1: labels: is missing; a list of class names, or labels_file, is needed",
        ),
        (
            ("labels = ", "labels_file = \"l.txt\"\nlabels = "),
            "m.toml:4:15: labels_file = \"l.txt\": is given beside labels; one of them is needed",
        ),
        (("softmax = true", "softmax = true\ntop = 0"), "m.toml:6:7: top = 0: must be at least 1"),
        (
            ("softmax = true", "softmax = true\nversion = \"1 b\""),
            "m.toml:6:11: version = \"1 b\": must be 1 to 100 printable characters without spaces",
        ),
        (
            ("softmax = true", "softmax = true\nname = \"\""),
            "m.toml:6:8: name = \"\": must be 1 to 100 printable characters without spaces",
        ),
        (("width = 224", "width = 0"), "m.toml:7:9: input.width = 0: must be 1 to 4096"),
        (
            ("[0.485, 0.456, 0.406]", "[0.4, 0.4]"),
            "m.toml:12:8: input.mean: has 2 values; 1 or 3 (one a channel) are needed",
        ),
        (("0.229", "0.0"), "m.toml:13:7: input.std: is divided by, so no value may be 0"),
        (("0.485", "nan"), "m.toml:12:9: input.mean[0] = nan: must be a finite number"),
        (("fit = ", "white = -1\nfit = "), "m.toml:11:9: input.white = -1: must be above 0, mostly 1 or 255"),
        (("fit = ", "crop = 0\nfit = "), "m.toml:11:8: input.crop = 0: must be above 0 and at most 1"),
        (
            ("fit = \"cover\"", "crop = 0.5\nfit = \"stretch\""),
            "m.toml:11:8: input.crop = 0.5: is for fit = \"cover\", which alone cuts anything off",
        ),
        (
            ("fit = ", "fill = 9\nfit = "),
            "m.toml:11:8: input.fill = 9: is for fit = \"letterbox\", which alone leaves anything free",
        ),
        (("fit = ", "margin = 9\nfit = "), "m.toml:11:10: input.margin = 9: is for fit = \"ink\""),
        (("\"cover\"", "\"ink\""), "m.toml:11:7: input.fit = \"ink\": gives one channel; it needs channels = \"grey\""),
        (
            ("\"cover\"", "\"crop\""),
            "m.toml:11:7: input.fit = \"crop\": is none of the choices; valid: stretch, cover, letterbox, ink",
        ),
        (
            ("\"nchw\"", "\"chw\""),
            "m.toml:9:10: input.layout = \"chw\": is none of the choices; valid: nchw, nhwc; did you mean nchw?",
        ),
    ] {
        assert_eq!(changed(&[change]), [said]);
    }
}

#[test]
fn all_mistakes_come_at_once() {
    assert_eq!(
        changed(&[
            ("width = 224", "width = 9"),
            ("\"cover\"", "\"ink\"\nmargin = 5"),
            ("\"rgb\"", "\"grey\""),
            ("softmax = true", "sofmax = true"),
            ("sha256", "sha-256"),
        ]),
        [
            "m.toml:1:1: sha256: is missing (The ONNX file's SHA-256, 64 hexadecimal digits, as `sha256sum` prints it)",
            "m.toml:1:1: softmax: is missing (Whether the outputs are logits, which softmax turns into scores)",
            "m.toml:3:1: sha-256: is an unknown key; valid: file, input, labels, labels_file, name, output, sha256, softmax, top, \
             version; did you mean sha256?",
            "m.toml:5:1: sofmax: is an unknown key; valid: file, input, labels, labels_file, name, output, sha256, softmax, top, \
             version; did you mean softmax?",
            "m.toml:11:7: input.fit = \"ink\": needs a square input, this one is 9 x 224",
            "m.toml:12:10: input.margin = 5: leaves no room for the ink in 9 pixels",
            "m.toml:13:8: input.mean: has 3 values; 1 is needed",
            "m.toml:14:7: input.std: has 3 values; 1 is needed",
        ]
    );
}
