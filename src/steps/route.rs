//! The step `route`: an expression says to which of the pipeline's outputs a record goes. Never changes the record, and never
//! invents an output.

use super::StepContext;
use super::stateless::Stateless;
use crate::expression::{Jq, Judge, Subject};
use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_core::fault::Fault;
use bulkhead_core::record::{Origin, Record, send_to};
use bulkhead_core::verdict::{Emitted, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The step's name.
pub const NAME: &str = "route";
/// What names the pipeline's own output in a `route`.
pub const MAIN: &str = "output";
/// The code of a record's fault that is to go to an output which is not there.
const UNKNOWN: &str = "unknown_output";

/// `{ route = { to = 'if .total_amount > 1000 then "large" else "output" end' } }`: the expression gives the name of an output
/// (`[pipeline.outputs.NAME]`), where the record leaves the stages, or `"output"`, where it goes on through them to
/// `pipeline.output`. Several names (`"audit", "output"`) make a copy for each; none at all drops the record.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// A jq expression that gives names of outputs. A name that is not there rejects the record.
    pub to: Jq,
}

impl RouteConfig {
    pub(super) fn check(&self, context: StepContext<'_>) -> Vec<String> {
        if context.outputs.is_empty() {
            return vec!["routes nowhere: the pipeline has no [pipeline.outputs.NAME]".to_owned()];
        }
        Vec::new()
    }

    pub(super) fn factory(&self, context: StepContext<'_>) -> Arc<dyn StepFactory> {
        let outputs = context.outputs.keys().cloned().collect();
        Arc::new(Stateless::new(NAME, Route { to: self.to.clone(), outputs, judge: Judge::new(context) }))
    }
}

#[derive(Clone)]
struct Route {
    to: Jq,
    outputs: Arc<[String]>,
    judge: Judge,
}

impl Route {
    /// The names that the expression gives, each once.
    fn names(&self, subject: &Subject<'_>) -> Result<Vec<String>, Fault> {
        // Each output once, and the main one.
        let count_max = self.outputs.len() + 1;
        let mut names = Vec::new();
        for value in self.to.values(subject, self.judge.limits, count_max)? {
            let name = value.as_str().filter(|name| *name == MAIN || self.outputs.iter().any(|known| known == name));
            let Some(name) = name else {
                let known = self.outputs.join(", ");
                let why = format!("{} names no output; there are {MAIN}, {known}", value.quoted());
                return Err(Fault::poison(UNKNOWN, why));
            };
            if !names.iter().any(|earlier| earlier == name) {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }
}

impl Step for Route {
    fn run(&mut self, records: &[Record], origins: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        self.judge.verdicts(records, origins, |record, subject| {
            let copies = self.names(subject)?.into_iter().map(|name| match name.as_str() {
                MAIN => record.clone(),
                name => send_to(record.clone(), name),
            });
            let copies: Emitted = copies.collect();
            Ok(if copies.is_empty() { Verdict::Drop("routed nowhere".to_owned()) } else { Verdict::Emit(copies) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::testing::{code, config, context, json, outputs, step, verdicts};
    use bulkhead_core::record::output_of;

    fn destinations(verdict: &Verdict) -> Vec<Option<&str>> {
        let Verdict::Emit(records) = verdict else { panic!("{verdict:?}") };
        records.iter().map(output_of).collect()
    }

    #[test]
    fn a_record_goes_where_the_expression_says() {
        let mut step = step(r#"{ route = { to = '.to[]' } }"#);
        let to = |names: &str| json(&format!(r#"{{"to": [{names}]}}"#));
        let records = [
            to(r#""output""#),
            to(r#""audit""#),
            to(r#""audit", "output", "audit""#),
            to(""),
            to(r#""adit""#),
            to("7"),
        ];
        let [main, audit, both, nowhere, unknown, number] = verdicts(&mut *step, records);
        assert_eq!(destinations(&main), [None]);
        assert_eq!(destinations(&audit), [Some("audit")]);
        assert_eq!(destinations(&both), [Some("audit"), None]);
        assert_eq!(nowhere, Verdict::Drop("routed nowhere".to_owned()));
        assert_eq!((code(&unknown), code(&number)), ("unknown_output", "unknown_output"));
    }

    #[test]
    fn without_outputs_there_is_nothing_to_route_to() {
        let config = config(r#"{ route = { to = '"output"' } }"#);
        assert_eq!(config.check(context(&outputs(&[]))).len(), 1);
        assert!(config.check(context(&outputs(&["audit"]))).is_empty());
    }
}
