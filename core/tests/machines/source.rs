//! A source machine and a naive client: who reads a partition gets exactly what follows the position it asked for.

use crate::assignment;
use bulkhead_core::ids::{Assignment, Generation, Partition, Position};
use bulkhead_core::machine::Machine;
use bulkhead_core::source::{SourceEffect, SourceEvent, SourceMachine};
use bulkhead_core::time::Now;
use proptest::prelude::*;

const PARTITION: Partition = Partition(0);

#[derive(Clone, Debug)]
enum Op {
    Assigned,
    Revoked,
    /// An actor begins here; `fails`: the client cannot seek.
    Begin {
        ahead: i64,
        fails: bool,
    },
    /// An actor of an earlier assignment begins late.
    BeginLate,
    Died,
    Fetch(i64),
    ClientDead,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::Assigned),
        1 => Just(Op::Revoked),
        5 => (0i64..3, any::<bool>()).prop_map(|(ahead, fails)| Op::Begin { ahead, fails }),
        1 => Just(Op::BeginLate),
        2 => Just(Op::Died),
        5 => (1i64..4).prop_map(Op::Fetch),
        1 => Just(Op::ClientDead),
    ]
}

/// The naive model.
#[derive(Default)]
struct World {
    machine: SourceMachine,
    /// The group's committed position; it only grows.
    committed: i64,
    /// Where the client reads next, where the partition is its own.
    client: Option<i64>,
    /// Those that were started and not fenced.
    live: Vec<Assignment>,
    newest: Generation,
    /// What the current assignment's actor asked for, and where its next record must lie.
    wants: Option<i64>,
}

impl World {
    fn step(&mut self, event: SourceEvent) -> Vec<SourceEffect> {
        self.machine.step(event, Now(0))
    }

    /// Starts and fences, checked; what is left.
    fn take(&mut self, effects: Vec<SourceEffect>) -> Vec<SourceEffect> {
        let mut rest = Vec::new();
        for effect in effects {
            match effect {
                SourceEffect::Start(assignment) => {
                    assert!(assignment.generation > self.newest, "generations only grow");
                    assert!(self.live.is_empty(), "what was is fenced first");
                    self.newest = assignment.generation;
                    self.live.push(assignment);
                }
                SourceEffect::Fence(over) => {
                    assert_eq!(self.live.pop(), Some(over), "what is fenced was live");
                }
                other => rest.push(other),
            }
        }
        rest
    }

    fn perform(&mut self, op: Op) {
        match op {
            Op::Assigned => {
                let effects = self.step(SourceEvent::Assigned(vec![PARTITION]));
                self.take(effects);
                (self.client, self.wants) = (Some(self.committed), None);
            }
            Op::Revoked | Op::ClientDead => {
                let dead = matches!(op, Op::ClientDead);
                let event = if dead { SourceEvent::ClientDead } else { SourceEvent::Revoked(vec![PARTITION]) };
                let owned = self.client.take().is_some();
                let effects = self.step(event);
                let rest = self.take(effects);
                assert_eq!(rest.contains(&SourceEffect::Stop(PARTITION)), owned);
                assert_eq!(rest.contains(&SourceEffect::Rejoin), dead);
                self.wants = None;
            }
            Op::Begin { ahead, fails } => self.begin(ahead, fails),
            Op::BeginLate => {
                let late = assignment(0, self.newest.0.saturating_sub(1));
                assert!(self.step(SourceEvent::Begin(late, Position(0))).is_empty());
            }
            Op::Died => {
                let effects = self.step(SourceEvent::Died(PARTITION));
                let rest = self.take(effects);
                assert!(rest.is_empty());
                if let Some(next) = self.machine.assignment(PARTITION) {
                    assert!(next.generation > self.newest);
                    self.newest = next.generation;
                    self.live.push(next);
                }
                self.wants = None;
            }
            Op::Fetch(count) => self.fetch(count),
        }
        assert_eq!(self.machine.assignment(PARTITION).is_some(), self.client.is_some());
        assert_eq!(self.machine.wants(PARTITION), self.wants.is_some());
    }

    /// An actor begins once an assignment, at what is committed by then.
    fn begin(&mut self, ahead: i64, fails: bool) {
        let Some(assignment) = self.machine.assignment(PARTITION).filter(|_| self.wants.is_none()) else { return };
        // Nobody commits while nobody reads, but for what was in flight when the last actor died.
        if let Some(client) = self.client.filter(|client| *client > self.committed) {
            self.committed = (self.committed + ahead).min(client);
        }
        let position = Position(self.committed);
        let effects = self.step(SourceEvent::Begin(assignment, position));
        for effect in effects {
            assert_eq!(effect, SourceEffect::Seek(PARTITION, position));
            if fails {
                self.step(SourceEvent::SeekFailed(PARTITION));
                return;
            }
            self.client = Some(position.0);
        }
        self.wants = Some(position.0);
    }

    fn fetch(&mut self, count: i64) {
        let Some(from) = self.client else {
            let fetched = SourceEvent::Fetched(PARTITION, Position(count));
            assert_eq!(self.step(fetched), [SourceEffect::Discard(PARTITION)]);
            return;
        };
        self.client = Some(from + count);
        let effects = self.step(SourceEvent::Fetched(PARTITION, Position(from + count)));
        match self.wants {
            Some(wanted) => {
                let current = self.machine.assignment(PARTITION).expect("it is ours");
                assert_eq!(effects, [SourceEffect::Deliver(current)]);
                assert_eq!(from, wanted, "nothing is left out and nothing comes twice");
                self.wants = Some(from + count);
            }
            None => assert_eq!(effects, [SourceEffect::Discard(PARTITION)]),
        }
    }
}

proptest! {
    #[test]
    fn whoever_reads_a_partition_gets_what_follows_its_position(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::default();
        ops.into_iter().for_each(|op| world.perform(op));
    }
}

#[test]
fn partitions_do_not_know_of_each_other() {
    let mut machine = SourceMachine::default();
    let start = |partition, generation| SourceEffect::Start(assignment(partition, generation));
    let assigned = SourceEvent::Assigned(vec![Partition(0), Partition(1)]);
    assert_eq!(machine.step(assigned, Now(0)), [start(0, 1), start(1, 1)]);
    let died = machine.step(SourceEvent::Died(Partition(1)), Now(0));
    assert_eq!(died, [SourceEffect::Fence(assignment(1, 1))]);
    let ours: Vec<Assignment> = machine.assignments().collect();
    assert_eq!(ours, [assignment(0, 1), assignment(1, 2)]);
}

#[test]
fn the_same_partition_comes_back_under_another_generation() {
    let mut machine = SourceMachine::default();
    machine.step(SourceEvent::Assigned(vec![PARTITION]), Now(0));
    machine.step(SourceEvent::Revoked(vec![PARTITION]), Now(0));
    let again = machine.step(SourceEvent::Assigned(vec![PARTITION]), Now(0));
    assert_eq!(again, [SourceEffect::Start(assignment(0, 2))]);
}

#[test]
fn the_world_of_this_test_meets_what_it_must() {
    let mut world = World::default();
    for op in [Op::Assigned, Op::Fetch(2), Op::Begin { ahead: 0, fails: true }, Op::Begin { ahead: 0, fails: false }] {
        world.perform(op);
    }
    assert_eq!((world.wants, world.client), (Some(0), Some(0)), "read again from the position");
    world.perform(Op::Fetch(3));
    world.perform(Op::Died);
    world.perform(Op::Begin { ahead: 2, fails: false });
    assert_eq!(world.wants, Some(2));
}
