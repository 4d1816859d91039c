//! The step `filter`: records for which an expression holds go on, all others end here, with a reason. Never changes one,
//! and never makes a dead letter of one that it does not want: `reject` does.

use super::StepContext;
use super::stateless::Stateless;
use crate::expression::{Jq, Judge};
use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_core::fault::Fault;
use bulkhead_core::record::{Origin, Record};
use bulkhead_core::verdict::Verdict;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The step's name.
pub const NAME: &str = "filter";

/// `{ filter = { where = '.event_type != "heartbeat"', reason = "heartbeat" } }`: a record for which `where` gives `false` or
/// `null` is dropped; that is counted and logged, and no dead letter.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilterConfig {
    /// Goes on where this jq expression gives neither `false` nor `null`. It must give one value.
    #[serde(rename = "where")]
    pub condition: Jq,
    /// Why the others end.
    #[serde(default = "reason")]
    pub reason: String,
}

fn reason() -> String {
    "filtered out".to_owned()
}

impl FilterConfig {
    pub(super) fn factory(&self, context: StepContext<'_>) -> Arc<dyn StepFactory> {
        Arc::new(Stateless::new(NAME, Filter { config: self.clone(), judge: Judge::new(context) }))
    }
}

#[derive(Clone)]
struct Filter {
    config: FilterConfig,
    judge: Judge,
}

impl Step for Filter {
    fn run(&mut self, records: &[Record], origins: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        self.judge.verdicts(records, origins, |record, subject| {
            Ok(match self.config.condition.holds(subject, self.judge.limits)? {
                true => Verdict::one(record.clone()),
                false => Verdict::Drop(self.config.reason.clone()),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::testing::{code, json, step, verdicts};

    #[test]
    fn what_does_not_hold_is_dropped_with_its_reason() {
        let mut step = step(r#"{ filter = { where = ".total > 10", reason = "too small" } }"#);
        let records =
            [json(r#"{"total": 11}"#), json(r#"{"total": 10}"#), json(r#"{"total": null}"#), json("nonsense")];
        let [kept, small, none, broken] = verdicts(&mut *step, records.clone());
        assert_eq!(kept, Verdict::one(records[0].clone()));
        assert_eq!((&small, &none), (&Verdict::Drop("too small".to_owned()), &Verdict::Drop("too small".to_owned())));
        assert_eq!(code(&broken), "not_json");
    }

    #[test]
    fn an_expression_that_fails_or_says_nothing_rejects_the_record() {
        let mut step = step(r#"{ filter = { where = ".items[] | .ok" } }"#);
        let records = [r#"{"items": []}"#, r#"{"items": [{"ok": true}, {"ok": true}]}"#, r#"{"items": 7}"#].map(json);
        for verdict in verdicts(&mut *step, records) {
            assert_eq!(code(&verdict), "expression_failed");
        }
    }
}
