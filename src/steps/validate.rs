//! The step `validate`: a record's value is JSON that fits a JSON Schema, or the record is rejected with everything that is
//! wrong with it. Never changes a record, and fetches no schema from anywhere but the config directory.

use super::StepContext;
use super::stateless::Stateless;
use crate::vision::describe::is_below;
use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_core::fault::{Fault, Violation};
use bulkhead_core::record::{Origin, Record};
use bulkhead_core::verdict::Verdict;
use jsonschema::{PatternOptions, Validator};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The step's name.
pub const NAME: &str = "validate";
/// The code of a record's fault that does not fit its schema.
pub const VIOLATED: &str = "schema_violation";
/// The code of a record's fault that is no JSON.
const NOT_JSON: &str = "not_json";
/// A larger schema is none.
const SCHEMA_BYTES_MAX: u64 = 1 << 20;
/// Characters of one violation.
const VIOLATION_MAX: usize = 300;

/// `{ validate = { schema = "schemas/order.json" } }`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidateConfig {
    /// A JSON Schema, relative to the config directory; draft 2020-12 unless its `$schema` says another. Formats (`date-time`,
    /// `email`, …) are checked. Patterns have no look-around and no back-references, so that no text takes long to match.
    pub schema: PathBuf,
    /// How many violations are listed; the rest is counted.
    #[serde(default = "violations_max")]
    #[schemars(range(min = 1, max = 1_000))]
    pub violations_max: u32,
}

const fn violations_max() -> u32 {
    20
}

impl ValidateConfig {
    pub(super) fn check(&self, context: StepContext<'_>) -> Vec<String> {
        self.validator(context.dir).err().into_iter().collect()
    }

    pub(super) fn factory(&self, context: StepContext<'_>) -> Result<Arc<dyn StepFactory>, Vec<String>> {
        let validator = Arc::new(self.validator(context.dir).map_err(|problem| vec![problem])?);
        let violations_max = self.violations_max as usize;
        Ok(Arc::new(Stateless::new(NAME, Validate { validator, violations_max })))
    }

    fn validator(&self, dir: &Path) -> Result<Validator, String> {
        let (schema, shown) = (self.document(dir)?, self.schema.display());
        let options = jsonschema::options().should_validate_formats(true).with_pattern_options(PatternOptions::regex());
        options.build(&schema).map_err(|why| {
            format!("schema: `{shown}` is no JSON Schema: at {}: {why}", place(why.instance_path().as_str()))
        })
    }

    /// The schema as its file has it.
    ///
    /// # Errors
    /// The file cannot be read, or is no JSON.
    pub fn document(&self, dir: &Path) -> Result<serde_json::Value, String> {
        let shown = self.schema.display();
        if !is_below(&self.schema) {
            return Err(format!("schema: `{shown}` must be a path below the config directory, without `..`"));
        }
        let read = || {
            let mut text = String::new();
            let file = std::fs::File::open(dir.join(&self.schema))?;
            file.take(SCHEMA_BYTES_MAX + 1).read_to_string(&mut text).map(|_| text)
        };
        let text = read().map_err(|why| format!("schema: `{shown}` cannot be read: {why}"))?;
        if text.len() as u64 > SCHEMA_BYTES_MAX {
            return Err(format!("schema: `{shown}` is larger than 1 MiB"));
        }
        serde_json::from_str(&text).map_err(|why| format!("schema: `{shown}` is no JSON: {why}"))
    }
}

#[derive(Clone)]
struct Validate {
    validator: Arc<Validator>,
    violations_max: usize,
}

impl Step for Validate {
    fn run(&mut self, records: &[Record], _: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        let one = |record: &Record| match self.fault(record) {
            Some(fault) => Verdict::Reject(fault),
            None => Verdict::one(record.clone()),
        };
        Ok(records.iter().map(one).collect())
    }
}

