//! The retention policy of snapshots, with the options of restic's `forget` as fields. `plan` decides which snapshots
//! it keeps.

use std::{fmt, str::FromStr};

use jiff::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which snapshots of each source are kept, with the meaning of restic's `forget`. Without any of these fields, all
/// snapshots are kept. The policy applies to each source separately, and the newest proven snapshot of each source is
/// always kept.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Keep this number of the newest snapshots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 100_000))]
    pub keep_last: Option<u32>,
    /// Keep the newest snapshot of each of the last n hours that have a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 100_000))]
    pub keep_hourly: Option<u32>,
    /// Keep the newest snapshot of each of the last n days that have a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 100_000))]
    pub keep_daily: Option<u32>,
    /// Keep the newest snapshot of each of the last n weeks that have a snapshot. Weeks begin on Monday.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 100_000))]
    pub keep_weekly: Option<u32>,
    /// Keep the newest snapshot of each of the last n months that have a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 100_000))]
    pub keep_monthly: Option<u32>,
    /// Keep the newest snapshot of each of the last n years that have a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 100_000))]
    pub keep_yearly: Option<u32>,
    /// Keep all snapshots that are not older than this duration, counted back from the newest one. `2y5m7d3h` is 2
    /// years, 5 months, 7 days and 3 hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_within: Option<Age>,
    /// Keep all snapshots that have one of these tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 256)))]
    pub keep_tags: Vec<String>,
}

impl Retention {
    /// Whether no field is set, so that all snapshots are kept.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A duration as restic writes it: years, months (`m`, not minutes), days and hours, each at most once and in this
/// order.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Age {
    years: u16,
    months: u16,
    days: u16,
    hours: u16,
}

/// A text that is not a duration.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{0:?} is not a duration as in restic: years, months, days and hours in this order, such as `2y5m7d3h` or `30d`"
)]
pub struct AgeError(String);

impl Age {
    /// The duration as a span of the calendar.
    pub fn span(self) -> Span {
        Span::new().years(self.years).months(self.months).days(self.days).hours(self.hours)
    }
}

impl FromStr for Age {
    type Err = AgeError;

    fn from_str(text: &str) -> Result<Self, AgeError> {
        let wrong = || AgeError(text.to_owned());
        let mut age = Self::default();
        let mut rest = text;
        let units = [('y', &mut age.years), ('m', &mut age.months), ('d', &mut age.days), ('h', &mut age.hours)];
        for (unit, amount) in units {
            let digits = rest.len() - rest.trim_start_matches(|digit: char| digit.is_ascii_digit()).len();
            if let Some(after) = rest[digits..].strip_prefix(unit) {
                // Four digits are enough, and the calendar ends there.
                *amount = rest[..digits].parse().ok().filter(|amount| *amount <= 9999).ok_or_else(wrong)?;
                rest = after;
            }
        }
        if rest.is_empty() && age != Self::default() { Ok(age) } else { Err(wrong()) }
    }
}

impl TryFrom<String> for Age {
    type Error = AgeError;

    fn try_from(text: String) -> Result<Self, AgeError> {
        text.parse()
    }
}

impl From<Age> for String {
    fn from(age: Age) -> Self {
        age.to_string()
    }
}

impl fmt::Display for Age {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (amount, unit) in [(self.years, 'y'), (self.months, 'm'), (self.days, 'd'), (self.hours, 'h')] {
            if amount > 0 {
                write!(formatter, "{amount}{unit}")?;
            }
        }
        Ok(())
    }
}

impl JsonSchema for Age {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Age".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "maxLength": 20,
            "pattern": "^([0-9]{1,4}y)?([0-9]{1,4}m)?([0-9]{1,4}d)?([0-9]{1,4}h)?$",
            "x-kubernetes-validations": [{ "rule": "self.matches('[1-9]')", "message": "must be longer than 0h" }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read_as_restic_reads_them() {
        let age: Age = "2y5m7d3h".parse().unwrap();
        assert_eq!((age.years, age.months, age.days, age.hours), (2, 5, 7, 3));
        for text in ["2y5m7d3h", "30d", "12h", "1y1h"] {
            assert_eq!(text.parse::<Age>().unwrap().to_string(), text);
        }
        assert_eq!("007d".parse::<Age>().unwrap().to_string(), "7d");
    }

    #[test]
    fn age_that_restic_does_not_read_is_refused() {
        for text in ["", "7", "d", "7d ", "-7d", "7d7d", "3h7d", "1h30m", "90s", "1w", "10000d", "0d", "7D"] {
            assert!(text.parse::<Age>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn policy_without_fields_is_empty() {
        assert!(serde_json::from_str::<Retention>("{}").unwrap().is_empty());
        let retention: Retention = serde_json::from_str(r#"{"keepDaily": 7, "keepWithin": "30d"}"#).unwrap();
        assert!(!retention.is_empty());
        assert_eq!(serde_json::to_string(&retention).unwrap(), r#"{"keepDaily":7,"keepWithin":"30d"}"#);
    }
}
