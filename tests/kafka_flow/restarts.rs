//! SIGKILL and restart: keys are remembered, whatever became of the ledger's cache meanwhile.

use crate::{PATIENCE, assert_no_sentinel, start};
use bulkhead_testkit::flow::{CHAOS, Flow, FlowSpec, numbered};
use bulkhead_testkit::kafka::Kafka;
use std::fs;
use std::path::Path;

/// Records of a round.
const ROUND: u32 = 1_000;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a temporary folder can be made");
    for entry in fs::read_dir(from).expect("the cache can be read").flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).expect("a file can be copied");
        }
    }
}

/// Overwrites every file in a folder with noise.
fn damage(folder: &Path) {
    for entry in fs::read_dir(folder).expect("the cache can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            damage(&path);
        } else {
            let noise = vec![0xA5; fs::metadata(&path).map_or(0, |m| m.len()) as usize];
            fs::write(&path, noise).expect("a file can be written");
        }
    }
}

fn delete(folder: &Path) {
    fs::remove_dir_all(folder).expect("the cache can be removed");
}

/// What happens to the cache while the daemon is down.
type Harm = Box<dyn Fn(&Path)>;

#[test]
fn sigkill_with_a_ledger_directory_that_is_kept_deleted_damaged_or_old() {
    let kafka = Kafka::shared();
    let (daemon, pipeline) = ("[kafka]\nsession_timeout = \"6s\"", "drain = \"2s\"");
    let flow = Flow::on(kafka, FlowSpec { name: "sigkill", daemon, pipeline, ..FlowSpec::default() });
    let (cache, old) = (flow.cache("a"), flow.data("a").join("old-copy"));
    let saved = old.clone();
    let keep: Harm = Box::new(move |cache| copy(cache, &saved));
    let put_back: Harm = Box::new(move |cache| {
        delete(cache);
        copy(&old, cache);
    });
    let harms: [Harm; 4] = [keep, Box::new(delete), Box::new(damage), put_back];
    let follower = flow.follow(kafka);
    for (round, harm) in (0u32..).zip(&harms) {
        let daemon = start(&flow, "a");
        let new = ROUND * round..ROUND * (round + 1);
        // Of the round before, every record comes again.
        flow.send(kafka, numbered(new.start.saturating_sub(ROUND)..new.start, 4));
        flow.send(kafka, numbered(new, 4));
        flow.wait_metric(&daemon, "bulkhead_records_out_total", 200.0, PATIENCE);
        daemon.sigkill();
        harm(&cache);
    }
    let daemon = start(&flow, "a");
    flow.send(kafka, numbered(0..4 * ROUND, 4));
    flow.converge(kafka, vec![follower], PATIENCE);
    let duplicates = flow.metric(&daemon, "bulkhead_duplicates_total");
    assert!(duplicates >= f64::from(4 * ROUND), "every key was known: {duplicates}");
    assert!(daemon.chaos_runs(CHAOS).values().all(|runs| *runs == 1));
    assert_no_sentinel(&flow, &daemon);
}

#[test]
fn a_damaged_cache_is_moved_aside_and_counted() {
    let kafka = Kafka::shared();
    let flow = Flow::on(kafka, FlowSpec { name: "damaged", ..FlowSpec::default() });
    let daemon = start(&flow, "a");
    flow.send(kafka, numbered(0..ROUND, 4));
    flow.wait_metric(&daemon, "bulkhead_records_out_total", f64::from(ROUND), PATIENCE);
    daemon.sigterm();
    assert_eq!(daemon.wait_exit(PATIENCE).code(), Some(0), "{}", daemon.output());
    damage(&flow.cache("a"));
    let daemon = start(&flow, "a");
    flow.wait_metric(&daemon, "bulkhead_ledger_rebuilds_total", 1.0, PATIENCE);
    flow.send(kafka, numbered(0..ROUND, 4));
    flow.converge(kafka, Vec::new(), PATIENCE);
    assert_eq!(flow.metric(&daemon, "bulkhead_duplicates_total"), f64::from(ROUND));
    assert!(daemon.chaos_runs(CHAOS).is_empty(), "no duplicate was run");
}
