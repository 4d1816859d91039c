//! `stream_exactly_once` and `stream_ledger`: records a second from the first commit seen to the last, the daemon beside
//! the bare program. Both outputs are read back and counted; a run that lost or doubled a record ends the benchmark.

use crate::report::{Figure, Report, median};
use crate::watch::{Progress, Run, Speed};
use bulkhead_core::record::{Header, Record};
use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::process::Process;
use bulkhead_testkit::topics::{Isolation, Produced};
use rdkafka::Message;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PARTITIONS: i32 = 4;
const WORKERS: &str = "2";
/// A record is `RECORD_BYTES` of JSON, as in `notes/performance.md` W2.
const RECORD_BYTES: usize = 482;
/// How many bytes at a payload's start tell it from all others.
const ID_BYTES: usize = 60;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    /// Copy.
    ExactlyOnce,
    /// Copy what is new; one record in a hundred is not.
    Ledger,
}

#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) records: i64,
    pub(crate) pairs: u32,
}

impl Workload {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ExactlyOnce => "stream_exactly_once",
            Self::Ledger => "stream_ledger",
        }
    }

    /// The record that record `n` repeats, in the same partition.
    const fn original(self, n: i64) -> i64 {
        let repeats = matches!(self, Self::Ledger) && n % 100 == 99;
        if repeats { n - 40 } else { n }
    }

    fn outputs(self, records: i64) -> i64 {
        (0..records).filter(|n| self.original(*n) == *n).count() as i64
    }

    fn record(self, n: i64) -> Produced {
        let id = self.original(n);
        let key = format!("{id:08}-4d1c-4e5b-9f3a-{id:012}");
        let head =
            format!(r#"{{"order_id":"{key}","customer_id":"c-{:06}","amount":{},"note":""#, id % 1_000, id % 997);
        let value = format!("{head}{}\"}}", "x".repeat(RECORD_BYTES - head.len() - 2));
        let headers = if self == Self::Ledger { vec![Header::new("idempotency-key", key)] } else { Vec::new() };
        let record = Record { key: None, value: Some(value.into()), headers, ..Record::default() };
        (Some((id % i64::from(PARTITIONS)) as i32), record)
    }
}

/// Measures pairs and adds the figures.
pub(crate) fn measure(kafka: &Kafka, workload: Workload, size: Size, report: &mut Report) {
    let source = format!("{}.in", workload.name());
    kafka.create_topic(&source, PARTITIONS);
    kafka.produce(&source, (0..size.records).map(|n| workload.record(n)));
    let bench = Bench { kafka, workload, source, outputs: workload.outputs(size.records) };
    let (mut limits, mut values, mut memory) = (Vec::<Speed>::new(), Vec::<Speed>::new(), Vec::new());
    // The first pair warms the broker's JVM and is not counted.
    for pair in 0..=size.pairs {
        let limit = bench.limit(&format!("limit{pair}"));
        let (value, mib) = bench.daemon(&format!("daemon{pair}"));
        println!("{} pair {pair}: limit {limit:?}, bulkhead {value:?}, {mib:.0} MiB", workload.name());
        if pair > 0 {
            limits.push(limit);
            values.push(value);
            memory.push(mib);
        }
    }
    for (suffix, unit) in [("", "records/s"), ("_cpu", "us/record")] {
        let of = |speed: &Speed| if suffix.is_empty() { speed.rate } else { speed.cpu_us };
        let (values, limits): (Vec<f64>, Vec<f64>) = (values.iter().map(of).collect(), limits.iter().map(of).collect());
        let ratios: Vec<f64> = values.iter().zip(&limits).map(|(value, limit)| value / limit).collect();
        report.add(Figure {
            name: format!("{}{suffix}", workload.name()),
            value: median(&values),
            unit,
            limit: Some(median(&limits)),
            ratio: Some(median(&ratios)),
            runs: format!("{ratios:.2?}"),
        });
    }
    report.memory(format!("{}_memory", workload.name()), &memory);
}

struct Bench<'a> {
    kafka: &'a Kafka,
    workload: Workload,
    source: String,
    outputs: i64,
}

