//! The supervisor's shell: an actor that turns reports, commands and timers into the machine's events and performs
//! its effects. Never decides: who comes back, when and in which order is the machine's answer.

use super::cell::Cell;
use super::command::Command;
use super::registry::Registry;
use super::root::RootExit;
use super::spec::{Child, ChildSpec, StateFn, SupervisorSpec};
use super::tombstone::{Census, Report, Tombstone, catch, falling};
use crate::clock::Clock;
use crate::shell::{Exit, Lifeline, Signal};
use actix::prelude::{Actor, ActorContext, AsyncContext, Context, Handler, SpawnHandle, StreamHandler};
use bulkhead_core::fault::Fault;
use bulkhead_core::machine::Machine;
use bulkhead_core::supervisor::{Charge, ChildId, Death, Effect, End, Event, Kind, Life, Supervisor, SupervisorState};
use bulkhead_core::time::Now;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Commands that may wait. All partitions of a large assignment may be added in one go.
const MAILBOX: usize = 1_024;

/// What all supervisors of one tree share.
pub(super) struct Env {
    pub(super) registry: Registry,
    pub(super) clock: Clock,
    /// Machines count from here, on tokio's clock: their timers run on it.
    pub(super) epoch: Instant,
    pub(super) census: Arc<Census>,
    pub(super) abandoned_max: usize,
    pub(super) exit: watch::Sender<Option<RootExit>>,
}

struct Entry {
    spec: ChildSpec,
    path: String,
    /// The living incarnation's.
    lifeline: Option<Lifeline>,
    /// What was found out about its end before it came; overrides what it says itself.
    verdict: Option<Exit>,
}

pub(super) struct Node {
    path: String,
    /// What its children's paths begin with.
    prefix: String,
    env: Arc<Env>,
    machine: Supervisor,
    lifeline: Lifeline,
    tomb: Arc<Tombstone>,
    entries: BTreeMap<ChildId, Entry>,
    /// The children it starts with, until it is started.
    first: Vec<ChildSpec>,
    next: u32,
    reports: mpsc::UnboundedSender<Report>,
    inbox: Option<mpsc::UnboundedReceiver<Report>>,
    timer: Option<(Now, SpawnHandle)>,
    on_state: Option<StateFn>,
    intensity: (u32, Duration),
    last_crash: String,
    ended: bool,
}

impl Node {
    /// A supervisor at `path`; its children's paths begin with `prefix`.
    pub(super) fn new(
        path: String,
        prefix: String,
        spec: SupervisorSpec,
        env: Arc<Env>,
        lifeline: Lifeline,
        tomb: Arc<Tombstone>,
    ) -> Self {
        let (reports, inbox) = mpsc::unbounded_channel();
        env.census.actor_begins();
        Self {
            path,
            prefix,
            env,
            machine: Supervisor::new(spec.rules()),
            lifeline,
            tomb,
            entries: BTreeMap::new(),
            next: 0,
            reports,
            inbox: Some(inbox),
            timer: None,
            on_state: spec.on_state,
            intensity: (spec.intensity, spec.period),
            last_crash: String::new(),
            ended: false,
            first: spec.children,
        }
    }

