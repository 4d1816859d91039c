//! The supervisor: which child starts, stops and comes back, in which order and when. OTP's semantics as a state
//! machine. Never touches an actor, a thread or a timer: its shell performs the effects and answers with events.

mod child;
mod machine;

pub use machine::Supervisor;

use crate::fault::Fault;
use crate::ids::Incarnation;
use crate::restart::{Backoff, Intensity, RestartPolicy};
use std::fmt;
use std::time::Duration;

/// A child among the children of one supervisor. Numbers rise in start order and are never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildId(pub u32);

/// How an incarnation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with nothing left to do, or after it was told to drain.
    Done,
    /// By itself, with a fault.
    Failed(Fault),
    /// By a panic, with its message and place.
    Panicked(String),
    /// By the death of the process that it worked through, with how that ended.
    Crashed(String),
    /// Because it was told to, now.
    Killed,
    /// It gave no sign of life, or did not end when it was told to; its thread may live on, abandoned.
    Hung,
}

impl Exit {
    /// Whether it ended by itself, without a fault: what a transient child does not come back from.
    #[must_use]
    pub const fn is_normal(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// As a metric's label.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed(_) => "failed",
            Self::Panicked(_) => "panic",
            Self::Crashed(_) => "crash",
            Self::Killed => "killed",
            Self::Hung => "hang",
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Failed(fault) => write!(f, "{}: {fault}", fault.class.as_str()),
            Self::Panicked(message) => write!(f, "panic: {message}"),
            Self::Crashed(message) => write!(f, "crash: {message}"),
            Self::Killed => f.write_str("killed"),
            Self::Hung => f.write_str("hung"),
        }
    }
}

/// Whom an exit is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// The child: it counts against its supervisor's restart budget and makes it wait.
    Crash,
    /// A record that is known to have caused it: charged to that record, the child comes back at once.
    Culprit,
    /// Nobody.
    Nobody,
}

/// What an incarnation is told; it only ever rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Work.
    #[default]
    Run,
    /// Finish what you hold, take no more, end.
    Drain,
    /// End now.
    Kill,
}

/// Who comes back with a child, as in OTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Nobody.
    OneForOne,
    /// Those started after it: they are killed, and all come back in start order.
    RestForOne,
}

/// How children are drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopOrder {
    /// One after the other, the one started last first; each has its whole shutdown budget.
    Reverse,
    /// All at once, for children that do not need each other.
    Together,
}

/// What a supervisor does that has spent its restart budget and stopped its children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailed {
    /// Stays failed for so long, then starts all its children again with a fresh budget.
    Retry(Duration),
    /// Fails upwards: its own supervisor decides.
    Escalate,
}

/// What a supervisor goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Who comes back with whom.
    pub strategy: Strategy,
    /// How many crashes it bears.
    pub intensity: Intensity,
    /// How long a crashed child waits.
    pub backoff: Backoff,
    /// What it does once that is exceeded.
    pub on_failed: OnFailed,
    /// In which order children are drained.
    pub stop_order: StopOrder,
    /// How long a killed child may take before it is abandoned.
    pub kill_grace: Duration,
}

/// What a supervisor goes by for one child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildRules {
    /// Which exits bring it back.
    pub restart: RestartPolicy,
    /// How long it may take to drain before it is killed.
    pub shutdown: Duration,
    /// How long it may go without a sign of life; `None` where it gives none.
    pub heartbeat: Option<Duration>,
}

/// What a child turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A body: a thread or a task.
    Worker,
    /// A supervisor: it ends when its own children have, so a kill of it has no deadline.
    Supervisor,
}

/// An incarnation's signs of life so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// How many it gave.
    pub count: u64,
    /// Whether none is expected now, because it waits for input.
    pub idle: bool,
}

/// One incarnation of one child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Life {
    /// Which child.
    pub child: ChildId,
    /// Which of its incarnations.
    pub incarnation: Incarnation,
}

/// How a life ended, as far as a supervisor cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// Whether it ended by itself, without a fault.
    pub normal: bool,
    /// Whom it is charged to, unless it was ordered.
    pub charge: Charge,
    /// A random number, for the backoff.
    pub draw: u32,
}

/// What can happen to a supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A child is to be started and kept alive. The number is the last incarnation that it had under an earlier
    /// supervisor, 0 if none.
    Add(ChildId, ChildRules, Incarnation),
    /// A child is to be stopped in this way and forgotten.
    Remove(ChildId, Signal),
    /// A child is to be killed and comes back, charged to nobody.
    Kill(ChildId),
    /// The incarnation was built and runs.
    Started(Life, Kind),
    /// The incarnation is gone, or could not be built.
    Exited(Life, Death),
    /// The incarnation, a supervisor, died before its children: they are being killed.
    Orphaned(Life),
    /// The answer to [`Effect::TakePulse`].
    Pulse(Life, Beat),
    /// The supervisor itself is told to drain or to end now.
    Signal(Signal),
    /// The time of [`Supervisor::deadline`] has come.
    Tick,
}

/// What a supervisor asks its shell to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Build this incarnation and answer `Started` or `Exited`.
    Start(Life),
    /// Tell the incarnation.
    Signal(Life, Signal),
    /// It gave no sign of life and is told to end: its exit is a hang, whatever else it turns out to be.
    Hung(Life),
    /// Read the incarnation's signs of life and answer `Pulse`.
    TakePulse(Life),
    /// It does not end: fence what it still says, count it, and answer `Exited`.
    Abandon(Life),
    /// The child will not come back: drop its spec.
    Forget(ChildId),
    /// The supervisor is in another state now.
    Became(SupervisorState),
    /// The supervisor is done; no child is left alive.
    Ended(End),
}

/// The state of a supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SupervisorState {
    /// It keeps its children alive.
    Running,
    /// It has spent its restart budget; its children are stopped or being stopped.
    Failed,
    /// It stops its children for good.
    Draining,
    /// It is done.
    Stopped,
}

/// The state of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildState {
    /// Its first incarnation is being built.
    Starting,
    /// It runs.
    Running,
    /// It is dead and waits to come back.
    Backoff,
    /// It was told to end.
    Draining,
    /// It is dead and does not wait to come back.
    Stopped,
}

/// How a supervisor ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to drain, and did.
    Drained,
    /// It was told to end now.
    Killed,
    /// It spent its restart budget.
    Failed,
}
