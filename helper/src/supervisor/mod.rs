//! The process that remains while a sidecar is idle: one loop that starts a run in its own process on request, keeps
//! its lines, and sends them to watchers, which may reconnect at any time.
//!
//! It ends only by a signal, because a sidecar that ends makes its pod un-Ready. The container has memory for one run
//! at a time.

mod connection;
mod record;
mod run;

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs, io,
    os::{
        fd::AsFd,
        unix::{fs::PermissionsExt, net::UnixListener},
    },
    path::Path,
    time::{Duration, Instant},
};

use rustix::event::PollFlags;
use stowaway_protocol::{Reply, Request};

use self::{
    connection::{Connection, Received, State},
    record::Record,
    run::Run,
};
use crate::{
    arguments::SupervisorTimeouts,
    descriptors::{self, Interest},
    family,
    signals::Signals,
};

/// The number of ended runs that are kept.
const ENDED_RUNS: usize = 8;
/// Maximum number of concurrent connections.
const CONNECTIONS: usize = 16;
/// The time that sending the last lines may take.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest wait of an idle loop.
const IDLE: Duration = Duration::from_mins(1);

/// The command line of a run.
pub struct Program {
    /// The program.
    pub program: OsString,
    /// The arguments of the program.
    pub arguments: Vec<OsString>,
}

/// Supervises runs until a signal requests the end.
pub fn run(socket: &Path, program: Program, timeouts: SupervisorTimeouts) -> Result<(), String> {
    let signals = Signals::catch().map_err(|error| format!("cannot catch signals: {error}"))?;
    // Log lines are dropped if their reader is slow, so that the loop never blocks.
    let _blocks = descriptors::never_block(io::stdout());
    let mut supervisor = Supervisor {
        program,
        timeouts,
        active: None,
        ended: VecDeque::new(),
        connections: Vec::new(),
        unwatched: Instant::now(),
        leaving: None,
    };
    let listener = Listener { socket, open: None, tried: None };
    supervisor.serve(listener, &signals);
    let _gone = fs::remove_file(socket);
    Ok(())
}

/// The socket for requests. Listening is retried until it succeeds.
struct Listener<'a> {
    socket: &'a Path,
    open: Option<UnixListener>,
    tried: Option<Instant>,
}

