//! What outputs with names must be like, and whether a step sends anything to them. Never looks at another pipeline.

use super::At;
use crate::config::pipeline::PipelineFile;
use crate::config::shape::join;
use crate::config::text::Name;
use crate::steps::StepConfig;
use crate::steps::route::MAIN;

pub(super) fn check(at: &mut At<'_>, file: &PipelineFile) {
    let steps = || file.stage.iter().flat_map(|stage| &stage.steps);
    // Where a route goes is known only when it runs.
    let routes = steps().any(|step| matches!(step, StepConfig::Route(_)));
    for (name, output) in &file.pipeline.outputs {
        let path = join("pipeline.outputs", name);
        if let Err(why) = name.parse::<Name>() {
            at.at(&path, why);
        }
        if name == MAIN {
            at.at(&path, "names the pipeline's own output, pipeline.output; give this one another name");
        }
        if let Some(retention) = output.retention {
            at.some(&format!("{path}.retention"), retention);
        }
        if !routes && !steps().any(|step| step.outputs().contains(&name.as_str())) {
            at.warn(&path, "no step sends anything here: a route or a map with this output would");
        }
    }
}
