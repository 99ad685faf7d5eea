//! The last lines of this process's log, for a report which outlives the log. Lines of commands are left out, because
//! only the command's owner may read them.

use std::{
    collections::VecDeque,
    fmt::{self, Write as _},
    sync::{Mutex, PoisonError},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

use crate::model::{Escaping, RunReport};

/// The number of lines that are kept.
const LINES: usize = 24;
/// Longer lines are truncated.
const MAX_LINE: usize = 240;
/// The field of a line which a command wrote.
const OF_COMMAND: &str = "command";
/// The field of a progress line, which is outdated soon.
const OF_PROGRESS: &str = "bytes_per_second";

static KEPT: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// The layer which keeps the last lines.
pub(super) struct Tail;

impl<S: Subscriber> Layer<S> for Tail {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        let fields = event.metadata().fields();
        if level > Level::INFO || [OF_COMMAND, OF_PROGRESS].iter().any(|field| fields.field(field).is_some()) {
            return;
        }
        let mut line = Line(format!("{level:>5} "));
        event.record(&mut line);
        let Line(mut line) = line;
        line.truncate(line.floor_char_boundary(MAX_LINE));
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(line);
        if kept.len() > LINES {
            kept.pop_front();
        }
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a String never fails.
            let _written = write!(Escaping(&mut self.0), "{value:?}");
        }
    }
}

/// The last lines, the newest last: as many complete lines as fit into a report.
pub fn last_lines() -> String {
    let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut room = RunReport::LOG_TAIL_BYTES;
    let fits = |line: &&String| {
        let left = room.checked_sub(line.len() + 1);
        room = left.unwrap_or(0);
        left.is_some()
    };
    let mut lines: Vec<&str> = kept.iter().rev().take_while(fits).map(String::as_str).collect();
    lines.reverse();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn last_lines_are_whole_and_have_neither_progress_nor_lines_of_commands() {
        let log = tracing_subscriber::registry().with(Tail);
        tracing::subscriber::with_default(log, || {
            for number in 0..100 {
                tracing::warn!("file {number} {}", "x".repeat(100));
            }
            tracing::info!(command = true, "| a password");
            tracing::info!(bytes_per_second = 7, "in progress");
            tracing::debug!("a detail");
            tracing::info!("the\nend {}", "y".repeat(1000));
        });
        let lines = last_lines();
        assert!(lines.len() <= RunReport::LOG_TAIL_BYTES && lines.lines().count() > 5, "{lines}");
        assert!(
            lines.lines().all(|line| line.starts_with(" WARN file ") || line.starts_with(" INFO the\\nend")),
            "{lines}"
        );
        assert!(lines.lines().last().unwrap().len() <= MAX_LINE, "{lines}");
    }
}
