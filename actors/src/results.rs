//! The results actor: reads result and dead-letter topics into the job store, so that every gateway can answer for every
//! job. Never decides which outcome counts (core's job index does) and never writes to the log.
//!
//! The store and the positions reached lie in a [`JobStore`] that outlives incarnations: a new one reads on.

use crate::log::{Log, LogError, Read, Reader, Tail};
use crate::metrics::Metrics;
use crate::shell::{Exit, Lifeline, Signal};
use bulkhead_core::batch::KeyHash;
use bulkhead_core::ids::{Partition, Position};
use bulkhead_core::job_id::JobId;
use bulkhead_core::jobs::{Effect, Event, Job, JobIndex, JobName, Limits, Sighting};
use bulkhead_core::ledger::Segment;
use bulkhead_core::machine::Machine;
use bulkhead_core::record::Record;
use bulkhead_core::time::{Now, WallMs};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::sync::watch;

/// Records taken from the log in one turn: enough to catch up fast, few enough to stop soon.
const RECORDS_PER_TURN: usize = 1_000;
/// How long a turn waits for records, and so how long a drain may go unnoticed.
const TURN: Duration = Duration::from_millis(100);
/// How long the actor waits before it asks again for a log that failed it.
const RETRY: Duration = Duration::from_secs(1);

/// What a topic tells of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Its records are results.
    Results,
    /// Its records are dead letters.
    DeadLetters,
    /// Something outside writes its records, results and failures.
    Reports,
    /// Its records are ledger segments: the only ones that tell of records which were dropped. Worth reading where the
    /// ledger's key is the record's id; no job is found by another key.
    Ledger,
}

impl Source {
    fn see(self, record: &Record, sightings: &mut Vec<Sighting>) {
        match self {
            Self::Results => sightings.extend(Sighting::of_result(record)),
            Self::DeadLetters => sightings.extend(Sighting::of_dead_letter(record)),
            Self::Reports => sightings.extend(Sighting::of_report(record)),
            Self::Ledger => match record.value.clone().map(Segment::decode) {
                Some(Ok(segment)) => sightings.extend(Sighting::of_segment(&segment)),
                // The partition's ledger stops over it; here it costs no more than what it would have told.
                Some(Err(damage)) => tracing::warn!(%damage, "results skip a damaged segment"),
                None => {}
            },
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
    caught_up: Result<(), String>,
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
        let caught_up = Err("not started".to_owned());
        let state = State { index: JobIndex::new(limits), reached: HashMap::new(), caught_up };
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
    ///
    /// # Errors
    /// Why it is not, for readiness.
    pub fn caught_up(&self) -> Result<(), String> {
        self.state.lock().caught_up.clone()
    }

    /// Subscribes to news of the job. Subscribe first, then [`JobStore::get`], then wait: nothing is missed.
    #[must_use]
    pub fn wait(self: &Arc<Self>, name: JobName) -> Waiter {
        let news = self.waiting.lock().entry(name).or_insert_with(|| watch::channel(()).0).subscribe();
        Waiter { store: Arc::clone(self), name, news }
    }

    /// Takes outcomes that were read, and wakes who waits for their jobs.
    pub fn see(&self, sightings: Vec<Sighting>) {
        self.apply(Event::Seen(sightings));
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

/// The body of the results actor: reads until it is told to end. A log that fails it is asked again, as long as it takes:
/// that is no reason to die, and readiness says what is wrong.
pub fn run(lifeline: &Lifeline, log: &Arc<dyn Log>, topics: &[(Arc<str>, Source)], store: &Arc<JobStore>) -> Exit {
    let this = thread::current();
    lifeline.on_signal(move || this.unpark());
    let mut reading: Option<Results> = None;
    loop {
        match lifeline.signal() {
            Signal::Run => lifeline.beat(),
            // It holds nothing that is not in the store.
            Signal::Drain => return Exit::Done,
            Signal::Kill => return Exit::Killed,
        }
        let turned = match reading.take() {
            None => Results::start(Arc::clone(log), topics, Arc::clone(store)),
            Some(mut results) => results.turn(TURN, lifeline.clock().wall()).map(|_| results),
        };
        match turned {
            Ok(results) => reading = Some(results),
            Err(error) => {
                tracing::info!(%error, "results cannot be read yet; tried again");
                store.state.lock().caught_up = Err(error.to_string());
                thread::park_timeout(RETRY);
            }
        }
    }
}

/// One incarnation of the results actor.
struct Results {
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
    fn start(log: Arc<dyn Log>, topics: &[(Arc<str>, Source)], store: Arc<JobStore>) -> Result<Self, LogError> {
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
        let results = Self { log, store, sources, tails, behind, reader };
        results.note_progress();
        Ok(results)
    }

    /// Reads what has come, waiting at most `wait`, and forgets what is too old at `wall`. Returns how many records came.
    ///
    /// # Errors
    /// The log cannot be read; start anew.
    fn turn(&mut self, wait: Duration, wall: WallMs) -> Result<usize, LogError> {
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
                    self.sources[tail].see(&record.record, &mut sightings);
                }
                Read::CaughtUp { tail } => self.behind[tail] = false,
            }
        }
        // First the outcomes, then the positions: a death in between reads records again, and the index takes them once.
        if !sightings.is_empty() {
            self.store.see(sightings);
        }
        self.store.apply(Event::Tick(wall));
        self.note_progress();
        Ok(records)
    }

    fn renew(&mut self) -> Result<(), LogError> {
        self.behind.fill(true);
        self.note_progress();
        self.reader = self.log.reader(&self.tails)?;
        Ok(())
    }

    fn note_progress(&self) {
        let mut state = self.store.state.lock();
        for tail in &self.tails {
            if let Some(position) = tail.from {
                state.reached.insert((Arc::clone(&tail.topic), tail.partition), position);
            }
        }
        let behind = self.behind.iter().filter(|behind| **behind).count();
        state.caught_up = if behind == 0 { Ok(()) } else { Err(format!("{behind} partitions are still being read")) };
    }
}

#[cfg(test)]
#[path = "results_tests.rs"]
mod tests;
