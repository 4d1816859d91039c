//! Chaos in two phases: actors are killed at random, from a seed, while records flow; then it heals and converges.

use crate::{PATIENCE, assert_no_sentinel, start};
use bulkhead_testkit::flow::{Flow, FlowSpec, asking, numbered};
use bulkhead_testkit::kafka::Kafka;
use std::time::{SystemTime, UNIX_EPOCH};

const VICTIMS: [&str; 10] = [
    "source",
    "dlq",
    "lane/0",
    "lane/1",
    "stage/work/worker-0",
    "stage/work/worker-1",
    "partitions/p0/ledger",
    "partitions/p1/partition",
    "partitions/p2/ledger",
    "partitions/p3/partition",
];
const KILLS: u32 = 60;
/// Records sent with each kill.
const WAVE: u32 = 100;

/// Knuth's linear congruential generator: a seed gives the same kills on every machine.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

#[test]
fn random_kills_then_healing() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64;
    let seed = std::env::var("BULKHEAD_CHAOS_SEED").map_or(now, |seed| seed.parse().expect("a number"));
    println!("BULKHEAD_CHAOS_SEED={seed}");
    let kafka = Kafka::shared();
    let stage = "workers = 2\nretry = { initial = \"10ms\", max = \"100ms\" }";
    let flow = Flow::on(kafka, FlowSpec { name: "seeded", stage, ..FlowSpec::default() });
    let (daemon, follower) = (start(&flow, "a"), flow.follow(kafka));
    let mut random = Seeded(seed);
    for kill in 0..KILLS {
        let wave = numbered(kill * WAVE..(kill + 1) * WAVE, 4).map(|(p, record)| {
            let wish = ["slow:2", "error:1", "panic:1", "poison"].get(random.below(200));
            (p, wish.map_or(record.clone(), |wish| asking(record, wish)))
        });
        flow.send(kafka, wave.collect::<Vec<_>>());
        let victim = flow.actor(VICTIMS[random.below(VICTIMS.len())]);
        // One that is being built again cannot be killed; then this kill is none.
        if let Err(why) = daemon.try_kill_actor(&victim) {
            println!("{victim}: {why}");
        }
    }
    flow.converge(kafka, vec![follower], PATIENCE);
    flow.wait_open(&daemon, PATIENCE);
    daemon.wait_ready(PATIENCE);
    assert_no_sentinel(&flow, &daemon);
}
