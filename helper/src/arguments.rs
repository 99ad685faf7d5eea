//! The command line, which Stowaway's runner writes; people have no use for it.
//!
//! It must not know what is done with it.

use std::{ffi::OsString, path::PathBuf, time::Duration};

/// What to do.
#[derive(Debug, Eq, PartialEq)]
pub enum Task {
    /// Seal the command's stdout.
    Dump(Job),
    /// Open a sealed stream into the command's stdin, with a process of this program that does so and one that holds.
    Restore(Job),
    /// Be the one that does so.
    HeldRestore(Job),
    /// Copy this program to that place.
    Install(PathBuf),
    /// Hold a sidecar's runs, each in a process of this program line.
    Supervise {
        /// Where to listen.
        socket: PathBuf,
        /// The program of a run.
        program: OsString,
        /// Its arguments.
        arguments: Vec<OsString>,
        /// How long to wait for what.
        patience: SupervisorPatience,
    },
    /// Ask the supervisor that listens there.
    Ask {
        /// Where it listens.
        socket: PathBuf,
        /// What for; `stowaway_seal::Request` knows the words.
        words: Vec<OsString>,
    },
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
    /// Where the other side listens; it is at stdin and stdout otherwise.
    pub socket: Option<PathBuf>,
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
    /// How long the stdout of a command that ended may be held open by others.
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

/// How long a supervisor waits for what.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SupervisorPatience {
    /// How often a watcher hears something.
    pub heartbeat: Duration,
    /// How long a run may take to end itself when it is asked to.
    pub end: Duration,
    /// How long a run goes on that nobody watches: long enough for an API server to come back, or for another attempt.
    pub unwatched: Duration,
    /// How long a request may take to arrive, and to be answered.
    pub request: Duration,
    /// How long to wait before listening is tried again.
    pub listen: Duration,
}

impl SupervisorPatience {
    fn divided_by(hurry: u32) -> Self {
        let seconds = |seconds| Duration::from_secs(seconds) / hurry;
        Self {
            heartbeat: seconds(10),
            end: seconds(15),
            unwatched: seconds(30 * 60),
            request: seconds(30),
            listen: seconds(5),
        }
    }
}

/// The first argument of [`Task::HeldRestore`]; nobody but this program says it.
pub const HELD: &str = "--held";

/// What the command line has to be.
pub const USAGE: &str = "usage: stowaway-helper [--socket PATH] [--restore] -- COMMAND [ARGUMENT...] | \
    stowaway-helper install PATH | stowaway-helper supervise PATH -- PROGRAM [ARGUMENT...] | stowaway-helper ask PATH WORD...";

/// Reads the arguments that follow the program's name; nothing if they are not of ours.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Option<Task> {
    let mut arguments = arguments.into_iter();
    let (mut restore, mut held, mut hurry, mut socket, mut supervise) = (false, false, 1, None, None);
    loop {
        let option = arguments.next()?;
        match option.to_str()? {
            "--restore" => restore = true,
            HELD => held = true,
            "--hurry" => hurry = arguments.next()?.to_str()?.parse().ok().filter(|hurry| *hurry > 0)?,
            "--socket" if socket.is_none() => socket = Some(PathBuf::from(arguments.next()?)),
            "supervise" if supervise.is_none() => supervise = Some(PathBuf::from(arguments.next()?)),
            "ask" => {
                let socket = arguments.next()?.into();
                return Some(Task::Ask { socket, words: arguments.collect() });
            }
            "install" => {
                let path = arguments.next()?.into();
                return arguments.next().is_none().then_some(Task::Install(path));
            }
            "--" => break,
            _ => return None,
        }
    }
    let program = arguments.next().filter(|program| !program.is_empty())?;
    let arguments = arguments.collect();
    if let Some(socket) = supervise {
        let patience = SupervisorPatience::divided_by(hurry);
        return Some(Task::Supervise { socket, program, arguments, patience });
    }
    let job = Job { program, arguments, patience: Patience::divided_by(hurry), socket };
    match (restore, held) {
        (false, false) => Some(Task::Dump(job)),
        (true, false) => Some(Task::Restore(job)),
        (true, true) => Some(Task::HeldRestore(job)),
        (false, true) => None,
    }
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
        assert!(matches!(parse_words(&[HELD, "--restore", "--", "psql"]), Some(Task::HeldRestore(_))));
        assert_eq!(parse_words(&["install", "/x/y"]), Some(Task::Install("/x/y".into())));
        let Some(Task::Dump(job)) = parse_words(&["--socket", "/s", "--", "pg_dump"]) else { panic!("no dump") };
        assert_eq!(job.socket, Some("/s".into()));
        let supervise = parse_words(&["supervise", "/s", "--hurry", "2", "--", "stowaway", "--volume=x"]);
        assert!(matches!(supervise, Some(Task::Supervise { arguments, .. }) if arguments == ["--volume=x"]));
        let ask = Task::Ask { socket: "/s".into(), words: vec!["watch".into(), "x".into()] };
        assert_eq!(parse_words(&["ask", "/s", "watch", "x"]), Some(ask));
    }

    #[test]
    fn other_command_lines_are_refused() {
        for words in [
            &[][..],
            &["pg_dump"],
            &["--"],
            &["--", ""],
            &["--restore"],
            &[HELD, "--", "pg_dump"],
            &["--hurry", "0", "--", "x"],
            &["install"],
            &["install", "a", "b"],
            &["--socket", "--", "x"],
            &["--socket", "a", "--socket", "b", "--", "x"],
            &["supervise", "a"],
            &["ask"],
        ] {
            assert_eq!(parse_words(words), None, "{words:?}");
        }
    }
}
