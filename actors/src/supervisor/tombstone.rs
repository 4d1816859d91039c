//! How a death is noticed: a tombstone is shared by everything that is part of an incarnation, and reports when the
//! last of it is gone. Never panics: it is dropped while threads unwind.

use bulkhead_core::supervisor::{Exit, Life};
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc::UnboundedSender;

/// News of a child. At most two an incarnation, so the supervisor's inbox needs no limit and loses none.
#[derive(Debug)]
pub(crate) enum Report {
    /// It is gone; `None`: it fell without saying how.
    Exited(Life, Option<Exit>),
    /// It was a supervisor and fell before its children.
    Orphaned(Life),
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
    pub(crate) fn orphan(&self) {
        self.send(Report::Orphaned(self.life));
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

/// Counts the threads under one root.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    running: AtomicUsize,
    abandoned: AtomicUsize,
    abandoned_total: AtomicUsize,
}

impl Threads {
    pub(crate) fn begin(&self) {
        self.running.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn end(&self, was_abandoned: bool) {
        if was_abandoned {
            self.abandoned.fetch_sub(1, Ordering::SeqCst);
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn abandon(&self) {
        self.abandoned.fetch_add(1, Ordering::SeqCst);
        self.abandoned_total.fetch_add(1, Ordering::SeqCst);
    }

    /// Bodies on threads that have not ended, abandoned ones among them.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
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
    static PANIC_PLACE: std::cell::RefCell<Option<String>> = const { std::cell::RefCell::new(None) };
}

/// Makes panics leave their place behind; the hook that was there before still runs.
pub(crate) fn note_panic_places() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let place = info.location().map(ToString::to_string);
            PANIC_PLACE.with(|last| last.replace(place));
            before(info);
        }));
    });
}

/// What a panic said, and where, if it was on this thread.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let message = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "not a text".to_owned());
    match PANIC_PLACE.with(|last| last.take()) {
        Some(place) => format!("{message} ({place})"),
        None => message,
    }
}

/// Runs `work`; a panic in it is an exit.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Exit> {
    fn run<T>(work: impl FnOnce() -> T + UnwindSafe) -> Result<T, Exit> {
        std::panic::catch_unwind(work).map_err(|panic| Exit::Panicked(panic_text(&*panic)))
    }
    run(AssertUnwindSafe(work))
}
