//! A rotating file that several workers write, in one process or in several: one after another, under a lock that ends with
//! whoever holds it. Never cuts a line in two, and never leaves half a line of a writer that died in front of the next one.

use crate::logging::rotate;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// See the module.
pub(super) struct SharedFile {
    path: PathBuf,
    /// Locked while lines are written: the log file itself is another after a rotation.
    lock: File,
    bytes_max: u64,
    files_max: u32,
    sync: bool,
}

/// The lock, given back however the writing ends.
struct Locked<'a>(&'a File);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::error!(%error, "the lock of a log file was not given back");
        }
    }
}

impl SharedFile {
    /// A file at `path`, which need not exist, and its lock beside it.
    pub(super) fn open(path: PathBuf, bytes_max: u64, files_max: u32, sync: bool) -> io::Result<Self> {
        let mut name = path.clone().into_os_string();
        name.push(".lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(name)?;
        drop(open(&path)?);
        Ok(Self { path, lock, bytes_max, files_max, sync })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes lines, each with its line break. After an error some may be there.
    pub(super) fn append(&self, lines: &[Vec<u8>]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        self.lock.lock()?;
        let _locked = Locked(&self.lock);
        // Opened under the lock: another writer may have begun a new file.
        let (mut file, mut bytes) = open(&self.path)?;
        let mut chunk = Vec::new();
        for line in lines {
            let held = bytes + chunk.len() as u64;
            if held > 0 && held + line.len() as u64 > self.bytes_max {
                self.write(&mut file, &chunk)?;
                chunk.clear();
                rotate::shift(&self.path, self.files_max)?;
                (file, bytes) = open(&self.path)?;
            }
            chunk.extend_from_slice(line);
        }
        self.write(&mut file, &chunk)
    }

    fn write(&self, file: &mut File, chunk: &[u8]) -> io::Result<()> {
        file.write_all(chunk)?;
        if self.sync { file.sync_data() } else { Ok(()) }
    }
}

/// The file and its size, at the beginning of a line.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let mut bytes = file.metadata()?.len();
    let mut last = [b'\n'];
    if bytes > 0 {
        file.read_exact_at(&mut last, bytes - 1)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
        bytes += 1;
    }
    Ok((file, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Vec<u8> {
        format!("{text}\n").into_bytes()
    }

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn a_torn_line_is_ended_before_the_next_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.log");
        let file = SharedFile::open(path.clone(), 1_000, 2, true).expect("it opens");
        file.append(&[line("whole")]).expect("written");
        std::fs::write(&path, "whole\nhal").expect("written");
        file.append(&[line("next")]).expect("written");
        assert_eq!(read(&path), "whole\nhal\nnext\n");
    }

    #[test]
    fn several_writers_lose_no_line_over_rotations_and_keep_so_many_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.log");
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let path = path.clone();
                scope.spawn(move || {
                    let file = SharedFile::open(path, 4_000, 100, false).expect("it opens");
                    for batch in 0..25 {
                        let lines: Vec<_> = (0..10).map(|n| line(&format!("{writer}-{:03}", batch * 10 + n))).collect();
                        file.append(&lines).expect("written");
                    }
                });
            }
        });
        let files = std::fs::read_dir(dir.path()).expect("read").flatten().map(|entry| entry.path());
        let files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end != "lock")).collect();
        let mut lines: Vec<_> =
            files.iter().flat_map(|path| read(path).lines().map(str::to_owned).collect::<Vec<_>>()).collect();
        lines.sort();
        let mut expected: Vec<_> = (0..4).flat_map(|w| (0..250).map(move |n| format!("{w}-{n:03}"))).collect();
        expected.sort();
        assert_eq!(lines, expected);
        assert!(files.len() > 1 && files.iter().all(|path| read(path).len() <= 4_000), "{files:?}");
    }
}
