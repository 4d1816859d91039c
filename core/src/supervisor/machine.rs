//! The supervisor's transitions. Never keeps a child's number for another child.

use super::child::{Child, Phase, Then};
use super::{
    Charge, ChildId, ChildRules, ChildState, Death, Effect, End, Event, Life, OnFailed, Rules, Signal, StopOrder,
    Strategy, SupervisorState,
};
use crate::ids::Incarnation;
use crate::machine::Machine;
use crate::restart::{RestartBudget, RestartPolicy};
use crate::time::Now;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Running,
    /// The budget is spent; children are being killed.
    Failing,
    /// All children are down until then.
    Failed {
        retry_at: Now,
    },
    /// Children are drained; those not yet told to end still come back, because others drain through them.
    Draining,
    /// Children are being killed, and then this is the end.
    Killing(End),
    Ended,
}

/// A supervisor (DESIGN §4).
#[derive(Clone, Debug)]
pub struct Supervisor {
    rules: Rules,
    mode: Mode,
    budget: RestartBudget,
    /// In start order.
    children: Vec<Child>,
}

impl Supervisor {
    /// A supervisor without children.
    #[must_use]
    pub const fn new(rules: Rules) -> Self {
        Self { rules, mode: Mode::Running, budget: RestartBudget::new(rules.intensity), children: Vec::new() }
    }

