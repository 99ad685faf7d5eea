//! What happened in a run, line by line, bounded: the oldest lines of its log go first, and nothing else ever does.
//!
//! It must not know processes or connections.

use std::collections::VecDeque;

use stowaway_seal::Event;

/// What is kept of the log of a run that goes on.
const LOG_BYTES: usize = 256 * 1024;
/// What is kept of the log of one that has ended.
const ENDED_LOG_BYTES: usize = 32 * 1024;

/// The lines of one run.
pub struct Record {
    /// Which run.
    pub id: String,
    /// What it does.
    pub key: String,
    lines: VecDeque<(u64, Event)>,
    next: u64,
    log_bytes: usize,
    ended: bool,
}

impl Record {
    /// Of a run that begins.
    pub fn new(id: String, key: String) -> Self {
        Self { id, key, lines: VecDeque::new(), next: 1, log_bytes: 0, ended: false }
    }

    /// Whether its last line is there.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes what the run says on its stdout. What has no place there, or is said again, is a line of its log.
    pub fn take(&mut self, line: &str) {
        let event = Event::parse(line).filter(|event| match event {
            Event::Ready { .. } => !self.has(|event| matches!(event, Event::Ready { .. } | Event::Passed)),
            Event::Connected => !self.has(|event| *event == Event::Connected),
            Event::Report { .. } => true,
            Event::Log(_) | Event::Passed | Event::Lost(_) => false,
        });
        self.push(event.unwrap_or_else(|| Event::Log(line.to_owned())));
    }

    /// Takes an event; nothing follows the last one.
    pub fn push(&mut self, event: Event) {
        if self.ended {
            return;
        }
        if event == Event::Connected {
            // Its word is spent, and need not be told to anybody else.
            for (_, told) in &mut self.lines {
                if matches!(told, Event::Ready { .. }) {
                    *told = Event::Passed;
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
            // There are few lines of other kinds, so it is one of the first.
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

    fn told(record: &Record, from: u64) -> Vec<String> {
        record.lines_from(from).map(|(number, event)| format!("{number} {event}")).collect()
    }

    #[test]
    fn readers_go_on_where_they_stopped_and_nothing_follows_the_end() {
        let mut record = Record::new("a".to_owned(), "k".to_owned());
        record.take("ready 00 /s");
        record.push(Event::Log("one".to_owned()));
        record.take("connected");
        // Neither a second time, nor what a run has not to say.
        record.take("connected");
        record.take("lost x");
        record.take("report 00 {}");
        record.push(Event::Lost("signal 9".to_owned()));
        let all = ["1 passed", "2 log one", "3 connected", "4 log connected", "5 log lost x", "6 report 00 {}"];
        for from in 0..8_u64 {
            let first = usize::try_from(from.saturating_sub(1)).unwrap().min(all.len());
            assert_eq!(told(&record, from), all[first..], "{from}");
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
        assert_eq!(told(&record, 0)[0], "1 ready 00 /s");
        assert!(record.log_bytes <= LOG_BYTES && told(&record, 2).len() > 2000);
        record.push(Event::Lost(String::new()));
        assert!(record.log_bytes <= ENDED_LOG_BYTES);
        assert!(told(&record, 10_001)[0].starts_with("10001 log 0000"));
        assert_eq!(told(&record, 10_002), ["10002 lost "]);
    }
}
