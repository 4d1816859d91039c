//! The supervisor machine against a naive model of its children: scripts of crashes, kills, hangs and shutdowns.
//! Never looks into the machine: only what it asks for and says.

use bulkhead_core::ids::Incarnation;
use bulkhead_core::machine::Machine;
use bulkhead_core::restart::{Backoff, Intensity, RestartPolicy};
use bulkhead_core::supervisor::{
    Beat, Charge, ChildId, ChildRules, ChildState, Death, Effect, End, Event, Kind, Life, OnFailed, Rules, Signal,
    StopOrder, Strategy as Restarting, Supervisor, SupervisorState,
};
use bulkhead_core::time::Now;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

#[derive(Clone, Debug)]
enum Op {
    Add(RestartPolicy),
    /// A child ends by itself.
    Exit(usize, bool, Charge),
    /// A child that was told to end does.
    Obey(usize),
    Kill(usize),
    Remove(usize, bool),
    /// A child's factory fails the next time.
    Unbuildable(usize),
    Silent(usize),
    Orphan(usize),
    /// An incarnation long gone is heard of.
    Late(usize),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let child = 0_usize..8;
    let policy = prop_oneof![3 => Just(RestartPolicy::Permanent), 1 => Just(RestartPolicy::Transient),
        1 => Just(RestartPolicy::Temporary)];
    let charge = prop_oneof![4 => Just(Charge::Crash), 1 => Just(Charge::Culprit), 1 => Just(Charge::Nobody)];
    prop_oneof![
        3 => policy.prop_map(Op::Add),
        6 => (child.clone(), prop::bool::weighted(0.2), charge).prop_map(|(c, n, by)| Op::Exit(c, n, by)),
        4 => child.clone().prop_map(Op::Obey),
        2 => child.clone().prop_map(Op::Kill),
        1 => (child.clone(), any::<bool>()).prop_map(|(c, kill)| Op::Remove(c, kill)),
        1 => child.clone().prop_map(Op::Unbuildable),
        1 => child.clone().prop_map(Op::Silent),
        1 => child.clone().prop_map(Op::Orphan),
        1 => child.prop_map(Op::Late),
        6 => (0_u64..300).prop_map(Op::Pass),
    ]
}

fn rules() -> impl Strategy<Value = Rules> {
    let strategy = prop_oneof![Just(Restarting::OneForOne), Just(Restarting::RestForOne)];
    let on_failed = prop_oneof![Just(OnFailed::Escalate), (1_u64..500).prop_map(|ms| OnFailed::Retry(MS * ms as u32))];
    let stop_order = prop_oneof![Just(StopOrder::Reverse), Just(StopOrder::Together)];
    (strategy, on_failed, stop_order, 0_u32..5, 1_u32..2_000).prop_map(
        |(strategy, on_failed, stop_order, restarts, period)| Rules {
            strategy,
            intensity: Intensity { restarts, period: MS * period },
            backoff: Backoff::default(),
            on_failed,
            stop_order,
            kill_grace: MS * 50,
        },
    )
}

/// A child as the model knows it.
#[derive(Debug)]
struct Puppet {
    policy: RestartPolicy,
    incarnation: Incarnation,
    live: bool,
    told: Signal,
    /// Somebody ordered its end.
    ordered: bool,
    unbuildable: bool,
}

struct World {
    rules: Rules,
    machine: Supervisor,
    now: Now,
    children: BTreeMap<ChildId, Puppet>,
    next: u32,
    /// Charged crashes since the budget was fresh, for ever.
    crashes: Vec<Now>,
    ended: Option<End>,
    draining: bool,
    todo: VecDeque<Event>,
}

impl World {
    fn new(rules: Rules) -> Self {
        let machine = Supervisor::new(rules);
        let (children, crashes, todo) = (BTreeMap::new(), Vec::new(), VecDeque::new());
        Self { rules, machine, now: Now(0), children, next: 0, crashes, ended: None, draining: false, todo }
    }

    fn nth(&self, n: usize) -> Option<Life> {
        let (child, puppet) = self.children.iter().nth(n % self.children.len().max(1))?;
        Some(Life { child: *child, incarnation: puppet.incarnation })
    }

    fn alive(&self, n: usize) -> Option<Life> {
        self.nth(n).filter(|life| self.children[&life.child].live)
    }

    fn happens(&mut self, event: Event) {
        self.todo.push_back(event);
        while let Some(event) = self.todo.pop_front() {
            let was = self.machine.state();
            let by_silence = matches!(event, Event::Pulse(..) | Event::Orphaned(_));
            let broke = self.note(&event);
            for effect in self.machine.step(event, self.now) {
                self.obey(effect, by_silence);
            }
            let is = self.machine.state();
            if broke && was == SupervisorState::Running {
                assert_ne!(is, SupervisorState::Running, "the budget is spent at {:?}", self.now);
            }
            if was == SupervisorState::Running && is == SupervisorState::Failed {
                assert!(broke, "failed with budget left");
            }
            if was == SupervisorState::Failed && is == SupervisorState::Running {
                self.crashes.clear();
            }
        }
    }

