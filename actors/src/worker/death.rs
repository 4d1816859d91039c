//! How a child ended, in words. Never kills one.

use super::channel::Broken;
use super::output::Output;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// The signals that a process dies of, by their numbers on Linux.
const SIGNALS: [(i32, &str); 13] = [
    (1, "SIGHUP"),
    (2, "SIGINT"),
    (3, "SIGQUIT"),
    (4, "SIGILL"),
    (5, "SIGTRAP"),
    (6, "SIGABRT"),
    (7, "SIGBUS"),
    (8, "SIGFPE"),
    (9, "SIGKILL"),
    (11, "SIGSEGV"),
    (15, "SIGTERM"),
    (24, "SIGXCPU"),
    (31, "SIGSYS"),
];
const SIGKILL: i32 = 9;

/// A child that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Death {
    /// For metrics; one of a few words.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) message: String,
}

impl Death {
    /// It said what it must not, and was killed for it.
    pub(super) fn rubbish(why: &Broken) -> Self {
        Self { reason: "rubbish", message: format!("the worker's process was killed: {why}") }
    }

    /// It gave no answer and still lived: it was killed.
    pub(super) fn mute(why: &Broken) -> Self {
        Self { reason: "mute", message: format!("the worker's process lived on and was killed: {why}") }
    }

    /// It ended by itself.
    pub(super) fn of(status: ExitStatus, output: &Output) -> Self {
        let (reason, mut how) = match status.signal() {
            _ if output.says_out_of_memory() => ("memory", format!("it had no memory left ({})", name(status))),
            Some(SIGKILL) => ("SIGKILL", "SIGKILL, by an operator or for want of memory on the machine".to_owned()),
            Some(signal) => (known(signal), name(status)),
            None => ("exit", name(status)),
        };
        let last = output.last_line();
        if !last.is_empty() {
            how = format!("{how}; its last line: {last}");
        }
        Self { reason, message: format!("the worker's process ended: {how}") }
    }
}

fn known(signal: i32) -> &'static str {
    SIGNALS.iter().find(|(number, _)| *number == signal).map_or("signal", |(_, name)| name)
}

fn name(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) if known(signal) == "signal" => format!("signal {signal}"),
        (Some(signal), _) => known(signal).to_owned(),
        (None, Some(code)) => format!("exit status {code}"),
        (None, None) => status.to_string(),
    }
}
