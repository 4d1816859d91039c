//! The shipped pipeline on both logs: what comes in and out, what is refused and how, and `bulkhead simulate` against it.

use crate::rig::{BINARY, PATIENCE, Rig, client, header, lines, post, root, wait_metric};
use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::process::eventually;
use bulkhead_testkit::topics::Isolation;
use reqwest::blocking::Response;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

fn rig() -> Rig {
    rig_with("")
}

fn rig_with(daemon: &str) -> Rig {
    let shipped = std::fs::read_to_string(root().join("config/pipelines/events.toml")).expect("it is shipped");
    let rig = Rig::new(daemon, &shipped);
    let schemas = rig.config().join("schemas");
    std::fs::create_dir_all(&schemas).expect("a folder");
    std::fs::copy(root().join("config/schemas/event.json"), schemas.join("event.json")).expect("it is shipped");
    rig
}

fn start(spec: &DaemonSpec) -> Daemon {
    let daemon = Daemon::start(spec);
    daemon.wait_ready(PATIENCE);
    daemon
}

fn register(daemon: &Daemon, kind: &str, body: &str) -> Response {
    let request = client().post(daemon.url("/register_event")).header("Content-Type", kind).body(body.to_owned());
    request.send().expect("answered")
}

fn ids(answer: &Value) -> Vec<String> {
    let ids = answer["jobIds"].as_array().expect("ids").iter();
    ids.map(|id| id.as_str().expect("text").to_owned()).collect()
}

