//! A set that only grows. The keys that were added last are in memory, the others in tables.

use std::{collections::HashSet, io};

use super::{sort::Sorter, table::Table};

/// How many keys are in memory before they are written to a table.
const RECENT: usize = 128 << 10;

/// A set of keys of `N` bytes each.
#[derive(Debug)]
pub(in super::super) struct GrowingSet<const N: usize> {
    /// How many keys `recent` may hold.
    most: usize,
    recent: HashSet<[u8; N]>,
    /// Tables of older keys. Each is at most half as long as the table before it, so that there are few tables.
    settled: Vec<Table<N>>,
    length: usize,
}

impl<const N: usize> Default for GrowingSet<N> {
    fn default() -> Self {
        Self::with_recent(RECENT)
    }
}

impl<const N: usize> GrowingSet<N> {
    fn with_recent(most: usize) -> Self {
        Self { most, recent: HashSet::new(), settled: Vec::new(), length: 0 }
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether the set contains the key.
    pub fn contains(&self, key: &[u8; N]) -> io::Result<bool> {
        if self.recent.contains(key) {
            return Ok(true);
        }
        for table in &self.settled {
            if !table.matching(key)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Adds a key. Returns false if the set contained it.
    pub fn insert(&mut self, key: [u8; N]) -> io::Result<bool> {
        if self.contains(&key)? {
            return Ok(false);
        }
        self.recent.insert(key);
        self.length += 1;
        if self.recent.len() >= self.most {
            self.settle()?;
        }
        Ok(true)
    }

    fn settle(&mut self) -> io::Result<()> {
        // The smallest budget, so that the table is in a file.
        let mut sorter = Sorter::new(self.most * N / 2);
        for key in self.recent.drain() {
            sorter.push(&key)?;
        }
        let mut last = Table::of(sorter)?;
        while let Some(before) = self.settled.pop_if(|before| before.len() < 2 * last.len()) {
            last = Table::merged(&before, &last)?;
        }
        self.settled.push(last);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_new_once() {
        let mut set = GrowingSet::<4>::with_recent(10);
        let keys = || (0..1000_u32).map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes());
        assert!(set.is_empty());
        assert!(keys().all(|key| set.insert(key).unwrap()));
        assert!(keys().all(|key| set.contains(&key).unwrap() && !set.insert(key).unwrap()));
        assert!(!set.contains(&[1, 1, 1, 1]).unwrap());
        assert_eq!(set.len(), 1000);
        assert!(set.settled.len() < 9, "{}", set.settled.len());
    }
}
