//! The actor that empties one queue of the outbox: sends what is in front, in order, and lets go of what is acknowledged.
//! Never gives a record up.

use super::Queue;
use crate::io::embedded::parcels::Parcel;
use crate::log::{LogError, Producer};
use crate::shell::{Exit, Lifeline, Signal};
use bulkhead_core::outbox::Window;
use bulkhead_core::retry::RetryPolicy;
use futures::future::{Either, join_all, select};
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How many records are on their way at once at most.
const WINDOW: usize = 500;
/// How many bytes.
const WINDOW_BYTES: u64 = 8 << 20;
/// The first wait after a failure, and the longest.
const BACKOFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// The body of the actor: until it is told to end. What it leaves is on the disk.
pub fn run(lifeline: &Lifeline, queue: &Arc<Queue>, producer: &dyn Producer) -> Exit {
    let this = thread::current();
    queue.state.lock().deliverer = Some(this.clone());
    lifeline.on_signal(move || this.unpark());
    let retry = RetryPolicy { initial: BACKOFF[0], max: BACKOFF[1], ..RetryPolicy::default() };
    let (mut window, mut failures) = (Window::new(WINDOW), 0_u32);
    loop {
        match lifeline.signal() {
            Signal::Run => {}
            Signal::Drain => return Exit::Done,
            Signal::Kill => return Exit::Killed,
        }
        match turn(lifeline, queue, producer, window.records()) {
            // A put or a signal wakes it; one that came before leaves a token.
            Ok(0) => thread::park(),
            Ok(_) => {
                failures = 0;
                window.arrived();
            }
            Err(error) => {
                window.failed();
                failures = failures.saturating_add(1);
                let wait = retry.wait(failures, Duration::ZERO, rand::random()).unwrap_or(BACKOFF[1]);
                tracing::warn!(queue = %queue.name, %error, ?wait, "records wait in the outbox");
                thread::park_timeout(wait.max(BACKOFF[0]));
            }
        }
    }
}

/// Sends what is in front; how many records have left.
fn turn(lifeline: &Lifeline, queue: &Queue, producer: &dyn Producer, records_max: usize) -> Result<usize, LogError> {
    let parcels = queue.front(records_max, WINDOW_BYTES)?;
    if parcels.is_empty() {
        return Ok(0);
    }
    // Handed over in order; a producer keeps the order within a partition.
    let sends: Vec<_> = parcels.iter().map(|parcel| producer.send(parcel.outgoing.clone())).collect();
    let sent = async {
        match select(join_all(sends), pin!(lifeline.changed())).await {
            Either::Left((outcomes, _)) => outcomes,
            // Told to end: what is on its way is sent again by the next incarnation, under the same ids.
            Either::Right(_) => Vec::new(),
        }
    };
    let outcomes = futures::executor::block_on(sent);
    let arrived = outcomes.iter().take_while(|outcome| outcome.is_ok()).count();
    tell(queue, &parcels[..arrived], &outcomes);
    queue.remove(&parcels[..arrived])?;
    match outcomes.into_iter().nth(arrived) {
        Some(Err(error)) => Err(error),
        _ => Ok(arrived),
    }
}

fn tell<P, E>(queue: &Queue, arrived: &[Parcel], outcomes: &[Result<P, E>])
where
    P: std::fmt::Debug,
{
    for (parcel, place) in arrived.iter().zip(outcomes) {
        let id = parcel.outgoing.record.header(bulkhead_core::record::ID_HEADER).map(|id| String::from_utf8_lossy(id));
        tracing::debug!(queue = %queue.name, id = id.as_deref(), place = ?place.as_ref().ok(), "record left the outbox");
    }
}
