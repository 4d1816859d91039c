//! A trial: what a stage knows of one batch over all attempts at it.

use bulkhead_core::batch::Outcome;
use bulkhead_core::fault::Fault;
use bulkhead_core::retry::RetryPolicy;
use bulkhead_core::time::Now;
use bulkhead_core::trial::{Crash, Mode, Patience, Trial};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

fn patience(crashes_max: u32, attempts_max: Option<u32>) -> Patience {
    let retry = RetryPolicy { attempts_max, ..RetryPolicy::default() };
    Patience { stage: "stage".into(), crashes_max, retry }
}

fn dropped(why: &str) -> Outcome {
    Outcome::Dropped(why.into())
}

fn code(outcome: &Outcome) -> &str {
    if let Outcome::Rejected(why) = outcome { &why.fault.code } else { "no rejection" }
}

#[test]
fn a_batch_is_tried_whole_until_something_goes_wrong() {
    let mut trial = Trial::default();
    assert_eq!(trial.mode(), Mode::Whole);
    assert_eq!(trial.crashed(&patience(3, None), 1, "panic"), Crash::Unnamed);
    assert_eq!(trial.mode(), Mode::Single);
    let mut failed = Trial::default();
    failed.failed(&patience(3, None), &[0], &Fault::transient("away", ""), 1, 0, Now(0));
    assert_eq!(failed.mode(), Mode::Single);
}

#[test]
fn a_record_named_often_enough_is_poison() {
    let mut trial = Trial::default();
    trial.crashed(&patience(2, None), 1, "panic");
    trial.begin(4);
    assert_eq!(trial.crashed(&patience(2, None), 2, "panic"), Crash::Named { index: 4, poison: false });
    trial.begin(4);
    assert_eq!(trial.crashed(&patience(2, None), 3, "panic"), Crash::Named { index: 4, poison: true });
    assert_eq!(trial.attempts(4), 2);
    assert_eq!(code(&trial.into_verdicts()[&4]), "crashed_worker");
}

#[test]
fn a_transient_fault_is_only_the_named_records() {
    let (patience, fault) = (patience(3, Some(2)), Fault::transient("away", "try later"));
    let mut trial = Trial::default();
    for _ in 0..2 {
        trial.begin(1);
        trial.failed(&patience, &[0, 1, 2], &fault, 1, u32::MAX, Now(0));
    }
    let rejected: Vec<u32> = trial.into_verdicts().into_keys().collect();
    assert_eq!(rejected, [1], "the patience with it is spent, the others were not at fault");
}

#[test]
fn without_a_name_all_that_is_left_failed_and_the_longest_wait_counts() {
    let (patience, fault) = (patience(3, None), Fault::transient("away", "try later"));
    let mut trial = Trial::default();
    trial.begin(2);
    trial.failed(&patience, &[0, 1, 2], &fault, 1, u32::MAX, Now(0));
    let wait = trial.failed(&patience, &[0, 1, 2], &fault, 1, u32::MAX, Now(0));
    assert_eq!(wait, Duration::from_millis(500), "record 2 failed twice");
    assert_eq!([0, 1, 2].map(|index| trial.attempts(index)), [1, 1, 2]);
}

#[derive(Clone, Debug)]
enum Op {
    Begin(u32),
    Give(u32),
    Crash,
    Fail,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u32..4).prop_map(Op::Begin),
        2 => (0u32..4).prop_map(Op::Give),
        2 => Just(Op::Crash),
        1 => Just(Op::Fail),
    ]
}

proptest! {
    /// A verdict stays, the first one counts, and only records that were named often enough are poison.
    #[test]
    fn it_never_forgets_a_verdict(ops in prop::collection::vec(op(), 1..60), crashes_max in 1u32..4) {
        let patience = patience(crashes_max, None);
        let outcomes = vec![Outcome::Pending, dropped("before"), Outcome::Pending, Outcome::Pending];
        let (mut trial, mut given, mut crashes) = (Trial::default(), BTreeMap::new(), BTreeMap::new());
        let mut at = None;
        for (n, op) in ops.into_iter().enumerate() {
            match op {
                Op::Begin(index) => {
                    trial.begin(index);
                    at = Some(index);
                }
                Op::Give(index) => {
                    trial.give(index, dropped(&n.to_string()));
                    given.entry(index).or_insert(n.to_string());
                    at = None;
                }
                Op::Crash => match (trial.crashed(&patience, 1, "panic"), at.take()) {
                    (Crash::Unnamed, None) => {}
                    (Crash::Named { index, poison }, Some(named)) => {
                        let count = crashes.entry(named).or_insert(0u32);
                        *count += 1;
                        prop_assert_eq!((index, poison), (named, *count >= crashes_max));
                        if poison {
                            given.entry(named).or_insert("crashed_worker".to_owned());
                        }
                    }
                    (crash, named) => prop_assert!(false, "{crash:?}, at {named:?}"),
                },
                Op::Fail => {
                    let todo = trial.todo(&outcomes);
                    trial.failed(&patience, &todo, &Fault::transient("away", ""), 1, 0, Now(n as u64));
                    at = None;
                }
            }
            let todo: Vec<u32> = [0, 2, 3].into_iter().filter(|index| !given.contains_key(index)).collect();
            prop_assert_eq!(trial.todo(&outcomes), todo, "what was ended before is nobody's to do");
        }
        let verdicts = trial.into_verdicts().into_iter().map(|(index, outcome)| (index, match &outcome {
            Outcome::Dropped(why) => why.clone(),
            other => code(other).to_owned(),
        }));
        prop_assert_eq!(verdicts.collect::<BTreeMap<_, _>>(), given);
    }
}
