//! What a supervision tree is made of: the specs of children and supervisors. The tree is data; nothing runs here.

use crate::shell::{Body, Charge, Exit};
use bulkhead_core::fault::Fault;
use bulkhead_core::ids::Incarnation;
use bulkhead_core::restart::{Backoff, Intensity, RestartPolicy};
use bulkhead_core::supervisor::{ChildRules, OnFailed, Rules, StopOrder, Strategy, SupervisorState};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a factory builds.
pub enum Child {
    /// A body, hosted by an actor of its own.
    Body(Body),
    /// A supervisor with children of its own; its place in the tree is the child's, not its spec's `id`.
    Supervisor(SupervisorSpec),
}

/// Builds an incarnation; nothing of the one before is left over. Runs on the supervisor's thread: what takes time or
/// blocks belongs into the body.
pub type StartFn = Box<dyn Fn(Incarnation) -> Result<Child, Fault> + Send>;
/// Runs after an incarnation's end and before the next one is built: takes loans back, says whom the exit is charged
/// to. Its word does not count for exits that were ordered (nobody) and incarnations that could not be built (a crash).
pub type ExitFn = Box<dyn Fn(Incarnation, &Exit) -> Charge + Send>;
/// Fields to show beside a child in the tree, a JSON object; called on the reader's thread.
pub type ObserveFn = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;
/// Told whenever a supervisor's own state changes; runs on the supervisor's thread and must not block.
pub type StateFn = Arc<dyn Fn(SupervisorState) + Send + Sync>;

/// One child of a supervisor.
pub struct ChildSpec {
    /// Its name under its supervisor, unique there; may itself be a path, e.g. `stage/infer`.
    pub id: String,
    /// Which exits bring it back.
    pub restart: RestartPolicy,
    /// How long it may take to drain before it is killed.
    pub shutdown: Duration,
    /// How long it may go without a sign of life; `None` where it gives none.
    pub heartbeat: Option<Duration>,
    /// Builds an incarnation.
    pub start: StartFn,
    /// Runs after each.
    pub on_exit: ExitFn,
    /// What else is shown of it.
    pub observe: Option<ObserveFn>,
}

impl ChildSpec {
    /// A permanent child with 5 s to drain, without heartbeat, each of whose crashes is charged to it.
    pub fn new(id: impl Into<String>, start: impl Fn(Incarnation) -> Result<Child, Fault> + Send + 'static) -> Self {
        Self {
            id: id.into(),
            restart: RestartPolicy::Permanent,
            shutdown: Duration::from_secs(5),
            heartbeat: None,
            start: Box::new(start),
            on_exit: Box::new(|_, _| Charge::Crash),
            observe: None,
        }
    }

    /// A child that is always built the same way and cannot fail to be.
    pub fn body(id: impl Into<String>, build: impl Fn(Incarnation) -> Body + Send + 'static) -> Self {
        Self::new(id, move |incarnation| Ok(Child::Body(build(incarnation))))
    }

    /// A supervisor, under the id of its spec; `build` gives a fresh spec each time. Its children's budgets say how
    /// long it takes to drain, so it has no deadline of its own to speak of (an hour).
    pub fn supervisor(id: impl Into<String>, build: impl Fn() -> SupervisorSpec + Send + 'static) -> Self {
        let spec = Self::new(id, move |_| Ok(Child::Supervisor(build())));
        Self { shutdown: Duration::from_secs(3_600), ..spec }
    }

    pub(super) const fn rules(&self) -> ChildRules {
        ChildRules { restart: self.restart, shutdown: self.shutdown, heartbeat: self.heartbeat }
    }
}

/// A supervisor and the children it starts with.
pub struct SupervisorSpec {
    /// Its name, where it is the root.
    pub id: String,
    /// Who comes back with whom.
    pub strategy: Strategy,
    /// How many crashes it bears within `period`.
    pub intensity: u32,
    /// The window that crashes are counted in.
    pub period: Duration,
    /// How long a crashed child waits.
    pub backoff: Backoff,
    /// What it does once the budget is spent.
    pub on_failed: OnFailed,
    /// In which order children are drained.
    pub stop_order: StopOrder,
    /// How long a killed child may take before it is abandoned.
    pub kill_grace: Duration,
    /// Its children, in start order: first what the others need.
    pub children: Vec<ChildSpec>,
    /// Told of each change of its state.
    pub on_state: Option<StateFn>,
}

impl SupervisorSpec {
    /// `one_for_one`, 5 crashes in 30 s, then it fails upwards; drained in reverse start order; a second to die.
    pub fn new(id: impl Into<String>, children: Vec<ChildSpec>) -> Self {
        let Intensity { restarts, period } = Intensity::default();
        Self {
            id: id.into(),
            strategy: Strategy::OneForOne,
            intensity: restarts,
            period,
            backoff: Backoff::default(),
            on_failed: OnFailed::Escalate,
            stop_order: StopOrder::Reverse,
            kill_grace: Duration::from_secs(1),
            children,
            on_state: None,
        }
    }

    pub(super) const fn rules(&self) -> Rules {
        Rules {
            strategy: self.strategy,
            intensity: Intensity { restarts: self.intensity, period: self.period },
            backoff: self.backoff,
            on_failed: self.on_failed,
            stop_order: self.stop_order,
            kill_grace: self.kill_grace,
        }
    }
}

impl fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildSpec").field("id", &self.id).field("rules", &self.rules()).finish_non_exhaustive()
    }
}

impl fmt::Debug for SupervisorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut spec = f.debug_struct("SupervisorSpec");
        spec.field("id", &self.id).field("rules", &self.rules()).field("children", &self.children);
        spec.finish_non_exhaustive()
    }
}
