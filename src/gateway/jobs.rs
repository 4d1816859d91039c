//! Finds jobs: what became of one, in whose name. Never says that a job ended which was not seen to end.

use super::Shared;
use super::route::JobsOf;
use bulkhead_core::batch::KeyHash;
use bulkhead_core::ids::{Offset, Partition};
use bulkhead_core::job_id::JobId;
use bulkhead_core::jobs::Job;
use bulkhead_core::ledger::{Claimer, TENANT_HEADER};
use bulkhead_core::record::{Header, ID_HEADER, Record, SourceRecord};

/// How the job of this tenant ended; `None` where that was not seen.
pub(super) fn find(shared: &Shared, of: &JobsOf, tenant: &str, id: JobId) -> Option<Job> {
    shared.jobs.get(id, of.claims.as_ref().map(|claims| ledger_key(claims, tenant, id)))
}

/// The key under which the ledger has the record of this job. Its place plays no part: it has an id.
pub(super) fn ledger_key(claims: &Claimer, tenant: &str, id: JobId) -> KeyHash {
    let headers = vec![Header::new(ID_HEADER, id.to_string()), Header::new(TENANT_HEADER, tenant.to_owned())];
    let record = Record { headers, ..Record::default() };
    claims.claim(Partition(0), &SourceRecord { offset: Offset(0), record }).key
}
