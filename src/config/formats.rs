//! What the `format`s of the schema demand of a value. Never knows which key has which format.

use super::cases::JsonText;
use super::daemon::is_brokers;
use super::route::fields::Pattern;
use super::route::page::PagePath;
use super::secret;
use super::text::{Content, HeaderName, MediaName, Name, RecordKey, RouteKey, RoutePath, Topic};
use super::units::{Period, Size};
use crate::expression::Jq;
use crate::steps::field::Field;
use serde_json::Value as Json;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;

type Check = fn(&str) -> Result<(), String>;

/// Every format that text can have, but for secrets.
const FORMATS: &[(&str, Check)] = &[
    ("address", address),
    ("brokers", is_brokers),
    ("content", parses::<Content>),
    ("duration", parses::<Period>),
    ("field", parses::<Field>),
    ("header-name", parses::<HeaderName>),
    ("jq", parses::<Jq>),
    ("json", parses::<JsonText>),
    ("log-filter", log_filter),
    ("media-type", parses::<MediaName>),
    ("name", parses::<Name>),
    ("page-path", parses::<PagePath>),
    ("pattern", parses::<Pattern>),
    ("record-key", parses::<RecordKey>),
    ("route-key", parses::<RouteKey>),
    ("route-path", parses::<RoutePath>),
    ("size", parses::<Size>),
    ("topic", parses::<Topic>),
];

fn parses<T: FromStr<Err = String>>(text: &str) -> Result<(), String> {
    text.parse::<T>().map(|_| ())
}

fn address(text: &str) -> Result<(), String> {
    let why = "an address is IP:PORT, e.g. \"127.0.0.1:8080\", \"0.0.0.0:8080\" or \"[::1]:8080\"";
    text.parse::<SocketAddr>().map(|_| ()).map_err(|_| why.to_owned())
}

fn log_filter(text: &str) -> Result<(), String> {
    crate::logging::filter(text).map(|_| ())
}

fn format_of(schema: &Json) -> Option<&str> {
    schema.get("format").and_then(Json::as_str)
}

fn check_of(schema: &Json) -> Option<Check> {
    let format = format_of(schema)?;
    FORMATS.iter().find(|(name, _)| *name == format).map(|(_, check)| *check)
}

/// Whether a value must not be shown.
pub(super) fn is_secret(schema: &Json, path: &str) -> bool {
    format_of(schema) == Some(secret::FORMAT) || super::properties::is_secret(path)
}

/// Whether values name something, so that two of them should differ.
pub(super) fn is_name(schema: &Json) -> bool {
    matches!(format_of(schema), Some("name" | "topic"))
}

/// The text if its format allows it; a secret is fetched from its file.
pub(super) fn text(schema: &Json, text: &str, varied: bool, dir: &Path) -> Result<String, String> {
    if format_of(schema) == Some(secret::FORMAT) {
        return secret::fetch(text, varied, dir);
    }
    check_of(schema).map_or(Ok(()), |check| check(text))?;
    Ok(text.to_owned())
}

/// What a value that is no string should have been.
pub(super) fn hint(schema: &Json, text: &str) -> Option<String> {
    check_of(schema)?(text).err()
}

/// The least and the greatest whole number allowed: the schema's own bounds within those of its Rust type.
pub(super) fn integer_bounds(schema: &Json) -> (i128, i128) {
    let (least, greatest) = match format_of(schema) {
        Some("uint8") => (0, u8::MAX.into()),
        Some("uint16") => (0, u16::MAX.into()),
        Some("uint32") => (0, u32::MAX.into()),
        Some("int8") => (i8::MIN.into(), i8::MAX.into()),
        Some("int16") => (i16::MIN.into(), i16::MAX.into()),
        Some("int32") => (i32::MIN.into(), i32::MAX.into()),
        Some("uint64" | "uint") => (0, i64::MAX.into()),
        _ => (i64::MIN.into(), i64::MAX.into()),
    };
    // A bound of a floating-point type is written as 1.0.
    let bound = |name: &str| {
        let bound = schema.get(name)?;
        bound.as_i64().map(i128::from).or_else(|| bound.as_f64().map(|bound| bound as i128))
    };
    (bound("minimum").map_or(least, |min| min.max(least)), bound("maximum").map_or(greatest, |max| max.min(greatest)))
}
