//! The feed actor: reads the topics that tell sessions their news, keeps the latest of it, and hands each session its own.
//! Never holds the log up for a session that does not listen: one whose channel is full is cut, and comes again.
//!
//! What is kept and how far the reading has come lie in a [`Feed`] that outlives incarnations: a new one reads on.

use crate::log::{Log, LogError, Read, Reader, Tail};
use crate::shell::{Exit, Lifeline, Signal};
use bulkhead_core::feed::{Gap, Kept, Mark, Window, WindowLimits};
use bulkhead_core::ids::{Partition, Position};
use bulkhead_core::ledger::fingerprint;
use bulkhead_core::record::{ID_HEADER, SourceRecord};
use bytes::Bytes;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::sync::mpsc;

/// Records taken from the log in one turn.
const RECORDS_PER_TURN: usize = 1_000;
/// How long a turn waits for records, and so how long a drain may go unnoticed.
const TURN: Duration = Duration::from_millis(50);
/// How long the actor waits before it asks again for a log that failed it.
const RETRY: Duration = Duration::from_secs(1);

/// A topic of one partition that a feed reads. A record is the session's whose name is its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedTopic {
    /// The topic.
    pub topic: Arc<str>,
    /// Whether what was missed can be told; hints cannot.
    pub is_kept: bool,
}

/// What bounds a feed.
#[derive(Clone, Copy, Debug)]
pub struct FeedLimits {
    /// What is kept of each topic.
    pub window: WindowLimits,
    /// News that wait for one listener at most.
    pub waiting_max: usize,
}

/// How far a listener has come, in each topic that is kept.
pub type Marks = Vec<Mark>;

/// Something new for a session.
#[derive(Clone, Debug)]
pub struct News {
    /// Which of the feed's topics it comes from.
    pub topic: usize,
    /// The record.
    pub record: Arc<SourceRecord>,
    /// How far its listener has come with it; `None` for hints.
    pub marks: Option<Marks>,
}

/// A session's ear. Closed by the feed where it does not keep up.
pub struct Listener {
    /// What it missed, the oldest first in each topic.
    pub missed: Vec<News>,
    /// Whether that is all it missed; false for one that was never here, too.
    pub is_whole: bool,
    /// How far it has come before it is told what it missed.
    pub marks: Marks,
    /// What comes from now on.
    pub news: mpsc::Receiver<News>,
}

/// Why nobody can listen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the feed is not ready: {0}")]
pub struct NotReady(String);

struct State {
    windows: Vec<Option<Window>>,
    reached: Vec<Option<Position>>,
    ears: HashMap<Bytes, Vec<mpsc::Sender<News>>>,
    caught_up: Result<(), String>,
}

/// See the module.
pub struct Feed {
    topics: Vec<FeedTopic>,
    limits: FeedLimits,
    cut: Counter,
    state: Mutex<State>,
}

impl Feed {
    /// A feed of these topics that nobody has read yet. `cut` counts listeners that did not keep up.
    #[must_use]
    pub fn new(topics: Vec<FeedTopic>, limits: FeedLimits, cut: Counter) -> Self {
        let state = State {
            windows: topics.iter().map(|_| None).collect(),
            reached: vec![None; topics.len()],
            ears: HashMap::new(),
            caught_up: Err("not started".to_owned()),
        };
        Self { topics, limits, cut, state: Mutex::new(state) }
    }

    /// Listens to a session's news: from these marks on, where it has been here before.
    ///
    /// # Errors
    /// Not everything that is in the topics has been read yet.
    pub fn listen(&self, session: &Bytes, since: Option<&Marks>) -> Result<Listener, NotReady> {
        let mut state = self.state.lock();
        state.caught_up.clone().map_err(NotReady)?;
        let mut marks = self.heads(&state);
        let (mut kept, mut is_whole) = (Vec::new(), since.is_some_and(|since| since.len() == marks.len()));
        for (at, (topic, mark)) in self.kept().zip(since.into_iter().flatten()).enumerate() {
            match state.windows[topic].as_ref().map_or(Err(Gap), |window| window.since(session, *mark)) {
                Ok(records) if records.is_empty() => {}
                Ok(records) => {
                    // It has not come further than this before it is told them.
                    marks[at] = *mark;
                    kept.push((at, topic, records));
                }
                Err(Gap) => is_whole = false,
            }
        }
        let (mut missed, mut reached) = (Vec::new(), marks.clone());
        for (at, topic, records) in kept {
            for Kept { mark, record } in records {
                reached[at] = mark;
                missed.push(News { topic, record, marks: Some(reached.clone()) });
            }
        }
        let (ear, news) = mpsc::channel(self.limits.waiting_max.max(1));
        // Those whose sockets have gone make room; there are no more of them than sockets.
        state.ears.retain(|_, ears| {
            ears.retain(|ear| !ear.is_closed());
            !ears.is_empty()
        });
        state.ears.entry(session.clone()).or_default().push(ear);
        Ok(Listener { missed, is_whole, marks, news })
    }

