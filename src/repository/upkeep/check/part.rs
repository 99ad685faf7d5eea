//! Which packs are read the n-th of m times, so that all are read in m times. Pure.

use std::{fmt, str::FromStr};

use rustic_core::Id;

/// The n-th of m parts of the packs, by the first byte of their ids: stable, and the same as restic's
/// `--read-data-subset=n/m`. Packs that are new since belong to one of the parts, too.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DataPart {
    /// From 1 to `of`.
    number: u16,
    /// From 1 to 256.
    of: u16,
}

/// A text that names no part.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is no part of the data: write n/m, as 1/7 for the first of seven, with m at most 256")]
pub struct DataPartError(String);

impl DataPart {
    /// All packs at once.
    pub const ALL: Self = Self { number: 1, of: 1 };
    /// There are no more parts.
    pub const MOST: u16 = 256;

    /// The part `number` of `of`. Errors: `of` is not from 1 to 256, `number` not from 1 to `of`.
    pub fn new(number: u16, of: u16) -> Result<Self, DataPartError> {
        if (1..=Self::MOST).contains(&of) && (1..=of).contains(&number) {
            Ok(Self { number, of })
        } else {
            Err(DataPartError(format!("{number}/{of}")))
        }
    }

    pub(super) fn has(self, pack: &Id) -> bool {
        let first_byte = pack.as_u32() & 0xff;
        first_byte % u32::from(self.of) == u32::from(self.number) - 1
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

impl fmt::Display for DataPart {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.number, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pack_is_in_one_part() {
        for of in [1, 2, 7, 30, 256] {
            for byte in 0..=255 {
                let mut id = [9; 32];
                id[0] = byte;
                let parts = (1..=of).filter(|number| DataPart::new(*number, of).unwrap().has(&Id::new(id)));
                assert_eq!(parts.collect::<Vec<_>>(), [u16::from(byte) % of + 1], "{byte} of {of}");
            }
        }
    }

    #[test]
    fn parts_that_are_none_are_refused() {
        for text in ["", "1", "0/2", "3/2", "1/0", "1/257", "a/b", "1/2/3", "-1/2"] {
            assert!(text.parse::<DataPart>().is_err(), "{text}");
        }
        assert_eq!("2/7".parse::<DataPart>().unwrap().to_string(), "2/7");
        assert_eq!("1/1".parse(), Ok(DataPart::ALL));
    }
}
