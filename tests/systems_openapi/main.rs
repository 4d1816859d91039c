//! The API against its own description: `schemathesis` makes requests of every kind that the description allows, and some
//! that it does not, for the shipped config. Never takes a 5xx, nor an answer that is not described.

use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn daemon(data: &Path) -> Daemon {
    let config = Path::new(ROOT).join("config");
    let daemon = Daemon::start(&DaemonSpec::new(env!("CARGO_BIN_EXE_bulkhead"), config, data));
    daemon.wait_ready(PATIENCE);
    daemon
}

#[test]
fn every_route_of_the_shipped_config_is_described() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let daemon = daemon(data.path());
    let (status, api) = daemon.get_json(&daemon.url("/openapi.json"));
    assert_eq!((status, &api["openapi"]), (200, &"3.1.0".into()));
    let post = &api["paths"]["/api/classify"]["post"];
    assert_eq!((&post["operationId"], &post["tags"][0]), (&"post_api_classify".into(), &"classify".into()));
    let bodies = post["requestBody"]["content"].as_object().expect("bodies");
    assert!(
        ["multipart/form-data", "image/jpeg", "image/webp"].iter().all(|media| bodies.contains_key(*media)),
        "{post}"
    );
    let names: Vec<_> = post["parameters"].as_array().into_iter().flatten().map(|of| of["name"].clone()).collect();
    assert!(names.contains(&"Prefer".into()) && names.contains(&"Idempotency-Key".into()), "{names:?}");
    for (status, kind) in [
        ("413", "body-too-large"),
        ("415", "unsupported-media-type"),
        ("422", "idempotency-key-reused"),
        ("429", "too-many-requests"),
        ("503", "backlog-full"),
    ] {
        let schema = &post["responses"][status]["content"]["application/problem+json"]["schema"];
        let kinds = schema["allOf"][1]["properties"]["type"]["enum"].to_string();
        assert!(kinds.contains(&format!("urn:bulkhead:problem:{kind}")), "{status}: {schema}");
    }
    assert_eq!(post["responses"]["202"]["links"]["job"]["operationId"], "get_api_results_jobId");
    let ask = &api["paths"]["/messages"]["post"];
    assert_eq!(ask["requestBody"]["content"]["application/json"]["schema"]["required"][0], "text");
    assert_eq!(ask["responses"]["202"]["links"]["job"]["operationId"], "get_messages_jobId");
    let next = &api["paths"]["/messages"]["get"];
    assert_eq!(next["parameters"][0]["schema"]["enum"], serde_json::json!(["answer", "prompt", "query"]));
    assert!(next["responses"].get("204").is_some() && next["responses"].get("409").is_some(), "{next}");
    assert!(api["paths"]["/messages/ack"]["post"]["responses"].get("404").is_some());
    assert!(api["paths"]["/ws/chat"]["get"]["responses"].get("101").is_some());
    let operations = api["paths"].as_object().into_iter().flatten().flat_map(|(_, path)| path.as_object().cloned());
    let operations: Vec<(String, Value)> = operations.flatten().collect();
    for (method, operation) in &operations {
        assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{method} {operation}");
        assert!(operation["responses"].as_object().is_some_and(|answers| answers.len() > 1), "{method} {operation}");
    }
}

#[test]
fn schemathesis_finds_no_answer_that_is_not_described() {
    let st = Command::new("scripts/get-schemathesis.sh").current_dir(ROOT).output().expect("the script runs");
    assert!(st.status.success(), "{}", String::from_utf8_lossy(&st.stderr));
    let st = String::from_utf8(st.stdout).expect("a path");
    let (data, work) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let daemon = daemon(data.path());
    let config = Path::new(ROOT).join("tests/schemathesis.toml");
    let run = Command::new(st.trim())
        .current_dir(work.path())
        .arg("--config-file")
        .arg(config)
        .args(["run", &daemon.url("/openapi.json"), "--url", daemon.url("").as_str(), "--no-color"])
        .output()
        .expect("schemathesis runs");
    let told = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{told}\n{}", String::from_utf8_lossy(&run.stderr));
    assert!(told.contains("API Operations"), "it tested something: {told}");
    // What was accepted is being worked on, and nothing fell over any of it.
    daemon.wait_ready(PATIENCE);
}
