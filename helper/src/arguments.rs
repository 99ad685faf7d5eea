//! The command line, which Stowaway's runner writes; people have no use for it.
//!
//! It must not know what is done with it.

use std::{ffi::OsString, path::PathBuf, time::Duration};

/// What to do.
#[derive(Debug, Eq, PartialEq)]
pub enum Task {
    /// Seal the command's stdout.
    Dump(Job),
    /// Open a sealed stream into the command's stdin.
    Restore(Job),
    /// Copy this program to that place.
    Install(PathBuf),
}

/// A command, and how long to be patient.
#[derive(Debug, Eq, PartialEq)]
pub struct Job {
    /// The program; looked for in `PATH` unless it is a path.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// How long to wait for what.
    pub patience: Patience,
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Patience {
    /// How often to say something, so that nobody in between ends a silent stream.
    pub heartbeat: Duration,
    /// How long the other side may say nothing: it does so every ten seconds.
    pub silence: Duration,
    /// How long a command may take to end itself when it is asked to.
    pub end: Duration,
    /// How long the stdout of a command that ended may be held open by others, who say nothing on it.
    pub remains: Duration,
    /// How long bytes may wait in the compressor for more.
    pub flush: Duration,
}

impl Patience {
    /// The usual, divided: tests are in a hurry.
    fn divided_by(hurry: u32) -> Self {
        let seconds = |seconds| Duration::from_secs(seconds) / hurry;
        Self {
            heartbeat: seconds(10),
            silence: seconds(120),
            end: seconds(5),
            remains: seconds(2),
            flush: Duration::from_millis(200),
        }
    }
}

/// What the command line has to be.
pub const USAGE: &str = "usage: stowaway-helper [--restore] -- COMMAND [ARGUMENT...] | stowaway-helper install PATH";

/// Reads the arguments that follow the program's name; nothing if they are not of ours.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Option<Task> {
    let mut arguments = arguments.into_iter();
    let (mut restore, mut hurry) = (false, 1);
    loop {
        let option = arguments.next()?;
        match option.to_str()? {
            "--restore" => restore = true,
            "--hurry" => hurry = arguments.next()?.to_str()?.parse().ok().filter(|hurry| *hurry > 0)?,
            "install" => {
                let path = arguments.next()?.into();
                return arguments.next().is_none().then_some(Task::Install(path));
            }
            "--" => break,
            _ => return None,
        }
    }
    let program = arguments.next().filter(|program| !program.is_empty())?;
    let job = Job { program, arguments: arguments.collect(), patience: Patience::divided_by(hurry) };
    Some(if restore { Task::Restore(job) } else { Task::Dump(job) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Option<Task> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn everything_behind_the_two_dashes_is_the_command() {
        let Some(Task::Dump(job)) = parse_words(&["--", "pg_dump", "--", "--restore"]) else { panic!("no dump") };
        assert_eq!((job.program, job.arguments), ("pg_dump".into(), vec!["--".into(), "--restore".into()]));
        assert!(matches!(parse_words(&["--restore", "--hurry", "20", "--", "psql"]), Some(Task::Restore(_))));
        assert_eq!(parse_words(&["install", "/x/y"]), Some(Task::Install("/x/y".into())));
    }

    #[test]
    fn other_command_lines_are_refused() {
        for words in [
            &[][..],
            &["pg_dump"],
            &["--"],
            &["--", ""],
            &["--restore"],
            &["--hurry", "0", "--", "x"],
            &["install"],
            &["install", "a", "b"],
        ] {
            assert_eq!(parse_words(words), None, "{words:?}");
        }
    }
}
