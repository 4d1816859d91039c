//! A log file that begins anew at a size: `x.log` is written, `x.log.1` is the one before it, the oldest is removed.
//! Never fails its writer: a line that the disk does not take is counted.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The file. Each `write` is one line, which is never cut in two by a rotation.
#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
    files_max: u32,
    failed: Arc<AtomicU64>,
}

impl RotatingFile {
    /// Opens the file and goes on at its end.
    pub(super) fn open(path: PathBuf, bytes_max: u64, files_max: u32, failed: Arc<AtomicU64>) -> io::Result<Self> {
        let file = append(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, file, bytes, bytes_max, files_max, failed })
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.bytes_max {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        shift(&self.path, self.files_max)?;
        self.file = append(&self.path)?;
        self.bytes = 0;
        Ok(())
    }
}

impl Write for RotatingFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.line(line).is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Makes room for a new file: the one at `path` becomes number 1, each number the next one, and of `files_max` files the last
/// one goes.
pub(crate) fn shift(path: &Path, files_max: u32) -> io::Result<()> {
    let numbered = |n: u32| PathBuf::from(format!("{}.{n}", path.display()));
    for n in (1..files_max.saturating_sub(1)).rev() {
        rename_if_there(&numbered(n), &numbered(n + 1))?;
    }
    if files_max > 1 { rename_if_there(path, &numbered(1)) } else { std::fs::remove_file(path) }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn it_begins_anew_at_the_size_and_keeps_so_many_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.log");
        let mut file = RotatingFile::open(path.clone(), 10, 3, Arc::default()).expect("it opens");
        for n in 0..9 {
            writeln!(file, "line {n}").expect("it never fails");
        }
        let kept = ["x.log", "x.log.1", "x.log.2", "x.log.3"].map(|name| lines(&dir.path().join(name)));
        assert_eq!(kept, ["line 8\n", "line 7\n", "line 6\n", ""]);
    }

    #[test]
    fn it_goes_on_where_it_ended_and_counts_what_is_not_taken() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.log");
        let failed = Arc::new(AtomicU64::new(0));
        for n in 0..2 {
            let mut file = RotatingFile::open(path.clone(), 16, 2, Arc::clone(&failed)).expect("it opens");
            writeln!(file, "line {n}").expect("it never fails");
        }
        assert_eq!(lines(&path), "line 0\nline 1\n");
        let mut file = RotatingFile::open(path, 16, 2, Arc::clone(&failed)).expect("it opens");
        drop(dir);
        writeln!(file, "line 2").expect("it never fails");
        assert_eq!(failed.load(Ordering::Relaxed), 1, "the directory is gone");
    }
}
