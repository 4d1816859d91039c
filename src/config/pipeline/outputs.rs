//! Outputs beside a pipeline's own, each with a name that steps send records to. Never checks whether one does.

use super::record_key;
use crate::config::text::{RecordKey, Topic};
use crate::config::units::Period;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Outputs by their names.
pub type Outputs = BTreeMap<String, NamedOutput>;

/// An output that steps send records to by its name.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedOutput {
    /// The topic.
    pub topic: Topic,
    /// How many partitions it has; it is created with as many if it does not exist. Absent: as many as the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub partitions: Option<i32>,
    /// How long it keeps records, where it is created. Absent: as the log has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Period>,
    /// Where a record's key comes from.
    #[serde(default = "record_key")]
    pub key: RecordKey,
    /// Whether a record here tells how its job ended, as one in the pipeline's own output does; the first one counts.
    #[serde(default)]
    pub result: bool,
}
