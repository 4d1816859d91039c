//! The root of a tree and the handle that the rest of the daemon holds it by. Never ends the process itself.

use super::command::{Command, ControlError};
use super::node::{Env, Node};
use super::registry::{ActorView, Registry};
use super::spec::{ChildSpec, SupervisorSpec};
use super::tombstone::{Census, Report, Tombstone, note_panics};
use crate::clock::Clock;
use crate::shell::{Exit, Fall, Lifeline, Signal};
use actix::prelude::{Recipient, SendError};
use bulkhead_core::fault::Fault;
use bulkhead_core::ids::Incarnation;
use bulkhead_core::supervisor::{ChildId, ChildState, Kind, Life};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Abandoned threads that a process bears: each holds a stack and whatever it hangs in.
const ABANDONED_MAX: usize = 8;

/// How a tree ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootExit {
    /// It was told to drain, and did.
    Drained,
    /// It was told to end now.
    Killed,
    /// The root spent its restart budget.
    Failed(Fault),
    /// So many threads hang abandoned that only a new process helps. The tree still runs.
    Abandoned(usize),
    /// The root's own actor fell.
    Panicked(String),
}

/// What a tree needs to know beside its specs.
#[derive(Clone, Debug)]
pub struct RootOptions {
    /// The clock given to bodies.
    pub clock: Clock,
    /// More abandoned threads at a time end the tree.
    pub abandoned_max: usize,
}

impl Default for RootOptions {
    fn default() -> Self {
        Self { clock: Clock::real(), abandoned_max: ABANDONED_MAX }
    }
}

/// The root supervisor.
pub struct Root;

impl Root {
    /// Starts a tree on the current thread's actix arbiter: its supervisors and tasks run there.
    #[must_use]
    pub fn start(spec: SupervisorSpec) -> RootHandle {
        Self::start_with(spec, RootOptions::default())
    }

    /// As [`start`](Self::start).
    #[must_use]
    pub fn start_with(spec: SupervisorSpec, options: RootOptions) -> RootHandle {
        note_panics();
        let census = Arc::new(Census::default());
        let path = spec.id.clone();
        let env = Arc::new(Env {
            registry: Registry::default(),
            clock: options.clock.clone(),
            epoch: Instant::now(),
            census: Arc::clone(&census),
            abandoned_max: options.abandoned_max,
            exit: watch::Sender::new(None),
        });
        env.registry.add(&path, None, 0, None);
        env.registry.built(&path, Incarnation::FIRST, env.clock.wall());
        env.registry.kind(&path, Kind::Supervisor);
        env.registry.states([(&*path, ChildState::Running)].into_iter());
        let lifeline = Lifeline::new(Incarnation::FIRST, options.clock, census);
        let (reports, inbox) = mpsc::unbounded_channel();
        let life = Life { child: ChildId(0), incarnation: Incarnation::FIRST };
        let tomb = Tombstone::new(life, reports, None);
        let kill_grace = spec.kill_grace;
        Node::new(path.clone(), String::new(), spec, Arc::clone(&env), lifeline.clone(), tomb).launch();
        let handle = RootHandle { env, lifeline, path };
        actix_rt::spawn(watch_root(handle.clone(), inbox, kill_grace));
        handle
    }
}

/// Waits for the root's end and tells those who wait for it.
async fn watch_root(root: RootHandle, mut inbox: mpsc::UnboundedReceiver<Report>, kill_grace: Duration) {
    let (mut fallen, mut reason) = (false, None);
    let exit = loop {
        let report = if fallen { tokio::time::timeout(kill_grace, inbox.recv()).await } else { Ok(inbox.recv().await) };
        match report {
            Ok(Some(Report::Exited(_, exit))) => break reason.or(exit),
            Ok(Some(Report::Orphaned(_, exit))) => (fallen, reason) = (true, Some(exit)),
            Ok(None) => break None,
            Err(_) => {
                root.lifeline.cut();
                fallen = false;
            }
        }
    };
    let exit = match exit {
        Some(Exit::Done) => RootExit::Drained,
        Some(Exit::Killed) => RootExit::Killed,
        Some(Exit::Failed(fault)) => RootExit::Failed(fault),
        Some(Exit::Panicked(message) | Exit::Crashed(message)) => RootExit::Panicked(message),
        Some(Exit::Hung) | None => RootExit::Panicked("the root's actor fell".to_owned()),
    };
    root.env.registry.remove(&root.path);
    root.env.exit.send_if_modified(|said| {
        let first = said.is_none();
        said.get_or_insert(exit);
        first
    });
}

/// Holds a tree; clones hold the same one. All but the waits may be called from any thread.
#[derive(Clone)]
pub struct RootHandle {
    env: Arc<Env>,
    lifeline: Lifeline,
    path: String,
}

