//! How the model is run: several pictures at once, with a limit, by which provider, as which kind of graph.

use super::*;
use crate::steps::CallLimits;
use crate::steps::testing::context_in;
use crate::vision::fixture;
use bulkhead_core::fault::FaultClass;
use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io;
use std::sync::Arc;

/// PNGs of one grey pixel.
const BLACK: &str = "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c636000000002000148afa471\
                     0000000049454e44ae426082";
const WHITE: &str = "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c63f80f0001010100b138f614\
                     0000000049454e44ae426082";

fn picture(hex: &str) -> Record {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let bytes: Vec<u8> = hex.as_bytes().chunks(2).map(byte).collect();
    Record { value: Some(bytes.into()), ..Record::default() }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn context(dir: &Path, run_records_max: usize, timeout: Duration) -> StepContext<'_> {
    StepContext { call: CallLimits { run_records_max, timeout, emit_max: 1 }, ..context_in(dir) }
}

const PATIENT: Duration = Duration::from_secs(60);

fn config(model: &str) -> ClassifyConfig {
    toml::from_str(&format!("model = \"{model}\"")).unwrap()
}

fn digits(run_records_max: usize) -> Box<dyn Step> {
    let dir = root().join("config");
    config("models/digits.toml").factory(context(&dir, run_records_max, PATIENT)).unwrap().build().unwrap()
}

