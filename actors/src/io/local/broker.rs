//! The one place that writes: gives records their offsets, hands them to the store, then shows them. Never shows
//! what the store has not made durable.

use super::catalog::{Catalog, Epoch};
use super::queue::Queue;
use super::store::{Append, GroupKey, ReadLimit, Slot, Span, Store, TopicMeta, Writes};
use crate::log::{LogError, TopicSpec};
use bulkhead_core::ids::{Offset, Partition, Position};
use bulkhead_core::record::{Record, SourceRecord};
use bulkhead_core::time::WallMs;
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// Why a request was not carried out.
#[derive(Clone, Debug)]
pub(super) enum Denied {
    /// Another self of this lane took over: nothing was written.
    Fenced(String),
    /// The member whose positions these are is no member any more: nothing was written.
    NotMember(String),
    /// The store was out of order before: nothing was written.
    NotWritten(LogError),
    /// The store failed while writing: it may have been written or not.
    Failed(LogError),
}

/// Where the request's first record lies, if it has one.
pub(super) type Answer = Result<Option<(Partition, Offset)>, Denied>;

/// What is done with the answer; called from the writing thread, so it must not block.
pub(super) type Reply = Box<dyn FnOnce(Answer) + Send>;

/// The positions that a transaction commits, and the membership that may do so.
pub(super) struct Commit {
    pub(super) key: GroupKey,
    pub(super) member: Epoch,
    pub(super) positions: Vec<(Partition, Position)>,
}

/// What is written together or not at all.
#[derive(Default)]
pub(super) struct Unit {
    pub(super) records: Vec<(Slot, Record)>,
    pub(super) commit: Option<Commit>,
    /// The lane and which of its selves asks.
    pub(super) lane: Option<(String, Epoch)>,
}

impl Unit {
    /// Its bytes in memory, near enough to bound a queue.
    pub(super) fn bytes(&self) -> usize {
        self.records.iter().map(|(_, record)| record.size()).sum()
    }
}

/// A unit and who waits for it. A unit with nothing in it is a barrier: answered once all before it are written.
pub(super) struct Request {
    pub(super) unit: Unit,
    pub(super) reply: Reply,
}

/// How a store is opened, and opened again after it failed.
pub(super) type Opener = Box<dyn Fn() -> Result<Box<dyn Store>, LogError> + Send + Sync>;

/// Bounds of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The largest record, in the bytes of `Record::size`.
    pub(super) record_bytes_max: usize,
    /// How many bytes one read of one partition takes at most, but for its first record.
    pub(super) read_bytes_max: usize,
    /// How many bytes one transaction holds at most.
    pub(super) transaction_bytes_max: usize,
    /// How long a store that failed is left alone before it is opened again.
    pub(super) reopen_after: Duration,
}

enum Health {
    Open(Box<dyn Store>),
    /// A write failed, so what the store holds is unknown until it is opened again.
    Broken {
        why: LogError,
        retry_at: Instant,
    },
    Closed,
}

/// How many records one turn of retention deletes from a partition at most.
const TRIM_RECORDS_MAX: usize = 2_000;

pub(super) struct Broker {
    /// What people know the store by.
    name: String,
    opener: Opener,
    health: RwLock<Health>,
    /// Held while writing: whoever takes it knows that no write is under way.
    writing: Mutex<()>,
    catalog: Mutex<Catalog>,
    grown: Condvar,
    pub(super) queue: Option<Queue>,
    pub(super) limits: Limits,
    clock: fn() -> WallMs,
}

impl Broker {
    pub(super) fn open(
        name: String,
        opener: Opener,
        queue: Option<Queue>,
        limits: Limits,
        clock: fn() -> WallMs,
    ) -> Result<Self, LogError> {
        let store = guarded(&name, &opener)?;
        let mut catalog = Catalog::default();
        catalog.adopt(guarded(&name, || store.load())?);
        Ok(Self {
            name,
            opener,
            health: RwLock::new(Health::Open(store)),
            writing: Mutex::new(()),
            catalog: Mutex::new(catalog),
            grown: Condvar::new(),
            queue,
            limits,
            clock,
        })
    }

