//! Tests of the auditor: a good history passes, and whatever is done to its evidence is found.

use super::*;
use crate::batch::KeyHash;
use crate::ids::Round;
use proptest::prelude::*;
use proptest::sample::Index;

const PARTITIONS: i32 = 3;

fn claim(key: u128, fingerprint: u64, round: u32) -> Option<Claim> {
    Some(Claim { key: KeyHash(key), fingerprint, round: Round(round) })
}

fn sent(offset: i64, id: u32) -> Sent<u32> {
    Sent { partition: Partition(0), offset: Offset(offset), id, claim: None, outputs: 1 }
}

fn seen(id: u32, kind: Kind) -> Visible<u32> {
    let topic = if kind == Kind::Output { "out" } else { "dlq" };
    Visible { topic: topic.into(), partition: Partition(0), id, kind }
}

fn entry(offset: i64, recorded: Recorded) -> Entry {
    Entry { partition: Partition(0), offset: Offset(offset), recorded }
}

/// One partition whose records are all done.
fn audit_one(source: Vec<Sent<u32>>, visible: Vec<Visible<u32>>, ledger: Option<Vec<Entry>>) -> Vec<Violation<u32>> {
    let end = Position(source.iter().map(|s| s.offset.0 + 1).max().unwrap_or(0));
    let ends = BTreeMap::from([(Partition(0), end)]);
    let evidence = Evidence { visible, ledger, positions: ends.clone() };
    audit(&History { source, ends }, &evidence, Delivery::ExactlyOnce)
}

#[test]
fn a_dead_letter_is_an_outcome_and_a_drop_needs_none() {
    let source = vec![sent(0, 10), sent(1, 11), Sent { outputs: 0, ..sent(2, 12) }, Sent { outputs: 3, ..sent(3, 13) }];
    let mut visible = vec![seen(10, Kind::Output), seen(11, Kind::DeadLetter)];
    visible.extend([13, 13, 13].map(|id| seen(id, Kind::Output)));
    assert_eq!(audit_one(source.clone(), visible.clone(), None), []);
    visible.pop();
    let lost = Violation::Lost { id: 13, partition: Partition(0), offset: Offset(3), expected: 3, seen: 2 };
    assert_eq!(audit_one(source, visible, None), [lost]);
}

#[test]
fn a_dead_letter_that_was_sent_back_may_be_emitted_once() {
    let first = Sent { claim: claim(1, 7, 0), ..sent(0, 10) };
    let again = Sent { claim: claim(1, 7, 1), ..sent(1, 10) };
    let visible = vec![seen(10, Kind::DeadLetter), seen(10, Kind::Output)];
    let ledger = vec![entry(0, Recorded::Rejected), entry(1, Recorded::Emitted(1))];
    assert_eq!(audit_one(vec![first.clone(), again.clone()], visible.clone(), Some(ledger.clone())), []);
    let same_round = Sent { claim: claim(1, 7, 0), ..again };
    let twice = Violation::KeyTwice { partition: Partition(0), first: Offset(0), second: Offset(1) };
    assert_eq!(audit_one(vec![first, same_round], visible, Some(ledger)), [twice]);
}

#[test]
fn an_entry_that_cannot_be_true_is_found() {
    let source = vec![
        Sent { claim: claim(1, 7, 0), ..sent(0, 10) },
        Sent { claim: claim(1, 8, 0), ..sent(1, 11) },
        Sent { claim: claim(2, 7, 0), ..sent(2, 12) },
    ];
    let found = |offset: usize, recorded: Recorded| {
        let mut ledger = vec![
            entry(0, Recorded::Emitted(1)),
            entry(1, Recorded::Conflict(Offset(0))),
            entry(2, Recorded::Emitted(1)),
        ];
        ledger[offset].recorded = recorded;
        let violations = audit_one(source.clone(), Vec::new(), Some(ledger)).into_iter();
        let found = violations.filter_map(|v| match v {
            Violation::Disagreement { found, .. } => Some(found),
            _ => None,
        });
        found.collect::<Vec<_>>()
    };
    assert_eq!(found(1, Recorded::Conflict(Offset(0))), [""; 0]);
    assert_eq!(found(1, Recorded::Duplicate(Offset(0))), ["the two have different payloads"]);
    assert_eq!(found(2, Recorded::Duplicate(Offset(0))), ["the two have different keys"]);
    assert_eq!(found(2, Recorded::Duplicate(Offset(2))), ["it is not later than that record"]);
    assert_eq!(found(2, Recorded::Duplicate(Offset(9))), ["there is no such record"]);
    assert_eq!(found(2, Recorded::Emitted(2)), ["it makes 1 outputs"]);
}

