//! A pipeline for one test: its config, its topics, what goes in, and what the auditor must know of it. Never judges.

use crate::audit::{Audited, Follower};
use crate::daemon::{Daemon, DaemonSpec};
use crate::kafka::Kafka;
use crate::process::eventually;
use crate::scratch::scratch;
use crate::topics::{Isolation, Produced};
use bulkhead_core::ledger::KeySource;
use bulkhead_core::record::{Header, ID_HEADER, Record};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The header that the step `chaos` obeys, and the label of its counts.
pub const CHAOS: &str = "chaos";

/// What tells one test's pipeline from another's. Fields of text are lines of TOML.
#[derive(Clone, Copy, Debug)]
pub struct FlowSpec {
    /// The pipeline's name; unique on its broker, for topics and group are named after it.
    pub name: &'static str,
    /// Partitions of every topic.
    pub partitions: i32,
    /// More of `[pipeline]`.
    pub pipeline: &'static str,
    /// More of the only `[[stage]]`, `work`.
    pub stage: &'static str,
    /// More of `bulkhead.toml`.
    pub daemon: &'static str,
    /// Settings of the output topic.
    pub output: &'static [(&'static str, &'static str)],
}

impl Default for FlowSpec {
    fn default() -> Self {
        Self { name: "flow", partitions: 4, pipeline: "", stage: "workers = 2", daemon: "", output: &[] }
    }
}

/// A pipeline with a ledger over the records' ids and one stage, `work`, whose only step is `chaos`.
pub struct Flow {
    spec: FlowSpec,
    folder: TempDir,
}

impl Flow {
    /// Writes its config. Topics are made by [`Flow::topics`], or by the daemon.
    ///
    /// # Panics
    /// When there is no room for it.
    #[must_use]
    pub fn new(spec: FlowSpec) -> Self {
        let flow = Self { spec, folder: scratch(spec.name) };
        let pipelines = flow.config().join("pipelines");
        fs::create_dir_all(&pipelines).expect("a temporary folder can be made");
        fs::write(pipelines.join("flow.toml"), flow.toml()).expect("a config can be written");
        let daemon = format!("version = 1\n{}\n", spec.daemon);
        fs::write(flow.config().join("bulkhead.toml"), daemon).expect("a config can be written");
        flow
    }

    /// As [`Flow::new`], with its topics on this broker (but for the ledger's, which the daemon makes).
    #[must_use]
    pub fn on(kafka: &Kafka, spec: FlowSpec) -> Self {
        let flow = Self::new(spec);
        flow.topics(kafka);
        flow
    }

    fn toml(&self) -> String {
        let FlowSpec { name, partitions, pipeline, stage, .. } = self.spec;
        format!(
            r#"version = 1
[pipeline]
name   = "{name}"
source = {{ topic = "{name}.in", partitions = {partitions}, group = "{name}" }}
ledger = {{ key = "header:{ID_HEADER}" }}
output = {{ topic = "{name}.out" }}
dlq    = {{ topic = "{name}.dlq" }}
batch  = {{ records_max = 50 }}
{pipeline}

[[stage]]
name  = "work"
steps = [{{ chaos = {{}} }}]
{stage}
"#
        )
    }

    /// Makes source, output and dead letter topics.
    pub fn topics(&self, kafka: &Kafka) {
        let (partitions, replication) = (self.spec.partitions, i32::from(kafka.nodes().min(3)));
        kafka.create_topic_with(&self.source(), partitions, replication, &[]);
        kafka.create_topic_with(&self.output(), partitions, replication, self.spec.output);
        kafka.create_topic_with(&self.dead_letters(), partitions, replication, &[]);
    }

    /// Its source topic.
    #[must_use]
    pub fn source(&self) -> String {
        format!("{}.in", self.spec.name)
    }

    /// Its output topic.
    #[must_use]
    pub fn output(&self) -> String {
        format!("{}.out", self.spec.name)
    }

    /// Its dead letter topic.
    #[must_use]
    pub fn dead_letters(&self) -> String {
        format!("{}.dlq", self.spec.name)
    }

