//! The wired machines, driven from a seed: two daemons on one log lose actors, processes, partitions and answers between
//! any two effects, then heal; P1 to P4 must hold. Never reads a clock, and a seed alone reproduces a run.
//!
//! `BULKHEAD_SIM_SEEDS=10000 cargo test -p bulkhead-core --test simulation` runs more of them,
//! `BULKHEAD_SIM_SEED=42 cargo test -p bulkhead-core --test simulation every_promise` runs one.

mod broker;
mod coverage;
mod ctx;
mod daemon;
mod dlq;
mod group;
mod lane;
mod ledger_slot;
mod partition;
mod rng;
mod sends;
mod shard;
mod slots;
mod source;
mod source_log;
mod verdict;
mod worker;
mod world;

use bulkhead_core::audit::Delivery;
use ctx::Mutant;
use std::collections::BTreeMap;
use std::panic::catch_unwind;
use world::run;

const SEEDS: u64 = 600;
/// A mutant must be found within so many seeds.
const MUTANT_SEEDS: u64 = 1_000;

fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

/// What was found wrong; a machine's own sentinel that panicked counts.
fn broken(seed: u64, delivery: Delivery, mutant: Mutant) -> Result<world::Run, String> {
    let run = catch_unwind(|| run(seed, delivery, mutant)).map_err(|_| "a machine panicked, see above".to_owned())?;
    if run.broken.is_empty() { Ok(run) } else { Err(run.broken.join("\n  ")) }
}

/// Runs all seeds; `test` is the name to run one of them again by, `must_see` what they must meet together.
fn hold(test: &str, delivery: Delivery, must_see: &[&[&str]]) {
    let seeds = match from_env("BULKHEAD_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_env("BULKHEAD_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let mut seen: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (mut turns, mut failed) = (0, Vec::new());
    for seed in seeds.clone() {
        match broken(seed, delivery, Mutant::None) {
            Ok(run) => {
                turns += run.turns;
                run.seen.into_iter().for_each(|(what, times)| *seen.entry(what).or_default() += times);
            }
            Err(why) => failed.push(format!(
                "seed {seed}: {why}\n  run again: BULKHEAD_SIM_SEED={seed} cargo test -p bulkhead-core --test simulation {test}"
            )),
        }
    }
    let count = seeds.end - seeds.start;
    println!("{count} seeds, {turns} turns\n{seen:#?}");
    let few: Vec<&str> = failed.iter().take(5).map(String::as_str).collect();
    assert!(failed.is_empty(), "{} of {count} seeds failed:\n{}", failed.len(), few.join("\n"));
    let unseen: Vec<_> = must_see.iter().copied().flatten().filter(|what| !seen.contains_key(*what)).collect();
    assert!(count < SEEDS || unseen.is_empty(), "never met in {count} seeds: {unseen:?}");
}

#[test]
fn every_promise_holds_over_crashes_at_every_effect() {
    hold("every_promise", Delivery::ExactlyOnce, &[coverage::ALWAYS, coverage::EXACTLY_ONCE]);
}

/// P2 for every outcome whose attempt came to its end; see the verdict.
#[test]
fn at_least_once_gives_up_nothing_but_what_it_says() {
    hold("at_least_once", Delivery::AtLeastOnce, &[coverage::ALWAYS, coverage::AT_LEAST_ONCE]);
}

/// How many seeds it takes until the verdict finds the mutant.
fn found_after(mutant: Mutant) -> u64 {
    found_in(Delivery::ExactlyOnce, mutant)
}

fn found_in(delivery: Delivery, mutant: Mutant) -> u64 {
    (0..MUTANT_SEEDS)
        .find(|seed| broken(*seed, delivery, mutant).is_err())
        .map(|seed| seed + 1)
        .unwrap_or_else(|| panic!("{mutant:?} was not found within {MUTANT_SEEDS} seeds"))
}

#[test]
fn a_gate_that_lets_all_through_is_found() {
    println!("after {} seeds", found_after(Mutant::OpenGate));
}

#[test]
fn a_fence_that_does_not_wait_is_found() {
    println!("after {} seeds", found_after(Mutant::HastyFence));
}

#[test]
fn a_commit_that_does_not_look_at_its_gate_again_is_found() {
    println!("after {} seeds", found_after(Mutant::OneLook));
}

#[test]
fn a_gate_taken_from_a_lane_that_was_not_fenced_is_found() {
    println!("after {} seeds", found_after(Mutant::UnfencedSuccessor));
}

#[test]
fn settling_before_the_commit_is_found() {
    println!("after {} seeds", found_after(Mutant::EarlySettle));
}

#[test]
fn replaying_blindly_after_an_unknown_outcome_is_found() {
    println!("after {} seeds", found_after(Mutant::BlindReplay));
}

#[test]
fn claims_forgotten_with_their_shard_are_found() {
    println!("after {} seeds", found_after(Mutant::ForgottenClaims));
}

#[test]
fn verdicts_forgotten_with_their_worker_are_found() {
    println!("after {} seeds", found_after(Mutant::ForgottenVerdicts));
}

#[test]
fn a_lane_that_begins_anywhere_is_found() {
    println!("after {} seeds", found_after(Mutant::ForgottenOrder));
}

#[test]
fn a_callback_forgotten_with_its_source_is_found() {
    println!("after {} seeds", found_after(Mutant::ForgottenCallback));
}

#[test]
fn expiry_by_each_owners_own_clock_is_found() {
    println!("after {} seeds", found_after(Mutant::OwnClock));
}

#[test]
fn a_dead_letter_left_out_because_it_is_refused_is_found() {
    println!("after {} seeds", found_after(Mutant::DroppedLetter));
}

#[test]
fn positions_committed_before_outputs_are_acknowledged_are_found() {
    println!("after {} seeds", found_in(Delivery::AtLeastOnce, Mutant::PositionsFirst));
}

#[test]
fn positions_committed_before_segments_are_acknowledged_are_found() {
    println!("after {} seeds", found_in(Delivery::AtLeastOnce, Mutant::PositionsBeforeRecords));
}

#[test]
fn segments_sent_before_outputs_are_acknowledged_are_found() {
    println!("after {} seeds", found_in(Delivery::AtLeastOnce, Mutant::RecordsFirst));
}

#[test]
fn replaying_what_was_committed_is_found_at_least_once_too() {
    println!("after {} seeds", found_in(Delivery::AtLeastOnce, Mutant::BlindReplay));
}
