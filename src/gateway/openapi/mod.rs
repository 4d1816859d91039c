//! The API's description (OpenAPI 3.1), made from the routes that are served. Never lists what is not served: a route of a
//! new kind is described by its arm of [`operation`].

mod chat;
mod fields;
mod problems;
mod schemas;

use super::route::{Accept, Action, Body, Key, Results, Route};
use problems::Kind;
use serde_json::{Map, Value, json};

/// What is said of the API beside its routes.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The header that names a request's tenant, where there are tenants.
    pub tenant_header: Option<String>,
}

/// The description of these routes.
#[must_use]
pub fn document(routes: &[Route], about: &About) -> Value {
    let (mut paths, mut tags) = (Map::new(), Vec::new());
    let mut components = schemas::components();
    for route in routes {
        let Some(operation) = operation(route, routes, about) else { continue };
        if !tags.contains(&operation.tag) {
            tags.push(operation.tag.clone());
        }
        let method = route.method.as_str().to_ascii_lowercase();
        if let Action::Accept(Accept { schema: Some(schema), .. }) = &route.action {
            components["schemas"][id(route)] = schemas::moved(schema, &format!("#/components/schemas/{}", id(route)));
        }
        if operation.is_guarded {
            components["securitySchemes"] = json!({ "token": { "type": "http", "scheme": "bearer" } });
        }
        let path = paths.entry(route.path.clone()).or_insert_with(|| json!({}));
        path[method] = operation.document(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "bulkhead",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Requests become records of Kafka topics; what became of them is asked for by their jobs' ids. \
                            Every refusal is a problem document (RFC 9457).",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "tags": tags.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>(),
        "paths": paths,
        "components": components,
    })
}

/// What can be done at a path.
#[derive(Default)]
struct Operation {
    /// What it is listed under: the pipeline.
    tag: String,
    /// Its name, the same for the same path.
    id: String,
    summary: String,
    parameters: Vec<Value>,
    body: Option<Value>,
    /// Answers that are no problems, by status.
    answers: Vec<(u16, Value)>,
    problems: Vec<&'static [Kind]>,
    /// Problems whose status the config says.
    told: Vec<Kind>,
    /// Whether it wants a bearer token.
    is_guarded: bool,
}

impl Operation {
    fn document(&self, route: &Route) -> Value {
        let problems: Vec<_> = self.problems.iter().copied().chain([&*self.told]).collect();
        let mut responses: Map<_, _> = problems::responses(&problems);
        responses.extend(self.answers.iter().map(|(status, answer)| (status.to_string(), answer.clone())));
        let mut document = json!({
            "tags": [self.tag],
            "operationId": self.id,
            "summary": route.summary.as_deref().unwrap_or(&self.summary),
            "responses": responses,
        });
        if !self.parameters.is_empty() {
            document["parameters"] = self.parameters.clone().into();
        }
        if let Some(body) = &self.body {
            document["requestBody"] = body.clone();
        }
        if self.is_guarded {
            document["security"] = json!([{ "token": [] }]);
        }
        document
    }
}

/// A name of letters, digits and `_` that no other path and method has.
fn id(route: &Route) -> String {
    let words = route.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.fold(route.method.as_str().to_ascii_lowercase(), |id, word| format!("{id}_{word}"))
}

/// What is said of a route; `None` where it is no part of the API.
fn operation(route: &Route, routes: &[Route], about: &About) -> Option<Operation> {
    let mut operation = match &route.action {
        Action::Accept(accept) => accepts(accept, routes, &id(route)),
        Action::Results(results) => tells(results),
        Action::Events(events) => streams(events),
        Action::Ask(ask) => chat::asks(ask, routes),
        Action::Socket(socket) => chat::sockets(socket),
        Action::Messages(messages) => chat::gives(messages),
        Action::Acks(messages) => chat::acknowledges(messages),
        Action::File(_) => return None,
    };
    operation.id = id(route);
    if let Some(name) = &about.tenant_header {
        operation.parameters.push(header(name, true, "Whose request it is.", &word()));
        operation.problems.push(problems::TENANT);
    }
    Some(operation)
}

