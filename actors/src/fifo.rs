//! The queue actor: serves topics of one partition as queues, the next record to whoever asks, once a group. Never gives a
//! record before its position is committed, or its lease noted, in the log; which record that may be, core's [`Fifo`] decides.
//!
//! A queue is a group's membership of its own: the daemon that its partition is assigned to serves it, others say so. One
//! thread serves all queues, and keeps their memberships alive while nobody asks.

mod queue;

use crate::log::{Log, TopicSpec};
use crate::shell::{Exit, Lifeline, Signal};
use bulkhead_core::record::SourceRecord;
use parking_lot::Mutex;
use queue::Queue;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long the thread rests while nobody asks, and while somebody waits for a record to come.
const REST: Duration = Duration::from_millis(50);
const REST_ASKED: Duration = Duration::from_millis(2);
/// How long it waits before it asks again for a log that failed it.
const RETRY: Duration = Duration::from_secs(1);

/// What queues are made of.
#[derive(Clone, Debug)]
pub struct QueuesSpec {
    /// The pipeline that they belong to: a part of their groups' names.
    pub pipeline: Arc<str>,
    /// The topics that are served.
    pub topics: Vec<Arc<str>>,
    /// Where leases are noted; made where it does not exist.
    pub leases: TopicSpec,
    /// This daemon's name among the others.
    pub instance: String,
    /// How long a silent daemon stays in a group.
    pub session_timeout: Duration,
    /// Bounds.
    pub limits: QueueLimits,
}

/// What bounds queues.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Queues (of one topic and one group each) at a time; at the limit the one that was idle for longest makes room.
    pub queues_max: usize,
    /// How long nobody asked of a queue that makes room.
    pub idle: Duration,
    /// Requests that wait at a time.
    pub waiting_max: usize,
    /// How long a request waits for the group to give this daemon the partition.
    pub assign_wait: Duration,
}

/// What somebody wants of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// The next record.
    Next {
        /// `None`: it is done with once it is given; else it is to be acknowledged within this time.
        lease: Option<Duration>,
        /// How long to wait for one to come.
        wait: Duration,
    },
    /// That this lease's record is done.
    Ack(String),
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum Served {
    /// The next record.
    Record {
        /// The record.
        record: SourceRecord,
        /// Whether somebody was given it before.
        redelivered: bool,
        /// The lease to acknowledge, where one was asked for.
        lease: Option<String>,
    },
    /// None came in time.
    Empty,
    /// Somebody has the next one, for so long at most.
    Leased(Duration),
    /// It is done, or was before.
    Acked,
    /// There is no such lease any more.
    UnknownLease,
    /// Another daemon serves this queue, or none does yet.
    Elsewhere,
    /// Too much is going on: so many queues, or so many requests.
    Busy(&'static str),
    /// The log does not let it be served now; why.
    Failed(String),
}

impl Served {
    /// Its name, for counting.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Record { redelivered: false, .. } => "record",
            Self::Record { redelivered: true, .. } => "record_again",
            Self::Empty => "empty",
            Self::Leased(_) => "leased",
            Self::Acked => "acked",
            Self::UnknownLease => "unknown_lease",
            Self::Elsewhere => "elsewhere",
            Self::Busy(_) => "busy",
            Self::Failed(_) => "failed",
        }
    }
}

/// Somebody who waits.
struct Request {
    want: Want,
    asked: Instant,
    reply: oneshot::Sender<Served>,
}

/// A queue's name: its topic, by number, and its group.
type Name = (usize, String);

#[derive(Default)]
struct Inbox {
    requests: VecDeque<(Name, Request)>,
    thread: Option<Thread>,
    /// Requests that are not answered yet.
    waiting: usize,
}

/// Where queues are asked; outlives incarnations of their actor.
pub struct Queues {
    spec: QueuesSpec,
    inbox: Mutex<Inbox>,
}

impl Queues {
    /// Queues that nobody serves yet.
    #[must_use]
    pub fn new(spec: QueuesSpec) -> Self {
        Self { spec, inbox: Mutex::default() }
    }

    /// The topics that are served.
    #[must_use]
    pub fn topics(&self) -> &[Arc<str>] {
        &self.spec.topics
    }

