//! etcd snapshots: a bbolt database file of whole pages, followed by its SHA-256.
//!
//! The database file of a running etcd has no SHA-256. Source: `snapshot/v3_snapshot.go` of etcd, and `page.go` and
//! `db.go` of bbolt.

use sha2::{Digest, Sha256};

use super::{Format, Recognised, held::Held, little_endian, missing, unknown, whole};

const NAME: &str = "etcd snapshot";
const DATABASE: &str = "bbolt database";
const MAGIC: u64 = 0xed0c_daed;
const VERSION: u64 = 2;
const PAGE_HEADER: usize = 16;
const META: usize = 64;
/// The SHA-256 follows a whole number of blocks of this size, and text may follow the SHA-256.
const BLOCK: u64 = 512;
const TAIL: usize = 4096;
/// The longest page. bbolt uses the page size of the machine.
const MAX_PAGE: usize = 64 * 1024;

/// Whether this is the first page of a database.
pub(super) fn is_begun(head: &[u8]) -> bool {
    head.get(PAGE_HEADER..PAGE_HEADER + META).is_some_and(|meta| {
        let page = little_endian(&meta[8..12]);
        little_endian(&meta[..4]) == MAGIC
            && little_endian(&meta[4..8]) == VERSION
            && page.is_power_of_two()
            && (512..=MAX_PAGE as u64).contains(&page)
    })
}

/// A database, and perhaps its SHA-256.
#[derive(Default)]
pub(super) struct Bbolt {
    /// The meta pages of the database.
    begin: Vec<u8>,
    tail: Held<TAIL>,
    hash: Sha256,
    length: u64,
}

/// The number of pages which a meta page states, and the transaction id which wrote it; `None` if its checksum is
/// wrong.
fn pages_of(meta: &[u8]) -> Option<(u64, u64)> {
    // FNV-1a, 64 bits.
    let sum = meta[..META - 8]
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    let number = |at: usize| little_endian(&meta[at..at + 8]);
    (sum == number(META - 8)).then(|| (number(48), number(40)))
}

impl Format for Bbolt {
    fn push(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.length += bytes.len() as u64;
        super::append(&mut self.begin, MAX_PAGE + PAGE_HEADER + META, &mut &*bytes);
        let hash = &mut self.hash;
        self.tail.push(bytes, |bytes| hash.update(bytes));
        None
    }

    fn finish(self: Box<Self>) -> Recognised {
        let Self { begin, tail, mut hash, length } = *self;
        let mut at = length - tail.bytes().len() as u64;
        let mut rest = tail.bytes();
        while !rest.is_empty() {
            if at.is_multiple_of(BLOCK) && rest.starts_with(&hash.clone().finalize()) {
                return whole(NAME);
            }
            let mut left = BLOCK - at % BLOCK;
            let taken = super::take(&mut left, &mut rest);
            at += taken.len() as u64;
            hash.update(taken);
        }
        let page = begin.get(PAGE_HEADER + 8..PAGE_HEADER + 12).map_or(1, little_endian).max(1);
        let second = usize::try_from(page).unwrap_or(MAX_PAGE) + PAGE_HEADER;
        let metas = [PAGE_HEADER, second].map(|at| begin.get(at..at + META).and_then(pages_of));
        let pages = metas.into_iter().flatten().max().map(|(_, pages)| pages);
        let wanted = pages.unwrap_or_default().max(2).saturating_mul(page);
        if length < wanted {
            return missing(DATABASE, format!("it has {wanted} bytes, and {length} are there"));
        }
        if length % page == 0 { unknown(DATABASE) } else { missing(NAME, "the SHA-256 at its end is missing or wrong") }
    }
}
