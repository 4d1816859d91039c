//! Errors as RFC 9457 problem documents. Never tells a client what only an operator should know.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse, ResponseError};
use serde_json::{Map, Value, json};
use std::fmt;

/// The media type of every error.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// The member that says where what a problem is about can be asked for.
pub const LOCATION: &str = "location";

/// Why a request was not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// A stable kebab-case word; `type` is `urn:bulkhead:problem:` and this.
    pub code: &'static str,
    /// The kind of problem, the same for every occurrence.
    pub title: &'static str,
    /// This occurrence, and what the client can do about it.
    pub detail: String,
    /// `Retry-After`, seconds, where trying again makes sense.
    pub retry_after_s: Option<u64>,
    /// `Allow`, where the method was wrong.
    pub allow: Option<Box<str>>,
    /// What the document says beside that (RFC 9457 §3.2); [`LOCATION`] is said in the header of that name, too.
    pub members: Map<String, Value>,
}

impl Problem {
    /// A problem that trying again will not mend.
    pub fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, title, detail: detail.into(), retry_after_s: None, allow: None, members: Map::new() }
    }

    /// 400.
    pub fn bad_request(code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, title, detail)
    }

    /// 404 for a job.
    #[must_use]
    pub fn unknown_job() -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown-job", "Unknown job", "No job with this id was ever accepted here.")
    }

    /// 404 for a path.
    #[must_use]
    pub fn not_found(path: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", format!("Nothing is served at {path:?}."))
    }

    /// 405; `allow` lists the methods that the path has.
    #[must_use]
    pub fn method_not_allowed(method: &str, allow: &str) -> Self {
        let detail = format!("This path does not take {method}; it takes {allow}.");
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self { allow: Some(allow.into()), ..Self::new(status, "method-not-allowed", "Method not allowed", detail) }
    }

    /// 413; `limit` in bytes.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        let detail = format!("The body is larger than the {limit} bytes that this route takes.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "Body too large", detail)
    }

    /// 415.
    pub fn unsupported(detail: impl Into<String>) -> Self {
        let (code, title) = ("unsupported-media-type", "Unsupported media type");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, code, title, detail)
    }

    /// 500: something that cannot be did happen; the log says what.
    #[must_use]
    pub fn internal() -> Self {
        Self::of_status(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// 503: the same request may succeed after a second or so.
    pub fn unavailable(code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { retry_after_s: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, title, detail) }
    }

    /// 503: this daemon is about to go.
    #[must_use]
    pub fn draining() -> Self {
        Self::unavailable("draining", "Shutting down", "This daemon is shutting down; ask another.")
    }

    /// What the framework answered by itself, with nothing but a status.
    fn of_status(status: StatusCode) -> Self {
        Self::new(status, "http", status.canonical_reason().unwrap_or("Error"), "The request cannot be served.")
    }

    /// The document; `instance` is the path that was asked for.
    #[must_use]
    pub fn to_response(&self, instance: &str) -> HttpResponse {
        let mut document = json!({
            "type": format!("urn:bulkhead:problem:{}", self.code),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
            "instance": instance,
        });
        for (name, value) in &self.members {
            document[name] = value.clone();
        }
        let mut response = HttpResponse::build(self.status);
        response.content_type(MEDIA_TYPE);
        if let Some(seconds) = self.retry_after_s {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        if let Some(allow) = &self.allow {
            response.insert_header((header::ALLOW, &**allow));
        }
        if let Some(location) = self.members.get(LOCATION).and_then(Value::as_str) {
            response.insert_header((header::LOCATION, location));
        }
        response.body(document.to_string())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        self.to_response("")
    }
}

/// Middleware: every error leaves as a problem document that names the path, whoever made it.
///
/// # Errors
/// None of its own: handlers' errors have become responses by now.
pub async fn as_documents(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let response = next.call(request).await?.map_into_boxed_body();
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return Ok(response);
    }
    let problem = match response.response().error().and_then(|error| error.as_error::<Problem>()) {
        Some(problem) => problem.clone(),
        None if is_document(&response) => return Ok(response),
        None => Problem::of_status(status),
    };
    let document = problem.to_response(response.request().path());
    Ok(response.into_response(document))
}

/// A handler's own document, e.g. readiness with status 503, is left as it is.
fn is_document(response: &ServiceResponse<BoxBody>) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|kind: &HeaderValue| kind.as_bytes().ends_with(b"json"))
}
