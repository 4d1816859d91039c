//! Hints: records that are worth seeing at once and are not the truth, e.g. the words of an answer that is still being made.
//! They leave outside of every transaction, so one may be seen that comes to nothing, or twice, with a higher attempt. Never
//! holds up whoever says them: what the log does not take now is left out.

use crate::log::{LogError, Outgoing, Producer};
use bulkhead_core::record::{Header, Record};
use futures::stream::{FuturesUnordered, StreamExt};
use futures::{FutureExt, future::BoxFuture};
use prometheus_client::metrics::counter::Counter;
use std::sync::Arc;

/// The header that says which attempt of the work a hint is of, a UTF-8 decimal number from 1: a higher one replaces all that
/// came before it.
pub const ATTEMPT_HEADER: &str = "__bulkhead.attempt";
/// The header that says which hint of its attempt it is, a UTF-8 decimal number from 0.
pub const INDEX_HEADER: &str = "__bulkhead.index";
/// Hints that may be on their way at once, from one speaker.
const WAITING_MAX: usize = 256;

/// Where a pipeline's hints go.
#[derive(Clone)]
pub struct Hints {
    producer: Arc<dyn Producer>,
    topic: Arc<str>,
    left_out: Counter,
}

impl std::fmt::Debug for Hints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hints({})", self.topic)
    }
}

/// The topic of a pipeline's hints.
#[must_use]
pub fn topic(pipeline: &str) -> String {
    format!("{pipeline}.tokens")
}

impl Hints {
    /// Hints of a pipeline. `left_out` counts those that the log did not take.
    #[must_use]
    pub fn new(producer: Arc<dyn Producer>, pipeline: &str, left_out: Counter) -> Self {
        Self { producer, topic: topic(pipeline).into(), left_out }
    }

    /// Begins to say the hints of one attempt.
    #[must_use]
    pub fn begin(&self, attempt: u32) -> Speaker {
        Speaker { hints: self.clone(), attempt, index: 0, waiting: FuturesUnordered::new(), left_out: 0 }
    }
}

type Sent = BoxFuture<'static, Result<(), LogError>>;

/// Says the hints of one attempt, in order.
pub struct Speaker {
    hints: Hints,
    attempt: u32,
    index: u32,
    waiting: FuturesUnordered<Sent>,
    left_out: u32,
}

impl Speaker {
    /// Says one: the record with the number of its attempt and its own. Left out where too many are on their way.
    pub fn say(&mut self, mut record: Record) {
        let index = self.index;
        self.index += 1;
        // Those that are answered make room; nobody waits for the others.
        while let Some(Some(sent)) = self.waiting.next().now_or_never() {
            self.note(sent);
        }
        if self.waiting.len() >= WAITING_MAX {
            self.leave_out();
            return;
        }
        record.headers.push(Header::new(ATTEMPT_HEADER, self.attempt.to_string()));
        record.headers.push(Header::new(INDEX_HEADER, index.to_string()));
        let outgoing = Outgoing { topic: Arc::clone(&self.hints.topic), partition: None, record };
        self.waiting.push(self.hints.producer.send(outgoing).map(|sent| sent.map(drop)).boxed());
    }

    fn note(&mut self, sent: Result<(), LogError>) {
        if let Err(error) = sent {
            tracing::debug!(topic = %self.hints.topic, %error, "a hint was not taken");
            self.leave_out();
        }
    }

    fn leave_out(&mut self) {
        self.left_out += 1;
        self.hints.left_out.inc();
    }

    /// Resolves once every hint is in the log, or was not taken; how many were left out.
    pub async fn end(mut self) -> u32 {
        while let Some(sent) = self.waiting.next().await {
            self.note(sent);
        }
        self.left_out
    }
}
