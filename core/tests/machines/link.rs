//! The link against a list of items, each with the place where it is.

use crate::assignment;
use bulkhead_core::ids::{Assignment, LoanId};
use bulkhead_core::link::{Borrower, Lent, Link, LinkEffect, LinkEvent, Travels};
use bulkhead_core::machine::Machine;
use bulkhead_core::time::Now;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

const CAPACITY: usize = 5;

#[derive(Debug, PartialEq)]
struct Item(u32, Assignment);

impl Travels for Item {
    fn assignment(&self) -> Assignment {
        self.1
    }
}

#[derive(Clone, Debug)]
enum Op {
    Push(u64),
    Ask(u32),
    Settle(u64),
    Defer(u64, u64),
    Down(u32),
    Fence(u64),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u64..2).prop_map(Op::Push),
        5 => (0u32..3).prop_map(Op::Ask),
        // Numbers of loans, current ones and others.
        3 => (0u64..30).prop_map(Op::Settle),
        2 => ((0u64..30), 0u64..20).prop_map(|(loan, wait)| Op::Defer(loan, wait)),
        2 => (0u32..3).prop_map(Op::Down),
        1 => (0u64..2).prop_map(Op::Fence),
        2 => (1u64..20).prop_map(Op::Pass),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Lent again after this time; of equal ones the older loan first.
    Deferred(u64, u64),
    /// Lent in this order.
    Ready(i64),
    Lent(u64, u32),
}

/// The naive model: everything the link holds.
#[derive(Default)]
struct Model {
    items: Vec<(u32, u64, u32, Place)>,
    pushed: u32,
    loans: u64,
    first: i64,
}

impl Model {
    fn push(&mut self, generation: u64) -> u32 {
        self.pushed += 1;
        self.items.push((self.pushed, generation, 0, Place::Ready(i64::from(self.pushed))));
        self.pushed
    }

    /// What is lent next, and as which attempt.
    fn ask(&mut self, borrower: u32, now: u64) -> Option<(u32, u32)> {
        let due = |place: &Place| match place {
            Place::Deferred(at, _) => *at <= now,
            Place::Ready(_) => true,
            Place::Lent(..) => false,
        };
        let next = self.items.iter_mut().filter(|(.., place)| due(place));
        let next = next.min_by_key(|(.., place)| *place)?;
        self.loans += 1;
        next.2 += 1;
        next.3 = Place::Lent(self.loans, borrower);
        Some((next.0, next.2))
    }

    fn take(&mut self, loan: u64) -> Option<usize> {
        self.items.iter().position(|(.., place)| matches!(place, Place::Lent(of, _) if *of == loan))
    }

    fn down(&mut self, borrower: u32) -> usize {
        let held = |place: &Place| matches!(place, Place::Lent(_, of) if *of == borrower);
        let mut held: Vec<_> = self.items.iter_mut().filter(|(.., place)| held(place)).collect();
        held.sort_by_key(|(.., place)| std::cmp::Reverse(*place));
        for (.., place) in &mut held {
            self.first -= 1;
            *place = Place::Ready(self.first);
        }
        held.len()
    }

    fn lent(&self) -> usize {
        self.items.iter().filter(|(.., place)| matches!(place, Place::Lent(..))).count()
    }
}

proptest! {
    #[test]
    fn it_lends_and_counts_as_the_model_does(ops in prop::collection::vec(op(), 1..120)) {
        let (mut link, mut model, mut now) = (Link::new(CAPACITY), Model::default(), 0u64);
        for op in ops {
            match op {
                Op::Push(generation) => {
                    let number = model.push(generation);
                    let effects = link.step(LinkEvent::Push(Item(number, assignment(0, generation))), Now(now));
                    prop_assert_eq!(effects.contains(&LinkEffect::Overflow), model.items.len() > CAPACITY);
                }
                Op::Ask(borrower) => {
                    let effect = link.step(LinkEvent::Ask(Borrower(borrower)), Now(now)).pop();
                    match (model.ask(borrower, now), effect) {
                        (Some((item, attempt)), Some(LinkEffect::Lend(lent))) => {
                            prop_assert_eq!((lent.item.0, lent.attempt, lent.loan.0), (item, attempt, model.loans));
                        }
                        (None, Some(LinkEffect::Idle(until))) => {
                            let deferred = model.items.iter().filter_map(|(.., place)| match place {
                                Place::Deferred(at, _) => Some(Now(*at)),
                                _ => None,
                            });
                            prop_assert_eq!(until, deferred.min());
                        }
                        (expected, found) => prop_assert!(false, "{expected:?}, found {found:?}"),
                    }
                }
                Op::Settle(loan) => {
                    let expected = match model.take(loan) {
                        Some(at) => {
                            let (number, generation, ..) = model.items.remove(at);
                            LinkEffect::Release(Arc::new(Item(number, assignment(0, generation))))
                        }
                        None => LinkEffect::Late,
                    };
                    prop_assert_eq!(link.step(LinkEvent::Settle(LoanId(loan)), Now(now)), vec![expected]);
                }
                Op::Defer(loan, wait) => {
                    let at = model.take(loan);
                    let wait_ms = Duration::from_millis(wait);
                    let effects = link.step(LinkEvent::Defer(LoanId(loan), wait_ms), Now(now));
                    prop_assert_eq!(effects, vec![if at.is_some() { LinkEffect::Wake } else { LinkEffect::Late }]);
                    if let Some(at) = at {
                        model.items[at].3 = Place::Deferred(now + wait, loan);
                    }
                }
                Op::Down(borrower) => {
                    let held = model.down(borrower);
                    let effects = link.step(LinkEvent::Down(Borrower(borrower)), Now(now));
                    prop_assert_eq!(effects.is_empty(), held == 0, "somebody is woken for what came back");
                }
                Op::Fence(generation) => {
                    model.items.retain(|(_, of, ..)| *of != generation);
                    prop_assert!(link.step(LinkEvent::Fence(assignment(0, generation)), Now(now)).is_empty());
                }
                Op::Pass(ms) => now += ms,
            }
            prop_assert_eq!((link.depth() + link.lent(), link.lent()), (model.items.len(), model.lent()));
            let mut held: Vec<u32> = link.items().map(|item| item.0).collect();
            held.sort_unstable();
            let mut expected: Vec<u32> = model.items.iter().map(|item| item.0).collect();
            expected.sort_unstable();
            prop_assert_eq!(held, expected, "each item is in one place");
        }
    }
}

#[test]
fn a_new_incarnation_is_lent_what_the_dead_one_held_before_anything_else() {
    let mut link = Link::new(CAPACITY);
    let ask = |link: &mut Link<Item>, events: Vec<LinkEvent<Item>>| {
        let mut last = None;
        for event in events {
            last = link.step(event, Now(0)).pop();
        }
        match last {
            Some(LinkEffect::Lend(Lent { item, attempt, .. })) => (item.0, attempt),
            other => panic!("nothing was lent: {other:?}"),
        }
    };
    for number in 1..=3 {
        link.step(LinkEvent::Push(Item(number, assignment(0, 0))), Now(0));
    }
    assert_eq!(ask(&mut link, vec![LinkEvent::Ask(Borrower(0)), LinkEvent::Ask(Borrower(0))]), (2, 1));
    assert_eq!(ask(&mut link, vec![LinkEvent::Down(Borrower(0)), LinkEvent::Ask(Borrower(0))]), (1, 2));
    assert_eq!(ask(&mut link, vec![LinkEvent::Ask(Borrower(1))]), (2, 2));
    assert_eq!(ask(&mut link, vec![LinkEvent::Ask(Borrower(1))]), (3, 1));
}