impl Listener<'_> {
    fn listen(&mut self, pause: Duration) {
        if self.open.is_some() || self.tried.is_some_and(|tried| tried.elapsed() < pause) {
            return;
        }
        let is_first = self.tried.replace(Instant::now()).is_none();
        let bind = || -> io::Result<UnixListener> {
            // A leftover of a supervisor that was killed.
            if let Err(error) = fs::remove_file(self.socket)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
            let listener = UnixListener::bind(self.socket)?;
            fs::set_permissions(self.socket, fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        match bind() {
            Ok(listener) => {
                self.open = Some(listener);
                echo("waiting for runs");
            }
            Err(error) if is_first => echo(&format!("cannot listen at {}: {error}", self.socket.display())),
            Err(_) => {}
        }
    }
}

struct Supervisor {
    program: Program,
    timeouts: SupervisorTimeouts,
    active: Option<Run>,
    ended: VecDeque<Record>,
    connections: Vec<Connection>,
    /// Since when no client watches the active run.
    unwatched: Instant,
    leaving: Option<Instant>,
}

impl Supervisor {
    fn serve(&mut self, mut listener: Listener<'_>, signals: &Signals) {
        loop {
            if signals.take() && self.leaving.is_none() {
                self.leaving = Some(Instant::now());
                listener.open = None;
                if let Some(run) = &mut self.active {
                    run.cancel();
                }
            }
            if self.leaving.is_none() {
                listener.listen(self.timeouts.listen);
            }
            self.update_run();
            self.serve_connections();
            // The watchers were just sent the end.
            if let (Some(since), None) = (self.leaving, &self.active)
                && (self.connections.is_empty() || since.elapsed() >= LAST_LINES_TIMEOUT)
            {
                return;
            }
            let has_client = self.wait(&listener, signals);
            if has_client && let Some(listener) = &listener.open {
                self.accept(listener);
            }
        }
    }

    /// Waits until an event, or until something is due. Returns true if a client connects.
    fn wait(&self, listener: &Listener<'_>, signals: &Signals) -> bool {
        let mut wanted: Vec<Interest<'_>> = vec![(signals.descriptor(), PollFlags::IN)];
        wanted.extend(listener.open.iter().map(|listener| (listener.as_fd(), PollFlags::IN)));
        wanted.extend(self.active.iter().flat_map(Run::interest).flatten());
        wanted.extend(self.connections.iter().map(Connection::interest));
        let flags = descriptors::wait_all(&wanted, self.until_due(listener));
        listener.open.is_some() && flags.get(1).is_some_and(|flags| !flags.is_empty())
    }

    fn until_due(&self, listener: &Listener<'_>) -> Duration {
        let mut rest = IDLE;
        if let Some(run) = &self.active {
            rest = rest.min(run.until_due(self.timeouts.end));
            if !run.is_cancelled() {
                rest = rest.min(self.timeouts.unwatched.saturating_sub(self.unwatched.elapsed()));
            }
        }
        for connection in &self.connections {
            let due = connection.until_due(self.timeouts.heartbeat, self.timeouts.request);
            rest = rest.min(due);
        }
        if listener.open.is_none() || self.leaving.is_some() {
            rest = rest.min(self.timeouts.listen).min(LAST_LINES_TIMEOUT);
        }
        // Something that is already due is done in the next iteration.
        rest.max(Duration::from_millis(1))
    }

    /// Updates the active run, and records its end.
    fn update_run(&mut self) {
        let Some(run) = &mut self.active else {
            // As process 1 of its container it must reap every orphan.
            family::reap();
            return;
        };
        let is_watched = self
            .connections
            .iter()
            .any(|connection| matches!(&connection.state, State::Watching { id, .. } if *id == run.record.id));
        if is_watched {
            self.unwatched = Instant::now();
        } else if self.unwatched.elapsed() >= self.timeouts.unwatched {
            run.cancel();
        }
        if !run.update(self.timeouts.end, echo) {
            return;
        }
        if let Some(run) = self.active.take() {
            let end = run.record.lines_from(0).last().map(|(_, event)| event.to_string()).unwrap_or_default();
            echo(&format!("run {} has ended: {end}", run.record.id));
            self.ended.push_back(run.record);
            if self.ended.len() > ENDED_RUNS {
                self.ended.pop_front();
            }
        }
    }

    /// Receives requests, and sends replies and lines.
    fn serve_connections(&mut self) {
        let mut connections = std::mem::take(&mut self.connections);
        connections.retain_mut(|connection| {
            match connection.receive() {
                Received::Nothing => {}
                Received::Gone => return false,
                Received::Request(request) => self.answer(connection, request),
                Received::Task { id, key, task } => {
                    let reply = self.start(id, key, &task);
                    connection.answer(&reply);
                }
            }
            if let State::Watching { id, .. } = &connection.state
                && let Some(record) = self.record(&id.clone())
            {
                connection.send_lines(record, |sent| sent.elapsed() >= self.timeouts.heartbeat);
            }
            let is_late = !matches!(connection.state, State::Watching { .. })
                && connection.since.elapsed() >= self.timeouts.request;
            connection.write() && !is_late
        });
        self.connections = connections;
    }

    fn answer(&mut self, connection: &mut Connection, request: Request) {
        match request {
            Request::Watch { id, from } if self.record(&id).is_some() => {
                connection.state = State::Watching { id, next: from };
                // Sent at once, so that the client also sees that a silent run is in progress.
                self.unwatched = Instant::now();
            }
            Request::Cancel { id } if self.record(&id).is_some() => {
                if let Some(run) = self.active.as_mut().filter(|run| run.record.id == id) {
                    run.cancel();
                }
                connection.answer(&Reply::Cancelled);
            }
            Request::Watch { .. } | Request::Cancel { .. } | Request::Start { .. } => {
                connection.answer(&Reply::Unknown);
            }
        }
    }

    fn start(&mut self, id: String, key: String, task: &[u8]) -> Reply {
        if let Some(record) = self.record(&id) {
            // The client would take the report of another run for its own.
            return if record.key == key {
                Reply::Attached(id)
            } else {
                Reply::Refused(format!("another run with the name {id} was executed here"))
            };
        }
        if let Some(run) = &self.active {
            let Record { id, key: other, .. } = &run.record;
            return if *other == key {
                Reply::Attached(id.clone())
            } else {
                Reply::Busy { id: id.clone(), key: other.clone() }
            };
        }
        if self.leaving.is_some() {
            return Reply::Refused("the sidecar is about to end".to_owned());
        }
        match Run::start(&self.program, Record::new(id.clone(), key), task) {
            Ok(run) => {
                echo(&format!("run {id} starts"));
                self.active = Some(run);
                self.unwatched = Instant::now();
                Reply::Started(id)
            }
            Err(error) => Reply::Refused(format!("the process of the run cannot be started: {error}")),
        }
    }

    fn record(&self, id: &str) -> Option<&Record> {
        let active = self.active.iter().map(|run| &run.record);
        active.chain(&self.ended).find(|record| record.id == id)
    }

    fn accept(&mut self, listener: &UnixListener) {
        while let Ok((stream, _)) = listener.accept() {
            if self.connections.len() < CONNECTIONS
                && let Ok(connection) = Connection::new(stream)
            {
                self.connections.push(connection);
            }
        }
    }
}

/// Writes a line of the supervisor's own log. It is dropped if the reader is slow.
fn echo(line: &str) {
    let _lost = descriptors::write(io::stdout(), format!("{line}\n").as_bytes());
}
