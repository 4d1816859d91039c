//! The ledger's cache as a shard's shell uses it: each call on a thread that may block, an error becomes an event.
//! Never keeps anything that the changelog does not have.

use crate::io::segment_cache::{CacheError, SegmentCache, SledCache};
use bulkhead_core::ids::SegmentSeq;
use bulkhead_core::ledger::{Event, Placed};
use parking_lot::Mutex;
use std::sync::Arc;

/// Segments removed in one step, so that trimming never holds a shard up for long.
const TRIM_STEPS: usize = 64;

/// See the module.
pub(crate) struct Cache(Arc<Mutex<SledCache>>);

impl Cache {
    pub(crate) fn new(cache: SledCache) -> Self {
        Self(Arc::new(Mutex::new(cache)))
    }

    async fn call<R: Send + 'static>(
        &self,
        call: impl FnOnce(&mut SledCache) -> Result<R, CacheError> + Send + 'static,
    ) -> Result<R, Event> {
        let cache = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || call(&mut cache.lock())).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Event::CacheFailed(error.to_string())),
            Err(panic) => Err(Event::CacheFailed(panic.to_string())),
        }
    }

    /// What the cache holds, as events.
    pub(crate) async fn load(&self) -> Vec<Event> {
        let loaded = self.call(|cache| {
            let mut events = Vec::new();
            cache.load(&mut |segments| events.push(Event::Cached(segments)))?;
            events.push(Event::CacheRead);
            Ok(events)
        });
        loaded.await.unwrap_or_else(|failed| vec![failed])
    }

    pub(crate) async fn store(&self, segments: Vec<Placed>) -> Option<Event> {
        self.call(move |cache| cache.append(&segments)).await.err()
    }

    pub(crate) async fn trim(&self, below: SegmentSeq) -> Option<Event> {
        // What is left is removed with the next trim: a cache that holds a few expired segments more is no harm.
        self.call(move |cache| cache.truncate(below, TRIM_STEPS)).await.err()
    }

    /// Moves the cache aside, unless another partition's shard did: whether it was this one. An error leaves the shard
    /// without one, which the machine knows already.
    pub(crate) async fn rebuild(&self, reason: String) -> bool {
        let moved = self.call(move |cache| cache.rebuild(&reason)).await;
        if let Err(Event::CacheFailed(why)) = &moved {
            tracing::error!(why, "the ledger goes on without a cache");
        }
        moved.unwrap_or(false)
    }
}