fn accepts(accept: &Accept, routes: &[Route], id: &str) -> Operation {
    let idempotency = &accept.idempotency;
    let mut parameters = vec![prefer(accept.waits)];
    let mut problems = vec![problems::ADMISSION, problems::BODY, problems::STORED, problems::KEYED];
    let mut told = Vec::new();
    let is_key = matches!(&accept.key, Key::Header(name) if name.eq_ignore_ascii_case("idempotency-key"));
    let is_demanded = idempotency.is_required && idempotency.field.is_none();
    let what = "The operation's own name: sent again with it, the same request is the same job, and has one effect.";
    parameters.push(header("Idempotency-Key", is_demanded || is_key, what, &key_text()));
    if idempotency.is_required {
        problems.push(problems::KEY_REQUIRED);
    }
    if idempotency.field.is_some() {
        problems.push(problems::KEY_IN_BODY);
    }
    if accept.steps.is_some() || idempotency.field.is_some() {
        problems.push(problems::STEPS);
    }
    if accept.outbox.is_some() {
        problems.push(problems::OUTBOX);
    }
    if let Key::Header(name) = &accept.key {
        problems.push(problems::HEADER_KEYED);
        if !is_key {
            parameters.push(header(name, true, "The record's key: what has one key stays in order.", &word()));
        }
    }
    parameters.extend(fields::parameters(accept));
    if !accept.fields.is_empty() {
        problems.push(problems::FIELDS);
    }
    if accept.answers.failure_is_problem {
        problems.push(problems::FAILED);
        told.extend(accept.answers.statuses.values().map(|status| problems::job_failed(status.as_u16())));
    }
    if accept.answers.late_is_problem {
        problems.push(problems::LATE);
    }
    problems.push(match accept.body {
        Body::File { .. } | Body::Fields => problems::FORM,
        Body::Whole => problems::WHOLE,
        Body::Events { .. } => problems::EVENTS,
    });
    let mut answers = vec![(202, accepted(accept, routes))];
    // Several events have no one end.
    if !matches!(accept.body, Body::Events { .. }) {
        let mut done = ended("The job has ended within the time that the request waited.", &["Content-Location"]);
        done["content"] = fields::done(&accept.answers);
        answers.push((200, done));
    }
    Operation {
        tag: accept.jobs.pipeline.to_string(),
        summary: format!("Makes a record of the request, for the pipeline {}", accept.jobs.pipeline),
        parameters,
        body: Some(json!({ "required": accept.body != Body::Fields, "content": content(accept, id) })),
        answers,
        problems,
        told,
        ..Operation::default()
    }
}

/// The bodies that a route takes.
fn content(accept: &Accept, id: &str) -> Value {
    let mut content = Map::new();
    let mut properties = fields::properties(accept);
    if accept.body == Body::Fields {
        let schema = json!({ "type": "object", "properties": properties });
        content.insert("application/x-www-form-urlencoded".to_owned(), json!({ "schema": schema }));
        return content.into();
    }
    let json = match &accept.schema {
        Some(_) => {
            let one = json!({ "$ref": format!("#/components/schemas/{id}") });
            let several = matches!(accept.body, Body::Events { .. });
            let schema = if several { json!({ "anyOf": [one, { "type": "array", "items": one }] }) } else { one };
            json!({ "schema": schema })
        }
        None => json!({ "schema": {} }),
    };
    if let Body::File { field } = &accept.body {
        let mut encoding = json!({});
        if !accept.accept.is_empty() {
            encoding[field] = json!({ "contentType": accept.accept.join(", ") });
        }
        let file = json!({ "type": "string", "format": "binary", "minLength": 1 });
        properties.insert(field.clone(), file);
        let schema = json!({ "type": "object", "properties": properties, "required": [field] });
        content.insert("multipart/form-data".to_owned(), json!({ "schema": schema, "encoding": encoding }));
    }
    let whole = json!({ "schema": { "type": "string", "format": "binary", "minLength": 1 } });
    for media in &accept.accept {
        // One value a line is no JSON by itself.
        let is_json = media == "application/json" || media.ends_with("+json");
        content.insert(media.clone(), if is_json { json.clone() } else { whole.clone() });
    }
    if content.is_empty() && accept.schema.is_some() {
        content.insert("application/json".to_owned(), json);
    } else if content.is_empty() {
        content.insert("application/octet-stream".to_owned(), whole);
    }
    content.into()
}