    /// Whether everything that was in the topics when the actor last started reading has been read.
    ///
    /// # Errors
    /// Why it has not, for readiness.
    pub fn caught_up(&self) -> Result<(), String> {
        self.state.lock().caught_up.clone()
    }

    /// The topics that are kept, by their numbers.
    fn kept(&self) -> impl Iterator<Item = usize> + '_ {
        self.topics.iter().enumerate().filter(|(_, topic)| topic.is_kept).map(|(at, _)| at)
    }

    fn heads(&self, state: &State) -> Marks {
        self.kept().filter_map(|topic| Some(state.windows[topic].as_ref()?.head())).collect()
    }

    fn take(&self, topic: usize, record: SourceRecord) {
        let mut state = self.state.lock();
        state.reached[topic] = Some(record.offset.next());
        let digest = digest(&record);
        let record = match &mut state.windows[topic] {
            Some(window) => window.push(record, digest).record,
            None => Arc::new(record),
        };
        let marks = self.topics[topic].is_kept.then(|| self.heads(&state));
        let Some(key) = record.record.key.clone() else { return };
        let Some(listening) = state.ears.get_mut(&key) else { return };
        let news = News { topic, record, marks };
        listening.retain(|ear| match ear.try_send(news.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.cut.inc();
                false
            }
        });
        if listening.is_empty() {
            state.ears.remove(&key);
        }
    }
}

/// What tells a record from another one at its offset, though the topic was made anew. Says nothing of what is in it.
fn digest(record: &SourceRecord) -> u64 {
    let id = record.record.header(ID_HEADER).map_or(&b""[..], |id| id);
    fingerprint(&[id, &record.record.timestamp.0.to_be_bytes()].concat())
}

/// The body of the feed actor: reads until it is told to end. A log that fails it is asked again, as long as it takes.
pub fn run(lifeline: &Lifeline, log: &Arc<dyn Log>, feed: &Feed) -> Exit {
    let this = thread::current();
    lifeline.on_signal(move || this.unpark());
    let mut reader: Option<(Box<dyn Reader>, Vec<bool>)> = None;
    loop {
        match lifeline.signal() {
            Signal::Run => lifeline.beat(),
            // It holds nothing that is not in the feed.
            Signal::Drain => return Exit::Done,
            Signal::Kill => return Exit::Killed,
        }
        let turned = match reader.take() {
            None => start(&**log, feed).map(|reader| (reader, vec![true; feed.topics.len()])),
            Some((mut reader, mut behind)) => turn(feed, &mut *reader, &mut behind).map(|()| (reader, behind)),
        };
        match turned {
            Ok(next) => reader = Some(next),
            Err(LogError::ClientDead(reason)) => {
                tracing::warn!(%reason, "a feed's reader died; a new one reads on");
                feed.state.lock().caught_up = Err(reason);
            }
            Err(error) => {
                tracing::info!(%error, "a feed cannot be read yet; tried again");
                feed.state.lock().caught_up = Err(error.to_string());
                thread::park_timeout(RETRY);
            }
        }
    }
}

/// A reader from where the last one stopped; hints are read from their end, all else from its start.
fn start(log: &dyn Log, feed: &Feed) -> Result<Box<dyn Reader>, LogError> {
    let mut tails = Vec::with_capacity(feed.topics.len());
    for (at, FeedTopic { topic, is_kept }) in feed.topics.iter().enumerate() {
        let extent = log.extent(topic, Partition(0))?;
        let reached = feed.state.lock().reached[at];
        // A topic that was made anew ends before what was read of the old one.
        let reached = reached.filter(|reached| *reached <= extent.end);
        let from = reached.unwrap_or(if *is_kept { extent.start } else { extent.end });
        let mut state = feed.state.lock();
        if *is_kept && (reached.is_none() || state.windows[at].is_none()) {
            state.windows[at] = Some(Window::new(feed.limits.window, from));
        }
        tails.push(Tail { topic: Arc::clone(topic), partition: Partition(0), from: Some(from) });
    }
    log.reader(&tails)
}

fn turn(feed: &Feed, reader: &mut dyn Reader, behind: &mut [bool]) -> Result<(), LogError> {
    for read in reader.read(RECORDS_PER_TURN, TURN)? {
        match read {
            Read::Record { tail, record } => feed.take(tail, record),
            Read::CaughtUp { tail } => behind[tail] = false,
        }
    }
    let left = behind.iter().filter(|behind| **behind).count();
    feed.state.lock().caught_up = if left == 0 { Ok(()) } else { Err(format!("{left} topics are still being read")) };
    Ok(())
}
