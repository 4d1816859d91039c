//! The daemon with the shipped pipeline, an Airflow played by the test, and pictures to send. Never looks inside the daemon.

use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::web::{Asked, Reply, WebServer};
use reqwest::blocking::multipart::{Form, Part};
use reqwest::blocking::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// A photograph-like picture: a gradient with noise, 640 x 480, two bright things on it.
pub(crate) const PICTURE: &[u8] = include_bytes!("two-things.png");

/// Which log the daemon is on.
#[derive(Clone, Copy)]
pub(crate) enum On {
    Embedded,
    /// The broker of all these tests, under topics of this name, so that several daemons do not share them.
    Kafka(&'static str),
}

/// A daemon on the shipped file.
pub(crate) struct Uploads {
    pub daemon: Daemon,
    _config: TempDir,
    _data: TempDir,
}

/// What a test changes in the shipped file.
pub(crate) type Replaced<'a> = &'a [(&'a str, &'a str)];

impl Uploads {
    /// Starts it, with an Airflow at this URL.
    pub(crate) fn start(on: On, airflow: &str, replaced: Replaced<'_>) -> Self {
        let (config, data) = (config(on, replaced), TempDir::new().expect("a folder can be made"));
        let mut spec = DaemonSpec::new(env!("CARGO_BIN_EXE_bulkhead"), config.path(), data.path());
        if let On::Kafka(_) = on {
            spec = spec.on(Kafka::shared().bootstrap());
        }
        let daemon = Daemon::start(&spec.env("AIRFLOW_URL", airflow));
        daemon.wait_ready(PATIENCE);
        Self { daemon, _config: config, _data: data }
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        let client = Client::builder().timeout(2 * PATIENCE).pool_max_idle_per_host(0).build();
        client.expect("an HTTP client can be made").post(self.daemon.url(path))
    }

    /// Uploads a file under a name and a type that say nothing about it.
    pub(crate) fn upload(&self, file: &[u8], fields: &[(&str, &str)]) -> Answer {
        Answer::of(self.post("/upload/").multipart(form(file, fields)).send().expect("it is answered"))
    }

    /// What the job is said to be now.
    pub(crate) fn job(&self, id: &str) -> Value {
        let (status, job) = self.daemon.get_json(&self.daemon.url(&format!("/uploads/{id}")));
        assert_eq!(status, 200, "{job}");
        job
    }
}

/// A form with the file, under a name and a type that say nothing about it.
pub(crate) fn form(file: &[u8], fields: &[(&str, &str)]) -> Form {
    let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let form = fields.fold(Form::new(), |form, (name, value)| form.text(name, value));
    form.part("file", Part::bytes(file.to_vec()).file_name("x").mime_str("text/plain").expect("it is a type"))
}

/// A directory with the shipped pipeline alone; each of `replaced` must be in it.
fn config(on: On, replaced: Replaced<'_>) -> TempDir {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/pipelines/uploads.toml");
    let mut text = std::fs::read_to_string(shipped).expect("the shipped file can be read");
    for (from, to) in replaced {
        assert!(text.contains(from), "the shipped file has no {from:?}");
        text = text.replace(from, to);
    }
    if let On::Kafka(topics) = on {
        text =
            text.replace("\"uploads\"", &format!("\"uploads-{topics}\"")).replace("\"images", &format!("\"{topics}"));
    }
    let dir = TempDir::new().expect("a folder can be made");
    std::fs::create_dir(dir.path().join("pipelines")).expect("a folder can be made");
    std::fs::write(dir.path().join("pipelines/uploads.toml"), text).expect("a file can be written");
    dir
}

/// The shipped file's form for Airflow 2: the lines that say so, in place of the stage's steps.
pub(crate) fn for_airflow_2() -> (String, String) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/pipelines/uploads.toml");
    let text = std::fs::read_to_string(shipped).expect("the shipped file can be read");
    let from = text.find("[[stage.steps]]").expect("there is a step");
    let to = text.find("# Airflow 2 instead").expect("there is the other form");
    let other: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#airflow2 ")).collect();
    assert!(!other.is_empty(), "the other form has lines");
    (text[from..to].to_owned(), other.join("\n") + "\n\n")
}

/// An answer of the gateway.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub location: String,
    pub body: Value,
}

impl Answer {
    pub(crate) fn of(response: Response) -> Self {
        let header =
            |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (status, location) = (response.status().as_u16(), header("location").to_owned());
        Self { status, location, body: response.json().expect("every answer is JSON") }
    }

    /// The job that a problem is about.
    pub(crate) fn job(&self) -> &str {
        self.body["jobId"].as_str().unwrap_or_else(|| panic!("no job in {self:?}"))
    }

    pub(crate) fn detail(&self) -> &str {
        self.body["detail"].as_str().unwrap_or_default()
    }
}

/// An Airflow 3 that knows one DAG, or answers runs as the test says.
pub(crate) struct Played {
    pub server: WebServer,
    logins: Arc<AtomicUsize>,
}

impl Played {
    /// `run` answers a request for a run that carries a token which is taken.
    pub(crate) fn start(run: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let logins = Arc::<AtomicUsize>::default();
        let issued = Arc::clone(&logins);
        let server = WebServer::start(move |asked| match asked.path.as_str() {
            "/auth/token" if asked.json() == json!({ "username": "airflow", "password": "airflow" }) => {
                let token = format!("t{}", issued.fetch_add(1, Ordering::SeqCst) + 1);
                Reply::json(201, &json!({ "access_token": token }))
            }
            "/auth/token" => Reply::json(401, &json!({ "detail": "Invalid credentials" })),
            _ if asked.header("authorization").starts_with("Bearer t") => run(asked),
            _ => Reply::json(403, &json!({ "detail": "Invalid JWT token" })),
        });
        Self { server, logins }
    }

    pub(crate) fn logins(&self) -> usize {
        self.logins.load(Ordering::SeqCst)
    }

    /// The runs that were asked for.
    pub(crate) fn runs(&self) -> Vec<Asked> {
        self.server.asked().into_iter().filter(|asked| asked.path.contains("/dagRuns")).collect()
    }
}

/// A run that Airflow has taken.
pub(crate) fn queued(asked: &Asked) -> Reply {
    Reply::json(200, &json!({ "dag_run_id": asked.json()["dag_run_id"], "state": "queued" }))
}
