//! Makes the record of a case and passes it through a route's and a pipeline's steps. Never judges what comes out.

use crate::config::cases::{Case, CaseFile, Inject, InjectedClass, Input};
use crate::config::daemon::EDGE_EMIT_MAX;
use crate::config::route::{Route, RouteKind};
use crate::config::{Config, Pipeline};
use crate::daemon::rehearsal;
use bulkhead_actors::pipeline::{Ending, Injected, Injection, Rehearsal};
use bulkhead_actors::worker::StepRun;
use bulkhead_core::fault::Fault;
use bulkhead_core::ids::Offset;
use bulkhead_core::record::{Header, ID_HEADER, Record, SourceRecord};
use bulkhead_core::time::WallMs;
use bulkhead_core::verdict::{Emitted, Ended};
use bytes::Bytes;
use std::path::Path;

/// A record without an id of its own has this one.
const CASE_ID: &str = "case";
/// When a case's record was made, and when it fails, where it does: Unix milliseconds, the same in every run.
const THEN: WallMs = WallMs(1_700_000_000_000);

/// What became of a case's record.
#[derive(Debug)]
pub(super) enum End {
    /// The pipeline's end of it.
    Pipeline(Ending),
    /// A step of the route refused the request.
    Refused { step: Option<String>, fault: Fault },
}

/// The steps of a file's pipeline, built once for all of its cases.
pub(super) struct Runner<'a> {
    config: &'a Config,
    pipeline: &'a Pipeline,
    rehearsal: Rehearsal,
}

/// A route's name in a case: its method and its path.
pub(super) fn name_of(route: &Route) -> String {
    format!("{} {}", route.method.as_str(), route.path)
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
        Ok(Self { config, pipeline, rehearsal })
    }

    /// What becomes of the case's record.
    pub(super) fn case(&mut self, case: &Case) -> Result<End, String> {
        let mut record = self.record(&case.input)?;
        if let Some(route) = &case.route {
            record = match self.edge(route, record)? {
                Ok(record) => record,
                Err(refused) => return Ok(refused),
            };
        }
        let injection = case.inject.as_ref().map(injection);
        let source = SourceRecord { offset: Offset(0), record };
        self.rehearsal.run(source, injection.as_ref(), THEN).map(End::Pipeline).map_err(|why| why.to_string())
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

    /// Passes the record through the steps of a route.
    fn edge(&self, name: &str, record: Record) -> Result<Result<Record, End>, String> {
        let route = self.pipeline.routes.iter().find(|route| name_of(route) == name);
        let steps = match route.map(|route| &route.does) {
            Some(RouteKind::Produce(produce)) => &produce.steps,
            Some(_) => return Err(format!("{name} takes no records")),
            None => return Err(format!("there is no route {name}")),
        };
        let factories = steps.iter().map(|step| step.factory(self.config.edge_context(self.pipeline)));
        let factories: Vec<_> = factories.collect::<Result<_, _>>().map_err(|problems| problems.join("; "))?;
        let failed = |fault: Fault| format!("route {name}: {fault}");
        let mut run = StepRun::build(&factories, EDGE_EMIT_MAX).map_err(failed)?;
        let ended = run.run(vec![Emitted::from_buf([record])], None).map_err(failed)?;
        Ok(match ended.into_iter().next() {
            Some(Ended::Emitted(records)) => records.into_iter().next().ok_or_else(|| dropped("nothing is left of it")),
            Some(Ended::Rejected { step, fault }) => {
                let step = step.and_then(|step| factories.get(usize::try_from(step).ok()?));
                Err(End::Refused { step: step.map(|step| step.name().to_owned()), fault })
            }
            Some(Ended::Dropped(reason)) => Err(dropped(&reason)),
            None => Err(dropped("nothing is left of it")),
        })
    }
}

/// A route that drops a record refuses its request.
fn dropped(reason: &str) -> End {
    End::Refused { step: None, fault: Fault::poison("dropped", reason) }
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
