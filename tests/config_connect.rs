//! `check --connect` against a log: what is there is compared, what is not is named, and nothing is made.

use bulkhead::config::load::Options;
use bulkhead::config::{Config, Overrides};
use bulkhead::connect;
use bulkhead_actors::io::embedded::{EmbeddedLog, EmbeddedOptions};
use bulkhead_actors::log::{Log, TopicSpec};
use std::path::Path;

fn config() -> Config {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/fine");
    let options = Options { variables: &|_| None, overrides: Overrides::default(), chaos: false };
    Config::load(&dir, &options).expect("it is fine").0
}

fn topic(name: &str, partitions: i32) -> TopicSpec {
    TopicSpec { name: name.to_owned(), partitions, replicas: 1, retention: None }
}

#[test]
fn another_partition_count_is_a_problem_and_a_missing_topic_is_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = EmbeddedLog::open(dir.path(), &EmbeddedOptions::default()).expect("it opens");
    log.create_topics(&[topic("orders", 3), topic("orders.dlq", 1)]).expect("they are made");
    let findings = connect::check(&log, &config());
    let [problem] = &findings.problems[..] else { panic!("one problem: {findings:?}") };
    assert!(problem.contains("topic orders has 3 partitions, source.partitions says 6"), "{problem}");
    let [note] = &findings.notes[..] else { panic!("one note: {findings:?}") };
    assert!(note.contains("creates topic orders.processed with 6 partitions"), "{note}");
    assert_eq!(log.topic("orders.processed").expect("it answers"), None, "nothing was made");
}
