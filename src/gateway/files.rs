//! Serves files that were read when the daemon started. Never touches the disk for a request, so a path cannot lead
//! anywhere but to them.

use super::problem::Problem;
use actix_web::http::header::{self, HeaderName};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::time::Duration;

/// What a page may load and do: its own files and this gateway, and pictures that it holds itself. Nothing from elsewhere,
/// no script or style in its text, no form, no frame around it.
pub const STRICT: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; font-src 'self'; \
    connect-src 'self'; manifest-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// Bytes of a hash that tell contents apart.
const ETAG_BYTES: usize = 16;
/// What every file is served with beside its policy.
const SAFE: [(HeaderName, &str); 3] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// A file as it is served.
#[derive(Clone, Debug)]
pub struct StaticFile {
    content: Bytes,
    media: &'static str,
    is_gzip: bool,
    etag: String,
    cache_control: String,
    policy: &'static str,
}

impl StaticFile {
    /// A file that browsers ask for anew each time, and are told that nothing changed.
    #[must_use]
    pub fn new(content: impl Into<Bytes>, media: &'static str) -> Self {
        let content = content.into();
        let mut etag = String::from("\"");
        for byte in &Sha256::digest(&content)[..ETAG_BYTES] {
            write!(etag, "{byte:02x}").expect("writing to a String never fails");
        }
        etag.push('"');
        Self { content, media, is_gzip: false, etag, cache_control: "no-cache".to_owned(), policy: STRICT }
    }

    /// Whose content is compressed with gzip already.
    #[must_use]
    pub fn gzipped(mut self) -> Self {
        self.is_gzip = true;
        self
    }

    /// Which browsers go by for so long without asking.
    #[must_use]
    pub fn kept_for(mut self, max_age: Duration) -> Self {
        self.cache_control = format!("max-age={}", max_age.as_secs());
        self
    }

    /// With another Content-Security-Policy than [`STRICT`].
    #[must_use]
    pub fn allowed(mut self, policy: &'static str) -> Self {
        self.policy = policy;
        self
    }

    /// Its media type.
    #[must_use]
    pub fn media(&self) -> &'static str {
        self.media
    }
}

/// The methods by which a file is asked for.
pub(super) fn is_asked(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// Serves one request for a file.
pub(super) fn serve(file: &StaticFile, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    if file.is_gzip && !takes_gzip(values(request, header::ACCEPT_ENCODING)) {
        let detail = "This file is kept compressed with gzip; ask for it with Accept-Encoding: gzip.";
        return Err(Problem::new(StatusCode::NOT_ACCEPTABLE, "not-acceptable", "Not acceptable", detail));
    }
    let is_known = names(values(request, header::IF_NONE_MATCH), &file.etag);
    let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response.insert_header((header::ETAG, file.etag.as_str()));
    response.insert_header((header::CACHE_CONTROL, file.cache_control.as_str()));
    response.insert_header((header::CONTENT_SECURITY_POLICY, file.policy));
    for header in SAFE {
        response.insert_header(header);
    }
    if file.is_gzip {
        response.insert_header((header::VARY, "accept-encoding"));
    }
    if is_known {
        return Ok(response.finish());
    }
    if file.is_gzip {
        response.insert_header((header::CONTENT_ENCODING, "gzip"));
    }
    Ok(response.content_type(file.media).body(file.content.clone()))
}

/// The members of a list header, wherever they stand.
fn values(request: &HttpRequest, name: HeaderName) -> impl Iterator<Item = &str> {
    let fields = request.headers().get_all(name).filter_map(|field| field.to_str().ok());
    fields.flat_map(|field| field.split(',')).map(str::trim).filter(|member| !member.is_empty())
}

/// Whether an `If-None-Match` of these members names the content (RFC 9110 §13.1.2, compared weakly).
fn names<'a>(mut members: impl Iterator<Item = &'a str>, etag: &str) -> bool {
    members.any(|member| member == "*" || member.trim_start_matches("W/") == etag)
}

/// Whether an `Accept-Encoding` of these members takes gzip; none takes whatever comes (RFC 9110 §12.5.3).
fn takes_gzip<'a>(members: impl Iterator<Item = &'a str>) -> bool {
    let (mut gzip, mut any, mut is_empty) = (None, None, true);
    for member in members {
        is_empty = false;
        let (name, weight) = member.split_once(';').unwrap_or((member, ""));
        let weight = weight.trim().trim_start_matches("q=");
        let takes = !matches!(weight.trim_end_matches(['0', '.']), "") || weight.is_empty();
        match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => gzip = Some(takes),
            "*" => any = Some(takes),
            _ => {}
        }
    }
    is_empty || gzip.or(any).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_only_to_those_who_take_it() {
        for (members, takes) in [
            (vec![], true),
            (vec!["gzip"], true),
            (vec!["br", "GZIP;q=0.5"], true),
            (vec!["*"], true),
            (vec!["br"], false),
            (vec!["identity"], false),
            (vec!["gzip;q=0"], false),
            (vec!["gzip; q=0.000", "*"], false),
            (vec!["*;q=0"], false),
        ] {
            assert_eq!(takes_gzip(members.iter().copied()), takes, "{members:?}");
        }
    }

    #[test]
    fn a_tag_names_one_content() {
        let (a, b) = (StaticFile::new("a", "text/plain"), StaticFile::new("b", "text/plain"));
        assert_ne!(a.etag, b.etag);
        for (members, is_known) in [
            (vec![a.etag.clone()], true),
            (vec![b.etag.clone(), format!("W/{}", a.etag)], true),
            (vec!["*".to_owned()], true),
            (vec![b.etag.clone()], false),
            (vec![], false),
        ] {
            assert_eq!(names(members.iter().map(String::as_str), &a.etag), is_known, "{members:?}");
        }
    }
}
