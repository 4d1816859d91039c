//! The admin port at its HTTP boundary, over a source that says what a test wants.

use bulkhead::admin::source::{AdminSource, PartitionProgress, Status};
use bulkhead::admin::{self, AdminDeps};
use bulkhead_actors::metrics::Metrics;
use parking_lot::Mutex;
use reqwest::blocking::Client;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

#[derive(Default)]
struct Says {
    live: bool,
    ready: Vec<Status>,
    standstill: Vec<Status>,
    progress: Vec<PartitionProgress>,
    killed: Mutex<Vec<String>>,
}

impl AdminSource for Says {
    fn live(&self) -> bool {
        self.live
    }
    fn ready(&self) -> Vec<Status> {
        self.ready.clone()
    }
    fn standstill(&self) -> Vec<Status> {
        self.standstill.clone()
    }
    fn progress(&self) -> Vec<PartitionProgress> {
        self.progress.clone()
    }
    fn actors(&self) -> Value {
        json!({ "id": "root", "children": [] })
    }
    fn kill(&self, actor: &str) -> Result<(), String> {
        if actor != "root/gateway" {
            return Err("no such actor".into());
        }
        self.killed.lock().push(actor.into());
        Ok(())
    }
    fn runs(&self) -> Value {
        json!({ "check": 3 })
    }
}

struct Admin {
    address: SocketAddr,
    source: Arc<Says>,
    server: actix_web::dev::ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    fn start(source: Says, chaos: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let source = Arc::new(source);
        let metrics = Arc::new(Metrics::new());
        metrics.records_in.with(["orders", "0"]).inc_by(3);
        let deps = AdminDeps { source: source.clone(), metrics, chaos };
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            actix_rt::System::new().block_on(async {
                let server = admin::start(listener, deps).expect("the listener is ours");
                tell.send(server.handle()).expect("the test waits");
                server.await.expect("serves");
            });
        });
        let server = told.recv().expect("the admin port starts");
        Self { address, source, server, thread: Some(thread) }
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let response = reqwest::blocking::get(format!("http://{}{path}", self.address)).expect("answered");
        (response.status().as_u16(), response.json().expect("JSON"))
    }

    fn post(&self, path: &str) -> (u16, Value) {
        let response = Client::new().post(format!("http://{}{path}", self.address)).send().expect("answered");
        (response.status().as_u16(), response.json().expect("JSON"))
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        let stopped = self.server.stop(true);
        actix_rt::System::new().block_on(stopped);
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, None | Some(Ok(()))), "the port's thread ends well");
        }
    }
}

fn partition(partition: i32, stage: Option<&str>, oldest_unfinished_ms: u64) -> PartitionProgress {
    let stage = stage.map(str::to_owned);
    PartitionProgress { pipeline: "orders".into(), partition, stage, oldest_unfinished_ms, allowed_ms: 1_000 }
}

#[test]
fn health_is_green_only_where_all_is_well() {
    let well = Says {
        live: true,
        ready: vec![Status::ok("broker reachable"), Status::ok("results caught up")],
        progress: vec![partition(0, Some("check"), 1_000), partition(1, None, 0)],
        ..Says::default()
    };
    let admin = Admin::start(well, false);
    assert_eq!(admin.get("/live"), (200, json!({ "ok": true })));
    let (status, ready) = admin.get("/ready");
    assert_eq!((status, &ready["statuses"][1]), (200, &json!({ "label": "results caught up", "ok": true })));
    let (status, progress) = admin.get("/progress");
    assert_eq!((status, &progress["ok"], &progress["stuck"]), (200, &json!(true), &json!([])));
}

