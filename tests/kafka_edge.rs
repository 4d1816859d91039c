//! The edges of two daemons on one real Kafka: one key is one job, whichever gateway it comes to; what a route lets in,
//! its topics take.

use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use bulkhead_testkit::flow::{Flow, FlowSpec};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::topics::Isolation;
use reqwest::blocking::Client;
use serde_json::Value;
use std::process::Command;
use std::sync::Barrier;
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_bulkhead");
const PATIENCE: Duration = Duration::from_secs(90);
const ROUTES: &str = r#"workers = 2
[[route]]
path        = "/orders/"
method      = "POST"
produce     = { body_max = "8MiB" }
idempotency = { required = true }
[[route]]
path    = "/orders/{id}"
method  = "GET"
results = {}
"#;
const SECRET: &str = "jobs = { secret = \"${EDGE_SECRET}\" }";

/// Two daemons of one installation: they share the secret that job ids are made with.
fn pair(flow: &Flow) -> [Daemon; 2] {
    let spec = |name| spec(flow, name);
    let pair = ["a", "b"].map(|name| Daemon::start(&spec(name)));
    pair.iter().for_each(|daemon| daemon.wait_ready(PATIENCE));
    pair
}

fn spec(flow: &Flow, name: &str) -> DaemonSpec {
    flow.daemon(BINARY, Kafka::shared(), name).env("EDGE_SECRET", "of both gateways, long enough")
}

/// The status, whether the answer is an earlier one's, and the answer.
fn post(daemon: &Daemon, key: &str, body: String, prefer: &str) -> (u16, bool, Value) {
    let request = Client::builder().timeout(PATIENCE).build().expect("a client").post(daemon.url("/orders/"));
    let request = request.header("Idempotency-Key", key).header("Prefer", prefer).body(body);
    let answer = request.send().expect("answered");
    let (status, is_replay) = (answer.status().as_u16(), answer.headers().contains_key("idempotency-replayed"));
    (status, is_replay, answer.json().expect("JSON"))
}

/// Both gateways at once, and what each answered.
fn at_once(pair: &[Daemon; 2], key: &str, bodies: [&str; 2], prefer: &str) -> [(u16, bool, Value); 2] {
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        let posts = [0, 1].map(|i| {
            let (start, daemon, body) = (&start, &pair[i], bodies[i].to_owned());
            scope.spawn(move || {
                start.wait();
                post(daemon, key, body, prefer)
            })
        });
        posts.map(|post| post.join().expect("no panic"))
    })
}

#[test]
fn one_key_through_two_gateways_is_one_job_and_one_effect() {
    let kafka = Kafka::shared();
    let flow = Flow::new(FlowSpec { name: "edge-keys", stage: ROUTES, daemon: SECRET, ..FlowSpec::default() });
    let daemons = pair(&flow);
    let [a, b] = at_once(&daemons, "k", ["10 EUR", "10 EUR"], "wait=30");
    assert_eq!((a.0, b.0), (200, 200), "{a:?} {b:?}");
    assert_eq!(a.2, b.2, "both answers are alike");
    assert_eq!((&a.2["status"], &a.2["result"]), (&"completed".into(), &"10 EUR".into()));

    // Whichever gateway is asked later knows the key by its outcome; so does one that was killed and has forgotten.
    for daemon in &daemons {
        assert_eq!(post(daemon, "k", "1000 EUR".into(), "").0, 422);
        let replay = post(daemon, "k", "10 EUR".into(), "");
        assert_eq!((replay.0, replay.1, &replay.2["jobId"]), (202, true, &a.2["jobId"]));
    }
    daemons[0].sigkill();
    let reborn = Daemon::start(&spec(&flow, "a"));
    reborn.wait_ready(PATIENCE);
    let replay = post(&reborn, "k", "10 EUR".into(), "");
    assert_eq!((replay.0, replay.1, &replay.2["jobId"]), (202, true, &a.2["jobId"]));
    let outputs = kafka.read_topic(&flow.output(), Isolation::Committed);
    assert_eq!(outputs.len(), 1, "one effect");
    let name = a.2["jobId"].as_str().expect("an id");
    assert_eq!(id_of(&outputs[0].record).as_deref(), Some(name));
}

fn id_of(record: &bulkhead_core::record::Record) -> Option<String> {
    bulkhead_testkit::audit::id_header(record)
}

#[test]
fn two_payloads_under_one_key_are_one_job_and_a_conflict() {
    let kafka = Kafka::shared();
    let flow = Flow::new(FlowSpec { name: "edge-conflict", stage: ROUTES, daemon: SECRET, ..FlowSpec::default() });
    let daemons = pair(&flow);
    let answers = at_once(&daemons, "k", ["mine", "theirs"], "wait=30");
    let statuses = answers.each_ref().map(|answer| answer.0);
    // Each gateway took its own, or one had heard of the other's outcome already: one of both is told.
    assert!(statuses == [200, 422] || statuses == [422, 200], "{answers:?}");
    let (winner, won) = if statuses[0] == 200 { (&answers[0], "mine") } else { (&answers[1], "theirs") };
    assert_eq!(winner.2["result"], won);
    let outputs = kafka.read_topic(&flow.output(), Isolation::Committed);
    assert_eq!(outputs.len(), 1);
}

#[test]
fn a_topic_that_the_daemon_makes_takes_what_its_route_takes() {
    let kafka = Kafka::shared();
    let flow = Flow::new(FlowSpec { name: "edge-large", stage: ROUTES, daemon: SECRET, ..FlowSpec::default() });
    let daemon = Daemon::start(&spec(&flow, "a"));
    daemon.wait_ready(PATIENCE);
    let large = post(&daemon, "large", "x".repeat(6 << 20), "wait=60");
    assert_eq!((large.0, &large.2["status"]), (200, &"completed".into()));
    assert_eq!(large.2["result"].as_str().map(str::len), Some(6 << 20));

    // One that was made with the broker's own limit does not, and the check says so.
    let small = Flow::on(kafka, FlowSpec { name: "edge-small", stage: ROUTES, daemon: SECRET, ..FlowSpec::default() });
    let mut check = Command::new(BINARY);
    check.args(["check", "--connect", "--chaos", "--kafka", &kafka.bootstrap(), "--config"]).arg(small.config());
    let output = check.env("EDGE_SECRET", "of both gateways, long enough").output();
    let output = output.expect("the binary runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(
        told.contains("topic edge-small.in takes records of 1048076 bytes, route /orders/ bodies of 8MiB"),
        "{told}"
    );
}
