//! What is told at the end: a table of latencies by status, and what became of what was accepted. Never measures anything.

use super::check::Found;
use super::send::Sent;
use hdrhistogram::Histogram;
use std::fmt;
use std::time::Duration;

/// See the module.
pub(super) struct Report {
    rows: Vec<(String, Histogram<u64>)>,
    took: Duration,
    accepted: u64,
    outbox: u64,
    wrong: Vec<String>,
    wrong_total: u64,
    found: Option<Result<Found, String>>,
}

impl Report {
    pub(super) fn of(sent: &Sent, took: Duration) -> Self {
        let mut all: Option<Histogram<u64>> = None;
        let mut rows = Vec::new();
        for (status, latencies) in &sent.latencies {
            let name = if *status == 0 { "none".to_owned() } else { status.to_string() };
            rows.push((name, latencies.clone()));
            match &mut all {
                Some(all) => all.add(latencies).expect("both have the same bounds"),
                None => all = Some(latencies.clone()),
            }
        }
        rows.extend(all.map(|all| ("all".to_owned(), all)));
        Self {
            rows,
            took,
            accepted: sent.accepted.len() as u64,
            outbox: sent.outbox,
            wrong: sent.wrong.clone(),
            wrong_total: sent.wrong_total,
            found: None,
        }
    }

    pub(super) fn check(&mut self, found: Found) {
        self.found = Some(Ok(found));
    }

    pub(super) fn uncheckable(&mut self, why: String) {
        self.found = Some(Err(why));
    }

    /// Whether everything was as it should be.
    pub(super) fn is_right(&self) -> bool {
        let is_found = match &self.found {
            None => true,
            Some(Ok(found)) => found.missing == 0,
            Some(Err(_)) => false,
        };
        is_found && self.wrong_total == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.rows.last().map_or(0, |(_, all)| all.len());
        let seconds = self.took.as_secs_f64();
        let rate = count as f64 / seconds.max(f64::EPSILON);
        writeln!(f, "{count} requests in {seconds:.1} s: {rate:.0} requests/s")?;
        writeln!(f, "{:>8} {:>9} {:>11} {:>11} {:>11} {:>11}", "status", "count", "p50", "p95", "p99", "max")?;
        for (name, latencies) in &self.rows {
            let at = |quantile| millis(latencies.value_at_quantile(quantile));
            let (p50, p95, p99) = (at(0.5), at(0.95), at(0.99));
            writeln!(
                f,
                "{name:>8} {:>9} {p50:>11} {p95:>11} {p99:>11} {:>11}",
                latencies.len(),
                millis(latencies.max())
            )?;
        }
        if self.outbox > 0 {
            writeln!(f, "{} answers said that their records wait in the outbox", self.outbox)?;
        }
        match &self.found {
            None => writeln!(f, "{} records accepted; not checked", self.accepted)?,
            Some(Err(why)) => writeln!(f, "{} records accepted; NOT CHECKED: {why}", self.accepted)?,
            Some(Ok(Found { completed, failed, dropped, missing, named })) => {
                let accepted = self.accepted;
                write!(
                    f,
                    "{accepted} records accepted: {completed} completed, {failed} dead letters, {dropped} dropped, "
                )?;
                writeln!(f, "{missing} MISSING")?;
                named.iter().try_for_each(|why| writeln!(f, "  missing: {why}"))?;
            }
        }
        if self.wrong_total > 0 {
            writeln!(f, "{} answers were WRONG; the first:", self.wrong_total)?;
            self.wrong.iter().try_for_each(|why| writeln!(f, "  {why}"))?;
        }
        writeln!(f, "{}", if self.is_right() { "ok" } else { "FAILED" })
    }
}

fn millis(us: u64) -> String {
    format!("{:.2} ms", us as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_wrong_is_told_and_fails() {
        let mut sent = Sent::default();
        let mut report = Report::of(&sent, Duration::from_secs(1));
        assert!(report.is_right(), "nothing was asked for");
        report.check(Found {
            completed: 2,
            missing: 1,
            named: vec!["/events/x: pending".to_owned()],
            ..Found::default()
        });
        let text = report.to_string();
        assert!(!report.is_right() && text.contains("1 MISSING\n  missing: /events/x: pending\n"), "{text}");
        report.check(Found { completed: 3, ..Found::default() });
        assert!(report.is_right());
        report.uncheckable("nobody says where".to_owned());
        assert!(!report.is_right());
        sent.complain("500 for what is right".to_owned());
        let report = Report::of(&sent, Duration::from_secs(1));
        assert!(!report.is_right() && report.to_string().ends_with("500 for what is right\nFAILED\n"), "{report}");
    }
}
