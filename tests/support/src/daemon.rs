//! The daemon as a user runs it: a child process with a config, a data directory and an admin port.
//! Never looks inside it but through what it serves and prints.

use crate::process::{Process, Signal, eventually, tail};
use crate::scratch::scratch;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use tempfile::TempDir;

const START: Duration = Duration::from_secs(30);

/// How to run the daemon.
#[derive(Clone, Debug)]
pub struct DaemonSpec {
    /// The binary: `env!("CARGO_BIN_EXE_bulkhead")`.
    pub binary: PathBuf,
    /// `--config`.
    pub config: PathBuf,
    /// `--data`.
    pub data: PathBuf,
    /// `--kafka`; the embedded log without it.
    pub kafka: Option<String>,
    /// `--instance`.
    pub instance: Option<String>,
    /// `--chaos`: the admin port can kill actors.
    pub chaos: bool,
    /// What else is on its command line.
    pub args: Vec<String>,
    /// What is in its environment beside ours.
    pub env: Vec<(String, String)>,
}

impl DaemonSpec {
    /// On the embedded log, as it comes.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>, config: impl Into<PathBuf>, data: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            config: config.into(),
            data: data.into(),
            kafka: None,
            instance: None,
            chaos: false,
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// On a broker.
    #[must_use]
    pub fn on(mut self, bootstrap: impl Into<String>) -> Self {
        self.kafka = Some(bootstrap.into());
        self
    }

    /// Under this instance name.
    #[must_use]
    pub fn named(mut self, instance: &str) -> Self {
        self.instance = Some(instance.into());
        self
    }

    /// With actors that can be killed through the admin port.
    #[must_use]
    pub const fn with_chaos(mut self) -> Self {
        self.chaos = true;
        self
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.into());
        self
    }

    /// With one more variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    fn arguments(&self) -> Vec<String> {
        let mut args: Vec<String> = ["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"].map(Into::into).into();
        let text = |path: &Path| path.to_str().expect("a test's paths are UTF-8").to_owned();
        args.extend(["--config".into(), text(&self.config), "--data".into(), text(&self.data)]);
        args.extend(self.kafka.iter().flat_map(|b| ["--kafka".into(), b.clone()]));
        args.extend(self.instance.iter().flat_map(|name| ["--instance".into(), name.clone()]));
        args.extend(self.chaos.then(|| "--chaos".into()));
        args.extend(self.args.iter().cloned());
        args
    }
}

/// One actor as `/actors` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ActorRow {
    /// `running`, `restarting`, …
    pub state: String,
    /// How many times it has been built.
    pub incarnation: u64,
    /// All that the page says of it, children left out.
    pub page: Value,
}

/// A running daemon; dropping it kills it. On a panic its output is printed.
pub struct Daemon {
    process: Process,
    listen: String,
    admin: String,
    log: PathBuf,
    client: reqwest::blocking::Client,
    _folder: TempDir,
}

impl Daemon {
    /// Starts it and waits until it serves.
    ///
    /// # Panics
    /// When it ends instead, with its output.
    #[must_use]
    pub fn start(spec: &DaemonSpec) -> Self {
        let mut daemon = Self::spawn(spec);
        let file = spec.data.join("run.json");
        let run = eventually("the daemon serves", START, || {
            if let Some(status) = daemon.process.exit_status() {
                panic!("the daemon ended ({status}) instead of serving:\n{}", daemon.output());
            }
            let text = std::fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?;
            let run: Value = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
            // The file of an earlier process may still lie there.
            let ours = run["pid"] == daemon.process.pid();
            if ours { Ok(run) } else { Err(format!("run.json is of pid {}", run["pid"])) }
        });
        let address = |key: &str| run[key].as_str().unwrap_or_else(|| panic!("run.json without {key}")).to_owned();
        (daemon.listen, daemon.admin) = (address("listen"), address("admin"));
        daemon
    }

    /// Starts it and returns at once: for a test that expects it to end.
    #[must_use]
    pub fn spawn(spec: &DaemonSpec) -> Self {
        let folder = scratch("daemon");
        let log = folder.path().join("output.log");
        let process = Process::start("bulkhead", &spec.binary, spec.arguments(), &spec.env, &log);
        // No connection is kept: a daemon that stood still closes those that were idle, and the next request would fail.
        let client = reqwest::blocking::Client::builder().timeout(Duration::from_secs(30)).pool_max_idle_per_host(0);
        let client = client.build();
        let client = client.expect("an HTTP client can be made");
        Self { process, listen: String::new(), admin: String::new(), log, client, _folder: folder }
    }

    /// Its process id.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Asks it to drain and end.
    pub fn sigterm(&self) {
        self.process.signal(Signal::Term);
    }

