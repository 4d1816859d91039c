//! Tests of idempotency keys: a table of what a key is, and the memory of keys against a naive list.

use super::*;
use crate::job_id::{JobIds, Scope};
use proptest::prelude::*;

#[test]
fn a_key_is_a_quoted_string_or_a_word() {
    let long = "k".repeat(KEY_LEN_MAX);
    for (value, key) in [
        ("\"8e03978e-40d5-43dd-bc93-6894a57f9324\"", Ok("8e03978e-40d5-43dd-bc93-6894a57f9324")),
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", Ok("8e03978e-40d5-43dd-bc93-6894a57f9324")),
        ("  order:7/a+b== ", Ok("order:7/a+b==")),
        (r#""a \"b\" \\ c""#, Ok(r#"a "b" \ c"#)),
        ("\" \"", Ok(" ")),
        (&long, Ok(&*long)),
        ("", Err(BadKey::Empty)),
        ("   ", Err(BadKey::Empty)),
        ("\"\"", Err(BadKey::Empty)),
        (&format!("{long}k"), Err(BadKey::TooLong)),
        (&format!("\"{long}k\""), Err(BadKey::TooLong)),
        ("\"open", Err(BadKey::Malformed)),
        ("\"", Err(BadKey::Malformed)),
        ("\"a\"b", Err(BadKey::Malformed)),
        ("\"a\";p=1", Err(BadKey::Malformed)),
        ("\"a\", \"b\"", Err(BadKey::Malformed)),
        (r#""a\b""#, Err(BadKey::Malformed)),
        ("a b", Err(BadKey::Malformed)),
        ("a,b", Err(BadKey::Malformed)),
        ("a\tb", Err(BadKey::Malformed)),
        ("\"a\tb\"", Err(BadKey::Malformed)),
        ("schlüssel", Err(BadKey::Malformed)),
        ("\"schlüssel\"", Err(BadKey::Malformed)),
    ] {
        assert_eq!(parse_key(value).as_deref(), key.as_ref().copied(), "{value:?}");
    }
}

#[test]
fn a_plain_key_is_taken_as_it_stands() {
    let long = "k".repeat(KEY_LEN_MAX + 1);
    for (text, bad) in
        [("", BadKey::Empty), ("a\tb", BadKey::Unprintable), ("ä", BadKey::Unprintable), (&long, BadKey::TooLong)]
    {
        assert_eq!(plain_key(text.to_owned()), Err(bad), "{text:?}");
    }
}

fn id(n: u8) -> JobId {
    JobIds::new(b"secret").from_key(Scope { tenant: "", pipeline: "p" }, "/r", &n.to_string())
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Begin { key: u8, fingerprint: u64, outcome: Option<u64> },
    Accepted(u8),
    Failed(u8),
    Pass(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..4_u8, 0..2_u64, prop::option::weighted(0.1, 0..2_u64))
            .prop_map(|(key, fingerprint, outcome)| Act::Begin { key, fingerprint, outcome }),
        3 => (0..4_u8).prop_map(Act::Accepted),
        1 => (0..4_u8).prop_map(Act::Failed),
        2 => (0..30_u64).prop_map(Act::Pass),
    ]
}

/// The memory as a list, the oldest in front.
#[derive(Default)]
struct Naive {
    in_progress: Vec<(u8, u64)>,
    accepted: Vec<(u8, u64, u64)>,
}

impl Naive {
    fn begin(&mut self, key: u8, fingerprint: u64, outcome: Option<u64>) -> Standing {
        if outcome.is_some() {
            self.accepted.retain(|(k, ..)| *k != key);
        }
        let accepted = self.accepted.iter().find(|(k, ..)| *k == key).map(|(_, f, _)| *f);
        let (known, same) = match outcome.or(accepted) {
            Some(known) => (known, Standing::Replay),
            None => match self.in_progress.iter().find(|(k, _)| *k == key) {
                Some((_, known)) => (*known, Standing::InProgress),
                None => {
                    self.in_progress.push((key, fingerprint));
                    return Standing::First;
                }
            },
        };
        if known == fingerprint { same } else { Standing::OtherPayload }
    }

    fn end(&mut self, key: u8) -> Option<u64> {
        let at = self.in_progress.iter().position(|(k, _)| *k == key)?;
        Some(self.in_progress.remove(at).1)
    }
}

proptest! {
    #[test]
    fn what_is_quoted_is_read_back(key in "[ -~]{1,255}") {
        prop_assert_eq!(parse_key(&quoted_key(&key)), Ok(key.clone()));
        prop_assert_eq!(plain_key(key.clone()), Ok(key));
    }

    #[test]
    fn no_value_panics(value in "\\PC{0,300}") {
        if let Ok(key) = parse_key(&value) {
            prop_assert!((1..=KEY_LEN_MAX).contains(&key.len()));
        }
    }

    #[test]
    fn keys_stand_as_in_a_naive_list(acts in prop::collection::vec(act(), 0..200), keys_max in 1..4_usize) {
        let limits = KeyLimits { keys_max, ttl: Duration::from_millis(50) };
        let (mut keys, mut naive, mut now) = (Keys::new(limits), Naive::default(), 0);
        let mut firsts = [0_u32; 4];
        for act in acts {
            naive.accepted.retain(|(_, _, at)| now - at < 50);
            match act {
                Act::Begin { key, fingerprint, outcome } => {
                    let standing = keys.begin(id(key), fingerprint, outcome, Now(now));
                    prop_assert_eq!(standing, naive.begin(key, fingerprint, outcome), "{:?}", act);
                    if standing == Standing::First {
                        firsts[usize::from(key)] += 1;
                        prop_assert_eq!(firsts[usize::from(key)], 1, "one request of a key is sent at a time");
                    }
                }
                Act::Accepted(key) => {
                    keys.accepted(id(key), Now(now));
                    if let Some(fingerprint) = naive.end(key) {
                        firsts[usize::from(key)] = 0;
                        naive.accepted.retain(|(k, ..)| *k != key);
                        naive.accepted.push((key, fingerprint, now));
                        // Equal ages leave in the order of their ids.
                        naive.accepted.sort_by_key(|(k, _, at)| (*at, id(*k)));
                        let over = naive.accepted.len().saturating_sub(keys_max);
                        naive.accepted.drain(..over);
                    }
                }
                Act::Failed(key) => {
                    keys.failed(id(key));
                    naive.end(key);
                    firsts[usize::from(key)] = 0;
                }
                Act::Pass(ms) => now += ms,
            }
            prop_assert!(keys.len() <= keys_max);
            for key in 0..4 {
                prop_assert_eq!(keys.is_in_progress(id(key)), naive.in_progress.iter().any(|(k, _)| *k == key));
            }
        }
    }
}
