//! Where log lines go: the console (for people, or JSON) and a rotating file (JSON). Never blocks the one who logs,
//! never logs a payload: a record's way is followed by the fields `id`, `partition` and `offset`.

pub(crate) mod rotate;

use crate::config::daemon::{Log, LogFormat};
use rotate::RotatingFile;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// The log file's name in the data directory.
pub const FILE: &str = "bulkhead.log";

/// What our own lines begin with, in all crates; a library's are logged from warnings on, unless it is named.
const OWN: &[&str] = &["bulkhead", "panic"];

const LEVELS: [(&str, LevelFilter); 6] = [
    ("off", LevelFilter::OFF),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

/// The running log. Lines that wait are written when it is dropped.
#[derive(Debug)]
pub struct Logging {
    losses: Losses,
    _writers: Vec<WorkerGuard>,
}

/// What a running log lost so far.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    dropped: Vec<ErrorCounter>,
    failed: Arc<AtomicU64>,
}

impl Losses {
    /// How many lines were dropped because too many waited, console and file together.
    #[must_use]
    pub fn lines_dropped(&self) -> u64 {
        self.dropped.iter().map(|counter| counter.dropped_lines() as u64).sum()
    }

    /// How many lines the file did not take (disk full, removed directory).
    #[must_use]
    pub fn lines_failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

/// Starts logging for the whole process, panics included.
///
/// # Errors
/// The file cannot be opened, or logging was started before.
pub fn start(log: &Log, data_dir: &Path) -> io::Result<Logging> {
    let targets = filter(&log.level).map_err(io::Error::other)?;
    let mut logging = Logging { losses: Losses::default(), _writers: Vec::new() };
    let builder = || {
        let lines = usize::try_from(log.file.lines_waiting_max).unwrap_or(usize::MAX);
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(lines)
    };
    let (console, guard) = builder().thread_name("log-console").finish(io::stderr());
    logging.keep(&console, guard);
    let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = vec![match log.format {
        LogFormat::Human => layer().with_ansi(io::stderr().is_terminal()).with_writer(console).boxed(),
        LogFormat::Json => json(console),
    }];
    if log.file.enabled {
        let path = data_dir.join(FILE);
        let file =
            RotatingFile::open(path, log.file.bytes_max.0, log.file.files_max, Arc::clone(&logging.losses.failed))?;
        let (file, guard) = builder().thread_name("log-file").finish(file);
        logging.keep(&file, guard);
        layers.push(json(file));
    }
    tracing_subscriber::registry().with(layers).with(targets).try_init().map_err(io::Error::other)?;
    log_panics();
    Ok(logging)
}

/// Starts logging in a worker's process: to standard error, which the daemon reads, each line beginning with its level.
///
/// # Errors
/// The level is none, or logging was started before.
pub fn start_worker(level: &str) -> io::Result<()> {
    let lines = layer().without_time().with_ansi(false).with_writer(io::stderr);
    let targets = filter(level).map_err(io::Error::other)?;
    tracing_subscriber::registry().with(lines).with(targets).try_init().map_err(io::Error::other)?;
    log_panics();
    Ok(())
}

fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        let what = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(target: "panic", thread = thread.name().unwrap_or("unnamed"), at, "{what}");
    }));
}

impl Logging {
    /// What it lost so far; the handle outlives it.
    #[must_use]
    pub fn losses(&self) -> Losses {
        self.losses.clone()
    }

    fn keep(&mut self, writer: &NonBlocking, guard: WorkerGuard) {
        self.losses.dropped.push(writer.error_counter());
        self._writers.push(guard);
    }
}

fn json<S: Subscriber + for<'a> LookupSpan<'a>>(writer: NonBlocking) -> Box<dyn Layer<S> + Send + Sync> {
    layer().json().flatten_event(true).with_span_list(false).with_writer(writer).boxed()
}

/// What is logged: `LEVEL`, or `LEVEL,MODULE=LEVEL,…`. Stricter than tracing's own, for which a misspelt level is a
/// module.
///
/// # Errors
/// What would be right.
pub fn filter(text: &str) -> Result<Targets, String> {
    let level = |word: &str| {
        let found = LEVELS.iter().find(|(name, _)| *name == word.trim()).map(|(_, level)| *level);
        let levels: Vec<_> = LEVELS.iter().map(|(name, _)| *name).collect();
        found.ok_or_else(|| {
            format!("{word:?} is no level; a level is one of {}; or \"info,MODULE=debug\"", levels.join(", "))
        })
    };
    let mut targets = Targets::new();
    for word in text.split(',') {
        targets = match word.split_once('=') {
            Some((module, word)) => targets.with_target(module.trim(), level(word)?),
            None => {
                let own = level(word)?;
                let targets = targets.with_default(own.min(LevelFilter::WARN));
                OWN.iter().fold(targets, |targets, module| targets.with_target(*module, own))
            }
        };
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn a_filter_names_levels_and_modules() {
        let targets = filter("warn, bulkhead_actors=debug").expect("it is right");
        assert!(targets.would_enable("bulkhead_actors::lane", &Level::DEBUG));
        assert!(!targets.would_enable("bulkhead", &Level::INFO));
        assert!(targets.would_enable("bulkhead", &Level::WARN));
    }

    #[test]
    fn a_library_is_heard_from_warnings_on_unless_it_is_named() {
        let targets = filter("info,fjall=debug").expect("it is right");
        assert!(targets.would_enable("bulkhead_actors::lane", &Level::INFO));
        assert!(targets.would_enable("fjall::db", &Level::DEBUG));
        assert!(!targets.would_enable("lsm_tree", &Level::INFO));
        assert!(targets.would_enable("lsm_tree", &Level::WARN));
        assert!(!filter("error").expect("it is right").would_enable("lsm_tree", &Level::WARN));
    }

    #[test]
    fn a_misspelt_level_is_refused() {
        for wrong in ["", "inf", "INFO", "info,", "bulkhead=loud", "info;debug"] {
            let why = filter(wrong).expect_err(wrong);
            assert!(why.contains("is no level"), "{wrong}: {why}");
        }
    }
}
