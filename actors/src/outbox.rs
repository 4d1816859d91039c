//! The outbox: takes records that the log does not, durably, and sends them in order when it does again. Never answers for a
//! record before it is on the disk, and never drops one before the log has it; what is sent twice has the same id both times.
//!
//! Queues and their rooms outlive the actors that empty them. A record leaves its queue only after its acknowledgement, so
//! whoever finds a queue empty may send past it without overtaking anything.

mod deliver;

use crate::io::embedded::parcels::{Packed, Parcel, ParcelStore};
use crate::log::{LogError, Outgoing};
use crate::metrics::Metrics;
use bulkhead_core::outbox::{Full, Held, OutboxLimits, Room};
pub use deliver::run;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::Thread;
use tokio::sync::oneshot;

/// Why records were not taken; none of them was.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotTaken {
    /// There is no room.
    #[error("outbox full: {0}")]
    Full(Full),
    /// The disk did not take them.
    #[error("outbox: {0}")]
    Failed(LogError),
}

/// All queues of one daemon, on one disk.
pub struct Outbox {
    queues: BTreeMap<Arc<str>, Arc<Queue>>,
}

/// The records of one route that wait to be sent.
pub struct Queue {
    name: Arc<str>,
    disk: Arc<Disk>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

struct State {
    room: Room,
    /// The number of the next record.
    next: u64,
    /// Who empties it.
    deliverer: Option<Thread>,
}

/// The store, and what waits to be written to it.
struct Disk {
    path: PathBuf,
    /// `None` after a failure: it is opened again when it is next used.
    store: Mutex<Option<ParcelStore>>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    puts: Vec<Put>,
    /// Whether somebody writes, and will write these, too.
    is_served: bool,
}

/// Records of one request, numbered, with their room taken.
struct Put {
    queue: Arc<Queue>,
    first: u64,
    packed: Vec<Packed>,
    held: Held,
    tell: oneshot::Sender<Result<(), LogError>>,
}

impl Outbox {
    /// Opens the outbox in `path`, or makes it there, with these queues. A queue that is found and not named takes nothing and
    /// is emptied.
    ///
    /// # Errors
    /// As of the embedded log: in use, not writable, damaged, no room.
    pub fn open(path: &Path, queues: &[(Arc<str>, OutboxLimits)], metrics: &Arc<Metrics>) -> Result<Self, LogError> {
        let store = ParcelStore::open(path)?;
        let mut found = store.queues()?;
        let disk = Arc::new(Disk { path: path.to_owned(), store: Mutex::new(Some(store)), waiting: Mutex::default() });
        let queue = |name: Arc<str>, limits: OutboxLimits, found: Option<crate::io::embedded::parcels::Found>| {
            let found = found.unwrap_or_default();
            let held = Held { records: found.records, bytes: found.bytes };
            let state = State { room: Room::new(limits, held), next: found.next, deliverer: None };
            let (disk, metrics) = (Arc::clone(&disk), Arc::clone(metrics));
            let queue = Queue { name: Arc::clone(&name), disk, metrics, state: Mutex::new(state) };
            queue.show(held);
            (name, Arc::new(queue))
        };
        let mut all: BTreeMap<_, _> =
            queues.iter().map(|(name, limits)| queue(Arc::clone(name), *limits, found.remove(&**name))).collect();
        let nothing = OutboxLimits { records_max: 0, bytes_max: 0 };
        all.extend(found.into_iter().map(|(name, found)| queue(name.into(), nothing, Some(found))));
        Ok(Self { queues: all })
    }

    /// Whether an outbox was ever made there.
    #[must_use]
    pub fn exists(path: &Path) -> bool {
        path.exists()
    }

    /// Every queue, by name.
    pub fn queues(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.queues.values()
    }

    /// The queue of this name.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<&Arc<Queue>> {
        self.queues.get(name)
    }
}

impl Queue {
    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What waits in it.
    #[must_use]
    pub fn held(&self) -> Held {
        self.state.lock().room.held()
    }

