//! Looks at the log in the background, so that health answers at once and is at most a few seconds old (P5).
//! Never repairs anything, and never lets a question that may take long hold up the one whether the log is there.

use super::pressure::LastSeen;
use crate::logging::Losses;
use bulkhead_actors::log::Log;
use bulkhead_actors::metrics::Metrics;
use bulkhead_actors::pipeline::Pipeline;
use bulkhead_actors::shell::{Exit, Lifeline, Signal};
use bulkhead_actors::supervisor::RootHandle;
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How often it looks: with the log's own answer time within the 5 s that health may lag.
const EVERY: Duration = Duration::from_secs(1);
/// How long the log may take to answer.
const PING: Duration = Duration::from_secs(2);

/// What the monitor saw last.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Why the log cannot be reached; `None` where it can, or before the first look.
    pub(super) log: Option<String>,
    /// Whether it looked at all.
    pub(super) looked: bool,
}

/// Watches the log and the pipelines.
#[derive(Clone)]
pub(super) struct Monitor {
    pub(super) log: Arc<dyn Log>,
    pub(super) pipelines: Arc<[Pipeline]>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) seen: Arc<Mutex<Seen>>,
    pub(super) root: Arc<OnceLock<RootHandle>>,
    pub(super) pressure: Arc<LastSeen>,
    pub(super) losses: Losses,
}

impl Monitor {
    /// The body of the monitor's actor: asks whether the log is there.
    pub(super) fn run(&self, lifeline: &Lifeline) -> Exit {
        self.repeat(lifeline, Self::look)
    }

    /// The body of the actor that looks at topics and lag; its questions take long while the log is going away.
    pub(super) fn run_topics(&self, lifeline: &Lifeline) -> Exit {
        self.repeat(lifeline, Self::look_at_topics)
    }

    fn repeat(&self, lifeline: &Lifeline, look: fn(&Self)) -> Exit {
        let thread = std::thread::current();
        lifeline.on_signal(move || thread.unpark());
        loop {
            match lifeline.signal() {
                Signal::Run => {}
                Signal::Drain => return Exit::Done,
                Signal::Kill => return Exit::Killed,
            }
            look(self);
            std::thread::park_timeout(EVERY);
        }
    }

    fn look(&self) {
        if let Some(root) = self.root.get() {
            let abandoned = i64::try_from(root.abandoned().0).unwrap_or(i64::MAX);
            self.metrics.abandoned_threads.with([]).set(abandoned);
        }
        for (counter, total) in [
            (&self.metrics.log_lines_dropped, self.losses.lines_dropped()),
            (&self.metrics.log_lines_failed, self.losses.lines_failed()),
        ] {
            let counter = counter.with([]);
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        let unreachable = self.log.ping(PING).err().map(|error| error.to_string());
        *self.seen.lock() = Seen { log: unreachable, looked: true };
        self.pipelines.iter().for_each(Pipeline::observe);
    }

    fn look_at_topics(&self) {
        for pipeline in &*self.pipelines {
            let reachable = { self.seen.lock().log.is_none() };
            if reachable {
                self.look_at(pipeline);
            }
        }
    }

    fn look_at(&self, pipeline: &Pipeline) {
        if let Err(error) = pipeline.check_topics() {
            tracing::debug!(pipeline = %pipeline.name(), %error, "topics not checked");
        }
        if let Err(error) = pipeline.keep_membership() {
            tracing::warn!(pipeline = %pipeline.name(), %error, "the membership of a failed pipeline was not served");
        }
        match pipeline.lag() {
            Ok(lags) => {
                self.pressure.note(pipeline.name(), &lags);
                for (partition, lag) in lags {
                    let labels = [&*pipeline.spec().source.topic, &partition.to_string()];
                    self.metrics.consumer_lag.with(labels).set(lag);
                }
            }
            Err(error) => tracing::debug!(pipeline = %pipeline.name(), %error, "lag not read"),
        }
    }
}