    /// Starts the actor; commands may be sent to it from now on.
    pub(super) fn launch(self) {
        let (env, path) = (Arc::clone(&self.env), self.path.clone());
        let node = Self::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            self
        });
        env.registry.control(&path, node.recipient());
    }

    fn now(&self) -> Now {
        Now(0) + self.env.epoch.elapsed()
    }

    /// Lets the machine take what happened, and all that follows from it at once.
    fn drive(&mut self, event: Event, ctx: &mut Context<Self>) {
        let mut todo = VecDeque::from([event]);
        while let Some(event) = todo.pop_front() {
            for effect in self.machine.step(event, self.now()) {
                self.perform(effect, &mut todo, ctx);
            }
        }
        let states = self.entries.iter().map(|(id, entry)| (&*entry.path, self.machine.child(*id)));
        self.env.registry.states(states.filter_map(|(path, child)| Some((path, child?.0))));
        self.arm(ctx);
    }

    fn perform(&mut self, effect: Effect, todo: &mut VecDeque<Event>, ctx: &mut Context<Self>) {
        match effect {
            Effect::Start(life) => todo.push_back(self.start(life)),
            Effect::Signal(life, signal) => {
                if let Some(lifeline) = self.line(life) {
                    lifeline.raise(signal);
                }
            }
            Effect::Hung(life) => {
                if let Some(entry) = self.entries.get_mut(&life.child) {
                    entry.verdict = Some(Exit::Hung);
                    tracing::warn!(actor = entry.path, incarnation = life.incarnation.0, "hung: no sign of life");
                }
            }
            Effect::TakePulse(life) => {
                if let Some(lifeline) = self.line(life) {
                    todo.push_back(Event::Pulse(life, lifeline.pulse()));
                }
            }
            Effect::Abandon(life) => self.abandon(life, todo),
            Effect::Forget(child) => {
                if let Some(entry) = self.entries.remove(&child) {
                    self.env.registry.remove(&entry.path);
                }
            }
            Effect::Became(state) => self.became(state),
            Effect::Ended(end) => self.end(end, ctx),
        }
    }

    fn line(&self, life: Life) -> Option<&Lifeline> {
        let lifeline = self.entries.get(&life.child)?.lifeline.as_ref()?;
        (lifeline.incarnation() == life.incarnation).then_some(lifeline)
    }

    /// Builds an incarnation and says what came of it.
    fn start(&mut self, life: Life) -> Event {
        let Some(entry) = self.entries.get_mut(&life.child) else {
            return Event::Exited(life, death(&Exit::Killed, Charge::Nobody));
        };
        self.env.registry.built(&entry.path, life.incarnation, self.env.clock.wall());
        let built = catch(|| (entry.spec.start)(life.incarnation));
        let child = match built {
            Ok(Ok(child)) => child,
            Ok(Err(fault)) => return self.exited(life, Exit::Failed(fault), true),
            Err(panicked) => return self.exited(life, panicked, true),
        };
        let lifeline = self.lifeline.child(life.incarnation);
        let tomb = Tombstone::new(life, self.reports.clone(), Some(Arc::clone(&self.tomb)));
        lifeline.tie(&tomb);
        entry.lifeline = Some(lifeline.clone());
        let path = entry.path.clone();
        tracing::debug!(actor = path, incarnation = life.incarnation.0, "started");
        let kind = match child {
            Child::Body(body) => {
                Cell::new(path.clone(), body, lifeline, tomb, Arc::clone(&self.env.census)).start();
                Kind::Worker
            }
            Child::Supervisor(spec) => {
                let prefix = format!("{path}/");
                Self::new(path.clone(), prefix, spec, Arc::clone(&self.env), lifeline, tomb).launch();
                Kind::Supervisor
            }
        };
        self.env.registry.kind(&path, kind);
        Event::Started(life, kind)
    }

    /// Notes the end of an incarnation. `unbuilt`: it never ran, so that its factory is to blame and no record.
    fn exited(&mut self, life: Life, exit: Exit, unbuilt: bool) -> Event {
        let Some(entry) = self.entries.get_mut(&life.child) else {
            return Event::Exited(life, death(&exit, Charge::Nobody));
        };
        if let Some(lifeline) = entry.lifeline.take() {
            lifeline.cut();
        }
        let said = (entry.spec.on_exit)(life.incarnation, &exit);
        let charge = if unbuilt { Charge::Crash } else { said };
        tracing::info!(actor = entry.path, incarnation = life.incarnation.0, exit = %exit, "ended");
        self.env.registry.died(&entry.path, exit.to_string());
        // Once failed, what is left is killed by us.
        if charge == Charge::Crash && exit != Exit::Killed && self.machine.state() != SupervisorState::Failed {
            self.last_crash = format!("{}: {exit}", entry.path);
        }
        Event::Exited(life, death(&exit, charge))
    }

    /// Takes the news of an incarnation's end, unless it was given up before.
    fn buried(&mut self, life: Life, said: Option<Exit>) -> Option<Event> {
        let killed = self.line(life)?.told() == Signal::Kill;
        let verdict = self.entries.get_mut(&life.child)?.verdict.take();
        let unsaid = || if killed { Exit::Killed } else { Exit::Panicked("its actor fell".to_owned()) };
        let exit = verdict.or(said).unwrap_or_else(unsaid);
        Some(self.exited(life, exit, false))
    }

    fn abandon(&mut self, life: Life, todo: &mut VecDeque<Event>) {
        let Some(lifeline) = self.line(life) else { return };
        lifeline.cut();
        let Some(entry) = self.entries.get_mut(&life.child) else { return };
        tracing::error!(actor = entry.path, incarnation = life.incarnation.0, "abandoned: it ignores its kill");
        let exit = entry.verdict.take().unwrap_or(Exit::Hung);
        todo.push_back(self.exited(life, exit, false));
        let abandoned = self.env.census.abandoned();
        if abandoned > self.env.abandoned_max {
            self.env.exit.send_if_modified(|exit| {
                let first = exit.is_none();
                exit.get_or_insert(RootExit::Abandoned(abandoned));
                first
            });
        }
    }

    fn became(&self, state: SupervisorState) {
        tracing::info!(supervisor = self.path, ?state, "state");
        self.env.registry.own_state(&self.path, state);
        if let Some(tell) = &self.on_state {
            tell(state);
        }
    }

    fn end(&mut self, end: End, ctx: &mut Context<Self>) {
        let (restarts, period) = self.intensity;
        self.tomb.bury(match end {
            End::Drained => Exit::Done,
            End::Killed => Exit::Killed,
            End::Failed => Exit::Failed(Fault::fatal(
                "restart_budget_spent",
                format_args!("more than {restarts} crashes in {period:?}, the last: {}", self.last_crash),
            )),
        });
        self.ended = true;
        ctx.stop();
    }

    /// Sets the timer for what the machine waits for.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let deadline = self.machine.deadline();
        if self.timer.map(|(at, _)| at) == deadline {
            return;
        }
        if let Some((_, old)) = self.timer.take() {
            ctx.cancel_future(old);
        }
        self.timer = deadline.map(|at| {
            let tick = ctx.run_later(at - self.now(), |node, ctx| {
                node.timer = None;
                node.drive(Event::Tick, ctx);
            });
            (at, tick)
        });
    }

    fn add(&mut self, spec: ChildSpec, ctx: &mut Context<Self>) {
        let path = format!("{}{}", self.prefix, spec.id);
        if self.entries.values().any(|entry| entry.path == path) {
            tracing::error!(actor = path, "two children of this name; the second is not started");
            return;
        }
        let (id, rules) = (ChildId(self.next), spec.rules());
        self.next += 1;
        let last = self.env.registry.add(&path, Some(&self.path), id.0, spec.observe.clone());
        self.entries.insert(id, Entry { spec, path, lifeline: None, verdict: None });
        self.drive(Event::Add(id, rules, last), ctx);
    }

    fn id(&self, path: &str) -> Option<ChildId> {
        self.entries.iter().find(|(_, entry)| entry.path == path).map(|(id, _)| *id)
    }
}

