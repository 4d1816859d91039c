//! The tree as anybody may read it, from any thread and without asking an actor. Never decides anything: supervisors
//! write into it what they did.

use super::command::Command;
use super::spec::ObserveFn;
use actix::prelude::Recipient;
use bulkhead_core::ids::Incarnation;
use bulkhead_core::supervisor::{ChildState, Kind, SupervisorState};
use bulkhead_core::time::WallMs;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use tokio::sync::watch;

/// Restarts that are remembered with their reason, an actor.
const RESTARTS_KEPT: usize = 16;

/// One actor as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActorView {
    /// Its place in the tree.
    pub path: String,
    /// `starting`, `running`, `backoff`, `draining`, `stopped` or `failed`.
    pub state: &'static str,
    /// Its current or last incarnation; counts on when its supervisor was replaced.
    pub incarnation: Incarnation,
    /// How often it was built again.
    pub restarts_total: u32,
    /// Why it was built again the last time.
    pub last_restart: Option<String>,
}

#[derive(Default)]
struct Node {
    parent: Option<String>,
    /// Its place among its siblings.
    order: u32,
    /// Whether it is a child of a living supervisor; what is not is kept for its history alone.
    present: bool,
    kind: Option<Kind>,
    state: Option<ChildState>,
    /// A supervisor's own word on its state.
    own: Option<SupervisorState>,
    incarnation: Incarnation,
    restarts: VecDeque<(WallMs, String)>,
    restarts_total: u32,
    last_exit: Option<String>,
    observe: Option<ObserveFn>,
    control: Option<Recipient<Command>>,
}

impl Node {
    fn state(&self) -> &'static str {
        match (self.state, self.own) {
            (Some(ChildState::Starting) | None, _) => "starting",
            (Some(ChildState::Running), Some(SupervisorState::Failed)) => "failed",
            (Some(ChildState::Running), Some(SupervisorState::Draining)) => "draining",
            (Some(ChildState::Running), _) => "running",
            (Some(ChildState::Backoff), _) => "backoff",
            (Some(ChildState::Draining), _) => "draining",
            (Some(ChildState::Stopped), Some(SupervisorState::Failed)) => "failed",
            (Some(ChildState::Stopped), _) => "stopped",
        }
    }

    fn view(&self, path: &str) -> ActorView {
        ActorView {
            path: path.to_owned(),
            state: self.state(),
            incarnation: self.incarnation,
            restarts_total: self.restarts_total,
            last_restart: self.restarts.back().map(|(_, reason)| reason.clone()),
        }
    }
}

/// All actors by their path. Bounded by the paths that the configuration can name.
#[derive(Default)]
pub(super) struct Registry {
    nodes: Mutex<BTreeMap<String, Node>>,
    version: watch::Sender<u64>,
}

impl Registry {
    fn change<T>(&self, path: &str, change: impl FnOnce(&mut Node) -> T) -> T {
        let answer = change(self.nodes.lock().entry(path.to_owned()).or_default());
        self.version.send_modify(|version| *version += 1);
        answer
    }

    /// A child appears. Answers its last incarnation, 0 if there was none.
    pub(super) fn add(&self, path: &str, parent: Option<&str>, order: u32, observe: Option<ObserveFn>) -> Incarnation {
        self.change(path, |node| {
            node.parent = parent.map(ToOwned::to_owned);
            (node.order, node.present, node.observe) = (order, true, observe);
            (node.kind, node.state, node.own, node.control) = (None, None, None, None);
            node.incarnation
        })
    }

    /// A child is gone for good, or its supervisor is.
    pub(super) fn remove(&self, path: &str) {
        self.change(path, |node| {
            node.present = false;
            (node.observe, node.control) = (None, None);
        });
    }

    pub(super) fn built(&self, path: &str, incarnation: Incarnation, at: WallMs) {
        self.change(path, |node| {
            node.incarnation = incarnation;
            if incarnation > Incarnation::FIRST {
                let reason = node.last_exit.take().unwrap_or_else(|| "its supervisor was restarted".to_owned());
                node.restarts_total = node.restarts_total.saturating_add(1);
                node.restarts.push_back((at, reason));
                if node.restarts.len() > RESTARTS_KEPT {
                    node.restarts.pop_front();
                }
            }
        });
    }

