//! How the process ends: every exit code, once. Never exits by itself.
//!
//! | code | name | meaning |
//! |---|---|---|
//! | 0 | clean | everything in flight was finished and committed; the members have left |
//! | 1 | config | the configuration has problems; all of them were printed |
//! | 2 | usage | the command line is wrong (clap's own code) |
//! | 3 | start | it could not start: an address or the data directory is in use or not usable; `check --connect` failed |
//! | 4 | failed | the root supervisor gave up, or a pipeline with `on_failure = "exit"` failed; `health`: not ready |
//! | 5 | forced | stopped before it was drained: a second signal, or the drain budget ran out |
//!
//! They are small numbers in order of how far the process came, not `sysexits.h`: its 64–78 have no words for the last
//! two, and 130/137/143 stay free for what a shell reports of a signal that we did not handle.

use std::process::ExitCode;

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything in flight was finished and committed.
    Clean = 0,
    /// The configuration has problems.
    Config = 1,
    /// The command line is wrong.
    Usage = 2,
    /// It could not start.
    Start = 3,
    /// It ran and could not go on.
    Failed = 4,
    /// It was stopped before it was drained.
    Forced = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
