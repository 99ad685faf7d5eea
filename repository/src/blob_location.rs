//! The location of blobs in packs, and fetching blobs. A fetched blob is verified: its content matches its id.

use std::collections::HashMap;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use rustic_core::Id;

use super::{
    RepositoryError,
    archive::internal,
    crypto::{Cipher, CryptoError},
    store::Store,
};

/// Blobs of one pack with at most this gap between them are read with one request.
const GAP_BYTES: u32 = 64 * 1024;
/// The maximum length of a request for several blobs. A single blob may be longer; it has at most 8 MiB.
const REQUEST_BYTES: u32 = 4 << 20;
/// How many requests run in parallel.
const REQUESTS: usize = 4;

/// The location of a blob in a pack.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlobLocation {
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

/// Fetches blobs.
#[derive(Clone)]
pub(super) struct Fetcher {
    pub store: Store,
    pub cipher: Cipher,
}

impl Fetcher {
    /// Fetches and verifies a blob.
    pub async fn fetch(&self, part: BlobLocation) -> Result<Bytes, RepositoryError> {
        let sealed = self.store.read_range(&part.pack, part.offset, part.length).await?;
        self.open(&part, &sealed)
    }

    /// Fetches and verifies several blobs with few requests. Returns them by id.
    pub async fn fetch_all(self, parts: Vec<BlobLocation>) -> Result<HashMap<Id, Bytes>, RepositoryError> {
        let fetched = stream::iter(requests(parts)).map(|parts| {
            let fetcher = self.clone();
            // Each request has its own task, so that all cores decrypt. Dropping this future aborts the tasks.
            let task =
                tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move { fetcher.fetch_near(&parts).await }));
            async { task.await.map_err(|panic| internal(&self.store, panic))? }
        });
        fetched
            .buffer_unordered(REQUESTS)
            .try_fold(HashMap::new(), |mut all, some| async {
                all.extend(some);
                Ok(all)
            })
            .await
    }

    /// Fetches blobs of one pack, which are sorted by offset, with one request.
    async fn fetch_near(&self, parts: &[BlobLocation]) -> Result<Vec<(Id, Bytes)>, RepositoryError> {
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return Ok(Vec::new()) };
        let sealed = self.store.read_range(&first.pack, first.offset, last.end() - first.offset).await?;
        let opened = parts.iter().map(|part| Ok((part.id, self.open_within(part, &sealed, first.offset)?)));
        opened.collect()
    }

    /// Decrypts and verifies a blob. `sealed` is a part of the blob's pack which begins at the offset `start`.
    pub fn open_within(&self, part: &BlobLocation, sealed: &[u8], start: u32) -> Result<Bytes, RepositoryError> {
        let range =
            part.offset.checked_sub(start).map(|offset| offset as usize..(offset as usize + part.length as usize));
        let sealed = range.and_then(|range| sealed.get(range)).unwrap_or_default();
        self.open(part, sealed)
    }

    fn open(&self, part: &BlobLocation, sealed: &[u8]) -> Result<Bytes, RepositoryError> {
        let (mut plain, wanted) = (Vec::new(), (&part.id, part.compressed.then_some(part.plain_length)));
        self.cipher.open_blob(wanted, sealed, &mut plain).map_err(|error| self.damaged(part, &error))?;
        Ok(plain.into())
    }

    /// Returns the error for a blob that is not what was stored.
    pub fn damaged(&self, part: &BlobLocation, error: &CryptoError) -> RepositoryError {
        self.store.damaged(format!("a blob of pack {}: {error}", part.pack.to_hex().as_str()))
    }
}

/// Groups blobs into requests: each blob once, sorted by pack and offset.
pub(super) fn requests(mut parts: Vec<BlobLocation>) -> Vec<Vec<BlobLocation>> {
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
