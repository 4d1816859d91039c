//! A lane machine on a naive log: whatever its operations come to, each partition's batches are committed once, in order
//! and without a gap, and settled once they are.

use crate::{assignment, batch};
use bulkhead_core::batch::Batch;
use bulkhead_core::ids::{Assignment, BatchSeq, LoanId, Partition, Position, Ticket};
use bulkhead_core::lane::{Held, LaneEffect, LaneEvent, LaneFault, LaneLimits, LaneMachine};
use bulkhead_core::machine::Machine;
use bulkhead_core::time::Now;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

const PARTITIONS: i32 = 2;
const LIMITS: LaneLimits = LaneLimits {
    commit_interval: Duration::from_millis(10),
    commit_records_max: 5,
    backoff_initial: Duration::from_millis(1),
    backoff_max: Duration::from_millis(8),
};

/// How one operation goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Luck {
    Fine,
    Void,
    /// Unknown; a commit took place or not.
    Unknown(bool),
    /// The log refuses the first record of the last batch.
    Refused,
    /// The first assignment ended just before a commit.
    Fenced,
    /// The lane dies, before the operation or after it.
    Death(bool),
}

#[derive(Clone, Debug)]
enum Op {
    /// A batch of this partition is finished: the first of those in work, or a later one.
    Arrive(i32, usize),
    Tick(u64, usize),
    Operate(Luck),
    Fence(i32),
}

fn op() -> impl Strategy<Value = Op> {
    let luck = prop_oneof![
        12 => Just(Luck::Fine),
        1 => Just(Luck::Void),
        2 => any::<bool>().prop_map(Luck::Unknown),
        1 => Just(Luck::Refused),
        1 => Just(Luck::Fenced),
        2 => any::<bool>().prop_map(Luck::Death),
    ];
    prop_oneof![
        4 => (0..PARTITIONS, 0usize..4).prop_map(|(partition, which)| Op::Arrive(partition, which)),
        4 => (0u64..6, 0usize..2).prop_map(|(ms, elsewhere)| Op::Tick(ms, elsewhere)),
        8 => luck.prop_map(Op::Operate),
        1 => (0..PARTITIONS).prop_map(Op::Fence),
    ]
}

/// One partition as everybody else sees it.
#[derive(Default)]
struct Side {
    generation: u64,
    /// Where its next batch is read, under this generation.
    read: i64,
    next: u64,
    /// Batches in work, and those that the lane was lent.
    working: Vec<Batch>,
    lent: BTreeMap<BatchSeq, Arc<Batch>>,
    /// The first that is not settled.
    expected: BatchSeq,
}

struct World {
    machine: LaneMachine,
    now: Now,
    pending: VecDeque<LaneEffect>,
    sides: Vec<Side>,
    committed: BTreeMap<Partition, Position>,
    open: Option<Vec<Arc<Batch>>>,
    loans: u64,
}

impl World {
    fn new() -> Self {
        let sides = (0..PARTITIONS).map(|_| Side::default()).collect();
        let (machine, pending) = (LaneMachine::new(LIMITS), VecDeque::new());
        Self { machine, now: Now(0), pending, sides, committed: BTreeMap::new(), open: None, loans: 0 }
    }

    fn assignment(&self, partition: i32) -> Assignment {
        assignment(partition, self.sides[partition as usize].generation)
    }

    fn step(&mut self, event: LaneEvent) {
        let effects = self.machine.step(event, self.now);
        let is_operation = |effect: &LaneEffect| {
            matches!(
                effect,
                LaneEffect::Rebuild
                    | LaneEffect::ReadPositions(_)
                    | LaneEffect::Begin
                    | LaneEffect::Publish(_)
                    | LaneEffect::Commit(_)
                    | LaneEffect::Abort
            )
        };
        let first = effects.iter().position(is_operation);
        assert!(first.is_none_or(|at| at == effects.len() - 1), "one operation at a time, the last: {effects:?}");
        assert!(first.is_none() || !self.pending.iter().any(is_operation), "the one before is not answered");
        let late = effects.iter().find(|effect| matches!(effect, LaneEffect::WakeAt(at) if *at <= self.now));
        assert!(late.is_none(), "{late:?} at {:?}", self.now);
        self.pending.extend(effects);
    }

