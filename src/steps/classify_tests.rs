//! The step as a stage runs it: our model, its samples, and what is sent instead of a picture.

use super::*;
use crate::config::units::Size;
use crate::steps::CallLimits;
use crate::steps::testing::context_in;
use bulkhead_core::fault::FaultClass;
use bulkhead_core::record::{Header, ID_HEADER};
use bulkhead_core::time::WallMs;
use bulkhead_testkit::onnx::{FLOAT, Graph, flatten};
use serde_json::Value;
use sha2::{Digest, Sha256};

const CALL: CallLimits = CallLimits { run_records_max: 1, timeout: Duration::from_secs(30), emit_max: 1 };

fn config_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

fn context(dir: &Path) -> StepContext<'_> {
    StepContext { call: CALL, ..context_in(dir) }
}

fn config() -> ClassifyConfig {
    toml::from_str("model = \"models/digits.toml\"").unwrap()
}

fn step(config: &ClassifyConfig) -> Box<dyn Step> {
    let factory = config.factory(context(&config_dir())).unwrap();
    assert_eq!(factory.name(), "classify");
    factory.build().expect("ONNX Runtime is needed for the tests: run scripts/get-onnxruntime.sh")
}

fn record(picture: Vec<u8>) -> Record {
    Record { value: Some(picture.into()), ..Record::default() }
}

fn sample(name: &str) -> Vec<u8> {
    std::fs::read(config_dir().join("models/samples").join(name)).unwrap()
}