    pub(super) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock()
    }

    /// Runs `call` on the store; damage that makes the store panic is an error like others.
    fn with_store<T>(&self, call: impl FnOnce(&dyn Store) -> Result<T, LogError>) -> Result<T, LogError> {
        match &*self.health.read() {
            Health::Open(store) => guarded(&self.name, || call(store.as_ref())),
            Health::Broken { why, .. } => Err(why.clone()),
            Health::Closed => Err(closed()),
        }
    }

    /// Whether the store works.
    pub(super) fn check(&self) -> Result<(), LogError> {
        self.with_store(|_| Ok(()))
    }

    /// Hands a request to the writing thread, or carries it out where there is none.
    /// `bounded`: refused where too much is waiting already.
    pub(super) fn submit(&self, request: Request, bounded: bool) -> Result<(), LogError> {
        match &self.queue {
            Some(queue) => queue.push(request, bounded),
            None => {
                self.apply(vec![request]);
                Ok(())
            }
        }
    }

    /// Submits and waits for the answer.
    pub(super) fn call(&self, unit: Unit) -> Answer {
        self.ask(unit)?.recv().unwrap_or_else(|_| Err(Denied::Failed(closed())))
    }

    fn ask(&self, unit: Unit) -> Result<Receiver<Answer>, Denied> {
        let (tell, told) = sync_channel(1);
        // The receiver is gone only if its caller no longer waits.
        let reply: Reply = Box::new(move |answer| drop(tell.send(answer)));
        self.submit(Request { unit, reply }, false).map_err(Denied::NotWritten)?;
        Ok(told)
    }

    /// Waits until everything submitted before is written or refused, at most `wait`.
    pub(super) fn barrier(&self, wait: Duration) -> Result<(), LogError> {
        let late = |e| match e {
            RecvTimeoutError::Timeout => LogError::Unavailable(format!("writes are under way for {wait:?}")),
            RecvTimeoutError::Disconnected => closed(),
        };
        let told =
            self.ask(Unit::default()).and_then(|told| told.recv_timeout(wait).map_err(late).map_err(Denied::Failed));
        match told.flatten() {
            Ok(_) => Ok(()),
            Err(Denied::Failed(e) | Denied::NotWritten(e)) => Err(e),
            Err(Denied::Fenced(why) | Denied::NotMember(why)) => Err(LogError::ClientDead(why)),
        }
    }

    /// Changes who may write, when no write is under way.
    pub(super) fn between_writes<T>(&self, change: impl FnOnce(&mut Catalog) -> T) -> T {
        let _turn = self.writing.lock();
        change(&mut self.catalog.lock())
    }

    /// Writes the requests as one batch, in order, shows what was written and answers each.
    pub(super) fn apply(&self, requests: Vec<Request>) {
        let turn = self.writing.lock();
        self.heal();
        let ready = self.check().map_err(Denied::NotWritten);
        let (writes, verdicts) = self.plan(requests);
        let outcome = ready.and_then(|()| self.write(writes).map_err(Denied::Failed));
        drop(turn);
        for (reply, verdict) in verdicts {
            reply(verdict.and_then(|first| outcome.clone().map(|()| first)));
        }
    }

    fn write(&self, writes: Writes) -> Result<(), LogError> {
        let ends = ends(&writes.appends);
        let positions = writes.positions.clone();
        if ends.is_empty() && positions.is_empty() {
            return Ok(());
        }
        let written = self.with_store(|store| store.write(writes));
        match &written {
            Ok(()) => self.show(ends, positions),
            Err(why) => self.break_down(why),
        }
        written
    }

    /// Decides which requests may be written, and gives their records offsets.
    fn plan(&self, requests: Vec<Request>) -> (Writes, Vec<(Reply, Answer)>) {
        let catalog = self.catalog.lock();
        let mut writes = Writes { appended: (self.clock)(), ..Writes::default() };
        let mut next: BTreeMap<Slot, i64> = BTreeMap::new();
        let mut verdicts = Vec::with_capacity(requests.len());
        for Request { unit, reply } in requests {
            if let Err(denied) = admit(&catalog, &unit) {
                verdicts.push((reply, Err(denied)));
                continue;
            }
            let mut first = None;
            for (slot, record) in unit.records {
                let end = next.entry(slot).or_insert_with(|| catalog.span(slot).end);
                let offset = Offset(*end);
                *end += 1;
                first.get_or_insert((slot.partition, offset));
                writes.appends.push(Append { slot, offset, record });
            }
            if let Some(commit) = unit.commit {
                writes.positions.extend(commit.positions.into_iter().map(|(p, at)| (commit.key.clone(), p, at)));
            }
            verdicts.push((reply, Ok(first)));
        }
        (writes, verdicts)
    }

    fn show(&self, ends: BTreeMap<Slot, i64>, positions: Vec<(GroupKey, Partition, Position)>) {
        let mut catalog = self.catalog.lock();
        for (slot, end) in ends {
            if let Some(span) = catalog.span_mut(slot) {
                span.end = end;
            }
        }
        for (key, partition, position) in positions {
            catalog.set_position(key, partition, position);
        }
        self.grown.notify_all();
    }

    fn break_down(&self, why: &LogError) {
        tracing::error!(error = %why, "the log's store failed while writing; it is opened again");
        // Dropped here, so that the store's lock is free when it is opened again.
        *self.health.write() = Health::Broken { why: why.clone(), retry_at: Instant::now() + self.limits.reopen_after };
    }

    /// Opens a failed store again when it is time to, and takes over what it really holds. When to come back, if it
    /// is still out of order. Only the thread that may write calls this.
    pub(super) fn heal(&self) -> Option<Instant> {
        match *self.health.read() {
            Health::Broken { retry_at, .. } if Instant::now() < retry_at => return Some(retry_at),
            Health::Broken { .. } => {}
            Health::Open(_) | Health::Closed => return None,
        }
        let load = |store: Box<dyn Store>| guarded(&self.name, || store.load()).map(|loaded| (store, loaded));
        let opened = guarded(&self.name, &self.opener).and_then(load);
        match opened {
            Ok((store, loaded)) => {
                self.catalog.lock().adopt(loaded);
                *self.health.write() = Health::Open(store);
                self.wake();
                tracing::info!("the log's store is open again");
                None
            }
            Err(why) => {
                let retry_at = Instant::now() + self.limits.reopen_after;
                *self.health.write() = Health::Broken { why, retry_at };
                Some(retry_at)
            }
        }
    }

    pub(super) fn create_topics(&self, specs: &[TopicSpec]) -> Result<(), LogError> {
        let _turn = self.writing.lock();
        for spec in specs {
            let id = {
                let catalog = self.catalog.lock();
                if catalog.find(&spec.name).is_some() {
                    continue;
                }
                catalog.next_topic_id()
            };
            if spec.partitions < 1 {
                let (name, count) = (&spec.name, spec.partitions);
                return Err(LogError::Refused(format!("topic {name} needs at least 1 partition, not {count}")));
            }
            let name = spec.name.as_str().into();
            let meta = TopicMeta { name, id, partitions: spec.partitions, retention: spec.retention };
            self.with_store(|store| store.put_topic(&meta))?;
            let spans = vec![Span::default(); usize::try_from(spec.partitions).unwrap_or(0)];
            self.catalog.lock().add(meta, spans);
        }
        Ok(())
    }

    pub(super) fn set_retention(&self, name: &str, retention: Duration) -> Result<(), LogError> {
        let _turn = self.writing.lock();
        let meta = TopicMeta { retention: Some(retention), ..self.catalog.lock().topic(name)?.meta.clone() };
        self.with_store(|store| store.put_topic(&meta))?;
        self.catalog.lock().amend(&meta);
        Ok(())
    }

    /// Committed records of the slot from `from` on; none where there is nothing new.
    pub(super) fn read(&self, slot: Slot, from: i64, records: usize) -> Result<Vec<SourceRecord>, LogError> {
        let span = self.catalog.lock().span(slot);
        let wanted = Span { start: from.max(span.start), end: span.end };
        if wanted.start >= wanted.end || records == 0 {
            return Ok(Vec::new());
        }
        let limit = ReadLimit { records, bytes: self.limits.read_bytes_max };
        self.with_store(|store| store.read(slot, wanted, limit))
    }

    /// Waits until one of the slots has a record at or after its position, `enough` says so, or the deadline.
    pub(super) fn wait(&self, slots: &[(Slot, i64)], deadline: Instant, enough: impl Fn() -> bool) {
        let mut catalog = self.catalog.lock();
        while !enough() && !slots.iter().any(|(slot, from)| catalog.span(*slot).end > *from) {
            if self.grown.wait_until(&mut catalog, deadline).timed_out() {
                return;
            }
        }
    }

    /// Wakes everyone in [`Self::wait`] to ask `enough` again.
    pub(super) fn wake(&self) {
        let _catalog = self.catalog.lock();
        self.grown.notify_all();
    }

    /// Deletes what is past its topic's retention at `now`, a bounded part of it; whether there may be more.
    pub(super) fn retain(&self, now: WallMs) -> Result<bool, LogError> {
        let _turn = self.writing.lock();
        let mut more = false;
        for (slot, span, before) in self.expiring(now) {
            let start = self.with_store(|store| store.trim(slot, span, before, TRIM_RECORDS_MAX))?;
            more |= usize::try_from(start - span.start).is_ok_and(|trimmed| trimmed >= TRIM_RECORDS_MAX);
            if let Some(span) = self.catalog.lock().span_mut(slot) {
                span.start = start;
            }
        }
        Ok(more)
    }

    fn expiring(&self, now: WallMs) -> Vec<(Slot, Span, WallMs)> {
        let catalog = self.catalog.lock();
        let mut slots = Vec::new();
        for topic in catalog.topics() {
            let Some(retention) = topic.meta.retention else { continue };
            let before = WallMs(now.0.saturating_sub(i64::try_from(retention.as_millis()).unwrap_or(i64::MAX)));
            for (partition, span) in (0..).zip(&topic.spans).filter(|(_, span)| span.start < span.end) {
                slots.push((Slot { topic: topic.meta.id, partition: Partition(partition) }, *span, before));
            }
        }
        slots
    }

    /// Closes the store; every later call says so.
    pub(super) fn close(&self) {
        let _turn = self.writing.lock();
        *self.health.write() = Health::Closed;
        self.wake();
    }

    pub(super) fn now(&self) -> WallMs {
        (self.clock)()
    }
}

pub(super) fn closed() -> LogError {
    LogError::ClientDead("the log is closed".to_owned())
}

fn ends(appends: &[Append]) -> BTreeMap<Slot, i64> {
    appends.iter().map(|append| (append.slot, append.offset.0 + 1)).collect()
}

fn admit(catalog: &Catalog, unit: &Unit) -> Result<(), Denied> {
    if let Some((lane, epoch)) = &unit.lane
        && !catalog.holds_lane(lane, *epoch)
    {
        return Err(Denied::Fenced(format!("lane {lane} was taken over by a later publisher")));
    }
    if let Some(commit) = &unit.commit
        && !commit.positions.is_empty()
        && !catalog.is_member(&commit.key, commit.member)
    {
        return Err(Denied::NotMember(format!("no member of group {} any more", commit.key.group)));
    }
    Ok(())
}

/// A store that panics (damaged files can make it) has failed, not its caller.
fn guarded<T>(name: &str, call: impl FnOnce() -> Result<T, LogError>) -> Result<T, LogError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(LogError::Refused(format!("{name} is damaged: its store panicked: {text}")))
    })
}