impl RootHandle {
    /// Adds a child to the supervisor at `parent` and starts it.
    ///
    /// # Errors
    /// If nobody lives there, the name is taken, or too many commands wait.
    pub fn add(&self, parent: &str, spec: ChildSpec) -> Result<(), ControlError> {
        let child = if parent == self.path { spec.id.clone() } else { format!("{parent}/{}", spec.id) };
        if self.env.registry.view(&child).is_some() {
            return Err(ControlError::Taken(child));
        }
        self.command(parent, Command::Add(Box::new(spec)))
    }

    /// Stops an actor in this way and forgets it. [`gone`](Self::gone) waits for the end of it.
    ///
    /// # Errors
    /// If nobody lives there, or too many commands wait.
    pub fn remove(&self, path: &str, signal: Signal) -> Result<(), ControlError> {
        self.command(&self.parent(path)?, Command::Remove(path.to_owned(), signal))
    }

    /// Kills an actor, which comes back; charged to nobody.
    ///
    /// # Errors
    /// If nobody lives there, or too many commands wait.
    pub fn kill(&self, path: &str) -> Result<(), ControlError> {
        self.command(&self.parent(path)?, Command::Kill(path.to_owned()))
    }

    /// Makes an actor have a fault by itself, which is charged as any other: for chaos and for tests of what supervises it.
    ///
    /// # Errors
    /// If nobody lives there, or too many commands wait.
    pub fn fall(&self, path: &str, fall: Fall) -> Result<(), ControlError> {
        self.command(&self.parent(path)?, Command::Fall(path.to_owned(), fall))
    }

    fn parent(&self, path: &str) -> Result<String, ControlError> {
        if path == self.path {
            return Err(ControlError::Root(path.to_owned()));
        }
        self.env.registry.parent(path).ok_or_else(|| ControlError::NoSuchActor(path.to_owned()))
    }

    fn command(&self, supervisor: &str, command: Command) -> Result<(), ControlError> {
        let to: Recipient<Command> = self.env.registry.supervisor(supervisor).ok_or_else(|| {
            let known = self.env.registry.view(supervisor).is_some();
            let at = supervisor.to_owned();
            if known { ControlError::NotASupervisor(at) } else { ControlError::NoSuchActor(at) }
        })?;
        to.try_send(command).map_err(|error| match error {
            SendError::Full(_) => ControlError::Busy(supervisor.to_owned()),
            SendError::Closed(_) => ControlError::NotASupervisor(supervisor.to_owned()),
        })
    }

    /// The tree as the admin port shows it: `{"id","kind","state","incarnation","restarts":[{"at_ms","reason"}],
    /// "restarts_total","children":[…]}` and what observers add. `null` once the tree has ended.
    #[must_use]
    pub fn tree(&self) -> serde_json::Value {
        self.env.registry.tree(&self.path)
    }

    /// One living actor.
    #[must_use]
    pub fn actor(&self, path: &str) -> Option<ActorView> {
        self.env.registry.view(path)
    }

    /// All living actors, by path.
    #[must_use]
    pub fn actors(&self) -> Vec<ActorView> {
        self.env.registry.views()
    }

    /// Waits until this is so of the actor at `path`; `None` is nobody.
    pub async fn until(&self, path: &str, so: impl Fn(Option<&ActorView>) -> bool) {
        let mut changes = self.env.registry.changes();
        // The sender lives in `self`, so waiting cannot fail.
        while !so(self.actor(path).as_ref()) && changes.changed().await.is_ok() {}
    }

    /// Waits until nobody lives at `path`.
    pub async fn gone(&self, path: &str) {
        self.until(path, |actor| actor.is_none()).await;
    }

    /// Tells the whole tree to drain, and waits for its end.
    pub async fn drain(&self) -> RootExit {
        self.signal(Signal::Drain);
        self.wait().await
    }

    /// Tells the whole tree to end now, and waits for it.
    pub async fn kill_all(&self) -> RootExit {
        self.signal(Signal::Kill);
        self.wait().await
    }

    /// Tells the whole tree, and does not wait.
    pub fn signal(&self, signal: Signal) {
        self.lifeline.raise(signal);
    }

    /// Waits for the tree's end.
    pub async fn wait(&self) -> RootExit {
        let mut exit = self.env.exit.subscribe();
        let said = exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        said.unwrap_or_else(|| RootExit::Panicked("nobody is left to say how the tree ended".to_owned()))
    }

    /// Answers when the root's loop has turned: what does not answer in time is not alive. `false`: it is gone, or
    /// too busy to be asked.
    pub async fn turns(&self) -> bool {
        let (answer, turned) = oneshot::channel();
        self.command(&self.path, Command::Ping(answer)).is_ok() && turned.await.is_ok()
    }

    /// Actix actors that have not ended, of supervisors and children.
    #[must_use]
    pub fn live_actors(&self) -> usize {
        self.env.census.actors()
    }

    /// Bodies on threads that have not ended, abandoned ones among them.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.env.census.threads()
    }

    /// Abandoned threads: those that have not ended, and all there ever were.
    #[must_use]
    pub fn abandoned(&self) -> (usize, usize) {
        (self.env.census.abandoned(), self.env.census.abandoned_total())
    }
}

impl fmt::Debug for RootHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootHandle({})", self.path)
    }
}