    /// Its config directory.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("config")
    }

    /// The data directory of an instance.
    #[must_use]
    pub fn data(&self, instance: &str) -> PathBuf {
        self.folder.path().join("data").join(instance)
    }

    /// Where an instance caches the ledger.
    #[must_use]
    pub fn cache(&self, instance: &str) -> PathBuf {
        self.data(instance).join("ledger")
    }

    /// The path of one of its actors: `source`, `lane/0`, `partitions/p0/ledger`, …
    #[must_use]
    pub fn actor(&self, part: &str) -> String {
        format!("pipeline/{}/{part}", self.spec.name)
    }

    /// How to run a daemon of this instance name, with chaos allowed.
    #[must_use]
    pub fn daemon(&self, binary: impl AsRef<Path>, kafka: &Kafka, instance: &str) -> DaemonSpec {
        let spec = DaemonSpec::new(binary.as_ref(), self.config(), self.data(instance));
        spec.on(kafka.bootstrap()).named(instance).with_chaos()
    }

    /// What the auditor must know.
    #[must_use]
    pub fn audited(&self) -> Audited {
        let audited = Audited::new(&self.source(), self.spec.name, &self.output(), &self.dead_letters());
        audited.with_ledger(self.spec.name, KeySource::Header(ID_HEADER.into()))
    }

    /// Reads outputs and dead letters from now on.
    #[must_use]
    pub fn follow(&self, kafka: &Kafka) -> Follower {
        kafka.follow(&[&self.output(), &self.dead_letters()])
    }

    /// Waits until the group is done with all that was produced, and lets the auditor judge.
    ///
    /// # Panics
    /// When it is not done in time, or a promise was broken.
    pub fn converge(&self, kafka: &Kafka, followers: Vec<Follower>, timeout: Duration) {
        Self::converge_as(kafka, &self.audited(), followers, timeout);
    }

    /// The same of a pipeline that the auditor must know more of.
    ///
    /// # Panics
    /// When it is not done in time, or a promise was broken.
    pub fn converge_as(kafka: &Kafka, audited: &Audited, followers: Vec<Follower>, timeout: Duration) {
        kafka.wait_done(audited, timeout);
        wait_stable(kafka, audited, timeout);
        kafka.assert_clean(audited, followers);
    }

    /// Produces records to the source topic.
    pub fn send(&self, kafka: &Kafka, records: impl IntoIterator<Item = Produced>) -> u64 {
        kafka.produce(&self.source(), records)
    }

    /// A metric of this pipeline, summed over its series.
    #[must_use]
    pub fn metric(&self, daemon: &Daemon, name: &str) -> f64 {
        let label = format!("pipeline=\"{}\"", self.spec.name);
        let series = daemon.metrics().into_iter();
        let ours = series.filter(|(s, _)| s.split('{').next() == Some(name) && s.contains(&label));
        ours.map(|(_, value)| value).sum()
    }

    /// Waits until a metric of this pipeline has reached a value.
    ///
    /// # Panics
    /// When it has not in time, or the daemon has ended.
    pub fn wait_metric(&self, daemon: &Daemon, name: &str, least: f64, timeout: Duration) {
        eventually(&format!("{name} of {} reaches {least}", self.spec.name), timeout, || {
            assert!(daemon.is_running(), "the daemon ended");
            let value = self.metric(daemon, name);
            if value >= least { Ok(()) } else { Err(format!("it is {value}")) }
        });
    }

    /// Waits until every partition's actors are running.
    ///
    /// # Panics
    /// When they are not in time, or the daemon has ended.
    pub fn wait_open(&self, daemon: &Daemon, timeout: Duration) {
        eventually(&format!("all partitions of {} are open", self.spec.name), timeout, || {
            assert!(daemon.is_running(), "the daemon ended");
            let (_, page) = daemon.get_json(&daemon.admin("/progress"));
            let open = page["partitions"].as_array().map_or(0, Vec::len);
            let actors = daemon.actors();
            let missing = (0..self.spec.partitions)
                .flat_map(|p| ["partition", "ledger"].map(|a| self.actor(&format!("partitions/p{p}/{a}"))))
                .find(|path| actors.get(path).is_none_or(|actor| actor.state != "running"));
            match missing {
                None if open >= self.spec.partitions as usize => Ok(()),
                None => Err(format!("{open} partitions are assigned")),
                Some(path) => Err(format!("{path}: {:?}", actors.get(&path).map(|actor| &actor.state))),
            }
        });
    }
}

/// Waits until no transaction is open: what a killed daemon left hides what others committed after it, until the broker
/// gives it up (`kafka.transaction_timeout`).
fn wait_stable(kafka: &Kafka, audited: &Audited, timeout: Duration) {
    for topic in audited.outputs.iter().chain(&audited.dead_letters) {
        eventually(&format!("no transaction is open in {topic}"), timeout, || {
            let [all, stable] = [Isolation::Uncommitted, Isolation::Committed].map(|i| kafka.end_offsets(topic, i));
            if all == stable { Ok(()) } else { Err(format!("ends {all:?}, stable {stable:?}")) }
        });
    }
}

/// A record with this id in its header, its key and its payload.
#[must_use]
pub fn record(id: &str) -> Record {
    let value = format!("{{\"id\":\"{id}\"}}");
    Record {
        key: Some(Bytes::copy_from_slice(id.as_bytes())),
        value: Some(value.into()),
        headers: vec![Header::new(ID_HEADER, id.to_owned())],
        ..Record::default()
    }
}

/// The id of the record of this number.
#[must_use]
pub fn id(number: u32) -> String {
    format!("r{number:06}")
}

/// Records of these numbers, dealt out to the partitions in turn.
pub fn numbered(numbers: Range<u32>, partitions: i32) -> impl Iterator<Item = Produced> {
    numbers.map(move |number| (Some(number as i32 % partitions), record(&id(number))))
}

/// The same record, asking the chaos step for something: `panic`, `slow:250:1`, …
#[must_use]
pub fn asking(mut record: Record, wish: &str) -> Record {
    record.headers.push(Header::new(CHAOS, wish.to_owned()));
    record
}

/// The incarnation of every actor.
#[must_use]
pub fn incarnations(daemon: &Daemon) -> BTreeMap<String, u64> {
    daemon.actors().into_iter().map(|(path, actor)| (path, actor.incarnation)).collect()
}

/// Which actors have another incarnation than before, those that are gone included.
#[must_use]
pub fn reborn(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Vec<String> {
    before.iter().filter(|(path, old)| after.get(*path) != Some(old)).map(|(path, _)| path.clone()).collect()
}
