//! Tells what became of a job, at once or when it has ended. Never says that a job ended which was not seen to end, nor
//! knows one that was not issued.

use super::jobs::{Asked, PREFERENCE_APPLIED, granted};
use super::problem::Problem;
use super::route::Results;
use super::{RETRY_AFTER_S, Shared, client};
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use bulkhead_core::job_id::JobId;
use bulkhead_core::jobs::{Job, JobError, JobOutcome};
use bulkhead_core::time::WallMs;
use serde_json::{Value, json};
use std::time::Duration;

/// Serves one request for the job of this route's pipeline that its path names.
pub(super) async fn serve(shared: &Shared, route: &Results, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    let tenant = client::tenant(shared, request)?;
    let asked = Asked::verify(shared, &route.jobs, tenant, request.match_info().query(&route.variable))?;
    let granted = granted(request, route.wait_max, Duration::ZERO);
    let job = asked.wait(shared, granted.wait).await;
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    if let Some(applied) = granted.applied {
        response.insert_header((PREFERENCE_APPLIED, applied));
    }
    let Some(job) = job else {
        asked.check_age(shared)?;
        response.insert_header((header::RETRY_AFTER, RETRY_AFTER_S));
        return Ok(response.json(pending(asked.id)));
    };
    Ok(response.json(ended(asked.id, &job)))
}

/// The document of a job that was not seen to end.
pub(super) fn pending(id: JobId) -> Value {
    document(id, "pending", Value::Null, Value::Null, id.accepted(), None)
}

/// The document of a job that ended.
pub(super) fn ended(id: JobId, job: &Job) -> Value {
    let (status, result, error) = match &job.outcome {
        JobOutcome::Completed(result) => ("completed", as_json(result), Value::Null),
        JobOutcome::Failed(error) => ("failed", Value::Null, describe(error)),
        JobOutcome::Dropped => ("completed", Value::Null, Value::Null),
    };
    let mut document = document(id, status, result, error, job.accepted, Some(job.ended));
    if matches!(job.outcome, JobOutcome::Dropped) {
        document["dropped"] = Value::Bool(true);
    }
    if job.conflicts > 0 {
        document["conflicts"] = job.conflicts.into();
    }
    document
}

fn document(
    id: JobId,
    status: &str,
    result: Value,
    error: Value,
    accepted: Option<WallMs>,
    completed: Option<WallMs>,
) -> Value {
    // Two machines' clocks may disagree: a job does not take less than nothing.
    let total = accepted.zip(completed).map(|(accepted, completed)| completed.0.saturating_sub(accepted.0).max(0));
    json!({
        "jobId": id.to_string(),
        "status": status,
        "result": result,
        "error": error,
        "timings": {
            "accepted_ms": accepted.map(|at| at.0),
            "completed_ms": completed.map(|at| at.0),
            "total_ms": total,
        },
    })
}

/// A result that is no JSON is shown as the text it is.
fn as_json(result: &[u8]) -> Value {
    serde_json::from_slice(result).unwrap_or_else(|_| String::from_utf8_lossy(result).into())
}

fn describe(error: &JobError) -> Value {
    json!({
        "code": error.code,
        "message": error.message,
        "stage": error.stage,
        "class": error.class,
        "attempts": error.attempts.parse::<u32>().ok(),
    })
}
