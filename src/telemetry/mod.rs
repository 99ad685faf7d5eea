//! The log: one line for each event, for users or for machines, on stderr of a command and on stdout of a run. The code
//! which logs an event must keep secrets out of it.

pub mod metrics;
pub mod tail;

use std::{
    fmt::{self, Write as _},
    io::IsTerminal,
    str::FromStr,
};

use tracing::{Metadata, field::Field};
use tracing_subscriber::{
    EnvFilter,
    filter::filter_fn,
    fmt::{
        format::{self, Writer},
        time::FormatTime,
    },
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::model::Escaping;

/// Target prefixes of crates which log secrets; their events are dropped. The secrets are store credentials, dump data,
/// and responses of the API server which could not be parsed and which contain commands.
const SECRET_LOGGING_CRATES: [&str; 3] = ["reqsign", "tungstenite", "kube_client::client"];

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum LogFormat {
    /// `2026-01-31T23:59:59Z  INFO text`: only the message, which contains everything that the fields of the JSON
    /// format hold.
    #[default]
    Text,
    /// One JSON object per line: `timestamp`, `level`, `message`, and the event's fields.
    Json,
}

/// The output of log lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogOutput {
    /// For runs and the controller, so that `kubectl logs` shows the lines.
    Stdout,
    /// For commands whose stdout is their result.
    Stderr,
}

/// Starts the log of this process. `level` is the name of a level or a filter in `tracing`'s syntax
/// (`info,kube=debug`). An invalid filter means `info`. Crates which log secrets stay silent at any level. If `level`
/// is a name, the crate `jiff` logs errors only, because it misses time zone data that an image need not have.
pub fn start(log_format: LogFormat, output: LogOutput, level: &str) {
    let is_name = level.bytes().all(|byte| byte.is_ascii_alphabetic());
    let filter = if is_name { format!("{level},jiff=error") } else { level.to_owned() };
    let filter = EnvFilter::from_str(&filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let writer = move || -> Box<dyn std::io::Write> {
        match output {
            LogOutput::Stdout => Box::new(std::io::stdout()),
            LogOutput::Stderr => Box::new(std::io::stderr()),
        }
    };
    let coloured = match output {
        LogOutput::Stdout => std::io::stdout().is_terminal(),
        LogOutput::Stderr => std::io::stderr().is_terminal(),
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_timer(WholeSeconds)
        .with_target(false)
        .with_ansi(coloured);
    // In the text format the message holds everything, and the fields are for machines. `tests/architecture.rs` checks
    // this.
    let message_only = format::debug_fn(write_message);
    // A second start (tests in one process) keeps the first log.
    let _already_started = match log_format {
        LogFormat::Text => {
            lines.fmt_fields(message_only).finish().with(filter_fn(is_free_of_secrets)).with(tail::Tail).try_init()
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
            lines.finish().with(filter_fn(is_free_of_secrets)).with(tail::Tail).try_init()
        }
    };
}

/// Writes the message of an event as one line. A message may contain text of a command, a file name or a server.
/// Therefore control characters are escaped, so that a message can neither forge a further line of the log nor control
/// the reader's terminal.
fn write_message(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    if field.name() == "message" { write!(Escaping(writer), "{value:?}") } else { Ok(()) }
}

fn is_free_of_secrets(metadata: &Metadata<'_>) -> bool {
    !SECRET_LOGGING_CRATES.iter().any(|library| metadata.target().starts_with(library))
}

/// UTC in RFC 3339, whole seconds.
struct WholeSeconds;

impl FormatTime for WholeSeconds {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{:.0}", jiff::Timestamp::now())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn libraries_that_show_secrets_log_nothing_at_any_level() {
        let log = Log::default();
        let writer = log.clone();
        let filter = EnvFilter::from_str("trace,reqsign_core::api=trace").unwrap();
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(lines.with(filter_fn(is_free_of_secrets)), || {
            tracing::trace!("the log works");
            tracing::error!(target: "reqsign_core::api", "a key");
            tracing::trace!(target: "tungstenite::protocol", "a dump");
            tracing::warn!(target: "kube_client::client", "a command");
        });
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(log.contains("the log works") && !log.contains("a key") && !log.contains("a dump"), "{log}");
        assert!(!log.contains("a command"), "{log}");
    }

    #[test]
    fn message_of_a_hostile_file_name_stays_one_line_and_drives_no_terminal() {
        let log = Log::default();
        let writer = log.clone();
        let lines = tracing_subscriber::fmt()
            .with_ansi(false)
            .fmt_fields(format::debug_fn(write_message))
            .with_writer(move || writer.clone())
            .finish();
        let name = "a\n2026-01-01T00:00:00Z  INFO verdict Succeeded\u{1b}[2J\u{9b}31m\u{202e}";
        tracing::subscriber::with_default(lines, || tracing::warn!(path = name, "cannot be read: {name}"));
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(log.lines().count(), 1, "{log:?}");
        assert!(!log.trim_end().chars().any(|character| character.is_control() || character == '\u{202e}'), "{log:?}");
        assert!(log.contains("\\n2026-01-01"), "{log:?}");
    }
}
