//! What stays of a sidecar that has nothing to do: one loop that begins a run in a process of its own when asked to, keeps
//! what it says, and tells it to whoever watches, however often they have to come back.
//!
//! It must not know what a run does. It ends when it is asked to, by a signal, and for no other reason: a sidecar that ends
//! makes its pod un-Ready. There is memory for one run at a time.

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
use stowaway_seal::{Reply, Request};

use self::{
    connection::{Asked, Connection, State},
    record::Record,
    run::Run,
};
use crate::{
    arguments::SupervisorPatience,
    descriptors::{self, Wanted},
    family,
    signals::Signals,
};

/// Of so many runs that have ended the end can be told.
const ENDED_RUNS: usize = 8;
/// So many may ask and watch at once.
const CONNECTIONS: usize = 16;
/// How long last words may take to be heard.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often a loop that waits for nothing looks around.
const IDLE: Duration = Duration::from_mins(1);

/// What a run is.
pub struct Program {
    /// The program.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// Supervises until a signal asks for the end.
pub fn run(socket: &Path, program: Program, patience: SupervisorPatience) -> Result<(), String> {
    let signals = Signals::catch().map_err(|error| format!("cannot catch signals: {error}"))?;
    // Where nobody takes the lines, they are lost rather than waited for.
    let _blocks = descriptors::never_block(io::stdout());
    let mut supervisor = Supervisor {
        program,
        patience,
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

/// Where requests come in; tried again for as long as it takes.
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
            // Of one that was killed.
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
    patience: SupervisorPatience,
    active: Option<Run>,
    ended: VecDeque<Record>,
    connections: Vec<Connection>,
    /// Since when nobody watches the active run.
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
                listener.listen(self.patience.listen);
            }
            self.tend();
            self.talk();
            // Watchers were told the end just now.
            if let (Some(since), None) = (self.leaving, &self.active)
                && (self.connections.is_empty() || since.elapsed() >= LAST_WORDS)
            {
                return;
            }
            let is_asked = self.wait(&listener, signals);
            if is_asked && let Some(listener) = &listener.open {
                self.accept(listener);
            }
        }
    }

    /// Until something happens, or is due. True when somebody comes.
    fn wait(&self, listener: &Listener<'_>, signals: &Signals) -> bool {
        let mut wanted: Vec<Wanted<'_>> = vec![(signals.descriptor(), PollFlags::IN)];
        wanted.extend(listener.open.iter().map(|listener| (listener.as_fd(), PollFlags::IN)));
        wanted.extend(self.active.iter().flat_map(Run::wanted).flatten());
        wanted.extend(self.connections.iter().map(Connection::wanted));
        let flags = descriptors::wait_all(&wanted, self.rest(listener));
        listener.open.is_some() && flags.get(1).is_some_and(|flags| !flags.is_empty())
    }

    fn rest(&self, listener: &Listener<'_>) -> Duration {
        let mut rest = IDLE;
        if let Some(run) = &self.active {
            rest = rest.min(run.rest(self.patience.end));
            if !run.is_told_to_end() {
                rest = rest.min(self.patience.unwatched.saturating_sub(self.unwatched.elapsed()));
            }
        }
        for connection in &self.connections {
            let due = connection.rest(self.patience.heartbeat, self.patience.request);
            rest = rest.min(due);
        }
        if listener.open.is_none() || self.leaving.is_some() {
            rest = rest.min(self.patience.listen).min(LAST_WORDS);
        }
        // What is due this very moment is done in the next round.
        rest.max(Duration::from_millis(1))
    }

    /// Takes in what became of the run.
    fn tend(&mut self) {
        let Some(run) = &mut self.active else {
            // As process 1 of its container it gets every orphan.
            family::take_leave();
            return;
        };
        let is_watched = self
            .connections
            .iter()
            .any(|connection| matches!(&connection.state, State::Watching { id, .. } if *id == run.record.id));
        if is_watched {
            self.unwatched = Instant::now();
        } else if self.unwatched.elapsed() >= self.patience.unwatched {
            run.cancel();
        }
        if !run.tend(self.patience.end, echo) {
            return;
        }
        if let Some(run) = self.active.take() {
            let end = run.record.lines_from(0).last().map(|(_, event)| event.to_string()).unwrap_or_default();
            echo(&format!("run {} is over: {end}", run.record.id));
            self.ended.push_back(run.record);
            if self.ended.len() > ENDED_RUNS {
                self.ended.pop_front();
            }
        }
    }

    /// Hears, answers and tells.
    fn talk(&mut self) {
        let mut connections = std::mem::take(&mut self.connections);
        connections.retain_mut(|connection| {
            match connection.listen() {
                Asked::Nothing => {}
                Asked::Gone => return false,
                Asked::Request(request) => self.answer(connection, request),
                Asked::Task { id, key, task } => {
                    let reply = self.start(id, key, &task);
                    connection.answer(&reply);
                }
            }
            if let State::Watching { id, .. } = &connection.state
                && let Some(record) = self.record(&id.clone())
            {
                connection.tell(record, |said| said.elapsed() >= self.patience.heartbeat);
            }
            let is_late = !matches!(connection.state, State::Watching { .. })
                && connection.since.elapsed() >= self.patience.request;
            connection.write() && !is_late
        });
        self.connections = connections;
    }

    fn answer(&mut self, connection: &mut Connection, request: Request) {
        match request {
            Request::Watch { id, from } if self.record(&id).is_some() => {
                connection.state = State::Watching { id, next: from };
                // Even of a run in which nothing happens it is heard at once that it is there.
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
            // Whoever asked for something else would take its report for his own.
            return if record.key == key {
                Reply::Attached(id)
            } else {
                Reply::Refused(format!("a run of the name {id} did something else here"))
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
                echo(&format!("run {id} begins"));
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

/// A line of our own log; lost where nobody takes it.
fn echo(line: &str) {
    let _lost = descriptors::write(io::stdout(), format!("{line}\n").as_bytes());
}
