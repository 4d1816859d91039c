//! What an answer means: success, the world's fault or the record's, and for how long the host wants to be left alone.
//! Never calls anyone.

use bulkhead_core::fault::Fault;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use std::time::{Duration, SystemTime};

/// Characters of an answer that a message repeats.
const QUOTED_MAX: usize = 300;

/// Which statuses mean what, beside the usual.
#[derive(Clone, Debug, Default)]
pub(super) struct Statuses {
    pub(super) success: Vec<u16>,
    pub(super) transient: Vec<u16>,
    pub(super) poison: Vec<u16>,
    /// Whether we make ourselves known: a 401 is then about that, not about the record.
    pub(super) has_auth: bool,
}

/// What a status means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Success,
    Transient,
    Poison,
}

impl Statuses {
    /// What is wrong with them.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let lists = [("success", &self.success), ("transient", &self.transient), ("poison", &self.poison)];
        for (index, (name, statuses)) in lists.iter().enumerate() {
            for status in *statuses {
                if !(300..=599).contains(status) {
                    problems
                        .push(format!("{name}: {status} is no status that this could say anything of; 300 to 599 are"));
                } else if let Some((other, _)) = lists[..index].iter().find(|(_, other)| other.contains(status)) {
                    problems.push(format!("{name}: {status} is in {other} already"));
                }
            }
        }
        problems
    }

    pub(super) fn meaning(&self, status: u16) -> Meaning {
        match status {
            status if self.success.contains(&status) => Meaning::Success,
            status if self.transient.contains(&status) => Meaning::Transient,
            status if self.poison.contains(&status) => Meaning::Poison,
            200..=299 => Meaning::Success,
            408 | 425 | 429 | 500..=599 => Meaning::Transient,
            401 if self.has_auth => Meaning::Transient,
            _ => Meaning::Poison,
        }
    }
}

/// Whether an answer with this status says that the host cannot do its work now.
pub(super) const fn is_down(status: u16) -> bool {
    matches!(status, 408 | 500..=599)
}

/// The fault that a status is, with what the host said of it.
pub(super) fn fault(meaning: Meaning, host: &str, status: u16, body: &[u8]) -> Fault {
    let said = quoted(body);
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    let (code, message) = (format!("http_{status}"), format!("{host} answered {status}{said}"));
    match meaning {
        Meaning::Transient => Fault::transient(code, message),
        Meaning::Success | Meaning::Poison => Fault::poison(code, message),
    }
}

/// The beginning of a body, on one line and without control characters.
fn quoted(body: &[u8]) -> String {
    let head = &body[..body.len().min(4 * QUOTED_MAX)];
    let text = String::from_utf8_lossy(head);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(QUOTED_MAX).collect()
}

/// What `Retry-After` asks for (RFC 9110 §10.2.3: seconds or a date), at most `longest`.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime, longest: Duration) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => date(value)?.duration_since(now).unwrap_or_default(),
    };
    Some(asked.min(longest))
}

/// An HTTP date in its preferred form (RFC 9110 §5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
fn date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split(' ').collect();
    let &[_, day, month, year, time, "GMT"] = &words[..] else { return None };
    let clock: Vec<u64> = time.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let &[hours, minutes, seconds] = &clock[..] else { return None };
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    if !(1970..=9_999).contains(&year) || !(1..=31).contains(&day) || hours > 23 || minutes > 59 || seconds > 60 {
        return None;
    }
    // Days since the epoch, years beginning in March (Howard Hinnant's `days_from_civil`).
    let (year, from_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year / 400, year % 400);
    let days =
        era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * from_march + 2) / 5 + day - 1 - 719_468;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400 + hours * 3_600 + minutes * 60 + seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn statuses_mean_what_is_usual_unless_told_otherwise() {
        let usual = Statuses { has_auth: true, ..Statuses::default() };
        for (status, meaning) in [
            (200, Meaning::Success),
            (204, Meaning::Success),
            (302, Meaning::Poison),
            (400, Meaning::Poison),
            (401, Meaning::Transient),
            (404, Meaning::Poison),
            (408, Meaning::Transient),
            (409, Meaning::Poison),
            (425, Meaning::Transient),
            (429, Meaning::Transient),
            (500, Meaning::Transient),
            (503, Meaning::Transient),
        ] {
            assert_eq!(usual.meaning(status), meaning, "{status}");
        }
        assert_eq!(Statuses::default().meaning(401), Meaning::Poison, "nobody was asked who they are");
        let own = Statuses { success: vec![409], transient: vec![404], poison: vec![501], has_auth: false };
        assert_eq!(
            [409, 404, 501].map(|status| own.meaning(status)),
            [Meaning::Success, Meaning::Transient, Meaning::Poison]
        );
    }

    #[test]
    fn a_status_has_one_meaning_and_is_one() {
        let twice = Statuses { success: vec![409], transient: vec![409, 200], ..Statuses::default() };
        let problems = twice.problems();
        assert!(problems.len() == 2 && problems[0].contains("409 is in success already"), "{problems:?}");
        assert!(problems[1].starts_with("transient: 200"), "{problems:?}");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let after = |value: &'static str, now: u64| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now);
            retry_after(&headers, now, Duration::from_secs(60)).map(|asked| asked.as_secs())
        };
        assert_eq!(after("7", 0), Some(7));
        assert_eq!(after("3600", 0), Some(60));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777 - 12), Some(12));
        assert_eq!(after("Thu, 29 Feb 2024 00:00:10 GMT", 1_709_164_800), Some(10));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777 + 12), Some(0));
        for nonsense in ["soon", "-3", "Sun, 99 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49 GMT", ""] {
            assert_eq!(after(nonsense, 0), None, "{nonsense}");
        }
    }

    #[test]
    fn what_a_host_says_is_told_shortly_and_on_one_line() {
        let body = format!("{{\"detail\":\n \"Dag\u{1b}[31m not found\"}}{}", "x".repeat(9_999));
        let fault = fault(Meaning::Poison, "airflow:8080", 404, body.as_bytes());
        assert_eq!(fault.code, "http_404");
        assert!(fault.message.starts_with("airflow:8080 answered 404: {\"detail\": \"Dag[31m not found\"}"), "{fault}");
        assert!(fault.message.chars().count() < 350 && !fault.message.contains('\n'));
    }
}
