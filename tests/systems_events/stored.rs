//! The shipped pipeline with a real PostgreSQL behind it: rows by the events' ids, through the database's absence, bad values and a
//! table that is not there.

use crate::rig::{PATIENCE, Rig, client, metric, post, root, wait_metric};
use bulkhead_testkit::daemon::Daemon;
use bulkhead_testkit::postgres::Postgres;
use bulkhead_testkit::process::eventually;
use serde_json::{Value, json};

/// The shipped table.
const TABLE: &str = include_str!("../../config/postgres/events.sql");
const VARIABLE: &str = "BULKHEAD_EVENTS_POSTGRES";

/// The shipped pipeline, its store in a process of its own: the connection string must reach it, and nobody else.
fn rig() -> Rig {
    let shipped = std::fs::read_to_string(root().join("config/pipelines/events.toml")).expect("it is shipped");
    let pipeline = shipped
        .replace("[[stage]]\nname    = \"store\"", "[[stage]]\nname    = \"store\"\nisolation = \"process\"")
        .replace("delivery = ", "failed_retry = \"1s\"\ndelivery = ");
    assert!(pipeline.contains("isolation") && pipeline.contains("failed_retry"), "the shipped file has changed");
    let rig = Rig::new("", &pipeline);
    let schemas = rig.config().join("schemas");
    std::fs::create_dir_all(&schemas).expect("a folder");
    std::fs::copy(root().join("config/schemas/event.json"), schemas.join("event.json")).expect("it is shipped");
    rig
}

fn start(rig: &Rig, database: &Postgres) -> Daemon {
    Daemon::start(&rig.spec().env(VARIABLE, &database.url()))
}

/// Sends events of one user, several a body; the ids of their jobs.
fn send(daemon: &Daemon, user: &str, seqs: std::ops::Range<u32>) -> Vec<String> {
    let event =
        |seq: u32| json!({ "event_type": "click", "user_id": user, "properties": { "seq": seq, "price": 12.30 } });
    let events: Vec<Value> = seqs.map(event).collect();
    let answer = post(&client(), &daemon.url("/register_event"), json!(events).to_string());
    assert_eq!(answer.status(), 202);
    let answer: Value = answer.json().expect("JSON");
    let ids = answer["jobIds"].as_array().expect("ids").iter();
    ids.map(|id| id.as_str().expect("text").to_owned()).collect()
}

fn wait_rows(database: &Postgres, wanted: usize) {
    let count = || database.try_query("SELECT count(*) FROM events");
    eventually(&format!("{wanted} rows"), PATIENCE, || match count()?.as_slice() {
        [rows] if *rows == wanted.to_string() => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn rows_follow_events_through_an_outage_a_kill_and_a_bad_value() {
    let database = Postgres::start();
    drop(database.query(TABLE));
    let rig = rig();
    let daemon = start(&rig, &database);
    daemon.wait_ready(PATIENCE);
    let mut ids = send(&daemon, "u-1", 0..100);
    wait_rows(&database, 100);
    assert_eq!(database.query("SELECT properties->>'price' FROM events LIMIT 1"), ["12.3"]);
    hidden(&daemon, &database.url());

    database.stop();
    ids.extend(send(&daemon, "u-1", 100..200));
    wait_metric(&daemon, "bulkhead_stage_retries_total", |retries| retries > 0.0);
    assert_eq!(metric(&daemon, "bulkhead_dlq_published_total"), 0.0, "nobody's fault");
    // Whatever the daemon had in its hands is worked on again.
    daemon.sigkill();
    database.start_again();
    let daemon = start(&rig, &database);
    daemon.wait_ready(PATIENCE);
    wait_rows(&database, 200);

    // PostgreSQL takes no NUL in a text: one event is at fault, its batch-mates are not.
    let bad = json!([
        { "event_type": "good", "user_id": "u-2" },
        { "event_type": "bad", "user_id": "u-2", "properties": { "text": "a\u{0}b" } },
        { "event_type": "good", "user_id": "u-2" },
    ]);
    let answer: Value = post(&client(), &daemon.url("/register_event"), bad.to_string()).json().expect("JSON");
    wait_rows(&database, 202);
    let culprit = answer["jobIds"][1].as_str().expect("an id");
    let job = eventually("its job has ended", PATIENCE, || {
        let job = daemon.try_get_json(&daemon.url(&format!("/events/{culprit}")))?.1;
        if job["status"] == "pending" { Err(job.to_string()) } else { Ok(job) }
    });
    let error = &job["error"];
    assert_eq!(
        (&error["code"], &error["stage"], &error["class"]),
        (&json!("postgres_value"), &json!("store"), &json!("poison"))
    );
    assert!(error["message"].as_str().is_some_and(|message| message.contains("SQLSTATE 22P05")), "{job}");

    let mut stored = database.query("SELECT id FROM events WHERE user_id = 'u-1'");
    stored.sort();
    ids.sort();
    assert_eq!(stored, ids, "each accepted event has its row, by its id");
    let times = database
        .query("SELECT count(*) FROM events WHERE at BETWEEN now() - interval '1 hour' AND now() + interval '1 hour'");
    assert_eq!(times, ["202"], "a time that was missing is the server's");
}

/// The connection string stands in no process' arguments or environment but the daemon's own.
fn hidden(daemon: &Daemon, url: &str) {
    let actors = daemon.actors();
    let pids = actors.values().filter_map(|actor| actor.page["pid"].as_u64());
    let pids: Vec<_> = pids.collect();
    assert!(!pids.is_empty(), "the store has a process of its own: {:?}", actors.keys());
    for pid in pids {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).expect("it runs");
        assert!(!String::from_utf8_lossy(&arguments).contains(url), "it can be seen in a list of processes");
    }
    assert!(!daemon.output().contains(url), "it was logged");
}

#[test]
fn a_table_that_is_not_there_stops_the_stage_until_it_is() {
    let database = Postgres::start();
    let rig = rig();
    let daemon = start(&rig, &database);
    // Nothing is asked of the database before there is something to store.
    daemon.wait_ready(PATIENCE);
    let ids = send(&daemon, "u-1", 0..3);
    assert_eq!(ids.len(), 3);
    eventually("it says what is wrong", PATIENCE, || {
        let output = daemon.output();
        let is_told = output.contains("postgres_refused") && output.contains("relation \"events\" does not exist");
        if is_told { Ok(()) } else { Err("not yet".to_owned()) }
    });
    drop(database.query(TABLE));
    wait_rows(&database, 3);
    assert_eq!(metric(&daemon, "bulkhead_dlq_published_total"), 0.0, "no event was to blame");
}
