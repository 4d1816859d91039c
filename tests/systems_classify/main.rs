//! Classification as a system: the shipped pipeline and its page, in a real browser, on the embedded log and on a real broker.

mod bad_input;
mod both_logs;
mod page;

use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use bulkhead_testkit::process::eventually;
use reqwest::blocking::multipart::{Form, Part};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_bulkhead");
const PATIENCE: Duration = Duration::from_secs(60);
/// A PNG by its first bytes, and none behind them.
const BROKEN: &[u8] = b"\x89PNG\r\n\x1a\nnone";

/// What is shipped.
fn config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

fn sample(name: &str) -> PathBuf {
    config().join("models/samples").join(name)
}

/// The shipped classification alone, with a stage before it that is as slow as the header `x-request-id` says.
struct Setup {
    folder: TempDir,
}

const SLOW: &str = r#"
[[stage]]
name  = "slow"
steps = [{ chaos = { header = "x-request-id" } }]

[[stage]]
name    = "infer""#;

impl Setup {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = folder.path().join("config");
        std::fs::create_dir_all(dir.join("pipelines")).expect("a folder");
        for shared in ["models", "pages"] {
            std::os::unix::fs::symlink(config().join(shared), dir.join(shared)).expect("a link");
        }
        let shipped = std::fs::read_to_string(config().join("pipelines/classify.toml")).expect("it is shipped");
        let slow = shipped.replacen("\n[[stage]]\nname    = \"infer\"", SLOW, 1);
        assert_ne!(slow, shipped, "the shipped pipeline has the stage infer");
        std::fs::write(dir.join("pipelines/classify.toml"), slow).expect("written");
        Self { folder }
    }

    fn spec(&self) -> DaemonSpec {
        let path = |name: &str| self.folder.path().join(name);
        DaemonSpec::new(BINARY, path("config"), path("data")).with_chaos()
    }

    fn start(&self) -> Daemon {
        ready(&self.spec())
    }
}

fn ready(spec: &DaemonSpec) -> Daemon {
    let daemon = Daemon::start(spec);
    daemon.wait_ready(PATIENCE);
    daemon
}

/// Uploads a picture: the status and the answer.
fn upload(daemon: &Daemon, picture: Vec<u8>) -> (u16, Value) {
    let form = Form::new().part("file", Part::bytes(picture).file_name("picture"));
    let answer = daemon.client().post(daemon.url("/api/classify")).multipart(form).send().expect("an answer");
    (answer.status().as_u16(), answer.json().expect("JSON"))
}

/// What became of a job, once it has ended.
fn outcome(daemon: &Daemon, job: &str) -> Value {
    let url = daemon.url(&format!("/api/results/{job}"));
    eventually("the job ends", PATIENCE, || match daemon.get_json(&url) {
        (200, job) if job["status"] != "pending" => Ok(job),
        other => Err(format!("{other:?}")),
    })
}
