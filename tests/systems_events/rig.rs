//! What the cases share: a config in a folder of its own, requests, and what came out. Never judges.

use bulkhead_core::record::Record;
use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use bulkhead_testkit::process::eventually;
use reqwest::blocking::{Client, Response};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_bulkhead");
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A config and a data directory.
pub(crate) struct Rig {
    folder: TempDir,
}

impl Rig {
    /// With these two files.
    pub(crate) fn new(daemon: &str, pipeline: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let rig = Self { folder };
        std::fs::create_dir_all(rig.config().join("pipelines")).expect("a folder");
        std::fs::write(rig.config().join("bulkhead.toml"), format!("version = 1\n{daemon}\n")).expect("written");
        std::fs::write(rig.config().join("pipelines/events.toml"), pipeline).expect("written");
        rig
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("config")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn spec(&self) -> DaemonSpec {
        DaemonSpec::new(BINARY, self.config(), self.data()).with_chaos()
    }

    /// A file of the data directory.
    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.data().join(name)).unwrap_or_default()
    }
}

/// A client that keeps its connection.
pub(crate) fn client() -> Client {
    Client::builder().timeout(PATIENCE).build().expect("a client")
}

pub(crate) fn post(client: &Client, url: &str, body: String) -> Response {
    client.post(url).header("Content-Type", "application/json").body(body).send().expect("answered")
}

/// A metric, summed over its series.
pub(crate) fn metric(daemon: &Daemon, name: &str) -> f64 {
    let series = daemon.metrics().into_iter().filter(|(series, _)| series.split('{').next() == Some(name));
    series.map(|(_, value)| value).sum()
}

pub(crate) fn wait_metric(daemon: &Daemon, name: &str, wanted: impl Fn(f64) -> bool) {
    eventually(name, PATIENCE, || {
        assert!(daemon.is_running(), "the daemon ended");
        let value = metric(daemon, name);
        if wanted(value) { Ok(()) } else { Err(format!("it is {value}")) }
    });
}

/// A record's value as JSON.
pub(crate) fn json(record: &Record) -> Value {
    serde_json::from_slice(record.payload()).expect("JSON")
}

/// The value of an answer's header.
pub(crate) fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// Lines of a file in which each is a JSON object.
pub(crate) fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
