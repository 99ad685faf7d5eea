//! The packs that a check found damaged: which of them are listed, and how the list changes with each check.
//!
//! The list is input of later runs, and never authority. A pack that is listed by mistake costs only storage, because a
//! backup then stores its data a second time.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DataPart;

/// The number of packs that one report lists, because the kubelet keeps only 4 KiB of a report.
const MAX_REPORTED: usize = 48;
/// The number of packs that a status lists.
const MAX_KEPT: usize = 256;
/// The digits of an id that are listed. Two packs of one repository practically never have the same ones.
const LISTED_DIGITS: usize = 16;

/// Packs that a check found damaged. Later backups store the data that they need of these packs again.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DamagedPacks {
    /// The first 16 hex digits of the ids of damaged packs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 64)))]
    pub ids: Vec<String>,
    /// A part of the data in which more packs are damaged than are listed. Each backup reads this part of the data
    /// itself, to find them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more_in: Option<DataPart>,
}

impl DamagedPacks {
    /// The number of packs that a check counts one by one.
    pub const MOST_COUNTED: usize = 1000;

    /// The list for a report. `ids` are the whole ids of the packs that a check found damaged, most of them in the part
    /// of the data that it has read. There may be more than [`Self::MOST_COUNTED`], which are then not in `ids`.
    pub fn of(ids: &[String], part: DataPart) -> Self {
        let listed = ids.iter().take(MAX_REPORTED).map(|id| id.chars().take(LISTED_DIGITS).collect()).collect();
        let mut unlisted = ids.iter().skip(MAX_REPORTED).peekable();
        let more_in = unlisted.peek().is_some().then(|| {
            if ids.len() < Self::MOST_COUNTED && unlisted.all(|id| is_in(id, part)) { part } else { DataPart::ALL }
        });
        Self { ids: listed, more_in }
    }

    /// For damage of which only the part of the data is known.
    pub fn anywhere_in(part: DataPart) -> Self {
        Self { ids: Vec::new(), more_in: Some(part) }
    }

    /// Whether no pack is known to be damaged.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.more_in.is_none()
    }

    /// The first eight bytes of the listed ids, as big-endian numbers. A text that is not an id is ignored.
    pub fn prefixes(&self) -> BTreeSet<u64> {
        let number = |id: &String| u64::from_str_radix(id.get(..LISTED_DIGITS)?, 16).ok();
        self.ids.iter().filter_map(number).collect()
    }

    /// The list after a check that has read `part`, and has found these packs. What the check has not read stays.
    #[must_use]
    pub fn after_check(&self, part: DataPart, found: Self) -> Self {
        let ids = self.ids.iter().filter(|id| !is_in(id, part)).cloned().collect();
        found.and(Self { ids, more_in: self.more_in.filter(|more| !part.covers(*more)) })
    }

    /// The packs of both lists.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let mut ids = self.ids;
        ids.extend(other.ids);
        let mut seen = BTreeSet::new();
        ids.retain(|id| seen.insert(id.clone()));
        let more_in = match (self.more_in, other.more_in) {
            _ if ids.len() > MAX_KEPT => Some(DataPart::ALL),
            (Some(one), Some(other)) if one != other => Some(DataPart::ALL),
            (one, other) => one.or(other),
        };
        ids.truncate(MAX_KEPT);
        Self { ids, more_in }
    }
}

/// Whether the pack with this id, or with this beginning of an id, belongs to the part. A text that is not an id belongs
/// to every part, so that it does not stay for ever.
fn is_in(id: &str, part: DataPart) -> bool {
    id.get(..2).and_then(|byte| u8::from_str_radix(byte, 16).ok()).is_none_or(|byte| part.has(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(text: &str) -> DataPart {
        text.parse().unwrap()
    }

    /// Whole ids whose first byte is `first`.
    fn ids(first: u8, numbers: std::ops::Range<u64>) -> Vec<String> {
        numbers.map(|number| format!("{first:02x}{number:014x}{:048}", 0)).collect()
    }

    fn listed(ids: &[&str]) -> DamagedPacks {
        DamagedPacks { ids: ids.iter().map(|id| (*id).to_owned()).collect(), more_in: None }
    }

    #[test]
    fn report_lists_the_first_packs_and_the_part_of_the_others() {
        let few = DamagedPacks::of(&ids(4, 0..3), part("1/4"));
        assert_eq!((few.ids.len(), few.more_in, few.prefixes().len()), (3, None, 3));
        assert!(few.ids.iter().all(|id| id.len() == LISTED_DIGITS));
        let many = DamagedPacks::of(&ids(4, 0..100), part("1/4"));
        assert_eq!((many.ids.len(), many.more_in), (MAX_REPORTED, Some(part("1/4"))));
        let everywhere = DamagedPacks::of(&[ids(4, 0..60), ids(5, 0..60)].concat(), part("1/4"));
        assert_eq!(everywhere.more_in, Some(DataPart::ALL), "trees are damaged outside of the part");
        let uncounted = DamagedPacks::of(&ids(4, 0..1000), part("1/4"));
        assert_eq!(uncounted.more_in, Some(DataPart::ALL), "the others may be anywhere");
        assert!(DamagedPacks::of(&[], part("1/4")).is_empty());
    }

    #[test]
    fn check_clears_only_packs_that_it_has_read() {
        let before = listed(&["00aa", "01aa", "02aa"]);
        assert_eq!(before.after_check(part("1/2"), DamagedPacks::default()), listed(&["01aa"]));
        assert_eq!(before.after_check(part("1/2"), listed(&["00bb", "01aa"])), listed(&["00bb", "01aa"]));
        assert!(before.after_check(DataPart::ALL, DamagedPacks::default()).is_empty());

        let unlisted = DamagedPacks::anywhere_in(part("1/2"));
        assert!(unlisted.after_check(part("1/2"), DamagedPacks::default()).is_empty());
        assert_eq!(unlisted.after_check(part("2/2"), DamagedPacks::default()), unlisted);
        assert_eq!(unlisted.after_check(part("1/7"), DamagedPacks::default()), unlisted, "only a part of it was read");
        let both = unlisted.after_check(part("2/2"), DamagedPacks::anywhere_in(part("2/2")));
        assert_eq!(both.more_in, Some(DataPart::ALL));
    }

    #[test]
    fn list_in_a_status_has_a_limit_beyond_which_all_data_counts() {
        let before = DamagedPacks { ids: ids(1, 0..250), more_in: None };
        let after = before.after_check(part("1/2"), DamagedPacks { ids: ids(2, 0..40), more_in: None });
        assert_eq!((after.ids.len(), after.more_in), (MAX_KEPT, Some(DataPart::ALL)));
    }

    #[test]
    fn text_that_is_not_an_id_lists_no_pack() {
        for text in ["", "00", "zzzzzzzzzzzzzzzz", "äääääääääää"] {
            assert!(listed(&[text]).prefixes().is_empty(), "{text:?}");
            assert!(listed(&[text]).after_check(DataPart::ALL, DamagedPacks::default()).is_empty(), "{text:?}");
        }
    }
}
