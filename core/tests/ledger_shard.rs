//! The ledger shard against a naive model that keeps everything: random histories of claims, commits, aborts and
//! deaths, with caches that lose their tail, their head, all of it, or fail.

mod ledger_world;

use bulkhead_core::ids::{Position, SegmentSeq};
use bulkhead_core::ledger::{Effect, PositionCheck, StopReason};
use ledger_world::{Harm, Op, Want, World};
use proptest::prelude::*;

fn wants() -> impl Strategy<Value = Vec<Want>> {
    let round = prop_oneof![6 => Just(0u32), 2 => Just(1), 1 => Just(2)];
    prop::collection::vec((0u8..12, 0u8..2, round).prop_map(|(key, payload, round)| Want { key, payload, round }), 1..6)
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        4 => Just(Harm::None),
        3 => (1usize..5).prop_map(Harm::LoseTail),
        1 => (1usize..5).prop_map(Harm::LoseHead),
        1 => Just(Harm::LoseAll),
        1 => (0usize..4).prop_map(Harm::LoseOne),
        1 => (0usize..4).prop_map(Harm::FailAfter),
        1 => Just(Harm::OtherHistory),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let outcomes = || prop::collection::vec(0u8..4, 1..8);
    prop_oneof![
        6 => (wants(), 0i64..400).prop_map(|(wants, later_ms)| Op::Claim { wants, later_ms }),
        5 => (1usize..4, outcomes(), any::<bool>(), any::<bool>())
            .prop_map(|(batches, outcomes, split, told)| Op::Commit { batches, outcomes, split, told }),
        2 => harm().prop_map(|harm| Op::Restart { harm }),
        2 => harm().prop_map(|harm| Op::Reassign { harm }),
        1 => Just(Op::DropNewest),
        1 => Just(Op::CacheFails),
        1 => (1_000i64..20_000).prop_map(|ms| Op::Pass { ms }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn it_answers_as_one_that_keeps_everything(ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::new(PositionCheck::Exact);
        for op in ops {
            world.perform(op);
        }
        world.finish();
    }
}

#[test]
fn a_first_assignment_begins_at_nothing() {
    let mut world = World::new(PositionCheck::Exact);
    world.perform(Op::Claim { wants: vec![Want { key: 1, payload: 0, round: 0 }; 2], later_ms: 0 });
    world.perform(Op::Commit { batches: 1, outcomes: vec![0], split: false, told: true });
    world.perform(Op::Reassign { harm: Harm::LoseAll });
    world.perform(Op::Claim { wants: vec![Want { key: 1, payload: 0, round: 0 }], later_ms: 0 });
    world.finish();
    assert_eq!(world.answered, 3);
    assert_eq!(world.fresh, 1);
}

/// The committed position was moved by somebody: the shard waits, then stops and says both.
#[test]
fn a_position_that_stays_wrong_stops_the_partition() {
    for (moved, check, stops) in [
        (Some(Position(1)), PositionCheck::Exact, true),
        (Some(Position(99)), PositionCheck::Exact, true),
        (None, PositionCheck::Exact, true),
        (Some(Position(1)), PositionCheck::AtLeast, false),
        (None, PositionCheck::AtLeast, false),
        (Some(Position(99)), PositionCheck::AtLeast, true),
    ] {
        let mut world = World::new(check);
        let wants = (0..4).map(|key| Want { key, payload: 0, round: 0 }).collect();
        world.perform(Op::Claim { wants, later_ms: 0 });
        world.perform(Op::Commit { batches: 1, outcomes: vec![0], split: false, told: true });
        world.committed = moved;
        world.perform(Op::Reassign { harm: Harm::None });
        let stop = StopReason::Disagree { committed: moved, recorded: Position(4) };
        assert_eq!(world.stopped, stops.then_some(stop), "{moved:?} {check:?}");
        assert_eq!(world.passes > 100, stops, "it waits for the whole timeout, and no longer: {}", world.passes);
    }
}

/// An in-flight commit becomes visible in two steps; the shard waits for the second.
#[test]
fn a_position_that_comes_right_in_time_is_waited_for() {
    let mut world = World::new(PositionCheck::Exact);
    world.perform(Op::Claim { wants: vec![Want { key: 1, payload: 0, round: 0 }], later_ms: 0 });
    world.perform(Op::Commit { batches: 1, outcomes: vec![0], split: false, told: true });
    let right = world.committed.take();
    world.committed_after = Some((20, right));
    world.perform(Op::Reassign { harm: Harm::None });
    assert_eq!(world.stopped, None);
    assert!(world.passes >= 20);
    world.finish();
}

/// A redrive may overtake the news of the commit that it answers.
#[test]
fn a_higher_round_waits_for_the_one_before() {
    let once = |round| vec![Want { key: 1, payload: 0, round }];
    for (became, fresh) in [(3, 2), (0, 1)] {
        let mut world = World::new(PositionCheck::Exact);
        world.perform(Op::Claim { wants: once(0), later_ms: 0 });
        world.perform(Op::Claim { wants: once(1), later_ms: 0 });
        assert_eq!(world.answered, 1, "the second waits");
        world.perform(Op::Commit { batches: 1, outcomes: vec![became], split: false, told: true });
        assert_eq!((world.answered, world.fresh), (2, fresh), "a rejected one may come again, an emitted one not");
        world.finish();
    }
}

#[test]
fn a_commit_that_was_not_told_is_read_from_the_changelog() {
    let mut world = World::new(PositionCheck::Exact);
    for key in 0..3 {
        world.perform(Op::Claim { wants: vec![Want { key, payload: 0, round: 0 }], later_ms: 0 });
        world.perform(Op::Commit { batches: 1, outcomes: vec![0], split: false, told: key != 1 });
    }
    assert_eq!(world.head_next(), SegmentSeq(3));
    world.finish();
    assert!(world.effects.iter().any(|effect| matches!(effect, Effect::Ready { .. })));
}
