//! What a model is refused for, in words; on our own model and changed copies of its description.

use super::*;
use crate::vision::onnx::{Library, Session, SessionOptions};
use bulkhead_testkit::onnx::{DOUBLE, FLOAT, Graph, flatten};
use std::path::Path;
use tempfile::TempDir;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/models")
}

/// A directory with the model and its description, changed.
fn changed(changes: &[(&str, &str)]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(models().join("digits.onnx"), dir.path().join("digits.onnx")).unwrap();
    let mut text = std::fs::read_to_string(models().join("digits.toml")).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "digits.toml has no {from}");
        text = text.replace(from, to);
    }
    let path = dir.path().join("m.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

/// What is said of the changed model, without the directory's name.
fn said(changes: &[(&str, &str)]) -> Vec<String> {
    let (dir, path) = changed(changes);
    let here = format!("{}/", dir.path().display());
    let problems = match Described::load(&path) {
        Err(problems) => problems,
        Ok(described) => match described.read_model() {
            Err(problem) => vec![problem],
            Ok(model) => {
                let library = Library::load(None).expect("run scripts/get-onnxruntime.sh");
                let session = Session::open(&library, &model, &SessionOptions::default()).unwrap();
                described.check_graph(session.signature()).err().unwrap_or_default()
            }
        },
    };
    problems.into_iter().map(|p| p.replace(&here, "")).collect()
}

const LABELS: &str = r#"["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]"#;

#[test]
fn our_model_is_what_its_description_says() {
    assert_eq!(said(&[]), Vec::<String>::new());
}

#[test]
fn each_mismatch_is_named_with_what_would_be_right() {
    assert_eq!(
        said(&[("digits.onnx", "digit.onnx")]),
        ["m.toml: file: `digit.onnx` cannot be read: No such file or directory (os error 2)"]
    );
    let wrong = "0".repeat(64);
    let right = Described::load(&models().join("digits.toml")).unwrap().description.sha256;
    assert_eq!(
        said(&[(&right, &wrong)]),
        [format!("m.toml: sha256: `{wrong}` is described, but digits.onnx has {right}; either is the wrong one")]
    );
    assert_eq!(
        said(&[("width    = 28", "width    = 32"), ("height   = 28", "height   = 32")]),
        [
            "m.toml: input: width, height, layout = \"nchw\" and channels = \"grey\" give [1, 1, 32, 32], but the graph's input \
          `image` is [?, 1, 28, 28]"
        ]
    );
    assert_eq!(
        said(&[("nchw", "nhwc"), (LABELS, r#"["0", "1"]"#)]),
        [
            "m.toml: input: width, height, layout = \"nhwc\" and channels = \"grey\" give [1, 28, 28, 1], but the graph's \
             input `image` is [?, 1, 28, 28]",
            "m.toml: labels: 2 of them, but the graph's output `logits` is [?, 10]: 10 labels are needed",
        ]
    );
    assert_eq!(
        said(&[("softmax = true", "output = \"scores\"\nsoftmax = true")]),
        ["m.toml: output: the graph has no output `scores`; it has logits"]
    );
}

#[test]
fn labels_come_from_a_file_too() {
    let from_file = [("labels  ", "labels_file"), (LABELS, "\"names.txt\"")];
    let (dir, path) = changed(&from_file);
    let gone = Described::load(&path).unwrap_err();
    assert!(gone[0].contains("labels_file = ") && gone[0].contains("names.txt` cannot be read"), "{gone:?}");
    std::fs::write(dir.path().join("names.txt"), "zero\r\none\ntwo\n").unwrap();
    let described = Described::load(&path).unwrap();
    assert_eq!(described.labels.iter().map(AsRef::as_ref).collect::<Vec<_>>(), ["zero", "one", "two"]);
}

#[test]
fn a_description_that_is_missing_or_no_toml_is_named() {
    let missing = Described::load(Path::new("/nowhere/m.toml")).unwrap_err();
    assert_eq!(missing, ["/nowhere/m.toml: cannot be read: No such file or directory (os error 2)"]);
    let unknown = said(&[("softmax", "soft_max")]);
    assert!(
        unknown[0].starts_with("m.toml:1:1: softmax: is missing") && unknown[1].contains("did you mean softmax?"),
        "{unknown:?}"
    );
}

#[test]
fn graphs_of_other_shapes_are_told_from_ours() {
    let described = Described::load(&models().join("digits.toml")).unwrap();
    let library = Library::load(None).expect("run scripts/get-onnxruntime.sh");
    let said = |graph: Graph<'_>| {
        let session = Session::open(&library, &flatten(&graph), &SessionOptions::default()).unwrap();
        let here = format!("{}: ", described.path.display());
        let problems = described.check_graph(session.signature()).err().unwrap_or_default();
        problems.into_iter().map(|p| p.replace(&here, "")).collect::<Vec<_>>()
    };
    let ours = [None, Some(1), Some(28), Some(28)];
    let free: &[Option<u64>] = &[None, None];
    // How many classes a free shape gives is seen when it runs.
    assert_eq!(said(Graph { input: &[None; 4], outputs: &[("out", free)], element: FLOAT }), Vec::<String>::new());
    assert_eq!(
        said(Graph { input: &ours, outputs: &[("out", free)], element: DOUBLE }),
        [
            "file: the graph's input `pixels` is a tensor of f64; 32-bit floats are needed",
            "output: the graph's output `out` is a tensor of f64; 32-bit floats are needed",
        ]
    );
    assert_eq!(
        said(Graph { input: &ours, outputs: &[("a", free), ("b", free)], element: FLOAT }),
        ["output: missing; the graph has several outputs: a, b"]
    );
    assert_eq!(
        said(Graph { input: &[None, Some(784)], outputs: &[("out", &[None, Some(784)])], element: FLOAT }),
        [
            "input: width, height, layout = \"nchw\" and channels = \"grey\" give [1, 1, 28, 28], but the graph's input `pixels` is \
             [?, 784]",
            "labels: 10 of them, but the graph's output `out` is [?, 784]: 784 labels are needed",
        ]
    );
}
