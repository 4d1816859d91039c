//! One client that is a member of a group: its rebalance callbacks and the partition queues it keeps for life.
//! Never pauses a partition and never drops or splits a queue again (`notes/kafka-measured.md` E5, E9).

use super::Shared;
use super::errors::{Class, class, log_error};
use super::events::Events;
use super::wire::{Arena, single};
use crate::log::{AssignmentListener, Fetched, GroupSpec, LogError};
use bulkhead_core::ids::{Partition, Position};
use bulkhead_core::record::SourceRecord;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// How long one wait for events of the membership lasts while no partition has records (E9).
const IDLE: Duration = Duration::from_millis(2);
/// How long a seek waits for a partition that was assigned just now to be started.
const SEEK_WAIT: Duration = Duration::from_secs(2);
const SEEK_POLL: Duration = Duration::from_millis(2);

/// A consumer of ours.
pub(super) type Client = BaseConsumer<Callbacks>;

/// One partition, from its first assignment to this client on.
struct Split {
    /// `None` where librdkafka would not split it: its records then come by the main queue.
    queue: Option<PartitionQueue<Callbacks>>,
    assigned: bool,
    /// Records that surfaced on the main queue; they come before what the partition's own queue holds.
    strays: VecDeque<SourceRecord>,
}

/// The kept queues.
#[derive(Default)]
struct Registry {
    splits: Mutex<BTreeMap<Partition, Split>>,
}

/// What librdkafka calls on the polling thread.
pub(super) struct Callbacks {
    shared: Arc<Shared>,
    events: Events,
    topic: String,
    listener: Arc<dyn AssignmentListener>,
    registry: Registry,
    client: OnceLock<Weak<Client>>,
    /// Set before another client takes over: its listener hears no more of this one.
    retired: AtomicBool,
}

/// A member.
pub(super) struct Member {
    client: Arc<Client>,
    dead: OnceLock<String>,
    arena: Mutex<Arena>,
}

impl Member {
    /// Creates the client and joins the group.
    pub(super) fn join(
        shared: &Arc<Shared>,
        spec: &GroupSpec,
        listener: Arc<dyn AssignmentListener>,
    ) -> Result<Self, LogError> {
        let callbacks = Callbacks {
            shared: Arc::clone(shared),
            events: shared.events(&format!("group {}", spec.group)),
            topic: spec.topic.clone(),
            listener,
            registry: Registry::default(),
            client: OnceLock::new(),
            retired: AtomicBool::new(false),
        };
        let client = BaseConsumer::from_config_and_context(&shared.config.member(spec), callbacks)
            .map_err(|e| log_error("create consumer", &e))?;
        let client = Arc::new(client);
        client.context().client.set(Arc::downgrade(&client)).expect("set once, right after the client was made");
        client.subscribe(&[&spec.topic]).map_err(|e| log_error("subscribe", &e))?;
        Ok(Self { client, dead: OnceLock::new(), arena: Mutex::default() })
    }

