//! The ways to run a command so that its stream can be proven.
//!
//! It must not know how it was found out which one a container allows.

use super::{CommandLineError, dump_command, restore_command, script::behind};

/// What runs the command beside the application.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Way {
    /// The helper, by its path in the container.
    Helper(String),
    /// The container's own `sh`.
    Shell,
}

impl Way {
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

/// The command line of a helper that speaks over a sidecar's socket; its token comes by stdin.
pub fn socket_command(
    program: &str,
    socket: &str,
    restore: bool,
    command: &[String],
) -> Result<Vec<String>, CommandLineError> {
    let words: &[&str] = if restore { &["--restore", "--"] } else { &["--"] };
    behind(&[&[program, "--socket", socket], words].concat(), command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helper_gets_the_command_behind_two_dashes() {
        let way = Way::Helper("/x/helper".to_owned());
        let command = ["pg_dump".to_owned(), "-Fc".to_owned()];
        assert_eq!(way.dump_command(&command).unwrap(), ["/x/helper", "--", "pg_dump", "-Fc"]);
        assert_eq!(way.restore_command(&command).unwrap(), ["/x/helper", "--restore", "--", "pg_dump", "-Fc"]);
        assert_eq!(way.dump_command(&[]), Err(CommandLineError::Empty));
    }
}