    /// Whether nothing waits in it, so that a record may be sent past it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state.lock().room.is_empty()
    }

    /// Whether it takes records at all, and is not only emptied.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.state.lock().room.limits().records_max > 0
    }

    /// Whether there is room.
    ///
    /// # Errors
    /// It is full.
    pub fn check(&self) -> Result<(), Full> {
        self.state.lock().room.check()
    }

    /// Takes records, all or none, behind those that wait. Resolves once they are on the disk; what several callers bring
    /// meanwhile is written together.
    ///
    /// # Errors
    /// No room, or the disk did not take them.
    pub async fn put(self: &Arc<Self>, records: &[Outgoing]) -> Result<(), NotTaken> {
        let packed: Vec<_> = records.iter().map(Packed::new).collect();
        let held = Held { records: packed.len() as u64, bytes: packed.iter().map(Packed::bytes).sum() };
        let (tell, told) = oneshot::channel();
        let is_served = {
            // Numbered and queued under one lock: the order of numbers is the order on the disk.
            let mut waiting = self.disk.waiting.lock();
            let mut state = self.state.lock();
            if let Err(full) = state.room.take(held) {
                self.metrics.outbox_full.with([&self.name]).inc();
                return Err(NotTaken::Full(full));
            }
            let first = state.next;
            state.next += held.records;
            self.show(state.room.held());
            waiting.puts.push(Put { queue: Arc::clone(self), first, packed, held, tell });
            std::mem::replace(&mut waiting.is_served, true)
        };
        if !is_served {
            self.disk.serve_elsewhere();
        }
        let lost = || LogError::Unavailable("whoever wrote it to the disk died".to_owned());
        told.await.unwrap_or_else(|_| Err(lost())).map_err(NotTaken::Failed)?;
        self.metrics.outbox_taken.with([&self.name]).inc_by(held.records);
        Ok(())
    }

    /// The records in front, as far as they are on the disk.
    fn front(&self, records_max: usize, bytes_max: u64) -> Result<Vec<Parcel>, LogError> {
        self.disk.with(|store| store.front(&self.name, records_max, bytes_max))
    }

    /// These have left.
    fn remove(&self, parcels: &[Parcel]) -> Result<(), LogError> {
        self.disk.with(|store| store.remove(&self.name, parcels.iter().map(|parcel| parcel.number)))?;
        let records = parcels.len() as u64;
        self.metrics.outbox_sent.with([&self.name]).inc_by(records);
        let left = Held { records, bytes: parcels.iter().map(|parcel| parcel.bytes).sum() };
        self.give_back(left);
        Ok(())
    }

    fn give_back(&self, left: Held) {
        let mut state = self.state.lock();
        state.room.give_back(left);
        self.show(state.room.held());
    }

    fn show(&self, held: Held) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.metrics.outbox_records.with([&self.name]).set(gauge(held.records));
        self.metrics.outbox_bytes.with([&self.name]).set(gauge(held.bytes));
    }

    /// Wakes whoever empties it.
    fn wake(&self) {
        if let Some(deliverer) = &self.state.lock().deliverer {
            deliverer.unpark();
        }
    }
}

/// The writer's turn; ends with it, also where it panics: then the puts it had taken are dropped, and their callers told.
struct Turn<'a>(&'a Disk);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock();
        waiting.is_served = false;
        if std::thread::panicking() {
            waiting.puts.clear();
        }
    }
}

impl Drop for Put {
    fn drop(&mut self) {
        // Answered puts have been taken apart: what is dropped whole was never written.
        if !self.packed.is_empty() {
            self.queue.give_back(self.held);
        }
    }
}

impl Disk {
    /// On a thread of its own, which no runtime's end takes away before its turn.
    fn serve_elsewhere(self: &Arc<Self>) {
        let disk = Arc::clone(self);
        let made = std::thread::Builder::new().name("outbox-writer".into()).spawn(move || disk.serve());
        if let Err(error) = made {
            tracing::error!(%error, "no thread to write the outbox");
            let unserved = {
                let mut waiting = self.waiting.lock();
                waiting.is_served = false;
                std::mem::take(&mut waiting.puts)
            };
            let outcome = Err(LogError::Unavailable(format!("no thread to write the outbox: {error}")));
            unserved.into_iter().for_each(|put| put.answer(&outcome));
        }
    }

    /// Writes what waits until nothing does.
    fn serve(&self) {
        let turn = Turn(self);
        loop {
            let puts = {
                let mut waiting = self.waiting.lock();
                if waiting.puts.is_empty() {
                    // Under the lock, so that nobody leaves a put to a writer that is about to go.
                    waiting.is_served = false;
                    std::mem::forget(turn);
                    return;
                }
                std::mem::take(&mut waiting.puts)
            };
            let records = puts.iter().flat_map(|put| {
                (put.first..).zip(&put.packed).map(|(number, packed)| (&*put.queue.name, number, packed))
            });
            let outcome = self.with(|store| store.append(records));
            if let Err(error) = &outcome {
                tracing::error!(%error, "the outbox did not take records");
            }
            puts.into_iter().for_each(|put| put.answer(&outcome));
        }
    }

    /// Uses the store; one that failed is opened again first.
    fn with<T>(&self, work: impl FnOnce(&mut ParcelStore) -> Result<T, LogError>) -> Result<T, LogError> {
        let mut held = self.store.lock();
        let mut store = match held.take() {
            Some(store) => store,
            None => ParcelStore::open(&self.path)?,
        };
        let done = work(&mut store)?;
        *held = Some(store);
        Ok(done)
    }
}

impl Put {
    fn answer(mut self, outcome: &Result<(), LogError>) {
        if outcome.is_ok() {
            self.packed.clear();
            self.queue.wake();
        }
        let (tell, _) = oneshot::channel();
        // A client that went away is not told; its records are taken all the same.
        drop(std::mem::replace(&mut self.tell, tell).send(outcome.clone()));
    }
}
