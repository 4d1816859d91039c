//! The verb `model check`: prints what there is to know about a model, and everything that is wrong with it or its
//! description. Never judges; `vision::examine` does.

use crate::exit::Exit;
use crate::vision::examine::{self, Findings};
use crate::vision::onnx::Library;
use clap::{Args, Subcommand};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What can be done with a model.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Tell what a model takes and gives, how long a run takes, and all that its description lacks or contradicts
    Check(CheckArgs),
}

/// `model check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// A model's description (NAME.toml), or a bare NAME.onnx, for which a description is suggested
    #[arg(value_name = "FILE", value_parser = model_file)]
    file: PathBuf,
    /// How often it is run for the timing
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    runs: u16,
    /// ONNX Runtime's shared library (onnxruntime.library); else ORT_DYLIB_PATH, else where `make setup` puts it
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
}

fn is_description(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("toml"))
}

fn model_file(text: &str) -> Result<PathBuf, String> {
    let file = PathBuf::from(text);
    let is_graph = file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("onnx"));
    if is_graph || is_description(&file) {
        Ok(file)
    } else {
        Err("a description ends in .toml, a model in .onnx".to_owned())
    }
}

/// What is printed to standard output and to standard error, and how the process ends.
#[must_use]
pub fn run(command: &ModelCommand) -> (String, String, Exit) {
    let ModelCommand::Check(CheckArgs { file, runs, onnxruntime }) = command;
    let library = match Library::load(onnxruntime.as_deref()) {
        Ok(library) => library,
        Err(why) => return (String::new(), format!("{why}\n"), Exit::Start),
    };
    let look = if is_description(file) { examine::described } else { examine::bare };
    let findings = look(file, &library, (*runs).into());
    let exit = if findings.problems.is_empty() { Exit::Clean } else { Exit::Config };
    (told(&findings), problems(file, &findings), exit)
}

fn told(findings: &Findings) -> String {
    let mut text = String::new();
    for (what, said) in &findings.facts {
        writeln!(text, "{what:<9} {said}").expect("writing to a String never fails");
    }
    if let Some(suggestion) = &findings.suggestion {
        let head = "\n# A description to begin with; save it as NAME.toml beside the model, decide what is marked, check it again.";
        writeln!(text, "{head}\n{suggestion}").expect("writing to a String never fails");
    }
    text
}

fn problems(file: &Path, findings: &Findings) -> String {
    let mut text: String = findings.problems.iter().map(|problem| format!("{problem}\n")).collect();
    let count = findings.problems.len();
    if count > 0 {
        let ending = if count == 1 { "" } else { "s" };
        writeln!(text, "{}: {count} problem{ending}", file.display()).expect("writing to a String never fails");
    }
    text
}
