//! Takes a record: reads it, names its job, hands it to the log, and answers once it is durable. Never answers before.

use super::client::{self, header_text};
use super::edge::{Edged, Refused};
use super::jobs::{Asked, PREFERENCE_APPLIED, granted, is_final, prefers_async};
use super::keys::{self, First, IDEMPOTENCY_KEY, Named, Turn};
use super::problem::Problem;
use super::route::{Accept, Body, Key};
use super::split::Event;
use super::store::{Place, store};
use super::upload::{self, Upload};
use super::{Intake, RETRY_AFTER_S, Shared, admission, many};
use actix_web::http::{StatusCode, header};
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use bulkhead_actors::log::Outgoing;
use bulkhead_core::deadline::{DEADLINE_HEADER, deadline};
use bulkhead_core::job_id::{JobId, Scope};
use bulkhead_core::jobs::Job;
use bulkhead_core::ledger::{TENANT_HEADER, fingerprint};
use bulkhead_core::record::{ACCEPTED_HEADER, FINGERPRINT_HEADER, Header, ID_HEADER, Record};
use bulkhead_core::time::WallMs;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// The record's header that carries a client's idempotency key: a ledger may go by it.
const KEY_HEADER: &str = "idempotency-key";
/// Says that a record waits in this gateway's outbox for the log.
const OUTBOX: header::HeaderName = header::HeaderName::from_static("bulkhead-outbox");
/// Clients' headers that travel with the record, so that it can be followed from outside. All others stay behind,
/// `__bulkhead.*` among them.
const PASSED_ON: [&str; 2] = ["traceparent", "x-request-id"];

/// Bytes of budget a permit stands for: the semaphore counts in `u32`.
const PERMIT_BYTES: usize = 1024;

/// Permits for so many bytes of bodies.
pub(super) fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX)
}

/// Who asks, and since when.
#[derive(Clone, Copy)]
struct Asker<'a> {
    http: &'a HttpRequest,
    tenant: &'a str,
    accepted: WallMs,
}

/// A request whose body was read: its job has a name.
struct Request<'a> {
    asker: Asker<'a>,
    job: Asked<'a>,
    key: Option<String>,
}

/// A request whose record is durable.
struct Taken<'a> {
    job: Asked<'a>,
    /// The names of its events, where its body brings several.
    events: Option<Vec<JobId>>,
    /// What it is called.
    named: Option<Named>,
    is_replay: bool,
    /// Where it was made durable; none for a replay.
    place: Option<Place>,
    /// Held for as long as others of its key are told that it is in progress.
    _first: Option<First<'a>>,
}

/// Serves one request.
pub(super) async fn serve(
    shared: &Shared,
    intake: &Intake,
    http: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let route = &intake.route;
    let tenant = client::tenant(shared, &http)?;
    admission::admit(shared, &http, tenant, intake)?;
    let key = keys::header_key(&http)?;
    keys::demand(key.as_deref(), &route.idempotency)?;
    let asker = Asker { http: &http, tenant, accepted: shared.clock.wall() };
    let taken = take(shared, intake, asker, key, payload).await?;
    let unasked = if route.waits { route.wait_max } else { Duration::ZERO };
    let granted = granted(&http, route.wait_max, unasked);
    let job = if granted.wait.is_zero() { None } else { taken.job.wait(shared, granted.wait).await };
    let sent = taken.named.as_ref().map(|named| named.fingerprint);
    if sent.is_some() && job.as_ref().is_some_and(|job| job.fingerprint.is_some_and(|of| Some(of) != sent)) {
        // Another gateway took the key at the same time, with another payload, and the ledger had that one first.
        return Err(keys::other_payload());
    }
    let job = job.filter(is_final);
    let place = intake.place(taken.job.id);
    if job.is_none()
        && !granted.wait.is_zero()
        && !prefers_async(&http)
        && let Some(problem) = route.answers.late(taken.job.id, granted.wait, place.as_deref())
    {
        return Err(problem);
    }
    if let Some(job) = &job
        && let Some(problem) = route.answers.failure(taken.job.id, job, place.as_deref())
    {
        return Err(problem);
    }
    let mut response = if job.is_some() { HttpResponse::Ok() } else { HttpResponse::Accepted() };
    if let Some(named) = &taken.named {
        keys::mark(&mut response, &route.idempotency, &named.key, taken.is_replay);
    }
    if taken.place == Some(Place::Outbox) {
        response.insert_header((OUTBOX, "queued"));
    }
    if let Some(applied) = granted.applied {
        response.insert_header((PREFERENCE_APPLIED, applied));
    }
    if let Some(events) = &taken.events {
        return Ok(response.json(many::answer(intake, events)));
    }
    Ok(answer(intake, &taken, job.as_ref(), place, &mut response))
}

