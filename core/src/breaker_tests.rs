//! The breaker against a naive model that keeps the whole history, and the corners by name.

use super::*;
use proptest::prelude::*;

const SPEC: BreakerSpec = BreakerSpec { failures: 3, rest: Duration::from_millis(100) };

#[derive(Clone, Debug)]
enum Act {
    /// Time passes.
    Pass(u64),
    /// A call wants to go; it stays under way.
    Call,
    /// Of the calls under way, this one ends.
    End(usize, Called),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..150_u64).prop_map(Act::Pass),
        Just(Act::Call),
        (0..6_usize, prop::bool::ANY)
            .prop_map(|(at, well)| Act::End(at, if well { Called::Well } else { Called::Badly })),
    ]
}

/// What happened, told in words: the state is read from it anew each time.
#[derive(Default)]
struct Story {
    /// (when, what): of the calls that went in the present era.
    ends: Vec<Called>,
    opened_at: Option<u64>,
    probe_at: Option<u64>,
    era: u64,
}

impl Story {
    fn may_go(&self, now: u64) -> bool {
        match (self.opened_at, self.probe_at) {
            (None, _) => true,
            (Some(_), Some(probe)) => now >= probe + 100,
            (Some(opened), None) => now >= opened + 100,
        }
    }

    fn went(&mut self, now: u64) -> u64 {
        if self.opened_at.is_some() {
            self.probe_at = Some(now);
            self.era += 1;
        }
        self.era
    }

    fn ended(&mut self, era: u64, called: Called, now: u64) {
        if era != self.era {
            return;
        }
        self.ends.push(called);
        let in_a_row = self.ends.iter().rev().take_while(|end| **end == Called::Badly).count();
        let is_over = if self.probe_at.is_some() { true } else { in_a_row >= 3 };
        if is_over {
            self.opened_at = (called == Called::Badly).then_some(now);
            self.probe_at = None;
            self.ends.clear();
            self.era += 1;
        }
    }
}

proptest! {
    #[test]
    fn it_lets_go_exactly_what_its_history_allows(acts in prop::collection::vec(act(), 1..120)) {
        let (mut breaker, mut story, mut now) = (Breaker::new(SPEC), Story::default(), 0);
        let mut under_way: Vec<(Leave, u64)> = Vec::new();
        for act in acts {
            match act {
                Act::Pass(ms) => now += ms,
                Act::Call => {
                    let admitted = breaker.admit(Now(now));
                    prop_assert_eq!(admitted.is_ok(), story.may_go(now));
                    match admitted {
                        Ok(leave) => under_way.push((leave, story.went(now))),
                        Err(Refusal::Open(wait)) => {
                            prop_assert!(wait > Duration::ZERO && wait <= SPEC.rest);
                            prop_assert!(story.may_go(now + wait.as_millis() as u64), "the wait is enough");
                        }
                        Err(Refusal::Asked(_)) => prop_assert!(false, "nobody asked"),
                    }
                }
                Act::End(at, called) if !under_way.is_empty() => {
                    let (leave, era) = under_way.remove(at % under_way.len());
                    breaker.report(leave, called, Now(now));
                    story.ended(era, called, now);
                }
                Act::End(..) => {}
            }
            prop_assert_eq!(breaker.is_open(), story.opened_at.is_some());
        }
    }

    #[test]
    fn a_host_that_stays_down_is_called_once_a_rest(calls in prop::collection::vec(0..30_u64, 1..300)) {
        let (mut breaker, mut now, mut went) = (Breaker::new(SPEC), 0, 0_u64);
        for pause in calls {
            now += pause;
            if let Ok(leave) = breaker.admit(Now(now)) {
                went += 1;
                breaker.report(leave, Called::Badly, Now(now));
            }
        }
        prop_assert!(went <= 3 + now / 100, "{went} calls in {now} ms");
    }

    #[test]
    fn no_more_hosts_are_remembered_than_may_be(hosts in prop::collection::vec(0..20_u8, 1..100), hosts_max in 1..6_usize) {
        let mut breakers = Breakers::new(SPEC, hosts_max);
        for host in hosts {
            let host = host.to_string();
            let leave = breakers.of(&host).admit(Now(0));
            prop_assert!(leave.is_ok());
            prop_assert!(breakers.len() <= hosts_max && breakers.hosts.contains_key(&host));
        }
    }
}

#[test]
fn a_probe_that_is_lost_makes_room_for_the_next() {
    let mut breaker = Breaker::new(BreakerSpec { failures: 1, ..SPEC });
    let leave = breaker.admit(Now(0)).expect("it is closed");
    breaker.report(leave, Called::Badly, Now(0));
    let lost = breaker.admit(Now(100)).expect("the rest is over");
    assert_eq!(breaker.admit(Now(150)), Err(Refusal::Open(Duration::from_millis(50))), "one probe at a time");
    let second = breaker.admit(Now(200)).expect("the first is lost");
    breaker.report(lost, Called::Badly, Now(210));
    breaker.report(second, Called::Well, Now(220));
    assert!(!breaker.is_open(), "what the lost one tells late changes nothing");
}

#[test]
fn who_asks_to_be_left_alone_is_and_nothing_opens() {
    let mut breaker = Breaker::new(SPEC);
    breaker.ask(Now(50));
    breaker.ask(Now(30));
    assert_eq!(breaker.admit(Now(20)), Err(Refusal::Asked(Duration::from_millis(30))));
    assert!(breaker.admit(Now(50)).is_ok() && !breaker.is_open());
}
