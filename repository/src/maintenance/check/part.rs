//! Which packs belong to a part of the repository's data. Pure.

use rustic_core::Id;

use stowaway_model::DataPart;

/// Whether a pack belongs to the part, by the first byte of its id. This is the rule of restic's
/// `--read-data-subset=n/m`. The part of a pack never changes, and each new pack belongs to one part, too.
pub(super) fn has(part: DataPart, pack: &Id) -> bool {
    let first_byte = pack.as_u32() & 0xff;
    first_byte % u32::from(part.of()) == u32::from(part.number()) - 1
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
                let parts = (1..=of).filter(|number| has(DataPart::new(*number, of).unwrap(), &Id::new(id)));
                assert_eq!(parts.collect::<Vec<_>>(), [u16::from(byte) % of + 1], "{byte} of {of}");
            }
        }
    }
}
