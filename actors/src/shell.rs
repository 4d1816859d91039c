//! What a shell is made of: the body that runs on a thread or as a task, and the lifeline between it and its
//! supervisor. Records never travel here.

use crate::clock::Clock;
use crate::supervisor::tombstone::{Census, Tombstone};
use bulkhead_core::ids::Incarnation;
pub use bulkhead_core::supervisor::{Beat, Charge, Exit, Signal};
use futures::future::LocalBoxFuture;
use parking_lot::Mutex;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use tokio::sync::watch;

/// What runs on a thread of its own, and may block there.
pub type ThreadBody = Box<dyn FnOnce(Lifeline) -> Exit + Send>;
/// What runs as a task on its supervisor's thread, and must never block.
pub type TaskBody = Box<dyn FnOnce(Lifeline) -> LocalBoxFuture<'static, Exit> + Send>;

/// What one incarnation runs. A panic in it is an exit like any other.
pub enum Body {
    /// On a named thread. A kill is a request: a thread that ignores it is abandoned.
    Thread(ThreadBody),
    /// As a task. A kill drops it.
    Task(TaskBody),
}

impl Body {
    /// A body on a thread.
    pub fn thread(run: impl FnOnce(Lifeline) -> Exit + Send + 'static) -> Self {
        Self::Thread(Box::new(run))
    }

    /// A body that is a task.
    pub fn task<F>(run: impl FnOnce(Lifeline) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Exit> + 'static,
    {
        Self::Task(Box::new(move |lifeline| Box::pin(run(lifeline))))
    }
}

/// A fault that an incarnation is made to have, on its own thread or task, where it next looks at its lifeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fall {
    /// It panics.
    Panic,
    /// It says nothing more and heeds no signal, until it has been replaced. For bodies on threads.
    Hang,
}

/// What an incarnation was told last.
#[derive(Clone, Copy, Debug, Default)]
struct Word {
    signal: Signal,
    fall: Option<Fall>,
    /// The supervisor no longer counts on it.
    over: bool,
}

type Hook = Arc<dyn Fn() + Send + Sync>;

struct Inner {
    incarnation: Incarnation,
    clock: Clock,
    word: watch::Sender<Word>,
    beats: AtomicU64,
    idle: AtomicBool,
    /// What is called when the signal rises to this or past it.
    hooks: Mutex<Vec<(Signal, Hook)>>,
    /// The lifelines of a supervisor's children.
    below: Mutex<Vec<Weak<Self>>>,
    census: Arc<Census>,
    /// Whether a thread runs on it, for the count of abandoned ones.
    on_thread: Mutex<bool>,
    tomb: OnceLock<Weak<Tombstone>>,
}

/// The line between one incarnation and its supervisor: signals go down, signs of life go up.
#[derive(Clone)]
pub struct Lifeline(Arc<Inner>);

impl Lifeline {
    pub(crate) fn new(incarnation: Incarnation, clock: Clock, census: Arc<Census>) -> Self {
        Self(Arc::new(Inner {
            incarnation,
            clock,
            word: watch::Sender::new(Word::default()),
            beats: AtomicU64::new(0),
            idle: AtomicBool::new(false),
            hooks: Mutex::new(Vec::new()),
            below: Mutex::new(Vec::new()),
            census,
            on_thread: Mutex::new(false),
            tomb: OnceLock::new(),
        }))
    }

    /// A lifeline that nobody supervises, for a body that is run by hand, in a test say.
    #[must_use]
    pub fn detached(clock: Clock) -> Self {
        Self::new(Incarnation::FIRST, clock, Arc::default())
    }

    /// The lifeline of a child: it is cut with this one.
    pub(crate) fn child(&self, incarnation: Incarnation) -> Self {
        let child = Self::new(incarnation, self.0.clock.clone(), Arc::clone(&self.0.census));
        let mut below = self.0.below.lock();
        below.retain(|line| line.strong_count() > 0);
        below.push(Arc::downgrade(&child.0));
        drop(below);
        if !self.current() {
            child.cut();
        }
        child
    }

