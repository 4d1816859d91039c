//! A whole pipeline on the memory log, for tests of the real shells: records in, an audit of what came out.
//! Never sleeps to wait for something; it reads until it has seen it.

#![allow(dead_code, reason = "each test file uses a part of the rig")]

use bulkhead_actors::clock::Clock;
use bulkhead_actors::io::memory::{Faults, MemoryLog, MemoryOptions};
use bulkhead_actors::log::{Delivery, Log, Outgoing, Read, Tail, TopicSpec};
use bulkhead_actors::metrics::Metrics;
use bulkhead_actors::pipeline::{
    DlqSpec, LedgerSpec, Needs, OnGap, OutputSpec, Pipeline, PipelineSpec, PipelineTopic, RestartSpec, SourceSpec,
    StageSpec,
};
use bulkhead_actors::results::{JobStore, Source, run};
use bulkhead_actors::shell::Body;
use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_actors::supervisor::{ChildSpec, Root, RootExit, RootHandle, SupervisorSpec};
use bulkhead_core::cut::CutLimits;
use bulkhead_core::fault::Fault;
use bulkhead_core::gather::Gather;
use bulkhead_core::ids::Partition;
use bulkhead_core::jobs::Limits;
use bulkhead_core::lane::LaneLimits;
use bulkhead_core::ledger::KeySource;
use bulkhead_core::partition::PartitionLimits;
use bulkhead_core::phases::Phases;
use bulkhead_core::record::{Header, Origin, Record};
use bulkhead_core::retry::RetryPolicy;
use bulkhead_core::verdict::Verdict;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long anything here may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What the test step says that it spent its time on, for each call.
pub(crate) const PHASES: Phases = Phases {
    preprocess: Duration::from_millis(250),
    infer: Duration::from_millis(500),
    postprocess: Duration::from_millis(125),
};

/// What the test step does with a record, by its value.
pub(crate) type Behaviour = Arc<dyn Fn(&str, u32) -> Act + Send + Sync>;

/// One answer of the test step.
pub(crate) enum Act {
    Pass,
    Panic,
    Hang(Arc<std::sync::Barrier>),
    Transient,
    Poison,
    Fatal,
}

/// A step that does what it is told, and counts how often it ran for each record.
pub(crate) struct Probe {
    pub(crate) behaviour: Behaviour,
    pub(crate) runs: Arc<Mutex<BTreeMap<String, u32>>>,
    pub(crate) calls: Arc<Mutex<Vec<Vec<String>>>>,
}

struct ProbeStep(Arc<Probe>);

pub(crate) struct ProbeFactory(pub Arc<Probe>);

impl StepFactory for ProbeFactory {
    fn name(&self) -> &str {
        "probe"
    }

    fn build(&self) -> Result<Box<dyn Step>, Fault> {
        Ok(Box::new(ProbeStep(Arc::clone(&self.0))))
    }
}

impl Step for ProbeStep {
    fn phases(&self) -> Option<Phases> {
        Some(PHASES)
    }

    fn run(&mut self, records: &[Record], _: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        let mut verdicts = Vec::new();
        let id = |record: &Record| String::from_utf8_lossy(record.payload()).into_owned();
        self.0.calls.lock().push(records.iter().map(id).collect());
        for record in records {
            let id = id(record);
            let run = {
                let mut runs = self.0.runs.lock();
                let run = runs.entry(id.clone()).or_default();
                *run += 1;
                *run
            };
            verdicts.push(match (self.0.behaviour)(&id, run) {
                Act::Pass => Verdict::one(record.clone()),
                Act::Panic => panic!("told to panic by {id}"),
                Act::Hang(barrier) => {
                    barrier.wait();
                    Verdict::one(record.clone())
                }
                Act::Transient => return Err(Fault::transient("told", &id)),
                Act::Poison => Verdict::Reject(Fault::poison("told", &id)),
                Act::Fatal => return Err(Fault::fatal("told", &id)),
            });
        }
        Ok(verdicts)
    }
}

/// What of the pipeline a test wants to differ.
pub(crate) struct Plan {
    pub(crate) partitions: i32,
    pub(crate) workers: u32,
    pub(crate) ledger: bool,
    pub(crate) delivery: Delivery,
    pub(crate) behaviour: Behaviour,
    pub(crate) timeout: Duration,
    pub(crate) clock: Clock,
    pub(crate) tune: fn(&mut PipelineSpec),
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            partitions: 4,
            workers: 2,
            ledger: true,
            delivery: Delivery::ExactlyOnce,
            behaviour: Arc::new(|_, _| Act::Pass),
            timeout: Duration::from_secs(20),
            clock: Clock::real(),
            tune: |_| {},
        }
    }
}

/// A running pipeline.
pub(crate) struct Rig {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) faults: Faults,
    pub(crate) root: RootHandle,
    pub(crate) pipeline: Pipeline,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) runs: Arc<Mutex<BTreeMap<String, u32>>>,
    /// The ids of each call of the step.
    pub(crate) calls: Arc<Mutex<Vec<Vec<String>>>>,
    pub(crate) partitions: i32,
    pub(crate) cache: tempfile::TempDir,
}

