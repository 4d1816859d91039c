//! What the ledger costs a record and a key, printed and not judged: `cargo test --release -p bulkhead-core --test
//! ledger_cost -- --nocapture`.

use bulkhead_core::batch::{Batch, KeyHash};
use bulkhead_core::ids::{Assignment, BatchSeq, Generation, Offset, Partition, SegmentSeq, Ticket};
use bulkhead_core::ledger::{
    Claimed, Claimer, Effect, Event, KeySource, PositionCheck, SEGMENT_BYTES_MAX, Segment, SegmentHead, Shard,
    ShardSpec, Start,
};
use bulkhead_core::machine::Machine;
use bulkhead_core::record::{Header, Record, SourceRecord};
use bulkhead_core::time::{Now, WallMs};
use std::hint::black_box;
use std::time::Duration;

/// Fewer where nobody measures.
const KEYS: u64 = if cfg!(debug_assertions) { 50_000 } else { 1_000_000 };
const BATCH: u64 = 500;
const BATCHES_A_COMMIT: usize = 10;

fn batch(seq: u64) -> Batch {
    let assignment = Assignment { partition: Partition(0), generation: Generation(0) };
    let record = |n: u64| SourceRecord {
        offset: Offset(n as i64),
        record: Record {
            value: Some(vec![n as u8; 480].into()),
            headers: vec![Header::new("idempotency-key", format!("{n:036}"))],
            ..Record::default()
        },
    };
    let records = (seq * BATCH..(seq + 1) * BATCH).map(record).collect();
    Batch::new(Ticket { assignment, seq: BatchSeq(seq) }, records)
}

fn shard() -> Shard {
    let (ttl, wait) = (Duration::from_secs(86_400), Duration::from_secs(15));
    let keys_max = 2 * KEYS as usize;
    let mut shard = Shard::new(ShardSpec { partition: Partition(0), ttl, keys_max, check: PositionCheck::Exact, wait });
    shard.step(Event::Start(Start::Assigned), Now(0));
    shard.step(Event::CacheRead, Now(0));
    shard.step(Event::CaughtUp { pass: 1, position: None }, Now(0));
    assert!(shard.is_ready());
    shard
}

/// What this thread has run, in nanoseconds: unlike the clock it leaves out those that it waited for a core.
fn on_cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or_default()
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default() * 4_096
}

#[test]
fn what_a_record_and_a_key_cost() {
    let claimer = Claimer::new("orders", "orders", KeySource::Header("idempotency-key".into()));
    let mut shard = shard();
    let mut head = SegmentHead { next: SegmentSeq(0), expired_below: SegmentSeq(0) };
    let (mut hashing, mut claiming, mut building, mut committing) = (0, 0, 0, 0);
    let (mut wire, mut done) = (0, Vec::new());
    let before = resident();
    for seq in 0..KEYS / BATCH {
        let mut batch = batch(seq);
        let start = on_cpu_ns();
        batch.claims = black_box(claimer.claims(Partition(0), &batch.records));
        hashing += on_cpu_ns() - start;
        let claims = batch.records.iter().zip(&batch.claims);
        let claims = claims.map(|(record, claim)| Claimed { offset: record.offset, claim: *claim }).collect();
        let start = on_cpu_ns();
        let effects = shard.step(Event::Claim { ticket: batch.ticket, claims, wall: WallMs(1) }, Now(0));
        claiming += on_cpu_ns() - start;
        assert!(matches!(effects[..], [Effect::Answer { .. }]));
        done.push(batch);
        if done.len() == BATCHES_A_COMMIT {
            let start = on_cpu_ns();
            let segments = Segment::build(&done.iter().collect::<Vec<_>>(), head, WallMs(1), SEGMENT_BYTES_MAX);
            building += on_cpu_ns() - start;
            head = head.after(&segments);
            wire += segments.iter().map(|segment| segment.wire().len()).sum::<usize>();
            let start = on_cpu_ns();
            shard.step(Event::Committed(segments), Now(0));
            committing += on_cpu_ns() - start;
            done.clear();
        }
    }
    println!("a 480 B record: claim {} ns, answer {} ns", hashing / KEYS, claiming / KEYS);
    println!("segment {} ns, commit {} ns, {} B on the wire", building / KEYS, committing / KEYS, wire as u64 / KEYS);
    println!("{KEYS} keys: {} B a key resident", (resident() - before) / KEYS);
    assert_eq!(shard.index().len() as u64, KEYS);
    assert!(!shard.index().contains(KeyHash(1)));
}
