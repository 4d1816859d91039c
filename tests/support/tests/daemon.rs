//! The daemon runner, on a shell script that keeps the daemon's contract. Never runs the daemon itself.

use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// A script that runs `body` after it has written `run.json` where `--data` says, and ends with 7 at a SIGTERM.
fn fake(folder: &Path, body: &str) -> PathBuf {
    let script = format!(
        "#!/bin/sh\ntrap 'exit 7' TERM\necho \"arguments: $*\"\n\
         while [ \"$1\" != --data ]; do shift; done\n\
         echo \"{{\\\"pid\\\": $$, \\\"listen\\\": \\\"127.0.0.1:1\\\", \\\"admin\\\": \\\"127.0.0.1:2\\\"}}\" > \"$2/new\"\n\
         mv \"$2/new\" \"$2/run.json\"\n{body}\n"
    );
    let path = folder.join("fake");
    std::fs::write(&path, script).expect("a script can be written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("a script can be made executable");
    path
}

#[test]
fn it_starts_is_asked_to_end_and_is_killed() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    // An earlier process' file is not taken for this one's.
    std::fs::write(folder.path().join("run.json"), "{\"pid\": 1}").expect("a file can be written");
    let binary = fake(folder.path(), "while :; do read -r line < \"$2/fifo\"; done");
    let fifo = std::process::Command::new("mkfifo").arg(folder.path().join("fifo")).status();
    assert!(fifo.is_ok_and(|s| s.success()), "mkfifo");
    let spec = DaemonSpec::new(binary, folder.path(), folder.path()).on("b:1").named("one").with_chaos().arg("--more");
    let daemon = Daemon::start(&spec);
    assert_eq!((daemon.url("/a"), daemon.admin("/b")), ("http://127.0.0.1:1/a".into(), "http://127.0.0.1:2/b".into()));
    let data = folder.path().display();
    let expected = format!(
        "arguments: run --listen 127.0.0.1:0 --admin 127.0.0.1:0 --config {data} --data {data} --kafka b:1 \
         --instance one --chaos --more"
    );
    assert_eq!(daemon.output(), expected);
    daemon.sigterm();
    assert_eq!(daemon.wait_exit(PATIENCE).code(), Some(7));

    let daemon = Daemon::start(&spec);
    assert!(daemon.is_running());
    daemon.sigkill();
    assert_eq!(daemon.wait_exit(PATIENCE).code(), None);
}

#[test]
#[should_panic(expected = "instead of serving")]
fn one_that_ends_instead_of_serving_is_told_with_its_output() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let binary = folder.path().join("none");
    drop(Daemon::start(&DaemonSpec::new(binary, folder.path(), folder.path())));
}