    /// When it wants its next `Tick`, if nothing else happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Now> {
        let retry = if let Mode::Failed { retry_at } = self.mode { Some(retry_at) } else { None };
        let children = self.children.iter().enumerate().filter_map(|(i, child)| match child.phase {
            Phase::Waiting { until } => self.may_start(i).then_some(until),
            _ => child.deadline(),
        });
        children.chain(retry).min()
    }

    /// Its own state.
    #[must_use]
    pub const fn state(&self) -> SupervisorState {
        match self.mode {
            Mode::Running => SupervisorState::Running,
            Mode::Failing | Mode::Failed { .. } => SupervisorState::Failed,
            Mode::Draining | Mode::Killing(_) => SupervisorState::Draining,
            Mode::Ended => SupervisorState::Stopped,
        }
    }

    /// A child's state and its current or last incarnation (0 before the first).
    #[must_use]
    pub fn child(&self, child: ChildId) -> Option<(ChildState, Incarnation)> {
        self.children.iter().find(|c| c.id == child).map(|c| (c.state(), c.incarnation))
    }

    fn index(&self, child: ChildId) -> Option<usize> {
        self.children.iter().position(|c| c.id == child)
    }

    /// The place of a child whose current incarnation is alive and is this one; what is said of others is too late.
    fn live(&self, life: Life) -> Option<usize> {
        self.index(life.child)
            .filter(|&i| self.children[i].is_live() && self.children[i].incarnation == life.incarnation)
    }

    fn on_event(&mut self, event: Event, now: Now, effects: &mut Vec<Effect>) {
        let grace = self.rules.kill_grace;
        match event {
            Event::Add(child, rules, last) => self.add(child, rules, last, now, effects),
            Event::Remove(child, signal) => {
                if let Some(i) = self.index(child) {
                    self.stop(i, signal.max(Signal::Drain), Then::Forget, now, effects);
                }
            }
            Event::Kill(child) => {
                if let Some(i) = self.index(child) {
                    self.stop(i, Signal::Kill, Then::Return, now, effects);
                }
            }
            Event::Started(life, kind) => {
                if let Some(i) = self.live(life) {
                    self.children[i].started(kind, now);
                }
            }
            Event::Exited(life, death) => {
                if let Some(i) = self.live(life) {
                    self.exited(i, death, now, effects);
                }
            }
            Event::Orphaned(life) => {
                if let Some(i) = self.live(life) {
                    effects.extend(self.children[i].orphaned(grace, now));
                }
            }
            Event::Pulse(life, beat) => {
                if let Some(i) = self.live(life)
                    && self.children[i].is_hung(beat, now)
                {
                    effects.push(Effect::Hung(life));
                    effects.extend(self.children[i].stop(Signal::Kill, Then::Return, false, grace, now));
                }
            }
            Event::Signal(signal) => self.signal(signal, now, effects),
            Event::Tick => {}
        }
    }

    fn add(&mut self, id: ChildId, rules: ChildRules, last: Incarnation, now: Now, effects: &mut Vec<Effect>) {
        let phase = match self.mode {
            Mode::Running => Phase::Waiting { until: now },
            Mode::Failing | Mode::Failed { .. } => Phase::Down,
            Mode::Draining | Mode::Killing(_) | Mode::Ended => {
                effects.push(Effect::Forget(id));
                return;
            }
        };
        debug_assert!(self.children.last().is_none_or(|c| c.id < id), "child numbers rise");
        self.children.push(Child::new(id, rules, last, phase));
    }

    /// Stops one child on order; one that is dead already is where it should be at once.
    fn stop(&mut self, i: usize, signal: Signal, then: Then, now: Now, effects: &mut Vec<Effect>) {
        if self.children[i].is_live() {
            effects.extend(self.children[i].stop(signal, then, true, self.rules.kill_grace, now));
        } else {
            self.settle(i, then, effects);
        }
    }

    /// Puts a dead child where its stopping meant it to be.
    fn settle(&mut self, i: usize, then: Then, effects: &mut Vec<Effect>) {
        match then {
            Then::Return => {}
            Then::Stay => self.children[i].phase = Phase::Down,
            Then::Forget => {
                let child = self.children.remove(i);
                effects.push(Effect::Forget(child.id));
            }
        }
    }

    fn exited(&mut self, i: usize, death: Death, now: Now, effects: &mut Vec<Effect>) {
        let (normal, charge) = match self.children[i].phase {
            Phase::Stopping { then: then @ (Then::Stay | Then::Forget), .. } => {
                return self.settle(i, then, effects);
            }
            Phase::Stopping { ordered: true, .. } => (false, Charge::Nobody),
            Phase::Stopping { .. } => (false, death.charge),
            _ => (death.normal, death.charge),
        };
        let policy = self.children[i].rules.restart;
        if !policy.restarts(normal) {
            let forget = policy == RestartPolicy::Temporary;
            return self.settle(i, if forget { Then::Forget } else { Then::Stay }, effects);
        }
        let child = &mut self.children[i];
        let mut until = now;
        if charge == Charge::Crash {
            if now - child.since >= self.rules.backoff.healthy {
                child.crashes = 0;
            }
            child.crashes = child.crashes.saturating_add(1);
            until = now + self.rules.backoff.delay(child.crashes, death.draw);
        }
        child.phase = Phase::Waiting { until };
        if charge == Charge::Crash && !self.budget.charge(now) {
            return self.fail(now, effects);
        }
        if self.rules.strategy == Strategy::RestForOne {
            for follower in (i + 1..self.children.len()).rev() {
                self.stop(follower, Signal::Kill, Then::Return, now, effects);
            }
        }
    }

    fn fail(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.mode = if self.mode == Mode::Draining { Mode::Killing(End::Failed) } else { Mode::Failing };
        self.stop_all(Signal::Kill, now, effects);
    }

    /// Tells every child to end for good, the one started last first.
    fn stop_all(&mut self, signal: Signal, now: Now, effects: &mut Vec<Effect>) {
        for i in (0..self.children.len()).rev() {
            self.stop(i, signal, Then::Stay, now, effects);
        }
    }

    fn signal(&mut self, signal: Signal, now: Now, effects: &mut Vec<Effect>) {
        match (signal, self.mode) {
            (Signal::Run, _) | (_, Mode::Ended) => {}
            (Signal::Drain, Mode::Running) => {
                self.mode = Mode::Draining;
                if self.rules.stop_order == StopOrder::Together {
                    self.stop_all(Signal::Drain, now, effects);
                }
            }
            (Signal::Drain, Mode::Failing | Mode::Failed { .. }) => self.mode = Mode::Killing(End::Drained),
            (Signal::Drain, Mode::Draining | Mode::Killing(_)) => {}
            (Signal::Kill, _) => {
                self.mode = Mode::Killing(End::Killed);
                self.stop_all(Signal::Kill, now, effects);
            }
        }
    }

    /// Whether nothing but time keeps the dead child at `i` from being started.
    fn may_start(&self, i: usize) -> bool {
        if !matches!(self.mode, Mode::Running | Mode::Draining) {
            return false;
        }
        match self.rules.strategy {
            Strategy::OneForOne => true,
            Strategy::RestForOne => {
                let before = self.children[..i].iter().all(|c| matches!(c.phase, Phase::Running | Phase::Down));
                before && !self.children[i + 1..].iter().any(Child::is_live)
            }
        }
    }

    fn start_due(&mut self, now: Now, effects: &mut Vec<Effect>) {
        for i in 0..self.children.len() {
            if let Phase::Waiting { until } = self.children[i].phase
                && until <= now
                && self.may_start(i)
            {
                effects.push(self.children[i].start(now));
            }
        }
    }

    /// Does what has become possible or due.
    fn progress(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let grace = self.rules.kill_grace;
        for child in &mut self.children {
            effects.extend(child.overdue(grace, now));
            effects.extend(child.look(now));
        }
        if self.mode == Mode::Draining {
            self.drain_next(now, effects);
        }
        let all_down = self.children.iter().all(|c| c.phase == Phase::Down);
        match self.mode {
            Mode::Draining if all_down => self.end(End::Drained, effects),
            Mode::Killing(end) if all_down => self.end(end, effects),
            Mode::Failing if all_down => match self.rules.on_failed {
                OnFailed::Escalate => self.end(End::Failed, effects),
                OnFailed::Retry(after) => self.mode = Mode::Failed { retry_at: now + after },
            },
            Mode::Failed { retry_at } if retry_at <= now => self.retry(now),
            _ => {}
        }
        self.start_due(now, effects);
    }

    /// Drains the last child that is not down yet.
    fn drain_next(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some(i) = self.children.iter().rposition(|c| c.phase != Phase::Down) {
            self.stop(i, Signal::Drain, Then::Stay, now, effects);
            if self.children[i].is_live() {
                return;
            }
        }
    }

    fn retry(&mut self, now: Now) {
        self.mode = Mode::Running;
        self.budget.reset();
        for child in &mut self.children {
            child.crashes = 0;
            child.phase = Phase::Waiting { until: now };
        }
    }

    fn end(&mut self, end: End, effects: &mut Vec<Effect>) {
        self.mode = Mode::Ended;
        effects.push(Effect::Ended(end));
    }
}

impl Machine for Supervisor {
    type Event = Event;
    type Effect = Effect;

    fn step(&mut self, event: Event, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        let before = self.state();
        self.on_event(event, now, &mut effects);
        self.progress(now, &mut effects);
        if self.state() != before {
            effects.push(Effect::Became(self.state()));
        }
        effects
    }
}
