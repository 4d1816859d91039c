//! What a route's `chat` says: queries of sessions, their sockets, and a conversation's topics as queues. Never serves one.

use crate::config::secret::Secret;
use crate::config::text::{Name, Topic};
use crate::config::units::{Period, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A part of a conversation. A session's name is a token that the gateway signs; its records' key is made of it, one way.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChatFile {
    /// `POST`: takes `{"text": …}` as a query of the session that the header `x-session` or `?session=` names, of a new one
    /// where neither does, and answers with the job and the session.
    Ask(AskFile),
    /// `GET`: a WebSocket of that session.
    Socket(SocketFile),
    /// `GET`: the next message of `?type=`, once for each `?group=`.
    Messages(MessagesFile),
    /// `POST`: acknowledges a lease of the pipeline's `messages`, `{"lease": …}`.
    Acks(AcksFile),
}

impl ChatFile {
    /// The method that it has.
    #[must_use]
    pub const fn method(&self) -> super::Method {
        match self {
            Self::Ask(_) | Self::Acks(_) => super::Method::Post,
            Self::Socket(_) | Self::Messages(_) => super::Method::Get,
        }
    }
}

/// How queries are taken.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AskFile {
    /// The longest text.
    pub text_max: Size,
}

impl Default for AskFile {
    fn default() -> Self {
        Self { text_max: Size::kib(8) }
    }
}

/// How sockets are served.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SocketFile {
    /// The longest text of a query.
    pub text_max: Size,
    /// Sites whose pages may open sockets beside the gateway's own, as browsers name them: `"https://chat.example"`.
    pub origins: Vec<String>,
    /// How many sockets are open at a time.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub sockets_max: u32,
    /// How many queries a second one socket may send.
    #[schemars(range(min = 1, max = 100_000))]
    pub per_second: u32,
    /// How many at once after a rest.
    #[schemars(range(min = 1, max = 100_000))]
    pub burst: u32,
    /// How often a client is asked whether it is there; one that says nothing for two such times is cut.
    pub ping: Period,
    /// How long a message may take to leave before its client is cut.
    pub send_timeout: Period,
    /// How long a socket lasts; its client comes again.
    pub lifetime: Period,
    /// How many news may wait for one socket; with more it is cut.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub waiting_max: u32,
    /// How many answers are kept for clients that come again, of all sessions.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub history_max: u32,
    /// How many bytes of them.
    pub history_bytes_max: Size,
}

impl Default for SocketFile {
    fn default() -> Self {
        Self {
            text_max: Size::kib(8),
            origins: Vec::new(),
            sockets_max: 1_000,
            per_second: 2,
            burst: 5,
            ping: Period::secs(20),
            send_timeout: Period::secs(10),
            lifetime: Period::secs(3_600),
            waiting_max: 256,
            history_max: 10_000,
            history_bytes_max: Size::mib(32),
        }
    }
}

/// How messages are given.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MessagesFile {
    /// The topics that are given, by the type that clients ask for. Each has one partition.
    #[schemars(length(min = 1, max = 16))]
    pub types: BTreeMap<Name, Topic>,
    /// What clients must know to read messages, which are those of all sessions: `Authorization: Bearer TOKEN`. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// How long a client that acknowledges (`?ack=manual`) has for it; `?lease=SECONDS` asks for another time.
    #[serde(default = "lease")]
    pub lease: Period,
    /// How long it may ask for.
    #[serde(default = "lease_max")]
    pub lease_max: Period,
    /// How long an answer waits for a message where there is none; `Prefer: wait=SECONDS` asks for another time, up to the
    /// route's `wait_max`.
    #[serde(default = "wait")]
    pub wait: Period,
    /// How many queues (of a type and a group) are served at a time.
    #[serde(default = "groups_max")]
    #[schemars(range(min = 1, max = 1_000))]
    pub groups_max: u32,
    /// How long nobody asked of a queue that makes room for another.
    #[serde(default = "idle")]
    pub idle: Period,
    /// How long a request waits for its group to give this daemon the topic.
    #[serde(default = "assign_wait")]
    pub assign_wait: Period,
    /// How many requests wait at a time.
    #[serde(default = "waiting_max")]
    #[schemars(range(min = 1, max = 100_000))]
    pub waiting_max: u32,
}

const fn lease() -> Period {
    Period::secs(30)
}

const fn lease_max() -> Period {
    Period::secs(600)
}

const fn wait() -> Period {
    Period::ms(250)
}

const fn groups_max() -> u32 {
    16
}

const fn idle() -> Period {
    Period::secs(60)
}

const fn assign_wait() -> Period {
    Period::secs(5)
}

const fn waiting_max() -> u32 {
    256
}

/// Acknowledgements: those of the pipeline's `messages`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AcksFile {}