    /// Books an exit in the model. Answers whether it breaks the budget.
    fn note(&mut self, event: &Event) -> bool {
        let Event::Exited(life, death) = event else { return false };
        let restarting = matches!(self.machine.state(), SupervisorState::Running);
        let puppet = self.children.get_mut(&life.child).expect("known");
        assert!(puppet.live && puppet.incarnation == life.incarnation);
        puppet.live = false;
        let normal = death.normal && puppet.told == Signal::Run;
        let returns = puppet.policy.restarts(normal && !puppet.ordered);
        if !restarting || !returns {
            return false;
        }
        let charged = death.charge == Charge::Crash && !puppet.ordered;
        if charged {
            self.crashes.push(self.now);
        }
        let window = |crash: &&Now| self.now - **crash < self.rules.intensity.period;
        let broke = charged && self.crashes.iter().filter(window).count() > self.rules.intensity.restarts as usize;
        if self.rules.strategy == Restarting::RestForOne && !broke {
            let later = (std::ops::Bound::Excluded(life.child), std::ops::Bound::Unbounded);
            self.children.range_mut(later).for_each(|(_, follower)| follower.ordered = true);
        }
        broke
    }

    fn obey(&mut self, effect: Effect, by_silence: bool) {
        assert!(
            self.ended.is_none() || matches!(effect, Effect::Forget(_) | Effect::Became(_)),
            "{effect:?} after the end"
        );
        match effect {
            Effect::Start(life) => self.start(life),
            Effect::Signal(life, signal) => {
                let later_live = self.children.range(life.child..).skip(1).any(|(_, puppet)| puppet.live);
                if self.draining && signal == Signal::Drain && self.rules.stop_order == StopOrder::Reverse {
                    assert!(!later_live, "drained before those that started later were down");
                }
                let puppet = self.children.get_mut(&life.child).expect("known");
                assert!(puppet.live && puppet.incarnation == life.incarnation && signal > puppet.told);
                puppet.told = signal;
                puppet.ordered |= !by_silence;
            }
            Effect::TakePulse(life) => self.todo.push_back(Event::Pulse(life, Beat { count: 0, idle: true })),
            Effect::Hung(life) => assert!(self.children[&life.child].live),
            Effect::Abandon(life) => {
                assert_eq!(self.children[&life.child].told, Signal::Kill, "abandoned without a kill");
                self.todo.push_back(exited(life, false, Charge::Crash));
            }
            Effect::Forget(child) => {
                assert!(!self.children.remove(&child).expect("known").live, "forgotten alive");
            }
            Effect::Became(state) => assert_eq!(state, self.machine.state()),
            Effect::Ended(end) => {
                assert!(self.children.values().all(|puppet| !puppet.live), "ended with a child alive");
                self.ended = Some(end);
            }
        }
    }

    fn start(&mut self, life: Life) {
        if self.rules.strategy == Restarting::RestForOne {
            let later = self.children.range(life.child..).skip(1);
            assert!(later.into_iter().all(|(_, puppet)| !puppet.live), "started before those that depend on it fell");
        }
        let puppet = self.children.get_mut(&life.child).expect("known");
        assert!(!puppet.live, "two incarnations of {:?} alive", life.child);
        assert_eq!(life.incarnation, puppet.incarnation.next());
        (puppet.incarnation, puppet.live, puppet.told, puppet.ordered) = (life.incarnation, true, Signal::Run, false);
        let unbuildable = std::mem::take(&mut puppet.unbuildable);
        self.todo.push_back(if unbuildable {
            exited(life, false, Charge::Crash)
        } else {
            Event::Started(life, Kind::Worker)
        });
    }

    /// Lets time pass, with a tick whenever the machine asked for one.
    fn pass(&mut self, span_ms: u64) {
        let end = self.now + MS * span_ms as u32;
        while let Some(deadline) = self.machine.deadline().filter(|deadline| *deadline <= end) {
            assert!(deadline >= self.now, "a deadline in the past is never served");
            self.now = deadline;
            self.happens(Event::Tick);
            assert!(self.machine.deadline().is_none_or(|next| next > self.now), "a tick did not serve its deadline");
        }
        self.now = end;
    }

