//! Fetches blobs. A fetched blob is verified: its content matches its id. If it is damaged, its copies in other packs
//! are tried.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    blob_location::{BlobLocation, requests},
    known_blobs::KnownBlobs,
};
use crate::{
    RepositoryError,
    crypto::{Cipher, CryptoError},
    format::Id,
    store::Store,
};

/// How many requests run in parallel.
const REQUESTS: usize = 4;

/// Fetches blobs.
#[derive(Clone)]
pub(crate) struct Fetcher {
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
            async { task.await.map_err(|panic| self.store.internal(panic))? }
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
