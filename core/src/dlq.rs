//! The dlq machine: turns what was rejected into dead letters, and stops where too much is. Never publishes them.

use crate::batch::{Batch, Outcome, Rejection};
use crate::fault::Fault;
use crate::letter::{LetterSpec, letter};
use crate::limit::{Exceeded, Limit, StopAbove};
use crate::machine::Machine;
use crate::time::{Now, WallMs};
use std::borrow::Cow;
use std::sync::Arc;

/// The stage that a conflict's dead letter names.
pub const LEDGER_STAGE: &str = "ledger";
/// The code of a conflict's dead letter.
pub const CONFLICT_CODE: &str = "conflict";

/// What can happen to the dlq.
#[derive(Debug)]
pub enum Event {
    /// A batch came out of the last stage.
    Batch {
        /// The batch.
        batch: Box<Batch>,
        /// When.
        wall: WallMs,
    },
}

/// What the dlq asks its shell to do.
#[derive(Debug)]
pub enum Effect {
    /// Hand the batch on to its lane.
    Forward(Box<Batch>),
    /// Too much was rejected: keep the batch on loan and stop the pipeline.
    Stop(Exceeded),
}

/// The dlq of one pipeline.
pub struct Dlq {
    spec: LetterSpec,
    limit: Option<Limit>,
    ledger: Arc<str>,
    /// Once it stopped, nothing passes this incarnation any more.
    stopped: Option<Exceeded>,
}

impl Dlq {
    /// A dlq that has seen nothing; without `stop_above` it never stops.
    #[must_use]
    pub fn new(spec: LetterSpec, stop_above: Option<StopAbove>) -> Self {
        Self { spec, limit: stop_above.map(Limit::new), ledger: LEDGER_STAGE.into(), stopped: None }
    }

    fn batch(&mut self, mut batch: Box<Batch>, wall: WallMs, now: Now) -> Effect {
        let stopped = self.stopped.or_else(|| self.count(&batch, now).err());
        if let Some(exceeded) = stopped {
            self.stopped = stopped;
            return Effect::Stop(exceeded);
        }
        let partition = batch.ticket.assignment.partition;
        let mut letters = Vec::new();
        for (index, (source, outcome)) in batch.records.iter().zip(&batch.outcomes).enumerate() {
            if let Some(why) = self.why(outcome) {
                // A batch has fewer than 2^32 records: `batch.records_max` bounds it.
                letters.push((index as u32, letter(&self.spec, partition, source, &why, wall)));
            }
        }
        batch.letters = letters;
        Effect::Forward(batch)
    }

    /// Duplicates never reached a stage, and a conflict is a client's mistake: neither says that a stage is broken.
    fn count(&mut self, batch: &Batch, now: Now) -> Result<(), Exceeded> {
        let Some(limit) = &mut self.limit else { return Ok(()) };
        let count = |want: fn(&Outcome) -> bool| batch.outcomes.iter().filter(|outcome| want(outcome)).count() as u64;
        let worked_on = count(|outcome| !matches!(outcome, Outcome::Duplicate(_) | Outcome::Conflict(_)));
        limit.note(worked_on, count(|outcome| matches!(outcome, Outcome::Rejected(_))), now)
    }

    fn why<'a>(&self, outcome: &'a Outcome) -> Option<Cow<'a, Rejection>> {
        match outcome {
            Outcome::Rejected(why) => Some(Cow::Borrowed(why)),
            Outcome::Conflict(with) => Some(Cow::Owned(Rejection {
                stage: self.ledger.clone(),
                step: None,
                fault: Fault::poison(
                    CONFLICT_CODE,
                    format_args!("the record at offset {with} claimed this key with another payload"),
                ),
                attempts: 1,
                incarnation: 1,
            })),
            Outcome::Pending | Outcome::Emitted(_) | Outcome::Dropped(_) | Outcome::Duplicate(_) => None,
        }
    }
}

impl Machine for Dlq {
    type Event = Event;
    type Effect = Effect;

    fn step(&mut self, event: Event, now: Now) -> Vec<Effect> {
        let Event::Batch { batch, wall } = event;
        vec![self.batch(batch, wall, now)]
    }
}
