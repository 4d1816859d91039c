//! A partition machine against lists: what came, what was cut, what is settled.

use crate::{assignment, record};
use bulkhead_core::batch::Batch;
use bulkhead_core::cut::CutLimits;
use bulkhead_core::ids::{BatchSeq, Offset, Position};
use bulkhead_core::machine::Machine;
use bulkhead_core::partition::{PartitionEffect, PartitionEvent, PartitionLimits, PartitionMachine};
use bulkhead_core::time::Now;
use proptest::prelude::*;
use std::time::Duration;

const START: i64 = 10;

fn limits(records_max: usize, in_flight_batches_max: usize) -> PartitionLimits {
    let cut = CutLimits { records_max, bytes_max: 1_000, linger: Duration::from_millis(5) };
    PartitionLimits { cut, in_flight_batches_max, in_flight_bytes_max: 400 }
}

#[derive(Clone, Debug)]
enum Op {
    /// So many records, after a gap of offsets.
    Records(i64, i64),
    /// Records that came before.
    Again(i64),
    /// One of the batches in flight.
    Settle(usize),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1i64..8, 0i64..2).prop_map(|(count, gap)| Op::Records(count, gap)),
        1 => (1i64..5).prop_map(Op::Again),
        4 => any::<usize>().prop_map(Op::Settle),
        2 => (1u64..8).prop_map(Op::Pass),
    ]
}

struct World {
    machine: PartitionMachine,
    now: Now,
    cut: Vec<Batch>,
    /// Which of them are settled.
    settled: Vec<bool>,
    room: bool,
    drained: bool,
    out_of_order: usize,
}

impl World {
    fn new(limits: PartitionLimits) -> Self {
        let machine = PartitionMachine::new(assignment(0, 1), limits);
        let (cut, settled) = (Vec::new(), Vec::new());
        Self { machine, now: Now(0), cut, settled, room: false, drained: false, out_of_order: 0 }
    }

    fn step(&mut self, event: PartitionEvent) {
        for effect in self.machine.step(event, self.now) {
            match effect {
                PartitionEffect::Cut(batch) => {
                    self.cut.push(batch);
                    self.settled.push(false);
                }
                PartitionEffect::Room(room) => {
                    assert_ne!(room, self.room, "told when it changes");
                    self.room = room;
                }
                PartitionEffect::WakeAt(at) => assert!(at > self.now),
                PartitionEffect::Drained => self.drained = true,
                PartitionEffect::OutOfOrder(_) => self.out_of_order += 1,
                PartitionEffect::SettledTwice(seq) => panic!("{seq} was settled once"),
            }
        }
    }

    fn settle(&mut self, which: usize) {
        let open: Vec<usize> = (0..self.cut.len()).filter(|seq| !self.settled[*seq]).collect();
        if open.is_empty() {
            return;
        }
        let seq = open[which % open.len()];
        self.settled[seq] = true;
        self.step(PartitionEvent::Settled(BatchSeq(seq as u64), self.cut[seq].end()));
    }

    /// The end of the last batch before the first that is not settled.
    fn watermark(&self) -> Position {
        let done = self.cut.iter().zip(&self.settled).take_while(|(_, settled)| **settled);
        done.last().map_or(Position(START), |(batch, _)| batch.end())
    }

    fn records(&self) -> Vec<Offset> {
        self.cut.iter().flat_map(|batch| batch.records.iter().map(|record| record.offset)).collect()
    }
}

proptest! {
    #[test]
    fn every_record_is_cut_once_and_in_order(
        ops in prop::collection::vec(op(), 1..80), records_max in 1usize..6, batches_max in 1usize..5,
    ) {
        let mut world = World::new(limits(records_max, batches_max));
        world.step(PartitionEvent::Open(Position(START)));
        let (mut next, mut sent) = (START, Vec::new());
        for op in ops {
            match op {
                Op::Records(count, gap) => {
                    let offsets = next + gap..next + gap + count;
                    next = offsets.end;
                    sent.extend(offsets.clone().map(Offset));
                    world.step(PartitionEvent::Records(offsets.map(record).collect()));
                }
                Op::Again(count) => {
                    world.step(PartitionEvent::Records((next - count..next).map(record).collect()));
                }
                Op::Settle(which) => world.settle(which),
                Op::Pass(ms) => {
                    world.now.0 += ms;
                    world.step(PartitionEvent::Tick);
                }
            }
            let unsettled = world.settled.iter().filter(|settled| !**settled).count();
            prop_assert!(unsettled <= batches_max);
            prop_assert_eq!(world.machine.in_flight(), unsettled);
            prop_assert_eq!(world.machine.watermark(), Some(world.watermark()));
            let oldest = world.cut.iter().zip(&world.settled).find(|(_, settled)| !**settled);
            prop_assert_eq!(world.machine.oldest().map(|(first, _)| first), oldest.map(|(batch, _)| batch.first()));
            prop_assert!(world.cut.iter().all(|batch| batch.records.len() <= records_max));
        }
        world.step(PartitionEvent::Drain);
        prop_assert!(!world.room, "it takes no more");
        while !world.drained {
            world.now.0 += 5;
            world.step(PartitionEvent::Tick);
            world.settle(0);
        }
        prop_assert_eq!(world.records(), sent);
        prop_assert!(world.settled.iter().all(|settled| *settled), "drained means settled");
        prop_assert!((0..).zip(&world.cut).all(|(seq, batch)| batch.ticket.seq == BatchSeq(seq)));
    }
}

#[test]
fn nothing_is_taken_before_it_is_open() {
    let mut world = World::new(limits(1, 1));
    world.step(PartitionEvent::Records(vec![record(START)]));
    assert!(!world.room && world.cut.is_empty());
    world.step(PartitionEvent::Open(Position(START)));
    assert!(world.room);
}

#[test]
fn records_below_the_position_are_skipped_without_a_word() {
    let mut world = World::new(limits(4, 1));
    world.step(PartitionEvent::Open(Position(START)));
    world.step(PartitionEvent::Records((START - 3..START + 4).map(record).collect()));
    assert_eq!(world.records(), (START..START + 4).map(Offset).collect::<Vec<_>>());
    assert_eq!(world.out_of_order, 0);
    world.step(PartitionEvent::Records(vec![record(START + 1)]));
    assert_eq!(world.out_of_order, 1, "one that is in flight came again");
}

#[test]
fn too_much_in_hand_leaves_no_room() {
    let mut world = World::new(limits(2, 1));
    world.step(PartitionEvent::Open(Position(START)));
    world.step(PartitionEvent::Records((START..START + 6).map(record).collect()));
    assert_eq!((world.cut.len(), world.room), (1, false), "one in flight, two batches' worth wait");
    world.settle(0);
    assert_eq!((world.cut.len(), world.room), (2, true));
}

#[test]
fn a_batch_that_is_settled_twice_is_told() {
    let mut machine = PartitionMachine::new(assignment(0, 1), limits(1, 1));
    machine.step(PartitionEvent::Open(Position(START)), Now(0));
    machine.step(PartitionEvent::Records(vec![record(START)]), Now(0));
    let settled = || PartitionEvent::Settled(BatchSeq(0), Position(START + 1));
    assert!(machine.step(settled(), Now(0)).is_empty());
    assert!(matches!(machine.step(settled(), Now(0))[..], [PartitionEffect::SettledTwice(BatchSeq(0))]));
}
