//! Steps at the edge: a route's own steps run over a request's record before the log has it, so that its sender is told
//! what is wrong with it. Never stores anything, and never lets a step hold up the threads that serve requests.

mod pool;

pub(super) use pool::Pool;

use super::problem::Problem;
use crate::config::daemon::EDGE_EMIT_MAX;
use crate::expression::{ExpressionLimits, Jq, Subject};
use actix_web::http::StatusCode;
use bulkhead_actors::step::StepFactory;
use bulkhead_actors::worker::StepRun;
use bulkhead_core::fault::{Fault, FaultClass};
use bulkhead_core::record::{Header, RESERVED_PREFIX, Record};
use bulkhead_core::verdict::{Emitted, Ended};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::fmt;
use std::sync::Arc;

/// A text that an expression finds in a record.
#[derive(Clone, Debug)]
pub struct TextOf {
    /// The expression.
    pub jq: Jq,
    /// What it may take.
    pub limits: ExpressionLimits,
}

impl TextOf {
    /// The text in this record; `None` where the expression gives `null`.
    ///
    /// # Errors
    /// The record's own fault.
    pub(super) fn of(&self, record: &Record) -> Result<Option<String>, Fault> {
        self.jq.text_of(&Subject::new(record, None)?, self.limits)
    }
}

/// The steps of one route. Each call has a set of its own; sets that are idle are kept for the next calls.
pub struct EdgeSteps {
    /// The route, for the log.
    route: String,
    factories: Vec<Arc<dyn StepFactory>>,
    /// What makes the record's key of what the steps made of it, where they leave it as it was otherwise.
    key: Option<TextOf>,
    idle: Mutex<Vec<StepRun>>,
}

impl EdgeSteps {
    /// Of this route. What the steps need is opened with the first request.
    #[must_use]
    pub fn new(route: String, factories: Vec<Arc<dyn StepFactory>>, key: Option<TextOf>) -> Self {
        Self { route, factories, key, idle: Mutex::default() }
    }

    /// Runs the steps over records, which come together; what each of them became, in their order. What a step did to
    /// the engine's own headers is undone.
    ///
    /// # Errors
    /// 503 where it may go better another time, 500 where a step crashed or cannot run at all.
    pub(super) async fn run(self: &Arc<Self>, pool: &Pool, records: Vec<Record>) -> Result<Vec<Edged>, Problem> {
        let steps = Arc::clone(self);
        let answer = pool.run(&self.route, move || steps.work(records)).await?;
        answer.map_err(|fault| self.failed(&fault))
    }

    /// On a thread of the pool. A set whose step panicked or failed for good is not used again.
    fn work(&self, records: Vec<Record>) -> Result<Vec<Edged>, Fault> {
        let idle = self.idle.lock().pop();
        let mut run = idle.map_or_else(|| StepRun::build(&self.factories, EDGE_EMIT_MAX), Ok)?;
        let sealed: Vec<Vec<Header>> = records.iter().map(own_headers).collect();
        let rows = records.into_iter().map(|record| Emitted::from_buf([record])).collect();
        let ended = run.run(rows, None);
        if ended.as_ref().err().is_none_or(|fault| fault.class == FaultClass::Transient) {
            // Never more sets than there were calls at once, which the pool bounds.
            self.idle.lock().push(run);
        }
        Ok(ended?.into_iter().zip(sealed).map(|(ended, own)| self.edged(ended, own)).collect())
    }

    fn edged(&self, ended: Ended, own: Vec<Header>) -> Edged {
        match ended {
            Ended::Emitted(records) => match records.into_iter().next() {
                Some(record) => self.with_key(sealed(record, own)),
                None => Err(Refused { step: None, fault: Fault::poison(DROPPED, "nothing is left of the record") }),
            },
            Ended::Dropped(reason) => Err(Refused { step: None, fault: Fault::poison(DROPPED, reason) }),
            Ended::Rejected { step, fault } => {
                let step = step.and_then(|step| self.factories.get(usize::try_from(step).ok()?));
                Err(Refused { step: step.map(|step| step.name().to_owned()), fault })
            }
        }
    }