#[test]
fn health_is_red_with_what_is_wrong() {
    let ill = Says {
        ready: vec![Status::ok("results caught up"), Status::failed("broker reachable", "no broker in 1 s")],
        progress: vec![partition(0, Some("check"), 999), partition(3, Some("classify"), 1_001)],
        ..Says::default()
    };
    let admin = Admin::start(ill, false);
    assert_eq!(admin.get("/live"), (503, json!({ "ok": false })));
    let (status, ready) = admin.get("/ready");
    let broken = json!({ "label": "broker reachable", "ok": false, "error": "no broker in 1 s" });
    assert_eq!((status, &ready["ok"], &ready["statuses"][1]), (503, &json!(false), &broken));
    let (status, progress) = admin.get("/progress");
    let stuck = json!([{ "pipeline": "orders", "partition": 3, "stage": "classify", "oldest_unfinished_ms": 1_001,
        "allowed_ms": 1_000 }]);
    assert_eq!((status, &progress["stuck"]), (503, &stuck));
}

#[test]
fn the_health_command_says_what_ready_says() {
    let health = |address: SocketAddr| {
        let admin = address.to_string();
        let output = Command::new(env!("CARGO_BIN_EXE_bulkhead")).args(["health", "--admin", &admin]).output();
        let output = output.expect("the binary runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let well = Admin::start(Says { ready: vec![Status::ok("broker reachable")], ..Says::default() }, false);
    assert_eq!(health(well.address), (Some(0), String::new()));
    let ill = Admin::start(Says { ready: vec![Status::failed("not draining", "stopping")], ..Says::default() }, false);
    let (code, why) = health(ill.address);
    assert!(code == Some(4) && why.contains("503") && why.contains("stopping"), "{code:?} {why}");
    let gone = ill.address;
    drop(ill);
    let (code, why) = health(gone);
    assert!(code == Some(4) && why.contains(&format!("{gone} does not answer")), "{code:?} {why}");
}

#[test]
fn a_log_that_is_away_is_no_progress_though_no_partition_is_stuck() {
    let away = Status::failed("log reachable", "no broker in 2 s");
    let admin = Admin::start(Says { standstill: vec![away], ..Says::default() }, false);
    let (status, progress) = admin.get("/progress");
    let told = json!([{ "label": "log reachable", "ok": false, "error": "no broker in 2 s" }]);
    assert_eq!((status, &progress["ok"], &progress["standstill"]), (503, &json!(false), &told));
}

#[test]
fn a_daemon_that_checked_nothing_is_not_ready() {
    let admin = Admin::start(Says::default(), false);
    assert_eq!(admin.get("/ready"), (503, json!({ "ok": false, "statuses": [] })));
}

#[test]
fn metrics_actors_and_version_are_shown() {
    let admin = Admin::start(Says::default(), false);
    let scraped = reqwest::blocking::get(format!("http://{}/metrics", admin.address)).expect("answered");
    assert_eq!(scraped.headers()["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = scraped.text().expect("text");
    assert!(text.contains("bulkhead_records_in_total{pipeline=\"orders\",partition=\"0\"} 3"), "{text}");
    assert_eq!(admin.get("/actors"), (200, json!({ "id": "root", "children": [] })));
    assert_eq!(admin.get("/version"), (200, json!({ "version": env!("CARGO_PKG_VERSION") })));
    let (status, problem) = admin.post("/live");
    assert_eq!((status, &problem["type"]), (405, &json!("urn:bulkhead:problem:method-not-allowed")));
}

#[test]
fn actors_are_killed_only_where_chaos_is_asked_for() {
    let quiet = Admin::start(Says::default(), false);
    assert_eq!(quiet.post("/chaos/kill/root/gateway").0, 404);
    assert_eq!(quiet.get("/chaos/runs").0, 404);
    assert!(quiet.source.killed.lock().is_empty());

    let chaos = Admin::start(Says::default(), true);
    assert_eq!(chaos.post("/chaos/kill/root/gateway"), (200, json!({ "killed": "root/gateway" })));
    assert_eq!(*chaos.source.killed.lock(), ["root/gateway"]);
    let (status, problem) = chaos.post("/chaos/kill/root/nobody");
    assert_eq!((status, &problem["type"]), (404, &json!("urn:bulkhead:problem:unknown-actor")));
    assert_eq!(problem["detail"], "\"root/nobody\": no such actor");
    assert_eq!(chaos.get("/chaos/runs"), (200, json!({ "check": 3 })));
}
