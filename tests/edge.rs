//! The edge of a whole daemon on its embedded log: what it keeps of its word through SIGKILL and restart.

use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use bulkhead_testkit::process::eventually;
use reqwest::blocking::{Client, Response};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A pipeline whose only step does what the header `x-request-id` asks for, and its routes.
const PIPELINE: &str = r#"version = 1
[pipeline]
name   = "orders"
source = { topic = "orders", partitions = 1 }
ledger = { key = "header:__bulkhead.id" }
output = { topic = "orders.done" }

[[stage]]
name  = "work"
steps = [{ chaos = { header = "x-request-id" } }]

[[route]]
path        = "/orders/"
method      = "POST"
produce     = {}
idempotency = { required = true }

[[route]]
path    = "/orders/now"
method  = "POST"
reply   = "result"
produce = { accept = ["application/json"] }

[[route]]
path    = "/orders/{id}"
method  = "GET"
results = {}

[[route]]
path   = "/orders/{id}/events"
method = "GET"
events = {}
"#;

struct Setup {
    folder: TempDir,
}

impl Setup {
    fn new() -> Self {
        Self::with(PIPELINE)
    }

    fn with(pipeline: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pipelines = folder.path().join("config/pipelines");
        std::fs::create_dir_all(&pipelines).expect("a folder");
        std::fs::write(pipelines.join("orders.toml"), pipeline).expect("written");
        Self { folder }
    }

    fn start(&self) -> Daemon {
        let path = |name: &str| self.folder.path().join(name);
        let spec = DaemonSpec::new(env!("CARGO_BIN_EXE_bulkhead"), path("config"), path("data")).with_chaos();
        let daemon = Daemon::start(&spec);
        daemon.wait_ready(PATIENCE);
        daemon
    }
}

fn order(daemon: &Daemon, key: &str, body: &str, wish: Option<&str>) -> Response {
    let mut request = Client::new().post(daemon.url("/orders/")).header("Idempotency-Key", key).body(body.to_owned());
    if let Some(wish) = wish {
        request = request.header("x-request-id", wish);
    }
    request.send().expect("answered")
}

/// The status, whether it is a replay, and the body.
fn told(response: Response) -> (u16, bool, String) {
    let is_replay = response.headers().contains_key("idempotency-replayed");
    (response.status().as_u16(), is_replay, response.text().expect("a body"))
}

fn job(body: &str) -> String {
    let answer: Value = serde_json::from_str(body).expect("JSON");
    answer["jobId"].as_str().expect("a job id").to_owned()
}

/// The job, once it has ended.
fn ended(daemon: &Daemon, id: &str) -> Value {
    let request = Client::new().get(daemon.url(&format!("/orders/{id}"))).header("Prefer", "wait=30");
    let job: Value = request.send().expect("answered").json().expect("JSON");
    assert_ne!(job["status"], "pending", "{job}");
    job
}

#[test]
fn keys_and_results_survive_a_sigkill() {
    let setup = Setup::new();
    let daemon = setup.start();
    let first = told(order(&daemon, "one", "{\"n\":1}", None));
    assert_eq!((first.0, first.1), (202, false));
    let id = job(&first.2);
    let before = ended(&daemon, &id);
    assert_eq!((&before["status"], &before["result"]["n"]), (&"completed".into(), &1.into()));
    daemon.sigkill();

    let daemon = setup.start();
    assert_eq!(ended(&daemon, &id), before, "the same document, byte for byte");
    assert_eq!(told(order(&daemon, "one", "{\"n\":1}", None)), (202, true, first.2));
    assert_eq!(told(order(&daemon, "one", "{\"n\":2}", None)).0, 422);
    assert!(daemon.chaos_runs("chaos").is_empty(), "nothing was worked on again");
    daemon.sigterm();
    assert!(daemon.wait_exit(PATIENCE).success());
}

/// Killed after a request was accepted and before its job ended: the same request is the same job, worked on once.
#[test]
fn a_request_repeated_after_a_sigkill_is_the_same_job() {
    let setup = Setup::new();
    let daemon = setup.start();
    let first = told(order(&daemon, "two", "x", Some("slow:1500")));
    daemon.sigkill();
    let daemon = setup.start();
    let again = told(order(&daemon, "two", "x", Some("slow:1500")));
    assert_eq!((again.0, &again.2), (202, &first.2));
    let id = job(&first.2);
    assert_eq!(ended(&daemon, &id)["status"], "completed");
    // Both records are done: a third one that lies behind them is.
    ended(&daemon, &job(&told(order(&daemon, "three", "y", None)).2));
    let runs = daemon.chaos_runs("chaos");
    assert!(runs.get(&id).is_none_or(|count| *count == 1), "{runs:?}");
}

