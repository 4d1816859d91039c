//! Reads a record out of a request's body within limits. Never holds more of a body than its route allows, and stops
//! reading at the first byte too many.

use super::fields::{self, Pairs};
use super::problem::Problem;
use super::route::{Accept, Body, MediaType};
use actix_multipart::{Field, Multipart, MultipartError};
use actix_web::HttpRequest;
use actix_web::error::PayloadError;
use actix_web::http::header;
use actix_web::web::Payload;
use bulkhead_core::record::{Header, Record};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::cell::Cell;
use std::rc::Rc;

/// The record's header that says what its value is.
pub(super) const CONTENT_TYPE: &str = "content-type";
/// Longest field name and media type that is repeated to anyone.
const NAME_LEN_MAX: usize = 100;

/// A record's value as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Upload {
    /// The bytes, at least one.
    pub value: Bytes,
    /// Their media type, by content where it is told, else as declared.
    pub content_type: String,
    /// The route's fields, by name.
    pub fields: Pairs,
}

impl Upload {
    /// What tells this payload from another one: its bytes, and its fields where there are any.
    pub(super) fn signed(&self) -> Cow<'_, [u8]> {
        if self.fields.is_empty() {
            return Cow::Borrowed(&self.value);
        }
        let fields = self.fields.iter().flat_map(|(name, value)| ["\0", name.as_str(), "\0", value.as_str()]);
        Cow::Owned(self.value.iter().copied().chain(fields.flat_map(str::bytes)).collect())
    }
}

impl Upload {
    /// The record that it is, with nothing around it.
    pub(super) fn record(&self) -> Record {
        let headers = vec![Header::new(CONTENT_TYPE, self.content_type.clone())];
        Record { value: Some(self.value.clone()), headers, ..Record::default() }
    }
}

/// The body's declared length, refused at once where it is above the route's limit.
///
/// # Errors
/// 413.
pub(super) fn declared_len(request: &HttpRequest, limit: usize) -> Result<Option<usize>, Problem> {
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse::<u64>().ok());
    match declared {
        Some(len) if len > limit as u64 => Err(Problem::too_large(limit)),
        declared => Ok(declared.and_then(|len| usize::try_from(len).ok())),
    }
}

/// Reads the record that the route wants. A multipart body has at most `parts_max` parts: the file, and a form's few
/// fields around it.
///
/// # Errors
/// What is wrong with the body.
pub(super) async fn read(
    request: &HttpRequest,
    payload: Payload,
    route: &Accept,
    parts_max: usize,
) -> Result<Upload, Problem> {
    refuse_encoding(request)?;
    let overflow = Rc::new(Cell::new(false));
    let stream = limited(payload, route.body_bytes_max, Rc::clone(&overflow));
    let declared = declared_type(request);
    let query = fields::in_query(request)?;
    let mut form = Pairs::new();
    let read = match &route.body {
        Body::File { field } if !route.accept.contains(&declared) => {
            let wanted = Wanted { file: Some(field), route, parts_max };
            read_parts(request, stream, &wanted, &mut form)
                .await
                .and_then(|file| file.ok_or_else(|| missing_field(field, &form)))
        }
        Body::File { .. } | Body::Whole | Body::Events { .. } => read_whole(stream, declared).await,
        Body::Fields => read_form(request, stream, &Wanted { file: None, route, parts_max }, &mut form).await,
    };
    // However the parser took the end of its input, the reason was this.
    if overflow.get() {
        return Err(Problem::too_large(route.body_bytes_max));
    }
    let (value, declared) = read?;
    let fields = fields::take(&route.fields, &query, &form)?;
    if route.body == Body::Fields {
        let object: Map<String, Value> = fields.iter().cloned().map(|(name, value)| (name, value.into())).collect();
        let value = Value::Object(object).to_string().into();
        return Ok(Upload { value, content_type: "application/json".to_owned(), fields });
    }
    let content_type = checked_type(&value, declared, &route.accept)?;
    Ok(Upload { value, content_type, fields })
}

