//! The lines of a run, in a bounded buffer. When it is full, the oldest log lines are dropped, and never other lines.

use std::collections::VecDeque;

use stowaway_protocol::Event;

/// Bytes of the log that are kept while the run is in progress.
const LOG_BYTES: usize = 256 * 1024;
/// Bytes of the log that are kept after the run has ended.
const ENDED_LOG_BYTES: usize = 32 * 1024;

/// The lines of one run.
pub struct Record {
    /// Name of the run.
    pub id: String,
    /// The run's key, which identifies what the run does.
    pub key: String,
    lines: VecDeque<(u64, Event)>,
    next: u64,
    log_bytes: usize,
    ended: bool,
}

impl Record {
    /// A record of a run that starts.
    pub fn new(id: String, key: String) -> Self {
        Self { id, key, lines: VecDeque::new(), next: 1, log_bytes: 0, ended: false }
    }

    /// Whether the last line was recorded.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Records a line of the run's stdout. An invalid or repeated event is recorded as a log line.
    pub fn take(&mut self, line: &str) {
        let event = Event::parse(line).filter(|event| match event {
            Event::Ready { .. } => !self.has(|event| matches!(event, Event::Ready { .. } | Event::Passed)),
            Event::Connected => !self.has(|event| *event == Event::Connected),
            Event::Report { .. } => true,
            Event::Log(_) | Event::Passed | Event::Lost(_) => false,
        });
        self.push(event.unwrap_or_else(|| Event::Log(line.to_owned())));
    }

    /// Records an event. Nothing is recorded after the last one.
    pub fn push(&mut self, event: Event) {
        if self.ended {
            return;
        }
        if event == Event::Connected {
            // Its token is used, and must not be sent to another client.
            for (_, sent) in &mut self.lines {
                if matches!(sent, Event::Ready { .. }) {
                    *sent = Event::Passed;
                }
            }
        }
        if let Event::Log(text) = &event {
            self.log_bytes += text.len();
        }
        self.ended = event.is_last();
        self.lines.push_back((self.next, event));
        self.next += 1;
        self.shrink(if self.ended { ENDED_LOG_BYTES } else { LOG_BYTES });
    }

    /// The lines from this number on.
    pub fn lines_from(&self, number: u64) -> impl Iterator<Item = &(u64, Event)> {
        let first = self.lines.partition_point(|(other, _)| *other < number);
        self.lines.range(first..)
    }

    fn has(&self, is_it: impl Fn(&Event) -> bool) -> bool {
        self.lines.iter().any(|(_, event)| is_it(event))
    }

    fn shrink(&mut self, limit: usize) {
        while self.log_bytes > limit {
            // There are few lines of other kinds, so a log line is among the first.
            let Some(oldest) = self.lines.iter().position(|(_, event)| matches!(event, Event::Log(_))) else { return };
            if let Some((_, Event::Log(text))) = self.lines.remove(oldest) {
                self.log_bytes -= text.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(record: &Record, from: u64) -> Vec<String> {
        record.lines_from(from).map(|(number, event)| format!("{number} {event}")).collect()
    }

    #[test]
    fn readers_go_on_where_they_stopped_and_nothing_follows_the_end() {
        let mut record = Record::new("a".to_owned(), "k".to_owned());
        record.take("ready 00 /s");
        record.push(Event::Log("one".to_owned()));
        record.take("connected");
        // Neither a repeated event nor one that a run must not send.
        record.take("connected");
        record.take("lost x");
        record.take("report 00 {}");
        record.push(Event::Lost("signal 9".to_owned()));
        let all = ["1 passed", "2 log one", "3 connected", "4 log connected", "5 log lost x", "6 report 00 {}"];
        for from in 0..8_u64 {
            let first = usize::try_from(from.saturating_sub(1)).unwrap().min(all.len());
            assert_eq!(lines(&record, from), all[first..], "{from}");
        }
        assert!(record.has_ended());
    }

    #[test]
    fn only_the_oldest_lines_of_a_long_log_are_lost() {
        let mut record = Record::new("a".to_owned(), "k".to_owned());
        record.take("ready 00 /s");
        for number in 0..10_000 {
            record.push(Event::Log(format!("{number:0100}")));
        }
        assert_eq!(lines(&record, 0)[0], "1 ready 00 /s");
        assert!(record.log_bytes <= LOG_BYTES && lines(&record, 2).len() > 2000);
        record.push(Event::Lost(String::new()));
        assert!(record.log_bytes <= ENDED_LOG_BYTES);
        assert!(lines(&record, 10_001)[0].starts_with("10001 log 0000"));
        assert_eq!(lines(&record, 10_002), ["10002 lost "]);
    }
}
