//! Values under keys that expire, in a directory of their own: what is worth remembering on one machine and is not the
//! truth of anything. Never keeps more keys than its limit: at the limit the one that expires first is forgotten.
//!
//! Values survive the process (handed to the system with each change), not a machine that loses power. A store that is
//! damaged is moved aside as `<directory>.bad` and begun anew: nothing here is worth not to start for.

use crate::log::LogError;
use bulkhead_core::time::WallMs;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

const VALUES: &str = "values";
/// Memory for what was read and for what is not yet in tables.
const CACHE_BYTES: u64 = 4 << 20;
/// Bytes before a value: when it expires, Unix milliseconds.
const EXPIRY_LEN: usize = 8;

/// What a store may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueLimits {
    /// Keys at a time, at least 1.
    pub keys_max: usize,
    /// Bytes of one value.
    pub value_bytes_max: usize,
}

/// When each key expires, and the same with the first to go in front.
#[derive(Default)]
struct Expiries {
    by_key: HashMap<Vec<u8>, i64>,
    by_time: BTreeSet<(i64, Vec<u8>)>,
}

impl Expiries {
    fn set(&mut self, key: &[u8], at: i64) {
        if let Some(before) = self.by_key.insert(key.to_owned(), at) {
            self.by_time.remove(&(before, key.to_owned()));
        }
        self.by_time.insert((at, key.to_owned()));
    }

    /// The key that is to go: the first one, where it has expired or there are more than may be.
    fn pop(&mut self, now: WallMs, keys_max: usize) -> Option<Vec<u8>> {
        let is_due = |at: i64| at <= now.0 || self.by_key.len() > keys_max;
        let (_, key) = self.by_time.first().filter(|(at, _)| is_due(*at)).cloned()?;
        self.by_time.pop_first();
        self.by_key.remove(&key);
        Some(key)
    }
}

/// See the module. One process holds a directory; all its users share one store.
pub struct ValueStore {
    path: PathBuf,
    limits: ValueLimits,
    values: Keyspace,
    db: Database,
    /// Held over a change, so that none is lost between its reading and its writing.
    expiries: Mutex<Expiries>,
}

/// The stores that are open in this process.
static OPEN: OnceLock<Mutex<HashMap<PathBuf, Weak<ValueStore>>>> = OnceLock::new();

impl ValueStore {
    /// The store in this directory, which is made where there is none; the open one where another part of this process
    /// has it already, whose limits then hold.
    ///
    /// # Errors
    /// `Refused`: another process has it, or the directory cannot be written.
    pub fn open(path: &Path, limits: ValueLimits) -> Result<Arc<Self>, LogError> {
        let mut open = OPEN.get_or_init(Mutex::default).lock();
        if let Some(store) = open.get(path).and_then(Weak::upgrade) {
            return Ok(store);
        }
        let store = match guarded(path, || Self::open_here(path, limits)) {
            Err(LogError::Refused(why)) if path.exists() && !is_locked(&why) => {
                tracing::warn!(path = %path.display(), why, "a store of values is damaged: moved aside, begun anew");
                move_aside(path)?;
                guarded(path, || Self::open_here(path, limits))?
            }
            opened => opened?,
        };
        let store = Arc::new(store);
        open.retain(|_, store| store.strong_count() > 0);
        open.insert(path.to_owned(), Arc::downgrade(&store));
        Ok(store)
    }

    fn open_here(path: &Path, limits: ValueLimits) -> Result<Self, LogError> {
        let fault = |e| fault(path, &e);
        let db = Database::builder(path).cache_size(CACHE_BYTES).worker_threads(1).open().map_err(fault)?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(CACHE_BYTES);
        let values = db.keyspace(VALUES, options).map_err(fault)?;
        let mut expiries = Expiries::default();
        for entry in values.iter() {
            let (key, value) = entry.into_inner().map_err(fault)?;
            let Some(at) = value.first_chunk::<EXPIRY_LEN>() else {
                return Err(LogError::Refused(format!("{}: a value cannot be read", path.display())));
            };
            expiries.set(&key, i64::from_be_bytes(*at));
        }
        Ok(Self { path: path.to_owned(), limits, values, db, expiries: Mutex::new(expiries) })
    }