/// Reads a body that is a form, or nothing.
async fn read_form(
    request: &HttpRequest,
    stream: impl Stream<Item = Result<Bytes, PayloadError>> + 'static,
    wanted: &Wanted<'_>,
    form: &mut Pairs,
) -> Result<(Bytes, String), Problem> {
    let declared = declared_type(request);
    if declared == "multipart/form-data" {
        read_parts(request, stream, wanted, form).await?;
    } else {
        let body = collect(Box::pin(stream)).await.map_err(|_| cut_short())?;
        match declared.as_str() {
            "application/x-www-form-urlencoded" => *form = fields::in_form(&body)?,
            _ if body.is_empty() => {}
            _ => return Err(Problem::unsupported("This route takes a form, or no body at all.")),
        }
    }
    Ok((Bytes::new(), declared))
}

/// What the content is: told by its first bytes where they tell, else what it is declared as. A picture's name on what is
/// none counts for nothing.
fn checked_type(value: &[u8], declared: String, accept: &[String]) -> Result<String, Problem> {
    let kind = MediaType::of(value).map(MediaType::as_str);
    if accept.is_empty() {
        return Ok(kind.map_or(declared, str::to_owned));
    }
    let is = kind.map_or_else(
        || Some(declared).filter(|name| MediaType::from_name(name).is_none()),
        |kind| Some(kind.to_owned()),
    );
    match is {
        Some(is) if accept.contains(&is) => Ok(is),
        is => {
            let is = is.filter(|_| kind.is_some()).unwrap_or_else(|| "none of them".to_owned());
            let wanted = accept.join(", ");
            Err(Problem::unsupported(format!("This route takes {wanted}; the content, whatever its name, is {is}.")))
        }
    }
}

/// A compressed body would be stored compressed, and a step would not know.
fn refuse_encoding(request: &HttpRequest) -> Result<(), Problem> {
    match request.headers().get(header::CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => {
            Err(Problem::unsupported("Bodies with a Content-Encoding are not taken."))
        }
        _ => Ok(()),
    }
}

/// The payload up to `limit` bytes; the first chunk past it raises `overflow` and ends the stream with an error.
fn limited(
    payload: Payload,
    limit: usize,
    overflow: Rc<Cell<bool>>,
) -> impl Stream<Item = Result<Bytes, PayloadError>> + 'static {
    let mut left = limit;
    payload.map(move |chunk| {
        let chunk = chunk?;
        left = left.checked_sub(chunk.len()).ok_or_else(|| {
            overflow.set(true);
            PayloadError::Overflow
        })?;
        Ok(chunk)
    })
}

async fn read_whole(
    stream: impl Stream<Item = Result<Bytes, PayloadError>> + 'static,
    declared: String,
) -> Result<(Bytes, String), Problem> {
    let value = collect(Box::pin(stream)).await.map_err(|_| cut_short())?;
    if value.is_empty() {
        return Err(Problem::bad_request("empty-body", "Empty body", "The body has 0 bytes."));
    }
    Ok((value, declared))
}

/// The parts that a multipart body is read for.
struct Wanted<'a> {
    /// The field of the file, where there is one.
    file: Option<&'a str>,
    /// Its fields are read, too.
    route: &'a Accept,
    parts_max: usize,
}

impl Wanted<'_> {
    /// How long the field of this name may be; `None` where the route has none of that name in forms.
    fn field_bytes_max(&self, name: &str) -> Option<usize> {
        let field = self.route.fields.iter().find(|field| field.in_form && field.name == name)?;
        Some(field.bytes_max)
    }
}

/// Reads a multipart body: the file, and the fields that the route has. Others are told of by name, without a value.
async fn read_parts(
    request: &HttpRequest,
    stream: impl Stream<Item = Result<Bytes, PayloadError>> + 'static,
    wanted: &Wanted<'_>,
    form: &mut Pairs,
) -> Result<Option<(Bytes, String)>, Problem> {
    let Wanted { file: wanted_file, route, parts_max } = *wanted;
    if declared_type(request) != "multipart/form-data" {
        let raw = match route.accept.join(", ") {
            names if names.is_empty() => String::new(),
            names => format!(", or the file itself as {names}"),
        };
        let field = wanted_file.unwrap_or_default();
        let detail = format!("This route takes multipart/form-data with the file in the field {field:?}{raw}.");
        return Err(Problem::unsupported(detail));
    }
    let mut parts = Multipart::new(request.headers(), stream);
    let (mut file, mut count) = (None, 0);
    while let Some(part) = parts.try_next().await.map_err(bad_multipart)? {
        count += 1;
        if count > parts_max {
            let detail = format!("The body has more than {parts_max} parts.");
            return Err(Problem::bad_request("too-many-parts", "Too many parts", detail));
        }
        let name = part.name().unwrap_or_default().to_owned();
        if wanted_file != Some(name.as_str()) {
            let value = read_field(part, wanted.field_bytes_max(&name)).await?;
            form.push((name, value));
        } else if file.is_some() {
            let detail = format!("The field {name:?} comes more than once; a request takes one file.");
            return Err(Problem::bad_request("too-many-files", "More than one file", detail));
        } else {
            let content_type = media_type(part.content_type().map(|mime| mime.essence_str()));
            file = Some((collect(part).await.map_err(bad_multipart)?, content_type));
        }
    }
    match file {
        Some((value, _)) if value.is_empty() => {
            let detail = format!("The file in the field {:?} has 0 bytes.", wanted_file.unwrap_or_default());
            Err(Problem::bad_request("empty-file", "Empty file", detail))
        }
        file => Ok(file),
    }
}

