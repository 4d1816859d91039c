//! Temporary folders that carry the test process' id, so that what a killed test left behind is cleared by the next.
//! Never touches the folder of a process that lives.

use std::fs;
use std::path::Path;
use std::sync::Once;
use tempfile::TempDir;

const PREFIX: &str = "bulkhead-test-";
static SWEEP: Once = Once::new();

/// A new folder, removed on drop.
pub(crate) fn scratch(what: &str) -> TempDir {
    SWEEP.call_once(sweep);
    tempfile::Builder::new()
        .prefix(&format!("{PREFIX}{}-{what}-", std::process::id()))
        .tempdir()
        .expect("a temporary folder can be made")
}

fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()).and_then(|p| p.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
            && let Err(e) = fs::remove_dir_all(entry.path())
        {
            eprintln!("{}: cannot be cleared: {e}", entry.path().display());
        }
    }
}
