//! A child process that never outlives the test process, whatever ends it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How a child is told something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Please end.
    Term,
    /// End now, without a last word.
    Kill,
    /// Stand still.
    Stop,
    /// Go on.
    Cont,
}

impl Signal {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Cont => "CONT",
        }
    }
}

#[derive(Default)]
struct Exit {
    status: Mutex<Option<ExitStatus>>,
    ended: Condvar,
}

/// A running child; dropping it kills it.
pub struct Process {
    pid: u32,
    name: String,
    log: PathBuf,
    exit: Arc<Exit>,
}

type Order = (Command, Sender<std::io::Result<std::process::Child>>);

/// The kernel kills a child when the *thread* that started it ends (`PR_SET_PDEATHSIG`), so one thread that ends with
/// the process starts them all.
static SPAWNER: LazyLock<Sender<Order>> = LazyLock::new(|| {
    let (orders, inbox) = channel::<Order>();
    thread::Builder::new()
        .name("spawner".into())
        .spawn(move || {
            for (mut command, reply) in inbox {
                reply.send(command.spawn()).expect("whoever orders a child waits for it");
            }
        })
        .expect("a thread can be started");
    orders
});

impl Process {
    /// Starts `program` with `args` and `env`; what it prints is appended to the file `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start<S: AsRef<std::ffi::OsStr>>(
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = S>,
        env: &[(String, String)],
        log: &Path,
    ) -> Self {
        let output = File::options().create(true).append(true).open(log).expect("the log of a child can be opened");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(args).envs(env.iter().cloned());
        command.stdin(Stdio::null()).stdout(output.try_clone().expect("a file can be cloned")).stderr(output);
        let (reply, answer) = channel();
        SPAWNER.send((command, reply)).expect("the spawner lives as long as the process");
        let child = answer.recv().expect("the spawner answers");
        let mut child = child.unwrap_or_else(|e| panic!("{name}: cannot start setpriv (package util-linux): {e}"));
        let (pid, exit) = (child.id(), Arc::new(Exit::default()));
        let seen = Arc::clone(&exit);
        thread::Builder::new()
            .name(format!("reaper-{pid}"))
            .spawn(move || {
                let status = child.wait().expect("a child can be waited for");
                *seen.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
                seen.ended.notify_all();
            })
            .expect("a thread can be started");
        Self { pid, name: name.into(), log: log.into(), exit }
    }

    /// Its process id.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it ended, once it has; `None` if it still runs after `timeout`.
    #[must_use]
    pub fn wait_exit(&self, timeout: Duration) -> Option<ExitStatus> {
        let status = self.exit.status.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.exit.ended.wait_timeout_while(status, timeout, |s| s.is_none());
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Sends a signal; none once it has ended.
    ///
    /// # Panics
    /// When there is no shell to send it with.
    pub fn signal(&self, signal: Signal) {
        if self.exit_status().is_none() {
            send(self.pid, signal.as_str());
        }
    }

    /// Kills it and waits until it is gone.
    ///
    /// # Panics
    /// When it is still there after 30 s.
    pub fn kill(&self) {
        self.signal(Signal::Kill);
        assert!(self.wait_exit(Duration::from_secs(30)).is_some(), "{}: still there 30 s after SIGKILL", self.name);
    }

    /// The last `lines` lines it printed.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::Kill);
        // The reaper sees the end; a drop on a panicking thread has no business to panic over a slow one.
        let gone = self.wait_exit(Duration::from_secs(30));
        if gone.is_none() {
            eprintln!("{}: pid {} is still there 30 s after SIGKILL", self.name, self.pid);
        }
    }
}

/// Sends a process a signal by its name, e.g. `SEGV`; one that has just ended is fine.
///
/// # Panics
/// When there is no shell to send it with.
pub fn send(pid: u32, signal: &str) {
    // The shell's own `kill`: there need not be a program of that name.
    let script = format!("kill -{signal} {pid} 2>/dev/null || true");
    let status = Command::new("sh").args(["-c", &script]).status().expect("there is a shell");
    assert!(status.success(), "the shell could not send SIG{signal} to {pid}");
}

/// The last `lines` lines of a file, empty when it cannot be read.
pub(crate) fn tail(file: &Path, lines: usize) -> String {
    let text = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Asks `ready` until it answers, at most for `timeout`; the pause between two questions is 10 ms.
/// What cannot be waited for in any other way (another process' state) is waited for here and nowhere else.
///
/// # Panics
/// When there is no answer in time; the message ends with what `ready` last complained of.
pub fn eventually<T>(what: &str, timeout: Duration, mut ready: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match ready() {
            Ok(answer) => return answer,
            Err(why) if started.elapsed() >= timeout => panic!("{what}: not within {timeout:?}: {why}"),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}
