//! Threads for work that may block, panic or never end: as many as a limit says, started when they are needed. Never lets
//! a request wait for one, or for its work, longer than it is patient.

use crate::gateway::problem::Problem;
use actix_web::http::StatusCode;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

type Job = Box<dyn FnOnce() + Send>;

/// The threads.
pub(in crate::gateway) struct Pool {
    /// One permit for each thread that has nothing to do or is not started yet. Work holds its permit until it has ended,
    /// whether anybody still waits for it or not: work that never ends takes its thread for good.
    free: Arc<Semaphore>,
    threads: Arc<Mutex<Threads>>,
    patience: Duration,
    overdue: Gauge,
}

/// Work whose request is not answered yet.
const AWAITED: u8 = 0;
/// Work that nobody waits for any more, and that goes on.
const OVERDUE: u8 = 1;
/// Work that has ended.
const ENDED: u8 = 2;

/// The threads that were started and have nothing to do, each by the way to give it work. Threads end with the pool.
#[derive(Default)]
struct Threads {
    idle: Vec<Sender<Job>>,
    started: usize,
    is_over: bool,
}

impl Pool {
    /// Of no thread yet, and of `threads_max` at most. `overdue` counts those whose work was given up on and goes on.
    pub(in crate::gateway) fn new(threads_max: usize, patience: Duration, overdue: Gauge) -> Self {
        let free = Arc::new(Semaphore::new(threads_max.clamp(1, Semaphore::MAX_PERMITS)));
        Self { free, threads: Arc::default(), patience, overdue }
    }

    /// Runs this for a request of the route.
    ///
    /// # Errors
    /// 503 where no thread was free, or the work was not done in time; 500 where it panicked.
    pub(in crate::gateway) async fn run<T: Send + 'static>(
        &self,
        route: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let (tell, told) = oneshot::channel();
        let state = Arc::new(AtomicU8::new(AWAITED));
        let (its_state, overdue) = (Arc::clone(&state), self.overdue.clone());
        let begun = async {
            let permit = Arc::clone(&self.free).acquire_owned().await.map_err(|_| busy())?;
            let job = move || {
                // A request that has gone does not wait for its answer any more.
                drop(tell.send(catch_unwind(AssertUnwindSafe(work))));
                if its_state.swap(ENDED, Ordering::AcqRel) == OVERDUE {
                    overdue.dec();
                }
                permit
            };
            self.start(job).map_err(|error| {
                tracing::error!(route, %error, "no thread can be started for steps at the edge");
                busy()
            })
        };
        let began = tokio::time::Instant::now();
        timeout(self.patience, begun).await.unwrap_or_else(|_| Err(busy()))?;
        let left = self.patience.saturating_sub(began.elapsed());
        match timeout(left, told).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            // What it panicked with was logged by the process' panic hook.
            Ok(Ok(Err(_)) | Err(_)) => {
                tracing::error!(route, "a step at the edge crashed; it costs its request");
                let detail = "A step of this route crashed over the request; nothing was stored.";
                Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "step-crashed", "Step crashed", detail))
            }
            Err(_) => {
                // Counted before its end can see that it is overdue, and taken back where that came first.
                self.overdue.inc();
                if state.compare_exchange(AWAITED, OVERDUE, Ordering::AcqRel, Ordering::Acquire).is_err() {
                    self.overdue.dec();
                }
                tracing::error!(route, patience = ?self.patience, "steps at the edge were not done in time");
                let detail = format!(
                    "The route's steps were not done within {} s; nothing was stored.",
                    self.patience.as_secs_f64()
                );
                Err(Problem::unavailable("steps-timeout", "Steps too slow", detail))
            }
        }
    }

    /// Hands the job to a thread. Who holds a permit finds one that is idle, or there may be one more.
    fn start<P: Send + 'static>(&self, job: impl FnOnce() -> P + Send + 'static) -> std::io::Result<()> {
        let mut threads = self.threads.lock();
        let thread = match threads.idle.pop() {
            Some(thread) => thread,
            None => {
                let (thread, jobs) = channel();
                let name = format!("edge-steps-{}", threads.started);
                std::thread::Builder::new().name(name).spawn(move || work_off(&jobs))?;
                threads.started += 1;
                thread
            }
        };
        let (pool, again) = (Arc::clone(&self.threads), thread.clone());
        let job: Job = Box::new(move || {
            let permit = job();
            let mut threads = pool.lock();
            if !threads.is_over {
                threads.idle.push(again);
            }
            drop(threads);
            // Only now: whoever gets it must find this thread idle.
            drop(permit);
        });
        thread.send(job).map_err(|_| std::io::Error::other("the thread has ended"))
    }
}

