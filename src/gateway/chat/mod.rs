//! Conversations over HTTP and WebSocket: queries in, answers out, each session its own; and the topics of a conversation as
//! queues. Never shows one session what is another's: a session's token is signed, and its records' key is not its token.

pub mod ask;
mod body;
pub mod messages;
pub mod socket;

use super::Shared;
use super::problem::Problem;
use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use bulkhead_actors::feed::Feed;
use bulkhead_actors::fifo::Queues;
use bulkhead_core::job_id::Scope;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The header by which a client names its session.
const SESSION_HEADER: &str = "x-session";
/// The variable of a query string that does.
const SESSION_VARIABLE: &str = "session";

/// What feeds sockets, and what serves queues, by pipeline.
#[derive(Clone, Default)]
pub struct Chats {
    /// The feeds.
    pub feeds: BTreeMap<Arc<str>, Arc<Feed>>,
    /// The queues.
    pub queues: BTreeMap<Arc<str>, Arc<Queues>>,
}

/// Whom a request is of.
pub(super) struct Session {
    /// What its client is known by.
    pub(super) token: String,
    /// The key of its records.
    pub(super) key: Bytes,
}

impl Session {
    /// The session that the request names, or a new one.
    pub(super) fn of(shared: &Shared, pipeline: &str, tenant: &str, request: &HttpRequest) -> Result<Self, Problem> {
        let named = match super::client::header_text(request, SESSION_HEADER)? {
            Some(token) => Some(token.to_owned()),
            None => variable(request, SESSION_VARIABLE),
        };
        let scope = format!("{pipeline}/session");
        let scope = Scope { tenant, pipeline: &scope };
        let id = match named.as_deref() {
            None | Some("") => shared.ids.random(scope, shared.clock.wall(), rand::random()),
            Some(token) => shared.ids.verify(scope, token).map_err(|_| unknown_session())?,
        };
        let token = id.to_string();
        // One way: whoever reads the topics learns no token.
        let key = shared.ids.from_key(scope, "key", &token).to_string();
        Ok(Self { token, key: key.into() })
    }
}

fn unknown_session() -> Problem {
    let detail = "No session with this token was ever opened here; leave it out to open one.";
    Problem::new(StatusCode::FORBIDDEN, "unknown-session", "Unknown session", detail)
}

/// A variable of the request's query string; the first one of its name.
pub(super) fn variable(request: &HttpRequest, name: &str) -> Option<String> {
    let variables = actix_web::web::Query::<Vec<(String, String)>>::from_query(request.query_string()).ok()?;
    variables.into_inner().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
}
