//! A record that takes the whole daemon down, which is started again each time as an init system would: after its deaths
//! it is a dead letter, alone, with its reason, and its batch-mates come out once and in order.

use bulkhead_actors::io::embedded::{EmbeddedLog, EmbeddedOptions};
use bulkhead_actors::log::{Log, Outgoing, Read, Tail, TopicSpec};
use bulkhead_core::ids::Partition;
use bulkhead_core::letter::ERRORS_PREFIX;
use bulkhead_core::record::{Header, Record};
use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use bulkhead_testkit::process::eventually;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
const SIGABRT: i32 = 6;
const RECORDS: u32 = 20;
/// The record that ends the process whenever a step looks at it.
const KILLER: u32 = 7;
const CRASHES_MAX: u32 = 2;
/// Once among others, then alone until the limit.
const DEATHS: u32 = 1 + CRASHES_MAX;

const PIPELINE: &str = r#"version = 1
[pipeline]
name   = "deadly"
source = { topic = "deadly", partitions = 1 }
ledger = { key = "header:__bulkhead.id" }
output = { topic = "deadly.done" }
dlq    = { topic = "deadly.dlq" }

[[stage]]
name        = "work"
steps       = [{ chaos = {} }]
crashes_max = 2
"#;

struct Setup {
    folder: TempDir,
}

impl Setup {
    /// With all records waiting, so that they travel in one batch.
    fn new() -> Self {
        let setup = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let pipelines = setup.path("config/pipelines");
        std::fs::create_dir_all(&pipelines).expect("a folder");
        std::fs::write(pipelines.join("deadly.toml"), PIPELINE).expect("written");
        let log = setup.log();
        let topic = |name: &str| TopicSpec { name: name.to_owned(), partitions: 1, replicas: 1, retention: None };
        log.create_topics(&["deadly", "deadly.done", "deadly.dlq"].map(topic)).expect("topics are made");
        let producer = log.producer().expect("a producer");
        let sends = (0..RECORDS).map(|n| {
            let mut headers = vec![Header::new("__bulkhead.id", id(n))];
            headers.extend((n == KILLER).then(|| Header::new("chaos", "abort")));
            let record = Record { key: Some("one".into()), value: Some(id(n).into()), headers, ..Record::default() };
            producer.send(Outgoing { topic: "deadly".into(), partition: Some(Partition(0)), record })
        });
        for sent in futures::executor::block_on(futures::future::join_all(sends)) {
            sent.expect("acknowledged");
        }
        setup
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The daemon's log, while no daemon has it.
    fn log(&self) -> EmbeddedLog {
        let path = self.path("data/log");
        std::fs::create_dir_all(&path).expect("a folder");
        EmbeddedLog::open(path, &EmbeddedOptions::default()).expect("nobody else has it")
    }

    fn spec(&self) -> DaemonSpec {
        DaemonSpec::new(env!("CARGO_BIN_EXE_bulkhead"), self.path("config"), self.path("data")).with_chaos()
    }

    /// Starts it and waits for its death; what it printed.
    fn die(&self) -> String {
        let daemon = Daemon::spawn(&self.spec());
        let status = daemon.wait_exit(PATIENCE);
        assert_eq!(status.signal(), Some(SIGABRT), "{}", daemon.output());
        daemon.output()
    }

    /// Starts it once more: it lives, finishes and drains.
    fn live(&self) {
        let daemon = Daemon::start(&self.spec());
        daemon.wait_ready(PATIENCE);
        eventually("all is settled", PATIENCE, || {
            let metrics = daemon.metrics();
            let sum = |name: &str| -> f64 {
                metrics.iter().filter(|(series, _)| series.starts_with(name)).map(|(_, value)| value).sum()
            };
            let found = (sum("bulkhead_records_out_total{"), sum("bulkhead_dlq_published_total{"));
            if found == (f64::from(RECORDS - 1), 1.0) { Ok(()) } else { Err(format!("{found:?}")) }
        });
        daemon.sigterm();
        assert_eq!(daemon.wait_exit(PATIENCE).code(), Some(0), "{}", daemon.output());
    }

    fn read(&self, topic: &str) -> Vec<Record> {
        let log = self.log();
        let tail = Tail { topic: topic.into(), partition: Partition(0), from: None };
        let mut reader = log.reader(&[tail]).expect("a reader");
        let mut records = Vec::new();
        loop {
            for read in reader.read(1_000, Duration::from_millis(50)).expect("it reads") {
                match read {
                    Read::Record { record, .. } => records.push(record.record),
                    Read::CaughtUp { .. } => return records,
                }
            }
        }
    }

    /// One dead letter with its reason; all others once, in order.
    fn judge(&self) {
        let value = |record: &Record| String::from_utf8_lossy(record.payload()).into_owned();
        let results: Vec<String> = self.read("deadly.done").iter().map(value).collect();
        let mates: Vec<String> = (0..RECORDS).filter(|n| *n != KILLER).map(id).collect();
        assert_eq!(results, mates);
        let letters = self.read("deadly.dlq");
        let [letter] = &letters[..] else { panic!("one dead letter: {letters:?}") };
        let error = |name: &str| {
            let value = letter.header(&format!("{ERRORS_PREFIX}{name}")).expect("it says so");
            String::from_utf8_lossy(value).into_owned()
        };
        assert_eq!(value(letter), id(KILLER));
        assert_eq!(
            (error("stage"), error("class"), error("code")),
            ("work".into(), "poison".into(), "crashed_process".into())
        );
    }
}

fn id(n: u32) -> String {
    format!("r{n:03}")
}

#[test]
fn a_record_that_kills_the_daemon_is_a_dead_letter_after_its_deaths() {
    let setup = Setup::new();
    for _ in 0..DEATHS {
        let _output = setup.die();
    }
    setup.live();
    setup.judge();
}

#[test]
fn where_the_journal_is_lost_it_says_so_and_counts_anew() {
    let setup = Setup::new();
    assert!(setup.die().contains("no crash journal here"), "the first start of all");
    assert!(!setup.die().contains("no crash journal here"), "it is there now");
    std::fs::remove_dir_all(setup.path("data/work")).expect("it is there");
    assert!(setup.die().contains("no crash journal here"), "counts begin anew");
    for _ in 1..DEATHS {
        let _output = setup.die();
    }
    setup.live();
    setup.judge();
}
