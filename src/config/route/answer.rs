//! How a route that waits for its jobs tells how they ended. Never waits itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a route with `reply = "result"` tells how its job ended. Absent: with 200 and the job's document, 202 where it has not
/// ended yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Answer {
    /// What a job that is done is answered with.
    pub completed: Completed,
    /// What is answered where the job has not ended within `wait_max`, unless the client prefers `respond-async`.
    pub late: Late,
    /// What a job that failed is answered with.
    pub failed: Failed,
    /// Statuses of failed jobs by the code of their fault, 400 to 599; beside `failed = "problem"`. Others go by whose fault it
    /// was: 422 for the record's own, 503 with `Retry-After` for what may pass, else 500.
    #[schemars(extend("maxProperties" = 64))]
    pub statuses: BTreeMap<String, u16>,
}

/// What a job that is done is answered with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Completed {
    /// The job's document, its result within.
    #[default]
    Job,
    /// The result alone.
    Result,
}

/// What is answered where a job has not ended in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Late {
    /// 202 with the job id, as if nobody had waited.
    #[default]
    Accepted,
    /// A problem with 504, the job id and `Location`: the job goes on, and can be asked for.
    Timeout,
}

/// What a job that failed is answered with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Failed {
    /// 200 with the job's document, which says that it failed.
    #[default]
    Job,
    /// A problem that names the reason, with a status that says whose fault it was.
    Problem,
}

impl Answer {
    /// What is wrong with it: a key and why.
    pub(in crate::config) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if self.failed == Failed::Job && !self.statuses.is_empty() {
            problems.push(("statuses", "are for failed = \"problem\"".to_owned()));
        }
        for (code, status) in &self.statuses {
            let is_code =
                !code.is_empty() && code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if !is_code {
                let why = format!("{code:?} is no code of a fault: lower-case letters, digits and _, e.g. http_404");
                problems.push(("statuses", why));
            } else if !(400..=599).contains(status) {
                problems.push(("statuses", format!("{code}: {status} is no status of a failure; 400 to 599 are")));
            }
        }
        if self.statuses.len() > 64 {
            problems.push(("statuses", "has more than 64 codes".to_owned()));
        }
        problems
    }
}
