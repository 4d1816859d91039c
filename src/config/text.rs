//! Values that are text in the config and have a form of their own: each is parsed once, where the file is read, and
//! is a type from then on. Never checks one value against another.

use crate::expression::Jq;
use std::fmt;
use std::str::FromStr;

/// Makes a newtype that is a string in TOML and in the JSON Schema (with a `format` that `shape.rs` checks by name),
/// and a parsed value in Rust. The type brings `FromStr<Err = String>`, whose error says what would be right, and
/// `Display`.
macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident($inner:ty), format = $format:literal, example = $example:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize, serde::Serialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub $inner);

        impl $name {
            /// The value.
            #[must_use]
            pub fn get(&self) -> &$inner {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "format": $format, "examples": [$example] })
            }
        }
    };
}
pub(crate) use text_type;

text_type! {
    /// The name of a pipeline or a stage: lower-case letters, digits, `-` and `_`, at most 63 characters.
    Name(String), format = "name", example = "orders"
}

text_type! {
    /// The name of a topic or a consumer group, as Kafka allows it for topics.
    Topic(String), format = "topic", example = "orders.created"
}

text_type! {
    /// What an output record's key, or a ledger key, is taken from: `key` (the source record's key) or `header:NAME`.
    RecordKey(KeyFrom), format = "record-key", example = "key"
}

text_type! {
    /// What the key of a record that a route accepts is taken from: `id` (the job id), `header:NAME` (an HTTP header), or a
    /// jq expression over the record's value, e.g. `.customer_id`.
    RouteKey(RouteKeyFrom), format = "route-key", example = "id"
}

text_type! {
    /// What becomes the value of a record that a route accepts: `body` (the whole request body), `field:NAME` (one part of a
    /// `multipart/form-data` body), `fields` (the route's `fields` as a JSON object; the body is a form, or empty) or `events`
    /// (each JSON object of the body is a record: one, an array of them, or one a line).
    Content(ContentFrom), format = "content", example = "body"
}

text_type! {
    /// The name of an HTTP header.
    HeaderName(String), format = "header-name", example = "x-tenant"
}

text_type! {
    /// A media type without parameters, lower case.
    MediaName(String), format = "media-type", example = "image/png"
}

text_type! {
    /// The path of a route: begins with `/`; a segment in braces is a variable, e.g. `/api/results/{jobId}`.
    RoutePath(String), format = "route-path", example = "/orders/"
}

/// Where a record's key comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyFrom {
    /// The source record's key, which may be absent.
    Key,
    /// The last header of this name.
    Header(String),
}

/// Where the key of an accepted request comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKeyFrom {
    /// The job id.
    Id,
    /// This HTTP header.
    Header(String),
    /// What this jq expression, which compiles, makes of the record's value.
    Jq(String),
}

/// Where the value of an accepted request comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentFrom {
    /// The request body as it is.
    Body,
    /// The part of a multipart body that has this name.
    Field(String),
    /// The route's fields, as a JSON object.
    Fields,
    /// Each JSON object of the body is a record's.
    Events,
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if text.is_empty() || text.len() > 63 || !text.chars().all(legal) || !text.starts_with(char::is_alphanumeric) {
            return Err(
                "a name has 1 to 63 lower-case letters, digits, - and _, and begins with a letter or digit".into()
            );
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for Topic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if text.is_empty() || text.len() > 249 || !text.chars().all(legal) || text == "." || text == ".." {
            return Err(
                "Kafka allows 1 to 249 letters (a-z, A-Z), digits, '.', '_' and '-', and neither \".\" nor \"..\""
                    .into(),
            );
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for RecordKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("header:")) {
            ("key", _) => Ok(Self(KeyFrom::Key)),
            (_, Some(name)) => header(name).map(|name| Self(KeyFrom::Header(name))),
            _ => Err("available are \"key\" (the source record's key) and \"header:NAME\"; a step `map` makes keys by expressions"
                .into()),
        }
    }
}

impl FromStr for RouteKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("header:")) {
            ("id", _) => Ok(Self(RouteKeyFrom::Id)),
            (_, Some(name)) => header(name).map(|name| Self(RouteKeyFrom::Header(name))),
            _ if text.starts_with(['.', '"', '$', '(']) => {
                text.parse::<Jq>().map(|_| Self(RouteKeyFrom::Jq(text.to_owned())))
            }
            _ => Err(
                "available are \"id\" (the job id), \"header:NAME\" (an HTTP header) and a jq expression that begins \
                      with one of . \" $ (, e.g. \".customer_id\""
                    .into(),
            ),
        }
    }
}

impl FromStr for Content {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("field:")) {
            ("body", _) => Ok(Self(ContentFrom::Body)),
            ("fields", _) => Ok(Self(ContentFrom::Fields)),
            ("events", _) => Ok(Self(ContentFrom::Events)),
            (_, Some(name)) if !name.is_empty() => Ok(Self(ContentFrom::Field(name.to_owned()))),
            _ => Err(
                "available are \"body\" (the whole body), \"field:NAME\" (a part of a multipart body), \"fields\" (the route's \
                      fields) and \"events\" (each JSON object of the body)"
                    .into(),
            ),
        }
    }
}