    fn play(&mut self, op: Op) {
        match op {
            Op::Add(restart) => {
                let child = ChildId(self.next);
                self.next += 1;
                let (policy, incarnation, told) = (restart, Incarnation(0), Signal::Run);
                let puppet = Puppet { policy, incarnation, live: false, told, ordered: false, unbuildable: false };
                self.children.insert(child, puppet);
                let rules = ChildRules { restart, shutdown: MS * 100, heartbeat: Some(MS * 80) };
                self.happens(Event::Add(child, rules, Incarnation(0)));
            }
            Op::Exit(n, normal, charge) => {
                if let Some(life) = self.alive(n) {
                    self.happens(exited(life, normal, charge));
                }
            }
            Op::Obey(n) => {
                if let Some(life) = self.alive(n).filter(|life| self.children[&life.child].told > Signal::Run) {
                    self.happens(exited(life, true, Charge::Crash));
                }
            }
            Op::Kill(n) => {
                if let Some(life) = self.alive(n) {
                    self.children.get_mut(&life.child).expect("known").ordered = true;
                    self.happens(Event::Kill(life.child));
                }
            }
            Op::Remove(n, kill) => {
                if let Some(life) = self.nth(n) {
                    let puppet = self.children.get_mut(&life.child).expect("known");
                    (puppet.ordered, puppet.policy) = (true, RestartPolicy::Temporary);
                    self.happens(Event::Remove(life.child, if kill { Signal::Kill } else { Signal::Drain }));
                }
            }
            Op::Unbuildable(n) => {
                if let Some(life) = self.nth(n) {
                    self.children.get_mut(&life.child).expect("known").unbuildable = true;
                }
            }
            Op::Silent(n) => {
                if let Some(life) = self.alive(n) {
                    self.pass(81);
                    if self.children.get(&life.child).is_some_and(|p| p.live && p.incarnation == life.incarnation) {
                        self.happens(Event::Pulse(life, Beat { count: 0, idle: false }));
                    }
                }
            }
            Op::Orphan(n) => {
                if let Some(life) = self.alive(n) {
                    self.happens(Event::Orphaned(life));
                }
            }
            Op::Late(n) => {
                if let Some(life) = self.alive(n).filter(|life| life.incarnation > Incarnation::FIRST) {
                    let late = Life { incarnation: Incarnation(life.incarnation.0 - 1), ..life };
                    let effects = self.machine.step(exited(late, false, Charge::Crash), self.now);
                    assert_eq!(effects, [], "what is said of a former incarnation was heeded");
                }
            }
            Op::Pass(span_ms) => self.pass(span_ms),
        }
    }

    /// Every child obeys at once, or none ever does and each must be abandoned.
    fn shut_down(&mut self, signal: Signal, obedient: bool) {
        self.draining = signal == Signal::Drain;
        self.happens(Event::Signal(signal));
        for _ in 0..=4 * self.children.len() {
            let told: Vec<usize> = (0..self.children.len()).collect();
            if obedient {
                told.into_iter().rev().for_each(|n| self.play(Op::Obey(n)));
            } else {
                self.pass(151);
            }
        }
        assert!(self.ended.is_some(), "the shutdown never ends: {:?}", self.children);
        assert!(self.children.values().all(|puppet| !puppet.live));
        assert_eq!(self.machine.deadline(), None);
    }
}

fn exited(life: Life, normal: bool, charge: Charge) -> Event {
    Event::Exited(life, Death { normal, charge, draw: 7 })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Along the way `World` asserts: never two incarnations alive, rest_for_one's order, the budget as a naive window,
    /// drain order, no deadline missed. Here: every shutdown ends with every child down.
    #[test]
    fn any_script_keeps_the_rules_and_every_shutdown_ends(
        rules in rules(), script in prop::collection::vec(op(), 0..80), drain: bool, obedient: bool,
    ) {
        let mut world = World::new(rules);
        for op in script {
            world.play(op);
        }
        if world.ended.is_none() {
            world.shut_down(if drain { Signal::Drain } else { Signal::Kill }, obedient);
        }
    }

    /// Whatever happened: left in peace, a supervisor that has not ended has all its permanent children up again.
    #[test]
    fn left_in_peace_all_come_back(rules in rules(), script in prop::collection::vec(op(), 0..60)) {
        let mut world = World::new(rules);
        for op in script {
            world.play(op);
        }
        world.children.values_mut().for_each(|puppet| puppet.unbuildable = false);
        for _ in 0..40 {
            (0..world.children.len()).for_each(|n| world.play(Op::Obey(n)));
            world.pass(1_000);
        }
        for (child, puppet) in &world.children {
            if world.ended.is_none() && puppet.policy == RestartPolicy::Permanent {
                prop_assert_eq!(world.machine.child(*child), Some((ChildState::Running, puppet.incarnation)));
            }
        }
    }
}

#[test]
fn the_first_restart_is_immediate_the_next_ones_wait_and_health_forgives() {
    let intensity = Intensity { restarts: 100, period: Duration::from_secs(30) };
    let backoff = Backoff::default();
    let (strategy, on_failed, stop_order) = (Restarting::OneForOne, OnFailed::Escalate, StopOrder::Reverse);
    let mut world = World::new(Rules { strategy, intensity, backoff, on_failed, stop_order, kill_grace: MS });
    world.play(Op::Add(RestartPolicy::Permanent));
    let mut waits = Vec::new();
    for _ in 0..4 {
        world.play(Op::Exit(0, false, Charge::Crash));
        let died = world.now;
        while world.alive(0).is_none() {
            world.pass(1);
        }
        waits.push((world.now - died).as_millis());
    }
    assert_eq!(waits, [0, 50, 100, 200], "half of each wait, the draw being next to nothing");
    world.pass(30_000);
    world.play(Op::Exit(0, false, Charge::Crash));
    assert!(world.alive(0).is_some(), "healthy for 30 s: at once again");
    world.play(Op::Exit(0, false, Charge::Culprit));
    assert!(world.alive(0).is_some(), "a culprit's crash does not make its worker wait");
}