/// One event, an array and lines come in; each gets its line, its time and its result.
fn everything_comes_out(rig: &Rig, daemon: &Daemon) {
    let one =
        register(daemon, "application/json", r#"{"event_type":"login","user_id":"u-1","properties":{"price":12.30}}"#);
    assert_eq!((one.status().as_u16(), header(&one, "bulkhead-outbox")), (202, None));
    let one: Value = one.json().expect("JSON");
    assert_eq!(
        (&one["status"], &one["count"], &one["results"]),
        (&json!("accepted"), &json!(1), &json!("/events/{jobId}"))
    );
    let array = json!([
        { "event_type": "click", "user_id": "u-1", "timestamp": "2026-01-02T03:04:05Z" },
        { "event_type": "click", "user_id": "u-2" },
    ]);
    let array: Value = register(daemon, "application/json", &array.to_string()).json().expect("JSON");
    let ndjson = "{\"event_type\":\"a\",\"user_id\":\"u-3\"}\n\n{\"event_type\":\"b\",\"user_id\":\"u-3\"}\n";
    let ndjson: Value = register(daemon, "application/x-ndjson", ndjson).json().expect("JSON");
    let all: Vec<_> = [&one, &array, &ndjson].into_iter().flat_map(ids).collect();
    assert_eq!(all.len(), 5, "{one} {array} {ndjson}");
    for id in &all {
        let url = daemon.url(&format!("/events/{id}"));
        let job: Value = client().get(url).header("Prefer", "wait=60").send().expect("answered").json().expect("JSON");
        assert_eq!(job["status"], "completed", "{job}");
        assert!(job["result"]["timestamp"].is_string(), "a time was set: {job}");
    }
    let text = rig.read("consumer.log");
    let written = lines(&text);
    let own = |id: &String| written.iter().find(|line| line["id"] == **id).unwrap_or_else(|| panic!("{id} in {text}"));
    assert!(all.iter().all(|id| own(id)["topic"] == "events" && own(id)["offset"].is_u64()), "{text}");
    assert_eq!(own(&all[1])["value"]["timestamp"], "2026-01-02T03:04:05Z", "the client's own time stays");
    assert!(text.contains("\"price\":12.30"), "numbers keep their digits: {text}");
    assert_eq!((&own(&all[0])["key"], &own(&all[0])["value"]["user_id"]), (&json!("u-1"), &json!("u-1")));
}

/// One key is one request: its events are let through once, with the same ids.
fn a_key_is_one_request(rig: &Rig, daemon: &Daemon) {
    let body = json!([{ "event_type": "once", "user_id": "k" }, { "event_type": "twice", "user_id": "k" }]).to_string();
    let send = |body: &str| {
        let request = client().post(daemon.url("/register_event")).header("Idempotency-Key", "batch-7");
        request.header("Content-Type", "application/json").body(body.to_owned()).send().expect("answered")
    };
    let first = send(&body);
    assert_eq!((first.status().as_u16(), header(&first, "idempotency-replayed")), (202, None));
    let first = ids(&first.json().expect("JSON"));
    let again = send(&body);
    assert_eq!((again.status().as_u16(), header(&again, "idempotency-replayed")), (202, Some("true")));
    assert_eq!(ids(&again.json().expect("JSON")), first);
    assert_eq!(send(r#"{"event_type":"other","user_id":"k"}"#).status(), 422, "another payload");
    eventually("both are written", PATIENCE, || {
        let written = lines(&rig.read("consumer.log")).into_iter().filter(|line| line["key"] == "k").count();
        if written == 2 { Ok(()) } else { Err(format!("{written} lines")) }
    });
}

/// Bad bodies by name, each with its error; nothing of any of them is stored.
fn bad_bodies_are_told(rig: &Rig, daemon: &Daemon) {
    let good = r#"{"event_type":"login","user_id":"never-stored"}"#;
    let many = format!("[{}]", vec![good; 1_001].join(","));
    for (name, kind, body, status, code) in [
        ("empty body", "application/json", "", 400, "empty-body"),
        ("no JSON", "application/json", "{\"event_type\":", 400, "bad-events"),
        ("no object", "application/json", "7", 400, "bad-events"),
        ("empty array", "application/json", "[]", 400, "bad-events"),
        ("too many events", "application/json", many.as_str(), 413, "too-many-events"),
        ("another media type", "text/plain", good, 415, "unsupported-media-type"),
        ("missing user_id", "application/json", r#"{"event_type":"login"}"#, 422, "bad-events"),
        ("unknown key", "application/json", r#"{"event_type":"login","user_id":"u","x":1}"#, 422, "bad-events"),
        (
            "bad timestamp",
            "application/json",
            r#"{"event_type":"login","user_id":"u","timestamp":"noon"}"#,
            422,
            "bad-events",
        ),
        ("empty event_type", "application/json", r#"{"event_type":"","user_id":"u"}"#, 422, "bad-events"),
    ] {
        let answer = register(daemon, kind, body);
        assert_eq!(answer.status().as_u16(), status, "{name}");
        let problem: Value = answer.json().expect("a problem document");
        assert_eq!(problem["type"], format!("urn:bulkhead:problem:{code}"), "{name}: {problem}");
    }
    let mixed = format!("{good}\n{{\"event_type\":\"x\",\"user_id\":17}}\nnonsense\n{good}\n");
    let answer = register(daemon, "application/x-ndjson", &mixed);
    assert_eq!(answer.status(), 422);
    let problem: Value = answer.json().expect("a problem document");
    let bad = problem["events"].as_array().expect("they are listed");
    let named: Vec<_> = bad.iter().map(|event| (event["index"].as_u64(), event["code"].as_str())).collect();
    assert_eq!(named, [(Some(1), Some("schema_violation")), (Some(2), Some("not_json"))], "{problem}");
    assert_eq!(bad[0]["violations"][0]["path"], "/user_id", "{problem}");
    assert!(!rig.read("consumer.log").contains("never-stored"), "a body is taken whole or not at all");
}

/// The traffic of the simulator, of which every accepted event must come out.
fn simulated_traffic_comes_out(daemon: &Daemon) {
    let url = daemon.url("/register_event");
    let mut simulate = Command::new(BINARY);
    simulate.args([
        "simulate",
        &url,
        "--requests",
        "300",
        "--concurrency",
        "8",
        "--seed",
        "7",
        "--bad",
        "0.1",
        "--many",
        "0.2",
    ]);
    let output = simulate.output().expect("it runs");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    for part in ["300 requests in", "p50", "p99", " 202 ", " 422 ", "0 MISSING", "\nok\n"] {
        assert!(told.contains(part), "{part:?} in {told}");
    }
}

/// A rate is kept: requests are not sent earlier than it says.
fn a_simulation_keeps_its_rate(daemon: &Daemon) {
    let url = daemon.url("/register_event");
    let began = Instant::now();
    let run = Command::new(BINARY).args(["simulate", &url, "--requests", "60", "--rate", "30", "--seed", "3"]).output();
    let told = String::from_utf8_lossy(&run.expect("it runs").stdout).into_owned();
    assert!(told.ends_with("\nok\n"), "{told}");
    assert!(began.elapsed() > Duration::from_secs(1), "60 requests at 30 a second, bursts among them: {told}");
}

#[test]
fn on_the_embedded_log() {
    let rig = rig();
    let daemon = start(&rig.spec());
    everything_comes_out(&rig, &daemon);
    a_key_is_one_request(&rig, &daemon);
    bad_bodies_are_told(&rig, &daemon);
    simulated_traffic_comes_out(&daemon);
    a_simulation_keeps_its_rate(&daemon);
    let written = lines(&rig.read("consumer.log"));
    let ids: BTreeSet<_> = written.iter().map(|line| line["id"].to_string()).collect();
    assert_eq!(ids.len(), written.len(), "nothing was killed: each event has one line");
    daemon.sigterm();
    assert!(daemon.wait_exit(PATIENCE).success());
    // It goes on where it ended.
    let daemon = start(&rig.spec());
    let answer =
        post(&client(), &daemon.url("/register_event"), r#"{"event_type":"later","user_id":"u-1"}"#.to_owned());
    assert_eq!(answer.status(), 202);
    wait_metric(&daemon, "bulkhead_records_out_total", |records| records == 1.0);
    assert_eq!(lines(&rig.read("consumer.log")).len(), written.len() + 1);
}

#[test]
fn on_kafka() {
    let rig = rig();
    let daemon = start(&rig.spec().on(Kafka::shared().bootstrap()).named("a"));
    everything_comes_out(&rig, &daemon);
    a_key_is_one_request(&rig, &daemon);
    bad_bodies_are_told(&rig, &daemon);
    simulated_traffic_comes_out(&daemon);
}

/// A body with several events is known by its key on every gateway, once its first event has ended: replayed, or refused where it is
/// another one.
#[test]
fn two_gateways_know_one_key_of_many_events() {
    let kafka = Kafka::start(1);
    let rig = rig_with("jobs = { secret = \"${GATEWAYS_SECRET}\" }");
    let spec = |name: &str| {
        let data = rig.folder().join(format!("data-{name}"));
        let spec = DaemonSpec { data, ..rig.spec() }.env("GATEWAYS_SECRET", "the secret of both gateways");
        spec.on(kafka.bootstrap()).named(name)
    };
    let daemons = ["a", "b"].map(|name| start(&spec(name)));
    let send = |daemon: &Daemon, users: [&str; 3]| {
        let events = users.map(|user| json!({ "event_type": "click", "user_id": user }));
        let request = client().post(daemon.url("/register_event")).header("Idempotency-Key", "many-1");
        request.header("Content-Type", "application/json").body(json!(events).to_string()).send().expect("answered")
    };
    let first = send(&daemons[0], ["u-1", "u-2", "u-3"]);
    assert_eq!(first.status(), 202);
    let first = ids(&first.json().expect("JSON"));
    for daemon in &daemons {
        for id in &first {
            let asked = client().get(daemon.url(&format!("/events/{id}"))).header("Prefer", "wait=60").send();
            let job: Value = asked.expect("answered").json().expect("JSON");
            assert_eq!(job["status"], "completed", "{job}");
        }
        let again = send(daemon, ["u-1", "u-2", "u-3"]);
        assert_eq!((again.status().as_u16(), header(&again, "idempotency-replayed")), (202, Some("true")));
        assert_eq!(ids(&again.json().expect("JSON")), first);
        assert_eq!(send(daemon, ["u-1", "u-2", "u-4"]).status(), 422);
    }
    let outputs = kafka.read_topic("events.stored", Isolation::Committed);
    assert_eq!(outputs.len(), 3, "each event once");
}

/// A simulator that is sent to a route that loses, or to none, says so and fails.
#[test]
fn a_simulation_that_goes_wrong_fails() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let run = |args: &[&str]| Command::new(BINARY).arg("simulate").args(args).output().expect("it runs");
    let output = run(&[&format!("http://{nobody}/x"), "--requests", "3"]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(4), "{told}");
    assert!(
        told.contains("3 answers were WRONG") && told.contains("no answer:") && told.ends_with("FAILED\n"),
        "{told}"
    );
    for (args, part) in [
        (&["--bad", "2"][..], "is no share"),
        (&["not a url"], "relative URL"),
        (&["--requests", "0"], "is not in 1.."),
        (&["--template", "/nowhere.json"], "--template /nowhere.json"),
    ] {
        let output = run(args);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && told.contains(part), "{args:?}: {told}");
    }
}
