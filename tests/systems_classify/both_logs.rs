//! A picture's class and a picture's failure, on either log: what the results API says, the topics say. Never looks at a page.

use super::{BINARY, BROKEN, PATIENCE, config, outcome, ready, sample, upload};
use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::process::eventually;
use bulkhead_testkit::topics::Isolation;
use serde_json::Value;

const GROUP: &str = "ml-inference-group";
const TOPICS: [&str; 3] =
    ["image.classification.requested", "image.classification.completed", "image.classification.failed"];

/// A picture that is classified and one that fails: their ids, and how they ended.
fn two_jobs(daemon: &Daemon) -> [(String, Value); 2] {
    let jobs = [std::fs::read(sample("7-scan.png")).expect("it is shipped"), BROKEN.to_vec()].map(|picture| {
        let (status, accepted) = upload(daemon, picture);
        assert_eq!(status, 202, "{accepted}");
        accepted["jobId"].as_str().expect("an id").to_owned()
    });
    let [good, bad] = jobs.map(|id| {
        let ended = outcome(daemon, &id);
        (id, ended)
    });
    assert_eq!((&good.1["status"], &good.1["result"]["label"]), (&"completed".into(), &"7".into()), "{}", good.1);
    let error = &bad.1["error"];
    assert_eq!((&bad.1["status"], &error["code"]), (&"failed".into(), &"truncated_image".into()), "{}", bad.1);
    assert_eq!((&error["stage"], &error["class"]), (&"infer".into(), &"poison".into()), "{error}");
    [good, bad]
}

/// How often a histogram was observed.
fn count(daemon: &Daemon, histogram: &str, labels: &str) -> f64 {
    let series = format!("bulkhead_{histogram}_count{{{labels}}}");
    daemon.metrics().get(&series).copied().unwrap_or_default()
}

/// Request rate, produce latency, inference duration, end-to-end latency: what an operator looks at first.
fn assert_measured(daemon: &Daemon) {
    let taken = "bulkhead_http_requests_total{route=\"/api/classify\",status=\"202\"}";
    assert_eq!(daemon.metrics().get(taken), Some(&2.0));
    assert!(count(daemon, "http_request_duration_seconds", "route=\"/api/classify\"") >= 2.0);
    assert!((count(daemon, "produce_duration_seconds", "topic=\"image.classification.requested\"") - 2.0).abs() < 0.1);
    assert!(count(daemon, "stage_infer_seconds", "pipeline=\"classify\",stage=\"infer\"") >= 1.0);
    eventually("both jobs were timed", PATIENCE, || {
        match count(daemon, "job_duration_seconds", "pipeline=\"classify\"") {
            2.0 => Ok(()),
            other => Err(other.to_string()),
        }
    });
}

/// The results API is rebuilt from the topics: what a new process knows of a failure, the failed topic told it.
#[test]
fn on_the_embedded_log() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let spec = DaemonSpec::new(BINARY, config(), data.path());
    let daemon = ready(&spec);
    let jobs = two_jobs(&daemon);
    assert_measured(&daemon);
    daemon.sigkill();
    let daemon = ready(&spec);
    for (id, ended) in jobs {
        assert_eq!(outcome(&daemon, &id), ended);
    }
}

#[test]
fn on_kafka() {
    let (kafka, data) = (Kafka::shared(), tempfile::tempdir().expect("a temporary folder"));
    let daemon = ready(&DaemonSpec::new(BINARY, config(), data.path()).on(kafka.bootstrap()));
    let [(good, told), (bad, failed)] = two_jobs(&daemon);
    assert_measured(&daemon);

    let [requested, completed, letters] = TOPICS.map(|topic| kafka.read_topic(topic, Isolation::Committed));
    let id = |record: &bulkhead_core::record::Record| bulkhead_testkit::audit::id_header(record).unwrap_or_default();
    assert_eq!(requested.len(), 2);
    assert_eq!(completed.iter().map(|stored| id(&stored.record)).collect::<Vec<_>>(), [good]);
    let value: Value = serde_json::from_slice(completed[0].record.payload()).expect("JSON");
    assert_eq!(value, told["result"], "the event is what the API says");
    assert_eq!(letters.iter().map(|stored| id(&stored.record)).collect::<Vec<_>>(), [bad]);
    let letter = &letters[0].record;
    assert_eq!(letter.payload(), BROKEN, "the picture itself is in the letter");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers: Vec<_> = letter.headers.iter().map(|of| format!("{}={}", text(&of.name), text(&of.value))).collect();
    for (key, value) in [("code", "truncated_image"), ("stage", "infer"), ("class", "poison")] {
        assert!(headers.iter().any(|header| header.ends_with(&format!("{key}={value}"))), "{key} in {headers:?}");
    }
    assert_eq!(failed["error"]["code"], "truncated_image");
    let committed = kafka.committed(GROUP, TOPICS[0]);
    assert_eq!(committed.values().sum::<i64>(), 2, "the group's positions: {committed:?}");
}