impl FromStr for HeaderName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        header(text).map(Self).map_err(|_| "this is no name that HTTP allows for a header, e.g. \"x-tenant\"".into())
    }
}

impl FromStr for MediaName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "!#$&^_.+-".contains(c);
        let is_word = |word: &str| !word.is_empty() && word.chars().all(legal);
        match text.split_once('/') {
            Some((kind, sub)) if is_word(kind) && is_word(sub) && text.len() <= 100 => Ok(Self(text.to_owned())),
            _ => Err("a media type is TYPE/SUBTYPE in lower case, without parameters, e.g. \"image/png\"".into()),
        }
    }
}

impl FromStr for RoutePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err("a path begins with '/'".into());
        };
        let mut names = Vec::new();
        for segment in rest.split('/') {
            let variable = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
            let plain = variable.unwrap_or(segment);
            if variable.is_some() && (plain.is_empty() || names.contains(&plain)) {
                return Err("every variable of a path has a name of its own, e.g. /api/results/{jobId}".into());
            }
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~');
            if !plain.chars().all(legal) || plain == ".." || plain == "." {
                return Err(
                    "a path has letters, digits, - . _ ~ and '/', and variables in braces that fill a segment".into()
                );
            }
            names.extend(variable);
        }
        Ok(Self(text.to_owned()))
    }
}

impl RoutePath {
    /// The names of its variables, in order.
    #[must_use]
    pub fn variables(&self) -> Vec<&str> {
        self.0.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}')).collect()
    }

    /// Whether some request matches both: segment by segment they are equal, or one is a variable.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (a, b): (Vec<_>, Vec<_>) = (self.0.split('/').collect(), other.0.split('/').collect());
        let open = |s: &str| s.starts_with('{');
        a.len() == b.len()
            && a.iter().zip(&b).all(|(x, y)| x == y || (open(x) && !y.is_empty()) || (open(y) && !x.is_empty()))
    }
}

/// A header's name as HTTP allows it and Kafka can hold it; compared as it is written.
fn header(name: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(legal) {
        return Err("header: is followed by a header's name, e.g. header:idempotency-key".into());
    }
    Ok(name.to_owned())
}

macro_rules! display {
    ($name:ident, $value:ident => $text:expr) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let $value = &self.0;
                f.write_str(&$text)
            }
        }
    };
}

display!(Name, name => name);
display!(HeaderName, name => name);
display!(MediaName, name => name);
display!(Topic, name => name);
display!(RoutePath, path => path);
display!(RecordKey, key => match key {
    KeyFrom::Key => "key".to_owned(),
    KeyFrom::Header(name) => format!("header:{name}"),
});
display!(RouteKey, key => match key {
    RouteKeyFrom::Id => "id".to_owned(),
    RouteKeyFrom::Header(name) => format!("header:{name}"),
    RouteKeyFrom::Jq(text) => text.clone(),
});
display!(Content, content => match content {
    ContentFrom::Body => "body".to_owned(),
    ContentFrom::Events => "events".to_owned(),
    ContentFrom::Field(name) => format!("field:{name}"),
    ContentFrom::Fields => "fields".to_owned(),
});

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> RoutePath {
        text.parse().expect("a path")
    }

    /// Whether a request for these segments reaches the path.
    fn serves(path: &RoutePath, request: &[String]) -> bool {
        let segments: Vec<_> = path.0.split('/').skip(1).collect();
        let fits = |(own, asked): (&&str, &String)| own == asked || (own.starts_with('{') && !asked.is_empty());
        segments.len() == request.len() && segments.iter().zip(request).all(fits)
    }

    fn any_path() -> impl Strategy<Value = RoutePath> {
        prop::collection::vec("a|b|\\{v\\}|", 1..4).prop_map(|segments| {
            let numbered = segments.iter().enumerate().map(|(n, segment)| segment.replace('v', &format!("v{n}")));
            path(&numbered.fold(String::new(), |path, segment| path + "/" + &segment))
        })
    }

    proptest! {
        #[test]
        fn two_paths_overlap_where_a_request_reaches_both(a in any_path(), b in any_path()) {
            let words = ["a", "b", "c", ""].map(str::to_owned);
            let requests = |n: usize| (0..4_usize.pow(u32::try_from(n).expect("small"))).map({
                let words = words.clone();
                move |code| (0..n).map(|place| words[code >> (2 * place) & 3].clone()).collect::<Vec<_>>()
            });
            let both = (1..4).flat_map(requests).any(|request| serves(&a, &request) && serves(&b, &request));
            prop_assert_eq!(a.overlaps(&b), both, "{} {}", a, b);
            prop_assert_eq!(b.overlaps(&a), both);
        }
    }

    #[test]
    fn a_path_names_its_variables() {
        assert_eq!(path("/api/results/{jobId}").variables(), ["jobId"]);
        assert!(path("/").variables().is_empty());
    }
}
