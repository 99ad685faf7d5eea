//! The n-th of m parts of a repository's data, so that m checks read all of it.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The n-th of m parts, written `n/m` as in restic's `--read-data-subset`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct DataPart {
    number: u16,
    of: u16,
}

/// A text that is not a part.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not a part of the data: write n/m, such as 1/7 for the first of seven, with m at most 256")]
pub struct DataPartError(String);

impl DataPart {
    /// All data at once.
    pub const ALL: Self = Self { number: 1, of: 1 };
    /// The maximum number of parts.
    pub const MOST: u16 = 256;

    /// The part `number` of `of`. Fails if `of` is not from 1 to 256, or `number` is not from 1 to `of`.
    pub fn new(number: u16, of: u16) -> Result<Self, DataPartError> {
        if (1..=Self::MOST).contains(&of) && (1..=of).contains(&number) {
            Ok(Self { number, of })
        } else {
            Err(DataPartError(format!("{number}/{of}")))
        }
    }

    /// The first of `of` parts; `of` is clamped to 1 to 256.
    pub fn first(of: u16) -> Self {
        Self { number: 1, of: of.clamp(1, Self::MOST) }
    }

    /// The next part; none after the last.
    pub fn next(self) -> Option<Self> {
        (self.number < self.of).then_some(Self { number: self.number + 1, ..self })
    }

    /// Whether a pack belongs to the part, by the first byte of its id. This is the rule of restic's
    /// `--read-data-subset=n/m`. The part of a pack never changes, and each new pack belongs to one part, too.
    pub fn has(self, first_byte: u8) -> bool {
        u16::from(first_byte) % self.of == self.number - 1
    }

    /// Whether the part contains all of another part.
    pub fn covers(self, other: Self) -> bool {
        self == other || self == Self::ALL
    }

    /// The number of the part, from 1.
    pub fn number(self) -> u16 {
        self.number
    }

    /// The number of parts.
    pub fn of(self) -> u16 {
        self.of
    }
}

impl FromStr for DataPart {
    type Err = DataPartError;

    fn from_str(text: &str) -> Result<Self, DataPartError> {
        let refused = || DataPartError(text.to_owned());
        let (number, of) = text.split_once('/').ok_or_else(refused)?;
        match (number.parse(), of.parse()) {
            (Ok(number), Ok(of)) => Self::new(number, of).map_err(|_| refused()),
            _ => Err(refused()),
        }
    }
}

impl TryFrom<String> for DataPart {
    type Error = DataPartError;

    fn try_from(text: String) -> Result<Self, DataPartError> {
        text.parse()
    }
}

impl From<DataPart> for String {
    fn from(part: DataPart) -> Self {
        part.to_string()
    }
}

impl fmt::Display for DataPart {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.number, self.of)
    }
}

impl JsonSchema for DataPart {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "DataPart".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "maxLength": 7, "pattern": "^[0-9]{1,3}/[0-9]{1,3}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pack_is_in_one_part() {
        for of in [1, 2, 7, 30, 256] {
            for byte in 0..=255 {
                let parts = (1..=of).filter(|number| DataPart::new(*number, of).unwrap().has(byte));
                assert_eq!(parts.collect::<Vec<_>>(), [u16::from(byte) % of + 1], "{byte} of {of}");
            }
        }
    }

    #[test]
    fn invalid_parts_are_rejected() {
        for text in ["", "1", "0/2", "3/2", "1/0", "1/257", "a/b", "1/2/3", "-1/2"] {
            assert!(text.parse::<DataPart>().is_err(), "{text}");
        }
        assert_eq!("2/7".parse::<DataPart>().unwrap().to_string(), "2/7");
        assert_eq!("1/1".parse(), Ok(DataPart::ALL));
    }

    #[test]
    fn one_follows_the_other_and_none_the_last() {
        let mut part = DataPart::first(3);
        let mut seen = vec![part.to_string()];
        while let Some(next) = part.next() {
            part = next;
            seen.push(part.to_string());
        }
        assert_eq!(seen, ["1/3", "2/3", "3/3"]);
        assert_eq!((DataPart::first(0), DataPart::first(999).of()), (DataPart::ALL, DataPart::MOST));
    }
}
