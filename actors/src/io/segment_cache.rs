//! The ledger's local cache of segments, on sled: one tree a partition, a segment under its sequence number. Never the
//! truth: whatever happens to it, the changelog topic has it all (`notes/reliability.md` §3).
//!
//! sled 0.34 may fail *or panic* on damaged files, so each call into it is caught, and a store that failed is moved
//! aside as `<directory>.bad-<n>` and begun anew. That ends the cache of every partition in it until their next
//! shards load theirs; a write of a shard that loaded from the store before is left out, for its tree would not be
//! whole.

use bulkhead_core::ids::{Offset, Partition, SegmentSeq};
use bulkhead_core::ledger::{Placed, Segment};
use parking_lot::RwLock;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many stores that were moved aside are kept for whoever wants to know why.
pub const BAD_STORES_KEPT: usize = 3;
/// What sled keeps in memory: it is read once, at a shard's start.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// How long a write may stay unsynced: what is lost with it is read from the changelog.
const FLUSH_EVERY_MS: u64 = 500;
/// How many segments are handed over at a time: at most 32 MiB of them.
const CHUNK: usize = 64;

/// The cache cannot be used; what it would have held is in the changelog.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ledger cache: {0}")]
pub struct CacheError(String);

/// One partition's cached segments.
pub trait SegmentCache: Send {
    /// Gives all segments, by ascending number, some at a time.
    ///
    /// # Errors
    /// The cache cannot be read or is damaged; what was given before must be forgotten.
    fn load(&mut self, give: &mut dyn FnMut(Vec<Placed>)) -> Result<(), CacheError>;

    /// Adds segments.
    ///
    /// # Errors
    /// The cache cannot be written.
    fn append(&mut self, segments: &[Placed]) -> Result<(), CacheError>;

    /// Removes at most `steps_max` segments below this one, the oldest first; says whether more are left.
    ///
    /// # Errors
    /// The cache cannot be written.
    fn truncate(&mut self, below: SegmentSeq, steps_max: usize) -> Result<bool, CacheError>;

    /// Moves the cache aside and goes on with an empty one.
    ///
    /// # Errors
    /// There is no cache from now on.
    fn rebuild(&mut self, reason: &str) -> Result<bool, CacheError>;
}

#[derive(Default)]
struct Open {
    db: Option<sled::Db>,
    /// How often the store was begun anew.
    age: u64,
}

/// The segment caches of one pipeline.
pub struct SegmentStore {
    dir: PathBuf,
    open: RwLock<Open>,
    rebuilds: AtomicU64,
}

impl SegmentStore {
    /// The store in this directory, which is made when it is first used.
    #[must_use]
    pub fn new(dir: PathBuf) -> Arc<Self> {
        Arc::new(Self { dir, open: RwLock::default(), rebuilds: AtomicU64::new(0) })
    }

    /// The cache of a partition.
    #[must_use]
    pub fn partition(self: &Arc<Self>, partition: Partition) -> SledCache {
        SledCache { store: self.clone(), partition, age: self.open.read().age }
    }

    /// How often the store was moved aside.
    #[must_use]
    pub fn rebuilds(&self) -> u64 {
        self.rebuilds.load(Ordering::Relaxed)
    }

    /// Runs `work` on the open store; `None` where it was begun anew since `age`.
    fn with<T>(
        &self,
        age: u64,
        work: impl FnOnce(&sled::Db) -> Result<T, CacheError>,
    ) -> Result<Option<T>, CacheError> {
        self.ensure_open()?;
        let open = self.open.read();
        match &open.db {
            Some(db) if open.age == age => guarded(|| work(db)).map(Some),
            _ => Ok(None),
        }
    }

    fn ensure_open(&self) -> Result<(), CacheError> {
        if self.open.read().db.is_some() {
            return Ok(());
        }
        let mut open = self.open.write();
        if open.db.is_none() {
            let config =
                sled::Config::new().path(&self.dir).cache_capacity(CACHE_BYTES).flush_every_ms(Some(FLUSH_EVERY_MS));
            open.db = Some(guarded(|| config.open().map_err(sled_error))?);
        }
        Ok(())
    }

    /// Moves the store aside, once for all who ask with the same `age`: whether it did.
    fn rebuild(&self, age: u64, reason: &str) -> Result<bool, CacheError> {
        let mut open = self.open.write();
        if open.age != age {
            return Ok(false);
        }
        open.age += 1;
        self.rebuilds.fetch_add(1, Ordering::Relaxed);
        if let Some(db) = open.db.take() {
            close_aside(db);
        }
        let aside = self.move_aside()?;
        tracing::warn!(reason, aside = %aside.display(), "ledger cache moved aside, it is rebuilt from the changelog");
        Ok(true)
    }

    fn move_aside(&self) -> Result<PathBuf, CacheError> {
        let mut bad = self.bad_stores()?;
        let aside = bad_path(&self.dir, bad.last().map_or(1, |newest| newest + 1));
        if self.dir.exists() {
            std::fs::rename(&self.dir, &aside).map_err(|error| CacheError(error.to_string()))?;
            bad.push(bad.last().map_or(1, |newest| newest + 1));
        }
        for old in bad.iter().rev().skip(BAD_STORES_KEPT) {
            std::fs::remove_dir_all(bad_path(&self.dir, *old)).map_err(|error| CacheError(error.to_string()))?;
        }
        Ok(aside)
    }

