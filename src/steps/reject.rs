//! The step `reject`: records for which an expression holds become dead letters, with a reason and a code of the config's
//! own. At the edge the request is refused. Never changes a record.

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
pub const NAME: &str = "reject";
/// Characters of a code.
const CODE_MAX: usize = 64;

/// `{ reject = { when = '.customer_id | endswith("f")', reason = "simulated failure", code = "simulated" } }`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RejectConfig {
    /// Rejects a record for which this jq expression gives neither `false` nor `null`. It must give one value.
    pub when: Jq,
    /// Why, for people: in the dead letter, the job and the log.
    pub reason: String,
    /// Why, for machines: `snake_case`.
    #[serde(default = "code")]
    pub code: String,
}

fn code() -> String {
    "rejected".to_owned()
}

impl RejectConfig {
    pub(super) fn check(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let starts_right = self.code.starts_with(|c: char| c.is_ascii_lowercase());
        if !starts_right || self.code.len() > CODE_MAX || !self.code.chars().all(legal) {
            let code = &self.code;
            problems.push(format!(
                "code: `{code}` must be 1 to {CODE_MAX} lower-case letters, digits and _, the first a letter"
            ));
        }
        if self.reason.trim().is_empty() {
            problems.push("reason: is empty; say why, for whoever reads the dead letter".to_owned());
        }
        problems
    }

    pub(super) fn factory(&self, context: StepContext<'_>) -> Arc<dyn StepFactory> {
        Arc::new(Stateless::new(NAME, Reject { config: self.clone(), judge: Judge::new(context) }))
    }
}

#[derive(Clone)]
struct Reject {
    config: RejectConfig,
    judge: Judge,
}

impl Step for Reject {
    fn run(&mut self, records: &[Record], origins: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        let RejectConfig { when, reason, code } = &self.config;
        self.judge.verdicts(records, origins, |record, subject| {
            Ok(match when.holds(subject, self.judge.limits)? {
                true => Verdict::Reject(Fault::poison(code.clone(), reason)),
                false => Verdict::one(record.clone()),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::testing::{code, config, json, step, verdicts};

    #[test]
    fn what_holds_is_rejected_with_code_and_reason() {
        let toml = r#"{ reject = { when = '.customer_id | endswith("f")', reason = "simulated failure", code = "simulated" } }"#;
        let records = [json(r#"{"customer_id": "c0ff"}"#), json(r#"{"customer_id": "c0fe"}"#), json("{}")];
        let [bad, good, odd] = verdicts(&mut *step(toml), records.clone());
        assert_eq!(bad, Verdict::Reject(Fault::poison("simulated", "simulated failure")));
        assert_eq!(good, Verdict::one(records[1].clone()));
        assert_eq!(code(&odd), "expression_failed", "what cannot be judged does not pass");
    }

    #[test]
    fn a_code_is_a_word_for_machines() {
        let problems =
            |code: &str| match config(&format!(r#"{{ reject = {{ when = "true", reason = "r", code = "{code}" }} }}"#))
            {
                crate::steps::StepConfig::Reject(config) => config.check().len(),
                other => panic!("{other:?}"),
            };
        assert_eq!(problems("over_limit_2"), 0);
        for wrong in ["", "Over", "2fast", "over-limit", "ü"] {
            assert_eq!(problems(wrong), 1, "{wrong}");
        }
    }
}
