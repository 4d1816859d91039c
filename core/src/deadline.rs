//! Until when a record is worth working on. Never decides what becomes of one that is late: stages reject it.

use crate::fault::Fault;
use crate::ids::Round;
use crate::ledger::round_of;
use crate::record::Record;
use crate::time::WallMs;
use std::time::Duration;

/// The header that says until when a record is worth working on: Unix milliseconds as a UTF-8 decimal number.
pub const DEADLINE_HEADER: &str = "__bulkhead.deadline";

/// The header's value for a record that was accepted then and may take so long.
#[must_use]
pub fn deadline(accepted: WallMs, may_take: Duration) -> WallMs {
    WallMs(accepted.0.saturating_add(i64::try_from(may_take.as_millis()).unwrap_or(i64::MAX)))
}

/// The record's deadline. One without the header has none, nor has one whose header is no number, and none that was sent
/// back on purpose: who does that wants it worked on, however late.
#[must_use]
pub fn deadline_of(record: &Record) -> Option<WallMs> {
    let value = record.header(DEADLINE_HEADER)?;
    let number = std::str::from_utf8(value).ok()?.parse().ok()?;
    (round_of(record) == Round(0)).then_some(WallMs(number))
}

/// Why a record is not worked on any more at `now`; `None` where it is.
#[must_use]
pub fn passed(record: &Record, now: WallMs) -> Option<Fault> {
    let deadline = deadline_of(record)?;
    let late_ms = now.0.saturating_sub(deadline.0);
    (late_ms >= 0).then(|| Fault::poison("deadline_passed", format!("its turn came {late_ms} ms after its deadline")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Header, ROUND_HEADER};

    fn record(headers: &[(&str, &str)]) -> Record {
        let headers = headers.iter().map(|(name, value)| Header::new(name, (*value).to_owned())).collect();
        Record { headers, ..Record::default() }
    }

    #[test]
    fn a_record_is_late_from_its_deadline_on() {
        let until = record(&[(DEADLINE_HEADER, "1000")]);
        assert_eq!(passed(&until, WallMs(999)), None);
        let fault = passed(&until, WallMs(1_250)).expect("it is late");
        assert_eq!((&*fault.code, &*fault.message), ("deadline_passed", "its turn came 250 ms after its deadline"));
        assert!(passed(&until, WallMs(1_000)).is_some());
        assert_eq!(deadline(WallMs(400), Duration::from_millis(600)), WallMs(1_000));
    }

    #[test]
    fn what_has_no_readable_deadline_or_was_sent_back_is_never_late() {
        for headers in [
            &[][..],
            &[(DEADLINE_HEADER, "soon")],
            &[(DEADLINE_HEADER, "")],
            &[(DEADLINE_HEADER, "1000"), (ROUND_HEADER, "1")],
        ] {
            assert_eq!(passed(&record(headers), WallMs(i64::MAX)), None, "{headers:?}");
        }
    }
}
