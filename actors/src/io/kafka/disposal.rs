//! Drops clients on threads of their own, because dropping one may never return (rdkafka's consumers close and join
//! there), and counts those that do not, as it counts calls that were given up. Never waits for one.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// A healthy consumer is dropped within 0.15 s, a producer within 0.5 s (`notes/kafka-measured.md` E5, E8).
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Who is being dropped.
#[derive(Debug, Default)]
pub(super) struct Disposal {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    pending: BTreeMap<u64, Instant>,
    late: u64,
}

impl Disposal {
    /// Drops `client` elsewhere.
    pub(super) fn drop_elsewhere<T: Send + 'static>(self: &Arc<Self>, name: &str, client: T) {
        let id = self.begin();
        let disposal = Arc::clone(self);
        let label = name.to_owned();
        let spawned = thread::Builder::new().name("kafka-drop".into()).spawn(move || {
            drop(client);
            disposal.finished(id, &label);
        });
        if let Err(error) = spawned {
            // The closure, and the client in it, was dropped right here instead.
            tracing::warn!(client = name, %error, "no thread to drop a kafka client on");
            self.finished(id, name);
        }
    }

    /// From now on something is under way that may never end; [`Self::finished`] ends it.
    pub(super) fn begin(&self) -> u64 {
        let mut state = self.state.lock();
        state.next += 1;
        let id = state.next;
        state.pending.insert(id, Instant::now());
        id
    }

    /// What began under this number is over.
    pub(super) fn finished(&self, id: u64, name: &str) {
        let mut state = self.state.lock();
        let Some(since) = state.pending.remove(&id) else { return };
        if since.elapsed() > STUCK_AFTER {
            state.late += 1;
            tracing::warn!(
                client = name,
                took_ms = since.elapsed().as_millis() as u64,
                "a kafka client was slow to end"
            );
        }
    }

    /// How many drops and calls have taken or are taking longer than a healthy one ever does.
    pub(super) fn stuck_total(&self) -> u64 {
        let state = self.state.lock();
        state.late + state.pending.values().filter(|since| since.elapsed() > STUCK_AFTER).count() as u64
    }

    /// How many are under way now.
    pub(super) fn pending(&self) -> usize {
        self.state.lock().pending.len()
    }
}

#[cfg(test)]
mod tests {
    use super::Disposal;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};

    struct Hangs(Receiver<()>);

    impl Drop for Hangs {
        fn drop(&mut self) {
            // Ends when the sender goes away: that is the signal.
            if self.0.recv().is_ok() {
                unreachable!("nothing is ever sent");
            }
        }
    }

    #[test]
    fn a_drop_that_hangs_blocks_nobody() {
        let disposal = Arc::new(Disposal::default());
        let (release, held) = channel::<()>();
        disposal.drop_elsewhere("test", Hangs(held));
        assert_eq!((disposal.pending(), disposal.stuck_total()), (1, 0));
        drop(release);
        while disposal.pending() > 0 {
            std::thread::yield_now();
        }
        assert_eq!(disposal.stuck_total(), 0);
    }
}
