//! What tests of steps have in common: records, settings, and the verdicts on them. In no release.

use super::{CallLimits, StepConfig, StepContext};
use crate::config::pipeline::Outputs;
use crate::expression::ExpressionLimits;
use bulkhead_actors::step::Step;
use bulkhead_core::ids::{Offset, Partition};
use bulkhead_core::record::{Header, Origin, Record};
use bulkhead_core::verdict::Verdict;
use std::path::Path;
use std::time::Duration;

/// A record whose value is said to be JSON.
pub(super) fn json(value: &str) -> Record {
    let headers = vec![Header::new("content-type", "application/json")];
    Record { value: Some(value.to_owned().into()), headers, ..Record::default() }
}

/// A step's settings, as a config has them.
pub(super) fn config(toml: &str) -> StepConfig {
    let file: toml::Table = toml::from_str(&format!("step = {toml}")).expect("it is TOML");
    file["step"].clone().try_into().expect("it is a step")
}

/// Outputs of these names.
pub(super) fn outputs(names: &[&str]) -> Outputs {
    let output = |name: &&str| {
        let topic = toml::Table::from_iter([("topic".to_owned(), toml::Value::from(format!("t.{name}")))]);
        ((*name).to_owned(), topic.try_into().expect("an output"))
    };
    names.iter().map(output).collect()
}

/// What a step of a pipeline with these outputs is built from.
pub(super) fn context(outputs: &Outputs) -> StepContext<'_> {
    StepContext {
        dir: Path::new("config"),
        chaos: false,
        onnxruntime: None,
        call: CallLimits { run_records_max: 1, timeout: Duration::from_secs(30), emit_max: 100 },
        pipeline: "test",
        source: "source",
        data: Path::new("data"),
        outputs,
        expressions: ExpressionLimits { turns_max: 10_000, bytes_max: 1_000 },
        hints: None,
    }
}

/// The same, with another config directory and no outputs.
pub(super) fn context_in(dir: &Path) -> StepContext<'_> {
    static NONE: Outputs = Outputs::new();
    StepContext { dir, ..context(&NONE) }
}

/// A step with the outputs `audit` and `prompt`.
pub(super) fn step(toml: &str) -> Box<dyn Step> {
    let outputs = outputs(&["audit", "prompt"]);
    let factory = config(toml).factory(context(&outputs)).expect("its settings are right");
    factory.build().expect("it can be built")
}

/// What the step says of records that lie one after another in partition 3.
pub(super) fn verdicts<const N: usize>(step: &mut dyn Step, records: [Record; N]) -> [Verdict; N] {
    let origin = |offset: usize| Origin { partition: Partition(3), offset: Offset(offset as i64), attempt: 1 };
    let origins: [Origin; N] = std::array::from_fn(origin);
    let verdicts = step.run(&records, Some(&origins)).expect("no fault of the batch");
    verdicts.try_into().expect("a verdict a record")
}

/// The code of a rejection.
pub(super) fn code(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Reject(fault) => &fault.code,
        other => panic!("no rejection: {other:?}"),
    }
}
