//! The modes of running a command so that its stream can be proven.

use super::{CommandLineError, dump_command, restore_command, script::behind};

/// The program which runs the command in the application's container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ExecMode {
    /// The helper, by its path in the container.
    Helper(String),
    /// The container's own `sh`.
    Shell,
}

impl ExecMode {
    /// The command line of a dump.
    pub fn dump_command(&self, command: &[String]) -> Result<Vec<String>, CommandLineError> {
        match self {
            Self::Helper(program) => behind(&[program, "--"], command),
            Self::Shell => dump_command(command),
        }
    }

    /// The command line of a restore.
    pub fn restore_command(&self, command: &[String]) -> Result<Vec<String>, CommandLineError> {
        match self {
            Self::Helper(program) => behind(&[program, "--restore", "--"], command),
            Self::Shell => restore_command(command),
        }
    }
}

/// The command line of a helper which connects to a sidecar's socket. The helper receives its token on stdin.
pub fn socket_command(
    program: &str,
    socket: &str,
    restore: bool,
    command: &[String],
) -> Result<Vec<String>, CommandLineError> {
    let options: &[&str] = if restore { &["--restore", "--"] } else { &["--"] };
    behind(&[&[program, "--socket", socket], options].concat(), command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helper_gets_the_command_behind_two_dashes() {
        let mode = ExecMode::Helper("/x/helper".to_owned());
        let command = ["pg_dump".to_owned(), "-Fc".to_owned()];
        assert_eq!(mode.dump_command(&command).unwrap(), ["/x/helper", "--", "pg_dump", "-Fc"]);
        assert_eq!(mode.restore_command(&command).unwrap(), ["/x/helper", "--restore", "--", "pg_dump", "-Fc"]);
        assert_eq!(mode.dump_command(&[]), Err(CommandLineError::Empty));
    }
}
