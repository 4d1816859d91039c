//! The shipped chat pipeline on the embedded log or a broker, with what a test changes of it. Never another pipeline: its file is
//! the one that is shipped.

use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::process::eventually;
use reqwest::blocking::{Client, Response};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A log to run on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum On {
    /// The embedded one.
    Embedded,
    /// A real broker, shared by the tests of this binary; each has topics of its own.
    Kafka,
}

/// A config directory with the shipped chat pipeline, and data directories beside it.
pub(crate) struct Rig {
    folder: TempDir,
    on: On,
    prefix: String,
}

impl Rig {
    /// The shipped files, with these replacements in the pipeline's.
    pub(crate) fn new(on: On, changes: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
        let config = folder.path().join("config");
        for part in ["documents", "pages"] {
            std::fs::create_dir_all(config.join(part)).expect("a folder");
            for entry in std::fs::read_dir(shipped.join(part)).expect("it is shipped").flatten() {
                std::fs::copy(entry.path(), config.join(part).join(entry.file_name())).expect("copied");
            }
        }
        let mut pipeline = std::fs::read_to_string(shipped.join("pipelines/chat.toml")).expect("it is shipped");
        for (from, to) in changes {
            assert!(pipeline.contains(from), "the shipped pipeline has no {from}");
            pipeline = pipeline.replace(from, to);
        }
        // Tests share the broker: topics, groups and the pipeline's own names get a prefix.
        let prefix = match on {
            On::Embedded => String::new(),
            On::Kafka => format!("t{}-{}-", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)),
        };
        if on == On::Kafka {
            for name in ["query.dlq", "query", "prompt", "answer"] {
                pipeline = pipeline.replace(&format!("topic = \"{name}\""), &format!("topic = \"{prefix}{name}\""));
                pipeline = pipeline.replace(&format!("{name} = \"{name}\""), &format!("{name} = \"{prefix}{name}\""));
            }
            pipeline = pipeline.replace("group = \"chat\"", &format!("group = \"{prefix}chat\""));
            pipeline = pipeline.replace("= \"chat\"", &format!("= \"{prefix}chat\""));
        }
        std::fs::create_dir_all(config.join("pipelines")).expect("a folder");
        std::fs::write(config.join("pipelines/chat.toml"), pipeline).expect("written");
        Self { folder, on, prefix }
    }

    /// The name of one of its topics on the log.
    pub(crate) fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Its config directory.
    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("config")
    }

    /// How the daemon with this data directory is run.
    pub(crate) fn spec(&self, data: &str) -> DaemonSpec {
        let spec = DaemonSpec::new(env!("CARGO_BIN_EXE_bulkhead"), self.config(), self.folder.path().join(data));
        let spec = spec.env("BULKHEAD_JOB_SECRET", "the secret of these tests").with_chaos();
        match self.on {
            On::Embedded => spec,
            On::Kafka => spec.on(Kafka::shared().bootstrap()),
        }
    }

    /// A ready daemon.
    pub(crate) fn start(&self) -> Daemon {
        self.start_as("data", &[])
    }

    /// A ready daemon with a data directory of this name and these variables.
    pub(crate) fn start_as(&self, data: &str, env: &[(&str, &str)]) -> Daemon {
        let spec = env.iter().fold(self.spec(data), |spec, (name, value)| spec.env(name, value));
        let daemon = Daemon::start(&spec);
        daemon.wait_ready(PATIENCE);
        daemon
    }
}

/// A client whose requests never wait for one another.
pub(crate) fn client() -> Client {
    Client::builder().timeout(PATIENCE).pool_max_idle_per_host(0).build().expect("a client can be made")
}

/// Sends a query; the answer to the request.
pub(crate) fn post(daemon: &Daemon, session: Option<&str>, text: &str) -> Response {
    let mut request = client().post(daemon.url("/messages")).json(&json!({ "text": text }));
    if let Some(session) = session {
        request = request.header("x-session", session);
    }
    request.send().expect("answered")
}

/// Sends a query that is taken; `{"jobId", "session"}`.
pub(crate) fn ask(daemon: &Daemon, session: Option<&str>, text: &str) -> Value {
    let response = post(daemon, session, text);
    let status = response.status();
    let body: Value = response.json().expect("JSON");
    assert_eq!(status, 202, "{body}");
    body
}

/// The job, once it has ended.
pub(crate) fn ended(daemon: &Daemon, asked: &Value) -> Value {
    let path = format!("/messages/{}", asked["jobId"].as_str().expect("a job id"));
    eventually("the job ends", PATIENCE, || {
        let request = client().get(daemon.url(&path)).header("Prefer", "wait=10");
        let job: Value = request.send().and_then(Response::json).map_err(|e| e.to_string())?;
        if job["status"] == "pending" { Err(job.to_string()) } else { Ok(job) }
    })
}

/// The next message; 204 is no message. What is not served yet is asked again.
pub(crate) fn next(daemon: &Daemon, query: &str) -> Option<Value> {
    eventually("messages are served", PATIENCE, || {
        let request = client().get(daemon.url(&format!("/messages?{query}")));
        let answer = request.send().map_err(|e| e.to_string())?;
        match answer.status().as_u16() {
            200 => Ok(Some(answer.json().expect("JSON"))),
            204 => Ok(None),
            503 => Err(answer.text().unwrap_or_default()),
            status => panic!("{status}: {}", answer.text().unwrap_or_default()),
        }
    })
}

/// The next message, once there is one.
pub(crate) fn next_one(daemon: &Daemon, query: &str) -> Value {
    eventually("a message comes", PATIENCE, || next(daemon, query).ok_or_else(|| "none yet".to_owned()))
}

/// Acknowledges a lease; the status.
pub(crate) fn ack(daemon: &Daemon, message: &Value) -> u16 {
    let body = json!({ "lease": message["lease"] });
    client().post(daemon.url("/messages/ack")).json(&body).send().expect("answered").status().as_u16()
}