    /// Asks a queue of one of the topics, by its number. Bounded by what is wanted, and by the log's own timeouts.
    pub async fn ask(&self, topic: usize, group: &str, want: Want) -> Served {
        let (reply, told) = oneshot::channel();
        {
            let mut inbox = self.inbox.lock();
            if inbox.waiting >= self.spec.limits.waiting_max {
                return Served::Busy("too many requests wait for messages");
            }
            inbox.waiting += 1;
            inbox.requests.push_back(((topic, group.to_owned()), Request { want, asked: Instant::now(), reply }));
            if let Some(thread) = &inbox.thread {
                thread.unpark();
            }
        }
        let _waiting = Waiting(self);
        told.await.unwrap_or_else(|_| Served::Failed("the queue's actor was restarted".to_owned()))
    }
}

/// One request less that waits, however it ended.
struct Waiting<'a>(&'a Queues);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.inbox.lock().waiting -= 1;
    }
}

/// The body of the queues' actor.
pub fn run(lifeline: &Lifeline, log: &Arc<dyn Log>, queues: &Queues) -> Exit {
    let this = thread::current();
    lifeline.on_signal({
        let this = this.clone();
        move || this.unpark()
    });
    queues.inbox.lock().thread = Some(this);
    let mut serving = Serving { log, spec: &queues.spec, queues: BTreeMap::new(), has_leases: false };
    loop {
        match lifeline.signal() {
            Signal::Run => lifeline.beat(),
            Signal::Drain => {
                serving.leave();
                return Exit::Done;
            }
            Signal::Kill => return Exit::Killed,
        }
        let requests = std::mem::take(&mut queues.inbox.lock().requests);
        for (name, request) in requests {
            serving.accept(name, request);
        }
        thread::park_timeout(serving.turn());
    }
}

/// One incarnation's queues.
struct Serving<'a> {
    log: &'a Arc<dyn Log>,
    spec: &'a QueuesSpec,
    queues: BTreeMap<Name, Queue>,
    has_leases: bool,
}

impl Serving<'_> {
    fn accept(&mut self, name: Name, request: Request) {
        if !self.queues.contains_key(&name) {
            if let Err(why) = self.make_room() {
                return answer(request, Served::Busy(why));
            }
            match self.join(&name) {
                Ok(queue) => drop(self.queues.insert(name.clone(), queue)),
                Err(why) => return answer(request, Served::Failed(why.to_string())),
            }
        }
        if let Some(queue) = self.queues.get_mut(&name) {
            queue.accept(request);
        }
    }

    fn make_room(&mut self) -> Result<(), &'static str> {
        if self.queues.len() < self.spec.limits.queues_max {
            return Ok(());
        }
        let idle = self.queues.iter().filter(|(_, queue)| queue.is_idle(self.spec.limits.idle));
        let Some(name) = idle.min_by_key(|(_, queue)| queue.used()).map(|(name, _)| name.clone()) else {
            return Err("too many groups read messages");
        };
        if let Some(queue) = self.queues.remove(&name) {
            queue.leave();
        }
        Ok(())
    }

    fn join(&mut self, (topic, group): &Name) -> Result<Queue, crate::log::LogError> {
        if !self.has_leases {
            self.log.create_topics(std::slice::from_ref(&self.spec.leases))?;
            self.has_leases = true;
        }
        Queue::join(self.log, self.spec, *topic, group)
    }

    /// Serves each queue once; how long to rest.
    fn turn(&mut self) -> Duration {
        let mut rest = REST;
        for queue in self.queues.values_mut() {
            if let Err(error) = queue.turn() {
                tracing::info!(queue = queue.name(), %error, "a queue cannot be served now");
                queue.fail(&error.to_string());
                queue.rest(RETRY);
            }
            if queue.is_asked() {
                rest = REST_ASKED;
            }
        }
        rest
    }

    /// Members leave their groups, so that others take over at once.
    fn leave(self) {
        for queue in self.queues.into_values() {
            queue.leave();
        }
    }
}

/// Answers; who does not wait any more is not told.
fn answer(request: Request, served: Served) {
    drop(request.reply.send(served));
}
