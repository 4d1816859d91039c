//! A circuit breaker: whether a host that failed is called again. Never calls it, and never lets more than one probe go to
//! a host that is thought to be down.
//!
//! Closed: every call goes. So many failures in a row open it: none goes for a while. Then one call goes as a probe: its
//! success closes the breaker, its failure opens it again. Besides, a host may ask to be left alone for a while
//! (`Retry-After`), which is no failure and opens nothing.

use crate::time::Now;
use std::collections::HashMap;
use std::time::Duration;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSpec {
    /// Failures in a row that open it, at least 1.
    pub failures: u32,
    /// How long it stays open; also how long a probe may take before another one goes.
    pub rest: Duration,
}

/// Leave to call, to be handed back with what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave {
    /// How often the breaker had opened or closed by then: what is told of a time long past changes nothing.
    era: u64,
    is_probe: bool,
}

/// Why a call may not go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The breaker is open; the next probe goes after this long.
    Open(Duration),
    /// The host asked to be left alone for this long.
    Asked(Duration),
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// The host answered as it should, be it that the request was wrong.
    Well,
    /// It did not.
    Badly,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many failures in a row so far.
    Closed(u32),
    /// Until then.
    Open(Now),
    /// A probe is under way, and counts as lost from then on.
    Probing(Now),
}

/// One host's breaker.
#[derive(Clone, Debug)]
pub struct Breaker {
    spec: BreakerSpec,
    state: State,
    era: u64,
    asked_until: Now,
}

impl Breaker {
    /// A closed one.
    #[must_use]
    pub const fn new(spec: BreakerSpec) -> Self {
        Self { spec, state: State::Closed(0), era: 0, asked_until: Now(0) }
    }

    /// Whether a call may go.
    ///
    /// # Errors
    /// It may not: why, and when it may.
    pub fn admit(&mut self, now: Now) -> Result<Leave, Refusal> {
        if self.asked_until > now {
            return Err(Refusal::Asked(self.asked_until - now));
        }
        match self.state {
            State::Closed(_) => Ok(Leave { era: self.era, is_probe: false }),
            State::Open(until) | State::Probing(until) if until > now => Err(Refusal::Open(until - now)),
            State::Open(_) | State::Probing(_) => {
                // A probe that was lost tells nothing any more.
                self.enter(State::Probing(now + self.spec.rest));
                Ok(Leave { era: self.era, is_probe: true })
            }
        }
    }

    /// Takes what came of a call.
    pub fn report(&mut self, leave: Leave, called: Called, now: Now) {
        if leave.era != self.era {
            return;
        }
        match (self.state, called) {
            (State::Closed(0), Called::Well) => {}
            (State::Closed(_), Called::Well) => self.state = State::Closed(0),
            (State::Probing(_), Called::Well) => self.enter(State::Closed(0)),
            (State::Closed(failures), Called::Badly) if failures + 1 < self.spec.failures.max(1) => {
                self.state = State::Closed(failures + 1);
            }
            (State::Closed(_) | State::Probing(_), Called::Badly) => self.enter(State::Open(now + self.spec.rest)),
            (State::Open(_), _) => debug_assert!(false, "no call goes in an era that began with opening"),
        }
    }

    /// The host asks to be left alone until then.
    pub fn ask(&mut self, until: Now) {
        self.asked_until = self.asked_until.max(until);
    }

    /// Whether it lets no call go but probes.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed(_))
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.era += 1;
    }
}

/// The breakers of several hosts. Never remembers more than its limit: the one that was used least lately goes.
#[derive(Debug)]
pub struct Breakers {
    spec: BreakerSpec,
    hosts_max: usize,
    hosts: HashMap<String, (Breaker, u64)>,
    uses: u64,
}

impl Breakers {
    /// All closed; `hosts_max` at least 1.
    #[must_use]
    pub fn new(spec: BreakerSpec, hosts_max: usize) -> Self {
        Self { spec, hosts_max: hosts_max.max(1), hosts: HashMap::new(), uses: 0 }
    }

    /// The breaker of this host.
    pub fn of(&mut self, host: &str) -> &mut Breaker {
        self.uses += 1;
        if !self.hosts.contains_key(host) && self.hosts.len() >= self.hosts_max {
            let oldest = self.hosts.iter().min_by_key(|(_, (_, used))| *used).map(|(host, _)| host.clone());
            oldest.map(|oldest| self.hosts.remove(&oldest));
        }
        let (breaker, used) = self.hosts.entry(host.to_owned()).or_insert_with(|| (Breaker::new(self.spec), 0));
        *used = self.uses;
        breaker
    }

    /// How many hosts are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
