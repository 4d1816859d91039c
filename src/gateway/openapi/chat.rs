//! What the API's description says of conversations: queries, sockets, and topics as queues. Never describes a page.

use super::super::chat::ask::Ask;
use super::super::chat::messages::Messages;
use super::super::chat::socket::Socket;
use super::super::route::{Action, Route};
use super::problems::{self, Kind, kind};
use super::{Operation, header, headers, id, key_text, prefer};
use serde_json::{Value, json};

/// Of a session.
const SESSION: &[Kind] = &[
    kind("bad-header", 400, "a header is not as it must be"),
    kind("unknown-session", 403, "the session was never opened here"),
];
/// Of a query.
const QUERY: &[Kind] = &[
    kind("bad-query", 400, "the body is no `{\"text\": …}`"),
    kind("empty-query", 400, "the text has nothing in it"),
    kind("query-too-long", 413, "the text is longer than the route takes"),
    kind("record-too-large", 413, "the record is larger than its topic takes"),
];
/// Of a body that is small.
const SMALL: &[Kind] = &[
    kind("incomplete-body", 400, "the body ended early"),
    kind("slow-body", 408, "the body did not come within `http.body_timeout`"),
    kind("body-too-large", 413, "the body is larger than the route takes"),
];
/// Of a socket that is not opened.
const SOCKET: &[Kind] = &[
    kind("bad-position", 400, "`epoch` and `offset` are none that a socket told"),
    kind("foreign-origin", 403, "the page is of a site that `origins` does not name"),
    kind("websocket-needed", 426, "the request is no WebSocket's"),
    kind("draining", 503, "the daemon is shutting down"),
    kind("not-started", 503, "not all answers that were there at the start have been read"),
    kind("too-many-sockets", 503, "more sockets are open than `sockets_max`"),
];
/// Of a queue.
const QUEUE: &[Kind] = &[
    kind("bad-message-request", 400, "a part of the request cannot be understood"),
    kind("draining", 503, "the daemon is shutting down"),
    kind("not-started", 503, "the queues are not served yet"),
    kind("served-elsewhere", 503, "another daemon serves this queue, or its group is still being joined"),
    kind("overloaded", 503, "more requests or groups are served than `waiting_max` and `groups_max` let in"),
    kind("log-unavailable", 503, "the log does not let messages be served now"),
];
/// Of asking for a message.
const NEXT: &[Kind] = &[
    kind("leased", 409, "the next message is leased to somebody"),
    kind("too-many-waiting", 503, "more wait than `http.waiting_max`"),
];
/// Of an acknowledgement.
const ACK: &[Kind] = &[kind("unknown-lease", 404, "there is no such lease any more")];
/// Of messages that are for those who know a token.
const TOKEN: &[Kind] = &[kind("token-needed", 403, "`Authorization: Bearer TOKEN` is missing, or is another")];

/// Takes queries.
pub(super) fn asks(ask: &Ask, routes: &[Route]) -> Operation {
    let mut answer = json!({
        "description": "Stored. It is answered in its turn, whatever is killed.",
        "headers": headers(&["Location", "Retry-After", "Idempotency-Key-TTL", "Idempotency-Replayed"]),
        "content": { "application/json": { "schema": { "$ref": "#/components/schemas/AcceptedQuery" } } },
    });
    for route in routes {
        match &route.action {
            Action::Results(results) if results.jobs.pipeline == ask.jobs.pipeline => {
                let parameters = json!({ &results.variable: "$response.body#/jobId" });
                answer["links"]["job"] = json!({ "operationId": id(route), "parameters": parameters });
            }
            Action::Ask(of) if of.jobs.pipeline == ask.jobs.pipeline => {
                let parameters = json!({ "header.x-session": "$response.body#/session" });
                answer["links"]["next"] = json!({ "operationId": id(route), "parameters": parameters });
            }
            _ => {}
        }
    }
    // A schema counts characters, the route bytes.
    let most = format!("At most {} bytes.", ask.text_bytes_max);
    let text = json!({ "type": "string", "minLength": 1, "description": most });
    let schema = json!({
        "type": "object",
        "properties": { "text": text },
        "required": ["text"],
        "additionalProperties": false,
    });
    let key = "The query's own name: sent again with it in its session, the same query is the same job.";
    Operation {
        tag: ask.jobs.pipeline.to_string(),
        summary: "Takes a query of a session; opens one where none is named".to_owned(),
        parameters: vec![session_header(), session_variable(), header("Idempotency-Key", false, key, &key_text())],
        body: Some(json!({ "required": true, "content": { "application/json": { "schema": schema } } })),
        answers: vec![(202, answer)],
        problems: vec![SESSION, QUERY, SMALL, problems::ADMISSION, problems::STORED, problems::KEYED],
        ..Operation::default()
    }
}

