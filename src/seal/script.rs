//! The command lines of the shell forms: a script, followed by the user's command.

/// The limit of a command line. An exec's command line is part of its URL, whose length API servers and proxies limit.
pub const MAX_COMMAND_LINE: usize = 16 * 1024;

const DUMP: &str = concat!(include_str!("scripts/processes.sh"), include_str!("scripts/dump.sh"));
const RESTORE: &str = concat!(include_str!("scripts/processes.sh"), include_str!("scripts/restore.sh"));

/// Why a command cannot be run.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CommandLineError {
    /// There are no arguments, or the first argument is empty.
    #[error("the command is empty: give a program and its arguments")]
    Empty,
    /// A shell's `exec` would take the program's name for an option.
    #[error("the command {0:?} begins with '-': no program is called that; give the program first")]
    Option(String),
    /// The exec's URL would be too long.
    #[error(
        "the command line is {0} bytes long and at most {MAX_COMMAND_LINE} fit in a request: put it into a script in the image or a mounted file"
    )]
    TooLong(usize),
    /// An argument contains a NUL character, which arguments cannot hold.
    #[error("the command holds a NUL character, which no argument can carry")]
    Nul,
}

/// The command line that runs `command` under the container's `sh` in the dump form.
pub fn dump_command(command: &[String]) -> Result<Vec<String>, CommandLineError> {
    under_shell(DUMP, command)
}

/// The command line that runs `command` under the container's `sh` in the restore form.
pub fn restore_command(command: &[String]) -> Result<Vec<String>, CommandLineError> {
    under_shell(RESTORE, command)
}

fn under_shell(script: &str, command: &[String]) -> Result<Vec<String>, CommandLineError> {
    behind(&["sh", "-c", &for_the_wire(script), "sh"], command)
}

/// The command after the arguments `prefix`, if it can be run like this.
pub(super) fn behind(prefix: &[&str], command: &[String]) -> Result<Vec<String>, CommandLineError> {
    let program = command.first().filter(|program| !program.is_empty()).ok_or(CommandLineError::Empty)?;
    if program.starts_with('-') {
        return Err(CommandLineError::Option(program.clone()));
    }
    if command.iter().any(|argument| argument.contains('\0')) {
        return Err(CommandLineError::Nul);
    }
    let line: Vec<String> =
        prefix.iter().map(|argument| (*argument).to_owned()).chain(command.iter().cloned()).collect();
    let length = line.iter().map(|argument| argument.len() + 1).sum();
    if length > MAX_COMMAND_LINE { Err(CommandLineError::TooLong(length)) } else { Ok(line) }
}

/// The script without comments, indentation and empty lines. It contains no here-document, which this would break.
fn for_the_wire(script: &str) -> String {
    let lines = script.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.fold(String::with_capacity(script.len()), |wire, line| wire + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(arguments: &[&str]) -> Vec<String> {
        arguments.iter().map(|argument| (*argument).to_owned()).collect()
    }

    #[test]
    fn unusable_commands_are_refused() {
        assert_eq!(dump_command(&[]), Err(CommandLineError::Empty));
        assert_eq!(dump_command(&command(&[""])), Err(CommandLineError::Empty));
        assert_eq!(dump_command(&command(&["-c", "x"])), Err(CommandLineError::Option("-c".into())));
        assert_eq!(restore_command(&command(&["a\0b"])), Err(CommandLineError::Nul));
    }

    #[test]
    fn limit_holds_for_the_whole_command_line() {
        let rest =
            MAX_COMMAND_LINE - dump_command(&command(&["x"])).unwrap().iter().map(|w| w.len() + 1).sum::<usize>();
        assert!(dump_command(&command(&["x", &"y".repeat(rest - 1)])).is_ok());
        let too_long = dump_command(&command(&["x", &"y".repeat(rest)]));
        assert_eq!(too_long, Err(CommandLineError::TooLong(MAX_COMMAND_LINE + 1)));
    }

    #[test]
    fn scripts_are_small_on_the_wire() {
        for script in [DUMP, RESTORE] {
            let wire = for_the_wire(script);
            assert!(wire.len() < 4 * 1024 && !wire.contains("\n#"), "{} bytes", wire.len());
        }
    }
}
