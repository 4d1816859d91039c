//! Tells the events of a body apart: one JSON object, an array of them, or one a line (NDJSON). Each keeps the bytes it came with.
//! Never judges what an event holds beyond being an object.

use bytes::Bytes;
use serde::de::IgnoredAny;
use std::ops::Range;

/// One event, or why it is none.
pub(super) type Event = Result<Bytes, String>;

/// Why a body has no events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoEvents {
    /// It is no JSON, or nothing that has events; what is wrong.
    Bad(String),
    /// It has more than it may.
    TooMany,
}

/// The events of a body, in its order; `is_lines` where it is declared to be NDJSON. At least one, at most `events_max`.
pub(super) fn events(body: &Bytes, is_lines: bool, events_max: usize) -> Result<Vec<Event>, NoEvents> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    let events = match first {
        Some(b'[') if !is_lines => array(body, events_max)?,
        _ if is_lines || is_several_lines(body) => lines(body, events_max)?,
        _ => vec![event(body, 0..body.len())],
    };
    match events.as_slice() {
        [] => Err(NoEvents::Bad("it has no event".to_owned())),
        // A single event that is no JSON is a body that is none.
        [Err(why)] if !is_lines && first != Some(&b'[') => Err(NoEvents::Bad(why.clone())),
        _ => Ok(events),
    }
}

/// Whether it is no JSON by itself, but its first line is: NDJSON that is not declared so.
fn is_several_lines(body: &[u8]) -> bool {
    let mut lines = body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let first = lines.next().is_some_and(|line| check(line).is_ok());
    first && lines.next().is_some() && check(body).is_err()
}

fn check(json: &[u8]) -> Result<(), String> {
    serde_json::from_slice::<IgnoredAny>(json).map(|_| ()).map_err(|why| format!("is no JSON: {why}"))
}

fn event(body: &Bytes, at: Range<usize>) -> Event {
    let from = body[at.clone()].iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(0);
    let bytes = body.slice(at.start + from..at.end);
    let bytes = bytes.slice(..bytes.trim_ascii_end().len());
    check(&bytes)?;
    if bytes.first() == Some(&b'{') { Ok(bytes) } else { Err("is no JSON object".to_owned()) }
}

fn lines(body: &Bytes, events_max: usize) -> Result<Vec<Event>, NoEvents> {
    let (mut events, mut start) = (Vec::new(), 0);
    for line in body.split(|byte| *byte == b'\n') {
        let at = start..start + line.len();
        start = at.end + 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        if events.len() == events_max {
            return Err(NoEvents::TooMany);
        }
        events.push(event(body, at));
    }
    Ok(events)
}

/// The elements of an array that is valid as a whole: what separates them lies outside of texts and of other brackets.
fn array(body: &Bytes, events_max: usize) -> Result<Vec<Event>, NoEvents> {
    check(body).map_err(|why| NoEvents::Bad(format!("the body {why}")))?;
    let (mut events, mut depth, mut in_text, mut escaped, mut start) = (Vec::new(), 0_u32, false, false, 0);
    for (at, byte) in body.iter().enumerate() {
        if in_text {
            (in_text, escaped) = (escaped || *byte != b'"', !escaped && *byte == b'\\');
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        let (opens, ends) = (depth == 1 && *byte == b'[' && start == 0, depth == 0 && *byte == b']');
        if opens {
            start = at + 1;
        } else if (depth == 1 && *byte == b',') || ends {
            // `[]` has nothing between its brackets, and `[1,]` is no JSON.
            if !body[start..at].trim_ascii().is_empty() {
                if events.len() == events_max {
                    return Err(NoEvents::TooMany);
                }
                events.push(event(body, start..at));
            }
            start = at + 1;
        }
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn texts(body: &str, is_lines: bool) -> Vec<Result<String, String>> {
        let events = events(&Bytes::copy_from_slice(body.as_bytes()), is_lines, 10).expect("it has events");
        events.into_iter().map(|event| event.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())).collect()
    }

    #[test]
    fn one_several_and_lines_are_told_apart_and_keep_their_bytes() {
        let two = [Ok(r#"{"n": 1.50}"#.to_owned()), Ok(r#"{"a": "x],{\"y"}"#.to_owned())];
        assert_eq!(texts(" {\n\"n\": 1.50 }\n", false), [Ok("{\n\"n\": 1.50 }".to_owned())]);
        assert_eq!(texts(r#" [ {"n": 1.50} , {"a": "x],{\"y"} ] "#, false), two);
        assert_eq!(texts("{\"n\": 1.50}\n\n{\"a\": \"x],{\\\"y\"}\r\n", true), two);
        assert_eq!(texts("{\"n\": 1.50}\n{\"a\": \"x],{\\\"y\"}", false), two, "not declared");
    }

    #[test]
    fn a_bad_event_is_named_by_its_place_and_a_bad_body_has_none() {
        let bad = texts("{\"n\":1}\n{\"n\":\n[1]\n", true);
        assert!(bad[0].is_ok() && bad[1].as_ref().is_err_and(|why| why.starts_with("is no JSON: EOF")), "{bad:?}");
        assert_eq!(bad[2], Err("is no JSON object".to_owned()));
        assert_eq!(texts("[1, {\"n\":[2,3]}]", false)[0], Err("is no JSON object".to_owned()));
        for (body, part) in [
            ("", "is no JSON"),
            ("{", "is no JSON"),
            ("7", "no JSON object"),
            ("[{}", "the body is no JSON"),
            ("[{},]", "the body is no JSON"),
            ("[]", "no event"),
            (" [ ] ", "no event"),
        ] {
            let none = events(&Bytes::copy_from_slice(body.as_bytes()), false, 10).expect_err("it has none");
            assert!(matches!(&none, NoEvents::Bad(why) if why.contains(part)), "{body}: {none:?}");
        }
        assert_eq!(events(&Bytes::from_static(b"[{},{},{}]"), false, 2), Err(NoEvents::TooMany));
        assert_eq!(events(&Bytes::from_static(b"{}\n{}\n{}"), true, 2), Err(NoEvents::TooMany));
    }

    fn object() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![any::<i64>().prop_map(Value::from), "\\PC{0,8}".prop_map(Value::from), Just(json!([[], {}]))];
        prop::collection::btree_map("\\PC{0,4}", leaf, 0..4).prop_map(|map| map.into_iter().collect())
    }

    proptest! {
        #[test]
        fn what_was_put_together_comes_apart(objects in prop::collection::vec(object(), 1..10), is_pretty: bool) {
            let write = |value: &Value| if is_pretty { format!("{value:#}") } else { value.to_string() };
            let array = write(&Value::from(objects.clone()));
            let lines: String = objects.iter().map(|object| format!("{object}\n")).collect();
            for (body, is_lines) in [(array, false), (lines.clone(), true), (lines, false)] {
                let events = events(&body.into(), is_lines, 10).expect("it has events");
                let back: Vec<Value> =
                    events.iter().map(|event| serde_json::from_slice(event.as_ref().expect("right")).expect("JSON")).collect();
                prop_assert_eq!(&back, &objects);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..40), text in "[\\[\\]{}\",:\\\\ \n1a]{0,30}") {
            for body in [Bytes::from(bytes), Bytes::from(text)] {
                for is_lines in [false, true] {
                    let events = events(&body, is_lines, 10);
                    prop_assert!(events.is_err() || !events.unwrap_or_default().is_empty());
                }
            }
        }
    }
}
