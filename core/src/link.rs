//! A link: a bounded queue between stages that lends, and outlives the workers on both of its ends.
//! Never gives a batch away for good before it was answered, and never counts an answer twice.

use crate::ids::{Assignment, LoanId};
use crate::machine::Machine;
use crate::time::Now;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// What travels on links: it belongs to an assignment and is dropped with it.
pub trait Travels {
    /// The assignment it was cut under.
    fn assignment(&self) -> Assignment;
}

impl Travels for crate::batch::Batch {
    fn assignment(&self) -> Assignment {
        self.ticket.assignment
    }
}

/// Names a borrower: its place among its stage's workers. Each place has one live incarnation at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Borrower(pub u32);

/// What happens to a link.
#[derive(Debug)]
pub enum LinkEvent<T> {
    /// An item arrives.
    Push(T),
    /// A borrower has nothing to do.
    Ask(Borrower),
    /// A borrower is done with a loan for good.
    Settle(LoanId),
    /// A borrower hands a loan back, to be lent again after a wait.
    Defer(LoanId, Duration),
    /// An incarnation is gone; what it held is lent again.
    Down(Borrower),
    /// The assignment is over: its items end here.
    Fence(Assignment),
}

/// What a link wants done.
#[derive(Debug, PartialEq)]
pub enum LinkEffect<T> {
    /// Something can be borrowed: wake a borrower.
    Wake,
    /// Here is work for the borrower that asked.
    Lend(Lent<T>),
    /// Nothing for the borrower that asked; at this time there may be.
    Idle(Option<Now>),
    /// The item of a settled loan, for whoever comes next.
    Release(Arc<T>),
    /// The loan is not current any more: the answer counts for nothing.
    Late,
    /// More items than the link's capacity: the credits upstream do not hold (a sentinel; the item is kept).
    Overflow,
}

/// A loan as its borrower sees it.
#[derive(Debug, PartialEq)]
pub struct Lent<T> {
    /// Its number, for the answer.
    pub loan: LoanId,
    /// What is lent.
    pub item: Arc<T>,
    /// How often it has been lent, from 1.
    pub attempt: u32,
    /// How long it could have been lent before it was.
    pub waited: Duration,
}

/// An item that could be lent now.
#[derive(Debug)]
pub struct Due<'link, T> {
    /// The item.
    pub item: &'link T,
    /// How often it has been lent.
    pub attempts: u32,
    /// Since when it could be lent.
    pub since: Now,
}

#[derive(Debug)]
struct Waiting<T> {
    item: Arc<T>,
    attempt: u32,
    since: Now,
}

#[derive(Debug)]
struct Loan<T> {
    borrower: Borrower,
    waiting: Waiting<T>,
}

/// The queue and its loans. See [`LinkEvent`].
#[derive(Debug)]
pub struct Link<T> {
    capacity: usize,
    ready: VecDeque<Waiting<T>>,
    deferred: BTreeMap<(Now, LoanId), Waiting<T>>,
    loans: BTreeMap<LoanId, Loan<T>>,
    next_loan: LoanId,
}

impl<T: Travels> Link<T> {
    /// An empty link. `capacity` is what the credits of all partitions add up to.
    #[must_use]
    pub const fn new(capacity: usize) -> Self {
        Self {
            capacity,
            ready: VecDeque::new(),
            deferred: BTreeMap::new(),
            loans: BTreeMap::new(),
            next_loan: LoanId(1),
        }
    }

