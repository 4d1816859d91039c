//! What the gateway serves: routes as the checked config describes them. Never parses configuration.

use super::answer::Answers;
use super::chat::ask::Ask;
use super::chat::messages::Messages;
use super::chat::socket::Socket;
use super::edge::{EdgeSteps, TextOf};
use super::fields::Field;
use super::files::StaticFile;
use actix_web::http::Method;
use bulkhead_core::ledger::Claimer;
use std::sync::Arc;
use std::time::Duration;

/// One path and method, and what is done there.
#[derive(Clone, Debug)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path; a segment in braces is a variable, e.g. `/api/results/{jobId}`.
    pub path: String,
    /// What it is for, in a line, as the API's description has it.
    pub summary: Option<String>,
    /// What it does.
    pub action: Action,
}

/// What a route does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Takes a record and answers with its job.
    Accept(Accept),
    /// Tells what became of a job.
    Results(Results),
    /// Tells it as events, when it happens.
    Events(Results),
    /// Serves a file.
    File(Arc<StaticFile>),
    /// Takes a session's query.
    Ask(Ask),
    /// Opens a session's socket.
    Socket(Socket),
    /// Gives the next message.
    Messages(Messages),
    /// Takes its acknowledgement.
    Acks(Messages),
}

/// How a route takes records.
#[derive(Clone, Debug)]
pub struct Accept {
    /// The pipeline that the records are for.
    pub jobs: JobsOf,
    /// The topic that they go to: the pipeline's source.
    pub topic: Arc<str>,
    /// Where the record is in the body.
    pub body: Body,
    /// The most bytes that a body may have, framing included.
    pub body_bytes_max: usize,
    /// The media types taken: those of [`MediaType`] told by content, others as declared; empty: any.
    pub accept: Vec<String>,
    /// What comes beside the content, and becomes headers of the record.
    pub fields: Vec<Field>,
    /// Where the record's key comes from.
    pub key: Key,
    /// What the record passes before it is accepted, and what makes its key of it, where that is anything.
    pub steps: Option<Arc<EdgeSteps>>,
    /// The JSON Schema that its steps hold a body against as it comes, for the API's description.
    pub schema: Option<Arc<serde_json::Value>>,
    /// How long after it was accepted a record is still worth working on; `None`: for ever.
    pub deadline: Option<Duration>,
    /// What requests' own keys are to it.
    pub idempotency: Idempotency,
    /// Whether the answer waits for the job's outcome without being asked to.
    pub waits: bool,
    /// How long an answer may wait for it at most.
    pub wait_max: Duration,
    /// How it tells how the job ended.
    pub answers: Answers,
    /// Where its records wait while the log does not take them.
    pub outbox: Option<InOutbox>,
    /// Whether each of its records is told of in the log.
    pub log_records: bool,
}

/// Where a route's records wait while the log does not take them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InOutbox {
    /// The name of its queue in the outbox.
    pub queue: Arc<str>,
    /// How long the log may take to acknowledge a record before it is put there.
    pub after: Duration,
}

/// What requests' idempotency keys are to a route.
#[derive(Clone, Debug, Default)]
pub struct Idempotency {
    /// Whether a request without one is refused.
    pub is_required: bool,
    /// What becomes of a request while the first of its key is being answered.
    pub in_progress: InProgress,
    /// For how long one key is one job; `None` where the pipeline's ledger does not go by it.
    pub ttl: Option<Duration>,
    /// What finds the key in a body.
    pub field: Option<TextOf>,
    /// Where the key of a request comes from that has none; `None`: it has none.
    pub derive: Option<Derive>,
}

/// Where the key of a request comes from that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derive {
    /// It is drawn.
    Random,
    /// It is made of the payload.
    Payload,
}

/// What becomes of a request while the first of its key is being answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InProgress {
    /// It waits, and gets the same answer.
    #[default]
    Replay,
    /// 409.
    Conflict,
}

/// The jobs of one pipeline, and how they are found.
#[derive(Clone, Debug)]
pub struct JobsOf {
    /// The pipeline.
    pub pipeline: Arc<str>,
    /// Makes the pipeline's claims, where its ledger's key is the record's id: finds jobs that were dropped.
    pub claims: Option<Claimer>,
}

/// For whose jobs a route answers.
#[derive(Clone, Debug)]
pub struct Results {
    /// The jobs.
    pub jobs: JobsOf,
    /// The path's variable that holds the job id.
    pub variable: String,
    /// How long an answer may wait for the outcome at most.
    pub wait_max: Duration,
}

/// Where a record's key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// It is the job id, so requests of one idempotency key lie in one partition.
    JobId,
    /// It is the value of this HTTP header, which must be there.
    Header(String),
    /// The route's steps make it ([`EdgeSteps`]).
    Made,
}

/// Where a record is in a request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The file in this field of a `multipart/form-data` body; or the whole body, where its declared type is one that
    /// the route takes.
    File {
        /// The field's name.
        field: String,
    },
    /// The whole body.
    Whole,
    /// It is the route's fields as a JSON object; the body is a form, or empty.
    Fields,
    /// Each JSON object of the body: it, the elements of its array, or its lines.
    Events {
        /// How many there are at most.
        events_max: usize,
    },
}

/// A kind of file that is told by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    /// `image/jpeg`
    Jpeg,
    /// `image/png`
    Png,
    /// `image/webp`
    Webp,
}

impl MediaType {
    /// Every kind that can be told.
    pub const ALL: [Self; 3] = [Self::Jpeg, Self::Png, Self::Webp];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Webp => "image/webp",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// The kind of this content by its signature (WHATWG MIME Sniffing §6.1). What follows the signature may be garbage.
    #[must_use]
    pub fn of(content: &[u8]) -> Option<Self> {
        match content {
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', b'V', b'P', ..] => Some(Self::Webp),
            _ => None,
        }
    }
}

impl Route {
    /// What comes before and after the job id in the path of the route that answers for this pipeline's jobs.
    #[must_use]
    pub fn around_job_id(&self, pipeline: &str) -> Option<(String, String)> {
        let Action::Results(results) = &self.action else { return None };
        let (before, after) = self.path.split_once(&format!("{{{}}}", results.variable))?;
        (&*results.jobs.pipeline == pipeline).then(|| (before.to_owned(), after.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_tells_its_kind_and_names_round_trip() {
        for (content, kind) in [
            (b"\xff\xd8\xff\xe0rest".as_slice(), Some(MediaType::Jpeg)),
            (b"\x89PNG\r\n\x1a\n", Some(MediaType::Png)),
            (b"RIFF\x01\x02\x03\x04WEBPVP8 ", Some(MediaType::Webp)),
            (b"RIFF\x01\x02\x03\x04WAVEfmt ", None),
            (b"\x89PNG", None),
            (b"GIF89a", None),
            (b"", None),
        ] {
            assert_eq!(MediaType::of(content), kind, "{content:?}");
        }
        for kind in MediaType::ALL {
            assert_eq!(MediaType::from_name(kind.as_str()), Some(kind));
        }
        assert_eq!(MediaType::from_name("image/gif"), None);
    }
}
