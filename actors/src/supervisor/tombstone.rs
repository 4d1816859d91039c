//! How a death is noticed: a tombstone is shared by everything that is part of an incarnation, and reports when the
//! last of it is gone. Never panics: it is dropped while threads unwind.

use bulkhead_core::supervisor::{Exit, Life};
use parking_lot::Mutex;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use tokio::sync::mpsc::UnboundedSender;

/// News of a child. At most two an incarnation, so the supervisor's inbox needs no limit and loses none.
#[derive(Debug)]
pub(crate) enum Report {
    /// It is gone; `None`: it fell without saying how.
    Exited(Life, Option<Exit>),
    /// It was a supervisor and fell before its children, like this.
    Orphaned(Life, Exit),
}

/// Reports an incarnation's end when the last holder lets go: its actor, its thread, and for a supervisor the
/// tombstones of all its children. So nobody is replaced while a part of him lives.
pub(crate) struct Tombstone {
    life: Life,
    reports: UnboundedSender<Report>,
    exit: Mutex<Option<Exit>>,
    above: Mutex<Option<Arc<Self>>>,
}

impl Tombstone {
    pub(crate) fn new(life: Life, reports: UnboundedSender<Report>, above: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self { life, reports, exit: Mutex::new(None), above: Mutex::new(above) })
    }

    /// Notes how it ended; the first word counts.
    pub(crate) fn bury(&self, exit: Exit) {
        self.exit.lock().get_or_insert(exit);
    }

    /// The supervisor fell before its children did.
    pub(crate) fn orphan(&self, exit: Exit) {
        self.send(Report::Orphaned(self.life, exit));
    }

    /// No longer holds up the supervisor's own death.
    pub(crate) fn release(&self) {
        drop(self.above.lock().take());
    }

    fn send(&self, report: Report) {
        if let Err(lost) = self.reports.send(report) {
            tracing::debug!(report = ?lost.0, "the supervisor is gone, its own supervisor will know");
        }
    }
}

impl Drop for Tombstone {
    fn drop(&mut self) {
        let exit = self.exit.lock().take();
        self.send(Report::Exited(self.life, exit));
    }
}

/// Counts what lives under one root.
#[derive(Debug, Default)]
pub(crate) struct Census {
    actors: AtomicUsize,
    threads: AtomicUsize,
    abandoned: AtomicUsize,
    abandoned_total: AtomicUsize,
}

impl Census {
    pub(crate) fn actor_begins(&self) {
        self.actors.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn actor_ends(&self) {
        self.actors.fetch_sub(1, Ordering::SeqCst);
    }

    /// Actix actors, of supervisors and children.
    pub(crate) fn actors(&self) -> usize {
        self.actors.load(Ordering::SeqCst)
    }

    pub(crate) fn thread_begins(&self) {
        self.threads.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn thread_ends(&self, was_abandoned: bool) {
        if was_abandoned {
            self.abandoned.fetch_sub(1, Ordering::SeqCst);
        }
        self.threads.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn thread_is_abandoned(&self) {
        self.abandoned.fetch_add(1, Ordering::SeqCst);
        self.abandoned_total.fetch_add(1, Ordering::SeqCst);
    }

    /// Bodies on threads that have not ended, abandoned ones among them.
    pub(crate) fn threads(&self) -> usize {
        self.threads.load(Ordering::SeqCst)
    }

    /// Abandoned threads that have not ended.
    pub(crate) fn abandoned(&self) -> usize {
        self.abandoned.load(Ordering::SeqCst)
    }

    /// Threads that were ever abandoned.
    pub(crate) fn abandoned_total(&self) -> usize {
        self.abandoned_total.load(Ordering::SeqCst)
    }
}

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Makes panics leave message and place behind; the hook that was there before still runs.
pub(crate) fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let message = info.payload_as_str().unwrap_or("not a text");
            let text = match info.location() {
                Some(place) => format!("{message} ({place})"),
                None => message.to_owned(),
            };
            LAST_PANIC.with(|last| last.replace(Some(text)));
            before(info);
        }));
    });
}

/// What the last panic on this thread said, and where.
pub(crate) fn last_panic() -> Exit {
    let text = LAST_PANIC.with(RefCell::take);
    Exit::Panicked(text.unwrap_or_else(|| "unknown: another panic hook was set".to_owned()))
}

/// Why an actor is dropped that has not ended.
pub(crate) fn falling() -> Exit {
    if std::thread::panicking() { last_panic() } else { Exit::Panicked("its actor was dropped".to_owned()) }
}

/// Runs `work`; a panic in it is an exit.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Exit> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| last_panic())
}
