//! Results that something outside writes. Never reads them.

use crate::config::text::Topic;
use crate::config::units::Period;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Topics in which something outside, e.g. a workflow that a stage has set off, tells how this pipeline's jobs ended. A record
/// there with the header `__bulkhead.id` is the result of the job of that id; one that carries `__bulkhead.errors.code`
/// too (and `__bulkhead.errors.message`, `.class`) says that it failed. The first outcome of a job counts. The output topic
/// then tells of no results: what a stage emits is not the end of a job.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Results {
    /// The topics; those that do not exist are created.
    #[schemars(length(min = 1, max = 8))]
    pub topics: Vec<Topic>,
    /// How many partitions a topic gets that does not exist yet.
    #[serde(default = "partitions")]
    #[schemars(range(min = 1, max = 10_000))]
    pub partitions: i32,
    /// How long a topic that does not exist yet will keep records. Absent: as the brokers do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Period>,
}

const fn partitions() -> i32 {
    1
}
