//! The results actor: reads result and dead-letter topics into the job store, so that every gateway can answer for every
//! job. Never decides which outcome counts (core's job index does) and never writes to the log.
//!
//! The store and the positions reached lie in a [`JobStore`] that outlives incarnations: a new one reads on.

use crate::log::{Log, LogError, Read, Reader, Tail};
use crate::metrics::Metrics;
use bulkhead_core::batch::KeyHash;
use bulkhead_core::ids::{Partition, Position};
use bulkhead_core::job_id::JobId;
use bulkhead_core::jobs::{Effect, Event, Job, JobIndex, JobName, Limits, Sighting};
use bulkhead_core::machine::Machine;
use bulkhead_core::record::Record;
use bulkhead_core::time::{Now, WallMs};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Records taken from the log in one turn: enough to catch up fast, few enough to stop soon.
const RECORDS_PER_TURN: usize = 1_000;

/// What a topic tells of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Its records are results.
    Results,
    /// Its records are dead letters.
    DeadLetters,
}

impl Source {
    fn sighting(self, record: &Record) -> Option<Sighting> {
        match self {
            Self::Results => Sighting::of_result(record),
            Self::DeadLetters => Sighting::of_dead_letter(record),
        }
    }
}

/// What is known of the jobs of this daemon's pipelines, shared by the results actor and the gateways.
pub struct JobStore {
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Who waits for which job; a job nobody waits for has no entry.
    waiting: Mutex<HashMap<JobName, watch::Sender<()>>>,
}

struct State {
    index: JobIndex,
    reached: HashMap<(Arc<str>, Partition), Position>,
    caught_up: bool,
}

/// Waits for news of one job.
pub struct Waiter {
    store: Arc<JobStore>,
    name: JobName,
    news: watch::Receiver<()>,
}

impl JobStore {
    /// An empty store.
    #[must_use]
    pub fn new(limits: Limits, metrics: Arc<Metrics>) -> Self {
        let state = State { index: JobIndex::new(limits), reached: HashMap::new(), caught_up: false };
        Self { metrics, state: Mutex::new(state), waiting: Mutex::new(HashMap::new()) }
    }

    /// How the job ended; `None` where no end of it was seen, or it was forgotten.
    #[must_use]
    pub fn get(&self, id: JobId, key: Option<KeyHash>) -> Option<Job> {
        self.state.lock().index.get(id, key).cloned()
    }

    /// Whether a job accepted then is older than the store keeps outcomes.
    #[must_use]
    pub fn outlived(&self, accepted: WallMs, wall: WallMs) -> bool {
        self.state.lock().index.outlived(accepted, wall)
    }

    /// Whether everything that was in the topics when the actor last started reading is in the store.
    #[must_use]
    pub fn caught_up(&self) -> bool {
        self.state.lock().caught_up
    }

    /// Subscribes to news of the job. Subscribe first, then [`JobStore::get`], then wait: nothing is missed.
    #[must_use]
    pub fn wait(self: &Arc<Self>, name: JobName) -> Waiter {
        let news = self.waiting.lock().entry(name).or_insert_with(|| watch::channel(()).0).subscribe();
        Waiter { store: Arc::clone(self), name, news }
    }

    fn apply(&self, event: Event) {
        let mut state = self.state.lock();
        let effects = state.index.step(event, Now(0));
        self.metrics.jobs_held.with([]).set(i64::try_from(state.index.len()).unwrap_or(i64::MAX));
        self.metrics.jobs_held_bytes.with([]).set(i64::try_from(state.index.bytes()).unwrap_or(i64::MAX));
        drop(state);
        for effect in effects {
            match effect {
                Effect::Settled(name) => {
                    if let Some(waiters) = self.waiting.lock().get(&name) {
                        waiters.send_replace(());
                    }
                }
                Effect::Evicted { expired, crowded } => {
                    self.metrics.jobs_evicted.with(["expired"]).inc_by(expired as u64);
                    self.metrics.jobs_evicted.with(["crowded"]).inc_by(crowded as u64);
                }
            }
        }
    }
}

impl Waiter {
    /// Resolves when the job's outcome is new or another since the last call (or since the subscription).
    pub async fn news(&mut self) {
        let alive = self.news.changed().await;
        debug_assert!(alive.is_ok(), "the sender leaves only with the last waiter");
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.store.waiting.lock();
        if waiting.get(&self.name).is_some_and(|sender| sender.receiver_count() <= 1) {
            waiting.remove(&self.name);
        }
    }
}

/// One incarnation of the results actor.
pub struct Results {
    log: Arc<dyn Log>,
    store: Arc<JobStore>,
    sources: Vec<Source>,
    tails: Vec<Tail>,
    behind: Vec<bool>,
    reader: Box<dyn Reader>,
}

impl Results {
    /// Starts reading where the last incarnation stopped, or at the topics' starts. May block on the log.
    ///
    /// # Errors
    /// The log cannot be reached, or a topic does not exist.
    pub fn start(log: Arc<dyn Log>, topics: &[(Arc<str>, Source)], store: Arc<JobStore>) -> Result<Self, LogError> {
        let (mut tails, mut sources) = (Vec::new(), Vec::new());
        for (topic, source) in topics {
            let Some(info) = log.topic(topic)? else {
                return Err(LogError::Refused(format!("topic {topic:?} does not exist")));
            };
            for partition in (0..info.partitions).map(Partition) {
                let from = store.state.lock().reached.get(&(Arc::clone(topic), partition)).copied();
                tails.push(Tail { topic: Arc::clone(topic), partition, from });
                sources.push(*source);
            }
        }
        let reader = log.reader(&tails)?;
        let behind = vec![true; tails.len()];
        store.state.lock().caught_up = tails.is_empty();
        Ok(Self { log, store, sources, tails, behind, reader })
    }

    /// Reads what has come, waiting at most `wait`, and forgets what is too old at `wall`. Returns how many records came.
    ///
    /// # Errors
    /// `Unavailable` may pass: call again. After any other error this incarnation is of no use.
    pub fn turn(&mut self, wait: Duration, wall: WallMs) -> Result<usize, LogError> {
        let reads = match self.reader.read(RECORDS_PER_TURN, wait) {
            Err(LogError::ClientDead(reason)) => {
                tracing::warn!(%reason, "results reader died; a new one reads on");
                self.renew()?;
                return Ok(0);
            }
            reads => reads?,
        };
        let (mut sightings, mut records) = (Vec::new(), 0);
        for read in reads {
            match read {
                Read::Record { tail, record } => {
                    records += 1;
                    self.tails[tail].from = Some(record.offset.next());
                    sightings.extend(self.sources[tail].sighting(&record.record));
                }
                Read::CaughtUp { tail } => self.behind[tail] = false,
            }
        }
        // First the outcomes, then the positions: a death in between reads records again, and the index takes them once.
        if !sightings.is_empty() {
            self.store.apply(Event::Seen(sightings));
        }
        self.store.apply(Event::Tick(wall));
        self.note_positions();
        Ok(records)
    }

    fn renew(&mut self) -> Result<(), LogError> {
        self.behind.fill(true);
        self.store.state.lock().caught_up = self.tails.is_empty();
        self.reader = self.log.reader(&self.tails)?;
        Ok(())
    }

    fn note_positions(&self) {
        let mut state = self.store.state.lock();
        for tail in &self.tails {
            if let Some(position) = tail.from {
                state.reached.insert((Arc::clone(&tail.topic), tail.partition), position);
            }
        }
        state.caught_up = !self.behind.contains(&true);
    }
}

#[cfg(test)]
#[path = "results_tests.rs"]
mod tests;
