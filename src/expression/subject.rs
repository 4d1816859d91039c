//! What an expression looks at: one record, where it lies, and what time it is. Never changes it.

use super::NOT_JSON;
use super::compile::Uses;
use super::value::{Value, parse};
use bulkhead_actors::clock::Clock;
use bulkhead_core::fault::Fault;
use bulkhead_core::record::{Header, ID_HEADER, Origin, Record};
use bulkhead_core::time::WallMs;
use jaq_json::{Map, Num, Val};

/// The header that says what a record's value is.
const CONTENT_TYPE: &str = "content-type";

/// Where a record lies: its source topic, and its place there.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The place.
    pub origin: Origin,
}

/// A record for expressions; its value is parsed once for all of them.
#[derive(Debug)]
pub struct Subject<'a> {
    input: Val,
    key: Option<&'a [u8]>,
    headers: &'a [Header],
    place: Option<Place<'a>>,
    now: WallMs,
}

impl<'a> Subject<'a> {
    /// The record as expressions see it. `place` is absent at the edge. Where the header `content-type` says that the value
    /// is JSON, it must be; where it names something else, the input is `null`; where there is none, the input is what the
    /// value holds as JSON, else `null`.
    ///
    /// # Errors
    /// The record's own fault: its value should be JSON and is not.
    pub fn new(record: &'a Record, place: Option<Place<'a>>) -> Result<Self, Fault> {
        let input = match (record.value.as_deref(), is_json(record)) {
            (None, _) | (_, Some(false)) => Val::Null,
            (Some(value), Some(true)) => {
                parse(value).map_err(|why| Fault::poison(NOT_JSON, format!("the value {why}")))?
            }
            (Some(value), None) => parse(value).unwrap_or(Val::Null),
        };
        Ok(Self { input, key: record.key.as_deref(), headers: &record.headers, place, now: Clock::real().wall() })
    }

    /// The same record with another input, e.g. what an expression made of it.
    #[must_use]
    pub fn with(&self, input: Value) -> Self {
        Self { input: input.into_val(), key: self.key, headers: self.headers, place: self.place, now: self.now }
    }

    pub(super) fn input(&self) -> Val {
        self.input.clone()
    }

    /// The variables in the order of [`super::compile::VARIABLES`]; `null` for those that are not used.
    pub(super) fn variables(&self, uses: Uses) -> [Val; 5] {
        let used = |is_used: bool, make: &dyn Fn() -> Val| if is_used { make() } else { Val::Null };
        [
            used(uses.headers, &|| self.headers()),
            used(uses.key, &|| self.key.map_or(Val::Null, text)),
            used(uses.id, &|| self.header(ID_HEADER).map_or(Val::Null, text)),
            used(uses.origin, &|| self.origin()),
            used(uses.now, &|| whole(self.now.0)),
        ]
    }

    fn header(&self, name: &str) -> Option<&'a [u8]> {
        let named = self.headers.iter().rev().find(|header| header.name == name.as_bytes());
        named.map(|header| &*header.value)
    }

    /// The last value of each name.
    fn headers(&self) -> Val {
        Val::obj(self.headers.iter().map(|header| (text(&header.name), text(&header.value))).collect())
    }

    fn origin(&self) -> Val {
        let Some(Place { topic, origin }) = self.place else { return Val::Null };
        let entries = [
            ("topic", text(topic.as_bytes())),
            ("partition", whole(i64::from(origin.partition.0))),
            ("offset", whole(origin.offset.0)),
            ("attempt", whole(i64::from(origin.attempt))),
        ];
        Val::obj(entries.into_iter().map(|(name, value)| (text(name.as_bytes()), value)).collect::<Map>())
    }
}

/// Whether the value is JSON by what the record says of it, where it says anything.
fn is_json(record: &Record) -> Option<bool> {
    let content_type = String::from_utf8_lossy(record.header(CONTENT_TYPE)?).to_ascii_lowercase();
    let media = content_type.split(';').next().unwrap_or_default().trim();
    Some(media == "application/json" || media.ends_with("+json"))
}

/// Bytes as text; what is no UTF-8 in them is replaced.
fn text(bytes: &[u8]) -> Val {
    Val::from(String::from_utf8_lossy(bytes).into_owned())
}

fn whole(number: i64) -> Val {
    Val::Num(Num::from_integral(number))
}