    /// Items that wait for a borrower.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.ready.len() + self.deferred.len()
    }

    /// Items in borrowers' hands.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.loans.len()
    }

    /// Everything the link holds, waiting or lent, in no order.
    pub fn items(&self) -> impl Iterator<Item = &Arc<T>> {
        let waiting = self.ready.iter().chain(self.deferred.values());
        waiting.chain(self.loans.values().map(|loan| &loan.waiting)).map(|waiting| &waiting.item)
    }

    /// What a loan is of; `None` where the loan is not current.
    #[must_use]
    pub fn item(&self, loan: LoanId) -> Option<&Arc<T>> {
        self.loans.get(&loan).map(|loan| &loan.waiting.item)
    }

    /// The loans that a borrower holds, oldest first, each with how often it has been lent.
    pub fn held_by(&self, borrower: Borrower) -> impl Iterator<Item = (LoanId, &Arc<T>, u32)> {
        let held = self.loans.iter().filter(move |(_, loan)| loan.borrower == borrower);
        held.map(|(id, loan)| (*id, &loan.waiting.item, loan.waiting.attempt))
    }

    /// What can be lent, in the order in which it will be.
    pub fn due(&self, now: Now) -> impl Iterator<Item = Due<'_, T>> {
        let deferred = self.deferred.range(..=(now, LoanId(u64::MAX))).map(|(_, waiting)| waiting);
        let due = deferred.chain(&self.ready);
        due.map(|waiting| Due { item: &*waiting.item, attempts: waiting.attempt, since: waiting.since })
    }

    /// When the next deferred item can be lent.
    #[must_use]
    pub fn next_deferred(&self) -> Option<Now> {
        self.deferred.first_key_value().map(|((at, _), _)| *at)
    }

    fn push(&mut self, item: T, now: Now) -> Vec<LinkEffect<T>> {
        self.ready.push_back(Waiting { item: Arc::new(item), attempt: 0, since: now });
        if self.depth() + self.lent() > self.capacity {
            return vec![LinkEffect::Overflow, LinkEffect::Wake];
        }
        vec![LinkEffect::Wake]
    }

    fn ask(&mut self, borrower: Borrower, now: Now) -> Vec<LinkEffect<T>> {
        let due = self.next_deferred().is_some_and(|at| at <= now);
        let next = if due { self.deferred.pop_first().map(|(_, waiting)| waiting) } else { self.ready.pop_front() };
        let Some(mut waiting) = next else {
            return vec![LinkEffect::Idle(self.next_deferred())];
        };
        waiting.attempt += 1;
        let loan = self.next_loan;
        self.next_loan = LoanId(loan.0 + 1);
        let (item, attempt, waited) = (Arc::clone(&waiting.item), waiting.attempt, now - waiting.since);
        let lent = Lent { loan, item, attempt, waited };
        self.loans.insert(loan, Loan { borrower, waiting });
        vec![LinkEffect::Lend(lent)]
    }

    fn settle(&mut self, loan: LoanId) -> Vec<LinkEffect<T>> {
        let settled = self.loans.remove(&loan).map(|loan| LinkEffect::Release(loan.waiting.item));
        vec![settled.unwrap_or(LinkEffect::Late)]
    }

    fn defer(&mut self, loan: LoanId, wait: Duration, now: Now) -> Vec<LinkEffect<T>> {
        let Some(deferred) = self.loans.remove(&loan) else { return vec![LinkEffect::Late] };
        let since = now + wait;
        self.deferred.insert((since, loan), Waiting { since, ..deferred.waiting });
        vec![LinkEffect::Wake]
    }

    /// Puts what the borrower held back in front, oldest first.
    fn down(&mut self, borrower: Borrower, now: Now) -> Vec<LinkEffect<T>> {
        let held: Vec<LoanId> = self.held_by(borrower).map(|(loan, _, _)| loan).collect();
        for loan in held.iter().rev() {
            if let Some(loan) = self.loans.remove(loan) {
                self.ready.push_front(Waiting { since: now, ..loan.waiting });
            }
        }
        if held.is_empty() { Vec::new() } else { vec![LinkEffect::Wake] }
    }

    fn fence(&mut self, over: Assignment) {
        let stays = |waiting: &Waiting<T>| waiting.item.assignment() != over;
        self.ready.retain(stays);
        self.deferred.retain(|_, waiting| stays(waiting));
        self.loans.retain(|_, loan| stays(&loan.waiting));
    }
}

impl<T: Travels> Machine for Link<T> {
    type Event = LinkEvent<T>;
    type Effect = LinkEffect<T>;

    fn step(&mut self, event: LinkEvent<T>, now: Now) -> Vec<LinkEffect<T>> {
        match event {
            LinkEvent::Push(item) => self.push(item, now),
            LinkEvent::Ask(borrower) => self.ask(borrower, now),
            LinkEvent::Settle(loan) => self.settle(loan),
            LinkEvent::Defer(loan, wait) => self.defer(loan, wait, now),
            LinkEvent::Down(borrower) => self.down(borrower, now),
            LinkEvent::Fence(assignment) => {
                self.fence(assignment);
                Vec::new()
            }
        }
    }
}
