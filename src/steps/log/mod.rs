//! The step `log`: one line for each record in a rotating file of the data directory; the record goes on as it is. At least
//! once: lines are on the disk before the verdict is given, so a record that is worked on again after a crash has two. Never
//! tells which workers wrote a line, and never loses one.

mod shared_file;

use super::StepContext;
use crate::config::units::Size;
use crate::expression::{ExpressionLimits, FAILED, Jq, Place, Subject, Value};
use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_core::fault::{Fault, FaultClass};
use bulkhead_core::record::{ID_HEADER, Origin, Record};
use bulkhead_core::verdict::Verdict;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared_file::SharedFile;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// The step's name.
pub const NAME: &str = "log";
/// The daemon's own log, which is no step's.
const DAEMON_LOG: &str = "bulkhead.log";
/// Smaller files would be all rotation.
const BYTES_MIN: u64 = 64 << 10;

/// `{ log = { file = "consumer.log" } }`: writes a JSON object a line, `{"id", "topic", "partition", "offset", "attempt", "key",
/// "timestamp_ms", "value"}`, and lets the record go on. Workers, also those in processes of their own, write into one file,
/// one after another. A record that is done again after a crash is written again: the `id` tells.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// The file's name in the data directory; it ends in `.log`. The one before it is `NAME.1`, and so on.
    pub file: String,
    /// What is written of the record's value, a jq expression. Absent: all of it, as JSON where it is some, else as text;
    /// `null` where it is neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Jq>,
    /// The size at which a new file begins, at least `"64KiB"`.
    pub bytes_max: Size,
    /// How many files are kept, the one being written included.
    #[schemars(range(min = 1, max = 1_000))]
    pub files_max: u32,
    /// Whether lines are on the disk before a batch goes on, so that they survive a loss of power; else they are with the
    /// operating system, which survives the daemon.
    pub sync: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { file: "consumer.log".to_owned(), value: None, bytes_max: Size::mib(64), files_max: 5, sync: true }
    }
}

impl LogConfig {
    pub(super) fn check(&self, _: StepContext<'_>) -> Vec<String> {
        let mut problems = Vec::new();
        let is_plain = self.file.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !is_plain || !self.file.ends_with(".log") || self.file.starts_with('.') || self.file == DAEMON_LOG {
            let why = "is the name of a file in the data directory: letters, digits, . _ -, and .log at its end";
            problems.push(format!("file = {:?} {why}; {DAEMON_LOG} is the daemon's own", self.file));
        }
        if self.bytes_max.0 < BYTES_MIN {
            problems.push(format!("bytes_max must be at least \"{}\"", Size(BYTES_MIN)));
        }
        problems
    }

    pub(super) fn factory(&self, context: StepContext<'_>) -> LogFactory {
        let (path, limits) = (context.data.join(&self.file), context.expressions);
        LogFactory { config: self.clone(), path, topic: context.source.into(), limits }
    }
}

/// Builds the step.
#[derive(Debug)]
pub struct LogFactory {
    config: LogConfig,
    path: PathBuf,
    topic: Arc<str>,
    limits: ExpressionLimits,
}

struct Log {
    config: LogConfig,
    file: SharedFile,
    topic: Arc<str>,
    limits: ExpressionLimits,
}

impl StepFactory for LogFactory {
    fn name(&self) -> &str {
        NAME
    }

    fn build(&self) -> Result<Box<dyn Step>, Fault> {
        let LogConfig { bytes_max, files_max, sync, .. } = self.config;
        let file = SharedFile::open(self.path.clone(), bytes_max.0, files_max, sync).map_err(|why| self.fault(&why))?;
        Ok(Box::new(Log { config: self.config.clone(), file, topic: Arc::clone(&self.topic), limits: self.limits }))
    }
}

impl LogFactory {
    fn fault(&self, why: &io::Error) -> Fault {
        unwritten(&self.path, why)
    }
}

impl Step for Log {
    fn run(&mut self, records: &[Record], origins: Option<&[Origin]>) -> Result<Vec<Verdict>, Fault> {
        let mut lines = Vec::with_capacity(records.len());
        let mut write = |(index, record): (usize, &Record)| {
            let origin = origins.and_then(|origins| origins.get(index)).copied();
            match self.line(record, origin) {
                Ok(line) => {
                    lines.push(line);
                    Ok(Verdict::one(record.clone()))
                }
                Err(fault) if fault.class == FaultClass::Poison => Ok(Verdict::Reject(fault)),
                Err(fault) => Err(fault),
            }
        };
        let verdicts = records.iter().enumerate().map(&mut write).collect::<Result<_, _>>()?;
        self.file.append(&lines).map_err(|why| unwritten(self.file.path(), &why))?;
        Ok(verdicts)
    }
}

impl Log {
    fn line(&self, record: &Record, origin: Option<Origin>) -> Result<Vec<u8>, Fault> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let value = self.value(record, origin)?;
        let (topic, place) = (&*self.topic, origin.map(|origin| (origin.partition.0, origin.offset.0, origin.attempt)));
        let head = json!({
            "id": record.header(ID_HEADER).map(|id| text(id)),
            "topic": topic,
            "partition": place.map(|place| place.0),
            "offset": place.map(|place| place.1),
            "attempt": place.map(|place| place.2),
            "key": record.key.as_deref().map(text),
            "timestamp_ms": record.timestamp.0,
        });
        let mut line = head.to_string().into_bytes();
        // The value's own bytes: its numbers keep their digits.
        line.pop();
        line.extend_from_slice(b",\"value\":");
        line.extend(value);
        line.extend_from_slice(b"}\n");
        Ok(line)
    }

    fn value(&self, record: &Record, origin: Option<Origin>) -> Result<Vec<u8>, Fault> {
        if let Some(jq) = &self.config.value {
            let subject = Subject::new(record, origin.map(|origin| Place { topic: &self.topic, origin }))?;
            let value = jq.one(&subject, self.limits)?;
            return value.to_json(self.limits.bytes_max).map_err(|why| Fault::poison(FAILED, why));
        }
        let json = Value::parse(record.payload()).and_then(|value| value.to_json(usize::MAX));
        Ok(json.unwrap_or_else(|_| match std::str::from_utf8(record.payload()) {
            Ok(text) if record.value.is_some() => json!(text).to_string().into_bytes(),
            _ => b"null".to_vec(),
        }))
    }
}

/// A disk that is full or slow may have room again; one that refuses us will not.
fn unwritten(path: &std::path::Path, why: &io::Error) -> Fault {
    let message = format_args!("{}: {why}", path.display());
    match why.kind() {
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::NotFound
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory => Fault::fatal("log_unusable", message),
        _ => Fault::transient("log_unwritten", message),
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