#[test]
fn at_least_once_allows_a_replay_and_nothing_else() {
    let source: Vec<_> = (0..4).map(|n| sent(n, n as u32)).collect();
    let ends = BTreeMap::from([(Partition(0), Position(4))]);
    let check = |ids: &[u32], delivery| {
        let visible = ids.iter().map(|id| seen(*id, Kind::Output)).collect();
        let evidence = Evidence { visible, ledger: None, positions: ends.clone() };
        audit(&History { source: source.clone(), ends: ends.clone() }, &evidence, delivery)
    };
    assert_eq!(check(&[0, 1, 2, 1, 2, 3], Delivery::AtLeastOnce), []);
    assert!(!check(&[0, 1, 2, 1, 2, 3], Delivery::ExactlyOnce).is_empty());
    assert!(!check(&[0, 2, 1, 3], Delivery::AtLeastOnce).is_empty());
    assert!(!check(&[0, 1, 2], Delivery::AtLeastOnce).is_empty());
}

#[test]
fn a_marker_behind_the_last_record_may_be_committed_or_not() {
    let source = vec![sent(0, 0)];
    let check = |position: Option<i64>| {
        let positions = position.map(|p| (Partition(0), Position(p))).into_iter().collect();
        let evidence = Evidence { visible: vec![seen(0, Kind::Output)], ledger: None, positions };
        let history = History { source: source.clone(), ends: BTreeMap::from([(Partition(0), Position(2))]) };
        audit(&history, &evidence, Delivery::ExactlyOnce).len()
    };
    assert_eq!([None, Some(0), Some(1), Some(2), Some(3)].map(check), [1, 1, 0, 0, 1]);
}

#[test]
fn what_a_reader_saw_stays() {
    let after: Vec<_> = (0..4).map(|id| seen(id, Kind::Output)).collect();
    assert_eq!(not_a_prefix(&after[..2], &after), []);
    let aborted = [seen(0, Kind::Output), seen(9, Kind::Output)];
    assert_eq!(not_a_prefix(&aborted, &after), [("out".into(), Partition(0), 1)]);
}

/// What became of a generated record; a key that was used before makes it a duplicate or a conflict.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Emit(u32),
    Drop,
    Reject,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![4 => (1..4_u32).prop_map(Fate::Emit), 1 => Just(Fate::Drop), 1 => Just(Fate::Reject)]
}

/// A history that keeps every promise: partition, key, payload and fate of each record, in source order.
fn good(records: &[(i32, u128, u64, Fate)]) -> (History<u32>, Evidence<u32>) {
    let (mut source, mut visible, mut ledger) = (Vec::new(), Vec::new(), Vec::new());
    let mut next = BTreeMap::new();
    let mut keys: BTreeMap<(i32, u128), (Offset, u64)> = BTreeMap::new();
    for (id, &(partition, key, fingerprint, fate)) in records.iter().enumerate() {
        let id = id as u32;
        let end = next.entry(Partition(partition)).or_insert(Position(0));
        let offset = Offset(end.0);
        *end = offset.next();
        let recorded = match (keys.get(&(partition, key)), fate) {
            (Some((of, same)), _) if *same == fingerprint => Recorded::Duplicate(*of),
            (Some((of, _)), _) => Recorded::Conflict(*of),
            (None, Fate::Emit(n)) => Recorded::Emitted(n),
            (None, Fate::Drop) => Recorded::Dropped,
            (None, Fate::Reject) => Recorded::Rejected,
        };
        keys.entry((partition, key)).or_insert((offset, fingerprint));
        let made = if let Fate::Emit(n) = fate { n } else { 0 };
        let partition = Partition(partition);
        source.push(Sent { partition, offset, id, claim: claim(key, fingerprint, 0), outputs: made });
        ledger.push(Entry { partition, offset, recorded });
        let kind = if outputs(&recorded) > 0 { Kind::Output } else { Kind::DeadLetter };
        for _ in 0..outputs(&recorded) + dead_letters(&recorded) {
            visible.push(Visible { partition, ..seen(id, kind) });
        }
    }
    (History { source, ends: next.clone() }, Evidence { visible, ledger: Some(ledger), positions: next })
}

fn records() -> impl Strategy<Value = Vec<(i32, u128, u64, Fate)>> {
    prop::collection::vec((0..PARTITIONS, 0..30_u128, 0..2_u64, fate()), 1..60)
}

fn violations(history: &History<u32>, evidence: &Evidence<u32>) -> Vec<Violation<u32>> {
    audit(history, evidence, Delivery::ExactlyOnce)
}

