//! Reads partitions outside of any group, `read_committed`. Never commits and never joins.

use super::Shared;
use super::config::Isolation;
use super::errors::log_error;
use super::events::Events;
use super::wire::Arena;
use crate::log::{LogError, Read, Reader, Tail};
use bulkhead_core::ids::{Partition, Position};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one wait for client events lasts while no tail has records.
const IDLE: Duration = Duration::from_millis(2);
/// A commit is acknowledged before its marks are in every partition. From outside that cannot be told from a
/// transaction that is still open: marks take milliseconds, so what is not settled after this is taken to be open.
const SETTLE: Duration = Duration::from_millis(500);

struct Cursor {
    /// Each tail has a queue of its own: rdkafka's end-of-partition event names the partition, but not the topic.
    queue: PartitionQueue<Events>,
    topic: Arc<str>,
    partition: Partition,
    /// The high watermark when the reader was made.
    end: Position,
    /// Since when everything that is settled has been given, with something unsettled before the end.
    stalled: Option<Instant>,
    caught_up: bool,
}

impl Cursor {
    /// librdkafka came to the last stable offset. Where that is, it only tells by the position, which counts marks,
    /// too.
    fn ended(&mut self, client: &BaseConsumer<Events>) {
        let passed = client.position().ok().and_then(|list| {
            let offset = list.find_partition(&self.topic, self.partition.0)?.offset();
            if let Offset::Offset(at) = offset { Some(Position(at)) } else { None }
        });
        if passed.is_some_and(|at| at >= self.end) {
            self.caught_up = true;
        } else {
            self.stalled = Some(Instant::now());
        }
    }

    fn stalled_for_good(&self) -> bool {
        self.stalled.is_some_and(|since| since.elapsed() >= SETTLE)
    }
}

pub(super) struct KafkaReader {
    shared: Arc<Shared>,
    cursors: Vec<Cursor>,
    client: Option<Arc<BaseConsumer<Events>>>,
    /// What is known but not told yet.
    ready: VecDeque<Read>,
    next: usize,
    arena: Arena,
}

impl KafkaReader {
    pub(super) fn new(shared: Arc<Shared>, tails: &[Tail]) -> Result<Self, LogError> {
        let mut list = TopicPartitionList::with_capacity(tails.len());
        let mut seen = HashSet::new();
        let mut ready = VecDeque::new();
        let mut ends = Vec::with_capacity(tails.len());
        for (index, tail) in tails.iter().enumerate() {
            if !seen.insert((Arc::clone(&tail.topic), tail.partition)) {
                return Err(LogError::Refused(format!("{}/{} is read twice", tail.topic, tail.partition)));
            }
            let extent = shared.extent_of(&tail.topic, tail.partition, Isolation::Uncommitted)?;
            // What was deleted meanwhile cannot be read; what was never written must not be waited for.
            let from = tail.from.unwrap_or(extent.start).max(extent.start);
            if from > extent.end {
                let Tail { topic, partition, .. } = tail;
                return Err(LogError::Refused(format!("{topic}/{partition} ends at {}, not at {from}", extent.end)));
            }
            list.add_partition_offset(&tail.topic, tail.partition.0, Offset::Offset(from.0))
                .map_err(|e| log_error("assign", &e))?;
            if from >= extent.end {
                ready.push_back(Read::CaughtUp { tail: index });
            }
            ends.push((extent.end, from >= extent.end));
        }
        let client = BaseConsumer::from_config_and_context(&shared.config.reader(), shared.events("reader"));
        let client = Arc::new(client.map_err(|e| log_error("create consumer", &e))?);
        let mut cursors = Vec::with_capacity(tails.len());
        for (tail, (end, caught_up)) in tails.iter().zip(ends) {
            let queue = client
                .split_partition_queue(&tail.topic, tail.partition.0)
                .ok_or_else(|| LogError::Refused(format!("no queue for {}/{}", tail.topic, tail.partition)))?;
            cursors.push(Cursor {
                queue,
                topic: Arc::clone(&tail.topic),
                partition: tail.partition,
                end,
                stalled: None,
                caught_up,
            });
        }
        if !tails.is_empty() {
            client.assign(&list).map_err(|e| log_error("assign", &e))?;
        }
        Ok(Self { shared, cursors, client: Some(client), ready, next: 0, arena: Arena::default() })
    }

    /// Takes what one tail has, up to `max` in all.
    fn take(&mut self, tail: usize, reads: &mut Vec<Read>, max: usize) -> Result<(), LogError> {
        let Some(client) = &self.client else { return Ok(()) };
        let cursor = &mut self.cursors[tail];
        let told = cursor.caught_up;
        let mut failed = Ok(());
        while reads.len() + self.arena.len() < max {
            match cursor.queue.poll(Duration::ZERO) {
                Some(Ok(message)) => {
                    cursor.stalled = None;
                    self.arena.push(&message);
                }
                Some(Err(KafkaError::PartitionEOF(_))) => cursor.ended(client),
                Some(Err(error)) => {
                    failed = Err(log_error("read", &error));
                    break;
                }
                None => break,
            }
        }
        for record in self.arena.take() {
            cursor.caught_up |= record.offset.next() >= cursor.end;
            reads.push(Read::Record { tail, record });
        }
        cursor.caught_up |= cursor.stalled_for_good();
        if cursor.caught_up && !told {
            self.ready.push_back(Read::CaughtUp { tail });
        }
        // What was read must be told; the error will come again.
        if reads.is_empty() && self.ready.is_empty() { failed } else { Ok(()) }
    }
}

impl Reader for KafkaReader {
    fn read(&mut self, max: usize, wait: Duration) -> Result<Vec<Read>, LogError> {
        let deadline = Instant::now() + wait;
        let max = max.max(1);
        let mut pause = Duration::ZERO;
        loop {
            let mut reads = Vec::new();
            while reads.len() < max
                && let Some(read) = self.ready.pop_front()
            {
                reads.push(read);
            }
            if let Some(client) = &self.client
                && let Some(Err(error)) = client.poll(pause)
                && reads.is_empty()
            {
                return Err(log_error("read", &error));
            }
            // Each turn begins at another tail, so that a busy one cannot keep the others waiting.
            for step in 0..self.cursors.len() {
                let tail = (self.next + step) % self.cursors.len();
                self.take(tail, &mut reads, max)?;
            }
            self.next = self.next.wrapping_add(1);
            if !reads.is_empty() || !self.ready.is_empty() {
                while reads.len() < max
                    && let Some(read) = self.ready.pop_front()
                {
                    reads.push(read);
                }
                self.shared.connectivity.up();
                return Ok(reads);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(reads);
            }
            pause = IDLE.min(left).max(Duration::from_millis(1));
        }
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        // The queues hold the client.
        self.cursors.clear();
        if let Some(client) = self.client.take() {
            self.shared.disposal.drop_elsewhere("reader", client);
        }
    }
}