/// The samples, each with the digit that it shows.
fn samples() -> Vec<(String, Record)> {
    let entries = std::fs::read_dir(root().join("config/models/samples")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let sample = |path: &PathBuf| {
        let digit = path.file_name().unwrap().to_str().unwrap()[..1].to_owned();
        (digit, Record { value: Some(std::fs::read(path).unwrap().into()), ..Record::default() })
    };
    paths.iter().map(sample).collect()
}

fn json(verdict: &Verdict) -> Value {
    match verdict {
        Verdict::Emit(records) => serde_json::from_slice(records[0].payload()).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn codes(verdicts: &[Verdict]) -> Vec<&str> {
    verdicts
        .iter()
        .map(|verdict| if let Verdict::Reject(fault) = verdict { &*fault.code } else { "answered" })
        .collect()
}

/// A directory with a model of two pixels and its description.
fn two_pixels(model: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let sha256: String = Sha256::digest(model).iter().map(|b| format!("{b:02x}")).collect();
    std::fs::write(dir.path().join("m.onnx"), model).unwrap();
    let text = format!(
        "file = \"m.onnx\"\nsha256 = \"{sha256}\"\nlabels = [\"left\", \"right\"]\nsoftmax = false\n[input]\nwidth = 2\n\
         height = 1\nlayout = \"nchw\"\nchannels = \"grey\"\nfit = \"stretch\"\n"
    );
    std::fs::write(dir.path().join("m.toml"), text).unwrap();
    dir
}

fn step_of(model: &[u8], run_records_max: usize, timeout: Duration) -> Box<dyn Step> {
    let dir = two_pixels(model);
    config("m.toml").factory(context(dir.path(), run_records_max, timeout)).unwrap().build().unwrap()
}

/// What is logged while this runs.
fn logged<R>(run: impl FnOnce() -> R) -> (R, String) {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let writer = Lines::default();
    let target = Lines(Arc::clone(&writer.0));
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || target.clone()).finish();
    let result = tracing::subscriber::with_default(subscriber, run);
    let text = String::from_utf8(writer.0.lock().clone()).unwrap();
    (result, text)
}

#[test]
fn a_batch_gives_what_its_pictures_give_one_by_one() {
    let samples = samples();
    let records: Vec<Record> = samples.iter().map(|(_, record)| record.clone()).collect();
    let (mut single, mut batched) = (digits(1), digits(8));
    let (one_by_one, at_once) = (single.run(&records, None).unwrap(), batched.run(&records, None).unwrap());
    for ((digit, _), (one, many)) in samples.iter().zip(one_by_one.iter().zip(&at_once)) {
        let (one, many) = (json(one), json(many));
        assert_eq!((one["label"].as_str(), many["label"].as_str()), (Some(&**digit), Some(&**digit)));
        let difference = one["score"].as_f64().unwrap() - many["score"].as_f64().unwrap();
        assert!(difference.abs() < 1e-4, "{one} {many}");
    }
    let phases = batched.phases().unwrap();
    assert!([phases.preprocess, phases.infer, phases.postprocess].iter().all(|spent| !spent.is_zero()), "{phases:?}");
}

#[test]
fn a_bad_picture_in_a_batch_is_rejected_alone() {
    let text = Record { value: Some(b"text".to_vec().into()), ..Record::default() };
    let records = [picture(BLACK), text, picture(WHITE), Record::default(), picture(BLACK)];
    let verdicts = step_of(&fixture::as_it_is(), 8, PATIENT).run(&records, None).unwrap();
    assert_eq!(codes(&verdicts), ["answered", "not_an_image", "answered", "empty_image", "answered"]);
    let scores: Vec<f64> = [0, 2, 4].map(|i: usize| json(&verdicts[i])["score"].as_f64().unwrap()).into();
    assert_eq!(scores, [0.0, 1.0, 0.0], "each has its own answer");
}

#[test]
fn a_picture_that_fails_its_batch_is_found() {
    let records = [picture(BLACK), picture(WHITE), picture(BLACK), picture(BLACK)];
    let verdicts = step_of(&fixture::fails_on_white(), 3, PATIENT).run(&records, None).unwrap();
    assert_eq!(codes(&verdicts), ["answered", "inference_failed", "answered", "answered"]);
}

#[test]
fn a_graph_that_takes_one_picture_is_run_one_by_one() {
    let (mut step, log) = logged(|| step_of(&fixture::one_at_a_time(), 4, PATIENT));
    assert!(log.contains("WARN") && log.contains("the model takes one picture a run, not 4"), "{log}");
    let verdicts = step.run(&[picture(BLACK), picture(WHITE)], None).unwrap();
    assert_eq!(codes(&verdicts), ["answered", "answered"]);
}

#[test]
fn a_run_that_takes_too_long_is_ended_from_inside_and_the_next_one_goes_on() {
    let mut step = step_of(&fixture::endless_on_white(), 2, Duration::from_millis(500));
    let begun = Instant::now();
    let fault = step.run(&[picture(BLACK), picture(WHITE)], None).unwrap_err();
    assert_eq!((fault.class, &*fault.code), (FaultClass::Transient, "inference_timeout"));
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
    assert_eq!(codes(&step.run(&[picture(BLACK), picture(BLACK)], None).unwrap()), ["answered", "answered"]);
}

#[test]
fn the_first_provider_that_can_be_had_runs_the_model() {
    let dir = root().join("config");
    let both = ClassifyConfig { providers: vec![Provider::Cuda, Provider::Cpu], ..config("models/digits.toml") };
    let (step, log) = logged(|| both.factory(context(&dir, 1, PATIENT)).unwrap().build());
    let (digit, record) = &samples()[0];
    let verdicts = step.unwrap().run(std::slice::from_ref(record), None).unwrap();
    assert_eq!(json(&verdicts[0])["label"].as_str(), Some(&**digit));
    let warning = log.lines().find(|line| line.contains("execution provider not available, the next one is tried"));
    let warning = warning.expect("the test's ONNX Runtime is the one for CPUs");
    assert!(warning.contains("WARN") && warning.contains("provider=\"cuda\" next=\"cpu\""), "{warning}");
    assert!(log.contains("model loaded and warm") && log.contains("provider=\"cpu\""), "{log}");
    let only = ClassifyConfig { providers: vec![Provider::Cuda], ..config("models/digits.toml") };
    let problems = only.check(context(&dir, 1, PATIENT));
    assert!(problems.len() == 1 && problems[0].contains("file: cuda: "), "{problems:?}");
}

#[test]
fn providers_are_checked() {
    let said = |providers: &[Provider]| {
        ClassifyConfig { providers: providers.to_vec(), ..config("m.toml") }.problems().join("; ")
    };
    assert_eq!(said(&[Provider::Cuda, Provider::Cpu]), "");
    assert_eq!(said(&[]), "providers: none; at least \"cpu\" is needed");
    assert!(said(&[Provider::Cpu, Provider::Cuda]).contains("what comes after \"cpu\" is never tried"));
    assert!(said(&[Provider::Cuda, Provider::Cuda]).contains("\"cuda\" comes twice"));
}

#[test]
fn every_session_option_loads_and_runs() {
    let dir = root().join("config");
    let (digit, record) = &samples()[0];
    for graph in ["disable", "basic", "extended", "all"] {
        let text = format!("model = \"models/digits.toml\"\ngraph = \"{graph}\"\nthreads = 2\nspinning = true");
        let config: ClassifyConfig = toml::from_str(&text).unwrap();
        let mut step = config.factory(context(&dir, 1, PATIENT)).unwrap().build().unwrap();
        let verdicts = step.run(std::slice::from_ref(record), None).unwrap();
        assert_eq!(json(&verdicts[0])["label"].as_str(), Some(&**digit), "{graph}");
    }
}

/// `tests/models/digits_int8.onnx` is the shipped model, quantised by the script beside it.
#[test]
fn a_model_of_8_bit_integers_reads_the_samples_as_well() {
    let model = std::fs::read(root().join("tests/models/digits_int8.onnx")).unwrap();
    let sha256: String = Sha256::digest(&model).iter().map(|b| format!("{b:02x}")).collect();
    let described = std::fs::read_to_string(root().join("config/models/digits.toml")).unwrap();
    let line = described.lines().find(|line| line.starts_with("sha256")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("digits.onnx"), &model).unwrap();
    std::fs::write(dir.path().join("m.toml"), described.replace(line, &format!("sha256 = \"{sha256}\""))).unwrap();
    let mut step = config("m.toml").factory(context(dir.path(), 4, PATIENT)).unwrap().build().unwrap();
    let (digits, records): (Vec<String>, Vec<Record>) = samples().into_iter().unzip();
    let verdicts = step.run(&records, None).unwrap();
    let read: Vec<String> = verdicts.iter().map(|v| json(v)["label"].as_str().unwrap().to_owned()).collect();
    assert_eq!(read, digits);
}