/// The job of a request: one key names one job, and a request without a key has a job of its own.
fn job<'a>(shared: &Shared, intake: &'a Intake, asker: Asker<'a>, key: Option<&str>) -> Asked<'a> {
    let of = &intake.route.jobs;
    let scope = Scope { tenant: asker.tenant, pipeline: &of.pipeline };
    let id = match key {
        Some(key) => shared.ids.from_key(scope, &intake.path, key),
        None => shared.ids.random(scope, asker.accepted, rand::random()),
    };
    Asked { of, tenant: asker.tenant, id }
}

/// Reads the request's record and makes it durable, unless that was done before under its key.
async fn take<'a>(
    shared: &'a Shared,
    intake: &'a Intake,
    asker: Asker<'a>,
    header: Option<String>,
    payload: Payload,
) -> Result<Taken<'a>, Problem> {
    let (route, limits) = (&intake.route, &shared.limits);
    let in_progress = route.idempotency.in_progress;
    if header.is_some() {
        shared.keys.refuse_early(job(shared, intake, asker, header.as_deref()).id, in_progress)?;
    }
    let _request = reserve(&shared.requests, 1)?;
    let declared = upload::declared_len(asker.http, route.body_bytes_max)?;
    let _room = reserve(&shared.room, permits(declared.unwrap_or(route.body_bytes_max)))?;
    let upload = timeout(limits.body_timeout, upload::read(asker.http, payload, route, limits.parts_max))
        .await
        .map_err(|_| slow_body(limits.body_timeout.as_secs_f64()))??;
    let key = keys::key_of(&shared.steps, &intake.path, &route.idempotency, header, &upload).await?;
    let job = job(shared, intake, asker, key.as_deref());
    // Of what the client sent, whatever the steps make of it; nobody asks for it where there is no key.
    let print = key.as_ref().map(|_| fingerprint(&upload.signed()));
    let Made { mut records, events } = make(shared, intake, Request { asker, job, key: key.clone() }, upload)?;
    let Some((key, print)) = key.zip(print) else {
        let place = Some(finish(shared, intake, records).await?);
        return Ok(Taken { job, events, named: None, is_replay: false, place, _first: None });
    };
    for record in records.iter_mut().filter_map(|record| record.as_mut().ok()) {
        record.headers.push(Header::new(FINGERPRINT_HEADER, format!("{print:016x}")));
    }
    // A request that brings several events is known by its first one's outcome.
    let known = Asked { id: events.as_ref().and_then(|events| events.first().copied()).unwrap_or(job.id), ..job };
    let outcome = || known.find(shared).and_then(|job| job.fingerprint);
    let patience = limits.ack_timeout + if route.steps.is_some() { limits.steps_timeout } else { Duration::ZERO };
    let turn = shared.keys.turn(job.id, print, in_progress, patience, outcome).await?;
    let (place, first) = match turn {
        Turn::Replay => (None, None),
        Turn::First(first) => {
            let place = finish(shared, intake, records).await?;
            (Some(place), first.durable(in_progress))
        }
    };
    let (is_replay, named) = (place.is_none(), Some(Named { key, fingerprint: print }));
    Ok(Taken { job, events, named, is_replay, place, _first: first })
}

/// The records of a body.
struct Made {
    /// Those that are to be stored; an event that is none, with the reason.
    records: Vec<Edged>,
    /// Their names, where the route's bodies bring several.
    events: Option<Vec<JobId>>,
}

/// Makes a body its records.
fn make(shared: &Shared, intake: &Intake, request: Request<'_>, upload: Upload) -> Result<Made, Problem> {
    let route = &intake.route;
    let Body::Events { events_max } = route.body else {
        return Ok(Made { records: vec![Ok(record(route, &request, upload)?)], events: None });
    };
    let Request { asker, job, key } = request;
    let events = many::split(&upload, events_max)?;
    let scope = Scope { tenant: asker.tenant, pipeline: &job.of.pipeline };
    let ids = many::ids(shared, scope, job.id, key.is_some(), events.len());
    let one = |(event, id): (Event, &JobId)| match event {
        Ok(value) => {
            let request = Request { asker, job: Asked { id: *id, ..job }, key: key.clone() };
            record(route, &request, many::one(&upload, value)).map(Ok)
        }
        Err(why) => Ok(Err(many::no_event(why))),
    };
    let records = events.into_iter().zip(&ids).map(one).collect::<Result<_, _>>()?;
    Ok(Made { records, events: Some(ids) })
}

