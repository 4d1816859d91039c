//! What a supervisor can be told from outside, by any thread. Never waits: a full mailbox is an error of the caller's.

use super::spec::ChildSpec;
use crate::shell::Fall;
use actix::prelude::Message;
use bulkhead_core::supervisor::Signal;
use tokio::sync::oneshot;

/// A change to a supervisor's children. Children are named by their whole path.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub(super) enum Command {
    Add(Box<ChildSpec>),
    Remove(String, Signal),
    Kill(String),
    Fall(String, Fall),
    /// Answered when it is taken, to show that the supervisor's loop turns.
    Ping(oneshot::Sender<()>),
}

/// Why a command was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Nobody lives at this path.
    #[error("no actor at `{0}`")]
    NoSuchActor(String),
    /// The actor at this path has no children.
    #[error("`{0}` is not a supervisor, or is not running")]
    NotASupervisor(String),
    /// There is one already.
    #[error("there is an actor at `{0}` already")]
    Taken(String),
    /// More commands wait than the supervisor's mailbox takes.
    #[error("the supervisor of `{0}` has too many commands waiting")]
    Busy(String),
    /// The root cannot be removed or killed by path.
    #[error("`{0}` is the root: drain or kill the tree instead")]
    Root(String),
}
