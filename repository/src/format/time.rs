//! Times in JSON: RFC 3339 with up to nine digits of a second and a numeric offset. The offset has no meaning, but it
//! is a part of the bytes which a tree's id depends on. Any offset is read.

use jiff::{
    Timestamp,
    tz::{Offset, TimeZone},
};
use serde::Serializer;

/// Writes a time with the offset of UTC, `+00:00`.
pub fn utc<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&time.display_with_offset(Offset::UTC))
}

/// Writes a time which is not none as [`utc`] does.
#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
pub fn optional_utc<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => utc(time, to),
        None => to.serialize_none(),
    }
}

/// Writes a time which is not none with the offset of the system's time zone, as restic does for the times of files. In
/// a container without a time zone this is UTC.
#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
pub fn optional_local<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => to.collect_str(&time.display_with_offset(TimeZone::system().to_offset(*time))),
        None => to.serialize_none(),
    }
}