    fn arrive(&mut self, partition: i32, which: usize) {
        let assignment = self.assignment(partition);
        let side = &mut self.sides[partition as usize];
        if side.working.len() < 3 {
            let size = 1 + (side.next % 3) as i64;
            side.working.push(batch(assignment, side.next, side.read..side.read + size));
            (side.read, side.next) = (side.read + size, side.next + 1);
        }
        let batch = Arc::new(side.working.remove(which % side.working.len()));
        side.lent.insert(batch.ticket.seq, Arc::clone(&batch));
        self.lend(batch);
    }

    fn lend(&mut self, batch: Arc<Batch>) {
        self.loans += 1;
        let expected = self.sides[batch.ticket.assignment.partition.0 as usize].expected;
        self.step(LaneEvent::Arrived { loan: LoanId(self.loans), batch, expected });
    }

    /// The partition goes and comes back: it is read again from what is committed.
    fn fence(&mut self, partition: i32) -> Assignment {
        let over = self.assignment(partition);
        let read = self.committed.get(&over.partition).map_or(0, |position| position.0);
        let generation = over.generation.0 + 1;
        self.sides[partition as usize] = Side { generation, read, ..Side::default() };
        over
    }

    /// A new incarnation: what the dead one held is lent again, in no order.
    fn die(&mut self) {
        (self.machine, self.open) = (LaneMachine::new(LIMITS), None);
        self.pending.clear();
        let lent: Vec<Arc<Batch>> = self.sides.iter().flat_map(|side| side.lent.values().rev().cloned()).collect();
        lent.into_iter().for_each(|batch| self.lend(batch));
    }

    /// Performs what is pending up to an operation, and that with this luck.
    fn operate(&mut self, luck: Luck) {
        while let Some(effect) = self.pending.pop_front() {
            match effect {
                LaneEffect::Settle(held) | LaneEffect::FoundCommitted(held) => self.settle(&held),
                LaneEffect::Refuse { ticket, .. } => {
                    let mut amended = false;
                    self.machine.amend(ticket, |_| amended = true);
                    let held = self.machine.assignments().any(|held| held == ticket.assignment);
                    assert_eq!(amended, held, "what is refused waits to be published again, unless it was fenced");
                }
                LaneEffect::PositionMismatch(ticket, position) => panic!("{ticket} straddles {position}"),
                LaneEffect::WakeAt(_) => {}
                LaneEffect::Fail(_) => return self.die(),
                operation => {
                    if luck == Luck::Death(false) {
                        return self.die();
                    }
                    let event = self.answer(operation, luck);
                    return if luck == Luck::Death(true) { self.die() } else { self.step(event) };
                }
            }
        }
    }

    fn answer(&mut self, operation: LaneEffect, luck: Luck) -> LaneEvent {
        let fault = match luck {
            Luck::Void => Some(LaneFault::Void("void".into())),
            Luck::Unknown(_) => Some(LaneFault::Unknown("unknown".into())),
            _ => None,
        };
        match (&operation, &fault) {
            (LaneEffect::Commit(ends), _) => return self.commit(ends, fault, luck),
            (LaneEffect::Publish(batches), None) => {
                if let (Luck::Refused, Some(last)) = (luck, batches.last()) {
                    let (ticket, reason) = (last.ticket, "too large".to_owned());
                    return LaneEvent::Failed(LaneFault::Refused { ticket, index: 0, reason });
                }
                self.open.as_mut().expect("a transaction is open").extend(batches.iter().cloned());
            }
            (LaneEffect::ReadPositions(partitions), None) => {
                assert!(self.open.is_none());
                let read = |partition: &Partition| (*partition, self.committed.get(partition).copied());
                return LaneEvent::Positions(partitions.iter().map(read).collect());
            }
            (LaneEffect::Begin, None) => assert!(self.open.replace(Vec::new()).is_none(), "one transaction at a time"),
            // A rebuild ends what an earlier self left open.
            (LaneEffect::Abort | LaneEffect::Rebuild, _) => self.open = None,
            _ => {}
        }
        fault.map_or(LaneEvent::Done, LaneEvent::Failed)
    }

