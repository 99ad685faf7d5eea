//! The one binary: the command line's verbs, and the roles `controller` and `runner`. It only parses and dispatches.

use std::process::ExitCode;

fn main() -> ExitCode {
    stowaway::cli::main()
}
