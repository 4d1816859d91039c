//! Tests of the embedded log, one file a subject. A test that needs another process starts itself again.

mod bounds;
mod damage;
mod directory;
mod kill;

use bulkhead_actors::io::embedded::{EmbeddedLog, EmbeddedOptions};
use bulkhead_actors::log::LogError;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Names the directory that a test which was started again works in.
const DIR: &str = "BULKHEAD_TEST_LOG_DIR";

pub(crate) fn open(dir: &Path) -> Result<EmbeddedLog, LogError> {
    EmbeddedLog::open(dir, &EmbeddedOptions::default())
}

/// Where this process is to work, if a test started it.
pub(crate) fn child_dir() -> Option<PathBuf> {
    std::env::var_os(DIR).map(PathBuf::from)
}

/// This test binary again, for one test only, in `dir`; behind `prefix`, a shell line that ends in `exec "$@"`.
pub(crate) fn child(test: &str, dir: &Path, prefix: Option<&str>) -> Command {
    let exe = std::env::current_exe().unwrap().into_os_string();
    let args: [OsString; 4] = [test.into(), "--exact".into(), "--nocapture".into(), "--test-threads=1".into()];
    let mut command = if let Some(prefix) = prefix {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(prefix).arg("sh").arg(exe);
        shell
    } else {
        Command::new(exe)
    };
    command.args(args).env(DIR, dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}
