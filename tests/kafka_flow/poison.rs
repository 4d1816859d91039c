//! Records that cannot be processed: each ends alone in the dead letters, with its reason, and its batch-mates complete.

use crate::{PATIENCE, assert_no_sentinel, start};
use bulkhead_core::letter::ERRORS_PREFIX;
use bulkhead_core::record::{Header, Record};
use bulkhead_testkit::audit::id_header;
use bulkhead_testkit::flow::{CHAOS, Flow, FlowSpec, asking, id, incarnations, numbered, reborn, record};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::topics::{Isolation, Produced};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What the dead letters say of why, by the record's id.
fn reasons(kafka: &Kafka, topic: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let own = |header: &Header| Some((text(&header.name).strip_prefix(ERRORS_PREFIX)?.to_owned(), text(&header.value)));
    let reason = |letter: &Record| letter.headers.iter().filter_map(own).collect();
    let letters = kafka.read_topic(topic, Isolation::Committed);
    letters.iter().map(|s| (id_header(&s.record).expect("a letter keeps its id"), reason(&s.record))).collect()
}

/// Records of which those that `is_bad` asks for `wish`.
fn mixed(count: u32, wish: &str, is_bad: impl Fn(u32) -> bool) -> Vec<Produced> {
    let numbered = numbered(0..count, 4).zip(0u32..);
    numbered.map(|((p, record), n)| (p, if is_bad(n) { asking(record, wish) } else { record })).collect()
}

#[test]
fn a_record_that_crashes_its_worker_ends_alone() {
    let kafka = Kafka::shared();
    let flow =
        Flow::on(kafka, FlowSpec { name: "crash", stage: "workers = 2\ncrashes_max = 2", ..FlowSpec::default() });
    let (daemon, follower) = (start(&flow, "a"), flow.follow(kafka));
    flow.send(kafka, mixed(200, "panic", |n| n == 101));
    flow.converge(kafka, vec![follower], PATIENCE);
    let reasons = reasons(kafka, &flow.dead_letters());
    assert_eq!(reasons.keys().collect::<Vec<_>>(), [&id(101)], "nobody else was rejected");
    let reason = &reasons[&id(101)];
    assert_eq!((&*reason["stage"], &*reason["class"]), ("work", "poison"), "{reason:?}");
    assert!(reason["message"].contains("the record asked for a panic"), "{reason:?}");
    assert_eq!((&*reason["partition"], &*reason["offset"]), ("1", "25"), "{reason:?}");
    let runs = daemon.chaos_runs(CHAOS);
    assert_eq!(runs[&id(101)], 3, "once among others, then alone until the limit");
    let worst = runs.iter().filter(|(record, _)| **record != id(101)).map(|(_, runs)| *runs).max();
    assert_eq!(worst, Some(2), "a verdict that was given stays");
    assert_no_sentinel(&flow, &daemon);
}

#[test]
fn twenty_crash_records_in_a_minute_leave_everything_else_up() {
    let kafka = Kafka::shared();
    let flow = Flow::on(kafka, FlowSpec { name: "crashes", ..FlowSpec::default() });
    let (daemon, follower) = (start(&flow, "a"), flow.follow(kafka));
    let (before, started) = (incarnations(&daemon), Instant::now());
    flow.send(kafka, mixed(2_000, "panic", |n| n % 100 == 50));
    flow.converge(kafka, vec![follower], PATIENCE);
    assert!(started.elapsed() < Duration::from_secs(60), "took {:?}", started.elapsed());
    let reasons = reasons(kafka, &flow.dead_letters());
    assert_eq!(reasons.keys().cloned().collect::<Vec<_>>(), (0..20).map(|n| id(n * 100 + 50)).collect::<Vec<_>>());
    let workers = ["0", "1"].map(|worker| flow.actor(&format!("stage/work/worker-{worker}")));
    let touched = reborn(&before, &incarnations(&daemon));
    assert!(touched.iter().all(|path| workers.contains(path)), "more than the workers fell: {touched:?}");
    daemon.wait_ready(PATIENCE);
    assert_no_sentinel(&flow, &daemon);
}

#[test]
fn a_transient_fault_is_tried_again_in_order_and_never_a_dead_letter() {
    let kafka = Kafka::shared();
    let stage = "workers = 2\nretry = { initial = \"10ms\", max = \"100ms\" }";
    let flow = Flow::on(kafka, FlowSpec { name: "transient", stage, ..FlowSpec::default() });
    let (daemon, follower) = (start(&flow, "a"), flow.follow(kafka));
    flow.send(kafka, mixed(400, "error:4", |n| n % 100 == 50));
    flow.converge(kafka, vec![follower], PATIENCE);
    assert!(reasons(kafka, &flow.dead_letters()).is_empty());
    assert_eq!(flow.metric(&daemon, "bulkhead_records_out_total"), 400.0);
    assert!(flow.metric(&daemon, "bulkhead_stage_retries_total") >= 4.0);
}

#[test]
fn a_result_above_the_topics_limit_ends_alone() {
    let kafka = Kafka::shared();
    let output = &[("max.message.bytes", "20000")];
    let flow = Flow::on(kafka, FlowSpec { name: "too-large", output, ..FlowSpec::default() });
    let (daemon, follower) = (start(&flow, "a"), flow.follow(kafka));
    let large = Record { value: Some(vec![b'x'; 50_000].into()), ..record("large") };
    flow.send(kafka, numbered(0..40, 4).chain([(Some(1), large)]).chain(numbered(40..80, 4)));
    flow.converge(kafka, vec![follower], PATIENCE);
    let reasons = reasons(kafka, &flow.dead_letters());
    assert_eq!(reasons.keys().collect::<Vec<_>>(), ["large"], "nobody else was rejected");
    let reason = &reasons["large"];
    assert_eq!((&*reason["stage"], &*reason["class"]), ("lane", "poison"), "{reason:?}");
    assert_eq!(flow.metric(&daemon, "bulkhead_records_out_total"), 80.0);
    assert!(daemon.chaos_runs(CHAOS).values().all(|runs| *runs == 1), "no step ran again for it");
}
