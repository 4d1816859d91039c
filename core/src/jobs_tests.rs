//! Tests of the job index: tables of what wins, and its bounds against a naive list.

use super::*;
use crate::job_id::{JobIds, RANDOM_LEN, Scope};
use crate::record::{FINGERPRINT_HEADER, Header, ROUND_HEADER};
use proptest::prelude::*;

fn id(n: u8) -> JobId {
    JobIds::new(b"secret").random(
        Scope { tenant: "", pipeline: "digits" },
        WallMs(1_000 + i64::from(n)),
        [n; RANDOM_LEN],
    )
}

fn seen(n: u8, ended: i64, outcome: JobOutcome) -> Sighting {
    let ended = WallMs(ended);
    Sighting { name: JobName::Id(id(n)), round: Round(0), accepted: None, ended, fingerprint: None, outcome }
}

fn completed(text: &'static str) -> JobOutcome {
    JobOutcome::Completed(Bytes::from_static(text.as_bytes()))
}

fn failed(code: &str) -> JobOutcome {
    JobOutcome::Failed(JobError { code: code.into(), ..JobError::default() })
}

fn index(jobs_max: usize, bytes_max: usize) -> JobIndex {
    JobIndex::new(Limits { jobs_max, bytes_max, ttl: Duration::from_millis(100) })
}

fn see(index: &mut JobIndex, sighting: Sighting) -> Vec<Effect> {
    index.step(Event::Seen(vec![sighting]), Now(0))
}

#[test]
fn the_first_outcome_of_a_round_wins() {
    for (first, second) in [
        (completed("1"), completed("2")),
        (completed("1"), failed("bad")),
        (failed("bad"), completed("1")),
        (JobOutcome::Dropped, completed("1")),
    ] {
        let mut index = index(10, 10_000);
        assert_eq!(see(&mut index, seen(1, 5, first.clone())), vec![Effect::Settled(JobName::Id(id(1)))]);
        assert_eq!(see(&mut index, seen(1, 6, second)), vec![]);
        assert_eq!(index.get(id(1), None).map(|job| &job.outcome), Some(&first));
    }
}

#[test]
fn what_something_outside_reports_is_a_result_or_a_failure() {
    let report = |headers: &[(&str, &str)]| {
        let mut headers: Vec<Header> =
            headers.iter().map(|(name, value)| Header::new(name, (*value).to_owned())).collect();
        headers.push(Header::new(ID_HEADER, id(1).to_string()));
        let record = Record { value: Some("{}".into()), headers, timestamp: WallMs(9), ..Record::default() };
        Sighting::of_report(&record).expect("it has an id")
    };
    let done = report(&[]);
    assert_eq!((done.name, done.ended, done.outcome), (JobName::Id(id(1)), WallMs(9), completed("{}")));
    let errors = [("__bulkhead.errors.code", "dag_failed"), ("__bulkhead.errors.class", "fatal")];
    let JobOutcome::Failed(error) = report(&errors).outcome else { panic!("it failed") };
    assert_eq!((error.code.as_str(), error.class.as_str()), ("dag_failed", "fatal"));
    assert_eq!(Sighting::of_report(&Record::default()), None);
}

#[test]
fn a_later_round_replaces_the_round_before_it() {
    let mut index = index(10, 10_000);
    see(&mut index, seen(1, 5, failed("bad")));
    let redriven = Sighting { round: Round(1), ..seen(1, 9, completed("1")) };
    assert_eq!(see(&mut index, redriven), vec![Effect::Settled(JobName::Id(id(1)))]);
    see(&mut index, seen(1, 5, failed("bad")));
    let job = index.get(id(1), None).expect("seen");
    assert_eq!((job.round, job.ended, &job.outcome), (Round(1), WallMs(9), &completed("1")));
    assert_eq!((index.len(), index.bytes()), (1, JOB_OVERHEAD + 1));
}

#[test]
fn a_conflict_yields_whichever_topic_is_read_first() {
    for conflict_first in [true, false] {
        let mut index = index(10, 10_000);
        let mut both = [seen(1, 7, failed(CONFLICT_CODE)), seen(1, 5, completed("1"))];
        if !conflict_first {
            both.reverse();
        }
        for sighting in both {
            see(&mut index, sighting);
        }
        let job = index.get(id(1), None).expect("seen");
        assert_eq!((&job.outcome, job.conflicts, job.ended), (&completed("1"), 1, WallMs(5)));
    }
}

#[test]
fn a_ledger_key_answers_where_the_id_was_not_seen() {
    let mut index = index(10, 10_000);
    let dropped = Sighting { name: JobName::Key(KeyHash(7)), ..seen(1, 5, JobOutcome::Dropped) };
    see(&mut index, dropped);
    assert_eq!(index.get(id(1), None), None);
    assert_eq!(index.get(id(1), Some(KeyHash(8))), None);
    assert_eq!(index.get(id(1), Some(KeyHash(7))).map(|job| &job.outcome), Some(&JobOutcome::Dropped));
}

#[test]
fn jobs_leave_when_their_time_is_up() {
    let mut index = index(10, 10_000);
    index.step(Event::Seen(vec![seen(1, 50, completed("1")), seen(2, 51, completed("2"))]), Now(0));
    assert_eq!(index.step(Event::Tick(WallMs(150)), Now(0)), vec![]);
    assert_eq!(index.step(Event::Tick(WallMs(151)), Now(0)), vec![Effect::Evicted { expired: 1, crowded: 0 }]);
    assert_eq!((index.get(id(1), None), index.get(id(2), None).is_some()), (None, true));
    assert!(index.outlived(WallMs(50), WallMs(151)) && !index.outlived(WallMs(51), WallMs(151)));
}

