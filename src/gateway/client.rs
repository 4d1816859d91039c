//! Who asks, and what a client says in headers. Never trusts a header that has more than one meaning.

use super::Shared;
use super::problem::Problem;
use actix_web::HttpRequest;

/// Longest header that is taken over, characters.
pub(super) const HEADER_LEN_MAX: usize = 255;

/// A header that is taken over: at most once, visible ASCII, not endless.
pub(super) fn header_text<'a>(request: &'a HttpRequest, name: &str) -> Result<Option<&'a str>, Problem> {
    let mut values = request.headers().get_all(name);
    let Some(value) = values.next() else { return Ok(None) };
    match value.to_str() {
        Ok(text) if values.next().is_none() && (1..=HEADER_LEN_MAX).contains(&text.len()) => Ok(Some(text)),
        _ => {
            let detail = format!("{name} comes at most once and has 1 to {HEADER_LEN_MAX} visible ASCII characters.");
            Err(Problem::bad_request("bad-header", "Bad header", detail))
        }
    }
}

/// The tenant that the request is for: what the configured header says, without which nothing is served; nobody's where
/// none is configured.
pub(super) fn tenant<'a>(shared: &Shared, request: &'a HttpRequest) -> Result<&'a str, Problem> {
    let Some(name) = &shared.tenant_header else { return Ok("") };
    header_text(request, name)?.ok_or_else(|| {
        Problem::bad_request("missing-tenant", "Missing tenant", format!("Requests name their tenant in {name}."))
    })
}
