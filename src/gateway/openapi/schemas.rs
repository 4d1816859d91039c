//! The documents that the gateway answers with, as the API's description has them. Never makes one.

use serde_json::{Value, json};

/// Length of a job id's text.
const JOB_ID_LEN: usize = 40;

/// What operations refer to.
pub(super) fn components() -> Value {
    json!({
        "schemas": {
            "JobId": job_id(),
            "Accepted": accepted(),
            "AcceptedEvents": accepted_events(),
            "AcceptedQuery": accepted_query(),
            "Session": session(),
            "Message": message(),
            "Job": job(),
            "JobError": job_error(),
            "Problem": problem(),
        },
        "headers": {
            "Retry-After": header("In how many seconds it makes sense to ask again.", &json!({ "type": "integer", "minimum": 0 })),
            "Location": header("Where the job's result is.", &json!({ "type": "string" })),
            "Content-Location": header("Where this result is found again.", &json!({ "type": "string" })),
            "Preference-Applied": header("Which preference was honoured (RFC 7240).", &json!({ "type": "string" })),
            "Idempotency-Key-TTL": header("For how many seconds the key is known.", &json!({ "type": "integer", "minimum": 0 })),
            "redelivered": header("Whether somebody of the group was given it before.", &json!({ "enum": ["true", "false"] })),
            "x-offset": header("Where it lies in its topic.", &json!({ "type": "integer", "minimum": 0 })),
            "x-lease": header("What to acknowledge it by, where that was asked for.", &json!({ "type": "string" })),
            "Idempotency-Replayed": header("`true` where this is an earlier answer again.", &json!({ "const": "true" })),
        },
    })
}

/// A schema that is a document of its own, as it stands at `place` in another one: what it refers to in itself lies there.
pub(super) fn moved(schema: &Value, place: &str) -> Value {
    match schema {
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| match (name.as_str(), value.as_str()) {
                ("$schema" | "$id", Some(_)) => None,
                ("$ref", Some(target)) if target.starts_with('#') => {
                    Some((name.clone(), format!("{place}{}", &target[1..]).into()))
                }
                _ => Some((name.clone(), moved(value, place))),
            };
            Value::Object(fields.iter().filter_map(field).collect())
        }
        Value::Array(items) => items.iter().map(|item| moved(item, place)).collect(),
        other => other.clone(),
    }
}

fn header(description: &str, schema: &Value) -> Value {
    json!({ "description": description, "schema": schema })
}

pub(super) fn job_id() -> Value {
    json!({ "type": "string", "pattern": format!("^[A-Za-z0-9_-]{{{JOB_ID_LEN}}}$"), "description": "A job's id, as this gateway issued it." })
}

fn accepted() -> Value {
    json!({
        "type": "object",
        "description": "The record is stored for good; its job goes on by itself.",
        "properties": { "jobId": { "$ref": "#/components/schemas/JobId" }, "status": { "const": "accepted" },
            "idempotencyKey": { "type": "string", "description": "What the request is called, where the route gives one a key." } },
        "required": ["jobId", "status"],
    })
}

fn accepted_events() -> Value {
    json!({
        "type": "object",
        "description": "The events are stored for good, all of the body; each is a job that goes on by itself.",
        "properties": {
            "status": { "const": "accepted" },
            "count": { "type": "integer", "minimum": 1, "description": "How many there are." },
            "jobIds": {
                "type": "array",
                "minItems": 1,
                "items": { "$ref": "#/components/schemas/JobId" },
                "description": "Their jobs, in the order of the body.",
            },
            "results": { "type": "string", "description": "Where what becomes of a job is told, with {jobId} in place of its id." },
        },
        "required": ["status", "count", "jobIds"],
    })
}

fn session() -> Value {
    json!({ "type": "string", "pattern": format!("^[A-Za-z0-9_-]{{{JOB_ID_LEN}}}$"), "description": "A session's token, as this gateway issued it." })
}

fn accepted_query() -> Value {
    json!({
        "type": "object",
        "description": "The query is stored for good; its job goes on by itself.",
        "properties": {
            "jobId": { "$ref": "#/components/schemas/JobId" },
            "session": { "$ref": "#/components/schemas/Session" },
            "status": { "const": "accepted" },
        },
        "required": ["jobId", "session", "status"],
    })
}

fn message() -> Value {
    json!({
        "type": "object",
        "description": "A record of a conversation's topic.",
        "properties": {
            "type": { "type": "string", "description": "As it was asked for." },
            "offset": { "type": "integer", "minimum": 0, "description": "Where it lies in its topic." },
            "id": { "type": ["string", "null"], "description": "Its job's id." },
            "key": { "type": ["string", "null"], "description": "Its session, by a name that is not its token." },
            "timestamp": { "type": "integer", "description": "Unix time in ms." },
            "value": { "description": "JSON, or a text." },
            "redelivered": { "type": "boolean", "description": "Whether somebody of the group was given it before." },
            "lease": { "type": ["string", "null"], "description": "What to acknowledge it by, where that was asked for." },
        },
        "required": ["type", "offset", "id", "key", "timestamp", "value", "redelivered", "lease"],
    })
}

fn job() -> Value {
    let ms = |what: &str| json!({ "type": ["integer", "null"], "description": what });
    json!({
        "type": "object",
        "description": "What became of a job so far.",
        "properties": {
            "jobId": { "$ref": "#/components/schemas/JobId" },
            "status": { "enum": ["pending", "completed", "failed"] },
            "result": { "description": "The result's value: JSON, or a text; null without one." },
            "error": { "anyOf": [{ "$ref": "#/components/schemas/JobError" }, { "type": "null" }] },
            "timings": {
                "type": "object",
                "properties": {
                    "accepted_ms": ms("When it was accepted, Unix time in ms."),
                    "completed_ms": ms("When it ended, Unix time in ms."),
                    "total_ms": ms("How long that took, ms."),
                },
                "required": ["accepted_ms", "completed_ms", "total_ms"],
            },
            "dropped": { "const": true, "description": "It ended on purpose without a result." },
            "conflicts": { "type": "integer", "minimum": 1, "description": "Other payloads that came under its key." },
        },
        "required": ["jobId", "status", "result", "error", "timings"],
    })
}

fn job_error() -> Value {
    json!({
        "type": "object",
        "properties": {
            "code": { "type": "string" },
            "message": { "type": "string" },
            "stage": { "type": "string" },
            "class": { "type": "string" },
            "attempts": { "type": ["integer", "null"] },
        },
        "required": ["code", "message"],
    })
}

fn problem() -> Value {
    json!({
        "type": "object",
        "description": "A problem document (RFC 9457). `type` is stable; `detail` says what can be done.",
        "properties": {
            "type": { "type": "string", "format": "uri" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "instance": { "type": "string" },
        },
        "required": ["type", "title", "status", "detail", "instance"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_refers_to_itself_wherever_it_lies() {
        let own = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "properties": { "items": { "items": { "$ref": "#/$defs/line" } }, "other": { "$ref": "https://example.org/x" } },
            "$defs": { "line": { "type": "object" } },
        });
        let expected = json!({
            "properties": { "items": { "items": { "$ref": "#/components/schemas/a/$defs/line" } },
                            "other": { "$ref": "https://example.org/x" } },
            "$defs": { "line": { "type": "object" } },
        });
        assert_eq!(moved(&own, "#/components/schemas/a"), expected);
    }
}