fn spec(plan: &Plan, probe: Probe, cache: &std::path::Path) -> PipelineSpec {
    let restart = RestartSpec { intensity: 50, period: Duration::from_secs(30) };
    let ledger = LedgerSpec {
        topic: "flow.ledger".into(),
        key: KeySource::Header("id".to_owned()),
        ttl: Duration::from_secs(3_600),
        keys_max: 1_000_000,
        segment_bytes_max: 512 * 1024,
        cache: cache.to_owned(),
        settle_wait: Duration::from_secs(10),
    };
    let mut spec = PipelineSpec {
        name: "flow".into(),
        delivery: plan.delivery,
        source: SourceSpec {
            topic: "flow.in".into(),
            partitions: plan.partitions,
            group: "flow".to_owned(),
            session_timeout: Duration::from_secs(10),
            on_gap: OnGap::Stop,
        },
        limits: PartitionLimits {
            cut: CutLimits { records_max: 16, bytes_max: 1 << 20, linger: Duration::from_millis(1) },
            in_flight_batches_max: 8,
            in_flight_bytes_max: 1 << 22,
        },
        ledger: plan.ledger.then_some(ledger),
        stages: vec![StageSpec {
            name: "work".into(),
            workers: plan.workers,
            steps: vec![Arc::new(ProbeFactory(Arc::new(probe)))],
            gather: Gather::OFF,
            process: None,
            timeout: plan.timeout,
            crashes_max: 3,
            retry: RetryPolicy { initial: Duration::from_millis(1), ..RetryPolicy::default() },
            restart,
            emit_max: 16,
            journal: cache.join("work"),
        }],
        dlq: DlqSpec {
            topic: "flow.dlq".into(),
            stop_above: None,
            partitions: plan.partitions,
            letter_bytes_max: 1_000_000,
            rounds_max: 5,
        },
        output: Some(OutputSpec { topic: "flow.out".into(), key: KeySource::Key, is_result: true }),
        outputs: BTreeMap::new(),
        lanes: 2,
        log_records: false,
        commit: LaneLimits {
            commit_interval: Duration::from_millis(20),
            commit_records_max: 10_000,
            backoff_initial: Duration::from_millis(1),
            backoff_max: Duration::from_millis(50),
        },
        drain: Duration::from_secs(4),
        restart,
        failed_retry: Duration::from_secs(30),
        topics: topics(plan.partitions).into_iter().map(exactly).collect(),
    };
    (plan.tune)(&mut spec);
    spec
}

/// A topic that must be as it would be made.
pub(crate) fn exactly(spec: TopicSpec) -> PipelineTopic {
    PipelineTopic { spec, needs: Needs::Exactly }
}

fn topics(partitions: i32) -> Vec<TopicSpec> {
    let topic = |name: &str| TopicSpec { name: name.to_owned(), partitions, replicas: 1, retention: None };
    ["flow.in", "flow.out", "flow.dlq", "flow.ledger"].map(topic).into()
}

/// The results actor, which reads what the pipeline makes of its jobs.
fn results(log: &Arc<dyn Log>, metrics: &Arc<Metrics>) -> ChildSpec {
    let topics = [("flow.out", Source::Results), ("flow.dlq", Source::DeadLetters)];
    let topics: Arc<[_]> = topics.map(|(topic, source)| (Arc::from(topic), source)).into();
    let limits = Limits { jobs_max: 10_000, bytes_max: 1 << 20, ttl: Duration::from_secs(3_600) };
    let (log, jobs) = (Arc::clone(log), Arc::new(JobStore::new(limits, Arc::clone(metrics))));
    let mut spec = ChildSpec::body("results", move |_| {
        let (log, topics, jobs) = (Arc::clone(&log), Arc::clone(&topics), Arc::clone(&jobs));
        Body::thread(move |lifeline| run(&lifeline, &log, &topics, &jobs))
    });
    spec.heartbeat = Some(Duration::from_secs(14));
    spec
}

impl Rig {
    pub(crate) fn start(plan: Plan) -> Self {
        let (log, faults) = MemoryLog::open(&MemoryOptions::default()).expect("a log in memory opens");
        Self::start_on(plan, log, faults)
    }

    pub(crate) fn start_on(plan: Plan, log: Arc<dyn Log>, faults: Faults) -> Self {
        let topic =
            |name: &str| TopicSpec { name: name.to_owned(), partitions: plan.partitions, replicas: 1, retention: None };
        let topics = ["flow.in", "flow.out", "flow.dlq", "flow.ledger"].map(topic);
        log.create_topics(&topics).expect("topics are made");
        let (runs, calls) = (Arc::default(), Arc::default());
        let (behaviour, partitions) = (Arc::clone(&plan.behaviour), plan.partitions);
        let probe = Probe { behaviour, runs: Arc::clone(&runs), calls: Arc::clone(&calls) };
        let cache = tempfile::tempdir().expect("a temporary directory");
        let metrics = Arc::new(Metrics::new());
        let spec = spec(&plan, probe, cache.path());
        let pipeline = Pipeline::new(spec, Arc::clone(&log), "test", plan.clock, Arc::clone(&metrics));
        let children = vec![results(&log, &metrics), pipeline.supervise()];
        let root = Root::start(SupervisorSpec::new("root", children));
        pipeline.attach(root.clone());
        Self { log, faults, root, pipeline, metrics, runs, calls, partitions, cache }
    }