impl Validate {
    /// What is wrong with the record's value, where something is.
    fn fault(&self, record: &Record) -> Option<Fault> {
        let value: serde_json::Value = match serde_json::from_slice(record.payload()) {
            Ok(value) => value,
            Err(why) => return Some(Fault::poison(NOT_JSON, format!("the value is no JSON: {why}"))),
        };
        let mut errors = self.validator.iter_errors(&value);
        let violation = |error: jsonschema::ValidationError<'_>| Violation {
            path: error.instance_path().as_str().to_owned(),
            message: shortened(&error.to_string()),
        };
        let violations: Vec<Violation> = errors.by_ref().take(self.violations_max).map(violation).collect();
        if violations.is_empty() {
            return None;
        }
        let more = errors.count();
        let listed: Vec<String> =
            violations.iter().map(|found| format!("{}: {}", place(&found.path), found.message)).collect();
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        let message = format!("{}{more}", listed.join("; "));
        Some(Fault::poison(VIOLATED, message).with_violations(violations))
    }
}

/// A JSON Pointer for people: that of the whole value is empty.
fn place(pointer: &str) -> &str {
    if pointer.is_empty() { "the whole" } else { pointer }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(VIOLATION_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::StepConfig;
    use crate::steps::testing::{code, context_in, json, verdicts};

    const SCHEMA: &str = r#"{
        "type": "object",
        "required": ["customer_id", "items"],
        "properties": {
            "customer_id": { "type": "string", "pattern": "^c[0-9a-f]+$" },
            "email": { "format": "email" },
            "items": { "type": "array", "items": { "properties": { "quantity": { "exclusiveMinimum": 0 } } } }
        }
    }"#;

    fn config(violations_max: u32) -> ValidateConfig {
        ValidateConfig { schema: "schemas/order.json".into(), violations_max }
    }

    fn folder(schema: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("schemas")).expect("made");
        std::fs::write(dir.path().join("schemas/order.json"), schema).expect("written");
        dir
    }

    fn step(violations_max: u32) -> Box<dyn Step> {
        let dir = folder(SCHEMA);
        let config = StepConfig::Validate(config(violations_max));
        config.factory(context_in(dir.path())).expect("it is right").build().expect("it needs nothing")
    }

    #[test]
    fn every_violation_is_listed_with_its_path() {
        let good = json(r#"{"customer_id": "c1f", "items": [{"quantity": 1}], "email": "a@example.com"}"#);
        let bad = json(r#"{"customer_id": "x", "items": [{"quantity": 1}, {"quantity": 0}], "email": "nobody"}"#);
        let [passed, rejected, no_json] = verdicts(&mut *step(20), [good.clone(), bad, json("{")]);
        assert_eq!(passed, Verdict::one(good));
        let Verdict::Reject(fault) = &rejected else { panic!("{rejected:?}") };
        assert_eq!(fault.code, VIOLATED);
        let mut paths: Vec<&str> = fault.violations.iter().map(|violation| violation.path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(paths, ["/customer_id", "/email", "/items/1/quantity"]);
        assert!(fault.message.contains("/items/1/quantity: 0 is less than or equal to the minimum of 0"), "{fault}");
        assert_eq!(code(&no_json), "not_json");
    }

    #[test]
    fn the_list_is_bounded_and_the_rest_is_counted() {
        let many = json(r#"{"customer_id": "c1", "items": [{"quantity": 0}, {"quantity": -1}, {"quantity": -2}]}"#);
        let [verdict] = verdicts(&mut *step(2), [many]);
        let Verdict::Reject(fault) = &verdict else { panic!("{verdict:?}") };
        assert_eq!(fault.violations.len(), 2);
        assert!(fault.message.ends_with("; and 1 more"), "{fault}");
    }

    #[test]
    fn a_schema_that_is_none_is_told_by_the_check() {
        let problem = |schema: &str| config(20).check(context_in(folder(schema).path())).join("; ");
        assert_eq!(problem(SCHEMA), "");
        assert!(problem("{").contains("`schemas/order.json` is no JSON: "));
        assert!(
            problem(r#"{"type": "objekt"}"#).contains("is no JSON Schema: at /type"),
            "{}",
            problem(r#"{"type": "objekt"}"#)
        );
        assert!(problem(r#"{"pattern": "(?=x)"}"#).contains("is no JSON Schema"));
        assert!(problem(r#"{"$ref": "https://example.com/x.json"}"#).contains("is no JSON Schema"));
        let elsewhere = ValidateConfig { schema: "../order.json".into(), violations_max: 20 };
        assert!(elsewhere.check(context_in(Path::new("."))).join("").contains("below the config directory"));
    }
}
