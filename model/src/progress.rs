//! The progress of a run, as the run reports it. It is for display only, because anyone in the namespace could write
//! it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The annotation of the Event by which a run reports its progress.
pub const PROGRESS_ANNOTATION: &str = "stowaway.dev/progress";
pub const PROGRESS_REASON: &str = "Progress";

/// The limit of sums, which a status can hold.
const MOST: u64 = 1 << 62;

/// The progress of a run.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunProgress {
    /// Bytes so far.
    #[schemars(with = "i64", range(min = 0))]
    pub bytes: u64,
    /// Total number of bytes, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0))]
    pub total_bytes: Option<u64>,
    /// Bytes per second in the recent past.
    #[schemars(with = "i64", range(min = 0))]
    pub bytes_per_second: u64,
}

impl RunProgress {
    /// The sum of several runs; none without a run. The total is known only if that of each run is known.
    pub fn sum(runs: impl Iterator<Item = Self>) -> Option<Self> {
        runs.map(Self::capped).reduce(|one, other| {
            let add = |one: u64, other: u64| one.saturating_add(other).min(MOST);
            Self {
                bytes: add(one.bytes, other.bytes),
                total_bytes: one.total_bytes.zip(other.total_bytes).map(|(one, other)| add(one, other)),
                bytes_per_second: add(one.bytes_per_second, other.bytes_per_second),
            }
        })
    }

    /// The same progress, with numbers that a status can hold.
    #[must_use]
    pub fn capped(self) -> Self {
        Self {
            bytes: self.bytes.min(MOST),
            total_bytes: self.total_bytes.map(|total| total.min(MOST)),
            bytes_per_second: self.bytes_per_second.min(MOST),
        }
    }

    /// The percentage that is done; none if the total is not known, or was exceeded.
    pub fn percentage(self) -> Option<u64> {
        let total = self.total_bytes.filter(|total| *total > 0 && self.bytes <= *total)?;
        u64::try_from(u128::from(self.bytes) * 100 / u128::from(total)).ok()
    }

    /// The progress as a text for users. `amount` formats a number of bytes.
    pub fn describe(self, amount: impl Fn(u64) -> String) -> String {
        let done = match (self.percentage(), self.total_bytes) {
            (Some(percentage), Some(total)) => format!("{percentage}% of {}", amount(total)),
            _ => amount(self.bytes),
        };
        format!("{done}, {}/s", amount(self.bytes_per_second))
    }
}

/// A number of bytes, rounded down to a tenth, without a space: `1.2GiB`.
pub fn short_amount(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{}.{}{name}", bytes / unit, u128::from(bytes % unit) * 10 / u128::from(unit)),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_is_shown_where_the_whole_is_known() {
        let of = |bytes, total_bytes| RunProgress { bytes, total_bytes, bytes_per_second: 3 << 20 };
        assert_eq!(of(1 << 30, Some(4 << 30)).describe(short_amount), "25% of 4.0GiB, 3.0MiB/s");
        assert_eq!(of(1300, None).describe(short_amount), "1.2KiB, 3.0MiB/s");
        assert_eq!(of(7, Some(5)).describe(short_amount), "7B, 3.0MiB/s", "more than all of it");
        let both = RunProgress::sum([of(1, Some(2)), of(1, None)].into_iter());
        assert_eq!(both.unwrap().describe(short_amount), "2B, 6.0MiB/s");
        assert_eq!(RunProgress::sum(std::iter::empty()), None);
    }

    #[test]
    fn absurd_numbers_stay_within_a_status() {
        let absurd = RunProgress { bytes: u64::MAX, total_bytes: Some(u64::MAX), bytes_per_second: u64::MAX };
        let sum = RunProgress::sum([absurd; 3].into_iter()).unwrap();
        assert!(i64::try_from(sum.bytes).is_ok() && i64::try_from(sum.bytes_per_second).is_ok(), "{sum:?}");
        assert_eq!(sum.percentage(), Some(100));
    }
}
