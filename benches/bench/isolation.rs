//! `isolation`: what it costs to run a stage's steps in processes of their own, in pairs beside the same stage on threads:
//! pictures through the digits model, and records through a step that does nothing, where all of it is cost.

use crate::report::{Figure, Report, median};
use crate::watch::{Progress, Run, Speed};
use bulkhead_core::record::Record;
use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::topics::Isolation;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) const NAME: &str = "isolation";
const PARTITIONS: i32 = 4;
/// A record of `stream_exactly_once`'s size.
const RECORD_BYTES: usize = 482;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Steps {
    Digits,
    Pass,
}

impl Steps {
    const fn name(self) -> &'static str {
        match self {
            Self::Digits => NAME,
            Self::Pass => "isolation_pass",
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) pictures: i64,
    pub(crate) records: i64,
    pub(crate) pairs: u32,
}

/// Measures pairs and adds the figures.
pub(crate) fn measure(kafka: &Kafka, size: Size, report: &mut Report) {
    for (steps, records) in [(Steps::Digits, size.pictures), (Steps::Pass, size.records)] {
        let source = format!("{}.in", steps.name());
        kafka.create_topic(&source, PARTITIONS);
        let values = values(steps);
        let record = |n: i64| {
            let value = Some(values[n as usize % values.len()].clone().into());
            (Some(n as i32 % PARTITIONS), Record { key: Some(n.to_string().into()), value, ..Record::default() })
        };
        kafka.produce(&source, (0..records).map(record));
        pairs(&Bench { kafka, steps, source, records }, size.pairs, report);
    }
}

fn values(steps: Steps) -> Vec<Vec<u8>> {
    match steps {
        Steps::Digits => samples(),
        Steps::Pass => vec![vec![b'x'; RECORD_BYTES]],
    }
}

/// The pictures that are shipped with the digits model.
pub(crate) fn samples() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/models/samples");
    let files = fs::read_dir(folder).expect("the samples are shipped").flatten();
    let mut paths: Vec<PathBuf> = files.map(|file| file.path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a sample can be read")).collect()
}

fn pairs(bench: &Bench<'_>, pairs: u32, report: &mut Report) {
    let (mut threads, mut processes) = (Vec::<(Speed, f64)>::new(), Vec::<(Speed, f64)>::new());
    // The first pair warms the broker's JVM and is not counted.
    for pair in 0..=pairs {
        // Taking turns in who goes first evens out what else the machine does.
        let order = if pair % 2 == 0 { ["thread", "process"] } else { ["process", "thread"] };
        let mut ran = order.map(|isolation| (isolation, bench.run(pair, isolation)));
        ran.sort_by_key(|(isolation, _)| *isolation != "thread");
        let [(_, thread), (_, process)] = ran;
        println!("{} pair {pair}: threads {thread:?}, processes {process:?}", bench.steps.name());
        if pair > 0 {
            threads.push(thread);
            processes.push(process);
        }
    }
    type Of = fn(&(Speed, f64)) -> f64;
    let figures: [(&str, &str, Of); 3] = [
        ("", "records/s", |run| run.0.rate),
        ("_cpu", "us/record", |run| run.0.cpu_us),
        ("_memory", "MiB", |run| run.1),
    ];
    for (suffix, unit, of) in figures {
        let (values, limits): (Vec<f64>, Vec<f64>) =
            (processes.iter().map(of).collect(), threads.iter().map(of).collect());
        let ratios: Vec<f64> = values.iter().zip(&limits).map(|(value, limit)| value / limit).collect();
        report.add(Figure {
            name: format!("{}{suffix}", bench.steps.name()),
            value: median(&values),
            unit,
            limit: Some(median(&limits)),
            ratio: Some(median(&ratios)),
            runs: format!("{ratios:.2?}"),
        });
    }
}

struct Bench<'a> {
    kafka: &'a Kafka,
    steps: Steps,
    source: String,
    records: i64,
}

impl Bench<'_> {
    /// One daemon over all records: its speed and its peak memory in MiB, its processes' too.
    fn run(&self, pair: u32, isolation: &str) -> (Speed, f64) {
        let name = format!("{}_{isolation}{pair}", self.steps.name());
        for topic in ["out", "dlq"] {
            self.kafka.create_topic(&format!("{name}.{topic}"), PARTITIONS);
        }
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let config = write_config(folder.path(), &name, &self.source, isolation, self.steps == Steps::Digits);
        let spec = DaemonSpec::new(env!("CARGO_BIN_EXE_bulkhead"), config, folder.path().join("data"));
        let daemon = Daemon::start(&spec.on(self.kafka.bootstrap()).named("bench").env("BULKHEAD_LOG_LEVEL", "warn"));
        let output = format!("{name}.out");
        let ends = self.kafka.end_offsets(&self.source, Isolation::Committed);
        let positions = self.kafka.positions(&name, &self.source);
        let run = Run {
            kafka: self.kafka,
            progress: Progress::Positions(&positions),
            records: self.records,
            pid: daemon.pid(),
            pause: Duration::from_millis(20),
        };
        let (speed, mib) = run.watch_daemon(&daemon, || positions.committed() == ends);
        self.count(&output);
        (speed, mib)
    }

    /// Every record came out once.
    fn count(&self, output: &str) {
        let (mut keys, mut count) = (HashSet::new(), 0);
        self.kafka.visit_topic(output, Isolation::Committed, |message| {
            count += 1;
            keys.insert(rdkafka::Message::key(message).unwrap_or_default().to_vec());
        });
        assert_eq!((count, keys.len() as i64), (self.records, self.records), "{output}: outputs, distinct outputs");
    }
}

/// A config directory with one pipeline of one stage of two workers: the digits model, or a step that does nothing.
pub(crate) fn write_config(folder: &Path, name: &str, source: &str, isolation: &str, digits: bool) -> PathBuf {
    let config = folder.join("config");
    let models = config.join("models");
    fs::create_dir_all(config.join("pipelines")).expect("a temporary folder can be made");
    fs::create_dir_all(&models).expect("a temporary folder can be made");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/models");
    for file in ["digits.onnx", "digits.toml"] {
        fs::copy(shipped.join(file), models.join(file)).expect("the model is shipped");
    }
    let (batch, step) = match digits {
        true => {
            ("batch = { records_max = 8, linger = \"2ms\" }", "classify = { model = \"models/digits.toml\", top = 3 }")
        }
        false => ("", "pass = {}"),
    };
    let text = format!(
        r#"version = 1
[pipeline]
name     = "{name}"
source   = {{ topic = "{source}", partitions = {PARTITIONS}, group = "{name}" }}
output   = {{ topic = "{name}.out" }}
dlq      = {{ topic = "{name}.dlq" }}
{batch}

[[stage]]
name      = "work"
workers   = 2
isolation = "{isolation}"
steps     = [{{ {step} }}]
restart   = {{ intensity = 1000 }} # a process that is killed from outside is a crash like any other
"#
    );
    fs::write(config.join("pipelines/bench.toml"), text).expect("the config can be written");
    fs::write(config.join("bulkhead.toml"), "version = 1\n").expect("the config can be written");
    config
}
