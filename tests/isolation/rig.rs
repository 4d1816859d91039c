//! A daemon on the embedded log with one isolated stage of two workers, fed and asked over HTTP. Never judges.

use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use bulkhead_testkit::process::eventually;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// How long anything may take on a busy machine; nothing waits that long where all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Records of a batch at most.
pub(crate) const BATCH: usize = 8;
const BINARY: &str = env!("CARGO_BIN_EXE_bulkhead");
/// The header that the gateway passes on, and that the step `chaos` obeys here.
const WISH: &str = "x-request-id";
const STAGE: &str = "pipeline/flow/stage/work";

/// A running daemon and what it has accepted.
pub(crate) struct Rig {
    pub(crate) daemon: Daemon,
    before: BTreeMap<String, u64>,
    accepted: Vec<String>,
    spec: DaemonSpec,
    _folder: TempDir,
}

/// A worker as `/actors` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Worker {
    pub(crate) path: String,
    pub(crate) incarnation: u64,
    pub(crate) pid: u32,
}

impl Rig {
    /// Starts it; `stage` are more lines of the stage's TOML.
    pub(crate) fn start(stage: &str) -> Self {
        Self::start_with(stage, |spec, _| spec)
    }

    /// As [`start`](Self::start), run in another way; the folder is the test's own.
    pub(crate) fn start_with(stage: &str, change: impl FnOnce(DaemonSpec, PathBuf) -> DaemonSpec) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let config = folder.path().join("config");
        fs::create_dir_all(config.join("pipelines")).expect("a temporary folder can be made");
        fs::write(config.join("pipelines/flow.toml"), toml(stage)).expect("a config can be written");
        fs::write(config.join("bulkhead.toml"), "version = 1\n").expect("a config can be written");
        let spec = DaemonSpec::new(BINARY, config, folder.path().join("data")).with_chaos();
        let spec = change(spec, folder.path().to_owned());
        let daemon = Daemon::start(&spec);
        daemon.wait_ready(PATIENCE);
        let mut rig = Self { daemon, before: BTreeMap::new(), accepted: Vec::new(), spec, _folder: folder };
        rig.wait_workers();
        rig.remember();
        rig
    }

    /// Takes the actors as they are now for those that must not change.
    pub(crate) fn remember(&mut self) {
        self.before = self.daemon.actors().into_iter().map(|(path, actor)| (path, actor.incarnation)).collect();
    }

    /// Starts the daemon again on the same data.
    pub(crate) fn restart(&mut self) {
        self.daemon = Daemon::start(&self.spec);
        self.daemon.wait_ready(PATIENCE);
    }

    /// Sends a record that asks the step for something (`""`: for nothing); it was accepted, under this job id.
    pub(crate) fn post(&mut self, wish: &str) -> String {
        self.post_body(wish, b"a record".to_vec())
    }

    pub(crate) fn post_body(&mut self, wish: &str, body: Vec<u8>) -> String {
        let request = self.daemon.client().post(self.daemon.url("/work")).body(body);
        let request = if wish.is_empty() { request } else { request.header(WISH, wish) };
        let answer = request.send().expect("the gateway answers");
        assert_eq!(answer.status(), 202);
        let job: Value = answer.json().expect("JSON");
        let id = job["jobId"].as_str().expect("a job id").to_owned();
        self.accepted.push(id.clone());
        id
    }

    /// Sends so many records that ask for this.
    pub(crate) fn post_many(&mut self, count: usize, wish: &str) {
        (0..count).for_each(|_| drop(self.post(wish)));
    }

    /// Waits until every accepted job has ended; how each did.
    pub(crate) fn jobs(&self) -> BTreeMap<String, Value> {
        let ended = |id: &String| {
            let url = self.daemon.url(&format!("/work/{id}"));
            let job = eventually(&format!("job {id} ends"), PATIENCE, || match self.daemon.try_get_json(&url)? {
                (200, job) if job["status"] != "pending" => Ok(job),
                other => Err(format!("{other:?}")),
            });
            (id.clone(), job)
        };
        self.accepted.iter().map(ended).collect()
    }

    /// Waits until every accepted job has ended well.
    pub(crate) fn assert_all_completed(&self) {
        for (id, job) in self.jobs() {
            assert_eq!(job["status"], "completed", "{id}: {job}");
        }
    }

    /// Nothing but these workers is another incarnation, each by one.
    pub(crate) fn assert_reborn(&self, workers: &[&str]) {
        let after: BTreeMap<_, _> = self.daemon.actors().into_iter().map(|(path, a)| (path, a.incarnation)).collect();
        let changed: BTreeMap<_, _> = after.iter().filter(|(path, now)| self.before.get(*path) != Some(now)).collect();
        let expected: BTreeMap<_, _> =
            workers.iter().map(|path| ((*path).to_owned(), self.before[*path] + 1)).collect();
        assert_eq!(changed, expected.iter().collect(), "one worker was replaced, and nobody else");
    }

    /// One worker, whichever, is its next incarnation, and nothing else is another one.
    pub(crate) fn assert_one_reborn(&self) {
        let reborn = |worker: &Worker| self.before[&worker.path] != worker.incarnation;
        let workers = self.workers();
        let paths: Vec<&str> = workers.iter().filter(|w| reborn(w)).map(|w| w.path.as_str()).collect();
        assert_eq!(paths.len(), 1, "{workers:?}");
        self.assert_reborn(&paths);
    }

    /// No more records than a batch has ran more than once, and none more than `runs_max` times.
    pub(crate) fn assert_one_batch_ran_again(&self, runs_max: u64) {
        let runs = self.daemon.chaos_runs("chaos");
        assert_eq!(runs.keys().collect::<BTreeSet<_>>(), self.accepted.iter().collect(), "every record was run");
        let again: Vec<_> = runs.iter().filter(|(_, runs)| **runs > 1).collect();
        assert!(again.len() <= BATCH, "more than one batch ran again: {again:?}");
        assert!(again.iter().all(|(_, runs)| **runs <= runs_max), "{again:?}");
    }

    pub(crate) fn workers(&self) -> Vec<Worker> {
        let actors = self.daemon.actors().into_iter();
        let workers = actors.filter(|(path, _)| path.starts_with(STAGE) && path.contains("/worker-"));
        let workers = workers.map(|(path, actor)| {
            let pid = actor.page["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
            Worker { path, incarnation: actor.incarnation, pid }
        });
        workers.collect()
    }

    /// Waits until both workers have a process.
    pub(crate) fn wait_workers(&self) -> Vec<Worker> {
        eventually("both workers have a process", PATIENCE, || {
            let workers = self.workers();
            if workers.len() == 2 && workers.iter().all(|w| w.pid > 0) {
                Ok(workers)
            } else {
                Err(format!("{workers:?}"))
            }
        })
    }

    /// Waits until this worker is another incarnation, with a process.
    pub(crate) fn wait_replaced(&self, old: &Worker) -> Worker {
        eventually(&format!("{} is replaced", old.path), PATIENCE, || {
            let now = self.workers().into_iter().find(|w| w.path == old.path).ok_or("it is gone")?;
            if now.incarnation > old.incarnation && now.pid > 0 { Ok(now) } else { Err(format!("{now:?}")) }
        })
    }

    /// How many processes ended, by reason.
    pub(crate) fn ended(&self) -> BTreeMap<String, u64> {
        let of = |(series, count): (String, f64)| {
            let labels = series.strip_prefix("bulkhead_worker_process_ended_total{")?;
            let reason = labels.split("reason=\"").nth(1)?.split('"').next()?.to_owned();
            Some((reason, count as u64))
        };
        self.daemon.metrics().into_iter().filter_map(of).collect()
    }

    /// The metric without labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        self.daemon.metrics().get(&format!("{name}{{}}")).copied().unwrap_or(0.0)
    }
}

fn toml(stage: &str) -> String {
    format!(
        r#"version = 1
[pipeline]
name   = "flow"
source = {{ topic = "in", partitions = 4 }}
ledger = {{ key = "header:__bulkhead.id" }}
output = {{ topic = "out" }}
batch  = {{ records_max = {BATCH} }}

[[stage]]
name      = "work"
workers   = 2
isolation = "process"
steps     = [{{ chaos = {{ header = "{WISH}" }} }}]
retry     = {{ initial = "10ms" }}
{stage}

[[route]]
path    = "/work"
method  = "POST"
produce = {{}}

[[route]]
path    = "/work/{{jobId}}"
method  = "GET"
results = {{}}
"#
    )
}

/// The processes whose parent is this one, by the kernel's tables; zombies, which nobody has reaped, among them.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("Linux has /proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|(_, of)| of == parent)).collect()
}

/// Whether a process runs: it is there and no zombie.
pub(crate) fn runs(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != "Z" && state != "X")
}

/// A process' state and its parent.
fn stat(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}
