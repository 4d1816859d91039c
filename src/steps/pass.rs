//! The step `pass`: every record leaves as it came. Never fails.

use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_core::fault::Fault;
use bulkhead_core::record::{Origin, Record};
use bulkhead_core::verdict::Verdict;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The step's name.
pub const NAME: &str = "pass";

/// `{ pass = {} }`: no settings.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PassConfig {}

/// Builds [`Pass`].
#[derive(Clone, Copy, Debug)]
pub struct PassFactory;

/// The step.
#[derive(Clone, Copy, Debug)]
pub struct Pass;

impl StepFactory for PassFactory {
    fn name(&self) -> &str {
        NAME
    }

    fn build(&self) -> Result<Box<dyn Step>, Fault> {
        Ok(Box::new(Pass))
    }
}

impl Step for Pass {
    fn run(&mut self, records: &[Record], _: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        Ok(records.iter().map(|record| Verdict::one(record.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_leaves_as_it_came() {
        let record = |n: u8| Record { key: Some(vec![n].into()), value: Some(vec![n, n].into()), ..Record::default() };
        let records = [record(1), record(2)];
        let mut step = PassFactory.build().expect("pass needs nothing");
        let verdicts = step.run(&records, None).expect("pass never fails");
        assert_eq!(verdicts, vec![Verdict::one(record(1)), Verdict::one(record(2))]);
    }
}