    fn with_key(&self, record: Record) -> Edged {
        let Some(text) = &self.key else { return Ok(record) };
        let none = || Fault::poison(NO_KEY, format_args!("`{}` gives no text for the record's key", text.jq));
        let key = text.of(&record).and_then(|key| key.filter(|key| !key.is_empty()).ok_or_else(none));
        let key = key.map_err(|fault| Refused { step: None, fault })?;
        Ok(Record { key: Some(key.into()), ..record })
    }

    /// The steps failed as a whole: nothing is wrong with the record.
    fn failed(&self, fault: &Fault) -> Problem {
        if fault.class == FaultClass::Transient {
            tracing::warn!(route = %self.route, %fault, "steps at the edge cannot run now");
            return Problem::unavailable("steps-unavailable", "Steps unavailable", format!("{}.", fault.message));
        }
        tracing::error!(route = %self.route, %fault, "steps at the edge cannot run");
        let detail = "A step of this route cannot run; nothing was stored. The daemon's log says why.";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "steps-failed", "Steps failed", detail)
    }
}

impl fmt::Debug for EdgeSteps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.factories.iter().map(|step| step.name()).collect();
        f.debug_struct("EdgeSteps").field("route", &self.route).field("steps", &names).finish_non_exhaustive()
    }
}

/// What the steps made of one record.
pub(super) type Edged = Result<Record, Refused>;

/// The code of a record that a step ended on purpose.
const DROPPED: &str = "dropped";
/// The code of a record whose key cannot be made.
const NO_KEY: &str = "no_key";

/// A record that the steps do not let in, and why.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    /// The step that said so, where one did.
    pub step: Option<String>,
    /// What is wrong with the record.
    pub fault: Fault,
}

impl Refused {
    /// What the sender of the record is told: nothing of the request was stored.
    pub(super) fn problem(&self) -> Problem {
        let detail = format!("{}.", self.fault.message.trim_end_matches('.'));
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "rejected", "Rejected", detail);
        Problem { members: self.members(), ..problem }
    }

    /// What a problem document says of it beside its text: `code`, `step`, and each single violation where there are any.
    pub(super) fn members(&self) -> Map<String, Value> {
        let mut members = Map::new();
        members.insert("code".to_owned(), self.fault.code.as_ref().into());
        if let Some(step) = &self.step {
            members.insert("step".to_owned(), step.as_str().into());
        }
        if !self.fault.violations.is_empty() {
            let violations = self.fault.violations.iter();
            let violations = violations.map(|one| json!({ "path": one.path, "message": one.message }));
            members.insert("violations".to_owned(), violations.collect());
        }
        members
    }
}

fn is_own(header: &Header) -> bool {
    header.name.starts_with(RESERVED_PREFIX.as_bytes())
}

fn own_headers(record: &Record) -> Vec<Header> {
    record.headers.iter().filter(|header| is_own(header)).cloned().collect()
}

/// The record as a step made it, under the engine's own headers as they were before.
fn sealed(mut record: Record, mut own: Vec<Header>) -> Record {
    record.headers.retain(|header| !is_own(header));
    own.append(&mut record.headers);
    record.headers = own;
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_core::record::ID_HEADER;

    #[test]
    fn a_step_cannot_touch_the_engines_own_headers() {
        let before = vec![Header::new(ID_HEADER, "real")];
        let made = Record {
            headers: vec![
                Header::new(ID_HEADER, "forged"),
                Header::new("x", "1"),
                Header::new("__bulkhead.round", "7"),
            ],
            ..Record::default()
        };
        assert_eq!(sealed(made, before).headers, [Header::new(ID_HEADER, "real"), Header::new("x", "1")]);
    }
}
