//! One call: made, answered and read within its limits. Never decides what an answer means, and never makes a call twice.

use bulkhead_core::fault::Fault;
use bytes::{Bytes, BytesMut};
use reqwest::{Response, Url};
use std::error::Error;
use std::fmt;

/// A host and its port, as messages and breakers name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host(String);

impl Host {
    pub(super) fn of(url: &str) -> Self {
        url.parse().map_or_else(|_| Self("no host".to_owned()), |url| Self::in_url(&url))
    }

    pub(super) fn in_url(url: &Url) -> Self {
        let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
        Self(format!("{host}:{port}"))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why there was no answer: the error and what caused it, without the URL, which may hold what nobody is to read.
pub(super) fn explained(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let what = if error.is_connect() { "no connection" } else { "the connection broke" };
    format!("{what}: {cause}")
}

/// The fault of a call without an answer.
pub(super) fn unanswered(host: &Host, error: &reqwest::Error) -> Fault {
    let code = if error.is_timeout() { "http_timeout" } else { "http_unreachable" };
    Fault::transient(code, format!("{host}: {}", explained(error)))
}

/// The body of an answer.
///
/// # Errors
/// Transient where it broke off, poison where it is larger than it may be.
pub(super) async fn read(mut answer: Response, bytes_max: usize) -> Result<Bytes, Fault> {
    let host = Host::in_url(answer.url());
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.map_err(|why| unanswered(&host, &why))? {
        if body.len() + chunk.len() > bytes_max {
            let message = format!("{host} answered with more than the {bytes_max} bytes that are taken");
            return Err(Fault::poison("http_response_too_large", message));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}
