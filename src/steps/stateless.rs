//! Builds steps that keep nothing from call to call: each incarnation of a worker gets a copy of the same one. Never for a
//! step with a connection, a model or a count.

use bulkhead_actors::step::{Step, StepFactory};
use bulkhead_core::fault::Fault;

/// Builds copies of one step.
#[derive(Clone, Debug)]
pub(super) struct Stateless<S> {
    name: &'static str,
    step: S,
}

impl<S> Stateless<S> {
    /// Builds copies of `step` under this name.
    pub(super) const fn new(name: &'static str, step: S) -> Self {
        Self { name, step }
    }
}

impl<S: Step + Clone + Sync + 'static> StepFactory for Stateless<S> {
    fn name(&self) -> &str {
        self.name
    }

    fn build(&self) -> Result<Box<dyn Step>, Fault> {
        Ok(Box::new(self.step.clone()))
    }
}