/// Has the records pass the route's steps, and makes them durable, all of them or none.
async fn finish(shared: &Shared, intake: &Intake, records: Vec<Edged>) -> Result<Place, Problem> {
    let records = match intake.route.body {
        Body::Events { .. } => many::edged(shared, intake, records).await?,
        Body::File { .. } | Body::Whole | Body::Fields => one_edged(shared, intake, records).await?,
    };
    let outgoing = |record| Outgoing { topic: Arc::clone(&intake.route.topic), partition: None, record };
    store(shared, intake, records.into_iter().map(outgoing).collect()).await
}

/// The only record of a request, as the steps leave it.
async fn one_edged(shared: &Shared, intake: &Intake, records: Vec<Edged>) -> Result<Vec<Record>, Problem> {
    let refused = |refused: Refused| refused.problem();
    let records = records.into_iter().collect::<Result<Vec<_>, _>>().map_err(refused)?;
    let Some(steps) = &intake.route.steps else { return Ok(records) };
    let edged = steps.run(&shared.steps, records).await?;
    edged.into_iter().collect::<Result<_, _>>().map_err(refused)
}

/// The answer to a request whose record is durable: the same for the same job, whoever gives it.
fn answer(
    intake: &Intake,
    taken: &Taken<'_>,
    job: Option<&Job>,
    place: Option<String>,
    response: &mut HttpResponseBuilder,
) -> HttpResponse {
    let id = taken.job.id;
    if let Some(job) = job {
        response.insert_header((header::CACHE_CONTROL, "no-store"));
        if let Some(place) = place {
            response.insert_header((header::CONTENT_LOCATION, place));
        }
        return intake.route.answers.ended(id, job, response);
    }
    if let Some(place) = place {
        response.insert_header((header::LOCATION, place));
    }
    response.insert_header((header::RETRY_AFTER, RETRY_AFTER_S));
    let mut document = json!({ "jobId": id.to_string(), "status": "accepted" });
    if let Some(named) = taken.named.as_ref().filter(|_| intake.route.idempotency.derive.is_some()) {
        document["idempotencyKey"] = named.key.as_str().into();
    }
    response.json(document)
}

/// Room that is held until the record is durable; refused before a byte of the body is read where there is none.
pub(super) fn reserve(room: &Semaphore, permits: u32) -> Result<SemaphorePermit<'_>, Problem> {
    room.try_acquire_many(permits).map_err(|_| {
        Problem::unavailable("overloaded", "Overloaded", "Too many requests are being served; try again shortly.")
    })
}

fn slow_body(seconds: f64) -> Problem {
    let detail = format!("The body did not come within {seconds} s.");
    Problem::new(StatusCode::REQUEST_TIMEOUT, "slow-body", "Body too slow", detail)
}

fn record(route: &Accept, request: &Request<'_>, upload: Upload) -> Result<Record, Problem> {
    let Request { asker: Asker { http, tenant, accepted }, job, .. } = request;
    let key = match &route.key {
        Key::JobId | Key::Made => job.id.to_string(),
        // The draft's quoted form of a key and the bare one must lie in one partition.
        Key::Header(name) if name.eq_ignore_ascii_case(IDEMPOTENCY_KEY) => {
            request.key.clone().ok_or_else(|| missing(name))?
        }
        Key::Header(name) => header_text(http, name)?.map(str::to_owned).ok_or_else(|| missing(name))?,
    };
    let mut headers = vec![
        Header::new(ID_HEADER, job.id.to_string()),
        Header::new(ACCEPTED_HEADER, accepted.0.to_string()),
        Header::new(upload::CONTENT_TYPE, upload.content_type),
    ];
    if !tenant.is_empty() {
        headers.push(Header::new(TENANT_HEADER, (*tenant).to_owned()));
    }
    headers.extend(request.key.as_ref().map(|key| Header::new(KEY_HEADER, key.clone())));
    headers.extend(upload.fields.into_iter().map(|(name, value)| Header::new(&name, value)));
    for name in PASSED_ON {
        // One that is malformed is left behind: W3C Trace Context has a bad `traceparent` ignored.
        if let Ok(Some(value)) = header_text(http, name) {
            headers.push(Header::new(name, value.to_owned()));
        }
    }
    if let Some(may_take) = route.deadline {
        headers.push(Header::new(DEADLINE_HEADER, deadline(*accepted, may_take).0.to_string()));
    }
    Ok(Record { key: Some(key.into()), value: Some(upload.value), headers, timestamp: *accepted })
}

fn missing(name: &str) -> Problem {
    Problem::bad_request("missing-header", "Missing header", format!("This route needs the header {name}."))
}
