//! Supervision: OTP's supervisors on actix, which has none that survives a panic (`docs/adr/0001-own-supervisor.md`).
//! Never carries a record.
//!
//! ```text
//! RootHandle ──commands──▶ Node (supervisor) ──signals, by Lifeline──▶ Cell or Node (child)
//!                            ▲                                            │ thread or task
//!                            └────────── reports, by Tombstone ◀──────────┘
//! ```
//!
//! A [`ChildSpec`] says how to build a child and what brings it back; the machine in `bulkhead_core::supervisor`
//! decides; nodes and cells are the shells around it. A tree lives on one actix arbiter, its thread bodies on threads
//! of their own.

mod cell;
mod command;
mod node;
mod registry;
mod root;
mod spec;
pub(crate) mod tombstone;

pub use bulkhead_core::restart::{Backoff, RestartPolicy};
pub use bulkhead_core::supervisor::{OnFailed, StopOrder, Strategy, SupervisorState};
pub use command::ControlError;
pub use registry::ActorView;
pub use root::{Root, RootExit, RootHandle, RootOptions};
pub use spec::{Child, ChildSpec, ExitFn, ObserveFn, StartFn, StateFn, SupervisorSpec};
