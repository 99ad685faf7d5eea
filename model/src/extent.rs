//! The size of a volume's content, and whether the volume has lost so much of it that its next snapshot must not
//! replace the last good one. An app may have removed the content, or a file system may not be mounted.

use std::fmt;

/// Below this number, a few files more or less are already half of them.
const SMALLEST_FILES: u64 = 10;
/// Below this size, a few lines more or less are already half of it.
pub const SMALLEST_BYTES: u64 = 64 * 1024;

/// The size of the content of a volume, or of its snapshot.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct VolumeExtent {
    /// Entries other than directories.
    pub files: u64,
    /// Directories below the root of the volume.
    pub folders: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

impl fmt::Display for VolumeExtent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} files of {} bytes", self.files, self.bytes)
    }
}

/// The loss of a volume's content since its last good snapshot, if that is suspicious.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shrinkage {
    /// Nothing is left.
    Emptied,
    /// More than half of the files, or of the bytes, is missing.
    LostMost,
}

/// Whether a volume has lost so much since its last good snapshot that a user should check it.
pub fn shrinkage(before: VolumeExtent, now: VolumeExtent) -> Option<Shrinkage> {
    let had_entries = before.files > 0 || before.folders > 0;
    let is_empty = now.files == 0 && now.folders == 0;
    if had_entries && is_empty || before.files > 0 && now.files == 0 {
        return Some(Shrinkage::Emptied);
    }
    let lost_files = has_lost_most(before.files, now.files, SMALLEST_FILES);
    let lost_bytes = has_lost_most(before.bytes, now.bytes, SMALLEST_BYTES);
    (lost_files || lost_bytes).then_some(Shrinkage::LostMost)
}

/// Whether more than half is missing of an amount that was at least `smallest`.
pub fn has_lost_most(before: u64, now: u64, smallest: u64) -> bool {
    before >= smallest && now < before.div_ceil(2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extent(files: u64, folders: u64, bytes: u64) -> VolumeExtent {
        VolumeExtent { files, folders, bytes }
    }

    #[test]
    fn emptied_and_shrunken_volumes_are_distinguished_from_usual_changes() {
        let (emptied, lost_most) = (Some(Shrinkage::Emptied), Some(Shrinkage::LostMost));
        for (before, now, expected) in [
            // The former size does not matter.
            (extent(1, 0, 0), extent(0, 0, 0), emptied),
            (extent(1, 0, 1), extent(0, 9, 0), emptied),
            (extent(0, 3, 0), extent(0, 0, 0), emptied),
            (extent(1_000_000, 5, 1 << 40), extent(0, 5, 0), emptied),
            (extent(0, 0, 0), extent(0, 0, 0), None),
            (extent(0, 9, 0), extent(0, 2, 0), None),
            (extent(0, 0, 0), extent(5, 5, 5), None),
            // Half is not most.
            (extent(10, 0, 0), extent(5, 0, 0), None),
            (extent(10, 0, 0), extent(4, 0, 0), lost_most),
            (extent(11, 0, 0), extent(5, 0, 0), lost_most),
            (extent(11, 0, 0), extent(6, 0, 0), None),
            (extent(9, 0, 0), extent(1, 0, 0), None),
            (extent(1, 0, 65_536), extent(1, 0, 32_768), None),
            (extent(1, 0, 65_536), extent(1, 0, 32_767), lost_most),
            (extent(1, 0, 65_535), extent(1, 0, 0), None),
            // Losing many small files counts, and so does losing one big file.
            (extent(100, 0, 1 << 30), extent(20, 0, 1 << 30), lost_most),
            (extent(100, 0, 1 << 30), extent(99, 0, 1 << 20), lost_most),
            (extent(u64::MAX, 0, u64::MAX), extent(u64::MAX, 0, u64::MAX), None),
        ] {
            assert_eq!(shrinkage(before, now), expected, "{before:?} {now:?}");
        }
    }

    proptest! {
        #[test]
        fn volume_that_kept_half_or_grew_is_never_doubted(
            files in 1..u64::MAX / 2, bytes in 0..u64::MAX / 2, more in 0..1000_u64, folders in 0..9_u64,
        ) {
            let before = extent(files, folders, bytes);
            prop_assert_eq!(shrinkage(before, extent(files.div_ceil(2) + more, folders, bytes.div_ceil(2) + more)), None);
        }

        #[test]
        fn emptied_volume_is_always_doubted(files in 1..u64::MAX, bytes: u64, folders: u64, left: u64) {
            prop_assert_eq!(shrinkage(extent(files, folders, bytes), extent(0, left, 0)), Some(Shrinkage::Emptied));
        }

        #[test]
        fn less_is_never_better(before: [u64; 3], now: [u64; 3], less: [u64; 3]) {
            let now_extent = extent(now[0], now[1], now[2]);
            let less = extent(now[0].min(less[0]), now[1].min(less[1]), now[2].min(less[2]));
            let before = extent(before[0], before[1], before[2]);
            prop_assert!(shrinkage(before, now_extent).is_none() || shrinkage(before, less).is_some());
        }
    }
}
