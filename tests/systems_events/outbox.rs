//! The outbox of a whole daemon while its real broker is away: nothing lost, nothing doubled, nothing out of order, through a
//! SIGKILL; a full one; and the embedded log, where there is none.

use crate::rig::{BINARY, PATIENCE, Rig, client, header, json, metric, post, wait_metric};
use bulkhead_core::ledger::KeySource;
use bulkhead_core::record::ID_HEADER;
use bulkhead_testkit::audit::{Audited, id_header};
use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::process::eventually;
use bulkhead_testkit::small_disk::SmallDisk;
use bulkhead_testkit::topics::Isolation;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A pipeline that lets everything pass, and its route: `{user, seq}` lies in the partition of its user.
const PIPELINE: &str = r#"version = 1
[pipeline]
name   = "events"
source = { topic = "events", partitions = 3, group = "events" }
ledger = { key = "header:__bulkhead.id" }
output = { topic = "events.out" }
dlq    = { topic = "events.dlq" }

[[stage]]
name  = "work"
steps = [{ pass = {} }]

[[route]]
path    = "/events"
method  = "POST"
produce = { key = "header:x-request-id" }
outbox  = { records_max = 2_500, after = "1s" }

[[route]]
path    = "/events/{id}"
method  = "GET"
results = {}
"#;
const USERS: usize = 4;

/// Each user's requests one after another, so that their order is known; the ids of their jobs, and how many answers named the
/// outbox.
fn send(daemon: &Daemon, seqs: std::ops::Range<usize>) -> (BTreeSet<String>, usize) {
    let sent: Vec<Vec<(String, bool)>> = std::thread::scope(|scope| {
        let users = (0..USERS).map(|user| {
            let seqs = seqs.clone();
            scope.spawn(move || {
                let client = client();
                let one = |seq: usize| {
                    let body = json!({ "user": user, "seq": seq }).to_string();
                    let request = client.post(daemon.url("/events")).header("x-request-id", format!("user-{user}"));
                    let answer =
                        request.header("Content-Type", "application/json").body(body).send().expect("answered");
                    let is_queued = header(&answer, "bulkhead-outbox") == Some("queued");
                    assert_eq!(answer.status(), 202, "{}", answer.text().unwrap_or_default());
                    let answer: Value = answer.json().expect("JSON");
                    (answer["jobId"].as_str().expect("an id").to_owned(), is_queued)
                };
                seqs.map(one).collect::<Vec<_>>()
            })
        });
        let users: Vec<_> = users.collect();
        users.into_iter().map(|user| user.join().expect("no panic")).collect()
    });
    let sent: Vec<_> = sent.into_iter().flatten().collect();
    let queued = sent.iter().filter(|(_, is_queued)| *is_queued).count();
    (sent.into_iter().map(|(id, _)| id).collect(), queued)
}

fn wait_ready(daemon: &Daemon, wanted: u16) -> Value {
    eventually(&format!("/ready is {wanted}"), PATIENCE, || {
        assert!(daemon.is_running(), "the daemon ended");
        let (status, body) = daemon.get_json(&daemon.admin("/ready"));
        if status == wanted { Ok(body) } else { Err(format!("{status}: {body}")) }
    })
}

/// Waits until the daemon knows that its broker is away.
fn wait_away(daemon: &Daemon) {
    eventually("the daemon knows that its broker is away", PATIENCE, || {
        let page = daemon.get_json(&daemon.admin("/ready")).1.to_string();
        if page.contains("outbox has room") { Ok(()) } else { Err(page) }
    });
}

#[test]
fn two_thousand_records_wait_for_the_broker_through_a_sigkill_and_come_out_once_in_order() {
    let kafka = Kafka::start(1);
    let rig = Rig::new("", PIPELINE);
    let spec = rig.spec().on(kafka.bootstrap()).named("a");
    let daemon = Daemon::start(&spec);
    daemon.wait_ready(PATIENCE);
    let follower = kafka.follow(&["events.out", "events.dlq"]);
    let (mut ids, queued) = send(&daemon, 0..50);
    assert_eq!(queued, 0, "the broker is there");

    kafka.kill();
    // From here on some go to the outbox because the broker is silent, all others because it is known to be away.
    let (more, queued) = send(&daemon, 50..550);
    ids.extend(more);
    assert!(queued >= 1_990, "{queued} of 2,000 went to the outbox");
    wait_away(&daemon);
    wait_ready(&daemon, 200);
    let held = metric(&daemon, "bulkhead_outbox_records");
    assert_eq!(held, queued as f64);
    daemon.sigkill();

    // Another daemon on the same data, still without a broker: it takes more, behind what waits.
    let daemon = Daemon::start(&spec);
    wait_away(&daemon);
    assert_eq!(metric(&daemon, "bulkhead_outbox_records"), held, "all of it survived");
    let (more, queued) = send(&daemon, 550..560);
    ids.extend(more);
    assert_eq!(queued, 40);
    kafka.start_again();
    wait_metric(&daemon, "bulkhead_outbox_records", |records| records == 0.0);
    daemon.wait_ready(PATIENCE);
    let (more, queued) = send(&daemon, 560..570);
    ids.extend(more);
    assert_eq!(queued, 0, "an empty outbox holds nobody up");

    let audited = Audited::new("events", "events", "events.out", "events.dlq");
    let audited = audited.with_ledger("events", KeySource::Header(ID_HEADER.into()));
    kafka.wait_done(&audited, PATIENCE);
    kafka.assert_clean(&audited, vec![follower]);
    let outputs = kafka.read_topic("events.out", Isolation::Committed);
    let came: BTreeSet<_> = outputs.iter().filter_map(|stored| id_header(&stored.record)).collect();
    assert_eq!((outputs.len(), came), (USERS * 570, ids), "each once, and no other");
    let mut seqs = BTreeMap::<u64, Vec<u64>>::new();
    for stored in &outputs {
        let event = json(&stored.record);
        let (user, seq) = (event["user"].as_u64().expect("a user"), event["seq"].as_u64().expect("a number"));
        seqs.entry(user).or_default().push(seq);
    }
    assert!(seqs.values().all(|seqs| seqs.iter().copied().eq(0..570)), "each user's in the order of its requests");
}

