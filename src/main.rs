//! bulkhead's entry point. Never holds logic: the library does.

use std::process::ExitCode;

fn main() -> ExitCode {
    bulkhead::cli::main().into()
}
