//! Fields that a request brings beside its content, in its URL's query or in a form, and what they must be. Never reads a
//! request.

use crate::config::text::text_type;
use crate::config::units::Size;
use jsonschema::{PatternOptions, Validator};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A route's fields by name; each becomes the header of that name of the route's records.
pub type Fields = BTreeMap<String, Field>;

/// Fields of a route.
pub const FIELDS_MAX: usize = 32;
const NAME_LEN_MAX: usize = 63;
const BYTES_MAX: Size = Size::kib(64);
/// Names that mean something else in a record's headers.
const TAKEN: [&str; 4] = ["content-type", "idempotency-key", "traceparent", "x-request-id"];

text_type! {
    /// A regular expression of linear time (the `regex` crate's syntax); `^` and `$` hold it to the whole text.
    Pattern(String), format = "pattern", example = "^[a-z0-9_]{1,64}$"
}

/// One field.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// Where it may come from. Empty: from nowhere; it is always `default`.
    #[serde(default = "anywhere")]
    #[schemars(length(max = 2))]
    pub from: Vec<FieldFrom>,
    /// What it is where a request does not bring it. Absent: it must, or is answered with 400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// What it must look like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<Pattern>,
    /// How long it may be.
    #[serde(default = "bytes_max")]
    pub bytes_max: Size,
}

fn anywhere() -> Vec<FieldFrom> {
    vec![FieldFrom::Query, FieldFrom::Form]
}

const fn bytes_max() -> Size {
    Size::kib(1)
}

/// Where a field may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FieldFrom {
    /// The URL's query.
    Query,
    /// A field of a `multipart/form-data` or `application/x-www-form-urlencoded` body.
    Form,
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pattern = Self(text.to_owned());
        pattern.compile().map(|_| pattern)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Pattern {
    /// What tells whether a text has it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn compile(&self) -> Result<Validator, String> {
        let options = jsonschema::options().with_pattern_options(PatternOptions::regex());
        let built = options.build(&json!({ "type": "string", "pattern": self.0 }));
        built.map_err(|why| format!("is no regular expression: {why}"))
    }
}

/// What is wrong with a route's fields: the field and key, and why.
pub(in crate::config) fn problems(fields: &Fields) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    if fields.len() > FIELDS_MAX {
        problems.push((String::new(), format!("has {} fields, at most {FIELDS_MAX} are possible", fields.len())));
    }
    for (name, field) in fields {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > NAME_LEN_MAX || !name.chars().all(legal) {
            let why = "a field's name has 1 to 63 letters, digits, - _ and .";
            problems.push((name.clone(), why.to_owned()));
        } else if TAKEN.contains(&name.to_ascii_lowercase().as_str()) || name.starts_with("__bulkhead.") {
            problems.push((name.clone(), "means something else in a record's headers; name it otherwise".to_owned()));
        }
        if field.bytes_max.0 == 0 || field.bytes_max.0 > BYTES_MAX.0 {
            problems.push((format!("{name}.bytes_max"), format!("must be \"1B\" to \"{BYTES_MAX}\"")));
        }
        match (&field.default, &field.pattern) {
            (None, _) if field.from.is_empty() => {
                problems.push((format!("{name}.default"), "is missing, and from names no other place".to_owned()));
            }
            (Some(default), Some(pattern)) if !matches(pattern, default) => {
                problems.push((format!("{name}.default"), format!("{default:?} has not its pattern {pattern}")));
            }
            _ => {}
        }
    }
    problems
}

fn matches(pattern: &Pattern, text: &str) -> bool {
    pattern.compile().is_ok_and(|validator| validator.is_valid(&json!(text)))
}
