//! Bodies that bring several events: each becomes a record with an id of its own, all of them or none. Never stores a part of a body
//! because the rest is bad.

use super::edge::{Edged, Refused};
use super::problem::Problem;
use super::split::{Event, NoEvents, events};
use super::upload::Upload;
use super::{Intake, Shared};
use actix_web::http::StatusCode;
use bulkhead_core::fault::Fault;
use bulkhead_core::job_id::{JobId, Scope};
use bulkhead_core::record::Record;
use bytes::Bytes;
use serde_json::{Map, Value, json};

/// The media types of one event a line.
const LINES: [&str; 3] = ["application/x-ndjson", "application/ndjson", "application/jsonl"];
/// What each event of a body is.
const JSON: &str = "application/json";
/// How many bad events are named; the rest is counted.
const NAMED_MAX: usize = 20;
/// The code of an event that is no JSON object.
const NOT_JSON: &str = "not_json";

/// The events of a body; those that are none, with the reason.
pub(super) fn split(upload: &Upload, events_max: usize) -> Result<Vec<Event>, Problem> {
    let is_lines = LINES.contains(&upload.content_type.as_str());
    events(&upload.value, is_lines, events_max).map_err(|none| match none {
        NoEvents::Bad(why) => {
            let detail = format!(
                "The body has no events: {why}. It is a JSON object, an array of them, or one a line (NDJSON)."
            );
            Problem::bad_request("bad-events", "Bad events", detail)
        }
        NoEvents::TooMany => {
            let detail = format!("The body has more than the {events_max} events that this route takes at once.");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-many-events", "Too many events", detail)
        }
    })
}

/// One event as a body of its own, with the fields of the whole.
pub(super) fn one(upload: &Upload, value: Bytes) -> Upload {
    Upload { value, content_type: JSON.to_owned(), fields: upload.fields.clone() }
}

/// The names of a request's events: with an idempotency key always the same, without one drawn anew.
pub(super) fn ids(shared: &Shared, scope: Scope<'_>, request: JobId, is_keyed: bool, count: usize) -> Vec<JobId> {
    let accepted = shared.clock.wall();
    (0..count)
        .map(|index| match is_keyed {
            true => shared.ids.nth(scope, request, index as u64),
            false => shared.ids.random(scope, accepted, rand::random()),
        })
        .collect()
}

/// An event that is none.
pub(super) fn no_event(why: String) -> Refused {
    Refused { step: None, fault: Fault::poison(NOT_JSON, why) }
}

/// Has the route's steps look at the events, and refuses all of them where one is bad.
pub(super) async fn edged(shared: &Shared, intake: &Intake, events: Vec<Edged>) -> Result<Vec<Record>, Problem> {
    let (mut good, mut judged) = (Vec::new(), Vec::with_capacity(events.len()));
    for event in events {
        judged.push(event.map(|record| good.push(record)));
    }
    let mut good = match &intake.route.steps {
        Some(steps) => steps.run(&shared.steps, good).await?.into_iter(),
        None => good.into_iter().map(Ok).collect::<Vec<_>>().into_iter(),
    };
    let mut records = Vec::with_capacity(judged.len());
    let mut bad = Vec::new();
    for (index, judged) in judged.into_iter().enumerate() {
        match judged.and_then(|()| good.next().unwrap_or_else(|| Err(no_event("no step answered for it".to_owned())))) {
            Ok(record) => records.push(record),
            Err(refused) => bad.push((index, refused)),
        }
    }
    if bad.is_empty() { Ok(records) } else { Err(problem(&bad, records.len())) }
}

fn problem(bad: &[(usize, Refused)], good: usize) -> Problem {
    let (count, total) = (bad.len(), bad.len() + good);
    let detail = format!("{count} of {total} events are bad; nothing was stored.");
    let named = bad.iter().take(NAMED_MAX).map(|(index, refused)| {
        let mut event =
            Map::from_iter([("index".to_owned(), json!(index)), ("detail".to_owned(), json!(refused.fault.message))]);
        event.extend(refused.members());
        Value::Object(event)
    });
    let members = Map::from_iter([("bad".to_owned(), json!(count)), ("events".to_owned(), named.collect())]);
    Problem { members, ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-events", "Bad events", detail) }
}

/// What a request with several events is answered with.
pub(super) fn answer(intake: &Intake, ids: &[JobId]) -> Value {
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    let mut answer = json!({ "status": "accepted", "count": ids.len(), "jobIds": ids });
    if let Some((before, after)) = &intake.location {
        answer["results"] = format!("{before}{{jobId}}{after}").into();
    }
    answer
}
