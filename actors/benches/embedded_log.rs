//! What the embedded log reaches on this machine, beside what the disk alone gives: `cargo bench --bench embedded_log`.
//! Never a test: it enforces nothing. Its figures are in `docs/adr/0002-embedded-log-on-fjall.md`.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on has failed")]

use bulkhead_actors::io::embedded::{EmbeddedLog, EmbeddedOptions};
use bulkhead_actors::log::{AssignmentListener, Closing, Delivery, Group, GroupSpec, Log, Outgoing, TopicSpec};
use bulkhead_core::ids::{Partition, Position};
use bulkhead_core::record::Record;
use futures::executor::block_on;
use futures::stream::{FuturesUnordered, StreamExt};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PAYLOAD: usize = 480;
const PARTITIONS: i32 = 4;

struct Quiet;

impl AssignmentListener for Quiet {
    fn assigned(&self, _partitions: &[Partition]) {}
    fn revoked(&self, _partitions: &[Partition], _lost: bool) {}
}

/// JSON-like bytes: some of it repeats, some does not.
fn record(i: u64) -> Record {
    let noise = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut text = format!(r#"{{"order_id":"{i}","customer_id":"{noise:x}","items":["#);
    let mut word = noise;
    while text.len() < PAYLOAD {
        word = word.rotate_left(13).wrapping_mul(0xd6e8_feb8_6659_fd93);
        text.push_str(&format!(r#"{{"sku":"{word:016x}","quantity":{}}},"#, word % 9));
    }
    text.truncate(PAYLOAD);
    Record { key: Some(i.to_string().into()), value: Some(text.into()), ..Record::default() }
}

fn outgoing(topic: &Arc<str>, i: u64) -> Outgoing {
    Outgoing { topic: topic.clone(), partition: Some(Partition((i % 4) as i32)), record: record(i) }
}

fn quantile(sorted: &[Duration], q: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * q) as usize]
}

fn print_latencies(name: &str, mut all: Vec<Duration>) {
    all.sort();
    let (p50, p99, max) = (quantile(&all, 0.5), quantile(&all, 0.99), all[all.len() - 1]);
    println!("{name}: p50 {p50:.2?}, p99 {p99:.2?}, max {max:.2?} ({} times)", all.len());
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn bare_fsync(dir: &Path) {
    let mut file = File::create(dir.join("bare")).unwrap();
    file.set_len(64 << 20).unwrap();
    file.sync_all().unwrap();
    let sync = |_| {
        let at = Instant::now();
        file.write_all(&[7; 4096]).unwrap();
        file.sync_all().unwrap();
        at.elapsed()
    };
    print_latencies("limit: 4 KiB written and fsynced, bare file", (0..500).map(sync).collect());
}

fn sends(log: &EmbeddedLog, topic: &Arc<str>, waiting: usize, seconds: u64) {
    let producer = log.producer().unwrap();
    let (start, end) = (Instant::now(), Duration::from_secs(seconds));
    let mut latencies = Vec::new();
    let mut next = 0;
    let mut flying = FuturesUnordered::new();
    block_on(async {
        while start.elapsed() < end || !flying.is_empty() {
            while flying.len() < waiting && start.elapsed() < end {
                let (sent, at) = (producer.send(outgoing(topic, next)), Instant::now());
                flying.push(async move { sent.await.map(|_| at.elapsed()) });
                next += 1;
            }
            if let Some(latency) = flying.next().await {
                latencies.push(latency.unwrap());
            }
        }
    });
    let rate = latencies.len() as f64 / start.elapsed().as_secs_f64();
    print_latencies(&format!("sends, {waiting} at a time: {rate:.0} acknowledged/s"), latencies);
}

fn transactions(group: &dyn Group, topic: &Arc<str>, records: u64, count: i64) {
    let mut publisher = group.publisher(0, Delivery::ExactlyOnce).unwrap();
    publisher.rebuild().unwrap();
    let ready: Vec<_> = (0..records).map(|i| outgoing(topic, i)).collect();
    let (start, mut latencies) = (Instant::now(), Vec::new());
    for round in 0..count {
        publisher.begin().unwrap();
        ready.iter().for_each(|outgoing| publisher.produce(outgoing).unwrap());
        let positions = (0..PARTITIONS).map(|p| (Partition(p), Position(round))).collect();
        let at = Instant::now();
        publisher.commit(&Closing { segments: vec![outgoing(topic, 0)], positions }).unwrap();
        latencies.push(at.elapsed());
    }
    let rate = records as f64 * count as f64 / start.elapsed().as_secs_f64();
    print_latencies(&format!("commits of {records} records: {rate:.0} records/s"), latencies);
}

fn join(log: &EmbeddedLog, group: &str) -> Arc<dyn Group> {
    let text = |s: &str| s.to_owned();
    let session_timeout = Duration::from_secs(6);
    let spec = GroupSpec { group: text(group), topic: text("bench"), instance: text("i"), session_timeout };
    log.join(&spec, Arc::new(Quiet)).unwrap()
}

fn read(log: &EmbeddedLog, name: &str) {
    let group = join(log, name);
    let (start, mut count) = (Instant::now(), 0);
    loop {
        let fetched = group.poll(&|_| true, 500, Duration::ZERO).unwrap();
        if fetched.is_empty() {
            break;
        }
        count += fetched.iter().map(|f| f.records.len()).sum::<usize>();
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{name}: {:.0} records/s ({count} records of {PAYLOAD} bytes)", count as f64 / seconds);
}

fn wake_up(log: &EmbeddedLog, topic: &Arc<str>) {
    let group = join(log, "wake-up");
    for p in 0..PARTITIONS {
        group.poll(&|_| false, 1, Duration::ZERO).unwrap();
        group.seek(Partition(p), log.extent(topic, Partition(p)).unwrap().end).unwrap();
    }
    let producer = log.producer().unwrap();
    let turn = |i| {
        std::thread::scope(|scope| {
            let seen = scope.spawn(|| {
                while group.poll(&|_| true, 10, Duration::from_secs(5)).unwrap().is_empty() {}
                Instant::now()
            });
            block_on(producer.send(outgoing(topic, i))).unwrap();
            let acknowledged = Instant::now();
            seen.join().unwrap().saturating_duration_since(acknowledged)
        })
    };
    print_latencies("from acknowledged to polled", (0..300).map(turn).collect());
}

fn main() {
    let dir = tempfile::tempdir_in(std::env::var_os("BENCH_DIR").unwrap_or_else(|| ".".into())).unwrap();
    bare_fsync(dir.path());
    let before = resident_mib();
    let at = Instant::now();
    let options = EmbeddedOptions::default();
    let log = EmbeddedLog::open(dir.path(), &options).unwrap();
    println!(
        "made in {:.0?}, resident {} MiB more than the {before} MiB before",
        at.elapsed(),
        resident_mib() - before
    );
    let topic: Arc<str> = "bench".into();
    let spec = TopicSpec { name: topic.to_string(), partitions: PARTITIONS, replicas: 1, retention: None };
    log.create_topics(&[spec]).unwrap();
    for waiting in [1, 16, 256, 4_096] {
        sends(&log, &topic, waiting, 3);
    }
    let group = join(&log, "bench");
    for (records, count) in [(1, 300), (100, 300), (1_000, 200), (10_000, 60)] {
        transactions(&*group, &topic, records, count);
    }
    wake_up(&log, &topic);
    read(&log, "read, just written");
    println!("resident {} MiB after all of it", resident_mib());
    drop((group, log));
    let at = Instant::now();
    let log = EmbeddedLog::open(dir.path(), &options).unwrap();
    println!("opened again in {:.0?}, resident {} MiB", at.elapsed(), resident_mib());
    read(&log, "read, after opening again");
    let size =
        |path: &Path| std::fs::read_dir(path).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum::<u64>();
    println!("tables on disk: {} MiB", size(&dir.path().join("store/keyspaces/1/tables")) >> 20);
}