    /// The value of this key, where it has one that has not expired.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn get(&self, key: &[u8], now: WallMs) -> Result<Option<Vec<u8>>, LogError> {
        let value = guarded(&self.path, || self.values.get(key).map_err(|e| fault(&self.path, &e)))?;
        Ok(value.and_then(|value| {
            let (at, value) = value.split_first_chunk::<EXPIRY_LEN>()?;
            (i64::from_be_bytes(*at) > now.0).then(|| value.to_owned())
        }))
    }

    /// Replaces the value of this key by what `change` makes of it, to expire after `ttl`. Nobody changes it meanwhile.
    ///
    /// # Errors
    /// The store cannot be read or written, or the new value is too large; the old one stays.
    pub fn update(
        &self,
        key: &[u8],
        now: WallMs,
        ttl: Duration,
        change: impl FnOnce(Option<Vec<u8>>) -> Vec<u8>,
    ) -> Result<(), LogError> {
        let mut expiries = self.expiries.lock();
        let value = change(self.get(key, now)?);
        if value.len() > self.limits.value_bytes_max {
            let (len, most) = (value.len(), self.limits.value_bytes_max);
            return Err(LogError::Refused(format!("a value of {len} bytes; at most {most} are kept")));
        }
        let at = now.0.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        let stored = [&at.to_be_bytes(), &*value].concat();
        guarded(&self.path, || {
            self.values.insert(key, stored).map_err(|e| fault(&self.path, &e))?;
            expiries.set(key, at);
            while let Some(gone) = expiries.pop(now, self.limits.keys_max.max(1)) {
                self.values.remove(gone).map_err(|e| fault(&self.path, &e))?;
            }
            self.db.persist(PersistMode::Buffer).map_err(|e| fault(&self.path, &e))
        })
    }

    /// How many keys it has, those among them that have expired since the last change.
    #[must_use]
    pub fn len(&self) -> usize {
        self.expiries.lock().by_key.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

const LOCKED: &str = "another process has it";

fn is_locked(why: &str) -> bool {
    why.contains(LOCKED)
}

fn fault(path: &Path, e: &fjall::Error) -> LogError {
    let path = path.display();
    match e {
        fjall::Error::Locked => LogError::Refused(format!("{path}: {LOCKED}")),
        fjall::Error::Io(e) if e.kind() == std::io::ErrorKind::StorageFull => {
            LogError::Unavailable(format!("{path}: {e}"))
        }
        other => LogError::Refused(format!("{path}: {other}")),
    }
}

/// Keeps the damaged store for whoever wants to know why; an earlier one makes room.
fn move_aside(path: &Path) -> Result<(), LogError> {
    let mut bad = path.as_os_str().to_owned();
    bad.push(".bad");
    let refused = |e: std::io::Error| LogError::Refused(format!("{}: {e}", path.display()));
    match std::fs::remove_dir_all(&bad) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(refused(e)),
        Ok(()) | Err(_) => {}
    }
    std::fs::rename(path, &bad).map_err(refused)
}

/// A store that panics (damaged files can make it) has failed, not its caller.
fn guarded<T>(path: &Path, call: impl FnOnce() -> Result<T, LogError>) -> Result<T, LogError> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(LogError::Refused(format!("{}: the store panicked", path.display()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ValueLimits = ValueLimits { keys_max: 3, value_bytes_max: 8 };
    const TTL: Duration = Duration::from_millis(100);

    fn put(store: &ValueStore, key: &str, now: i64, value: &str) {
        store.update(key.as_bytes(), WallMs(now), TTL, |_| value.into()).expect("it is kept");
    }

    fn get(store: &ValueStore, key: &str, now: i64) -> Option<String> {
        let value = store.get(key.as_bytes(), WallMs(now)).expect("it can be read");
        value.map(|value| String::from_utf8(value).expect("text"))
    }

    #[test]
    fn values_come_back_until_they_expire() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("values");
        let store = ValueStore::open(&path, LIMITS).expect("it opens");
        put(&store, "a", 0, "one");
        let again = ValueStore::open(&path, LIMITS).expect("the same one");
        assert!(Arc::ptr_eq(&store, &again));
        drop((store, again));

        let store = ValueStore::open(&path, LIMITS).expect("it opens again");
        assert_eq!((get(&store, "a", 99).as_deref(), get(&store, "a", 100)), (Some("one"), None));
        store.update(b"a", WallMs(50), TTL, |old| [old.unwrap_or_default(), b"+".into()].concat()).expect("changed");
        assert_eq!(get(&store, "a", 149).as_deref(), Some("one+"), "a change renews it");
        put(&store, "b", 200, "two");
        assert_eq!(store.len(), 1, "what expired is gone");
    }

    #[test]
    fn at_its_limits_it_forgets_the_first_to_expire_and_refuses_what_is_too_large() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = ValueStore::open(&dir.path().join("values"), LIMITS).expect("it opens");
        for (now, key) in [(0, "a"), (1, "b"), (2, "c"), (3, "a"), (4, "d")] {
            put(&store, key, now, key);
        }
        let kept: Vec<_> = ["a", "b", "c", "d"].into_iter().filter(|key| get(&store, key, 5).is_some()).collect();
        assert_eq!(kept, ["a", "c", "d"]);
        let refused = store.update(b"a", WallMs(5), TTL, |_| vec![0; 9]).expect_err("too large");
        assert!(refused.to_string().contains("9 bytes"), "{refused}");
        assert_eq!(get(&store, "a", 5).as_deref(), Some("a"), "the old one stays");
    }

    #[test]
    fn a_damaged_store_is_moved_aside() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("values");
        drop(ValueStore::open(&path, LIMITS).expect("it opens"));
        // The file by which fjall knows its own format.
        std::fs::write(path.join("version"), "garbage").expect("damaged");
        let store = ValueStore::open(&path, LIMITS).expect("begun anew");
        put(&store, "a", 0, "one");
        assert!(dir.path().join("values.bad").exists());
    }
}