impl Bench<'_> {
    /// The bare program.
    fn limit(&self, run: &str) -> Speed {
        let name = self.topics(run);
        let program = Path::new(env!("CARGO_BIN_EXE_bulkhead")).with_file_name(self.workload.name());
        assert!(program.exists(), "{}: build it with `cargo build --release -p bulkhead-limits`", program.display());
        let (output, ledger) = (format!("{name}.out"), format!("{name}.ledger"));
        let (bootstrap, partitions) = (self.kafka.bootstrap(), PARTITIONS.to_string());
        let args = [&bootstrap[..], &self.source, &output, &ledger, &name, &partitions, WORKERS];
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let process = Process::start("limit", &program, args, &[], &folder.path().join("log"));
        let speed = self.run(&output, process.pid()).watch(|| {
            let status = process.exit_status();
            assert!(status.is_none_or(|s| s.success()), "the limit failed:\n{}", process.tail(20));
            status.is_some()
        });
        self.count(&output);
        speed
    }

    /// The daemon, and its peak memory in MiB.
    fn daemon(&self, run: &str) -> (Speed, f64) {
        let name = self.topics(run);
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let ledger =
            if self.workload == Workload::Ledger { "ledger = { key = \"header:idempotency-key\" }" } else { "" };
        let config = write_config(folder.path(), &name, &self.source, ledger);
        let spec = DaemonSpec::new(env!("CARGO_BIN_EXE_bulkhead"), config, folder.path().join("data"));
        let daemon = Daemon::start(&spec.on(self.kafka.bootstrap()).named("bench").env("BULKHEAD_LOG_LEVEL", "warn"));
        let output = format!("{name}.out");
        let ends = self.kafka.end_offsets(&self.source, Isolation::Committed);
        let positions = self.kafka.positions(&name, &self.source);
        let (speed, mib) = self.run(&output, daemon.pid()).watch_daemon(&daemon, || positions.committed() == ends);
        self.count(&output);
        (speed, mib)
    }

    /// Makes the topics of a run; returns the name that they and the group have in common.
    fn topics(&self, run: &str) -> String {
        let name = format!("{}_{run}", self.workload.name());
        for topic in ["out", "ledger", "dlq"] {
            self.kafka.create_topic(&format!("{name}.{topic}"), PARTITIONS);
        }
        name
    }

    fn run<'a>(&'a self, output: &'a str, pid: u32) -> Run<'a> {
        let pause = Duration::from_millis(50);
        Run { kafka: self.kafka, progress: Progress::Output(output, PARTITIONS), records: self.outputs, pid, pause }
    }

    /// Every output is there once.
    fn count(&self, output: &str) {
        let (mut ids, mut count) = (HashSet::new(), 0);
        self.kafka.visit_topic(output, Isolation::Committed, |message| {
            count += 1;
            ids.insert(message.payload().unwrap_or_default()[..ID_BYTES].to_vec());
        });
        assert_eq!((count, ids.len() as i64), (self.outputs, self.outputs), "{output}: outputs, distinct outputs");
    }
}

/// A config directory with one pipeline of one stage that passes every record on.
pub(crate) fn write_config(folder: &Path, name: &str, source: &str, ledger: &str) -> PathBuf {
    let config = folder.join("config");
    fs::create_dir_all(config.join("pipelines")).expect("a temporary folder can be made");
    let text = format!(
        r#"version = 1
[pipeline]
name     = "{name}"
delivery = "exactly_once"
source   = {{ topic = "{source}", partitions = {PARTITIONS}, group = "{name}" }}
{ledger}
output   = {{ topic = "{name}.out" }}
dlq      = {{ topic = "{name}.dlq" }}

[[stage]]
name    = "copy"
workers = {WORKERS}
steps   = [{{ pass = {{}} }}]
"#
    );
    fs::write(config.join("pipelines/bench.toml"), text).expect("the config can be written");
    fs::write(config.join("bulkhead.toml"), "version = 1\n").expect("the config can be written");
    config
}
