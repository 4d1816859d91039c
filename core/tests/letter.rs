//! Dead letters: the source stays as it was, why it ended stands beside it, and every letter fits.

use bulkhead_core::batch::{Batch, Outcome, Rejection};
use bulkhead_core::dlq::{Dlq, Effect, Event};
use bulkhead_core::fault::Fault;
use bulkhead_core::ids::{Assignment, BatchSeq, Generation, Offset, Partition, Ticket};
use bulkhead_core::letter::{
    LETTER_BYTES_MIN, LetterSpec, TRUNCATED_HEADER, TRUNCATED_HEADERS_HEADER, TRUNCATED_KEY_HEADER, fit, is_parked,
    letter,
};
use bulkhead_core::limit::StopAbove;
use bulkhead_core::machine::Machine;
use bulkhead_core::record::{Header, ROUND_HEADER, Record, SourceRecord};
use bulkhead_core::time::{Now, WallMs};
use bytes::Bytes;
use proptest::prelude::*;
use std::time::Duration;

fn spec(bytes_max: usize) -> LetterSpec {
    LetterSpec {
        topic: "orders".into(),
        group: "order-processor".into(),
        pipeline: "orders".into(),
        bytes_max,
        message_bytes_max: 64,
        rounds_max: 3,
    }
}

fn why(message: &str) -> Rejection {
    Rejection {
        stage: "check".into(),
        step: Some("validate".into()),
        fault: Fault::poison("schema_mismatch", message),
        attempts: 2,
        incarnation: 7,
    }
}

fn source(headers: Vec<Header>) -> SourceRecord {
    let record =
        Record { key: Some("k".into()), value: Some("payload".into()), headers, timestamp: WallMs(1_700_000_000_000) };
    SourceRecord { offset: Offset(42), record }
}

fn make(source: &SourceRecord, at: i64) -> Record {
    letter(&spec(1 << 20), Partition(3), source, &why("no field `id`"), WallMs(at))
}

fn error(letter: &Record, name: &str) -> Option<String> {
    let value = letter.header(&format!("__bulkhead.errors.{name}"))?;
    Some(String::from_utf8(value.to_vec()).expect("UTF-8"))
}

