//! A model of one's own, as docs/models.md brings it: `bulkhead model check` says what it is and all that is wrong, and
//! a daemon classifies with it. The graphs are MobileNetV2's, narrow and with random weights.
//!
//! After a change that is meant: `BLESS=1 cargo test --test own_model`, and read the diff of `tests/golden_model/`.

use bulkhead::config::{reference, schema};
use bulkhead::vision::model::sha256;
use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use bulkhead_testkit::mobilenet::MobileNet;
use bulkhead_testkit::onnx::{DOUBLE, FLOAT, Graph, flatten};
use bulkhead_testkit::process::eventually;
use reqwest::blocking::multipart::{Form, Part};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_bulkhead");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PATIENCE: Duration = Duration::from_secs(60);
const CLASSES: u64 = 1000;

fn kept(name: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(name)).unwrap_or_default()
}

/// What `model check` prints for a file in a folder, and its exit code; how long a run took is left out.
fn told(folder: &Path, file: &str) -> String {
    let output = Command::new(BINARY)
        .current_dir(folder)
        .args(["model", "check", "--runs", "2", file])
        .output()
        .expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("it prints text");
    let untimed =
        |line: &str| if line.starts_with("one run") { "one run   (timed)".to_owned() } else { line.to_owned() };
    let shown: Vec<String> = text(output.stdout).lines().map(untimed).collect();
    let code = output.status.code().expect("it exits");
    format!("{}\n{}exit code {code}\n", shown.join("\n"), text(output.stderr))
}

/// A small MobileNetV2.
fn narrow(side: u64, nhwc: bool, softmax: bool) -> Vec<u8> {
    MobileNet { side, width: 0.1, classes: CLASSES, nhwc, softmax }.onnx()
}

/// A folder with files.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).expect("it can be written");
    }
    folder
}

fn labels() -> Vec<u8> {
    (0..CLASSES).map(|class| format!("class {class}\n")).collect::<String>().into_bytes()
}

/// docs/models.md's descriptions: each block of TOML that names a file.
fn examples() -> Vec<String> {
    let page = kept("docs/models.md");
    let blocks = page.split("```toml\n").skip(1).filter_map(|block| block.split("```").next());
    blocks.filter(|block| block.contains("sha256")).map(str::to_owned).collect()
}

/// A value of a description by its key.
fn value(description: &toml::Table, path: &str) -> String {
    let mut value = &toml::Value::Table(description.clone());
    for key in path.split('.') {
        value = &value[key];
    }
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Writes the model that a description describes, its labels, and the description with its SHA-256; gives back its name.
fn bring(description: &str, folder: &Path) -> String {
    let parsed: toml::Table = description.parse().expect("an example is TOML");
    let side = value(&parsed, "input.width").parse().expect("a number");
    let model = narrow(side, value(&parsed, "input.layout") == "nhwc", value(&parsed, "softmax") == "false");
    let file = value(&parsed, "file");
    std::fs::write(folder.join(&file), &model).expect("it can be written");
    std::fs::write(folder.join(value(&parsed, "labels_file")), labels()).expect("it can be written");
    let name = file.replace(".onnx", ".toml");
    let text = description.replace(&value(&parsed, "sha256"), &sha256(&model));
    std::fs::write(folder.join(&name), text).expect("it can be written");
    name
}

#[test]
fn the_page_has_every_key_as_the_types_say() {
    let command = "put what `cargo run --bin bulkhead -- schema --model --reference` prints at its end";
    assert!(kept("docs/models.md").ends_with(&reference::model()), "docs/models.md is stale: {command}");
    let command = "cargo run --bin bulkhead -- schema --model > config/models/schema.json";
    assert!(
        kept("config/models/schema.json") == schema::text(&schema::model()),
        "config/models/schema.json is stale: {command}"
    );
}

#[test]
fn every_example_of_the_page_describes_such_a_model() {
    let examples = examples();
    assert!(examples.len() >= 5, "{}", examples.len());
    for example in examples {
        let folder = folder(&[]);
        let name = bring(&example, folder.path());
        let told = told(folder.path(), &name);
        assert!(told.ends_with("\nexit code 0\n"), "{name}:\n{told}");
    }
}

#[test]
fn what_is_said_of_a_model_is_what_was_agreed() {
    let (logits, scores) = (narrow(32, false, false), narrow(32, true, true));
    let description = |model: &[u8], rest: &str| format!("sha256 = \"{}\"\n{rest}", sha256(model)).into_bytes();
    let contradicted = "file = \"scores.onnx\"\nlabels = [\"cat\", \"dog\"]\nsoftmax = true\n[input]\nwidth = 33\nheight = 32\n\
                        layout = \"nchw\"\nchannels = \"rgb\"\nfit = \"cover\"\n";
    let unlike = "file = \"scores.onnx\"\nlabels_file = \"labels.txt\"\nsoftmax = true\n[input]\nwidth = 32\nheight = 32\n\
                  layout = \"nhwc\"\nchannels = \"rgb\"\nfit = \"stretch\"\n";
    let lacking = "file = \"logits.onnx\"\nsha256 = \"12\"\nlabel = []\n[input]\nwidth = 0\nlayout = \"ncwh\"\nmean = [1, 2]\n\
                   fit = \"stretch\"\ncrop = 0.9\n";
    let row = [None, Some(784)];
    let rows = flatten(&Graph { input: &row, outputs: &[("out", &row)], element: FLOAT });
    let picture = [None, Some(3), None, None];
    let doubles = flatten(&Graph { input: &picture, outputs: &[("out", &[None, None])], element: DOUBLE });
    let folder = folder(&[
        ("logits.onnx", &logits),
        ("scores.onnx", &scores),
        ("labels.txt", &labels()),
        ("contradicted.toml", &description(&scores, contradicted)),
        ("unlike.toml", &description(&scores, unlike)),
        ("wrong_file.toml", &description(&logits, unlike)),
        ("lacking.toml", lacking.as_bytes()),
        ("no_toml.toml", b"file ="),
        ("rows.onnx", &rows),
        ("doubles.onnx", &doubles),
        ("no_model.onnx", b"not an ONNX file"),
    ]);
    let shipped = Path::new(ROOT).join("config/models");
    let mut cases: Vec<(&Path, &str)> = vec![(&shipped, "digits.toml")];
    cases.extend(
        [
            "logits.onnx",
            "scores.onnx",
            "contradicted.toml",
            "unlike.toml",
            "wrong_file.toml",
            "lacking.toml",
            "no_toml.toml",
        ]
        .into_iter()
        .chain(["rows.onnx", "doubles.onnx", "no_model.onnx", "missing.toml", "missing.onnx", "picture.png"])
        .map(|name| (folder.path(), name)),
    );
    let mut different = Vec::new();
    for (folder, name) in cases {
        let told = told(folder, name);
        let file = Path::new(ROOT).join("tests/golden_model").join(format!("{name}.txt"));
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&file, told).expect("it can be written");
        } else if std::fs::read_to_string(&file).unwrap_or_default() != told {
            different.push(format!("{}:\n{told}", file.display()));
        }
    }
    assert!(different.is_empty(), "not as expected (BLESS=1 accepts it):\n{}", different.join("\n"));
}

