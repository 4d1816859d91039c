//! `bulkhead test`: runs the cases of a config's `tests/` through the real steps of its pipelines, without a log, and tells
//! what came out differently. Never changes a file, and never starts a daemon.

mod judge;
mod run;

use crate::config::Config;
use crate::config::cases::{CaseFile, load};
use crate::config::problem::Problem;
use crate::config::single::Single;
use run::Runner;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// How all cases went.
#[derive(Debug)]
pub struct Report {
    /// What is printed of it.
    pub text: String,
    /// Whether every case went as expected, and there was one.
    pub passed: bool,
}

/// Runs the cases whose file or name has `filter` in it; `data` is a folder for what steps keep.
///
/// # Errors
/// Every problem of the files: nothing is run then.
pub fn run(config: &Config, data: &Path, filter: Option<&str>) -> Result<Report, Vec<Problem>> {
    let files = load(&config.dir)?;
    let mut problems = Vec::new();
    let mut checked = Vec::new();
    for (path, mut file) in files {
        check(config, &mut file);
        if file.problems.is_empty() {
            checked.push((path, file.value));
        } else {
            problems.extend(file.into_problems());
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(report(config, data, &checked, filter))
}

/// What of a file does not fit the config.
fn check(config: &Config, file: &mut Single<CaseFile>) {
    let value = file.value.clone();
    let Some(pipeline) = config.pipelines.iter().find(|pipeline| pipeline.name == value.pipeline) else {
        let known: Vec<&str> = config.pipelines.iter().map(|pipeline| pipeline.name.0.as_str()).collect();
        return file.refuse("pipeline", format_args!("there is no such pipeline; valid: {}", known.join(", ")));
    };
    let stages: Vec<&str> = pipeline.stages.iter().map(|stage| stage.name.0.as_str()).collect();
    let is_unknown = |name: &str| !stages.contains(&name);
    for (index, stage) in value.stages.iter().flatten().enumerate() {
        if is_unknown(&stage.0) {
            let why = format_args!("the pipeline has no such stage; valid: {}", stages.join(", "));
            file.refuse(&format!("stages[{index}]"), why);
        }
    }
    for (index, case) in value.case.iter().enumerate() {
        let path = format!("case[{index}]");
        let input = &case.input;
        let given = [input.json.is_some(), input.text.is_some(), input.file.is_some()];
        if given.iter().filter(|given| **given).count() > 1 {
            file.refuse(&format!("{path}.input"), "has more than one of json, text and file: a record has one value");
        }
        if input.file.as_ref().is_some_and(|path| !crate::vision::describe::is_below(path)) {
            file.refuse(&format!("{path}.input.file"), "must be a path below the config directory, without `..`");
        }
        if let Some(inject) = case.inject.as_ref().filter(|inject| is_unknown(&inject.stage.0)) {
            let why = format_args!("the pipeline has no stage {}; valid: {}", inject.stage, stages.join(", "));
            file.refuse(&format!("{path}.inject.stage"), why);
        }
        let is_here = |name: &str| pipeline.routes.iter().any(|route| run::name_of(route) == name);
        if case.route.as_ref().is_some_and(|route| !is_here(route)) {
            let known: Vec<String> = pipeline.routes.iter().map(run::name_of).collect();
            file.refuse(
                &format!("{path}.route"),
                format_args!("the pipeline has no such route; valid: {}", known.join(", ")),
            );
        }
    }
}

fn report(config: &Config, data: &Path, files: &[(PathBuf, CaseFile)], filter: Option<&str>) -> Report {
    let (mut text, mut count, mut failed) = (String::new(), 0_usize, 0_usize);
    for (path, file) in files {
        let shown = path.display().to_string();
        let is_meant = |name: &str| filter.is_none_or(|filter| shown.contains(filter) || name.contains(filter));
        let cases: Vec<_> = file.case.iter().filter(|case| is_meant(&case.name)).collect();
        if cases.is_empty() {
            continue;
        }
        say(&mut text, format_args!("{shown}: pipeline {}", file.pipeline));
        let mut runner = Runner::new(config, file, data);
        for case in cases {
            count += 1;
            let wrong = match &mut runner {
                Ok(runner) => runner.case(case).map_or_else(|why| vec![why], |ends| judge::differences(case, &ends)),
                Err(why) => vec![why.clone()],
            };
            failed += usize::from(!wrong.is_empty());
            say(&mut text, format_args!("  {} {}", if wrong.is_empty() { "ok    " } else { "FAILED" }, case.name));
            for line in wrong.iter().flat_map(|wrong| wrong.lines()) {
                say(&mut text, format_args!("         {line}"));
            }
        }
    }
    let cases = if count == 1 { "1 case".to_owned() } else { format!("{count} cases") };
    match (count, failed) {
        (0, _) => say(&mut text, format_args!("no case: they lie in {}/tests/*.toml", config.dir.display())),
        (_, 0) => say(&mut text, format_args!("{cases}, all as expected")),
        _ => say(&mut text, format_args!("{cases}, {failed} FAILED")),
    }
    Report { text, passed: count > 0 && failed == 0 }
}

fn say(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a String never fails");
}