#[test]
fn an_answer_waits_and_a_stream_tells() {
    let setup = Setup::new();
    let daemon = setup.start();
    let post = |wish: &str, prefer: &str, kind: &str| {
        let request = Client::new().post(daemon.url("/orders/now")).header("Content-Type", kind).body("{\"n\":7}");
        request.header("x-request-id", wish).header("Prefer", prefer).send().expect("answered")
    };
    let done = post("none", "wait=30", "application/json");
    // The step knows no such wish: the record is rejected, and the answer says so.
    assert_eq!(done.status(), 200);
    let failed: Value = done.json().expect("JSON");
    assert_eq!((&failed["status"], &failed["error"]["code"]), (&"failed".into(), &"chaos_unknown".into()));
    assert_eq!(post("slow:1", "wait=30", "text/plain").status(), 415);

    let accepted = post("slow:500", "respond-async", "application/json");
    assert_eq!(
        (accepted.status().as_u16(), &accepted.headers()["preference-applied"]),
        (202, &"respond-async".parse().expect("a value"))
    );
    let id = job(&accepted.text().expect("a body"));
    let stream = Client::new().get(daemon.url(&format!("/orders/{id}/events"))).send().expect("answered");
    let lines: Vec<_> = BufReader::new(stream).lines().map(|line| line.expect("text")).collect();
    let names: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(names.last(), Some(&"completed"), "{lines:?}");
    assert!(daemon.metrics().contains_key("bulkhead_log_lines_dropped_total{}"));
}

/// What a step sends to an output with `result = true` is the end of its record's job, whatever becomes of the record itself.
#[test]
fn a_record_of_an_output_with_results_ends_its_job() {
    let pipeline = PIPELINE.replace(
        "steps = [{ chaos = { header = \"x-request-id\" } }]",
        "steps = [{ map = { value = '{seen: .n}', output = \"told\", keep = true } }, { filter = { where = \"false\" } }]",
    );
    let output = "output = { topic = \"orders.done\" }";
    let told = "outputs = { told = { topic = \"orders.told\", result = true } }";
    let setup = Setup::with(&pipeline.replace(output, &format!("{output}\n{told}")));
    let daemon = setup.start();
    let request = Client::new().post(daemon.url("/orders/")).header("Idempotency-Key", "one");
    let answer = request.json(&serde_json::json!({ "n": 1 })).send().expect("answered");
    assert_eq!(answer.status(), 202);
    let id = job(&answer.text().expect("a body"));
    let done = ended(&daemon, &id);
    assert_eq!((&done["status"], &done["result"]["seen"]), (&"completed".into(), &1.into()), "{done}");
    daemon.sigkill();
    assert_eq!(ended(&setup.start(), &id), done);
}

#[test]
fn what_is_let_in_fits_the_log() {
    let setup = Setup::new();
    let daemon = setup.start();
    let body = "x".repeat(5 << 20);
    let accepted = told(order(&daemon, "large", &body, None));
    assert_eq!(accepted.0, 202);
    let done = ended(&daemon, &job(&accepted.2));
    assert_eq!((&done["status"], done["result"].as_str().map(str::len)), (&"completed".into(), Some(5 << 20)));
}

#[test]
fn a_full_backlog_is_told_before_anything_is_read() {
    let setup = Setup::with(&PIPELINE.replace("partitions = 1", "partitions = 1, backlog_max = 3"));
    let daemon = setup.start();
    let mut keys = 0;
    // The first record hangs in its step; those behind it wait.
    let refused = eventually("the backlog is full", PATIENCE, || {
        keys += 1;
        let key = keys.to_string();
        let answer = order(&daemon, &key, "x", Some("hang:1"));
        if answer.status() == 202 { Err("taken".to_owned()) } else { Ok(answer) }
    });
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (503, &"1".parse().expect("a value")));
    let problem: Value = refused.json().expect("JSON");
    assert_eq!(problem["type"], "urn:bulkhead:problem:backlog-full", "{problem}");
}

/// The routes that are shipped say what they take.
#[test]
fn the_shipped_route_takes_a_picture_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let data = tempfile::tempdir().expect("a temporary folder");
    let daemon = Daemon::start(&DaemonSpec::new(env!("CARGO_BIN_EXE_bulkhead"), root.join("config"), data.path()));
    daemon.wait_ready(PATIENCE);
    let picture = std::fs::read(root.join("config/models/samples/7-scan.png")).expect("the sample is shipped");
    let request = Client::new().post(daemon.url("/api/classify")).header("Content-Type", "image/png");
    let answer = request.header("Prefer", "wait=30").body(picture).send().expect("answered");
    assert_eq!(answer.status(), 200);
    let job: Value = answer.json().expect("JSON");
    assert_eq!((&job["status"], &job["result"]["label"]), (&"completed".into(), &"7".into()), "{job}");
}