/// A suggested description is one: saved as it is, it has no problem.
#[test]
fn what_is_suggested_can_be_used() {
    for (nhwc, softmax) in [(false, false), (true, true)] {
        let folder = folder(&[("own.onnx", &narrow(32, nhwc, softmax)), ("labels.txt", &labels())]);
        let suggested = told(folder.path(), "own.onnx");
        let begin = suggested.find("\n# A description").expect("one is suggested");
        let end = suggested.rfind("exit code").expect("it exits");
        std::fs::write(folder.path().join("own.toml"), &suggested[begin..end]).expect("it can be written");
        let told = told(folder.path(), "own.toml");
        assert!(told.ends_with("\nexit code 0\n"), "{told}");
    }
}

/// The page's first example in the shipped pipeline, on the embedded log.
#[test]
fn a_daemon_classifies_with_it_and_stamps_its_version() {
    let config = folder(&[("bulkhead.toml", kept("config/bulkhead.toml").as_bytes())]);
    for name in ["models", "pipelines", "pages"] {
        std::fs::create_dir(config.path().join(name)).expect("a folder can be made");
    }
    for page in ["classify.html", "classify.css", "classify.js", "classify.svg"].map(|name| format!("pages/{name}")) {
        std::fs::write(config.path().join(&page), kept(&format!("config/{page}"))).expect("it can be written");
    }
    let model = bring(&examples()[0], &config.path().join("models"));
    let pipeline = kept("config/pipelines/classify.toml").replace("digits.toml", &model);
    std::fs::write(config.path().join("pipelines/classify.toml"), pipeline).expect("it can be written");
    let digest = sha256(&std::fs::read(config.path().join("models/mobilenet_v2.onnx")).expect("it was written"));
    let data = folder(&[]);
    let daemon = Daemon::start(&DaemonSpec::new(BINARY, config.path(), data.path()));
    daemon.wait_ready(PATIENCE);
    // Stored lying on its side: EXIF turns it upright on its way in.
    let picture = std::fs::read(Path::new(ROOT).join("src/vision/decode/fixtures/turned.jpg")).expect("it is there");
    let form = Form::new().part("file", Part::bytes(picture).file_name("photo.jpg"));
    let answer = daemon.client().post(daemon.url("/api/classify")).multipart(form).send().expect("the gateway answers");
    assert_eq!(answer.status(), 202);
    let accepted: Value = answer.json().expect("JSON");
    let url = daemon.url(&format!("/api/results/{}", accepted["jobId"].as_str().expect("a job id")));
    let job = eventually("the job ends", PATIENCE, || match daemon.get_json(&url) {
        (200, job) if job["status"] != "pending" => Ok(job),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(job["status"], "completed", "{job}");
    assert_eq!(job["result"]["model"], serde_json::json!({"name": "mobilenet_v2", "version": digest[..12]}), "{job}");
    let top = job["result"]["top"].as_array().expect("the best classes");
    assert!(top.len() == 3 && top[0]["label"].as_str().is_some_and(|label| label.starts_with("class ")), "{job}");
}
