//! The orders system from outside, as it is shipped, on the embedded log and on a real Kafka: what is taken and refused, that
//! an order sent twice is one order, and what a person reading the log is told.

mod bad_input;
mod effects;
mod keys;
mod log;

use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use bulkhead_testkit::kafka::Kafka;
use reqwest::blocking::{Client, Response};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_bulkhead");
/// How long anything may take on a busy machine; nothing waits that long where all is well.
const PATIENCE: Duration = Duration::from_secs(90);

/// The shipped pipeline alone, under a name of its own: its topics and its group are named after it.
struct Orders {
    name: &'static str,
    folder: TempDir,
}

impl Orders {
    fn new(name: &'static str) -> Self {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
        let read = |path: &str| std::fs::read_to_string(shipped.join(path)).expect("it is shipped");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |path: &str, text: String| {
            let path = folder.path().join("config").join(path);
            std::fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder");
            std::fs::write(path, text).expect("written");
        };
        write("schemas/order.json", read("schemas/order.json"));
        let pipeline = read("pipelines/orders.toml").replace("\"orders", &format!("\"{name}"));
        write("pipelines/orders.toml", pipeline.replace("\"order-processor\"", &format!("\"{name}-group\"")));
        Self { name, folder }
    }

    fn start(&self, kafka: Option<&Kafka>) -> Daemon {
        let path = |name: &str| self.folder.path().join(name);
        let spec = DaemonSpec::new(BINARY, path("config"), path("data")).named("a");
        let spec = match kafka {
            Some(kafka) => spec.on(kafka.bootstrap()),
            None => spec,
        };
        let daemon = Daemon::start(&spec);
        daemon.wait_ready(PATIENCE);
        daemon
    }

    fn log_file(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("data/bulkhead.log")).expect("the daemon logs")
    }
}

/// An order of one customer: two lamps.
fn order(customer: &str) -> Value {
    let items = json!([{ "product_id": "lamp", "quantity": 2, "price": 29.99 }]);
    json!({ "customer_id": customer, "items": items, "total_amount": 59.98 })
}

/// With the order's own idempotency key.
fn keyed(customer: &str, key: &str) -> Value {
    let mut order = order(customer);
    order["idempotency_key"] = key.into();
    order
}

/// What was answered.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    status: u16,
    is_replay: bool,
    /// The header `Idempotency-Key`, without its quotes.
    key: Option<String>,
    body: Value,
}

impl Answer {
    fn of(response: Response) -> Self {
        let header = |name: &str| Some(response.headers().get(name)?.to_str().expect("ASCII").to_owned());
        Self {
            status: response.status().as_u16(),
            is_replay: header("idempotency-replayed").is_some(),
            key: header("idempotency-key").map(|key| key.trim_matches('"').to_owned()),
            body: response.json().expect("JSON"),
        }
    }

    /// The id of the job that was accepted.
    fn id(&self) -> String {
        assert_eq!(self.status, 202, "{self:?}");
        self.body["jobId"].as_str().expect("a job id").to_owned()
    }

    /// The problem that the request was refused with.
    fn problem(&self) -> &str {
        self.body["type"].as_str().unwrap_or_default().trim_start_matches("urn:bulkhead:problem:")
    }
}

/// Posts an order; an error where nobody answered.
fn try_post(daemon: &Daemon, body: &str, key: Option<&str>) -> Result<Answer, reqwest::Error> {
    let client = Client::builder().timeout(PATIENCE).pool_max_idle_per_host(0).build()?;
    let mut request = client.post(daemon.url("/orders/")).header("Content-Type", "application/json");
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    request.body(body.to_owned()).send().map(Answer::of)
}

fn post(daemon: &Daemon, body: &Value, key: Option<&str>) -> Answer {
    try_post(daemon, &body.to_string(), key).expect("answered")
}

/// The job, once it has ended.
fn ended(daemon: &Daemon, id: &str) -> Value {
    let client = Client::builder().timeout(PATIENCE).build().expect("a client");
    let request = client.get(daemon.url(&format!("/orders/{id}"))).header("Prefer", "wait=30");
    let job: Value = request.send().expect("answered").json().expect("JSON");
    assert_ne!(job["status"], "pending", "{job}");
    job
}

/// A metric, summed over its series.
fn metric(daemon: &Daemon, name: &str) -> f64 {
    let series = daemon.metrics().into_iter().filter(|(series, _)| series.split('{').next() == Some(name));
    series.map(|(_, value)| value).sum()
}