#[test]
fn a_letter_is_the_source_and_why_it_ended() {
    let mine = vec![Header::new("a", "1"), Header::new("trace", "x"), Header::new("a", "2")];
    let letter = make(&source(mine.clone()), 1_800_000_000_000);
    assert_eq!(letter.key, Some("k".into()));
    assert_eq!(letter.value, Some("payload".into()));
    assert_eq!(letter.headers[..3], mine, "headers of the source come first, untouched");
    assert_eq!(letter.timestamp, WallMs(1_800_000_000_000), "retention counts from the failure");
    let errors: Vec<(String, String)> = letter.headers[3..]
        .iter()
        .map(|h| (String::from_utf8_lossy(&h.name).into_owned(), String::from_utf8_lossy(&h.value).into_owned()))
        .map(|(name, value)| (name.trim_start_matches("__bulkhead.errors.").to_owned(), value))
        .collect();
    let expected = [
        ("topic", "orders"),
        ("partition", "3"),
        ("offset", "42"),
        ("timestamp", "1700000000000"),
        ("group", "order-processor"),
        ("pipeline", "orders"),
        ("stage", "check"),
        ("step", "validate"),
        ("class", "poison"),
        ("code", "schema_mismatch"),
        ("message", "no field `id`"),
        ("attempts", "2"),
        ("first.failure.ts", "1800000000000"),
        ("last.failure.ts", "1800000000000"),
        ("incarnation", "7"),
        ("redrive.count", "0"),
    ];
    assert_eq!(errors, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn failing_again_replaces_all_but_the_first_failure() {
    let mut first = make(&source(vec![Header::new("a", "1")]), 1_000);
    first.headers.push(Header::new(ROUND_HEADER, "1"));
    let second = make(&SourceRecord { offset: Offset(90), record: first }, 2_000);
    assert_eq!(error(&second, "first.failure.ts").as_deref(), Some("1000"));
    assert_eq!(error(&second, "last.failure.ts").as_deref(), Some("2000"));
    assert_eq!(error(&second, "offset").as_deref(), Some("90"));
    assert_eq!(error(&second, "redrive.count").as_deref(), Some("1"));
    let ours = second.headers.iter().filter(|header| header.name.starts_with(b"__bulkhead.errors."));
    assert_eq!(ours.count(), 16, "each once");
    assert_eq!(second.header("a"), Some(&"1".into()));
}

#[test]
fn the_last_round_is_parked() {
    for (round, parked) in [("0", false), ("2", false), ("3", true), ("9", true)] {
        let letter = make(&source(vec![Header::new(ROUND_HEADER, round)]), 1);
        assert_eq!(is_parked(&letter), parked, "round {round}");
    }
}

#[test]
fn a_message_is_cut_between_characters() {
    let message = "é".repeat(100);
    let letter = letter(&spec(1 << 20), Partition(0), &source(Vec::new()), &why(&message), WallMs(1));
    assert_eq!(error(&letter, "message"), Some("é".repeat(32)));
}

#[test]
fn a_tombstone_stays_one() {
    let mut tombstone = source(Vec::new());
    tombstone.record.value = None;
    assert_eq!(make(&tombstone, 1).value, None);
}

#[test]
fn a_value_that_does_not_fit_is_cut_and_marked() {
    let mut large = source(vec![Header::new("a", "1")]);
    large.record.value = Some(vec![7u8; 100_000].into());
    let mut letter = letter(&spec(LETTER_BYTES_MIN), Partition(0), &large, &why("m"), WallMs(1));
    assert_eq!(letter.size(), LETTER_BYTES_MIN, "no more is cut than must be");
    assert_eq!(letter.header(TRUNCATED_HEADER), Some(&"100000".into()));
    assert_eq!(letter.header(TRUNCATED_HEADERS_HEADER), None);
    assert_eq!(letter.header("a"), Some(&"1".into()));
    fit(&mut letter, LETTER_BYTES_MIN / 2);
    assert_eq!(letter.header(TRUNCATED_HEADER), Some(&"100000".into()), "the mark says what there was at first");
    assert!(letter.size() <= LETTER_BYTES_MIN / 2);
}

proptest! {
    #[test]
    fn every_letter_fits(
        key in 0usize..20_000, value in 0usize..20_000,
        headers in prop::collection::vec((1usize..200, 0usize..9_000), 0..8),
        bytes_max in LETTER_BYTES_MIN..40_000,
    ) {
        let headers: Vec<Header> =
            headers.iter().map(|(name, value)| Header::new(&"h".repeat(*name), vec![0u8; *value])).collect();
        let record = Record {
            key: Some(vec![1u8; key].into()),
            value: Some(vec![2u8; value].into()),
            headers: headers.clone(),
            timestamp: WallMs(5),
        };
        let source = SourceRecord { offset: Offset(9), record };
        let letter = letter(&spec(bytes_max), Partition(3), &source, &why("m"), WallMs(6));
        prop_assert!(letter.size() <= bytes_max, "{} > {bytes_max}", letter.size());
        prop_assert_eq!(error(&letter, "offset"), Some("9".to_owned()));
        prop_assert_eq!(error(&letter, "code"), Some("schema_mismatch".to_owned()));
        let left = letter.headers.iter().filter(|header| header.name.starts_with(b"h")).count();
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let marked = |mark| letter.header(mark).is_some();
        prop_assert_eq!(marked(TRUNCATED_HEADER), length(&letter.value) < value);
        prop_assert_eq!(marked(TRUNCATED_HEADERS_HEADER), left < headers.len());
        prop_assert_eq!(marked(TRUNCATED_KEY_HEADER), length(&letter.key) < key);
        prop_assert_eq!(&letter.headers[..left], &headers[..left], "the first ones stay");
    }
}

fn batch(outcomes: Vec<Outcome>) -> Box<Batch> {
    let assignment = Assignment { partition: Partition(3), generation: Generation(1) };
    let record = |offset| SourceRecord { offset: Offset(offset), record: source(Vec::new()).record };
    let records = (10..10 + outcomes.len() as i64).map(record).collect();
    let mut batch = Batch::new(Ticket { assignment, seq: BatchSeq(0) }, records);
    batch.outcomes = outcomes;
    Box::new(batch)
}

fn rejected() -> Outcome {
    Outcome::Rejected(Box::new(why("no")))
}

fn pass(dlq: &mut Dlq, outcomes: Vec<Outcome>, now: Now) -> Effect {
    let mut effects = dlq.step(Event::Batch { batch: batch(outcomes), wall: WallMs(1) }, now);
    assert_eq!(effects.len(), 1);
    effects.remove(0)
}

#[test]
fn rejects_and_conflicts_become_letters_and_nothing_else_does() {
    let mut dlq = Dlq::new(spec(1 << 20), None);
    let outcomes = vec![
        Outcome::Pending,
        rejected(),
        Outcome::Dropped("d".into()),
        Outcome::Conflict(Offset(4)),
        Outcome::Duplicate(Offset(5)),
    ];
    let Effect::Forward(batch) = pass(&mut dlq, outcomes.clone(), Now(0)) else { panic!("no limit") };
    assert_eq!(batch.outcomes, outcomes);
    let letters: Vec<(u32, Option<String>, Option<String>)> =
        batch.letters.iter().map(|(index, letter)| (*index, error(letter, "code"), error(letter, "offset"))).collect();
    let expected = [(1, "schema_mismatch", "11"), (3, "conflict", "13")];
    assert_eq!(letters, expected.map(|(index, code, offset)| (index, Some(code.to_owned()), Some(offset.to_owned()))));
    // A batch that is lent again gets the same letters, not twice as many.
    let Effect::Forward(again) = dlq.step(Event::Batch { batch, wall: WallMs(1) }, Now(0)).remove(0) else { panic!() };
    assert_eq!(again.letters.len(), 2);
}

#[test]
fn too_many_rejects_stop_it_for_good() {
    let stop_above = StopAbove { ratio: 0.5, window: Duration::from_secs(60), records_min: 10 };
    let mut dlq = Dlq::new(spec(1 << 20), Some(stop_above));
    let good = || vec![Outcome::Pending; 5];
    let clients_fault = vec![Outcome::Conflict(Offset(1)); 50];
    assert!(matches!(pass(&mut dlq, clients_fault, Now(0)), Effect::Forward(_)));
    assert!(matches!(pass(&mut dlq, good(), Now(0)), Effect::Forward(_)));
    assert!(matches!(pass(&mut dlq, vec![rejected(); 5], Now(0)), Effect::Forward(_)), "half is allowed");
    assert!(matches!(pass(&mut dlq, vec![rejected()], Now(0)), Effect::Stop(_)));
    assert!(matches!(pass(&mut dlq, good(), Now(600_000)), Effect::Stop(_)), "until it is built anew");
}
