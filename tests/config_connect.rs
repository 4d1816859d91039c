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
fn partitions_that_order_or_dead_letters_need_are_a_problem_and_others_are_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = EmbeddedLog::open(dir.path(), &EmbeddedOptions::default()).expect("it opens");
    let topics = [topic("orders", 3), topic("orders.processed", 1), topic("orders.dlq", 1)];
    log.create_topics(&topics).expect("they are made");
    let findings = connect::check(&log, &config());
    let [source, dlq] = &findings.problems[..] else { panic!("two problems: {findings:?}") };
    assert!(source.contains("topic orders has 3 partitions, the config says 6"), "{source}");
    assert!(dlq.contains("topic orders.dlq has 1 partitions, 6 or more are needed"), "{dlq}");
    assert!(findings.notes.is_empty(), "results go to whichever partitions there are: {findings:?}");
}

#[test]
fn a_topic_that_is_missing_is_noted_and_not_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = EmbeddedLog::open(dir.path(), &EmbeddedOptions::default()).expect("it opens");
    log.create_topics(&[topic("orders", 6), topic("orders.dlq", 8)]).expect("they are made");
    let findings = connect::check(&log, &config());
    assert!(findings.problems.is_empty(), "{findings:?}");
    let [note] = &findings.notes[..] else { panic!("one note: {findings:?}") };
    assert!(note.contains("creates topic orders.processed with 6 partitions"), "{note}");
    assert_eq!(log.topic("orders.processed").expect("it answers"), None, "nothing was made");
}
