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
mod shard;
mod slots;
mod source;
mod source_log;
mod verdict;
mod worker;
mod world;

use coverage::MUST_SEE;
use ctx::Mutant;
use std::collections::BTreeMap;
use std::panic::catch_unwind;
use world::run;

const SEEDS: u64 = 300;
/// A mutant must be found within so many seeds.
const MUTANT_SEEDS: u64 = 1_000;

fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

/// What was found wrong; a machine's own sentinel that panicked counts.
fn broken(seed: u64, mutant: Mutant) -> Result<world::Run, String> {
    let run = catch_unwind(|| run(seed, mutant)).map_err(|_| "a machine panicked, see above".to_owned())?;
    if run.broken.is_empty() { Ok(run) } else { Err(run.broken.join("\n  ")) }
}

#[test]
fn every_promise_holds_over_crashes_at_every_effect() {
    let seeds = match from_env("BULKHEAD_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_env("BULKHEAD_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let mut seen: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (mut turns, mut failed) = (0, Vec::new());
    for seed in seeds.clone() {
        match broken(seed, Mutant::None) {
            Ok(run) => {
                turns += run.turns;
                run.seen.into_iter().for_each(|(what, times)| *seen.entry(what).or_default() += times);
            }
            Err(why) => failed.push(format!(
                "seed {seed}: {why}\n  run again: BULKHEAD_SIM_SEED={seed} cargo test -p bulkhead-core --test simulation every_promise"
            )),
        }
    }
    let count = seeds.end - seeds.start;
    println!("{count} seeds, {turns} turns\n{seen:#?}");
    let few: Vec<&str> = failed.iter().take(5).map(String::as_str).collect();
    assert!(failed.is_empty(), "{} of {count} seeds failed:\n{}", failed.len(), few.join("\n"));
    let unseen: Vec<_> = MUST_SEE.iter().filter(|what| !seen.contains_key(*what)).collect();
    assert!(count < SEEDS || unseen.is_empty(), "never met in {count} seeds: {unseen:?}");
}

/// How many seeds it takes until the verdict finds the mutant.
fn found_after(mutant: Mutant) -> u64 {
    (0..MUTANT_SEEDS)
        .find(|seed| broken(*seed, mutant).is_err())
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
fn a_held_gate_that_is_taken_for_a_closed_one_is_found() {
    println!("after {} seeds", found_after(Mutant::HeldIsClosed));
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