#[test]
fn a_full_outbox_says_come_later_and_a_killed_deliverer_is_replaced() {
    let kafka = Kafka::start(1);
    let rig = Rig::new("", &PIPELINE.replace("2_500", "20"));
    let daemon = Daemon::start(&rig.spec().on(kafka.bootstrap()).named("a"));
    daemon.wait_ready(PATIENCE);
    kafka.kill();
    send(&daemon, 0..5);
    wait_away(&daemon);
    let client = client();
    let refused = post(&client, &daemon.url("/events"), "{}".to_owned());
    // Full is told before anything else is looked at, the missing header included.
    assert_eq!((refused.status().as_u16(), header(&refused, "retry-after")), (503, Some("1")));
    let problem: Value = refused.json().expect("JSON");
    assert_eq!(problem["type"], "urn:bulkhead:problem:outbox-full");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("at most 20 of")), "{problem}");
    let page = wait_ready(&daemon, 503);
    assert!(page.to_string().contains("POST /events: 20 records"), "{page}");
    assert_eq!(metric(&daemon, "bulkhead_outbox_full_total"), 0.0, "it was told before it was read");

    daemon.kill_actor("outbox/post/events");
    kafka.start_again();
    wait_metric(&daemon, "bulkhead_outbox_records", |records| records == 0.0);
    assert_eq!(daemon.actors()["outbox/post/events"].incarnation, 2);
    daemon.wait_ready(PATIENCE);
    send(&daemon, 5..6);
    wait_metric(&daemon, "bulkhead_records_out_total", |records| records == 24.0);
    daemon.sigterm();
    assert!(daemon.wait_exit(PATIENCE).success());
}

/// The disk is full before the outbox is: what was accepted is kept, what cannot be kept is refused, and it goes on.
#[test]
fn an_outbox_on_a_full_disk_refuses_and_loses_nothing() {
    let kafka = Kafka::start(1);
    let limits = "records_max = 100_000, bytes_max = \"1GiB\"";
    let rig = Rig::new("", &PIPELINE.replace("records_max = 2_500", limits));
    let disk = SmallDisk::new(&rig.data().join("outbox"), BINARY, rig.folder());
    let spec = DaemonSpec { binary: disk.program.clone(), ..rig.spec() };
    let daemon = Daemon::start(&spec.on(kafka.bootstrap()).named("a"));
    daemon.wait_ready(PATIENCE);
    kafka.kill();
    send(&daemon, 0..1);
    wait_away(&daemon);
    let (client, body) = (client(), "x".repeat(256 << 10));
    let large = || {
        let request = client.post(daemon.url("/events")).header("x-request-id", "large").body(body.clone());
        let answer = request.send().expect("answered");
        (answer.status().as_u16(), answer.json::<Value>().expect("JSON"))
    };
    let mut accepted = 0;
    let refused = loop {
        match large() {
            (202, _) => accepted += 1,
            refused => break refused,
        }
        assert!(accepted < 2_000, "the disk is never full");
    };
    assert_eq!((refused.0, &refused.1["type"]), (503, &"urn:bulkhead:problem:log-unavailable".into()), "{refused:?}");
    assert!(accepted > 0 && daemon.is_running(), "{}", daemon.output());

    disk.make_room(daemon.pid());
    eventually("there is room again", PATIENCE, || match large() {
        (202, _) => Ok(()),
        refused => Err(format!("{refused:?}")),
    });
    kafka.start_again();
    wait_metric(&daemon, "bulkhead_outbox_records", |records| records == 0.0);
    let audited = Audited::new("events", "events", "events.out", "events.dlq");
    kafka.wait_done(&audited.with_ledger("events", KeySource::Header(ID_HEADER.into())), PATIENCE);
    let outputs = kafka.read_topic("events.out", Isolation::Committed);
    // One that was refused may be kept all the same, where the disk was full after it was written; none twice.
    let ids: BTreeSet<_> = outputs.iter().filter_map(|stored| id_header(&stored.record)).collect();
    assert!(ids.len() == outputs.len() && ids.len() > USERS + accepted, "{} of {}", ids.len(), outputs.len());
}

#[test]
fn the_embedded_log_needs_no_outbox_and_says_so() {
    let rig = Rig::new("", PIPELINE);
    let daemon = Daemon::start(&rig.spec());
    daemon.wait_ready(PATIENCE);
    assert_eq!(send(&daemon, 0..5).1, 0);
    wait_metric(&daemon, "bulkhead_records_out_total", |records| records == 20.0);
    assert!(!rig.data().join("outbox").exists());
    let told = daemon.output();
    assert!(told.contains("its outbox is not used") && told.contains("POST /events"), "{told}");
    daemon.sigterm();
    assert!(daemon.wait_exit(Duration::from_secs(60)).success());
}
