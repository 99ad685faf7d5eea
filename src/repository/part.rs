//! Parts of what is stored (restic's blobs): where each is, and how it is fetched so that its bytes are what its name says.
//!
//! It must not know what the parts make up.

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

/// Parts of one pack that are so near to each other are read by one request.
const GAP_BYTES: u32 = 64 * 1024;
/// No such request is longer, but for a single part, which is at most 8 MiB.
const REQUEST_BYTES: u32 = 4 << 20;
/// How many requests are under way at once.
const REQUESTS: usize = 4;

/// Where one part is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub id: Id,
    pub pack: Id,
    pub offset: u32,
    pub length: u32,
    pub plain_length: u32,
    pub compressed: bool,
}

impl Part {
    pub fn end(&self) -> u32 {
        self.offset.saturating_add(self.length)
    }
}

/// Fetches parts.
#[derive(Clone)]
pub(super) struct Fetcher {
    pub store: Store,
    pub cipher: Cipher,
}

impl Fetcher {
    /// One part, verified.
    pub async fn fetch(&self, part: Part) -> Result<Bytes, RepositoryError> {
        let sealed = self.store.read_range(&part.pack, part.offset, part.length).await?;
        self.open(&part, &sealed)
    }

    /// Several parts by few requests, verified, by their ids.
    pub async fn fetch_all(self, parts: Vec<Part>) -> Result<HashMap<Id, Bytes>, RepositoryError> {
        let fetched = stream::iter(requests(parts)).map(|parts| {
            let fetcher = self.clone();
            // A task of its own, so that all cores decrypt; it ends with this future.
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

    /// Parts of one pack, in order.
    async fn fetch_near(&self, parts: &[Part]) -> Result<Vec<(Id, Bytes)>, RepositoryError> {
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return Ok(Vec::new()) };
        let sealed = self.store.read_range(&first.pack, first.offset, last.end() - first.offset).await?;
        let opened = parts.iter().map(|part| Ok((part.id, self.open_within(part, &sealed, first.offset)?)));
        opened.collect()
    }

    /// A part in what was read of its pack from `start` on.
    pub fn open_within(&self, part: &Part, sealed: &[u8], start: u32) -> Result<Bytes, RepositoryError> {
        let range =
            part.offset.checked_sub(start).map(|offset| offset as usize..(offset as usize + part.length as usize));
        let sealed = range.and_then(|range| sealed.get(range)).unwrap_or_default();
        self.open(part, sealed)
    }

    fn open(&self, part: &Part, sealed: &[u8]) -> Result<Bytes, RepositoryError> {
        let (mut plain, wanted) = (Vec::new(), (&part.id, part.compressed.then_some(part.plain_length)));
        self.cipher.open_blob(wanted, sealed, &mut plain).map_err(|error| self.damaged(part, &error))?;
        Ok(plain.into())
    }

    /// Reports that a part is not what was stored.
    pub fn damaged(&self, part: &Part, error: &CryptoError) -> RepositoryError {
        self.store.damaged(format!("a part of pack {}: {error}", part.pack.to_hex().as_str()))
    }
}

/// Which parts are read together: each once, by pack, in order.
pub(super) fn requests(mut parts: Vec<Part>) -> Vec<Vec<Part>> {
    parts.sort_unstable_by_key(|part| (part.pack, part.offset, part.id));
    parts.dedup_by_key(|part| (part.pack, part.offset, part.id));
    let mut requests: Vec<Vec<Part>> = Vec::new();
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

fn is_near(first: &Part, last: &Part, next: &Part) -> bool {
    first.pack == next.pack
        && next.offset >= last.end()
        && next.offset - last.end() <= GAP_BYTES
        && next.end() - first.offset <= REQUEST_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(pack: u8, offset: u32, length: u32) -> Part {
        let id = Id::new([pack; 32]);
        Part { id, pack: id, offset, length, plain_length: length, compressed: false }
    }

    #[test]
    fn near_parts_are_read_together() {
        let parts =
            vec![part(2, 0, 10), part(1, 100, 50), part(1, 0, 100), part(1, 150 + GAP_BYTES + 1, 5), part(1, 0, 100)];
        let offsets = |request: &Vec<Part>| request.iter().map(|part| part.offset).collect::<Vec<_>>();
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
        // A part that is longer than a request is read, too.
        assert_eq!(super::requests(vec![part(1, 0, REQUEST_BYTES * 2)]).len(), 1);
    }
}