    /// Kills it and waits until it is gone.
    pub fn sigkill(&self) {
        self.process.kill();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// How it ended.
    ///
    /// # Panics
    /// When it still runs after `timeout`.
    pub fn wait_exit(&self, timeout: Duration) -> ExitStatus {
        self.process.wait_exit(timeout).unwrap_or_else(|| panic!("the daemon still runs after {timeout:?}"))
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.exit_status().is_none()
    }

    /// All it has printed, both streams.
    #[must_use]
    pub fn output(&self) -> String {
        tail(&self.log, usize::MAX)
    }

    /// A URL of the gateway; `path` begins with `/`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    /// A URL of the admin port; `path` begins with `/`.
    #[must_use]
    pub fn admin(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    /// An HTTP client for the two.
    #[must_use]
    pub const fn client(&self) -> &reqwest::blocking::Client {
        &self.client
    }

    /// The status and the JSON body of a GET; `null` for a body that is no JSON.
    ///
    /// # Panics
    /// When there is no answer.
    #[must_use]
    pub fn get_json(&self, url: &str) -> (u16, Value) {
        self.try_get_json(url).unwrap_or_else(|e| panic!("GET {url}: {e}"))
    }

    /// As [`Daemon::get_json`], for a daemon that may not answer now.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn try_get_json(&self, url: &str) -> Result<(u16, Value), String> {
        let answer = self.client.get(url).send().map_err(|e| e.to_string())?;
        let status = answer.status().as_u16();
        let body = answer.bytes().map_err(|e| e.to_string())?;
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    /// Waits until `/ready` answers 200.
    ///
    /// # Panics
    /// When it does not, or the daemon ends.
    pub fn wait_ready(&self, timeout: Duration) {
        eventually("the daemon is ready", timeout, || {
            assert!(self.is_running(), "the daemon ended instead of becoming ready");
            let (status, body) = self.try_get_json(&self.admin("/ready"))?;
            if status == 200 { Ok(()) } else { Err(format!("{status}: {body}")) }
        });
    }

    /// Every actor by its id.
    #[must_use]
    pub fn actors(&self) -> BTreeMap<String, ActorRow> {
        let (status, page) = self.get_json(&self.admin("/actors"));
        assert_eq!(status, 200, "/actors: {page}");
        let mut actors = BTreeMap::new();
        collect(&page, &mut actors);
        actors
    }

    /// Kills an actor through the admin port (needs `--chaos`).
    ///
    /// # Panics
    /// When the daemon refuses.
    pub fn kill_actor(&self, id: &str) {
        self.try_kill_actor(id).unwrap_or_else(|why| panic!("kill {id}: {why}"));
    }

    /// As [`Daemon::kill_actor`], for an actor that may just be gone.
    ///
    /// # Errors
    /// What the daemon answered instead.
    pub fn try_kill_actor(&self, id: &str) -> Result<(), String> {
        let url = self.admin(&format!("/chaos/kill/{id}"));
        let answer = self.client.post(&url).send().map_err(|e| e.to_string())?;
        let (status, body) = (answer.status(), answer.text().unwrap_or_default());
        if status.is_success() { Ok(()) } else { Err(format!("{status}: {body}")) }
    }

    /// How often the chaos step of this label ran each record, by the record's id (needs `--chaos`).
    ///
    /// # Panics
    /// When there is no answer.
    #[must_use]
    pub fn chaos_runs(&self, label: &str) -> BTreeMap<String, u64> {
        let (status, page) = self.get_json(&self.admin("/chaos/runs"));
        assert_eq!(status, 200, "/chaos/runs: {page}");
        let runs = page["steps"][label].as_object().into_iter().flatten();
        runs.filter_map(|(id, count)| Some((id.clone(), count.as_u64()?))).collect()
    }

    /// Every series of `/metrics`, labels included as they are written: `name{label="value"}`.
    ///
    /// # Panics
    /// When there is no answer.
    #[must_use]
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let url = self.admin("/metrics");
        let answer = self.client.get(&url).send().and_then(reqwest::blocking::Response::text);
        parse_metrics(&answer.unwrap_or_else(|e| panic!("GET {url}: {e}")))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- bulkhead (pid {}), last lines\n{}", self.pid(), tail(&self.log, 100));
        }
    }
}

/// Every object with an id and an incarnation is an actor, wherever the page nests it.
fn collect(page: &Value, actors: &mut BTreeMap<String, ActorRow>) {
    match page {
        Value::Object(fields) => {
            if let (Some(id), Some(incarnation)) = (page["id"].as_str(), page["incarnation"].as_u64()) {
                let mut own = fields.clone();
                own.remove("children");
                let state = page["state"].as_str().unwrap_or_default().to_owned();
                let row = ActorRow { state, incarnation, page: Value::Object(own) };
                assert!(actors.insert(id.to_owned(), row).is_none(), "/actors shows {id} twice");
            }
            fields.values().for_each(|field| collect(field, actors));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, actors)),
        _ => {}
    }
}

fn parse_metrics(text: &str) -> BTreeMap<String, f64> {
    let series = text.lines().filter(|l| !l.starts_with('#')).filter_map(|line| {
        // A label's value may hold spaces, the figure cannot.
        let (name, value) = line.trim().rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    series.collect()
}

#[cfg(test)]
mod tests {
    use super::{collect, parse_metrics};
    use std::collections::BTreeMap;

    #[test]
    fn actors_are_found_at_any_depth() {
        let page = serde_json::json!({ "actors": [{ "id": "root", "state": "running", "incarnation": 1, "children": [
            { "id": "pipeline/a", "state": "running", "incarnation": 2, "children": [] }
        ] }] });
        let mut actors = BTreeMap::new();
        collect(&page, &mut actors);
        assert_eq!(actors.keys().collect::<Vec<_>>(), ["pipeline/a", "root"]);
        assert_eq!((actors["pipeline/a"].incarnation, actors["root"].page.get("children")), (2, None));
    }

    #[test]
    fn metrics_keep_their_labels() {
        let text = "# TYPE lag gauge\nlag{topic=\"a b\",partition=\"0\"} 12\nup 1\n# EOF\n";
        let metrics = parse_metrics(text);
        assert_eq!((metrics["lag{topic=\"a b\",partition=\"0\"}"], metrics["up"]), (12.0, 1.0));
    }
}
