//! The location of blobs in packs, and which blobs are read with one request.

use crate::format::Id;

/// Blobs of one pack with at most this gap between them are read with one request.
const GAP_BYTES: u32 = 64 * 1024;
/// The maximum length of a request for several blobs. A single blob may be longer; it has at most 8 MiB.
const REQUEST_BYTES: u32 = 4 << 20;

/// The location of a blob in a pack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlobLocation {
    pub id: Id,
    pub pack: Id,
    pub offset: u32,
    pub length: u32,
    pub plain_length: u32,
    pub compressed: bool,
}

impl BlobLocation {
    pub fn end(&self) -> u32 {
        self.offset.saturating_add(self.length)
    }
}

/// Groups blobs into requests: each blob once, sorted by pack and offset.
pub(crate) fn requests(mut parts: Vec<BlobLocation>) -> Vec<Vec<BlobLocation>> {
    parts.sort_unstable_by_key(|part| (part.pack, part.offset, part.id));
    parts.dedup_by_key(|part| (part.pack, part.offset, part.id));
    let mut requests: Vec<Vec<BlobLocation>> = Vec::new();
    for part in parts {
        match requests.last_mut() {
            Some(request)
                if request.first().zip(request.last()).is_some_and(|(first, last)| is_near(first, last, &part)) =>
            {
                request.push(part);
            }
            _ => requests.push(vec![part]),
        }
    }
    requests
}

fn is_near(first: &BlobLocation, last: &BlobLocation, next: &BlobLocation) -> bool {
    first.pack == next.pack
        && next.offset >= last.end()
        && next.offset - last.end() <= GAP_BYTES
        && next.end() - first.offset <= REQUEST_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(pack: u8, offset: u32, length: u32) -> BlobLocation {
        let id = Id::new([pack; 32]);
        BlobLocation { id, pack: id, offset, length, plain_length: length, compressed: false }
    }

    #[test]
    fn near_blobs_are_read_together() {
        let parts =
            vec![part(2, 0, 10), part(1, 100, 50), part(1, 0, 100), part(1, 150 + GAP_BYTES + 1, 5), part(1, 0, 100)];
        let offsets = |request: &Vec<BlobLocation>| request.iter().map(|part| part.offset).collect::<Vec<_>>();
        let requests = requests(parts);
        assert_eq!(
            requests.iter().map(offsets).collect::<Vec<_>>(),
            [vec![0, 100], vec![150 + GAP_BYTES + 1], vec![0]]
        );
    }

    #[test]
    fn requests_do_not_grow_without_end() {
        let parts = (0..100).map(|index| part(1, index << 20, 1 << 20)).collect();
        let requests = requests(parts);
        assert!(requests.iter().all(|request| request.len() <= 4), "{requests:?}");
        // A blob that is longer than a request is read, too.
        assert_eq!(super::requests(vec![part(1, 0, REQUEST_BYTES * 2)]).len(), 1);
    }
}
