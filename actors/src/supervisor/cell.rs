//! The actor that hosts one incarnation's body, on a thread or as a task. Never decides what comes after it.

use super::tombstone::{Census, Tombstone, catch, last_panic};
use crate::shell::{Body, Exit, Lifeline, Signal, TaskBody, ThreadBody};
use actix::prelude::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, WrapFuture};
use bulkhead_core::fault::Fault;
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio::sync::oneshot;

pub(super) struct Cell {
    path: String,
    body: Option<Body>,
    lifeline: Lifeline,
    tomb: Arc<Tombstone>,
    census: Arc<Census>,
}

impl Cell {
    pub(super) fn new(path: String, body: Body, lifeline: Lifeline, tomb: Arc<Tombstone>, census: Arc<Census>) -> Self {
        census.actor_begins();
        Self { path, body: Some(body), lifeline, tomb, census }
    }

    fn run_thread(&self, run: ThreadBody, ctx: &mut Context<Self>) {
        let (tomb, lifeline) = (Arc::clone(&self.tomb), self.lifeline.clone());
        let (ended, wait) = oneshot::channel::<()>();
        lifeline.thread_begins();
        let main = move || {
            let exit = catch(|| run(lifeline.clone())).unwrap_or_else(|panicked| panicked);
            tomb.bury(exit);
            lifeline.thread_ends();
            drop((tomb, ended));
        };
        if let Err(error) = std::thread::Builder::new().name(thread_name(&self.path)).spawn(main) {
            self.lifeline.thread_ends();
            self.tomb.bury(Exit::Failed(Fault::transient("thread_not_started", error)));
            return ctx.stop();
        }
        let lifeline = self.lifeline.clone();
        let gone = async move {
            tokio::select! {
                _ = wait => {}
                () = lifeline.over() => {}
            }
        };
        ctx.spawn(gone.into_actor(self).map(|(), _, ctx| ctx.stop()));
    }

    fn run_task(&self, run: TaskBody, ctx: &mut Context<Self>) {
        let (tomb, lifeline) = (Arc::clone(&self.tomb), self.lifeline.clone());
        let work = AssertUnwindSafe({
            let lifeline = lifeline.clone();
            async move { run(lifeline).await }
        });
        let life = async move {
            let exit = tokio::select! {
                biased;
                _ = lifeline.raised(Signal::Drain) => Exit::Killed,
                ended = work.catch_unwind() => ended.unwrap_or_else(|_| last_panic()),
            };
            tomb.bury(exit);
        };
        ctx.spawn(life.into_actor(self).map(|(), _, ctx| ctx.stop()));
    }
}

impl Actor for Cell {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        match self.body.take() {
            Some(Body::Thread(run)) => self.run_thread(run, ctx),
            Some(Body::Task(run)) => self.run_task(run, ctx),
            None => ctx.stop(),
        }
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        self.census.actor_ends();
    }
}

/// The end of the path, which tells more than its start: Linux keeps 15 bytes of a thread's name.
fn thread_name(path: &str) -> String {
    let printable: Vec<char> = path.chars().filter(|c| c.is_ascii_graphic()).collect();
    printable[printable.len().saturating_sub(15)..].iter().collect()
}
