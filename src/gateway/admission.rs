//! Whether a record may come in at all, decided before a byte of its body is read. Never holds a request up.

use super::problem::Problem;
use super::store::Fallback;
use super::{Intake, Shared};
use actix_web::HttpRequest;
use actix_web::http::StatusCode;

/// What keeps records from coming in, as the daemon knows it without asking.
pub trait Pressure: Send + Sync {
    /// Why this pipeline takes no records now; `None` where it does.
    fn refuses(&self, pipeline: &str) -> Option<Refusal>;
}

/// Why no records are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The log cannot be reached.
    LogAway,
    /// More records wait in the source topic than may.
    Backlog {
        /// How many wait, about.
        records: u64,
        /// How many may.
        records_max: u64,
    },
}

/// A daemon that takes whatever comes.
#[derive(Clone, Copy, Debug)]
pub struct NoPressure;

impl Pressure for NoPressure {
    fn refuses(&self, _: &str) -> Option<Refusal> {
        None
    }
}

/// Refuses where nothing can be taken for this pipeline, or the client comes too often.
pub(super) fn admit(shared: &Shared, request: &HttpRequest, tenant: &str, intake: &Intake) -> Result<(), Problem> {
    admit_to(shared, request, tenant, &intake.route.jobs.pipeline, intake.fallback.as_ref())
}

/// The same for a record that comes by another kind of route.
pub(super) fn admit_to(
    shared: &Shared,
    request: &HttpRequest,
    tenant: &str,
    pipeline: &str,
    fallback: Option<&Fallback>,
) -> Result<(), Problem> {
    if shared.is_draining() {
        return Err(Problem::draining());
    }
    if let Some(fallback) = fallback {
        fallback.check()?;
    }
    match shared.pressure.refuses(pipeline) {
        Some(Refusal::LogAway) if fallback.is_some() => {}
        Some(Refusal::LogAway) => {
            return Err(Problem::unavailable("log-unavailable", "Log unavailable", "Nothing was stored; try again."));
        }
        Some(Refusal::Backlog { records, records_max }) => {
            let detail =
                format!("About {records} records wait for this pipeline, which takes no more above {records_max}.");
            return Err(Problem::unavailable("backlog-full", "Backlog full", detail));
        }
        None => {}
    }
    let Some(rate) = &shared.rate else { return Ok(()) };
    let peer = || request.peer_addr().map_or_else(String::new, |peer| peer.ip().to_string());
    let client = if tenant.is_empty() { peer() } else { tenant.to_owned() };
    let admitted = rate.lock().admit(&client, shared.clock.now());
    admitted.map_err(|after| {
        let (code, title) = ("too-many-requests", "Too many requests");
        let detail = "This client sends more requests than are taken from one; it may go on after Retry-After.";
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, code, title, detail);
        Problem { retry_after_s: Some(u64::try_from(after.as_millis().div_ceil(1_000)).unwrap_or(u64::MAX)), ..problem }
    })
}
