//! What the source topic holds: records of every kind, drawn from the seed. Never tells a daemon which kind.

use crate::rng::Rng;
use bulkhead_core::ids::{Offset, Partition};
use bulkhead_core::ledger::{Claimer, KeySource};
use bulkhead_core::letter::ERRORS_PREFIX;
use bulkhead_core::record::{Header, ROUND_HEADER, Record, SourceRecord};
use std::collections::BTreeMap;

pub(crate) const PARTITIONS: usize = 3;
const KEY: &str = "idempotency-key";
const ID: &str = "id";
/// How long a value is: long enough that cutting a letter shortens it.
const VALUE: usize = 400;

/// What a record does to those who work on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It becomes so many records; none: it is dropped.
    Good(u32),
    Poison,
    /// It crashes its worker, always.
    Crasher,
    /// It crashes its worker every other time.
    Flaky,
    /// It meets a transient fault every other time.
    Transient,
    /// The log refuses its result for good.
    Refused,
    /// The log refuses its result, and its dead letter until that is cut.
    Bulky,
    /// The log refuses its result, and its dead letter however short, until someone mends that.
    Unwanted,
}

impl Fate {
    /// Whether the log refuses its result.
    pub(crate) fn is_refused(self) -> bool {
        matches!(self, Self::Refused | Self::Bulky | Self::Unwanted)
    }

    pub(crate) fn outputs(self) -> u32 {
        if let Self::Good(outputs) = self { outputs } else { 1 }
    }
}

/// Names a record everywhere.
pub(crate) type Id = (Partition, Offset);

pub(crate) struct SourceLog {
    pub(crate) records: Vec<Vec<SourceRecord>>,
    pub(crate) fates: BTreeMap<Id, Fate>,
    /// How many records of each partition have arrived.
    pub(crate) arrived: Vec<usize>,
}

pub(crate) fn partitions() -> impl Iterator<Item = Partition> {
    (0..PARTITIONS as i32).map(Partition)
}

pub(crate) fn claimer() -> Claimer {
    Claimer::new("sim", "source", KeySource::Header(KEY.into()))
}

/// Whose outcome a record is.
pub(crate) fn id_of(record: &Record) -> Id {
    let id = record.header(ID).expect("every record here carries its id");
    let id = std::str::from_utf8(id).expect("ids are text");
    let (partition, offset) = id.split_once(':').expect("an id has two parts");
    (Partition(partition.parse().expect("a number")), Offset(offset.parse().expect("a number")))
}

/// Whose dead letter this is, by the headers that no cut takes.
pub(crate) fn id_of_letter(letter: &Record) -> Id {
    let number = |name: &str| -> i64 {
        let value = letter.header(&format!("{ERRORS_PREFIX}{name}")).expect("every letter says where it came from");
        std::str::from_utf8(value).expect("headers are text").parse().expect("a number")
    };
    (Partition(number("partition") as i32), Offset(number("offset")))
}

impl SourceLog {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        // Where the log wants no letter, a partition stands still: not everywhere.
        let unwanted = rng.per_mille(200);
        let mut log = Self { records: Vec::new(), fates: BTreeMap::new(), arrived: vec![0; PARTITIONS] };
        for partition in partitions() {
            let mut keys: Vec<(u64, u64, u32)> = Vec::new();
            let mut records = Vec::new();
            let count = 20 + rng.below(50);
            // Offsets have gaps, where a transaction's marker lies.
            let mut offset = rng.below(3) as i64;
            for _ in 0..count {
                let (key, payload, round) = draw_key(rng, &mut keys);
                let headers = vec![
                    Header::new(ID, format!("{partition}:{offset}")),
                    Header::new(KEY, key.to_string()),
                    Header::new(ROUND_HEADER, round.to_string()),
                ];
                let record = Record { value: Some(format!("{payload:0>VALUE$}").into()), headers, ..Record::default() };
                log.fates.insert((partition, Offset(offset)), draw_fate(rng, unwanted));
                records.push(SourceRecord { offset: Offset(offset), record });
                offset += if rng.per_mille(100) { 2 } else { 1 };
            }
            log.records.push(records);
        }
        log
    }

    pub(crate) fn fate(&self, id: Id) -> Fate {
        self.fates[&id]
    }

    /// Some more records arrive; false where all have.
    pub(crate) fn arrive(&mut self, rng: &mut Rng) -> bool {
        let partition = rng.below(PARTITIONS);
        let all = self.records[partition].len();
        self.arrived[partition] = (self.arrived[partition] + 1 + rng.below(4)).min(all);
        self.arrived.iter().zip(&self.records).any(|(arrived, records)| *arrived < records.len())
    }

    /// At most `max` records from this offset on, of those that have arrived.
    pub(crate) fn fetch(&self, partition: Partition, from: i64, max: usize) -> Vec<SourceRecord> {
        let slot = partition.0 as usize;
        let arrived = self.records[slot].iter().take(self.arrived[slot]);
        arrived.skip_while(|record| record.offset.0 < from).take(max).cloned().collect()
    }
}

/// A key, a payload and a round: mostly new, else those of an earlier record, changed or not.
fn draw_key(rng: &mut Rng, keys: &mut Vec<(u64, u64, u32)>) -> (u64, u64, u32) {
    let fresh = (rng.draw(), rng.draw(), 0);
    let drawn = match (rng.below(100), keys.len()) {
        (0..65, _) | (_, 0) => fresh,
        (65..85, known) => keys[rng.below(known)],
        (85..92, known) => (keys[rng.below(known)].0, fresh.1, 0),
        (_, known) => {
            let (key, payload, round) = keys[rng.below(known)];
            (key, payload, round + 1)
        }
    };
    keys.push(drawn);
    drawn
}

fn draw_fate(rng: &mut Rng, unwanted: bool) -> Fate {
    match rng.below(100) {
        0..62 => Fate::Good(1),
        62..68 => Fate::Good(2),
        68..74 => Fate::Good(0),
        74..82 => Fate::Poison,
        82..85 => Fate::Crasher,
        85..89 => Fate::Flaky,
        89..96 => Fate::Transient,
        96..98 => Fate::Refused,
        98 => Fate::Bulky,
        _ if unwanted => Fate::Unwanted,
        _ => Fate::Refused,
    }
}
