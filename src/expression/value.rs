//! Values that expressions take and give: strict JSON in, strict JSON out. Never deeper than what any reader of the result
//! can be expected to follow.

use jaq_json::{Num, Val, read, write};
use serde::de::IgnoredAny;
use std::io::{self, Write};

/// How deeply arrays and objects may lie in one another: as serde_json, and most others, can follow.
const DEPTH_MAX: usize = 128;
/// Digits of one number: more cost more than they can mean.
const DIGITS_MAX: usize = 1_000;
/// Characters of a text that a message quotes.
const QUOTED_MAX: usize = 200;

/// A value of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value(Val);

impl Value {
    pub(super) const fn new(val: Val) -> Self {
        Self(val)
    }

    pub(super) fn into_val(self) -> Val {
        self.0
    }

    /// The value that some bytes hold as JSON.
    ///
    /// # Errors
    /// What is wrong with them: no JSON, and where; too deep; a number of too many digits.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        parse(json).map(Self)
    }

    /// Whether it is neither `false` nor `null`.
    #[must_use]
    pub const fn is_true(&self) -> bool {
        !matches!(self.0, Val::Null | Val::Bool(false))
    }

    /// Whether it is `null`.
    #[must_use]
    pub const fn is_null(&self) -> bool {
        matches!(self.0, Val::Null)
    }

    /// The text of a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match &self.0 {
            Val::TStr(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The values of an array.
    #[must_use]
    pub fn items(&self) -> Option<Vec<Self>> {
        match &self.0 {
            Val::Arr(values) => Some(values.iter().cloned().map(Self).collect()),
            _ => None,
        }
    }

    /// The names and values of an object, in their order; `None` where it is none, or a name is no text.
    #[must_use]
    pub fn entries(&self) -> Option<Vec<(String, Self)>> {
        let Val::Obj(entries) = &self.0 else { return None };
        let entry = |(name, value): (&Val, &Val)| Some((Self(name.clone()).as_str()?.to_owned(), Self(value.clone())));
        entries.iter().map(entry).collect()
    }

    /// A string as it is, a number or a boolean as JSON writes it; nothing for `null`.
    ///
    /// # Errors
    /// It is an array, an object, no text, or longer than `bytes_max`.
    pub fn as_text(&self, bytes_max: usize) -> Result<Option<String>, String> {
        let text = match &self.0 {
            Val::Null => return Ok(None),
            Val::TStr(bytes) => std::str::from_utf8(bytes).map_err(|_| "its text is no UTF-8".to_owned())?.to_owned(),
            Val::Bool(_) | Val::Num(_) => String::from_utf8_lossy(&self.to_json(bytes_max)?).into_owned(),
            Val::Arr(_) | Val::Obj(_) | Val::BStr(_) => return Err(format!("{} is no text", self.quoted())),
        };
        if text.len() > bytes_max {
            return Err(format!("its text has {} bytes, {bytes_max} are possible", text.len()));
        }
        Ok(Some(text))
    }

    /// The value as JSON, without spaces.
    ///
    /// # Errors
    /// JSON cannot say it (`nan`, `infinite`, bytes), it is too deep, or longer than `bytes_max`.
    pub fn to_json(&self, bytes_max: usize) -> Result<Vec<u8>, String> {
        is_plain(&self.0, 0)?;
        let mut out = Bounded { bytes: Vec::new(), bytes_max };
        match write::write(&mut out, &write::Pp::default(), 0, &self.0) {
            Ok(()) => Ok(out.bytes),
            Err(why) => Err(why.to_string()),
        }
    }

    /// The value as serde knows it: numbers may lose digits.
    ///
    /// # Errors
    /// As [`Value::to_json`].
    pub fn to_serde(&self, bytes_max: usize) -> Result<serde_json::Value, String> {
        serde_json::from_slice(&self.to_json(bytes_max)?).map_err(|why| why.to_string())
    }

    /// The beginning of a text as it is, of another value as JSON, for a message.
    pub(super) fn told(&self) -> String {
        self.as_str().map_or_else(|| self.quoted(), shortened)
    }

    /// The beginning of the value, for a message.
    #[must_use]
    pub fn quoted(&self) -> String {
        match self.to_json(usize::MAX) {
            Ok(json) => shortened(&String::from_utf8_lossy(&json)),
            Err(why) => why,
        }
    }
}

/// The beginning of a text, for a message.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(QUOTED_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Strict JSON, within bounds. The reader of the values themselves takes more than JSON and knows no depth.
pub(super) fn parse(json: &[u8]) -> Result<Val, String> {
    std::str::from_utf8(json).map_err(|why| format!("is no JSON: not UTF-8 at byte {}", why.valid_up_to()))?;
    serde_json::from_slice::<IgnoredAny>(json).map_err(|why| format!("is no JSON: {why}"))?;
    bounds(json)?;
    read::parse_single(json).map_err(|why| format!("is no JSON: {why}"))
}

/// Looks for what is too deep or too long in valid JSON.
fn bounds(json: &[u8]) -> Result<(), String> {
    let (mut depth, mut digits, mut in_text, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in json {
        if in_text {
            (in_text, escaped) = (escaped || *byte != b'"', !escaped && *byte == b'\\');
            continue;
        }
        digits = if byte.is_ascii_digit() { digits + 1 } else { 0 };
        match byte {
            b'"' => in_text = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Err(format!("is JSON of more than {DEPTH_MAX} levels"));
        }
        if digits > DIGITS_MAX {
            return Err(format!("has a number of more than {DIGITS_MAX} digits"));
        }
    }
    Ok(())
}

/// Whether JSON can say the value.
fn is_plain(val: &Val, depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("the result has more than {DEPTH_MAX} levels"));
    }
    match val {
        Val::Null | Val::Bool(_) => Ok(()),
        Val::Num(Num::Float(number)) if !number.is_finite() => {
            Err(format!("the result has {number} in it, JSON cannot"))
        }
        Val::Num(_) => Ok(()),
        Val::TStr(text) if std::str::from_utf8(text).is_ok() => Ok(()),
        Val::TStr(_) | Val::BStr(_) => Err("the result has bytes in it that are no text".to_owned()),
        Val::Arr(values) => values.iter().try_for_each(|value| is_plain(value, depth + 1)),
        Val::Obj(entries) => entries.iter().try_for_each(|(name, value)| match name {
            Val::TStr(_) => is_plain(name, depth + 1).and_then(|()| is_plain(value, depth + 1)),
            _ => Err("the result has an object in it whose keys are no text".to_owned()),
        }),
    }
}

/// Takes so many bytes and no more.
struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len().saturating_add(bytes.len()) > self.bytes_max {
            return Err(io::Error::other(format!("the result has more than {} bytes", self.bytes_max)));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