proptest! {
    #[test]
    fn a_good_history_passes(records in records()) {
        let (history, evidence) = good(&records);
        prop_assert_eq!(violations(&history, &evidence), []);
    }

    #[test]
    fn a_lost_or_doubled_outcome_is_found(records in records(), which: Index, lost: bool) {
        let (history, mut evidence) = good(&records);
        prop_assume!(!evidence.visible.is_empty());
        let at = which.index(evidence.visible.len());
        let id = evidence.visible[at].id;
        if lost {
            evidence.visible.remove(at);
        } else {
            evidence.visible.insert(at, evidence.visible[at].clone());
        }
        let found = violations(&history, &evidence);
        let right = |v: &Violation<u32>| match v {
            Violation::Lost { id: named, .. } => lost && *named == id,
            Violation::Doubled { id: named, .. } => !lost && *named == id,
            _ => false,
        };
        prop_assert!(found.len() == 1 && right(&found[0]), "{:?}", found);
    }

    #[test]
    fn two_outcomes_of_one_partition_in_the_wrong_order_are_found(records in records(), a: Index, b: Index) {
        let (history, mut evidence) = good(&records);
        let visible = &evidence.visible;
        // Any outcome, and one of another record that it shares its topic-partition with.
        let others = |a: usize| {
            let same = |b: &usize| {
                let (a, b) = (&visible[a], &visible[*b]);
                a.id != b.id && a.topic == b.topic && a.partition == b.partition
            };
            (0..visible.len()).filter(same).collect::<Vec<_>>()
        };
        let candidates: Vec<_> = (0..visible.len()).filter(|a| !others(*a).is_empty()).collect();
        prop_assume!(!candidates.is_empty());
        let a = candidates[a.index(candidates.len())];
        let others = others(a);
        evidence.visible.swap(a, others[b.index(others.len())]);
        let found = violations(&history, &evidence);
        let all_order = found.iter().all(|v| matches!(v, Violation::OutOfOrder { .. }));
        prop_assert!(!found.is_empty() && all_order, "{:?}", found);
    }

    #[test]
    fn a_stranger_is_found(records in records(), at: Index) {
        let (history, mut evidence) = good(&records);
        let at = at.index(evidence.visible.len() + 1);
        evidence.visible.insert(at, seen(1_000, Kind::Output));
        let found = violations(&history, &evidence);
        prop_assert!(matches!(found[..], [Violation::Spurious { id: 1_000, .. }]), "{:?}", found);
    }

    #[test]
    fn a_missing_or_second_entry_is_found(records in records(), which: Index, missing: bool) {
        let (history, mut evidence) = good(&records);
        let ledger = evidence.ledger.as_mut().expect("the good history has a ledger");
        let at = which.index(ledger.len());
        let entry = if missing { ledger.remove(at) } else { ledger[at] };
        if !missing {
            ledger.push(entry);
        }
        let found = violations(&history, &evidence);
        let named = |v: &Violation<u32>| match v {
            Violation::Unrecorded { offset, .. } => missing && *offset == entry.offset,
            Violation::Overrecorded { offset, entries, .. } => !missing && *offset == entry.offset && *entries == 2,
            _ => false,
        };
        prop_assert!(found.iter().any(named), "{:?}", found);
    }

    #[test]
    fn an_entry_that_says_something_else_is_found(records in records(), which: Index, other: Index) {
        let (history, mut evidence) = good(&records);
        let ledger = evidence.ledger.as_mut().expect("the good history has a ledger");
        let at = which.index(ledger.len());
        let offset = ledger[at].offset;
        let lies = [Recorded::Emitted(9), Recorded::Dropped, Recorded::Rejected, Recorded::Duplicate(offset)];
        let lies: Vec<_> = lies.into_iter().filter(|lie| *lie != ledger[at].recorded).collect();
        ledger[at].recorded = lies[other.index(lies.len())];
        prop_assert!(!violations(&history, &evidence).is_empty());
    }

    #[test]
    fn a_position_before_or_behind_the_end_is_found(records in records(), which: Index, ahead: bool) {
        let (history, mut evidence) = good(&records);
        let at = which.index(evidence.positions.len());
        let partition = *evidence.positions.keys().nth(at).expect("an index in range");
        let position = evidence.positions.get_mut(&partition).expect("it was just found");
        position.0 += if ahead { 1 } else { -1 };
        let found = violations(&history, &evidence);
        prop_assert!(matches!(found[..], [Violation::Position { partition: p, .. }] if p == partition), "{:?}", found);
    }
}
