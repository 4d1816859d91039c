//! What a step that runs a model spends its time on. Never measures it.

use std::ops::Add;
use std::time::Duration;

/// Times over all records of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Making the model's input of the records.
    pub preprocess: Duration,
    /// Running the model.
    pub infer: Duration,
    /// Making records of its output.
    pub postprocess: Duration,
}

impl Add for Phases {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            preprocess: self.preprocess + other.preprocess,
            infer: self.infer + other.infer,
            postprocess: self.postprocess + other.postprocess,
        }
    }
}
