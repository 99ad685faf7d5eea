//! The rules of a prune: how much unused data may stay, and how much is repacked. Pure.

use std::{fmt, str::FromStr};

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PruneRules {
    /// How much unused data may stay, in packs which are needed in part.
    pub max_unused: Unused,
    /// The maximum of bytes which are repacked. Without a limit, as many as `max_unused` requires.
    pub max_repack: Option<u64>,
    /// Prune even if there is much data and no snapshot at all.
    pub allow_no_snapshots: bool,
    pub dry_run: bool,
}

/// restic's `--max-unused`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unused {
    /// A percentage of the repository's size after the prune; below 100.
    Percent(u8),
    Bytes(u64),
    /// Nothing is repacked to free space.
    Unlimited,
}

/// The default of restic.
impl Default for Unused {
    fn default() -> Self {
        Self::Percent(5)
    }
}

impl Unused {
    /// How many unused bytes may stay, if so many bytes are used.
    pub(super) fn limit(self, used: u64) -> u64 {
        match self {
            Self::Percent(percent) => {
                let bytes = u128::from(used) * u128::from(percent) / u128::from(100 - percent.min(99));
                u64::try_from(bytes).unwrap_or(u64::MAX)
            }
            Self::Bytes(bytes) => bytes,
            Self::Unlimited => u64::MAX,
        }
    }
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not a limit of unused data: write 5%, or bytes as 0, 500K, 200M, 1G, or unlimited")]
pub struct UnusedError(String);

impl FromStr for Unused {
    type Err = UnusedError;

    fn from_str(text: &str) -> Result<Self, UnusedError> {
        let invalid = || UnusedError(text.to_owned());
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        if let Some(percent) = text.strip_suffix('%') {
            let percent = percent.parse().ok().filter(|percent| *percent < 100).ok_or_else(invalid)?;
            return Ok(Self::Percent(percent));
        }
        let units = [('K', 1 << 10), ('M', 1 << 20), ('G', 1 << 30), ('T', 1 << 40)];
        let unit = units.into_iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)));
        let (number, bytes): (&str, u64) = unit.unwrap_or((text, 1));
        let number: u64 = number.parse().map_err(|_| invalid())?;
        number.checked_mul(bytes).map(Self::Bytes).ok_or_else(invalid)
    }
}

impl fmt::Display for Unused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(formatter, "{percent}%"),
            Self::Bytes(bytes) => write!(formatter, "{bytes}"),
            Self::Unlimited => formatter.write_str("unlimited"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_restic_reads_them() {
        for (text, expected) in [
            ("5%", Unused::Percent(5)),
            ("0", Unused::Bytes(0)),
            ("200M", Unused::Bytes(200 << 20)),
            ("unlimited", Unused::Unlimited),
        ] {
            assert_eq!(text.parse(), Ok(expected));
        }
        for text in ["", "%", "100%", "-1", "5 %", "M", "1X", "99999999999999T"] {
            assert!(text.parse::<Unused>().is_err(), "{text}");
        }
    }

    #[test]
    fn percentage_is_of_what_is_there_afterwards() {
        assert_eq!(Unused::Percent(50).limit(100), 100);
        assert_eq!(Unused::Percent(5).limit(950), 50);
        assert_eq!(Unused::Percent(0).limit(950), 0);
        assert_eq!(Unused::Percent(99).limit(u64::MAX), u64::MAX);
    }
}