/// A field's value, a byte more than it may have at most; nothing of one that the route does not have.
async fn read_field(mut part: Field, bytes_max: Option<usize>) -> Result<String, Problem> {
    let mut value = Vec::new();
    while let Some(chunk) = part.try_next().await.map_err(bad_multipart)? {
        let room = bytes_max.map_or(0, |most| (most + 1).saturating_sub(value.len()));
        value.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    Ok(String::from_utf8_lossy(&value).into_owned())
}

async fn collect<E>(mut stream: impl Stream<Item = Result<Bytes, E>> + Unpin) -> Result<Bytes, E> {
    let mut value = BytesMut::new();
    while let Some(chunk) = stream.try_next().await? {
        value.extend_from_slice(&chunk);
    }
    Ok(value.freeze())
}

fn missing_field(wanted: &str, others: &Pairs) -> Problem {
    let others: Vec<String> = others.iter().map(|(name, _)| printable(name)).collect();
    let found = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
    let detail = format!("The file must be in the field {wanted:?}; the fields that came: {found}.");
    Problem::bad_request("missing-field", "Missing field", detail)
}

fn cut_short() -> Problem {
    Problem::bad_request("incomplete-body", "Incomplete body", "The body ended before it was complete.")
}

fn bad_multipart(error: MultipartError) -> Problem {
    match error {
        MultipartError::Incomplete | MultipartError::Payload(_) => cut_short(),
        error => Problem::bad_request("bad-multipart", "Bad multipart body", format!("{error}.")),
    }
}

/// A client's text, made safe to repeat.
fn printable(text: &str) -> String {
    format!("{:?}", text.chars().take(NAME_LEN_MAX).collect::<String>())
}

/// The media type that the request declares its body to have.
fn declared_type(request: &HttpRequest) -> String {
    media_type(request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()))
}

/// `type/subtype` where the text is one, without parameters; else that of bytes of which nothing is known.
fn media_type(declared: Option<&str>) -> String {
    let essence = declared.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let token =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b));
    match essence.split_once('/') {
        Some((kind, sub)) if essence.len() <= NAME_LEN_MAX && token(kind) && token(sub) => essence,
        _ => "application/octet-stream".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declared_media_type_is_taken_only_if_it_is_one() {
        for (declared, taken) in [
            (Some("Image/PNG"), "image/png"),
            (Some("text/plain; charset=utf-8"), "text/plain"),
            (Some("application/vnd.api+json"), "application/vnd.api+json"),
            (Some("image/\u{1b}[31mpng"), "application/octet-stream"),
            (Some("image/png/x"), "application/octet-stream"),
            (Some("image"), "application/octet-stream"),
            (Some("/"), "application/octet-stream"),
            (None, "application/octet-stream"),
        ] {
            assert_eq!(media_type(declared), taken, "{declared:?}");
        }
        let long = format!("image/{}", "x".repeat(200));
        assert_eq!(media_type(Some(&long)), "application/octet-stream");
    }

    #[test]
    fn a_repeated_name_is_short_and_has_no_control_characters() {
        assert_eq!(printable("a\u{1b}\"b"), "\"a\\u{1b}\\\"b\"");
        assert!(printable(&"x".repeat(10_000)).len() <= NAME_LEN_MAX + 2);
    }
}