fn json(verdict: &Verdict) -> Value {
    match verdict {
        Verdict::Emit(records) => serde_json::from_slice(records[0].payload()).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_sample_is_read_rightly() {
    let mut step = step(&config());
    let mut names: Vec<String> = std::fs::read_dir(config_dir().join("models/samples"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() >= 12, "{names:?}");
    let records: Vec<Record> = names.iter().map(|name| record(sample(name))).collect();
    let verdicts = step.run(&records, None).unwrap();
    let wrong: Vec<String> = names
        .iter()
        .zip(&verdicts)
        .filter(|(name, verdict)| json(verdict)["label"].as_str() != Some(&name[..1]))
        .map(|(name, verdict)| format!("{name}: {verdict:?}"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_answer_names_the_best_and_keeps_what_the_record_was() {
    let input = Record {
        key: Some("customer 7".into()),
        headers: vec![
            Header::new(ID_HEADER, "job 1"),
            Header::new("Content-Type", "image/png"),
            Header::new("trace", "abc"),
        ],
        timestamp: WallMs(123),
        ..record(sample("3-scan.png"))
    };
    let verdicts = step(&ClassifyConfig { top: Some(2), ..config() }).run(std::slice::from_ref(&input), None).unwrap();
    let Verdict::Emit(records) = &verdicts[0] else { panic!("{verdicts:?}") };
    assert_eq!((&records[0].key, records[0].timestamp), (&input.key, input.timestamp));
    let json_type = Header::new("content-type", "application/json");
    assert_eq!(records[0].headers, [input.headers[0].clone(), input.headers[2].clone(), json_type]);
    let answer = json(&verdicts[0]);
    assert_eq!(answer["label"], "3");
    assert_eq!(answer["top"].as_array().unwrap().len(), 2);
    assert_eq!(answer["model"], serde_json::json!({"name": "digits", "version": "e0e5a448413d"}));
    assert_eq!(answer["top"][0], serde_json::json!({"label": "3", "score": answer["score"]}));
}

#[test]
fn what_is_no_picture_is_rejected_alone() {
    let good = sample("7-scan.png");
    let jpeg = sample("2-drawn-1.jpg");
    let records = [record(good.clone()), record(Vec::new()), Record::default(), record(b"text".to_vec()), record(good)];
    let mut step = step(&config());
    let verdicts = step.run(&records, None).unwrap();
    let code = |v: &Verdict| match v {
        Verdict::Reject(fault) if fault.class == FaultClass::Poison => fault.code.to_string(),
        _ => "emitted".to_owned(),
    };
    assert_eq!(
        verdicts.iter().map(code).collect::<Vec<_>>(),
        ["emitted", "empty_image", "empty_image", "not_an_image", "emitted"]
    );
    let cut = step.run(&[record(jpeg[..jpeg.len() / 2].to_vec())], None).unwrap();
    assert_eq!(code(&cut[0]), "truncated_image");
    let image = ImageLimits { pixels_max: 100, ..ImageLimits::default() };
    let small = ClassifyConfig { image, threads: 2, ..config() };
    let large = self::step(&small).run(&[record(sample("7-scan.png"))], None).unwrap();
    assert_eq!(code(&large[0]), "image_too_large");
}

/// A directory with a model of two pixels, whose answer is what it is given, and its description.
fn two_pixels(input: &str) -> (tempfile::TempDir, ClassifyConfig) {
    let dir = tempfile::tempdir().unwrap();
    let graph = Graph { input: &[None, Some(1), Some(1), Some(2)], outputs: &[("out", &[None, None])], element: FLOAT };
    let model = flatten(&graph);
    let sha256: String = Sha256::digest(&model).iter().map(|b| format!("{b:02x}")).collect();
    std::fs::write(dir.path().join("m.onnx"), model).unwrap();
    let text = format!(
        "file = \"m.onnx\"\nsha256 = \"{sha256}\"\nlabels = [\"left\", \"right\"]\nsoftmax = false\n[input]\nwidth = 2\n\
         height = 1\nlayout = \"nchw\"\nchannels = \"grey\"\nfit = \"stretch\"\n{input}"
    );
    std::fs::write(dir.path().join("m.toml"), text).unwrap();
    (dir, ClassifyConfig { model: "m.toml".into(), ..config() })
}

#[test]
fn any_classifier_can_be_described() {
    let (dir, config) = two_pixels("");
    let mut step = config.factory(context(dir.path())).unwrap().build().unwrap();
    let verdicts = step.run(&[record(sample("7-scan.png"))], None).unwrap();
    let answer = json(&verdicts[0]);
    let scores = [answer["top"][0]["score"].as_f64().unwrap(), answer["top"][1]["score"].as_f64().unwrap()];
    assert!(1.0 >= scores[0] && scores[0] >= scores[1] && scores[1] > 0.0, "{answer}");
}

#[test]
fn outputs_that_are_no_numbers_are_poison() {
    // (v + 3e38) / 1e-37 is infinite.
    let (dir, config) = two_pixels("mean = [-3e38]\nstd = [1e-37]");
    let verdicts = config
        .factory(context(dir.path()))
        .unwrap()
        .build()
        .unwrap()
        .run(&[record(sample("7-scan.png"))], None)
        .unwrap();
    let Verdict::Reject(fault) = &verdicts[0] else { panic!("{verdicts:?}") };
    assert_eq!((fault.class, &*fault.code), (FaultClass::Poison, "not_a_number"));
}

#[test]
fn a_model_that_changed_or_went_stops_the_worker_not_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let models = config_dir().join("models");
    for name in ["digits.toml", "digits.onnx"] {
        std::fs::copy(models.join(name), dir.path().join(name)).unwrap();
    }
    let config = ClassifyConfig { model: "digits.toml".into(), ..config() };
    assert_eq!(config.check(context(dir.path())), Vec::<String>::new());
    let factory = config.factory(context(dir.path())).unwrap();
    std::fs::write(dir.path().join("digits.onnx"), b"another").unwrap();
    let fault = factory.build().err().unwrap();
    assert_eq!((fault.class, &*fault.code), (FaultClass::Fatal, "model_unusable"));
    assert!(fault.message.contains("sha256"), "{fault}");
    std::fs::remove_file(dir.path().join("digits.onnx")).unwrap();
    assert!(factory.build().err().unwrap().message.contains("cannot be read"));
    assert_eq!(config.check(context(dir.path())).len(), 1);
}

#[test]
fn each_mistake_in_the_step_is_named() {
    let image = ImageLimits { bytes_max: Size(0), side_max: 1, pixels_max: u64::MAX };
    let wrong = ClassifyConfig { model: "../m.toml".into(), top: Some(0), threads: 0, image, ..config() };
    assert_eq!(
        wrong.problems(),
        [
            "model: `../m.toml` must be a path below the config directory, without `..`",
            "threads: 0; 1 to 256 are possible",
            "top: 0 classes would be named; at least 1 is needed",
            "image.bytes_max: 0 would reject every picture; at least 1 is needed",
            "image.pixels_max: 18446744073709551615 is no limit that memory could hold; at most 1000000000 is possible",
        ]
    );
    assert_eq!(wrong.check(context(&config_dir())), wrong.problems());
    assert!(wrong.factory(context(&config_dir())).is_err());
    let unknown = toml::from_str::<ClassifyConfig>("model = \"a\"\ntopk = 3").unwrap_err().to_string();
    assert!(unknown.contains("unknown field `topk`, expected one of `model`, `top`, `threads`, "), "{unknown}");
}