/// Ends once nobody can give it work any more.
fn work_off(jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        job();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut threads = self.threads.lock();
        threads.is_over = true;
        threads.idle.clear();
    }
}

fn busy() -> Problem {
    let detail = "The steps of this route are busy with other requests; try again shortly.";
    Problem::unavailable("overloaded", "Overloaded", detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
    }

    fn thread_name() -> String {
        std::thread::current().name().unwrap_or_default().to_owned()
    }

    #[test]
    fn work_is_done_and_threads_are_used_again() {
        block_on(async {
            // With one permit, the next piece of work waits until the thread is idle again.
            let pool = Pool::new(1, PATIENCE, Gauge::default());
            for _ in 0..20 {
                assert_eq!(pool.run("/", thread_name).await, Ok("edge-steps-0".to_owned()));
            }
            let pool = Pool::new(8, PATIENCE, Gauge::default());
            let together: Vec<_> = (0..50).map(|n| pool.run("/", move || n)).collect();
            let answers = futures::future::join_all(together).await;
            assert_eq!(answers.into_iter().collect::<Result<Vec<_>, _>>(), Ok((0..50).collect()));
            assert!(pool.threads.lock().started <= 8, "the limit holds");
        });
    }

    #[test]
    fn a_panic_costs_its_request_and_no_thread() {
        block_on(async {
            let pool = Pool::new(1, PATIENCE, Gauge::default());
            let crashed = pool.run("/", || assert_eq!(1, 2, "on purpose")).await;
            assert_eq!(crashed.map_err(|problem| (problem.status.as_u16(), problem.code)), Err((500, "step-crashed")));
            assert_eq!(pool.run("/", thread_name).await, Ok("edge-steps-0".to_owned()));
        });
    }

    #[test]
    fn what_never_ends_takes_its_thread_and_nobody_waits_for_it_too_long() {
        block_on(async {
            let overdue = Gauge::default();
            let pool = Pool::new(1, Duration::from_millis(20), overdue.clone());
            let (release, held) = mpsc::channel::<()>();
            let code = |problem: Problem| (problem.status.as_u16(), problem.code, problem.retry_after_s);
            let hung = pool.run("/", move || held.recv().is_ok()).await;
            assert_eq!(hung.map_err(code), Err((503, "steps-timeout", Some(1))));
            assert_eq!(overdue.get(), 1);
            let refused = pool.run("/", thread_name).await;
            assert_eq!(refused.map_err(code), Err((503, "overloaded", Some(1))));
            release.send(()).expect("it hangs on this");
            let free = timeout(PATIENCE, pool.free.acquire()).await.expect("it ends").expect("never closed");
            drop(free);
            assert_eq!(overdue.get(), 0, "it has ended");
            assert_eq!(pool.run("/", thread_name).await, Ok("edge-steps-0".to_owned()));
        });
    }

    /// Tells when its thread has ended.
    struct Last(mpsc::Sender<()>);

    impl Drop for Last {
        fn drop(&mut self) {
            self.0.send(()).expect("the test waits");
        }
    }

    thread_local! {
        static LAST: std::cell::RefCell<Option<Last>> = const { std::cell::RefCell::new(None) };
    }

    #[test]
    fn threads_end_with_the_pool() {
        let pool = Pool::new(2, PATIENCE, Gauge::default());
        let (tell, told) = mpsc::channel();
        let noted = block_on(pool.run("/", || LAST.with(|last| last.replace(Some(Last(tell))).is_none())));
        assert_eq!((noted, told.try_recv()), (Ok(true), Err(mpsc::TryRecvError::Empty)));
        drop(pool);
        told.recv_timeout(PATIENCE).expect("the thread ends");
    }
}
