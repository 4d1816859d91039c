//! Tests of a pipeline as the files in `tests/` say them: records that go in, and what must come out. Never runs one.

use super::Version;
use super::problem::Problem;
use super::single::Single;
use super::text::Name;
use crate::expression::{Jq, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The folder of tests in a config directory.
pub const TESTS_DIR: &str = "tests";
/// Files in it at most.
const FILES_MAX: usize = 1_000;

/// One file in `tests/`: cases of one pipeline.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CaseFile {
    /// The version of this format.
    pub version: Version,
    /// The pipeline.
    pub pipeline: Name,
    /// The stages that records pass, in the pipeline's order, e.g. those that need nothing from outside. Absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<Vec<Name>>,
    /// The cases.
    #[schemars(length(min = 1, max = 10_000))]
    pub case: Vec<Case>,
}

/// What goes in, and what must come out.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows, as a sentence.
    pub name: String,
    /// The record.
    pub input: Input,
    /// The route, as `"POST /orders/"`: the record passes its steps first, as the request that brings it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Something that goes wrong in a stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inject: Option<Inject>,
    /// Everything that must come out, in its order.
    #[schemars(length(min = 1, max = 1_000))]
    pub expect: Vec<Expect>,
}

/// A record that goes in: its value is `json`, `text` or `file`; none of them is a record without a value.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Input {
    /// The value as JSON; the header `content-type` says so, unless `headers` has another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<JsonText>,
    /// The value as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The value is what this file holds, a path below the config directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Headers. The record's id is `case`, unless `__bulkhead.id` is among them.
    pub headers: BTreeMap<String, String>,
}

/// Something that goes wrong in a stage in place of its steps, at every attempt.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inject {
    /// The stage.
    pub stage: Name,
    /// What goes wrong.
    pub fault: InjectedFault,
}

/// What goes wrong.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InjectedFault {
    /// Whose fault it is.
    pub class: InjectedClass,
    /// Its code.
    #[serde(default = "injected")]
    pub code: String,
    /// What is said of it.
    #[serde(default = "injected")]
    pub message: String,
}

fn injected() -> String {
    "injected".to_owned()
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InjectedClass {
    /// The world's: it is tried again as the stage's `retry` says, with the time that this takes passed over.
    Transient,
    /// The record's.
    Poison,
    /// Unknown: the worker dies.
    Crash,
}

/// One thing that must come out.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// A record that leaves to an output.
    Output(ExpectOutput),
    /// A dead letter.
    DeadLetter(ExpectLetter),
    /// The record ends on purpose.
    Drop(ExpectDrop),
    /// The route refuses the request.
    Refused(ExpectRefused),
}

/// A record that leaves to an output. What is not named is not looked at.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExpectOutput {
    /// The output's name in `[pipeline.outputs]`. Absent: the pipeline's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Name>,
    /// Its value is this JSON, and nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<JsonText>,
    /// Its value has all that is in this JSON; arrays are as long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contains: Option<JsonText>,
    /// Its value is this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// A jq expression that holds for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jq: Option<Jq>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Headers that it has.
    pub headers: BTreeMap<String, String>,
}

/// A dead letter. What is not named is not looked at.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExpectLetter {
    /// The fault's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The stage that rejected the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// The step that did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Words that its message has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Headers that it has, e.g. `"__bulkhead.errors.attempts"`.
    pub headers: BTreeMap<String, String>,
}

/// The record ends on purpose.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExpectDrop {
    /// The reason. Absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The route refuses the request: 422. What is not named is not looked at.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExpectRefused {
    /// The fault's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The step that refused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Words that its message has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The places of all violations (JSON Pointers), in any order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub violations: Option<Vec<String>>,
}

/// A text that is JSON.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct JsonText {
    /// As it was written.
    pub text: String,
    /// What it says.
    pub value: Value,
}

impl FromStr for JsonText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self { value: Value::parse(text.as_bytes())?, text: text.to_owned() })
    }
}

impl TryFrom<String> for JsonText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for JsonText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl JsonSchema for JsonText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "JsonText".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "json", "examples": ["{}"] })
    }
}

/// The files of a config directory's tests, in the order of their names; none where there is no such folder.
///
/// # Errors
/// Every problem of every file.
pub fn load(dir: &Path) -> Result<Vec<(PathBuf, Single<CaseFile>)>, Vec<Problem>> {
    let folder = dir.join(TESTS_DIR);
    let unreadable = |why| vec![Problem::of_file(&folder.display().to_string(), format!("cannot be read: {why}"))];
    if !folder.try_exists().map_err(unreadable)? {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(&folder).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(unreadable)?;
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    if paths.len() > FILES_MAX {
        return Err(unreadable(std::io::Error::other(format!("{} files, {FILES_MAX} are possible", paths.len()))));
    }
    let (mut files, mut problems) = (Vec::new(), Vec::new());
    for path in paths {
        match Single::<CaseFile>::read(&path) {
            Ok(file) => files.push((path, file)),
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() { Ok(files) } else { Err(problems) }
}