    pub(super) fn kind(&self, path: &str, kind: Kind) {
        self.change(path, |node| node.kind = Some(kind));
    }

    pub(super) fn states<'a>(&self, states: impl Iterator<Item = (&'a str, ChildState)>) {
        let mut nodes = self.nodes.lock();
        for (path, state) in states {
            if let Some(node) = nodes.get_mut(path) {
                node.state = Some(state);
            }
        }
        drop(nodes);
        self.version.send_modify(|version| *version += 1);
    }

    pub(super) fn died(&self, path: &str, reason: String) {
        self.change(path, |node| node.last_exit = Some(reason));
    }

    pub(super) fn own_state(&self, path: &str, own: SupervisorState) {
        self.change(path, |node| node.own = Some(own));
    }

    pub(super) fn control(&self, path: &str, control: Recipient<Command>) {
        self.change(path, |node| node.control = Some(control));
    }

    /// Where a living supervisor takes commands.
    pub(super) fn supervisor(&self, path: &str) -> Option<Recipient<Command>> {
        self.nodes.lock().get(path).filter(|node| node.present).and_then(|node| node.control.clone())
    }

    /// The supervisor of a living actor.
    pub(super) fn parent(&self, path: &str) -> Option<String> {
        self.nodes.lock().get(path).filter(|node| node.present).and_then(|node| node.parent.clone())
    }

    pub(super) fn view(&self, path: &str) -> Option<ActorView> {
        self.nodes.lock().get(path).filter(|node| node.present).map(|node| node.view(path))
    }

    /// All living actors, by path.
    pub(super) fn views(&self) -> Vec<ActorView> {
        let nodes = self.nodes.lock();
        nodes.iter().filter(|(_, node)| node.present).map(|(path, node)| node.view(path)).collect()
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// The tree under `root` as JSON. Observers are called without the lock.
    pub(super) fn tree(&self, root: &str) -> Value {
        let (mut flat, observers) = {
            let nodes = self.nodes.lock();
            let mut flat: Vec<(Option<String>, u32, String, Value)> = Vec::new();
            let mut observers: Vec<Option<ObserveFn>> = Vec::new();
            for (path, node) in nodes.iter().filter(|(_, node)| node.present) {
                flat.push((node.parent.clone(), node.order, path.clone(), to_json(path, node)));
                observers.push(node.observe.clone());
            }
            (flat, observers)
        };
        for ((.., value), observe) in flat.iter_mut().zip(observers) {
            if let (Value::Object(fields), Some(Value::Object(seen))) = (value, observe.map(|observe| observe())) {
                for (name, field) in seen {
                    fields.entry(name).or_insert(field);
                }
            }
        }
        let mut children: BTreeMap<Option<String>, Vec<(u32, String, Value)>> = BTreeMap::new();
        for (parent, order, path, value) in flat {
            children.entry(parent).or_default().push((order, path, value));
        }
        let top = children.remove(&None).and_then(|tops| tops.into_iter().find(|(_, path, _)| path == root));
        top.map_or(Value::Null, |(_, path, value)| nest(&path, value, &mut children))
    }
}

fn to_json(path: &str, node: &Node) -> Value {
    let restarts: Vec<Value> =
        node.restarts.iter().map(|(at, reason)| json!({ "at_ms": at.0, "reason": reason })).collect();
    json!({
        "id": path,
        "kind": if node.kind == Some(Kind::Supervisor) { "supervisor" } else { "worker" },
        "state": node.state(),
        "incarnation": node.incarnation.0,
        "restarts": restarts,
        "restarts_total": node.restarts_total,
        "children": [],
    })
}

type Siblings = Vec<(u32, String, Value)>;

fn nest(path: &str, mut value: Value, children: &mut BTreeMap<Option<String>, Siblings>) -> Value {
    let mut own = children.remove(&Some(path.to_owned())).unwrap_or_default();
    own.sort_by_key(|(order, ..)| *order);
    let nested = own.into_iter().map(|(_, path, value)| nest(&path, value, children)).collect();
    value["children"] = Value::Array(nested);
    value
}
