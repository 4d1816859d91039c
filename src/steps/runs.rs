//! What the steps that run a model have in common: where its description may lie, what runs it, and how long a call may take.
//! Never opens a file.

use crate::vision::describe::is_below;
use crate::vision::onnx::Provider;
use std::path::Path;
use std::time::{Duration, Instant};

/// More threads would only wait for each other.
const THREADS_MAX: usize = 256;
/// The share of a stage's timeout after which a model's run is ended: the worker answers for it before it counts as hung.
const CALL_SHARE: f64 = 0.9;

/// How long the runs of one call may take.
pub(super) fn limit(stage: Duration) -> Duration {
    stage.mul_f64(CALL_SHARE)
}

/// What is wrong with where the description lies, and with what runs the model.
pub(super) fn problems(model: &Path, threads: usize, providers: &[Provider]) -> Vec<String> {
    let mut problems = Vec::new();
    if !is_below(model) {
        problems.push(format!("model: `{}` must be a path below the config directory, without `..`", model.display()));
    }
    if !(1..=THREADS_MAX).contains(&threads) {
        problems.push(format!("threads: {threads}; 1 to {THREADS_MAX} are possible"));
    }
    match providers.iter().position(|provider| *provider == Provider::Cpu) {
        _ if providers.is_empty() => problems.push("providers: none; at least \"cpu\" is needed".to_owned()),
        Some(at) if at + 1 < providers.len() => {
            problems.push("providers: what comes after \"cpu\" is never tried: \"cpu\" can always be had".to_owned());
        }
        None if providers.len() > 1 => problems.push("providers: \"cuda\" comes twice".to_owned()),
        _ => {}
    }
    problems
}

/// One thread: more workers mostly do more than more threads.
pub(super) const fn one() -> usize {
    1
}

/// What runs a model where the config does not say.
pub(super) fn cpu() -> Vec<Provider> {
    vec![Provider::Cpu]
}

/// Tells the time since it was last asked.
pub(super) struct Timer(Instant);

impl Timer {
    /// From now on.
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since then, or since the last lap.
    pub(super) fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }

    /// When the last lap ended.
    pub(super) const fn last(&self) -> Instant {
        self.0
    }
}
