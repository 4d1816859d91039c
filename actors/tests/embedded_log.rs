//! The embedded log from outside: SIGKILL, a second process, damage, a directory that cannot be used, retention, bounds.

#![allow(clippy::unwrap_used, reason = "a check that cannot go on has failed")]

#[macro_use]
mod contract;
mod embedded;
