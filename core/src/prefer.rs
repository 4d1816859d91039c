//! What a client prefers of its answer (RFC 7240): to wait for an outcome, or not to. Never grants it.

use std::time::Duration;

/// The preferences that are understood; all others are ignored, as the RFC has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefer {
    /// `wait=N`: for how long the client would wait.
    pub wait: Option<Duration>,
    /// `respond-async`: an answer at once is welcome.
    pub respond_async: bool,
}

/// What was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// How long to wait for the outcome before the answer says that there is none yet.
    pub wait: Duration,
    /// What `Preference-Applied` says, where a preference was.
    pub applied: Option<String>,
}

impl Prefer {
    /// Of all `Prefer` fields of a request, in order; the first of a preference counts. What is malformed is ignored.
    pub fn of<'a>(fields: impl IntoIterator<Item = &'a str>) -> Self {
        let mut prefer = Self::default();
        for preference in fields.into_iter().flat_map(|field| split(field, ',')) {
            // Behind a semicolon stand parameters; those two have none.
            let Some(preference) = split(preference, ';').next() else { continue };
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            match (name.trim().to_ascii_lowercase().as_str(), value.trim()) {
                ("respond-async", "") => prefer.respond_async = true,
                ("wait", value) if prefer.wait.is_none() => prefer.wait = seconds(value),
                _ => {}
            }
        }
        prefer
    }

    /// What of it is granted where at most `wait_max` is waited, and `unasked` where nothing was said.
    #[must_use]
    pub fn grant(&self, wait_max: Duration, unasked: Duration) -> Granted {
        let asked = if self.respond_async { Duration::ZERO } else { unasked };
        let wait = self.wait.unwrap_or(asked).min(wait_max);
        let mut applied = Vec::new();
        if self.respond_async {
            applied.push("respond-async".to_owned());
        }
        if self.wait.is_some() {
            // Whole seconds, rounded up: a client that waits as long as it is told has its answer.
            applied.push(format!("wait={}", wait.as_millis().div_ceil(1_000)));
        }
        Granted { wait, applied: (!applied.is_empty()).then(|| applied.join(", ")) }
    }
}

/// A number of seconds, bare or quoted; a longer one than fits is as long as fits.
fn seconds(text: &str) -> Option<Duration> {
    let digits = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(Duration::from_secs(digits.parse::<u32>().unwrap_or(u32::MAX).into()))
}

/// The parts between separators, but for separators in quoted strings.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut in_quotes, mut escaped) = (false, false);
    text.split(move |c| {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_quotes => escaped = true,
            '"' => in_quotes = !in_quotes,
            c => return c == separator && !in_quotes,
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn preferences_are_read_and_others_ignored() {
        let both = Prefer { wait: Some(10 * SECOND), respond_async: true };
        for (fields, prefer) in [
            (&["respond-async, wait=10"] as &[&str], both),
            (&["wait=10", "respond-async"], both),
            (&["Respond-Async; x=\"a,b\" , WAIT = \"10\";y"], both),
            (&["foo=\"wait=3, \\\"\", wait=10, wait=20, respond-async"], both),
            (&["handling=lenient", ""], Prefer::default()),
            (&["wait", "wait=", "wait=-1", "wait=1.5", "wait=\"1"], Prefer::default()),
            (&["respond-async=no"], Prefer::default()),
            (&["wait=99999999999"], Prefer { wait: Some(SECOND * u32::MAX), respond_async: false }),
        ] {
            assert_eq!(Prefer::of(fields.iter().copied()), prefer, "{fields:?}");
        }
    }

    #[test]
    fn a_wait_is_granted_up_to_the_limit() {
        let grant = |prefer: &str, unasked: u32| {
            let granted = Prefer::of([prefer]).grant(30 * SECOND, unasked * SECOND);
            (granted.wait.as_secs(), granted.applied)
        };
        assert_eq!(grant("", 0), (0, None));
        assert_eq!(grant("", 30), (30, None));
        assert_eq!(grant("wait=5", 30), (5, Some("wait=5".into())));
        assert_eq!(grant("wait=50", 0), (30, Some("wait=30".into())));
        assert_eq!(grant("respond-async", 30), (0, Some("respond-async".into())));
        assert_eq!(grant("respond-async, wait=7", 30), (7, Some("respond-async, wait=7".into())));
    }

    proptest! {
        #[test]
        fn no_field_panics_and_no_wait_is_above_the_limit(fields in prop::collection::vec("\\PC{0,40}|wait=[0-9]{0,12}", 0..4)) {
            let granted = Prefer::of(fields.iter().map(String::as_str)).grant(30 * SECOND, SECOND);
            prop_assert!(granted.wait <= 30 * SECOND);
        }

        #[test]
        fn a_preference_is_found_among_others(n in 0..1_000_u32, before in "[a-z]{1,8}", quoted in "[ -!#-Z^-~]{0,8}") {
            prop_assume!(before != "wait");
            let field = format!("{before}=\"{quoted}\", wait={n}");
            prop_assert_eq!(Prefer::of([field.as_str()]).wait, Some(n * SECOND));
        }
    }
}
