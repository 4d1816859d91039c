//! One queue: a group's membership in a topic of one partition, and who waits for its records. Never decides which record may
//! be given, and never gives one while the partition is another's.

use super::{QueuesSpec, Request, Served, Want, answer};
use crate::clock::Clock;
use crate::log::{
    AssignmentListener, Closing, Delivery, Group, GroupSpec, Log, LogError, Outgoing, Producer, PublishError,
    Publisher, Read, Tail,
};
use bulkhead_core::fifo::{Ack, Fifo, Lease, Next};
use bulkhead_core::ids::{Offset, Partition, Position};
use bulkhead_core::record::{Record, SourceRecord};
use futures::executor::block_on;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PARTITION: Partition = Partition(0);
/// How long one look at the membership waits for records while somebody asks.
const POLL: Duration = Duration::from_millis(5);
/// How long the committed position may take to be told.
const POSITION_WAIT: Duration = Duration::from_secs(5);
/// How long the noted leases may take to be read.
const LEASES_WAIT: Duration = Duration::from_secs(10);
/// Leases read at a time.
const LEASES_PER_READ: usize = 1_000;

/// Whose the partition is, as the group says.
#[derive(Default)]
struct Assignment {
    /// Counts assignments; 0 while it is not ours.
    current: u64,
    last: u64,
}

#[derive(Default)]
struct Ours(Mutex<Assignment>);

impl AssignmentListener for Ours {
    fn assigned(&self, partitions: &[Partition]) {
        if partitions.contains(&PARTITION) {
            let mut assignment = self.0.lock();
            assignment.last += 1;
            assignment.current = assignment.last;
        }
    }

    fn revoked(&self, partitions: &[Partition], _: bool) {
        if partitions.contains(&PARTITION) {
            self.0.lock().current = 0;
        }
    }
}

impl Ours {
    fn current(&self) -> u64 {
        self.0.lock().current
    }
}

/// See the module.
pub(super) struct Queue {
    log: Arc<dyn Log>,
    clock: Clock,
    name: String,
    topic: Arc<str>,
    leases: Arc<str>,
    assign_wait: Duration,
    ours: Arc<Ours>,
    group: Arc<dyn Group>,
    group_name: String,
    producer: Arc<dyn Producer>,
    publisher: Option<Box<dyn Publisher>>,
    /// The assignment that `fifo` was begun under.
    begun: u64,
    fifo: Fifo,
    front: Option<SourceRecord>,
    waiting: VecDeque<Request>,
    used: Instant,
    rests: Option<Instant>,
}

