//! Holds what came out of a case against what was expected. Never runs anything.

use super::run::End;
use crate::config::cases::{Case, Expect, ExpectLetter, ExpectOutput, ExpectRefused};
use crate::expression::{ExpressionLimits, Subject, Value};
use bulkhead_actors::pipeline::Ending;
use bulkhead_core::fault::Fault;
use bulkhead_core::letter::ERRORS_PREFIX;
use bulkhead_core::record::{Record, output_of, without_output};
use std::collections::BTreeMap;

/// Bytes of a value that are shown.
const SHOWN_MAX: usize = 2_000;
/// The name of the pipeline's own output.
const MAIN: &str = "output";

/// Everything that came out differently; empty where all is as expected.
pub(super) fn differences(case: &Case, end: &End) -> Vec<String> {
    let came: Vec<Came<'_>> = match end {
        End::Pipeline(Ending::Sent(records)) => records.iter().map(Came::Output).collect(),
        End::Pipeline(Ending::Dropped(reason)) => vec![Came::Dropped(reason)],
        End::Pipeline(Ending::Letter(letter)) => vec![Came::Letter(letter)],
        End::Refused { step, fault } => vec![Came::Refused(step.as_deref(), fault)],
    };
    let mut wrong = Vec::new();
    for (number, (expected, came)) in (1..).zip(case.expect.iter().zip(&came)) {
        wrong.extend(judge(expected, came).into_iter().map(|why| format!("{number}. {why}")));
    }
    let (wanted, there) = (case.expect.len(), came.len());
    if wanted != there {
        wrong.push(format!("{wanted} expected, {there} came out"));
    }
    if !wrong.is_empty() {
        wrong.extend((1..).zip(&came).map(|(number, came)| format!("came out: {number}. {}", came.shown())));
    }
    wrong
}

