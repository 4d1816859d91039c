//! The data directory: locked by one process, with the instance's name and the job secret that were drawn in it. Never
//! shared.

use crate::config::secret::Secret;
use crate::config::text::Name;
use rand::TryRngCore;
use rand::rngs::OsRng;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";
const INSTANCE: &str = "instance";
const SECRET: &str = "job-secret";

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another daemon has it.
    #[error("the data directory {0} is in use by another bulkhead; give this one its own with --data")]
    InUse(PathBuf),
    /// It cannot be created, read or written.
    #[error("the data directory {0} cannot be used: {1}")]
    Unusable(PathBuf, io::Error),
    /// A file of ours in it does not hold what we wrote.
    #[error("{0} is damaged ({1}); remove it to have a new one drawn")]
    Damaged(PathBuf, String),
}

/// An open data directory; the lock ends with it, also where the process is killed.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory where it does not exist, and locks it.
    ///
    /// # Errors
    /// In use, or not usable: not a directory, read-only, no space.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let unusable = |why| DataDirError::Unusable(path.to_owned(), why);
        std::fs::create_dir_all(path).map_err(unusable)?;
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK)).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::InUse(path.to_owned())),
            Err(TryLockError::Error(why)) => Err(unusable(why)),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The instance's name: the given one, else the one drawn at the first start.
    ///
    /// # Errors
    /// The directory cannot be written, or its file is damaged.
    pub fn instance(&self, given: Option<&Name>) -> Result<Name, DataDirError> {
        if let Some(name) = given {
            return Ok(name.clone());
        }
        let text = self.kept(INSTANCE, || Ok(format!("b-{}", drawn::<4>()?)))?;
        text.parse().map_err(|why| DataDirError::Damaged(self.path.join(INSTANCE), why))
    }

    /// What job ids are authenticated with: the given secret, else the one drawn at the first start (256 bits).
    ///
    /// # Errors
    /// The directory cannot be written, or its file is damaged.
    pub fn secret(&self, given: Option<&Secret>) -> Result<Secret, DataDirError> {
        if let Some(secret) = given {
            return Ok(secret.clone());
        }
        let text = self.kept(SECRET, drawn::<32>)?;
        if text.len() != 64 {
            return Err(DataDirError::Damaged(self.path.join(SECRET), format!("{} characters, not 64", text.len())));
        }
        Ok(Secret::new(text))
    }

    /// A file's content; drawn and written, whole or not at all, where there is none.
    fn kept(&self, name: &str, draw: impl FnOnce() -> io::Result<String>) -> Result<String, DataDirError> {
        let path = self.path.join(name);
        let unusable = |why| DataDirError::Unusable(self.path.clone(), why);
        match std::fs::read_to_string(&path) {
            Ok(text) => return Ok(text.trim_end().to_owned()),
            Err(why) if why.kind() == io::ErrorKind::NotFound => {}
            Err(why) => return Err(unusable(why)),
        }
        let write = || {
            let text = draw()?;
            let fresh = path.with_extension("new");
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&fresh, &path)?;
            File::open(&self.path)?.sync_all()?;
            Ok(text)
        };
        write().map_err(unusable)
    }
}

fn drawn<const BYTES: usize>() -> io::Result<String> {
    let mut bytes = [0; BYTES];
    OsRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_second_daemon_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a/b");
        let first = DataDir::open(&path).expect("it is made");
        let refused = DataDir::open(&path).expect_err("it is locked");
        assert!(matches!(refused, DataDirError::InUse(_)), "{refused}");
        drop(first);
        DataDir::open(&path).expect("the lock has ended");
    }

    #[test]
    fn what_was_drawn_is_kept_and_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let (name, secret) = {
            let data = DataDir::open(dir.path()).expect("it opens");
            (data.instance(None).expect("drawn"), data.secret(None).expect("drawn"))
        };
        let data = DataDir::open(dir.path()).expect("it opens");
        assert_eq!(data.instance(None).expect("kept"), name);
        assert_eq!(data.secret(None).expect("kept"), secret);
        let mode = std::fs::metadata(dir.path().join(SECRET)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let given: Name = "west-1".parse().expect("a name");
        assert_eq!(data.instance(Some(&given)).expect("given"), given);
    }

    #[test]
    fn damage_and_what_is_no_directory_are_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = DataDir::open(dir.path()).expect("it opens");
        std::fs::write(dir.path().join(SECRET), "short").expect("written");
        assert!(matches!(data.secret(None), Err(DataDirError::Damaged(..))));
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("written");
        assert!(matches!(DataDir::open(&file), Err(DataDirError::Unusable(..))));
    }
}