fn death(exit: &Exit, charge: Charge) -> Death {
    Death { normal: exit.is_normal(), charge, draw: rand::random() }
}

impl Actor for Node {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.env.registry.own_state(&self.path, SupervisorState::Running);
        if let Some(mut inbox) = self.inbox.take() {
            ctx.add_stream(futures::stream::poll_fn(move |cx| inbox.poll_recv(cx)));
        }
        let lifeline = self.lifeline.clone();
        ctx.add_stream(futures::stream::unfold(Signal::Run, move |seen| {
            let lifeline = lifeline.clone();
            async move {
                if seen == Signal::Kill {
                    return None;
                }
                let signal = lifeline.raised(seen).await;
                Some((signal, signal))
            }
        }));
        for spec in std::mem::take(&mut self.first) {
            self.add(spec, ctx);
        }
    }
}

impl StreamHandler<Report> for Node {
    fn handle(&mut self, report: Report, ctx: &mut Self::Context) {
        match report {
            Report::Exited(life, said) => {
                if let Some(event) = self.buried(life, said) {
                    self.drive(event, ctx);
                }
            }
            Report::Orphaned(life, exit) => {
                if self.line(life).is_some()
                    && let Some(entry) = self.entries.get_mut(&life.child)
                {
                    tracing::error!(actor = entry.path, %exit, "a supervisor fell before its children");
                    entry.verdict = Some(exit);
                    self.drive(Event::Orphaned(life), ctx);
                }
            }
        }
    }

    /// Actix would stop the actor; it ends when its machine says so.
    fn finished(&mut self, _: &mut Self::Context) {}
}

impl StreamHandler<Signal> for Node {
    fn handle(&mut self, signal: Signal, ctx: &mut Self::Context) {
        self.drive(Event::Signal(signal), ctx);
    }

    /// After `Kill` nothing more can be said.
    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Handler<Command> for Node {
    type Result = ();

    fn handle(&mut self, command: Command, ctx: &mut Self::Context) {
        match command {
            Command::Add(spec) => self.add(*spec, ctx),
            Command::Remove(path, signal) => {
                if let Some(id) = self.id(&path) {
                    self.drive(Event::Remove(id, signal), ctx);
                }
            }
            Command::Kill(path) => {
                if let Some(id) = self.id(&path) {
                    self.drive(Event::Kill(id), ctx);
                }
            }
            Command::Fall(path, fall) => {
                let entry = self.entries.values().find(|entry| entry.path == path);
                if let Some(lifeline) = entry.and_then(|entry| entry.lifeline.as_ref()) {
                    lifeline.order(fall);
                }
            }
            Command::Ping(answer) => {
                if answer.send(()).is_err() {
                    tracing::debug!("whoever asked has stopped waiting");
                }
            }
        }
    }
}

impl Drop for Node {
    /// A supervisor that fell takes its children with it; its tombstone stands until they are gone.
    fn drop(&mut self) {
        if !self.ended {
            self.tomb.orphan(falling());
        }
        for entry in self.entries.values() {
            if let Some(lifeline) = &entry.lifeline {
                lifeline.raise(Signal::Kill);
            }
            self.env.registry.remove(&entry.path);
        }
        self.env.census.actor_ends();
    }
}