#[test]
fn an_outcome_above_the_byte_limit_is_kept_alone() {
    let mut index = index(10, 10);
    see(&mut index, seen(1, 5, completed("1")));
    let effects = see(&mut index, seen(2, 6, completed("far more than ten bytes")));
    assert!(effects.contains(&Effect::Evicted { expired: 0, crowded: 1 }), "{effects:?}");
    assert_eq!((index.len(), index.get(id(2), None).is_some()), (1, true));
}

fn record(headers: &[(&str, &str)]) -> Record {
    let headers = headers.iter().map(|(name, value)| Header::new(name, value.to_string())).collect();
    Record { key: None, value: Some(Bytes::from_static(b"{}")), headers, timestamp: WallMs(2_000) }
}

#[test]
fn records_are_read_by_their_headers() {
    let text = id(3).to_string();
    let result = Sighting::of_result(&record(&[(ID_HEADER, &text), (ROUND_HEADER, "2")])).expect("a job's result");
    assert_eq!((result.name, result.round, result.ended), (JobName::Id(id(3)), Round(2), WallMs(2_000)));
    assert_eq!((result.accepted, result.outcome), (Some(WallMs(1_003)), completed("{}")));

    let letter = Sighting::of_dead_letter(&record(&[
        (ID_HEADER, &text),
        (ACCEPTED_HEADER, "1500"),
        ("__bulkhead.errors.code", "undecodable_image"),
        ("__bulkhead.errors.stage", "classify"),
    ]));
    let letter = letter.expect("a job's dead letter");
    assert_eq!(letter.accepted, Some(WallMs(1_500)));
    let JobOutcome::Failed(error) = letter.outcome else { panic!("a dead letter is a failure") };
    assert_eq!(
        (error.code.as_str(), error.stage.as_str(), error.message.as_str()),
        ("undecodable_image", "classify", "",)
    );

    assert_eq!(Sighting::of_result(&record(&[])), None, "not every record came by HTTP");
    assert_eq!(Sighting::of_result(&record(&[(ID_HEADER, "orders-0-17")])), None);
}

#[test]
fn a_fingerprint_is_the_payloads_whose_outcome_counts() {
    let text = id(3).to_string();
    let with = |hex: &str, code: &str| {
        record(&[(ID_HEADER, &text), (FINGERPRINT_HEADER, hex), ("__bulkhead.errors.code", code)])
    };
    let result = Sighting::of_result(&with("00000000000000ff", "")).expect("a job's result");
    let refused = Sighting::of_dead_letter(&with("0000000000000001", CONFLICT_CODE)).expect("a dead letter");
    assert_eq!((result.fingerprint, refused.fingerprint), (Some(255), None));
    assert_eq!(Sighting::of_result(&with("rubbish", "")).and_then(|seen| seen.fingerprint), None);
    for conflict_first in [true, false] {
        let (mut index, mut both) = (index(10, 10_000), vec![refused.clone(), result.clone()]);
        if !conflict_first {
            both.reverse();
        }
        index.step(Event::Seen(both), Now(0));
        assert_eq!(index.get(id(3), None).and_then(|job| job.fingerprint), Some(255), "{conflict_first}");
    }
}

proptest! {
    /// A list that is searched and sorted at every step, against the index.
    #[test]
    fn holds_what_a_naive_list_holds(
        jobs_max in 1..6_usize,
        steps in prop::collection::vec((0..8_u8, 0..300_i64, 0..3_u32, 0..3_u8), 1..60),
    ) {
        let mut index = index(jobs_max, usize::MAX);
        let mut list: Vec<(i64, JobName, u32, JobOutcome)> = Vec::new();
        for (n, at, round, kind) in steps {
            if kind == 2 {
                index.step(Event::Tick(WallMs(at)), Now(0));
                list.retain(|(ended, ..)| *ended >= at - 100);
                continue;
            }
            let outcome = if kind == 0 { completed("1") } else { failed("bad") };
            see(&mut index, Sighting { round: Round(round), ..seen(n, at, outcome.clone()) });
            let name = JobName::Id(id(n));
            match list.iter().position(|(_, held, ..)| *held == name) {
                Some(i) if round > list[i].2 => list[i] = (at, name, round, outcome),
                Some(_) => {}
                None => list.push((at, name, round, outcome)),
            }
            list.sort_by_key(|(ended, name, ..)| (*ended, *name));
            while list.len() > jobs_max {
                list.remove(0);
            }
        }
        prop_assert_eq!(index.len(), list.len());
        let bytes: usize = list.iter().map(|(.., outcome)| outcome.bytes()).sum();
        prop_assert_eq!(index.bytes(), bytes);
        for n in 0..8 {
            let expected = list.iter().find(|(_, name, ..)| *name == JobName::Id(id(n)));
            let held = index.get(id(n), None);
            prop_assert_eq!(held.map(|job| (job.ended.0, job.round.0, &job.outcome)),
                expected.map(|(ended, _, round, outcome)| (*ended, *round, outcome)));
        }
    }
}
