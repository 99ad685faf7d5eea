//! The command line. Stowaway's runner writes it; it is not meant for users.

use std::{ffi::OsString, path::PathBuf, time::Duration};

/// The task of this process.
#[derive(Debug, Eq, PartialEq)]
pub enum Task {
    /// Dump: seal the command's stdout.
    Dump(Job),
    /// Restore a sealed stream to the command's stdin. Starts a worker which writes, and keeps the pipe open in this
    /// process.
    Restore(Job),
    /// Internal: the worker of a restore.
    HeldRestore(Job),
    /// Copy this program to the path.
    Install(PathBuf),
    /// Print the version of this program.
    Version,
    /// Supervise the runs of a sidecar, each in a process with this command line.
    Supervise {
        /// Path of the socket to listen on.
        socket: PathBuf,
        /// The program of a run.
        program: OsString,
        /// The arguments of the program.
        arguments: Vec<OsString>,
        /// The supervisor's timeouts.
        timeouts: SupervisorTimeouts,
    },
    /// Send a request to a supervisor.
    Request {
        /// Path of the supervisor's socket.
        socket: PathBuf,
        /// The tokens of the request; see `stowaway_protocol::Request`.
        tokens: Vec<OsString>,
    },
}

/// A command, and how to run it.
#[derive(Debug, Eq, PartialEq)]
pub struct Job {
    /// The program. It is searched in `PATH` unless it contains a slash.
    pub program: OsString,
    /// The arguments of the program.
    pub arguments: Vec<OsString>,
    /// The timeouts.
    pub timeouts: Timeouts,
    /// The socket of the other side. Without it the protocol uses stdin and stdout.
    pub socket: Option<PathBuf>,
}

/// The timeouts of a dump or restore.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// Interval of heartbeats, which keep proxies from closing an idle stream.
    pub heartbeat: Duration,
    /// The time for which the other side may be silent. It sends a heartbeat every ten seconds.
    pub silence: Duration,
    /// The time that a command may take to end after a signal.
    pub end: Duration,
    /// The time for which other processes may hold the stdout of a command that has ended.
    pub held_open: Duration,
    /// The time for which bytes may wait in the compressor before it is flushed.
    pub flush: Duration,
}

impl Timeouts {
    /// The default timeouts divided by `hurry`, so that tests are fast.
    fn divided_by(hurry: u32) -> Self {
        let seconds = |seconds| Duration::from_secs(seconds) / hurry;
        Self {
            heartbeat: seconds(10),
            silence: seconds(120),
            end: seconds(5),
            held_open: seconds(2),
            flush: Duration::from_millis(200),
        }
    }
}

/// The timeouts of a supervisor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SupervisorTimeouts {
    /// Interval of the heartbeats to a watcher.
    pub heartbeat: Duration,
    /// The time that a run may take to end after it was cancelled.
    pub end: Duration,
    /// The time that a run lasts without a watcher: long enough for an API server to recover, or for another attempt.
    pub unwatched: Duration,
    /// The time that a request may take to arrive and to be answered.
    pub request: Duration,
    /// Pause before listening is retried.
    pub listen: Duration,
}

impl SupervisorTimeouts {
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

/// The first argument of [`Task::HeldRestore`]. Only this program uses it.
pub const HELD: &str = "--held";

/// The usage message.
pub const USAGE: &str = "usage: stowaway-helper [--socket PATH] [--restore] -- COMMAND [ARGUMENT...] | \
    stowaway-helper install PATH | stowaway-helper supervise PATH -- PROGRAM [ARGUMENT...] | stowaway-helper ask PATH TOKEN... | \
    stowaway-helper --version";

/// Parses the arguments after the program's name. None if they are invalid.
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
                return Some(Task::Request { socket, tokens: arguments.collect() });
            }
            "install" => {
                let path = arguments.next()?.into();
                return arguments.next().is_none().then_some(Task::Install(path));
            }
            "--version" => return arguments.next().is_none().then_some(Task::Version),
            "--" => break,
            _ => return None,
        }
    }
    let program = arguments.next().filter(|program| !program.is_empty())?;
    let arguments = arguments.collect();
    if let Some(socket) = supervise {
        let timeouts = SupervisorTimeouts::divided_by(hurry);
        return Some(Task::Supervise { socket, program, arguments, timeouts });
    }
    let job = Job { program, arguments, timeouts: Timeouts::divided_by(hurry), socket };
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

    fn parse_all(arguments: &[&str]) -> Option<Task> {
        parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn everything_behind_the_two_dashes_is_the_command() {
        let Some(Task::Dump(job)) = parse_all(&["--", "pg_dump", "--", "--restore"]) else { panic!("no dump") };
        assert_eq!((job.program, job.arguments), ("pg_dump".into(), vec!["--".into(), "--restore".into()]));
        assert!(matches!(parse_all(&["--restore", "--hurry", "20", "--", "psql"]), Some(Task::Restore(_))));
        assert!(matches!(parse_all(&[HELD, "--restore", "--", "psql"]), Some(Task::HeldRestore(_))));
        assert_eq!(parse_all(&["install", "/x/y"]), Some(Task::Install("/x/y".into())));
        let Some(Task::Dump(job)) = parse_all(&["--socket", "/s", "--", "pg_dump"]) else { panic!("no dump") };
        assert_eq!(job.socket, Some("/s".into()));
        let supervise = parse_all(&["supervise", "/s", "--hurry", "2", "--", "stowaway", "--volume=x"]);
        assert!(matches!(supervise, Some(Task::Supervise { arguments, .. }) if arguments == ["--volume=x"]));
        let request = Task::Request { socket: "/s".into(), tokens: vec!["watch".into(), "x".into()] };
        assert_eq!(parse_all(&["ask", "/s", "watch", "x"]), Some(request));
        assert_eq!(parse_all(&["--version"]), Some(Task::Version));
    }

    #[test]
    fn other_command_lines_are_refused() {
        for arguments in [
            &[][..],
            &["pg_dump"],
            &["--"],
            &["--", ""],
            &["--restore"],
            &[HELD, "--", "pg_dump"],
            &["--hurry", "0", "--", "x"],
            &["install"],
            &["install", "a", "b"],
            &["--version", "x"],
            &["--socket", "--", "x"],
            &["--socket", "a", "--socket", "b", "--", "x"],
            &["supervise", "a"],
            &["ask"],
        ] {
            assert_eq!(parse_all(arguments), None, "{arguments:?}");
        }
    }
}
