//! How a job's end is answered by the route that waited for it. Never waits, and never tells of an end that was not seen.

use super::problem::{LOCATION, Problem};
use super::results;
use actix_web::http::StatusCode;
use actix_web::{HttpResponse, HttpResponseBuilder};
use bulkhead_core::fault::FaultClass;
use bulkhead_core::job_id::JobId;
use bulkhead_core::jobs::{Job, JobError, JobOutcome};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// How a route answers for jobs that it waited for.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// Whether a job that is done is answered with its result alone, not with its document.
    pub result_alone: bool,
    /// Whether a job that has not ended in time is a problem (504).
    pub late_is_problem: bool,
    /// Whether a job that failed is a problem.
    pub failure_is_problem: bool,
    /// Statuses of failures by the code of their fault.
    pub statuses: BTreeMap<String, StatusCode>,
    /// What is added to the 504, where it is known why no result may ever come.
    pub late_hint: Option<&'static str>,
}

impl Answers {
    /// A job that has ended: its document, or its result alone.
    pub(super) fn ended(&self, id: JobId, job: &Job, response: &mut HttpResponseBuilder) -> HttpResponse {
        match &job.outcome {
            JobOutcome::Completed(result) if self.result_alone => {
                let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(result).is_ok();
                let kind = if is_json { "application/json" } else { "text/plain; charset=utf-8" };
                response.content_type(kind).body(result.clone())
            }
            _ => response.json(results::ended(id, job)),
        }
    }

    /// The problem of a job that failed, where that is one.
    pub(super) fn failure(&self, id: JobId, job: &Job, place: Option<&str>) -> Option<Problem> {
        match &job.outcome {
            JobOutcome::Failed(error) if self.failure_is_problem => Some(self.failed(id, error, place)),
            _ => None,
        }
    }

    /// The problem of a job that has not ended in time, where that is one.
    pub(super) fn late(&self, id: JobId, waited: Duration, place: Option<&str>) -> Option<Problem> {
        if !self.late_is_problem {
            return None;
        }
        let hint = self.late_hint.map_or(String::new(), |hint| format!(" {hint}"));
        let detail =
            format!("No result came within {} s; the job goes on and can be asked for.{hint}", waited.as_secs_f64());
        let problem = Problem::new(StatusCode::GATEWAY_TIMEOUT, "result-late", "No result in time", detail);
        Some(about(problem, id, place, &[]))
    }

    fn failed(&self, id: JobId, error: &JobError, place: Option<&str>) -> Problem {
        let by_class = if error.class == FaultClass::Poison.as_str() {
            StatusCode::UNPROCESSABLE_ENTITY
        } else if error.class == FaultClass::Transient.as_str() {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        let status = self.statuses.get(&error.code).copied().unwrap_or(by_class);
        let detail = if error.message.is_empty() { "The job failed.".to_owned() } else { error.message.clone() };
        let mut problem = Problem::new(status, "job-failed", "Job failed", detail);
        problem.retry_after_s = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(super::RETRY_AFTER_S);
        about(problem, id, place, &[("code", &error.code), ("stage", &error.stage), ("class", &error.class)])
    }
}

/// The problem with the job's id and where it can be asked for.
fn about(problem: Problem, id: JobId, place: Option<&str>, members: &[(&str, &str)]) -> Problem {
    let mut of: Map<String, Value> =
        members.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    of.insert("jobId".to_owned(), id.to_string().into());
    of.extend(place.map(|place| (LOCATION.to_owned(), place.into())));
    Problem { members: of, ..problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_core::ids::Round;
    use bulkhead_core::job_id::{JobIds, Scope};
    use bulkhead_core::time::WallMs;

    fn id() -> JobId {
        JobIds::new(b"0123456789abcdef").from_key(Scope { tenant: "", pipeline: "p" }, "/", "k")
    }

    fn job(outcome: JobOutcome) -> Job {
        Job { round: Round(0), accepted: None, ended: WallMs(0), fingerprint: None, outcome, conflicts: 0 }
    }

    fn failure(code: &str, class: &str) -> Job {
        let error = JobError { code: code.into(), class: class.into(), message: "why".into(), ..JobError::default() };
        job(JobOutcome::Failed(error))
    }

    fn problems() -> Answers {
        let statuses = BTreeMap::from([("http_404".to_owned(), StatusCode::NOT_FOUND)]);
        Answers { failure_is_problem: true, late_is_problem: true, result_alone: true, statuses, ..Answers::default() }
    }

    #[test]
    fn a_failure_has_the_status_of_its_code_or_else_of_its_class() {
        for (code, class, status, retry) in [
            ("http_404", "poison", 404, None),
            ("bad", "poison", 422, None),
            ("circuit_open", "transient", 503, Some(1)),
            ("odd", "", 500, None),
        ] {
            let problem = problems().failure(id(), &failure(code, class), Some("/r/1")).expect("it is one");
            assert_eq!((problem.status.as_u16(), problem.retry_after_s), (status, retry), "{code}");
            assert_eq!((problem.detail.as_str(), problem.members["location"].as_str()), ("why", Some("/r/1")));
            assert_eq!(problem.members["code"], code);
            assert_eq!(problem.members["jobId"], id().to_string());
        }
        assert!(
            Answers::default().failure(id(), &failure("bad", "poison"), None).is_none(),
            "it is told as a document"
        );
    }

    #[test]
    fn a_result_is_told_alone_where_the_route_says_so() {
        let done = |text: &'static [u8]| job(JobOutcome::Completed(text.into()));
        let kind = |job: &Job| {
            let response = problems().ended(id(), job, &mut HttpResponse::Ok());
            response.headers().get("content-type").expect("it has one").to_str().expect("it is text").to_owned()
        };
        assert_eq!(kind(&done(b"{\"objects\":[]}")), "application/json");
        assert_eq!(kind(&done(b"just words")), "text/plain; charset=utf-8");
    }

    #[test]
    fn a_job_that_is_late_is_a_problem_only_where_the_route_says_so() {
        assert!(Answers::default().late(id(), Duration::from_secs(1), None).is_none());
        let hinted = Answers { late_hint: Some("Nobody can."), ..problems() };
        let problem = hinted.late(id(), Duration::from_millis(1_500), Some("/r/1")).expect("it is one");
        assert_eq!((problem.status.as_u16(), problem.members["location"].as_str()), (504, Some("/r/1")));
        assert!(problem.detail.starts_with("No result came within 1.5 s") && problem.detail.ends_with("Nobody can."));
    }
}