    /// The client, for group metadata and positions.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Serves the membership and takes records; waits at most `wait` when there are none.
    pub(super) fn poll(
        &self,
        wanted: &dyn Fn(Partition) -> bool,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Fetched>, LogError> {
        let deadline = Instant::now() + wait;
        let mut pause = Duration::ZERO;
        self.callbacks().shared.serve_idle();
        loop {
            self.serve(pause)?;
            let fetched = self.take(wanted, max)?;
            if !fetched.is_empty() {
                self.callbacks().events.connectivity().up();
                return Ok(fetched);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(fetched);
            }
            // rdkafka counts in whole milliseconds and spins through the rest.
            pause = IDLE.min(left).max(Duration::from_millis(1));
        }
    }

    /// Serves the main queue: rebalances, errors, log lines, and any record that surfaces there.
    fn serve(&self, wait: Duration) -> Result<(), LogError> {
        if let Some(why) = self.dead.get() {
            return Err(LogError::ClientDead(why.clone()));
        }
        match self.client.poll(wait) {
            None => Ok(()),
            Some(Ok(message)) => {
                let partition = Partition(rdkafka::Message::partition(&message));
                let mut splits = self.callbacks().registry.splits.lock();
                if let Some(split) = splits.get_mut(&partition).filter(|s| s.assigned) {
                    self.callbacks().shared.counters.strays.fetch_add(1, Ordering::Relaxed);
                    split.strays.push_back(single(&message));
                }
                Ok(())
            }
            Some(Err(error)) => self.fault(&error),
        }
    }

    /// Takes up to `max` records from each wanted partition.
    fn take(&self, wanted: &dyn Fn(Partition) -> bool, max: usize) -> Result<Vec<Fetched>, LogError> {
        let mut fetched = Vec::new();
        let mut arena = self.arena.lock();
        let mut failed = Ok(());
        let mut splits = self.callbacks().registry.splits.lock();
        for (partition, split) in splits.iter_mut() {
            if !split.assigned || !wanted(*partition) {
                continue;
            }
            if let Err(error) = split.take(max, &mut arena) {
                failed = self.fault(&error);
            }
            if arena.len() > 0 {
                fetched.push(Fetched { partition: *partition, records: arena.take() });
            }
        }
        let unreadable = arena.take_unreadable();
        if unreadable > 0 {
            tracing::warn!(headers = unreadable, "headers whose names are not UTF-8 were left out");
            self.callbacks().shared.counters.unreadable_headers.fetch_add(unreadable, Ordering::Relaxed);
        }
        // What was taken must be told; the error will come again.
        if fetched.is_empty() { failed.map(|()| fetched) } else { Ok(fetched) }
    }

    /// What an error event means for the caller.
    fn fault(&self, error: &KafkaError) -> Result<(), LogError> {
        let fatal = self.client.client().fatal_error();
        if let Some((code, reason)) = fatal {
            let why = format!("{code}: {reason}");
            return Err(LogError::ClientDead(self.dead.get_or_init(|| why).clone()));
        }
        match error.rdkafka_error_code() {
            // We polled too late; librdkafka rejoins by itself, and the callbacks tell.
            Some(code @ (Code::PollExceeded | Code::AssignmentLost)) => {
                tracing::warn!(%code, "kafka membership lapsed");
                Ok(())
            }
            Some(code) if class(code) == Class::Moved => {
                tracing::info!(%code, "kafka membership moved on");
                Ok(())
            }
            _ => Err(log_error("consume", error)),
        }
    }

    /// Reads the partition again from `position`.
    pub(super) fn seek(&self, partition: Partition, position: Position) -> Result<(), LogError> {
        let callbacks = self.callbacks();
        let doing = format!("seek {}/{partition} to {position}", callbacks.topic);
        let deadline = Instant::now() + SEEK_WAIT;
        loop {
            // Held throughout: a turn of polling that ran now could take records of before.
            let mut splits = callbacks.registry.splits.lock();
            let split = splits
                .get_mut(&partition)
                .filter(|s| s.assigned)
                .ok_or_else(|| LogError::Unavailable(format!("{doing}: not assigned")))?;
            match self.try_seek(&callbacks.topic, partition, position) {
                Ok(()) => {
                    split.strays.clear();
                    return Ok(());
                }
                // Assigned, but its first position is still being asked for.
                Err(error) if error.rdkafka_error_code().map(class) == Some(Class::Passing) => {
                    drop(splits);
                    if Instant::now() >= deadline {
                        return Err(log_error(&doing, &error));
                    }
                    thread::sleep(SEEK_POLL);
                }
                Err(error) => return Err(log_error(&doing, &error)),
            }
        }
    }

    fn try_seek(&self, topic: &str, partition: Partition, position: Position) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(topic, partition.0, Offset::Offset(position.0))?;
        let answer = self.client.seek_partitions(list, SEEK_WAIT)?;
        answer.find_partition(topic, partition.0).map_or(Ok(()), |element| element.error())
    }

    /// Leaves the group: partitions are revoked from within, then the member is gone. Gives up after `wait`.
    pub(super) fn leave(&self, wait: Duration) -> Result<(), LogError> {
        let deadline = Instant::now() + wait;
        self.client.close_queue().map_err(|e| log_error("leave group", &e))?;
        while !self.client.closed() {
            if Instant::now() >= deadline {
                return Err(LogError::Unavailable("leave group: not closed in time".into()));
            }
            if let Some(Err(error)) = self.client.poll(Duration::from_millis(10)) {
                tracing::debug!(%error, "kafka consumer while it leaves");
            }
        }
        Ok(())
    }

    /// Takes the client out of use: its partitions are told as lost, its queues go, and it is dropped elsewhere.
    pub(super) fn retire(self) {
        self.callbacks().lose_all();
        self.abandon();
    }

