//! The `stowaway` binary: the CLI commands, and the roles `controller`, `webhook` and `runner`. It only calls
//! [`stowaway::cli::main`].

use std::process::ExitCode;

fn main() -> ExitCode {
    stowaway::cli::main()
}
