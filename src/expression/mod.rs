//! jq expressions (the `jaq` crates): compiled where a config is read, run over one record at a time. Never reads the
//! environment, a file or a clock, never ends the process, and never runs for ever by a loop of its own.
//!
//! What differs from jq, and why:
//! - The input is what the record's value holds as strict JSON, at most 128 levels deep; `null` where it holds none. Numbers
//!   keep the digits they were written with for as long as nothing calculates with them.
//! - `$headers` (an object of text), `$key`, `$id` (text or null), `$origin` (`{topic, partition, offset, attempt}`, null at
//!   the edge) and `$now` (Unix milliseconds) are there. `now`, `env`, `input`, `debug`, `halt` are not: the same record
//!   makes the same results.
//! - `cents` turns a decimal number, or its text, into whole cents exactly: `12.30` is `1230`; a part of a cent is an error.
//! - There is no `def`: a function that calls itself too deeply would take the process down. What repeats (`range`, `repeat`,
//!   `recurse`, `while`, `until`) counts its turns, and `limits.expression_turns_max` bounds them.

mod builtin;
mod compile;
mod judge;
mod subject;
mod value;

pub use judge::Judge;
pub use subject::{Place, Subject};
pub use value::Value;

use builtin::{Budget, Kind};
use bulkhead_core::fault::Fault;
use jaq_core::{Ctx, Vars};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The code of a record's fault where an expression fails on it.
pub const FAILED: &str = "expression_failed";
/// The code of a record's fault where an expression takes or makes too much.
pub const TOO_MUCH: &str = "expression_limit";
/// The code of a record's fault where it must be JSON and is not.
pub const NOT_JSON: &str = "not_json";
/// The code of a record's fault where an expression gives more values than one record may become.
pub const TOO_MANY: &str = "too_many_records";

/// What one run of an expression may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ExpressionLimits {
    /// Turns of what repeats.
    pub turns_max: u64,
    /// The results, in bytes of JSON.
    pub bytes_max: usize,
}

impl Default for ExpressionLimits {
    fn default() -> Self {
        Self { turns_max: 1_000_000, bytes_max: 16 << 20 }
    }
}

/// A jq expression, compiled. In a config it is text.
#[derive(Clone, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Jq(Arc<Compiled>);

struct Compiled {
    text: String,
    filter: jaq_core::Filter<Kind>,
    /// Which of the variables it names.
    uses: compile::Uses,
}

impl FromStr for Jq {
    type Err = String;

    /// Compiles it; the error says what is wrong at which line and column.
    fn from_str(text: &str) -> Result<Self, String> {
        let (filter, uses) = compile::compile(text)?;
        Ok(Self(Arc::new(Compiled { text: text.to_owned(), filter, uses })))
    }
}

impl TryFrom<String> for Jq {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Jq> for String {
    fn from(jq: Jq) -> Self {
        jq.0.text.clone()
    }
}

impl fmt::Display for Jq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for Jq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jq({:?})", self.0.text)
    }
}

impl PartialEq for Jq {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for Jq {}

impl JsonSchema for Jq {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Jq".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "jq", "examples": [".customer_id"] })
    }
}

impl Jq {
    /// The expression as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// What it makes of a record: 0 to `count_max` values.
    ///
    /// # Errors
    /// The record's own fault: the expression fails on it, or takes or makes more than it may.
    pub fn values(
        &self,
        subject: &Subject<'_>,
        limits: ExpressionLimits,
        count_max: usize,
    ) -> Result<Vec<Value>, Fault> {
        let filter = &self.0.filter;
        let budget = Budget::new(&filter.lut, limits.turns_max);
        let vars = Vars::new(subject.variables(self.0.uses));
        let ctx = Ctx::<Kind>::new(&budget, vars);
        let mut values = Vec::new();
        for result in filter.id.run((ctx, subject.input())) {
            let result = result.map_err(|thrown| match thrown.get_err() {
                Ok(error) => self.fault(FAILED, Value::new(error.into_val()).told()),
                Err(_) => self.fault(FAILED, "it broke out of a label that is not there"),
            });
            // Who caught the error that ends a loop must not pass for one that came to its end.
            if budget.is_spent() {
                let why = format_args!("more than {} turns of what it repeats", limits.turns_max);
                return Err(self.fault(TOO_MUCH, why));
            }
            if values.len() == count_max {
                return Err(self.fault(TOO_MANY, format_args!("it gives more than {count_max} values")));
            }
            values.push(Value::new(result?));
        }
        if budget.is_spent() {
            let why = format_args!("more than {} turns of what it repeats", limits.turns_max);
            return Err(self.fault(TOO_MUCH, why));
        }
        Ok(values)
    }

    /// The one value that it makes of a record.
    ///
    /// # Errors
    /// As [`Jq::values`], and where it gives none or more than one.
    pub fn one(&self, subject: &Subject<'_>, limits: ExpressionLimits) -> Result<Value, Fault> {
        let mut values = self.values(subject, limits, 1).map_err(|fault| match &*fault.code {
            TOO_MANY => self.fault(FAILED, "it gives more than one value, where one is needed"),
            _ => fault,
        })?;
        values.pop().ok_or_else(|| self.fault(FAILED, "it gives no value, where one is needed"))
    }

    /// Whether it holds for a record: its one value is neither `false` nor `null`.
    ///
    /// # Errors
    /// As [`Jq::one`].
    pub fn holds(&self, subject: &Subject<'_>, limits: ExpressionLimits) -> Result<bool, Fault> {
        self.one(subject, limits).map(|value| value.is_true())
    }

    /// Its one value as text: a string as it is, a number or a boolean as JSON writes it; nothing for `null`.
    ///
    /// # Errors
    /// As [`Jq::one`], and where the value is an array or an object.
    pub fn text_of(&self, subject: &Subject<'_>, limits: ExpressionLimits) -> Result<Option<String>, Fault> {
        let value = self.one(subject, limits)?;
        value.as_text(limits.bytes_max).map_err(|why| self.fault(FAILED, why))
    }

    fn fault(&self, code: &'static str, why: impl fmt::Display) -> Fault {
        Fault::poison(code, format_args!("`{}`: {why}", value::shortened(&self.0.text)))
    }
}

#[cfg(test)]
#[path = "expression_tests.rs"]
mod tests;
