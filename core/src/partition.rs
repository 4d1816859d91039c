//! The partition machine: cuts batches, bounds what is in flight and holds the watermark of one assignment.
//! Never publishes, commits or looks into a record.

use crate::batch::Batch;
use crate::cut::{CutLimits, Cutter};
use crate::ids::{Assignment, BatchSeq, Offset, Position, Ticket};
use crate::machine::Machine;
use crate::record::SourceRecord;
use crate::time::Now;
use crate::watermark::Watermark;
use std::collections::BTreeMap;

/// What one partition may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionLimits {
    /// Where a batch ends.
    pub cut: CutLimits,
    /// Unsettled batches, at least 1.
    pub in_flight_batches_max: usize,
    /// Bytes of unsettled batches and of records that wait to become one. A single batch may exceed it.
    pub in_flight_bytes_max: usize,
}

/// What happens to a partition.
#[derive(Debug)]
pub enum PartitionEvent {
    /// The ledger is loaded (or there is none): work may begin at this position.
    Open(Position),
    /// Records came from the log, in order.
    Records(Vec<SourceRecord>),
    /// A batch is settled; `end` is its last position.
    Settled(BatchSeq, Position),
    /// Time passed.
    Tick,
    /// Take no more; say when everything is settled.
    Drain,
}

/// What a partition wants done.
#[derive(Debug)]
pub enum PartitionEffect {
    /// A batch sets off.
    Cut(Batch),
    /// Whether the source may fetch for this partition. Told when it changes.
    Room(bool),
    /// Call `Tick` at this time.
    WakeAt(Now),
    /// Draining, and everything taken is settled.
    Drained,
    /// A sentinel: this record came out of order (it repeats or precedes one that came) and was dropped.
    OutOfOrder(Offset),
    /// A sentinel: a batch was settled twice.
    SettledTwice(BatchSeq),
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    bytes: usize,
    first: Offset,
    since: Now,
}

/// See the module.
#[derive(Debug)]
pub struct PartitionMachine {
    assignment: Assignment,
    limits: PartitionLimits,
    cutter: Cutter,
    /// `None` until the ledger is loaded.
    watermark: Option<Watermark>,
    read: Position,
    next: BatchSeq,
    in_flight: BTreeMap<BatchSeq, InFlight>,
    bytes: usize,
    room: bool,
    draining: bool,
}

impl PartitionMachine {
    /// A partition of a new assignment; it has no room before [`PartitionEvent::Open`].
    #[must_use]
    pub fn new(assignment: Assignment, limits: PartitionLimits) -> Self {
        Self {
            assignment,
            limits,
            cutter: Cutter::new(limits.cut),
            watermark: None,
            read: Position(i64::MIN),
            next: BatchSeq(0),
            in_flight: BTreeMap::new(),
            bytes: 0,
            room: false,
            draining: false,
        }
    }

    /// The lowest unsettled position; `None` before the partition is open.
    #[must_use]
    pub fn watermark(&self) -> Option<Position> {
        self.watermark.as_ref().map(Watermark::position)
    }

    /// Batches that are not settled.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The oldest unsettled batch's first record, and since when it has been in flight.
    #[must_use]
    pub fn oldest(&self) -> Option<(Offset, Now)> {
        self.in_flight.first_key_value().map(|(_, batch)| (batch.first, batch.since))
    }

    fn open(&mut self, position: Position) {
        self.watermark = Some(Watermark::new(position));
        self.read = position;
    }

    /// Takes records in; those below the position were committed before this assignment began and are skipped.
    fn take(&mut self, records: Vec<SourceRecord>, now: Now) -> Vec<PartitionEffect> {
        let Some(start) = self.watermark.as_ref().map(Watermark::position) else { return Vec::new() };
        let mut effects = Vec::new();
        for record in records {
            if record.offset.next() <= self.read {
                if record.offset.next() > start && !self.in_flight.is_empty() {
                    effects.push(PartitionEffect::OutOfOrder(record.offset));
                }
                continue;
            }
            self.read = record.offset.next();
            self.cutter.push(record, now);
        }
        effects
    }

    fn settle(&mut self, seq: BatchSeq, end: Position) -> Vec<PartitionEffect> {
        if let Some(batch) = self.in_flight.remove(&seq) {
            self.bytes -= batch.bytes;
        }
        let settled = self.watermark.as_mut().is_some_and(|watermark| watermark.settle(seq, end));
        if settled { Vec::new() } else { vec![PartitionEffect::SettledTwice(seq)] }
    }

    fn cut(&mut self, now: Now) -> Vec<PartitionEffect> {
        let mut effects = Vec::new();
        while self.in_flight.len() < self.limits.in_flight_batches_max
            && (self.in_flight.is_empty() || self.bytes < self.limits.in_flight_bytes_max)
        {
            let Some(records) = self.cutter.cut(now) else { break };
            let bytes = records.iter().map(|r| r.record.size()).sum();
            let batch = Batch::new(Ticket { assignment: self.assignment, seq: self.next }, records);
            self.in_flight.insert(self.next, InFlight { bytes, first: batch.first(), since: now });
            self.next = BatchSeq(self.next.0 + 1);
            self.bytes += bytes;
            effects.push(PartitionEffect::Cut(batch));
        }
        effects
    }

    /// Room, the next wake-up and the end of a drain: told after every event.
    fn after(&mut self, effects: &mut Vec<PartitionEffect>, now: Now) {
        let held = self.bytes + self.cutter.bytes();
        let filled = held >= self.limits.in_flight_bytes_max || self.cutter.len() >= self.limits.cut.records_max * 2;
        let room = self.watermark.is_some() && !self.draining && !filled;
        if room != self.room {
            self.room = room;
            effects.push(PartitionEffect::Room(room));
        }
        match self.cutter.due() {
            Some(due) if due > now => effects.push(PartitionEffect::WakeAt(due)),
            None if self.draining && self.in_flight.is_empty() => effects.push(PartitionEffect::Drained),
            _ => {}
        }
    }
}

impl Machine for PartitionMachine {
    type Event = PartitionEvent;
    type Effect = PartitionEffect;

    fn step(&mut self, event: PartitionEvent, now: Now) -> Vec<PartitionEffect> {
        let mut effects = match event {
            PartitionEvent::Open(position) => {
                self.open(position);
                Vec::new()
            }
            PartitionEvent::Records(records) => self.take(records, now),
            PartitionEvent::Settled(seq, end) => self.settle(seq, end),
            PartitionEvent::Tick => Vec::new(),
            PartitionEvent::Drain => {
                self.draining = true;
                Vec::new()
            }
        };
        effects.extend(self.cut(now));
        self.after(&mut effects, now);
        effects
    }
}
