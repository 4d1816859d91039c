//! The config that is shipped, on Kafka: pictures come in over HTTP and from the topic; what is none ends alone.

use crate::{BINARY, PATIENCE};
use bulkhead_core::ledger::KeySource;
use bulkhead_core::letter::ERRORS_PREFIX;
use bulkhead_core::record::{Header, ID_HEADER, Record};
use bulkhead_testkit::audit::{Audited, id_header};
use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::process::eventually;
use bulkhead_testkit::topics::Isolation;
use reqwest::blocking::multipart::{Form, Part};
use serde_json::Value;
use std::path::Path;

const SOURCE: &str = "image.classification.requested";
const COMPLETED: &str = "image.classification.completed";
const FAILED: &str = "image.classification.failed";
/// The shipped pipeline's batches hold 8 records.
const BATCH: usize = 8;

fn sample() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/models/samples/7-scan.png");
    std::fs::read(path).expect("the sample is shipped")
}

/// Uploads a picture and waits for what becomes of it.
fn classify(daemon: &Daemon, picture: Vec<u8>) -> Value {
    let form = Form::new().part("file", Part::bytes(picture).file_name("picture.png"));
    let answer = daemon.client().post(daemon.url("/api/classify")).multipart(form).send().expect("the gateway answers");
    assert_eq!(answer.status(), 202);
    let accepted: Value = answer.json().expect("JSON");
    let url = daemon.url(&format!("/api/results/{}", accepted["jobId"].as_str().expect("a job id")));
    eventually("the job ends", PATIENCE, || match daemon.get_json(&url) {
        (200, job) if job["status"] != "pending" => Ok(job),
        other => Err(format!("{other:?}")),
    })
}

#[test]
fn the_shipped_config_reads_digits_and_rejects_what_is_no_picture_alone() {
    let kafka = Kafka::shared();
    let data = tempfile::tempdir().expect("a temporary folder can be made");
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let daemon = Daemon::start(&DaemonSpec::new(BINARY, config, data.path()).on(kafka.bootstrap()).named("pictures"));
    daemon.wait_ready(PATIENCE);
    let read = classify(&daemon, sample());
    assert_eq!((&read["status"], &read["result"]["label"]), (&"completed".into(), &"7".into()), "{read}");
    let refused = classify(&daemon, b"\x89PNG\r\n\x1a\nno picture".to_vec());
    assert_eq!(refused["status"], "failed", "{refused}");

    // A batch from the topic, one of it poison.
    let picture = |n: usize| {
        let value = if n == 3 { b"\x89PNG\r\n\x1a\nbroken".to_vec() } else { sample() };
        let headers = vec![Header::new(ID_HEADER, format!("picture-{n}"))];
        (Some(2), Record { value: Some(value.into()), headers, ..Record::default() })
    };
    kafka.produce(SOURCE, (0..BATCH).map(picture));
    let audited = Audited::new(SOURCE, "ml-inference-group", COMPLETED, FAILED);
    let audited = audited.with_ledger("classify", KeySource::Header(ID_HEADER.into()));
    kafka.wait_done(&audited, PATIENCE);
    kafka.assert_clean(&audited, Vec::new());
    let letters = kafka.read_topic(FAILED, Isolation::Committed);
    let ours: Vec<_> = letters
        .iter()
        .filter(|s| s.partition.0 == 2 && id_header(&s.record).is_some_and(|id| id.starts_with("picture-")))
        .collect();
    let [letter] = ours[..] else { panic!("one of the batch is rejected: {ours:?}") };
    assert_eq!(id_header(&letter.record).as_deref(), Some("picture-3"));
    let why = |name: &str| letter.record.header(&format!("{ERRORS_PREFIX}{name}")).cloned().unwrap_or_default();
    assert_eq!(
        (&why("stage")[..], &why("step")[..], &why("class")[..]),
        (&b"infer"[..], &b"classify"[..], &b"poison"[..])
    );
    assert!(!why("code").is_empty() && !why("message").is_empty());
}
