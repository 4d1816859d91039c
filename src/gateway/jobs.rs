//! Finds jobs, and waits for them to end. Never says that a job ended which was not seen to end, and never waits past
//! what was granted, the gateway's own end, or its number of waiters.

use super::Shared;
use super::problem::Problem;
use super::route::JobsOf;
use actix_web::HttpRequest;
use actix_web::http::{StatusCode, header};
use bulkhead_actors::results::{JobStore, Waiter};
use bulkhead_core::batch::KeyHash;
use bulkhead_core::ids::{Offset, Partition};
use bulkhead_core::job_id::{JobId, Scope};
use bulkhead_core::jobs::{Job, JobName};
use bulkhead_core::ledger::{Claimer, TENANT_HEADER};
use bulkhead_core::prefer::{Granted, Prefer};
use bulkhead_core::record::{Header, ID_HEADER, Record, SourceRecord};
use std::sync::Arc;
use std::time::Duration;

/// The header by which a client says that it would wait.
const PREFER: header::HeaderName = header::HeaderName::from_static("prefer");
/// The header that says what was granted.
pub(super) const PREFERENCE_APPLIED: header::HeaderName = header::HeaderName::from_static("preference-applied");

/// A job that a request may know of.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub of: &'a JobsOf,
    pub tenant: &'a str,
    pub id: JobId,
}

impl<'a> Asked<'a> {
    /// The job that the text names, where it was issued to this tenant.
    pub(super) fn verify(shared: &Shared, of: &'a JobsOf, tenant: &'a str, text: &str) -> Result<Self, Problem> {
        let scope = Scope { tenant, pipeline: &of.pipeline };
        let id = shared.ids.verify(scope, text).map_err(|_| Problem::unknown_job())?;
        Ok(Self { of, tenant, id })
    }

    fn key(&self) -> Option<KeyHash> {
        self.of.claims.as_ref().map(|claims| ledger_key(claims, self.tenant, self.id))
    }

    /// How it ended; `None` where that was not seen. A conflict may yet be replaced by the outcome it conflicts with.
    pub(super) fn find(&self, shared: &Shared) -> Option<Job> {
        shared.jobs.get(self.id, self.key())
    }

    /// Subscribes to its news.
    pub(super) fn news(&self, jobs: &Arc<JobStore>) -> News {
        News { id: jobs.wait(JobName::Id(self.id)), key: self.key().map(|key| jobs.wait(JobName::Key(key))) }
    }

    /// Waits until it has ended, at most `patience`: less where too many wait already, or the gateway drains.
    pub(super) async fn wait(&self, shared: &Shared, patience: Duration) -> Option<Job> {
        let job = self.find(shared);
        if patience.is_zero() || job.as_ref().is_some_and(is_final) {
            return job;
        }
        let Ok(_waiting) = shared.waiting.try_acquire() else { return job };
        let (_counted, mut news) = (shared.count_waiting(), self.news(&shared.jobs));
        let ended = async {
            while !self.find(shared).as_ref().is_some_and(is_final) {
                news.changed().await;
            }
        };
        tokio::select! { () = ended => {}, () = shared.drained() => {}, () = tokio::time::sleep(patience) => {} }
        self.find(shared)
    }

    /// 410 where its outcome is older than outcomes are kept.
    pub(super) fn check_age(&self, shared: &Shared) -> Result<(), Problem> {
        if self.id.accepted().is_some_and(|accepted| shared.jobs.outlived(accepted, shared.clock.wall())) {
            let detail = "The job was accepted longer ago than outcomes are kept.";
            return Err(Problem::new(StatusCode::GONE, "forgotten-job", "Forgotten job", detail));
        }
        Ok(())
    }
}

/// News of one job, by each of its names.
pub(super) struct News {
    id: Waiter,
    key: Option<Waiter>,
}

impl News {
    /// Resolves when its outcome is new or another.
    pub(super) async fn changed(&mut self) {
        match &mut self.key {
            Some(key) => tokio::select! { () = self.id.news() => {}, () = key.news() => {} },
            None => self.id.news().await,
        }
    }
}

/// Whether the outcome stays, but for a redrive.
pub(super) fn is_final(job: &Job) -> bool {
    !job.outcome.is_conflict()
}

/// Whether the client said that it would rather not wait.
pub(super) fn prefers_async(request: &HttpRequest) -> bool {
    let fields = request.headers().get_all(PREFER).filter_map(|field| field.to_str().ok());
    Prefer::of(fields).respond_async
}

/// How long the request is let wait, and what its answer says of that.
pub(super) fn granted(request: &HttpRequest, wait_max: Duration, unasked: Duration) -> Granted {
    let fields = request.headers().get_all(PREFER).filter_map(|field| field.to_str().ok());
    Prefer::of(fields).grant(wait_max, unasked)
}

/// The key under which the ledger has the record of this job. Its place plays no part: it has an id.
fn ledger_key(claims: &Claimer, tenant: &str, id: JobId) -> KeyHash {
    let headers = vec![Header::new(ID_HEADER, id.to_string()), Header::new(TENANT_HEADER, tenant.to_owned())];
    let record = Record { headers, ..Record::default() };
    claims.claim(Partition(0), &SourceRecord { offset: Offset(0), record }).key
}
