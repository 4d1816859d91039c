//! Limit of `stream_ledger`: copies the records whose id header is new, and adds one packed ledger record a partition and
//! transaction (20 bytes a record: 128 bits of hash, the offset's distance from the first). Never expires a key.

use bulkhead_limits::{Args, copied, run, send};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord};
use std::collections::{BTreeMap, HashSet};

/// Segments above this are split, as bulkhead does.
const SEGMENT_BYTES_MAX: usize = 512 * 1024;

#[derive(Default)]
struct Ledger {
    seen: HashSet<u128>,
    segments: BTreeMap<i32, (i64, Vec<u8>)>,
}

fn main() {
    let args = Args::parse();
    run(
        &args,
        |ledger: &mut Ledger, producer, message| {
            if ledger.claim(producer, &args.ledger, message) {
                let headers = message.headers().map(rdkafka::message::BorrowedHeaders::detach);
                let record = copied(message, &args.output);
                send(producer, BaseRecord { headers, ..record });
            }
        },
        |ledger: &mut Ledger, producer| {
            for (partition, (_, segment)) in std::mem::take(&mut ledger.segments) {
                publish(producer, &args.ledger, partition, &segment);
            }
        },
    );
}

impl Ledger {
    /// Whether the record's id is new.
    fn claim(&mut self, producer: &BaseProducer, topic: &str, message: &BorrowedMessage<'_>) -> bool {
        let id = message.headers().and_then(|h| h.iter().next()?.value).expect("every record has an id header");
        let hash: [u8; 16] = blake3::hash(id).as_bytes()[..16].try_into().expect("a hash has 32 bytes");
        let (first, segment) =
            self.segments.entry(message.partition()).or_insert_with(|| (message.offset(), Vec::new()));
        segment.extend_from_slice(&hash);
        segment.extend_from_slice(&((message.offset() - *first) as u32).to_le_bytes());
        if segment.len() >= SEGMENT_BYTES_MAX {
            publish(producer, topic, message.partition(), segment);
            self.segments.remove(&message.partition());
        }
        self.seen.insert(u128::from_le_bytes(hash))
    }
}

fn publish(producer: &BaseProducer, topic: &str, partition: i32, segment: &[u8]) {
    let mut record = BaseRecord::to(topic).partition(partition);
    record.payload = Some(segment);
    send(producer, record);
}
