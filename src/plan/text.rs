//! Texts that fit a status, and arithmetic of times that cannot overflow.
//!
//! It must not know what is said.

use std::time::Duration;

use jiff::Timestamp;

/// How much of a message goes into a status: 256 sources with a message each still fit one object.
const MAXIMUM_MESSAGE_BYTES: usize = 1024;

/// The text, cut to what a status may hold.
pub(super) fn clip(text: &str) -> String {
    if text.len() <= MAXIMUM_MESSAGE_BYTES {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(MAXIMUM_MESSAGE_BYTES - '…'.len_utf8())])
}

/// How much of a message goes into one of the long lists of a status, beside which the sources have to fit.
const MAXIMUM_LINE_BYTES: usize = 320;

/// The text, cut to what an entry of such a list may hold.
pub(super) fn clip_line(text: &str) -> String {
    if text.len() <= MAXIMUM_LINE_BYTES {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(MAXIMUM_LINE_BYTES - '…'.len_utf8())])
}

/// That much later.
pub(super) fn later(then: Timestamp, wait: Duration) -> Timestamp {
    then.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

/// How long until then; nothing when it has passed.
pub(super) fn until(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or_default()
}