    /// Which incarnation this is.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.0.incarnation
    }

    /// The clock to give machines their `now` from.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// What the incarnation was told last.
    #[must_use]
    pub fn signal(&self) -> Signal {
        let Word { signal, fall, .. } = *self.0.word.borrow();
        fall.map_or(signal, |fall| self.falls(fall))
    }

    /// The same for others than the incarnation itself.
    pub(crate) fn told(&self) -> Signal {
        self.0.word.borrow().signal
    }

    /// Whether a fault was ordered: whoever holds a lock lets go of it before it looks at the signal.
    pub(crate) fn is_to_fall(&self) -> bool {
        self.0.word.borrow().fall.is_some()
    }

    /// Has the fault that was ordered; a hung body goes on once nobody counts on it.
    fn falls(&self, fall: Fall) -> Signal {
        assert!(fall != Fall::Panic, "ordered to panic");
        let this = std::thread::current();
        self.0.hooks.lock().push((Signal::Drain, Arc::new(move || this.unpark())));
        self.beat();
        while self.current() {
            std::thread::park();
        }
        Signal::Kill
    }

    /// Orders a fault.
    pub(crate) fn order(&self, fall: Fall) {
        self.0.word.send_modify(|word| word.fall = Some(fall));
        self.wake(Signal::Drain);
    }

    /// Whether the supervisor still counts on this incarnation. Once it does not, late answers must be dropped.
    #[must_use]
    pub fn current(&self) -> bool {
        !self.0.word.borrow().over
    }

    /// Gives a sign of life. Due at least once in the child's heartbeat limit, unless [`idle`](Self::idle).
    pub fn beat(&self) {
        self.0.idle.store(false, Ordering::Release);
        self.0.beats.fetch_add(1, Ordering::AcqRel);
    }

    /// No sign of life is expected until the next [`beat`](Self::beat): the body waits for input.
    pub fn idle(&self) {
        self.0.idle.store(true, Ordering::Release);
    }

    /// Calls `wake` whenever the signal rises, and at once if it already has; to wake a condition variable, say.
    /// It runs on another thread and must not block.
    pub fn on_signal(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.hook(Signal::Drain, Arc::new(wake));
    }

    /// As [`on_signal`](Self::on_signal), for a kill alone: to break off a call that would finish what it holds.
    pub fn on_kill(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.hook(Signal::Kill, Arc::new(wake));
    }

    fn hook(&self, from: Signal, wake: Hook) {
        self.0.hooks.lock().push((from, Arc::clone(&wake)));
        if self.told() >= from {
            call(&wake);
        }
    }

    /// Waits until the incarnation is told anything but `Run`; answers at once if it already was.
    pub async fn changed(&self) -> Signal {
        self.raised(Signal::Run).await
    }

    /// Waits until the signal is above `seen`.
    pub async fn raised(&self, seen: Signal) -> Signal {
        let mut word = self.0.word.subscribe();
        let raised = word.wait_for(|word| word.signal > seen || word.fall.is_some()).await.map(|word| *word);
        match raised {
            Ok(Word { fall: Some(fall), .. }) => self.falls(fall),
            Ok(Word { signal, .. }) => signal,
            Err(_) => Signal::Kill,
        }
    }

    /// Waits until the supervisor no longer counts on this incarnation.
    pub(crate) async fn over(&self) {
        let mut word = self.0.word.subscribe();
        // The sender lives in `self`, so the wait ends with the word and no other way.
        while !word.borrow_and_update().over && word.changed().await.is_ok() {}
    }

    pub(crate) fn pulse(&self) -> Beat {
        Beat { count: self.0.beats.load(Ordering::Acquire), idle: self.0.idle.load(Ordering::Acquire) }
    }

    /// Raises the signal; it never falls.
    pub(crate) fn raise(&self, signal: Signal) {
        let rose = self.0.word.send_if_modified(|word| {
            let rises = signal > word.signal;
            word.signal = word.signal.max(signal);
            rises
        });
        if rose {
            self.wake(signal);
        }
    }

    /// Calls the hooks that wait for this signal.
    fn wake(&self, signal: Signal) {
        let hooks = self.0.hooks.lock().clone();
        hooks.iter().filter(|(from, _)| signal >= *from).for_each(|(_, hook)| call(hook));
    }

    /// Ends the supervisor's interest in this incarnation and in all below it. What still runs is told to end and
    /// counted as abandoned.
    pub(crate) fn cut(&self) {
        self.raise(Signal::Kill);
        let on_thread = self.0.on_thread.lock();
        let cut = self.0.word.send_if_modified(|word| !std::mem::replace(&mut word.over, true));
        if cut {
            self.wake(Signal::Drain);
        }
        if cut && *on_thread {
            self.0.census.thread_is_abandoned();
        }
        drop(on_thread);
        if let Some(tomb) = self.0.tomb.get().and_then(Weak::upgrade) {
            tomb.release();
        }
        let below = std::mem::take(&mut *self.0.below.lock());
        below.iter().filter_map(Weak::upgrade).for_each(|child| Self(child).cut());
    }

    /// Ties the incarnation's tombstone to its lifeline: an abandoned child no longer holds up its supervisor's death.
    pub(crate) fn tie(&self, tomb: &Arc<Tombstone>) {
        self.0.tomb.get_or_init(|| Arc::downgrade(tomb));
    }

    pub(crate) fn thread_begins(&self) {
        *self.0.on_thread.lock() = true;
        self.0.census.thread_begins();
    }

    pub(crate) fn thread_ends(&self) {
        let mut on_thread = self.0.on_thread.lock();
        *on_thread = false;
        self.0.census.thread_ends(!self.current());
    }
}

fn call(hook: &Hook) {
    if catch_unwind(AssertUnwindSafe(|| hook())).is_err() {
        tracing::error!("a wake-up hook panicked");
    }
}

impl fmt::Debug for Lifeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lifeline({}, {:?})", self.0.incarnation, *self.0.word.borrow())
    }
}
