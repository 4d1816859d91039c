//! A worker's steps, and the process of its own that they may run in (DESIGN §4): the daemon's side, which starts it,
//! hands it rows and tells how it died, and the child's side, which answers. Never decides what a death leads to.

mod channel;
mod child;
mod death;
mod output;
mod process;
mod rows;

pub use channel::{Broken, Channel};
pub use child::{Child, StepSet};
pub use process::ProcessSpec;
pub(crate) use process::{Halt, Master, Process};
pub use rows::StepRun;
