//! What a child prints, line by line into the daemon's log: native libraries print where they like. The end of it is the
//! first sign of the child's death. Never holds more than a line of it.

use parking_lot::Mutex;
use std::io::{self, BufRead, BufReader, PipeReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// A longer line is logged in pieces.
const LINE_BYTES_MAX: u64 = 4 << 10;
/// What allocators say before they abort: Rust's and C++'s.
const OUT_OF_MEMORY: [&str; 2] = ["memory allocation of", "std::bad_alloc"];

/// Whose output it is.
#[derive(Clone, Debug)]
pub(super) struct Whose {
    pub(super) pipeline: Arc<str>,
    pub(super) stage: Arc<str>,
    pub(super) worker: u32,
    pub(super) pid: u32,
}

#[derive(Debug, Default)]
struct Heard {
    over: AtomicBool,
    out_of_memory: AtomicBool,
    last: Mutex<String>,
}

/// What is known of a child's output.
#[derive(Debug)]
pub(super) struct Output {
    heard: Arc<Heard>,
    end: Receiver<()>,
}

impl Output {
    /// Logs what comes through the pipe, on a thread that ends with it; calls `over` then.
    pub(super) fn follow(pipe: PipeReader, whose: Whose, over: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let heard = Arc::new(Heard::default());
        let (ended, end) = channel();
        let seen = Arc::clone(&heard);
        std::thread::Builder::new().name("worker-output".to_owned()).spawn(move || {
            if let Err(error) = relay(pipe, &whose, &seen) {
                tracing::warn!(pid = whose.pid, %error, "a worker's output cannot be read any more");
            }
            seen.over.store(true, Ordering::Release);
            over();
            drop(ended);
        })?;
        Ok(Self { heard, end })
    }

    /// Whether the child has closed its output, which it does by dying.
    pub(super) fn is_over(&self) -> bool {
        self.heard.over.load(Ordering::Acquire)
    }

    /// Waits until the last line was logged, at most so long.
    pub(super) fn finish(&self, wait: Duration) {
        if self.end.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("a worker's output outlives it: something it started still holds it");
        }
    }

    /// Its last line, empty where it printed none.
    pub(super) fn last_line(&self) -> String {
        self.heard.last.lock().clone()
    }

    /// Whether it said that it could not have more memory.
    pub(super) fn says_out_of_memory(&self) -> bool {
        self.heard.out_of_memory.load(Ordering::Acquire)
    }
}

fn relay(pipe: PipeReader, whose: &Whose, heard: &Heard) -> io::Result<()> {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut pipe).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        if line.is_empty() {
            continue;
        }
        if OUT_OF_MEMORY.iter().any(|said| line.contains(said)) {
            heard.out_of_memory.store(true, Ordering::Release);
        }
        heard.last.lock().replace_range(.., line);
        log(whose, line);
    }
}

/// A child's own log line begins with its level; what begins otherwise was printed by a library.
fn log(whose: &Whose, line: &str) {
    let Whose { pipeline, stage, worker, pid } = whose;
    let (level, text) = line.trim_start().split_once(' ').unwrap_or(("", line));
    match level {
        "ERROR" => tracing::error!(%pipeline, %stage, worker, pid, "{text}"),
        "INFO" => tracing::info!(%pipeline, %stage, worker, pid, "{text}"),
        "DEBUG" | "TRACE" => tracing::debug!(%pipeline, %stage, worker, pid, "{text}"),
        "WARN" => tracing::warn!(%pipeline, %stage, worker, pid, "{text}"),
        _ => tracing::warn!(%pipeline, %stage, worker, pid, "printed: {line}"),
    }
}