    /// Sends records with these ids, spread over the partitions in turn. The id is value, key and header.
    pub(crate) async fn send(&self, ids: impl IntoIterator<Item = String>) {
        self.send_records(ids.into_iter().map(record_of)).await;
    }

    /// Sends these records, spread over the partitions in turn.
    pub(crate) async fn send_records(&self, records: impl IntoIterator<Item = Record>) {
        let producer = self.log.producer().expect("a producer");
        let mut sends = Vec::new();
        for (i, record) in records.into_iter().enumerate() {
            let partition = Partition(i32::try_from(i).expect("few records") % self.partitions);
            sends.push(producer.send(Outgoing { topic: "flow.in".into(), partition: Some(partition), record }));
        }
        for sent in futures::future::join_all(sends).await {
            sent.expect("the log takes it");
        }
    }

    /// Reads outputs and dead letters until there are `count` of them; then makes sure that no more come with what is there.
    pub(crate) async fn outcomes(&self, count: usize) -> Outcomes {
        let read = self.reading(count);
        tokio::time::timeout(PATIENCE + Duration::from_secs(5), read).await.expect("in time").expect("no panic")
    }

    /// Reads outputs and dead letters until there are `count` of them, on a thread of its own.
    pub(crate) fn reading(&self, count: usize) -> tokio::task::JoinHandle<Outcomes> {
        let (log, partitions) = (Arc::clone(&self.log), self.partitions);
        tokio::task::spawn_blocking(move || read_outcomes(&*log, partitions, count))
    }

    /// Drains, and makes sure that no actor is left and no ticket open.
    pub(crate) async fn finish(self) {
        let exit = tokio::time::timeout(PATIENCE, self.root.drain()).await.expect("the tree ends in time");
        assert_eq!(exit, RootExit::Drained);
        let pipeline = self.pipeline.clone();
        tokio::task::spawn_blocking(move || pipeline.leave()).await.expect("no panic").expect("the log lets us go");
        assert!(self.root.tree().is_null(), "an actor is left: {}", self.root.tree());
        assert_eq!(self.pipeline.open_tickets(), 0, "a ticket is open");
    }

    /// Waits until this is so; it is looked at whenever the runtime comes round.
    pub(crate) async fn until(&self, what: &str, so: impl Fn() -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !so() {
                tokio::task::yield_now().await;
            }
        });
        assert!(waited.await.is_ok(), "never came: {what}");
    }

    pub(crate) fn runs_of(&self, id: &str) -> u32 {
        self.runs.lock().get(id).copied().unwrap_or(0)
    }
}

/// A record whose id is value, key and header.
pub(crate) fn record_of(id: String) -> Record {
    Record {
        key: Some(id.clone().into()),
        value: Some(id.clone().into()),
        headers: vec![Header::new("id", id)],
        ..Record::default()
    }
}

/// What a `read_committed` reader saw: ids by topic and partition, in order.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    pub(crate) out: Vec<(i32, String)>,
    pub(crate) dlq: Vec<(i32, String, BTreeMap<String, String>)>,
}

impl Outcomes {
    /// The ids of results, sorted.
    pub(crate) fn results(&self) -> Vec<&str> {
        let mut ids: Vec<&str> = self.out.iter().map(|(_, id)| id.as_str()).collect();
        ids.sort_unstable();
        ids
    }
}

fn read_outcomes(log: &dyn Log, partitions: i32, count: usize) -> Outcomes {
    let topics = ["flow.out", "flow.dlq"];
    let tails: Vec<Tail> = topics
        .iter()
        .flat_map(|topic| (0..partitions).map(|p| Tail { topic: (*topic).into(), partition: Partition(p), from: None }))
        .collect();
    let mut reader = log.reader(&tails).expect("a reader");
    let mut outcomes = Outcomes::default();
    let deadline = std::time::Instant::now() + PATIENCE;
    while outcomes.out.len() + outcomes.dlq.len() < count && std::time::Instant::now() < deadline {
        for read in reader.read(1_000, Duration::from_millis(100)).expect("the log reads") {
            let Read::Record { tail, record } = read else { continue };
            let id = String::from_utf8_lossy(record.record.payload()).into_owned();
            let partition = tails[tail].partition.0;
            if &*tails[tail].topic == "flow.out" {
                outcomes.out.push((partition, id));
            } else {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let headers = record.record.headers.iter().map(|h| (text(&h.name), text(&h.value))).collect();
                outcomes.dlq.push((partition, id, headers));
            }
        }
    }
    outcomes
}
