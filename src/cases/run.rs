//! Makes the record of a case and passes it through a pipeline's steps. Never judges what comes out.

use crate::config::Config;
use crate::config::cases::{Case, CaseFile, Inject, InjectedClass, Input};
use crate::daemon::rehearsal;
use bulkhead_actors::pipeline::{Ending, Injected, Injection, Rehearsal};
use bulkhead_core::fault::Fault;
use bulkhead_core::ids::Offset;
use bulkhead_core::record::{Header, ID_HEADER, Record, SourceRecord};
use bulkhead_core::time::WallMs;
use bytes::Bytes;
use std::path::Path;

/// A record without an id of its own has this one.
const CASE_ID: &str = "case";
/// When a case's record was made, and when it fails, where it does: Unix milliseconds, the same in every run.
const THEN: WallMs = WallMs(1_700_000_000_000);

/// The steps of a file's pipeline, built once for all of its cases.
pub(super) struct Runner<'a> {
    config: &'a Config,
    rehearsal: Rehearsal,
}

impl<'a> Runner<'a> {
    /// Builds the steps of the stages that the file names.
    pub(super) fn new(config: &'a Config, file: &CaseFile, data: &Path) -> Result<Self, String> {
        let pipeline = config.pipelines.iter().find(|pipeline| pipeline.name == file.pipeline);
        let pipeline = pipeline.ok_or_else(|| format!("there is no pipeline {}", file.pipeline))?;
        let mut spec = rehearsal(config, pipeline, data)?;
        if let Some(stages) = &file.stages {
            spec.stages.retain(|stage| stages.iter().any(|name| *name.0 == *stage.name));
        }
        let rehearsal = Rehearsal::new(spec).map_err(|why| why.to_string())?;
        Ok(Self { config, rehearsal })
    }

    /// What becomes of the case's record.
    pub(super) fn case(&mut self, case: &Case) -> Result<Ending, String> {
        let record = self.record(&case.input)?;
        let injection = case.inject.as_ref().map(injection);
        let source = SourceRecord { offset: Offset(0), record };
        self.rehearsal.run(source, injection.as_ref(), THEN).map_err(|why| why.to_string())
    }

    fn record(&self, input: &Input) -> Result<Record, String> {
        let value = match (&input.json, &input.text, &input.file) {
            (Some(json), ..) => Some(Bytes::from(json.text.clone())),
            (_, Some(text), _) => Some(Bytes::from(text.clone())),
            (_, _, Some(path)) => {
                let path = self.config.dir.join(path);
                Some(std::fs::read(&path).map_err(|why| format!("input.file: {}: {why}", path.display()))?.into())
            }
            _ => None,
        };
        let mut headers: Vec<Header> =
            input.headers.iter().map(|(name, value)| Header::new(name, value.clone())).collect();
        let mut add = |name: &str, value: &'static str| {
            if !input.headers.keys().any(|known| known.eq_ignore_ascii_case(name)) {
                headers.push(Header::new(name, value));
            }
        };
        add(ID_HEADER, CASE_ID);
        if input.json.is_some() {
            add("content-type", "application/json");
        }
        Ok(Record { key: input.key.clone().map(Bytes::from), value, headers, timestamp: THEN })
    }
}

fn injection(inject: &Inject) -> Injection {
    let fault = &inject.fault;
    let act = match fault.class {
        InjectedClass::Transient => Injected::Fault(Fault::transient(fault.code.clone(), &fault.message)),
        InjectedClass::Poison => Injected::Fault(Fault::poison(fault.code.clone(), &fault.message)),
        InjectedClass::Crash => Injected::Crash(fault.message.clone()),
    };
    Injection { stage: inject.stage.0.clone(), act }
}