impl Queue {
    pub(super) fn join(log: &Arc<dyn Log>, spec: &QueuesSpec, topic: usize, group: &str) -> Result<Self, LogError> {
        let topic = Arc::clone(&spec.topics[topic]);
        let ours = Arc::new(Ours::default());
        let group_name = format!("{}.messages.{topic}.{group}", spec.pipeline);
        let joined = GroupSpec {
            group: group_name.clone(),
            topic: topic.to_string(),
            instance: spec.instance.clone(),
            session_timeout: spec.session_timeout,
        };
        Ok(Self {
            log: Arc::clone(log),
            clock: Clock::real(),
            name: format!("{topic}/{group}"),
            topic,
            leases: spec.leases.name.as_str().into(),
            assign_wait: spec.limits.assign_wait,
            group: log.join(&joined, Arc::clone(&ours) as Arc<dyn AssignmentListener>)?,
            ours,
            group_name,
            producer: log.producer()?,
            publisher: None,
            begun: 0,
            fifo: Fifo::default(),
            front: None,
            waiting: VecDeque::new(),
            used: Instant::now(),
            rests: None,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn accept(&mut self, request: Request) {
        self.used = Instant::now();
        self.waiting.push_back(request);
    }

    pub(super) fn is_asked(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) const fn used(&self) -> Instant {
        self.used
    }

    pub(super) fn is_idle(&self, span: Duration) -> bool {
        self.waiting.is_empty() && self.used.elapsed() >= span
    }

    /// Leaves the log alone for a while.
    pub(super) fn rest(&mut self, span: Duration) {
        self.rests = Some(Instant::now() + span);
    }

    /// Tells everybody who waits that it cannot be served.
    pub(super) fn fail(&mut self, why: &str) {
        self.waiting.drain(..).for_each(|request| answer(request, Served::Failed(why.to_owned())));
    }

    pub(super) fn leave(mut self) {
        self.fail("the daemon is shutting down");
        if let Err(error) = self.group.leave() {
            tracing::info!(queue = self.name, %error, "left without a word; the group finds out by itself");
        }
    }

    /// Looks at the membership, takes the next record, and answers whom it can.
    pub(super) fn turn(&mut self) -> Result<(), LogError> {
        if self.rests.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        self.rests = None;
        let is_wanted = self.begun == self.ours.current() && self.fifo.wants() && self.is_asked();
        let wait = if is_wanted { POLL } else { Duration::ZERO };
        let fetched = match self.group.poll(&|partition| is_wanted && partition == PARTITION, 1, wait) {
            Err(LogError::ClientDead(why)) => {
                tracing::info!(queue = self.name, why, "a queue's client died; it joins again");
                return self.group.rejoin();
            }
            fetched => fetched?,
        };
        let current = self.ours.current();
        if current != self.begun {
            self.begin(current)?;
        } else {
            for record in fetched.into_iter().flat_map(|fetched| fetched.records) {
                if self.fifo.offer(record.offset) {
                    self.front = Some(record);
                }
            }
        }
        self.serve()
    }

    /// The partition has come, gone, or come again: what was known of it counts no more.
    fn begin(&mut self, current: u64) -> Result<(), LogError> {
        self.front = None;
        if current == 0 {
            (self.begun, self.fifo) = (0, Fifo::default());
            return Ok(());
        }
        let committed = self.log.committed(&self.group_name, &self.topic, &[PARTITION], POSITION_WAIT)?;
        let position = committed.first().copied().flatten();
        let extent = self.log.extent(&self.topic, PARTITION)?;
        // What was read between the assignment and now is read again. A position that is past the topic's end is that of a
        // topic which was made anew.
        let from = position.filter(|position| *position <= extent.end);
        self.group.seek(PARTITION, from.unwrap_or(extent.start).max(extent.start))?;
        let lease = self.noted(extent.end)?;
        (self.begun, self.fifo) = (current, Fifo::begin(from, lease));
        Ok(())
    }

    /// The lease that was noted last, by whichever daemon.
    fn noted(&self, end: Position) -> Result<Option<Lease>, LogError> {
        let tail = Tail { topic: Arc::clone(&self.leases), partition: PARTITION, from: None };
        let (mut reader, deadline) = (self.log.reader(&[tail])?, Instant::now() + LEASES_WAIT);
        let mut found = None;
        while Instant::now() < deadline {
            for read in reader.read(LEASES_PER_READ, POLL)? {
                match read {
                    Read::Record { record, .. } if record.record.key.as_deref() == Some(self.group_name.as_bytes()) => {
                        let lease: Option<Lease> = serde_json::from_slice(record.record.payload()).ok();
                        found = lease.filter(|lease| lease.offset.next() <= end).or(found);
                    }
                    Read::Record { .. } => {}
                    Read::CaughtUp { .. } => return Ok(found),
                }
            }
        }
        Err(LogError::Unavailable(format!("the leases in {} were not read in time", self.leases)))
    }

    /// Answers those who wait, in turn, as far as that goes now.
    fn serve(&mut self) -> Result<(), LogError> {
        let mut later = VecDeque::new();
        while let Some(request) = self.waiting.pop_front() {
            // Whoever hung up takes no record with it.
            if request.reply.is_closed() {
                continue;
            }
            if self.begun == 0 {
                if request.asked.elapsed() >= self.assign_wait {
                    answer(request, Served::Elsewhere);
                } else {
                    later.push_back(request);
                }
                continue;
            }
            let served = match &request.want {
                Want::Ack(lease) => Some(self.ack(lease)),
                Want::Next { lease, wait } => match self.next(*lease) {
                    Ok(Served::Empty) if request.asked.elapsed() < *wait => None,
                    served => Some(served),
                },
            };
            match served {
                None => later.push_back(request),
                Some(Ok(served)) => answer(request, served),
                Some(Err(error)) => {
                    answer(request, Served::Failed(error.to_string()));
                    self.waiting.append(&mut later);
                    return Err(error);
                }
            }
        }
        self.waiting = later;
        Ok(())
    }

    fn next(&mut self, lease: Option<Duration>) -> Result<Served, LogError> {
        let lease = lease.map(|span| (format!("{:032x}", rand::random::<u128>()), span));
        match self.fifo.next(self.clock.wall(), lease) {
            Next::Empty => Ok(Served::Empty),
            Next::Leased(left) => Ok(Served::Leased(left)),
            Next::Commit { offset, redelivered } => {
                let Some(record) = self.front.clone() else { return Ok(Served::Empty) };
                self.commit(offset)?;
                Ok(Served::Record { record, redelivered, lease: None })
            }
            Next::Note(lease) => {
                let Some(record) = self.front.clone() else { return Ok(Served::Empty) };
                self.note(&lease)?;
                let (redelivered, id) = (lease.deliveries > 1, lease.id.clone());
                self.fifo.noted(lease);
                Ok(Served::Record { record, redelivered, lease: Some(id) })
            }
        }
    }

    fn ack(&mut self, lease: &str) -> Result<Served, LogError> {
        match self.fifo.ack(lease) {
            Ack::Done => Ok(Served::Acked),
            Ack::Unknown => Ok(Served::UnknownLease),
            Ack::Commit(offset) => self.commit(offset).map(|()| Served::Acked),
        }
    }

    fn note(&self, lease: &Lease) -> Result<(), LogError> {
        let text = serde_json::to_vec(lease).map_err(|why| LogError::Refused(why.to_string()))?;
        let key = Some(self.group_name.clone().into());
        let record = Record { key, value: Some(text.into()), headers: Vec::new(), timestamp: self.clock.wall() };
        let outgoing = Outgoing { topic: Arc::clone(&self.leases), partition: Some(PARTITION), record };
        block_on(self.producer.send(outgoing)).map(drop)
    }

    /// Commits the position after this record. Where the log does not say whether it did, it is asked.
    fn commit(&mut self, offset: Offset) -> Result<(), LogError> {
        match self.try_commit(offset.next()) {
            Ok(()) => {}
            Err(PublishError::Unknown(why)) => {
                self.publisher = None;
                let committed = self.log.committed(&self.group_name, &self.topic, &[PARTITION], POSITION_WAIT)?;
                if committed.first().copied().flatten() != Some(offset.next()) {
                    return Err(LogError::Unavailable(why));
                }
            }
            Err(PublishError::Fatal(why) | PublishError::Refused { reason: why, .. }) => {
                return Err(LogError::Refused(why));
            }
            Err(PublishError::Void(why)) => {
                self.publisher = None;
                return Err(LogError::Unavailable(why));
            }
        }
        self.fifo.committed(offset);
        if self.front.as_ref().is_some_and(|front| front.offset <= offset) {
            self.front = None;
        }
        Ok(())
    }

    fn try_commit(&mut self, position: Position) -> Result<(), PublishError> {
        let publisher = match &mut self.publisher {
            Some(publisher) => publisher,
            none => {
                // Positions alone: nothing to be atomic with.
                let made = self.group.publisher(0, Delivery::AtLeastOnce);
                let mut made = made.map_err(|why| PublishError::Void(why.to_string()))?;
                made.rebuild()?;
                none.insert(made)
            }
        };
        let (ours, begun) = (&self.ours, self.begun);
        publisher.begin()?;
        let closing = Closing { segments: Vec::new(), positions: vec![(PARTITION, position)] };
        publisher.commit_if(&closing, &|| ours.current() == begun)
    }
}