/// Opens sockets.
pub(super) fn sockets(socket: &Socket) -> Operation {
    let text = |what: &str| json!({ "type": "string", "description": what });
    let variable = |name: &str, what: &str| json!({ "in": "query", "name": name, "schema": text(what) });
    let description = "The socket is open (RFC 6455). Its messages are JSON, told apart by `type`. \
                       In: `query` (`text`, and an `id` of the client's own). \
                       Out: `session` first; then `accepted`, `token`, `completed`, `failed`, `error`. \
                       `session`, `completed` and `failed` carry the position (`epoch`, `offset`) to come again with.";
    Operation {
        tag: socket.ask.jobs.pipeline.to_string(),
        summary: "Opens a session's WebSocket: queries in, answers out".to_owned(),
        parameters: vec![
            session_header(),
            session_variable(),
            variable("epoch", "The last position's first part: what was missed since is told."),
            variable("offset", "Its second part."),
        ],
        answers: vec![(101, json!({ "description": description }))],
        problems: vec![SESSION, SOCKET],
        ..Operation::default()
    }
}

/// Gives messages.
pub(super) fn gives(messages: &Messages) -> Operation {
    let variable = |name: &str, required: bool, what: &str, schema: Value| {
        let mut variable = json!({ "in": "query", "name": name, "required": required, "description": what });
        variable["schema"] = schema;
        variable
    };
    let group = json!({ "type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$", "default": "default" });
    let lease = json!({ "type": "integer", "minimum": 1, "maximum": messages.lease_max.as_secs(),
                        "default": messages.lease.as_secs() });
    let answer = json!({
        "description": "The next message of the type that this group was not given.",
        "headers": headers(&["redelivered", "x-offset", "x-lease"]),
        "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Message" } } },
    });
    let mut problems = vec![QUEUE, NEXT];
    problems.extend(messages.token.as_ref().map(|_| TOKEN));
    Operation {
        tag: messages.pipeline.to_string(),
        summary: "Gives the next message of a type, strictly in order, once a group".to_owned(),
        parameters: vec![
            variable("type", true, "Whose topic.", json!({ "enum": messages.types })),
            variable("group", false, "Who reads; each group is given every message.", group),
            variable(
                "ack",
                false,
                "`auto`: it is done with once it is given. `manual`: it is leased until it is acknowledged.",
                json!({ "enum": ["auto", "manual"], "default": "auto" }),
            ),
            variable("lease", false, "How many seconds a lease lasts.", lease),
            prefer(false),
        ],
        answers: vec![(200, answer), (204, json!({ "description": "There is none that the group was not given." }))],
        problems,
        is_guarded: messages.token.is_some(),
        ..Operation::default()
    }
}

/// Takes acknowledgements.
pub(super) fn acknowledges(messages: &Messages) -> Operation {
    let schema = json!({
        "type": "object",
        "properties": { "lease": { "type": "string", "maxLength": 255, "description": "As the message told it." } },
        "required": ["lease"],
        "additionalProperties": false,
    });
    let mut problems = vec![QUEUE, SMALL, ACK];
    problems.extend(messages.token.as_ref().map(|_| TOKEN));
    Operation {
        tag: messages.pipeline.to_string(),
        summary: "Acknowledges a leased message: its group is given the next one".to_owned(),
        body: Some(json!({ "required": true, "content": { "application/json": { "schema": schema } } })),
        answers: vec![(204, json!({ "description": "It is done, or was before." }))],
        problems,
        is_guarded: messages.token.is_some(),
        ..Operation::default()
    }
}

fn session_header() -> Value {
    header("x-session", false, "Whose query it is: the `session` of an earlier answer.", &session())
}

fn session_variable() -> Value {
    let what = "The same for clients that cannot set headers; the header goes before it.";
    json!({ "in": "query", "name": "session", "description": what, "schema": session() })
}

fn session() -> Value {
    json!({ "$ref": "#/components/schemas/Session" })
}