    /// The same, but nobody is told.
    pub(super) fn abandon(self) {
        let callbacks = Arc::clone(self.client.context());
        callbacks.retired.store(true, Ordering::Release);
        // They hold the client; it cannot go before they do.
        callbacks.registry.splits.lock().clear();
        let disposal = Arc::clone(&callbacks.shared.disposal);
        disposal.drop_elsewhere("consumer", self.client);
    }

    fn callbacks(&self) -> &Callbacks {
        self.client.context()
    }
}

impl Split {
    fn take(&mut self, max: usize, arena: &mut Arena) -> Result<(), KafkaError> {
        while arena.len() < max
            && let Some(record) = self.strays.pop_front()
        {
            arena.push_record(record);
        }
        let Some(queue) = &self.queue else { return Ok(()) };
        while arena.len() < max {
            match queue.poll(Duration::ZERO) {
                Some(Ok(message)) => arena.push(&message),
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        Ok(())
    }
}

impl Callbacks {
    /// Splits the queues of partitions that this client never had.
    fn split(&self, partitions: &[Partition]) {
        let Some(client) = self.client.get().and_then(Weak::upgrade) else { return };
        let mut splits = self.registry.splits.lock();
        for partition in partitions {
            splits.entry(*partition).or_insert_with(|| Split {
                queue: client.split_partition_queue(&self.topic, partition.0),
                assigned: false,
                strays: VecDeque::new(),
            });
        }
    }

    fn assign(&self, client: &Client, partitions: &[Partition]) {
        // rdkafka ignores whether librdkafka took the assignment; without it nothing would ever come, silently.
        if let Ok(taken) = client.assignment() {
            for partition in partitions {
                if taken.find_partition(&self.topic, partition.0).is_none() {
                    tracing::error!(topic = self.topic, %partition, "kafka did not take an assignment");
                    self.shared.counters.failed_assigns.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        {
            let mut splits = self.registry.splits.lock();
            for partition in partitions {
                if let Some(split) = splits.get_mut(partition) {
                    split.strays.clear();
                    split.assigned = true;
                }
            }
        }
        self.tell(|listener| listener.assigned(partitions));
    }

    fn revoke(&self, partitions: &[Partition], lost: bool) {
        // Guarded by itself: a partition that is gone must not be told, or read, again.
        self.guarded(|| self.tell(|listener| listener.revoked(partitions, lost)));
        let mut splits = self.registry.splits.lock();
        for partition in partitions {
            if let Some(split) = splits.get_mut(partition) {
                split.assigned = false;
                split.strays.clear();
            }
        }
    }

    /// Tells what the client still held as lost.
    fn lose_all(&self) {
        let held: Vec<Partition> =
            self.registry.splits.lock().iter().filter(|(_, s)| s.assigned).map(|(p, _)| *p).collect();
        if !held.is_empty() {
            self.revoke(&held, true);
        }
    }

    fn tell(&self, what: impl FnOnce(&dyn AssignmentListener)) {
        if !self.retired.load(Ordering::Acquire) {
            what(&*self.listener);
        }
    }

    /// Runs a callback's body. A panic must not reach rdkafka: it would skip the assignment, for good and in silence.
    fn guarded(&self, body: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            self.shared.counters.callback_panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!(topic = self.topic, "a rebalance callback panicked; the rebalance goes on");
        }
    }

    fn partitions(&self, list: &TopicPartitionList) -> Vec<Partition> {
        list.elements_for_topic(&self.topic).iter().map(|element| Partition(element.partition())).collect()
    }
}

impl ClientContext for Callbacks {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        self.events.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.events.error(error, reason);
    }
}

impl ConsumerContext for Callbacks {
    fn pre_rebalance(&self, client: &Client, rebalance: &Rebalance<'_>) {
        self.guarded(|| match rebalance {
            Rebalance::Assign(list) => self.split(&self.partitions(list)),
            Rebalance::Revoke(list) => {
                let partitions = self.partitions(list);
                if !partitions.is_empty() {
                    self.revoke(&partitions, client.assignment_lost());
                }
            }
            Rebalance::Error(error) => tracing::warn!(%error, topic = self.topic, "kafka rebalance"),
        });
    }

    fn post_rebalance(&self, client: &Client, rebalance: &Rebalance<'_>) {
        self.guarded(|| {
            if let Rebalance::Assign(list) = rebalance {
                let partitions = self.partitions(list);
                if !partitions.is_empty() {
                    self.assign(client, &partitions);
                }
            }
        });
    }
}
