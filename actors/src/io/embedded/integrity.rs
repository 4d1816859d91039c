//! Checks what fjall trusts when it opens a store. Never repairs, and never reads records.
//!
//! lsm-tree 3.1 reads lengths from a tree's version file and from tables' contents lists before it checks them, so that
//! damage there can ask for more memory than there is, which ends the process. Both have checksums beside them: a tree's
//! `current` holds its version's number (8 bytes, little-endian) and XXH3-128 (16); a table ends in `SFA!`, version and
//! checksum type (2), XXH3-128 of its contents list (16), and where that begins and how long it is (8 each).

use super::directory::{damaged, io_error};
use crate::log::LogError;
use std::fs::{File, read_dir};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_128;

const TRAILER: usize = 38;
/// A contents list names a handful of sections.
const CONTENTS_BYTES_MAX: u64 = 1024 * 1024;

/// Fails where one of the store's own lists is not what was written; `log` is the directory to be named.
pub(super) fn check(log: &Path, store: &Path) -> Result<(), LogError> {
    let failed = |e: io::Error| io_error(log, &e);
    for tree in paths(&store.join("keyspaces")).map_err(failed)? {
        if !version_is_whole(&tree).map_err(failed)? {
            return Err(damaged(log, format!("the list of tables in {} is not what was written", tree.display())));
        }
        for table in paths(&tree.join("tables")).map_err(failed)? {
            if !contents_are_whole(&table).map_err(failed)? {
                return Err(damaged(log, format!("the contents list of {} is not what was written", table.display())));
            }
        }
    }
    Ok(())
}

/// What lies in a directory; nothing where it does not exist, which fjall tells itself where it matters.
fn paths(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// The content of a file, `None` where it is missing.
fn content(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}

fn version_is_whole(tree: &Path) -> io::Result<bool> {
    // A tree whose making was cut short has no version yet; fjall handles that.
    let Some(current) = content(&tree.join("current"))? else { return Ok(true) };
    let Some((number, rest)) = current.split_first_chunk() else { return Ok(false) };
    let Some((sum, _)) = rest.split_first_chunk() else { return Ok(false) };
    let version = content(&tree.join(format!("v{}", u64::from_le_bytes(*number))))?;
    Ok(version.is_some_and(|version| xxh3_128(&version) == u128::from_le_bytes(*sum)))
}

fn contents_are_whole(table: &Path) -> io::Result<bool> {
    let file = File::open(table)?;
    let length = file.metadata()?.len();
    let mut trailer = [0; TRAILER];
    let Some(at) = length.checked_sub(TRAILER as u64) else { return Ok(true) };
    file.read_exact_at(&mut trailer, at)?;
    if !trailer.starts_with(b"SFA!") {
        // Without its magic fjall takes it for no table: an error if it needs it, a leftover of a crash otherwise.
        return Ok(true);
    }
    let number = |at: usize| trailer[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let sum = u128::from(number(6)) | u128::from(number(14)) << 64;
    let (start, size) = (number(22), number(30));
    if size > CONTENTS_BYTES_MAX || start.checked_add(size).is_none_or(|end| end > at) {
        return Ok(false);
    }
    let mut contents = vec![0; usize::try_from(size).unwrap_or(0)];
    file.read_exact_at(&mut contents, start)?;
    Ok(xxh3_128(&contents) == sum)
}