    fn commit(&mut self, ends: &[(Assignment, Position)], fault: Option<LaneFault>, luck: Luck) -> LaneEvent {
        let mut closed: Vec<Assignment> = ends.iter().map(|(over, _)| *over).collect();
        closed.retain(|over| self.assignment(over.partition.0) != *over);
        if luck == Luck::Fenced && closed.is_empty() {
            closed.push(self.fence(ends[0].0.partition.0));
        }
        if !closed.is_empty() {
            return LaneEvent::Failed(LaneFault::Fenced(closed));
        }
        if matches!(luck, Luck::Void | Luck::Unknown(false)) {
            return fault.map_or(LaneEvent::Done, LaneEvent::Failed);
        }
        let published = self.open.take().expect("a transaction is open");
        for (assignment, end) in ends {
            let mut reached = self.committed.get(&assignment.partition).map_or(0, |position| position.0);
            for batch in published.iter().filter(|batch| batch.ticket.assignment == *assignment) {
                assert_eq!(batch.first().0, reached, "{} follows what was committed", batch.ticket);
                reached = batch.end().0;
            }
            assert_eq!(reached, end.0, "the position is the end of the last batch");
            self.committed.insert(assignment.partition, *end);
        }
        let strange = published.iter().find(|batch| !ends.iter().any(|(of, _)| *of == batch.ticket.assignment));
        assert!(strange.is_none(), "published without its position: {strange:?}");
        fault.map_or(LaneEvent::Done, LaneEvent::Failed)
    }

    fn settle(&mut self, held: &[Held]) {
        for Held { batch, .. } in held {
            let Ticket { assignment, seq } = batch.ticket;
            assert!(self.committed.get(&assignment.partition).is_some_and(|position| batch.end() <= *position));
            if self.assignment(assignment.partition.0) == assignment {
                let side = &mut self.sides[assignment.partition.0 as usize];
                assert_eq!(side.expected, seq, "settled in order, once");
                side.expected = BatchSeq(seq.0 + 1);
                side.lent.remove(&seq);
            }
        }
    }

    fn look_around(&mut self, ms: u64, elsewhere: usize) {
        self.now.0 += ms;
        if self.pending.is_empty() {
            let over: Vec<Assignment> =
                self.machine.assignments().filter(|over| self.assignment(over.partition.0) != *over).collect();
            over.into_iter().for_each(|over| self.step(LaneEvent::Fenced(over)));
        }
        if self.pending.is_empty() {
            self.step(LaneEvent::Tick { elsewhere });
        }
    }
}

proptest! {
    #[test]
    fn each_batch_is_committed_once_and_in_order(ops in prop::collection::vec(op(), 1..300)) {
        let mut world = World::new();
        for op in ops {
            match op {
                Op::Arrive(partition, which) => world.arrive(partition, which),
                Op::Tick(ms, elsewhere) => world.look_around(ms, elsewhere),
                Op::Operate(luck) => world.operate(luck),
                Op::Fence(partition) => drop(world.fence(partition)),
            }
        }
        for side in 0..PARTITIONS {
            while !world.sides[side as usize].working.is_empty() {
                let batch = Arc::new(world.sides[side as usize].working.remove(0));
                world.sides[side as usize].lent.insert(batch.ticket.seq, Arc::clone(&batch));
                world.lend(batch);
            }
        }
        for _ in 0..400 {
            world.look_around(1, 0);
            world.operate(Luck::Fine);
        }
        prop_assert_eq!(world.machine.held(), 0, "everything is settled in the end: {:?}", &world.machine);
        for (partition, side) in (0..).map(Partition).zip(&world.sides) {
            prop_assert!(side.lent.is_empty());
            prop_assert_eq!(world.committed.get(&partition).map_or(0, |position| position.0), side.read);
        }
    }
}

#[test]
fn it_commits_at_once_only_when_nothing_more_is_on_its_way() {
    for (elsewhere, at_once) in [(0, true), (1, false)] {
        let mut world = World::new();
        world.look_around(0, 1);
        (0..2).for_each(|_| world.operate(Luck::Fine));
        world.arrive(0, 0);
        (0..2).for_each(|_| world.operate(Luck::Fine));
        world.operate(Luck::Fine);
        world.look_around(0, elsewhere);
        let commits = world.pending.iter().any(|effect| matches!(effect, LaneEffect::Commit(_)));
        assert_eq!(commits, at_once, "{elsewhere} elsewhere: {:?}", world.pending);
    }
}