    /// The numbers of the stores that were moved aside, ascending.
    fn bad_stores(&self) -> Result<Vec<u64>, CacheError> {
        let prefix = bad_prefix(&self.dir);
        let Some(parent) = self.dir.parent().filter(|parent| parent.exists()) else { return Ok(Vec::new()) };
        let entries = std::fs::read_dir(parent).map_err(|error| CacheError(error.to_string()))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut numbers: Vec<u64> = names.filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// The cache of one partition, for one shard: see [`SegmentStore`].
pub struct SledCache {
    store: Arc<SegmentStore>,
    partition: Partition,
    /// The age of the store that this shard loaded from.
    age: u64,
}

impl SledCache {
    fn with<T>(&self, work: impl FnOnce(&sled::Tree) -> Result<T, CacheError>) -> Result<Option<T>, CacheError> {
        self.store.with(self.age, |db| {
            let tree = db.open_tree(format!("segments-{}", self.partition)).map_err(sled_error)?;
            work(&tree)
        })
    }
}

impl SegmentCache for SledCache {
    fn load(&mut self, give: &mut dyn FnMut(Vec<Placed>)) -> Result<(), CacheError> {
        self.age = self.store.open.read().age;
        self.with(|tree| {
            let mut chunk = Vec::new();
            for item in tree.iter() {
                let (key, value) = item.map_err(sled_error)?;
                chunk.push(decode(&key, &value)?);
                if chunk.len() == CHUNK {
                    give(std::mem::take(&mut chunk));
                }
            }
            give(chunk);
            Ok(())
        })
        .map(|_| ())
    }

    fn append(&mut self, segments: &[Placed]) -> Result<(), CacheError> {
        self.with(|tree| {
            let mut batch = sled::Batch::default();
            for Placed { at, segment } in segments {
                batch.insert(&key(segment.seq()), [&at.0.to_le_bytes()[..], segment.wire()].concat());
            }
            tree.apply_batch(batch).map_err(sled_error)
        })
        .map(|_| ())
    }

    fn truncate(&mut self, below: SegmentSeq, steps_max: usize) -> Result<bool, CacheError> {
        let more = self.with(|tree| {
            let mut batch = sled::Batch::default();
            let mut steps = 0;
            for item in tree.range(..key(below)).keys().take(steps_max) {
                batch.remove(item.map_err(sled_error)?);
                steps += 1;
            }
            tree.apply_batch(batch).map_err(sled_error)?;
            Ok(steps == steps_max)
        })?;
        Ok(more.unwrap_or(false))
    }

    fn rebuild(&mut self, reason: &str) -> Result<bool, CacheError> {
        let rebuilt = self.store.rebuild(self.age, reason);
        self.age = self.store.open.read().age;
        rebuilt
    }
}

fn key(seq: SegmentSeq) -> [u8; 8] {
    seq.0.to_be_bytes()
}

fn decode(key: &[u8], value: &[u8]) -> Result<Placed, CacheError> {
    let seq = <[u8; 8]>::try_from(key).map_err(|_| CacheError("a key is no segment number".into()))?;
    let (at, wire) = value.split_first_chunk().ok_or_else(|| CacheError("a segment ends too early".into()))?;
    let segment = Segment::decode(wire.to_vec().into()).map_err(|damage| CacheError(damage.to_string()))?;
    if segment.seq() != SegmentSeq(u64::from_be_bytes(seq)) {
        return Err(CacheError(format!("segment {} lies in another's place", segment.seq())));
    }
    Ok(Placed { at: Offset(i64::from_le_bytes(*at)), segment })
}

fn bad_prefix(dir: &Path) -> String {
    let name = dir.file_name().map_or_else(|| "ledger".into(), |name| name.to_string_lossy());
    format!("{name}.bad-")
}

fn bad_path(dir: &Path, number: u64) -> PathBuf {
    dir.with_file_name(format!("{}{number}", bad_prefix(dir)))
}

fn sled_error(error: sled::Error) -> CacheError {
    CacheError(error.to_string())
}

/// Runs what may panic.
fn guarded<T>(work: impl FnOnce() -> Result<T, CacheError>) -> Result<T, CacheError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(CacheError(format!("panicked: {text}")))
    })
}

/// Closes a store that failed. On a thread of its own: sled writes what it still holds, and nobody knows how that ends.
fn close_aside(db: sled::Db) {
    let closing = std::thread::Builder::new().name("segment-cache-close".into()).spawn(move || {
        if let Err(error) = guarded(|| {
            drop(db);
            Ok(())
        }) {
            tracing::warn!(%error, "closing a failed ledger cache");
        }
    });
    if let Err(error) = closing {
        tracing::warn!(%error, "no thread to close a failed ledger cache on; it was closed here");
    }
}
