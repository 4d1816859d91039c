//! A place in a JSON document, `.text` or `.user.name`: jq's own notation, for steps that read and write one value. Never
//! evaluates anything: expressions do.

use crate::config::text::text_type;
use bulkhead_core::fault::Fault;
use bulkhead_core::record::{Header, Record};
use serde_json::{Map, Value};
use std::fmt;
use std::str::FromStr;

/// Names in one path; deeper documents are for expressions.
const NAMES_MAX: usize = 16;
/// The header that says what a value is.
const CONTENT_TYPE: &str = "content-type";

text_type! {
    /// A place in the record's JSON value: names after dots, e.g. `.text` or `.user.name` (letters, digits and `_`).
    Field(Vec<String>), format = "field", example = ".text"
}

impl FromStr for Field {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_name = |name: &&str| {
            !name.is_empty()
                && !name.starts_with(|c: char| c.is_ascii_digit())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        let names: Vec<_> = text.strip_prefix('.').map(|rest| rest.split('.').collect()).unwrap_or_default();
        if names.is_empty() || names.len() > NAMES_MAX || !names.iter().all(is_name) {
            return Err(format!(
                "a field is a dot and a name, at most {NAMES_MAX} times over, e.g. \".text\" or \".user.name\""
            ));
        }
        Ok(Self(names.into_iter().map(str::to_owned).collect()))
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|name| write!(f, ".{name}"))
    }
}

impl Field {
    /// The field of one name, for defaults.
    pub(super) fn of(name: &str) -> Self {
        Self(vec![name.to_owned()])
    }

    /// The value there, if there is one.
    pub(super) fn find<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(document, |value, name| value.get(name))
    }

    /// The text there.
    ///
    /// # Errors
    /// Poison: the document has no text there.
    pub(super) fn text<'a>(&self, document: &'a Value) -> Result<&'a str, Fault> {
        self.find(document)
            .and_then(Value::as_str)
            .ok_or_else(|| Fault::poison("field_missing", format_args!("the record's JSON has no text at {self}")))
    }

    /// Puts a value there; objects on the way are made where there is nothing.
    ///
    /// # Errors
    /// Poison: something on the way is no object.
    pub(super) fn set(&self, document: &mut Value, value: Value) -> Result<(), Fault> {
        let mut place = document;
        for name in &self.0 {
            if place.is_null() {
                *place = Value::Object(Map::new());
            }
            let Value::Object(fields) = place else {
                let why = format_args!("nothing can be put at {self}: what holds {name:?} is no object");
                return Err(Fault::poison("field_unusable", why));
            };
            place = fields.entry(name.as_str()).or_insert(Value::Null);
        }
        *place = value;
        Ok(())
    }
}

/// The record's value as a JSON document.
///
/// # Errors
/// Poison: it is none.
pub(super) fn document(record: &Record) -> Result<Value, Fault> {
    serde_json::from_slice(record.payload())
        .map_err(|why| Fault::poison("not_json", format_args!("the record's value is no JSON: {why}")))
}

/// The record with this document as its value.
pub(super) fn with_document(record: &Record, document: &Value) -> Record {
    let mut headers: Vec<Header> =
        record.headers.iter().filter(|h| !h.name.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes())).cloned().collect();
    headers.push(Header::new(CONTENT_TYPE, "application/json"));
    Record { key: record.key.clone(), value: Some(document.to_string().into()), headers, timestamp: record.timestamp }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn fields_are_read_and_written_where_they_say() {
        let field: Field = ".user.name".parse().expect("it is one");
        let mut document = json!({ "user": { "name": "Ada", "age": 36 } });
        assert_eq!(field.text(&document), Ok("Ada"));
        field.set(&mut document, json!("Bo")).expect("it is an object");
        assert_eq!(document, json!({ "user": { "name": "Bo", "age": 36 } }));
        let mut empty = Value::Null;
        field.set(&mut empty, json!(1)).expect("objects are made");
        assert_eq!(empty, json!({ "user": { "name": 1 } }));
        assert_eq!(field.text(&empty).expect_err("a number is no text").code, "field_missing");
        assert_eq!(field.set(&mut json!([1]), json!(1)).expect_err("no object").code, "field_unusable");
    }

    #[test]
    fn what_is_no_field_is_refused() {
        for wrong in ["", ".", "text", ".a.", "..a", ".1a", ".a b", ".a[0]", &".a".repeat(17)] {
            assert!(wrong.parse::<Field>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(names in prop::collection::vec("[a-z_][a-z0-9_]{0,8}", 1..5)) {
            let field = Field(names);
            prop_assert_eq!(field.to_string().parse::<Field>(), Ok(field.clone()));
            let mut document = json!({});
            field.set(&mut document, json!("x")).expect("objects are made");
            prop_assert_eq!(field.find(&document), Some(&json!("x")));
        }
    }
}
