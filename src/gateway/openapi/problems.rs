//! Every problem that a route answers with, by what the route does: the one list that the API's description is made from.
//! Never makes a problem.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A problem: the last part of its `type`, its status, and when it is told.
pub(super) struct Kind {
    code: &'static str,
    status: u16,
    when: &'static str,
}

pub(super) const fn kind(code: &'static str, status: u16, when: &'static str) -> Kind {
    Kind { code, status, when }
}

/// Of a route that takes records, before it reads them.
pub(super) const ADMISSION: &[Kind] = &[
    kind("too-many-requests", 429, "the client sends more than `http.rate` lets it"),
    kind("backlog-full", 503, "more records wait than `source.backlog_max`"),
    kind("draining", 503, "the daemon is shutting down"),
    kind("log-unavailable", 503, "the log cannot be reached; nothing was stored"),
    kind("overloaded", 503, "more is being taken than `http.requests_max` and `http.bodies_max` let in"),
];
/// Of a body.
pub(super) const BODY: &[Kind] = &[
    kind("incomplete-body", 400, "the body ended early"),
    kind("slow-body", 408, "the body did not come within `http.body_timeout`"),
    kind("body-too-large", 413, "the body is larger than the route takes"),
    kind("record-too-large", 413, "the record is larger than its topic takes"),
    kind("unsupported-media-type", 415, "the content is of no type that the route takes, or has a Content-Encoding"),
];
/// Of a body that is the record.
pub(super) const WHOLE: &[Kind] = &[kind("empty-body", 400, "the body has 0 bytes")];
/// Of a body that brings several events.
pub(super) const EVENTS: &[Kind] = &[
    kind("empty-body", 400, "the body has 0 bytes"),
    kind("bad-events", 400, "the body is no JSON object, no array of them, and not one a line"),
    kind("too-many-events", 413, "the body has more events than the route takes"),
    kind("bad-events", 422, "some events are bad: `events` lists them by `index`; nothing was stored"),
];
/// Of a body that is a form.
pub(super) const FORM: &[Kind] = &[
    kind("bad-multipart", 400, "the form cannot be read"),
    kind("empty-body", 400, "the body has 0 bytes"),
    kind("empty-file", 400, "the file has 0 bytes"),
    kind("missing-field", 400, "the file is not in its field"),
    kind("too-many-files", 400, "the field comes more than once"),
    kind("too-many-parts", 400, "the form has more than `http.parts_max` parts"),
];
/// Of fields beside the content.
pub(super) const FIELDS: &[Kind] = &[
    kind("bad-field", 400, "a field is too long, or not of its form"),
    kind("bad-form", 400, "the query or the form cannot be read"),
    kind("missing-field", 400, "a field is missing"),
    kind("repeated-field", 400, "a field comes more than once"),
];
/// Of a job that failed while the request waited for it; its status says whose fault it was, `code` what it was.
pub(super) const FAILED: &[Kind] = &[
    kind("job-failed", 422, "the job failed over what was sent"),
    kind("job-failed", 500, "the job failed"),
    kind("job-failed", 502, "the job failed over another system"),
    kind("job-failed", 503, "the job failed over what may pass"),
];
/// Of a job that failed over a fault whose status the route's `answer.statuses` says.
pub(super) const fn job_failed(status: u16) -> Kind {
    kind("job-failed", status, "the job failed over a fault that the config gives this status")
}
/// Of a job that has not ended in time.
pub(super) const LATE: &[Kind] =
    &[kind("result-late", 504, "the job has not ended within the route's `wait_max`; it goes on")];
/// Of storing a record.
pub(super) const STORED: &[Kind] = &[
    kind("log-refused", 500, "the log refuses the record for good"),
    kind("not-acknowledged", 503, "whether the record was stored is not known: send it again under its key"),
];
/// Of a route with steps of its own.
pub(super) const STEPS: &[Kind] = &[
    kind("rejected", 422, "a step of the route refuses the record; `violations` lists why, where the step does"),
    kind("step-crashed", 500, "a step of the route crashed over the record"),
    kind("steps-failed", 500, "a step of the route cannot run"),
    kind("steps-timeout", 503, "the route's steps took longer than `http.steps_timeout`"),
    kind("steps-unavailable", 503, "a step of the route cannot run now"),
];
/// Of a route with an outbox.
pub(super) const OUTBOX: &[Kind] = &[kind("outbox-full", 503, "the log is away and the outbox is full")];
/// Of a request's own key.
pub(super) const KEYED: &[Kind] = &[
    kind("bad-idempotency-key", 400, "the key is none"),
    kind("request-in-progress", 409, "the first request of the key has not been answered yet"),
    kind("idempotency-key-reused", 422, "the key was used for another payload"),
];
/// Of a route that demands a key.
pub(super) const KEY_REQUIRED: &[Kind] = &[kind("missing-idempotency-key", 400, "there is no key")];
/// Of a route that finds a key in the body, too.
pub(super) const KEY_IN_BODY: &[Kind] = &[
    kind("bad-json", 400, "the body is declared to be JSON and is none"),
    kind("idempotency-keys-differ", 400, "the header and the body name two keys"),
];
/// Of a route whose records' key is a header.
pub(super) const HEADER_KEYED: &[Kind] =
    &[kind("missing-header", 400, "the header is missing"), kind("bad-header", 400, "a header is not as it must be")];
/// Of an installation with tenants.
pub(super) const TENANT: &[Kind] = &[
    kind("missing-tenant", 400, "the request names no tenant"),
    kind("bad-header", 400, "a header is not as it must be"),
];
/// Of a job.
pub(super) const JOB: &[Kind] = &[
    kind("unknown-job", 404, "no job of this id was ever accepted here"),
    kind("forgotten-job", 410, "the job is older than `jobs.ttl`"),
];
/// Of a stream.
pub(super) const STREAM: &[Kind] = &[
    kind("draining", 503, "the daemon is shutting down"),
    kind("too-many-waiting", 503, "more wait than `http.waiting_max`"),
];

/// The `responses` of these problems: one a status, with the types that it may have.
pub(super) fn responses(groups: &[&[Kind]]) -> Map<String, Value> {
    let mut by_status = BTreeMap::<u16, BTreeMap<&str, &str>>::new();
    for kind in groups.iter().copied().flatten() {
        by_status.entry(kind.status).or_default().entry(kind.code).or_insert(kind.when);
    }
    // What the HTTP library itself finds wrong with a request.
    by_status.entry(400).or_default().insert("http", "the request is no proper HTTP");
    by_status.into_iter().map(|(status, kinds)| (status.to_string(), response(status, &kinds))).collect()
}

fn response(status: u16, kinds: &BTreeMap<&str, &str>) -> Value {
    let told: Vec<_> = kinds.iter().map(|(code, when)| format!("- `{code}`: {when}")).collect();
    let types: Vec<_> = kinds.keys().map(|code| format!("urn:bulkhead:problem:{code}")).collect();
    let schema = json!({ "allOf": [
        { "$ref": "#/components/schemas/Problem" },
        { "properties": { "type": { "enum": types }, "status": { "const": status } } },
    ] });
    let mut response = json!({
        "description": told.join("\n"),
        "content": { "application/problem+json": { "schema": schema } },
    });
    if matches!(status, 409 | 429 | 503) {
        response["headers"] = json!({ "Retry-After": { "$ref": "#/components/headers/Retry-After" } });
    }
    response
}
