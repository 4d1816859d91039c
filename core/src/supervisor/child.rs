//! One child of a supervisor: its phase, and the transitions that concern it alone. Never knows its siblings.

use super::{Beat, ChildId, ChildRules, ChildState, Effect, Kind, Life, Signal};
use crate::ids::Incarnation;
use crate::time::Now;
use std::time::Duration;

/// What becomes of a child once the incarnation that is being stopped is gone; the later ones override the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Then {
    /// Its restart policy decides.
    Return,
    /// It stays down.
    Stay,
    /// It is forgotten.
    Forget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Dead; comes back at this time, or later if siblings must come first.
    Waiting { until: Now },
    /// Being built.
    Starting,
    /// Alive.
    Running,
    /// Alive, and told to end. `ordered`: by us, so that its exit is charged to nobody.
    Stopping { signal: Signal, deadline: Option<Now>, then: Then, ordered: bool },
    /// Dead.
    Down,
}

/// When signs of life were last seen and are next looked for.
#[derive(Clone, Copy, Debug)]
struct Pulse {
    limit: Duration,
    count: u64,
    seen: Now,
    next: Now,
}

#[derive(Clone, Debug)]
pub(super) struct Child {
    pub(super) id: ChildId,
    pub(super) rules: ChildRules,
    pub(super) phase: Phase,
    pub(super) incarnation: Incarnation,
    /// Crashes in a row.
    pub(super) crashes: u32,
    /// When the incarnation was started.
    pub(super) since: Now,
    kind: Kind,
    pulse: Option<Pulse>,
}

impl Child {
    pub(super) const fn new(id: ChildId, rules: ChildRules, last: Incarnation, phase: Phase) -> Self {
        Self { id, rules, phase, incarnation: last, crashes: 0, since: Now(0), kind: Kind::Worker, pulse: None }
    }

    const fn life(&self) -> Life {
        Life { child: self.id, incarnation: self.incarnation }
    }

    pub(super) const fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Running | Phase::Stopping { .. })
    }

    pub(super) const fn state(&self) -> ChildState {
        match self.phase {
            Phase::Waiting { .. } if self.incarnation.0 == 0 => ChildState::Starting,
            Phase::Waiting { .. } => ChildState::Backoff,
            Phase::Starting => ChildState::Starting,
            Phase::Running => ChildState::Running,
            Phase::Stopping { .. } => ChildState::Draining,
            Phase::Down => ChildState::Stopped,
        }
    }

    pub(super) fn start(&mut self, now: Now) -> Effect {
        self.incarnation = self.incarnation.next();
        self.phase = Phase::Starting;
        self.since = now;
        self.kind = Kind::Worker;
        self.pulse = None;
        Effect::Start(self.life())
    }

    pub(super) fn started(&mut self, kind: Kind, now: Now) {
        self.kind = kind;
        if self.phase == Phase::Starting {
            self.phase = Phase::Running;
            self.pulse =
                self.rules.heartbeat.map(|limit| Pulse { limit, count: 0, seen: now, next: now + look(limit) });
        }
    }

    /// Tells a live incarnation to end; what it was told before only ever gets stronger.
    pub(super) fn stop(
        &mut self,
        asked: Signal,
        then: Then,
        ordered: bool,
        grace: Duration,
        now: Now,
    ) -> Option<Effect> {
        let (signal, then, ordered) = match self.phase {
            Phase::Stopping { signal, deadline, then: before, ordered: was } => {
                let (then, ordered) = (then.max(before), ordered || was);
                if signal >= asked {
                    self.phase = Phase::Stopping { signal, deadline, then, ordered };
                    return None;
                }
                (asked, then, ordered)
            }
            Phase::Starting | Phase::Running => (asked, then, ordered),
            Phase::Waiting { .. } | Phase::Down => return None,
        };
        let deadline = match (signal, self.kind) {
            (Signal::Run | Signal::Drain, _) => Some(now + self.rules.shutdown),
            (Signal::Kill, Kind::Worker) => Some(now + grace),
            (Signal::Kill, Kind::Supervisor) => None,
        };
        self.phase = Phase::Stopping { signal, deadline, then, ordered };
        Some(Effect::Signal(self.life(), signal))
    }

    /// Kills a supervisor that died before its children: nobody but us sees to it that they end.
    pub(super) fn orphaned(&mut self, grace: Duration, now: Now) -> Option<Effect> {
        let effect = self.stop(Signal::Kill, Then::Return, false, grace, now);
        if let Phase::Stopping { deadline, .. } = &mut self.phase {
            deadline.get_or_insert(now + grace);
        }
        effect
    }

    /// The next step against a child that did not end in time.
    pub(super) fn overdue(&mut self, grace: Duration, now: Now) -> Option<Effect> {
        let Phase::Stopping { signal, deadline: Some(deadline), then, ordered } = self.phase else { return None };
        if deadline > now {
            return None;
        }
        if signal < Signal::Kill {
            return self.stop(Signal::Kill, then, ordered, grace, now);
        }
        self.phase = Phase::Stopping { signal, deadline: None, then, ordered };
        Some(Effect::Abandon(self.life()))
    }

    /// Asks for signs of life when it is time to.
    pub(super) fn look(&mut self, now: Now) -> Option<Effect> {
        let life = self.life();
        let pulse = self.pulse.as_mut().filter(|pulse| self.phase == Phase::Running && pulse.next <= now)?;
        pulse.next = now + look(pulse.limit);
        Some(Effect::TakePulse(life))
    }

    /// Whether the incarnation has been silent for too long.
    pub(super) fn is_hung(&mut self, beat: Beat, now: Now) -> bool {
        let Some(pulse) = self.pulse.as_mut().filter(|_| self.phase == Phase::Running) else { return false };
        if beat.idle || beat.count != pulse.count {
            pulse.count = beat.count;
            pulse.seen = now;
        }
        now - pulse.seen > pulse.limit
    }

    /// When this child needs the supervisor next, its restart apart.
    pub(super) fn deadline(&self) -> Option<Now> {
        match self.phase {
            Phase::Stopping { deadline, .. } => deadline,
            Phase::Running => self.pulse.map(|pulse| pulse.next),
            Phase::Waiting { .. } | Phase::Starting | Phase::Down => None,
        }
    }
}

/// How often signs of life are looked for: a hang is noticed after 1 to 1.25 times its limit (and a millisecond).
fn look(limit: Duration) -> Duration {
    (limit / 4).max(Duration::from_millis(1))
}