/// One thing that came out.
enum Came<'a> {
    Output(&'a Record),
    Letter(&'a Record),
    Dropped(&'a str),
    Refused(Option<&'a str>, &'a Fault),
}

impl Came<'_> {
    fn shown(&self) -> String {
        match self {
            Self::Output(record) => format!("output {}: {}", output_of(record).unwrap_or(MAIN), text(record.payload())),
            Self::Letter(letter) => {
                let said = |what: &str| header(letter, &format!("{ERRORS_PREFIX}{what}")).unwrap_or_default();
                let step = said("step");
                let at = if step.is_empty() { said("stage") } else { format!("{}/{step}", said("stage")) };
                format!("dead letter of {at}: {}: {}", said("code"), said("message"))
            }
            Self::Dropped(reason) => format!("dropped: {reason}"),
            Self::Refused(step, fault) => format!("refused by {}: {fault}", step.unwrap_or("the route")),
        }
    }
}

fn judge(expected: &Expect, came: &Came<'_>) -> Vec<String> {
    match (expected, came) {
        (Expect::Output(expected), Came::Output(record)) => output(expected, record),
        (Expect::DeadLetter(expected), Came::Letter(record)) => letter(expected, record),
        (Expect::Drop(expected), Came::Dropped(reason)) => {
            same("reason", expected.reason.as_deref(), Some(reason)).into_iter().collect()
        }
        (Expect::Refused(expected), Came::Refused(step, fault)) => refused(expected, *step, fault),
        (Expect::Output(_), _) => vec!["a record was expected".to_owned()],
        (Expect::DeadLetter(_), _) => vec!["a dead letter was expected".to_owned()],
        (Expect::Drop(_), _) => vec!["an end on purpose was expected".to_owned()],
        (Expect::Refused(_), _) => vec!["a refusal was expected".to_owned()],
    }
}

fn output(expected: &ExpectOutput, record: &Record) -> Vec<String> {
    let mut wrong = Vec::new();
    let to = expected.to.as_ref().map_or(MAIN, |name| name.0.as_str());
    wrong.extend(same("to", Some(to), Some(output_of(record).unwrap_or(MAIN))));
    let parsed = Value::parse(record.payload());
    for (key, json, is_right) in [
        ("json", &expected.json, (|wanted, found| wanted == found) as fn(&Value, &Value) -> bool),
        ("contains", &expected.contains, contains),
    ] {
        let Some(json) = json else { continue };
        match &parsed {
            Err(why) => wrong.push(format!("{key}: the value {why}")),
            Ok(found) if is_right(&json.value, found) => {}
            Ok(_) => wrong.push(format!("{key}:\n  - {}\n  + {}", json.text.trim(), text(record.payload()))),
        }
    }
    if let Some(wanted) = expected.text.as_ref().filter(|wanted| wanted.as_bytes() != record.payload()) {
        wrong.push(format!("text:\n  - {wanted}\n  + {}", text(record.payload())));
    }
    if let Some(jq) = &expected.jq {
        let plain = without_output(record.clone());
        let held = Subject::new(&plain, None).and_then(|subject| jq.holds(&subject, ExpressionLimits::default()));
        match held {
            Ok(true) => {}
            Ok(false) => wrong.push(format!("jq: `{jq}` does not hold")),
            Err(fault) => wrong.push(format!("jq: {fault}")),
        }
    }
    let key = record.key.as_ref().map(|key| text(key));
    if expected.key.is_some() {
        wrong.extend(same("key", expected.key.as_deref(), key.as_deref()));
    }
    wrong.extend(headers(&expected.headers, record));
    wrong
}

fn letter(expected: &ExpectLetter, record: &Record) -> Vec<String> {
    let said = |what: &str| header(record, &format!("{ERRORS_PREFIX}{what}"));
    let mut wrong = Vec::new();
    for (key, wanted) in [("code", &expected.code), ("stage", &expected.stage), ("step", &expected.step)] {
        wrong.extend(wanted.as_ref().and_then(|wanted| same(key, Some(wanted), said(key).as_deref())));
    }
    wrong.extend(words(expected.message.as_deref(), &said("message").unwrap_or_default()));
    wrong.extend(headers(&expected.headers, record));
    wrong
}

fn refused(expected: &ExpectRefused, step: Option<&str>, fault: &Fault) -> Vec<String> {
    let mut wrong = Vec::new();
    wrong.extend(expected.code.as_deref().and_then(|code| same("code", Some(code), Some(&fault.code))));
    wrong.extend(expected.step.as_deref().and_then(|wanted| same("step", Some(wanted), step)));
    wrong.extend(words(expected.message.as_deref(), &fault.message));
    if let Some(violations) = &expected.violations {
        let mut wanted = violations.clone();
        let mut found: Vec<String> = fault.violations.iter().map(|violation| violation.path.clone()).collect();
        wanted.sort();
        found.sort();
        if wanted != found {
            wrong.push(format!("violations:\n  - {}\n  + {}", wanted.join(" "), found.join(" ")));
        }
    }
    wrong
}

/// A difference between two texts. Nothing expected is no difference.
fn same(key: &str, wanted: Option<&str>, found: Option<&str>) -> Option<String> {
    let wanted = wanted?;
    (Some(wanted) != found).then(|| format!("{key}:\n  - {wanted}\n  + {}", found.unwrap_or("(none)")))
}

fn words(wanted: Option<&str>, found: &str) -> Option<String> {
    let wanted = wanted.filter(|wanted| !found.contains(wanted))?;
    Some(format!("message has no such words:\n  - {wanted}\n  + {found}"))
}

fn headers(wanted: &BTreeMap<String, String>, record: &Record) -> Vec<String> {
    let different = |(name, value): (&String, &String)| {
        same(&format!("header {name}"), Some(value), header(record, name).as_deref())
    };
    wanted.iter().filter_map(different).collect()
}

fn header(record: &Record, name: &str) -> Option<String> {
    record.header(name).map(|value| text(value))
}

/// Bytes as text, cut.
fn text(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_MAX)]).into_owned();
    if bytes.len() > SHOWN_MAX {
        text.push('…');
    }
    text
}

/// Whether `found` has all that `wanted` has: the keys of objects, the elements of arrays one by one.
fn contains(wanted: &Value, found: &Value) -> bool {
    if let (Some(wanted), Some(found)) = (wanted.entries(), found.entries()) {
        let has = |(name, wanted): &(String, Value)| {
            found.iter().any(|(known, found)| known == name && contains(wanted, found))
        };
        return wanted.iter().all(has);
    }
    if let (Some(wanted), Some(found)) = (wanted.items(), found.items()) {
        return wanted.len() == found.len() && wanted.iter().zip(&found).all(|(wanted, found)| contains(wanted, found));
    }
    wanted == found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_an_object_is_enough_and_an_array_is_whole() {
        let value = |json: &str| Value::parse(json.as_bytes()).expect("JSON");
        let found = value(r#"{"a": {"b": 1, "c": 2}, "l": [{"x": 1, "y": 2}, 3]}"#);
        for wanted in ["{}", r#"{"a": {"c": 2}}"#, r#"{"l": [{"y": 2}, 3.0]}"#] {
            assert!(contains(&value(wanted), &found), "{wanted}");
        }
        for wanted in ["[]", r#"{"a": {"c": 3}}"#, r#"{"l": [{"y": 2}]}"#, r#"{"d": null}"#, r#"{"a": 1}"#] {
            assert!(!contains(&value(wanted), &found), "{wanted}");
        }
    }
}
