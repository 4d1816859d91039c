//! The daemon while its broker is away: at start, and for 20 s in the middle. Health tells within 5 s, nothing is lost.

use bulkhead_testkit::daemon::Daemon;
use bulkhead_testkit::flow::{Flow, FlowSpec, asking, numbered};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::process::eventually;
use serde_json::Value;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(90);
/// How old what health says may be.
const HONEST: Duration = Duration::from_secs(5);
const OUTAGE: Duration = Duration::from_secs(20);

/// Waits until a page of the admin port has this status; answers with the page.
fn wait_status(daemon: &Daemon, page: &str, expected: u16, timeout: Duration) -> Value {
    eventually(&format!("{page} is {expected}"), timeout, || {
        assert!(daemon.is_running(), "the daemon ended");
        let (status, body) = daemon.get_json(&daemon.admin(page));
        if status == expected { Ok(body) } else { Err(format!("{status}: {body}")) }
    })
}

#[test]
fn a_broker_that_is_away_at_start_and_for_twenty_seconds_later() {
    let kafka = Kafka::start(1);
    let stage = "workers = 2";
    let flow = Flow::on(&kafka, FlowSpec { name: "outage", stage, ..FlowSpec::default() });
    kafka.stop();

    let daemon = Daemon::start(&flow.daemon(env!("CARGO_BIN_EXE_bulkhead"), &kafka, "a"));
    let page = wait_status(&daemon, "/ready", 503, HONEST);
    let why = page["statuses"][0].to_string();
    assert!(why.contains("log reachable") && why.contains("error"), "{page}");
    assert_eq!(daemon.get_json(&daemon.admin("/live")).0, 200, "it lives");
    kafka.start_again();
    flow.wait_open(&daemon, PATIENCE);
    daemon.wait_ready(PATIENCE);

    let follower = flow.follow(&kafka);
    flow.send(&kafka, numbered(0..2_000, 4));
    flow.wait_metric(&daemon, "bulkhead_records_out_total", 2_000.0, PATIENCE);
    // Records are in flight when the broker goes, and more wait in it.
    let slow = |((p, record), n): ((_, _), u32)| (p, if n % 10 == 0 { asking(record, "slow:20") } else { record });
    flow.send(&kafka, numbered(2_000..6_000, 4).zip(0..).map(slow));
    flow.wait_metric(&daemon, "bulkhead_records_out_total", 2_050.0, PATIENCE);
    let gone = Instant::now();
    kafka.kill();
    wait_status(&daemon, "/ready", 503, HONEST);
    let page = wait_status(&daemon, "/progress", 503, HONEST);
    assert!(page["standstill"].to_string().contains("log reachable"), "{page}");
    eventually("20 s are over", OUTAGE * 2, || {
        let told = ["/ready", "/progress"].map(|page| daemon.get_json(&daemon.admin(page)).0);
        assert_eq!(told, [503, 503], "the broker is away and health says otherwise");
        if gone.elapsed() >= OUTAGE { Ok(()) } else { Err("not yet".into()) }
    });
    kafka.start_again();
    daemon.wait_ready(PATIENCE);
    flow.converge(&kafka, vec![follower], PATIENCE);
    wait_status(&daemon, "/progress", 200, HONEST);
    assert!(daemon.is_running());
}
