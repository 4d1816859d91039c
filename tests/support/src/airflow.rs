//! A real Apache Airflow (`airflow standalone`: SQLite, one process of each kind) with its home in a temporary folder. Never
//! shared between test processes; all its processes are one group, and end with it.

use crate::ports::Port;
use crate::process::{Process, eventually, tail};
use crate::scratch::scratch;
use reqwest::blocking::Client;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// How long it may take to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running Airflow; dropping it kills it and removes its data.
pub struct Airflow {
    process: Process,
    port: Port,
    log: PathBuf,
    client: Client,
    _home: TempDir,
}

impl Airflow {
    /// Starts one that serves the DAGs of a folder, with these variables beside ours, and waits until it knows them all.
    ///
    /// # Panics
    /// When it is not installed (`scripts/get-airflow.sh`), or does not come up.
    #[must_use]
    pub fn start(dags: &Path, known: &[&str], variables: &[(&str, &str)]) -> Self {
        let (home, port) = (scratch("airflow"), Port::take());
        let bin = installed().join("bin");
        let (url, log) = (format!("http://127.0.0.1:{}", port.number), home.path().join("airflow.log"));
        let text = |path: &Path| path.to_str().expect("a test's paths are UTF-8").to_owned();
        let path = format!("{}:{}", text(&bin), std::env::var("PATH").unwrap_or_default());
        let mut env: Vec<(String, String)> = [
            ("AIRFLOW_HOME", text(home.path())),
            ("AIRFLOW__API__HOST", "127.0.0.1".to_owned()),
            ("AIRFLOW__API__PORT", port.number.to_string()),
            ("AIRFLOW__API__WORKERS", "1".to_owned()),
            ("AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION", "False".to_owned()),
            ("AIRFLOW__CORE__DAGS_FOLDER", text(dags)),
            ("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", format!("{url}/execution/")),
            ("AIRFLOW__CORE__LOAD_EXAMPLES", "False".to_owned()),
            ("AIRFLOW__CORE__PARALLELISM", "2".to_owned()),
            ("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "True".to_owned()),
            ("AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME", "0.3".to_owned()),
            ("PATH", path),
            ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        env.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        // A session of its own, so that all its children can be told to end.
        let args = [text(&bin.join("airflow")), "standalone".to_owned()];
        let process = Process::start("airflow", Path::new("setsid"), args, &env, &log);
        let client = Client::builder().timeout(Duration::from_secs(10)).build().expect("an HTTP client can be made");
        let airflow = Self { process, port, log, client, _home: home };
        eventually("Airflow serves its DAGs", PATIENCE, || airflow.knows(known));
        airflow
    }

    /// Its URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number)
    }

    /// A GET of its API (`/api/v2/…`): status and body.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn get(&self, path: &str) -> Result<(u16, Value), String> {
        let token: Value = self
            .client
            .get(format!("{}/auth/token", self.url()))
            .send()
            .and_then(reqwest::blocking::Response::json)
            .map_err(|why| why.to_string())?;
        let token = token["access_token"].as_str().unwrap_or_default();
        let answer = self.client.get(format!("{}{path}", self.url())).bearer_auth(token).send();
        let answer = answer.map_err(|why| why.to_string())?;
        let status = answer.status().as_u16();
        Ok((status, answer.json().unwrap_or_default()))
    }

    fn knows(&self, dags: &[&str]) -> Result<(), String> {
        assert!(self.process.exit_status().is_none(), "Airflow ended instead of serving:\n{}", tail(&self.log, 60));
        let (status, health) = self.get("/api/v2/monitor/health")?;
        if health["scheduler"]["status"] != "healthy" {
            return Err(format!("{status}: {health}"));
        }
        for dag in dags {
            let (status, body) = self.get(&format!("/api/v2/dags/{dag}"))?;
            if status != 200 || body["is_paused"] != false {
                return Err(format!("{dag}: {status} {body}"));
            }
        }
        Ok(())
    }

    /// Kills all of it and waits until it is gone.
    pub fn kill(&self) {
        // `-s`: not every shell takes a group after `-KILL`.
        let group = format!("kill -s KILL -- -{} 2>/dev/null || true", self.process.pid());
        let killed = Command::new("sh").args(["-c", &group]).status();
        assert!(killed.is_ok_and(|status| status.success()), "there is no shell to kill Airflow with");
        self.process.kill();
    }
}

impl Drop for Airflow {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- airflow, last lines\n{}", tail(&self.log, 100));
        }
        self.kill();
    }
}

/// Where `scripts/get-airflow.sh` put it.
fn installed() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/get-airflow.sh");
    let output = Command::new(&script).output().unwrap_or_else(|why| panic!("{}: {why}", script.display()));
    assert!(output.status.success(), "{}: {}", script.display(), String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}