fn accepted(accept: &Accept, routes: &[Route]) -> Value {
    if matches!(accept.body, Body::Events { .. }) {
        return json!({
            "description": "Stored, every event of the body. Their jobs go on, whatever is killed.",
            "headers": headers(&["Preference-Applied", "Idempotency-Key-TTL", "Idempotency-Replayed"]),
            "content": { "application/json": { "schema": { "$ref": "#/components/schemas/AcceptedEvents" } } },
        });
    }
    let mut answer = json!({
        "description": "Stored. Its job goes on, whatever is killed.",
        "headers": headers(&["Location", "Retry-After", "Preference-Applied", "Idempotency-Key-TTL", "Idempotency-Replayed"]),
        "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Accepted" } } },
    });
    // How the next request comes from this answer.
    for route in routes {
        if let Action::Results(results) = &route.action
            && results.jobs.pipeline == accept.jobs.pipeline
        {
            let parameters = json!({ &results.variable: "$response.body#/jobId" });
            answer["links"]["job"] = json!({ "operationId": id(route), "parameters": parameters });
        }
    }
    answer
}

fn ended(description: &str, headers: &[&str]) -> Value {
    json!({
        "description": description,
        "headers": self::headers(&[headers, &["Preference-Applied"]].concat()),
        "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Job" } } },
    })
}

fn headers(names: &[&str]) -> Value {
    let refer = |name: &&str| ((*name).to_owned(), json!({ "$ref": format!("#/components/headers/{name}") }));
    names.iter().map(refer).collect::<Map<_, _>>().into()
}

fn tells(results: &Results) -> Operation {
    Operation {
        tag: results.jobs.pipeline.to_string(),
        summary: "Tells what became of a job".to_owned(),
        parameters: vec![job(&results.variable), prefer(false)],
        answers: vec![(200, ended("The job as it is known: pending, completed or failed.", &["Retry-After"]))],
        problems: vec![problems::JOB],
        ..Operation::default()
    }
}

fn streams(events: &Results) -> Operation {
    let event = json!({
        "type": "object",
        "properties": {
            "event": { "enum": ["pending", "completed", "failed"] },
            "id": { "type": "string", "pattern": "^[0-9]+$" },
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": { "$ref": "#/components/schemas/Job" },
            },
        },
    });
    let stream = json!({
        "description": "`pending`, then `completed` or `failed` with the job as JSON, and the end (server-sent events).",
        "content": { "text/event-stream": { "schema": event } },
    });
    let last = json!({ "type": "string" });
    Operation {
        tag: events.jobs.pipeline.to_string(),
        summary: "Streams what becomes of a job".to_owned(),
        parameters: vec![
            job(&events.variable),
            header("Last-Event-ID", false, "The last event that the client has.", &last),
        ],
        answers: vec![(200, stream), (204, json!({ "description": "The client has the last event already." }))],
        problems: vec![problems::JOB, problems::STREAM],
        ..Operation::default()
    }
}

/// A header's value that is taken over.
fn word() -> Value {
    json!({ "type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$" })
}

/// An idempotency key.
fn key_text() -> Value {
    json!({ "type": "string", "pattern": "^[!#-\\[\\]-~]{1,255}$" })
}

fn header(name: &str, is_required: bool, description: &str, schema: &Value) -> Value {
    json!({ "in": "header", "name": name, "required": is_required, "description": description, "schema": schema })
}

fn job(variable: &str) -> Value {
    json!({ "in": "path", "name": variable, "required": true, "schema": { "$ref": "#/components/schemas/JobId" } })
}

fn prefer(waits: bool) -> Value {
    let what = if waits {
        "`respond-async` for an answer at once; `wait=SECONDS` for how long to wait (RFC 7240)."
    } else {
        "`wait=SECONDS` waits for the job's end (RFC 7240)."
    };
    // What is not understood is ignored, as the RFC has it: any text will do.
    header("Prefer", false, what, &json!({ "type": "string" }))
}
