//! The directory of an embedded log: one process holds it, and a count beside the store tells how much of it was
//! acknowledged. Never reads or writes a record.
//!
//! fjall cuts its journal at the first damage and opens without what came after. The count, written after each
//! commit was made durable, shows such a loss: a store that holds fewer commits than it acknowledged is damaged.

use super::codec::checksum;
use crate::log::LogError;
use std::fmt::Display;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";
const ACKNOWLEDGED: &str = "acknowledged";
const STORE: &str = "store";
const STORE_UNFINISHED: &str = "store.new";
/// The file that fjall writes last when it creates a store.
const STORE_MARKER: &str = "version";

/// A directory that this process holds until it is dropped.
pub(super) struct Directory {
    path: PathBuf,
    acknowledged: File,
    /// Unlocked when it is closed.
    _lock: File,
}

impl Directory {
    /// Takes the directory, and makes it where it does not exist.
    pub(super) fn take(path: &Path) -> Result<Self, LogError> {
        let failed = |e: io::Error| io_error(path, &e);
        std::fs::create_dir_all(path).map_err(failed)?;
        let rw = |name| {
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path.join(name)).map_err(failed)
        };
        let mut lock = rw(LOCK)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(path)),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(failed)?;
        Ok(Self { path: path.to_owned(), acknowledged: rw(ACKNOWLEDGED)?, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the store lies, and whether it is there. `create` makes a new one, elsewhere, so that one whose making
    /// was cut short is never opened.
    pub(super) fn store(&self, create: impl FnOnce(&Path) -> Result<(), LogError>) -> Result<PathBuf, LogError> {
        let store = self.path.join(STORE);
        let failed = |e: io::Error| io_error(&self.path, &e);
        if store.try_exists().map_err(failed)? {
            if !store.join(STORE_MARKER).try_exists().map_err(failed)? {
                return Err(damaged(&self.path, format!("{STORE}/{STORE_MARKER} is missing")));
            }
            return Ok(store);
        }
        if let Some(count) = self.acknowledged()? {
            return Err(damaged(&self.path, format!("{STORE} is missing, but {count} commits were acknowledged")));
        }
        let unfinished = self.path.join(STORE_UNFINISHED);
        if unfinished.try_exists().map_err(failed)? {
            std::fs::remove_dir_all(&unfinished).map_err(failed)?;
        }
        create(&unfinished)?;
        std::fs::rename(&unfinished, &store).map_err(failed)?;
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(failed)?;
        Ok(store)
    }

    /// Notes that so many commits are durable. Not synced: it may be behind, never ahead.
    pub(super) fn acknowledge(&self, commits: u64) -> Result<(), LogError> {
        let mut mark = [0; 12];
        mark[..8].copy_from_slice(&commits.to_be_bytes());
        mark[8..].copy_from_slice(&checksum(&commits.to_be_bytes()).to_be_bytes());
        self.acknowledged.write_all_at(&mark, 0).map_err(|e| io_error(&self.path, &e))
    }

    /// How many commits were acknowledged at least; `None` where nobody knows.
    fn acknowledged(&self) -> Result<Option<u64>, LogError> {
        let mut mark = [0; 12];
        match self.acknowledged.read_exact_at(&mut mark, 0) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(io_error(&self.path, &e)),
        }
        let ([count @ .., _, _, _, _], [.., a, b, c, d]) = (mark, mark);
        if checksum(&count) != u32::from_be_bytes([a, b, c, d]) {
            let file = self.path.join(ACKNOWLEDGED);
            let what = format!("{ACKNOWLEDGED} is not what was written");
            let go_on = format!("; if nothing else is, remove {}", file.display());
            return Err(LogError::Refused(damage(&self.path, what) + &go_on));
        }
        Ok(Some(u64::from_be_bytes(count)))
    }

    /// Fails where the store holds fewer commits than were acknowledged.
    pub(super) fn check(&self, commits: u64) -> Result<(), LogError> {
        match self.acknowledged()? {
            Some(count) if count > commits => {
                let what = format!("{count} commits were acknowledged, {commits} are there");
                let file = self.path.join(ACKNOWLEDGED);
                let go_on = format!("; to go on without the rest, remove {}", file.display());
                Err(LogError::Refused(damage(&self.path, what) + &go_on))
            }
            _ => Ok(()),
        }
    }
}

fn in_use(path: &Path) -> LogError {
    let lock = path.join(LOCK);
    // Who holds it is a help only; the lock itself has answered.
    let holder = std::fs::read_to_string(&lock).unwrap_or_default();
    let holder = Some(holder.trim()).filter(|pid| !pid.is_empty()).map(|pid| format!(" (process {pid})"));
    LogError::Refused(format!(
        "{} is in use by another bulkhead{}: stop that one, or give this one a directory of its own",
        path.display(),
        holder.unwrap_or_default()
    ))
}

/// Damage, and what can be done about it.
pub(super) fn damaged(path: &Path, what: impl Display) -> LogError {
    LogError::Refused(damage(path, what))
}

fn damage(path: &Path, what: impl Display) -> String {
    let path = path.display();
    format!("the log in {path} is damaged: {what}; restore {path} from a copy or move it away")
}

/// A failure of the file system, by what the caller should do about it.
pub(super) fn io_error(path: &Path, e: &io::Error) -> LogError {
    let path = path.display();
    match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            LogError::Unavailable(format!("no room for the log in {path}: {e}; it goes on once there is"))
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            LogError::Refused(format!("the log cannot write to {path}: {e}; give it a directory that it may write to"))
        }
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            LogError::Refused(format!("{path} cannot hold the log: {e}"))
        }
        _ => LogError::Unavailable(format!("the log in {path} cannot be used: {e}")),
    }
}
