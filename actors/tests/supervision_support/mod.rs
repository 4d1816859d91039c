//! What supervision tests share: a clock that stands still until it is told to move, and bodies that end on command.
//! Never sleeps on real time.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use bulkhead_actors::shell::{Body, Exit, Lifeline, Signal};
use bulkhead_actors::supervisor::{Root, RootHandle, SupervisorSpec};
use bulkhead_core::fault::Fault;
use bulkhead_core::ids::Incarnation;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

/// Keeps the paused clock from running ahead: tokio does so when all tasks wait, but not while a blocking call is
/// out, and this one is out until it is dropped.
pub struct StillClock(mpsc::Sender<()>);

impl StillClock {
    pub fn new() -> Self {
        tokio::time::pause();
        let (hold, released) = mpsc::channel::<()>();
        drop(tokio::task::spawn_blocking(move || released.recv().is_err()));
        Self(hold)
    }

    /// Moves the clock by `span_ms`, millisecond by millisecond up to the last, so that timers fire in their order.
    pub async fn pass(&self, span_ms: u64) {
        for _ in 0..span_ms {
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        settle().await;
    }
}

/// Lets the clock run until the actor has this incarnation, and not a millisecond longer: its thread runs on its own
/// time and would be taken for hung.
pub async fn pass_until(clock: &StillClock, root: &RootHandle, path: &str, incarnation: u32) {
    while root.actor(path).is_none_or(|actor| actor.incarnation < Incarnation(incarnation)) {
        clock.pass(1).await;
    }
    runs(root, path, incarnation).await;
}

/// Lets every task that can run do so.
pub async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// How a scripted body goes on.
#[derive(Clone, Debug)]
pub enum Act {
    Exit(Exit),
    Panic(&'static str),
    /// Neither beats nor heeds signals, until it is released.
    Hang,
}

#[derive(Default)]
struct Stage {
    acts: VecDeque<Act>,
    released: bool,
}

/// A body that does what the test says next, and drains and dies when it is told to.
#[derive(Clone, Default)]
pub struct Puppet {
    stage: Arc<(Mutex<Stage>, Condvar)>,
    wake: Arc<tokio::sync::Notify>,
    /// What incarnations said, in order, and whether they still counted then.
    said: tokio::sync::watch::Sender<Vec<Said>>,
}

/// Who said what, and whether he still counted.
pub type Said = (Incarnation, &'static str, bool);

impl Puppet {
    pub fn act(&self, act: Act) {
        self.stage.0.lock().unwrap().acts.push_back(act);
        self.stage.1.notify_all();
        self.wake.notify_one();
    }

    pub fn panic(&self) {
        self.act(Act::Panic("on command"));
    }

    pub fn fail(&self) {
        self.act(Act::Exit(Exit::Failed(Fault::fatal("on_command", "the test said so"))));
    }

    /// Lets hung threads end.
    pub fn release(&self) {
        self.stage.0.lock().unwrap().released = true;
        self.stage.1.notify_all();
    }

    fn say(&self, lifeline: &Lifeline, what: &'static str) {
        self.said.send_modify(|said| said.push((lifeline.incarnation(), what, lifeline.current())));
    }

    pub fn words(&self) -> Vec<&'static str> {
        self.said.borrow().iter().map(|(_, what, _)| *what).collect()
    }

    /// Waits until somebody says this.
    pub async fn says(&self, word: &str) -> Said {
        self.says_times(word, 1).await
    }

    /// Waits until this was said so many times.
    pub async fn says_times(&self, word: &str, times: usize) -> Said {
        let mut said = self.said.subscribe();
        let nth = |said: &Vec<Said>| said.iter().filter(|(_, what, _)| *what == word).nth(times - 1).copied();
        let said = said.wait_for(|said| nth(said).is_some()).await.unwrap();
        nth(&said).unwrap()
    }

    pub fn thread(&self) -> Body {
        let puppet = self.clone();
        Body::thread(move |lifeline| {
            let stage = Arc::clone(&puppet.stage);
            lifeline.on_signal(move || {
                drop(stage.0.lock());
                stage.1.notify_all();
            });
            lifeline.idle();
            puppet.say(&lifeline, "up");
            let exit = puppet.play(&lifeline);
            puppet.say(&lifeline, "down");
            exit
        })
    }

    fn play(&self, lifeline: &Lifeline) -> Exit {
        let (lock, wake) = &*self.stage;
        let mut stage = lock.lock().unwrap();
        loop {
            match lifeline.signal() {
                Signal::Run => {}
                Signal::Drain => return Exit::Done,
                Signal::Kill => return Exit::Killed,
            }
            match stage.acts.pop_front() {
                Some(Act::Exit(exit)) => return exit,
                Some(Act::Panic(message)) => {
                    drop(stage);
                    panic!("{message}");
                }
                Some(Act::Hang) => {
                    lifeline.beat();
                    self.say(lifeline, "hangs");
                    while !stage.released {
                        stage = wake.wait(stage).unwrap();
                    }
                    return Exit::Done;
                }
                None => stage = wake.wait(stage).unwrap(),
            }
        }
    }

    pub fn task(&self) -> Body {
        let puppet = self.clone();
        Body::task(move |lifeline| async move {
            lifeline.idle();
            puppet.say(&lifeline, "up");
            let exit = puppet.perform(&lifeline).await;
            puppet.say(&lifeline, "down");
            exit
        })
    }

    async fn perform(&self, lifeline: &Lifeline) -> Exit {
        loop {
            let next = self.stage.0.lock().unwrap().acts.pop_front();
            match next {
                Some(Act::Exit(exit)) => return exit,
                Some(Act::Panic(message)) => panic!("{message}"),
                Some(Act::Hang) => {
                    lifeline.beat();
                    self.say(lifeline, "hangs");
                    std::future::pending::<()>().await;
                }
                None => {}
            }
            tokio::select! {
                () = self.wake.notified() => {}
                _ = lifeline.changed() => return Exit::Done,
            }
        }
    }
}

/// Starts a tree and waits until each of `paths` runs.
pub async fn start(spec: SupervisorSpec, paths: &[&str]) -> RootHandle {
    let root = Root::start(spec);
    for path in paths {
        runs(&root, path, 1).await;
    }
    root
}

/// Waits until this incarnation of the actor runs.
pub async fn runs(root: &RootHandle, path: &str, incarnation: u32) {
    let there = |actor: Option<&bulkhead_actors::supervisor::ActorView>| {
        actor.is_some_and(|actor| actor.state == "running" && actor.incarnation == Incarnation(incarnation))
    };
    root.until(path, there).await;
}

pub async fn in_state(root: &RootHandle, path: &str, state: &str) {
    root.until(path, |actor| actor.is_some_and(|actor| actor.state == state)).await;
}

pub fn incarnation(root: &RootHandle, path: &str) -> u32 {
    root.actor(path).expect("the actor lives").incarnation.0
}

pub fn last_restart(root: &RootHandle, path: &str) -> String {
    root.actor(path).and_then(|actor| actor.last_restart).unwrap_or_default()
}

/// No actor is left and no thread.
pub fn assert_nobody_left(root: &RootHandle) {
    assert_eq!(root.actors(), []);
    assert_eq!(root.tree(), serde_json::Value::Null);
    assert_eq!((root.live_actors(), root.threads()), (0, 0), "actors and threads of bodies");
}
