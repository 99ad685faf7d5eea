//! The location of blobs in packs, and fetching blobs. A fetched blob is verified: its content matches its id. If it is
//! damaged, its copies in other packs are tried.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    RepositoryError,
    archive::internal,
    crypto::{Cipher, CryptoError},
    format::Id,
    known_blobs::KnownBlobs,
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
    /// The index, in which other copies of a damaged blob are found.
    known: Option<Arc<KnownBlobs>>,
}

impl Fetcher {
    /// A fetcher that reads a blob from one location only.
    pub fn new(store: &Store, cipher: &Cipher) -> Self {
        Self { store: store.clone(), cipher: cipher.clone(), known: None }
    }

    /// Returns a fetcher that reads another copy of a blob if the requested one is damaged.
    #[must_use]
    pub fn with_copies(self, known: &Arc<KnownBlobs>) -> Self {
        Self { known: Some(Arc::clone(known)), ..self }
    }

    /// Fetches and verifies a blob, from this location or from another one.
    pub async fn fetch(&self, part: BlobLocation) -> Result<Bytes, RepositoryError> {
        let error = match self.fetch_at(&part).await {
            Err(error @ RepositoryError::Damaged { .. }) => error,
            fetched => return fetched,
        };
        for copy in self.copies_instead_of(&part, &error)? {
            match self.fetch_at(&copy).await {
                Err(RepositoryError::Damaged { .. }) => {}
                fetched => return fetched,
            }
        }
        Err(error)
    }

    async fn fetch_at(&self, part: &BlobLocation) -> Result<Bytes, RepositoryError> {
        let sealed = self.store.read_range(&part.pack, part.offset, part.length).await?;
        self.open(part, &sealed)
    }

    /// The locations of the other copies of a blob that cannot be read at this location because of `error`.
    pub fn copies_instead_of(
        &self,
        part: &BlobLocation,
        error: &RepositoryError,
    ) -> Result<Vec<BlobLocation>, RepositoryError> {
        let Some(known) = &self.known else { return Ok(Vec::new()) };
        let (copies, is_new) = known.other_copies(part)?;
        if is_new && !copies.is_empty() {
            tracing::warn!("{error}; a copy in another pack is tried");
        }
        Ok(copies)
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
        let sealed = match self.store.read_range(&first.pack, first.offset, last.end() - first.offset).await {
            Err(RepositoryError::Damaged { .. }) => None,
            read => Some(read?),
        };
        let mut contents = Vec::with_capacity(parts.len());
        for part in parts {
            let content = match sealed.as_ref().map(|sealed| self.open_within(part, sealed, first.offset)) {
                // The blob is read alone, and its copies after that.
                None | Some(Err(RepositoryError::Damaged { .. })) => self.fetch(*part).await?,
                Some(opened) => opened?,
            };
            contents.push((part.id, content));
        }
        Ok(contents)
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
        self.store.damaged(format!("a blob of pack {}: {error}", part.pack.to_hex()))
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
