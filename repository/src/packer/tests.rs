//! Tests of a packer that several threads use.

use std::thread;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::{fixtures::access, format::MasterKey};

struct Case {
    folder: tempfile::TempDir,
    context: PackerContext,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for kind in ["data", "index"] {
            std::fs::create_dir(folder.path().join(kind)).unwrap();
        }
        let context = PackerContext {
            store: Store::new(&access(folder.path()), CancellationToken::new()).unwrap(),
            cipher: Cipher::of(&MasterKey::new()),
            version: 2,
            progress: Arc::default(),
            first_error: Arc::default(),
        };
        Self { folder, context }
    }

    /// Runs a task on a thread that may block.
    async fn with<T: Send + 'static>(&self, task: impl FnOnce(&Arc<Packer>) -> T + Send + 'static) -> T {
        let packer = Arc::new(Packer::new(self.context.clone(), Arc::default()));
        spawn_blocking(move || task(&packer)).await.unwrap()
    }

    async fn known(&self) -> KnownBlobs {
        KnownBlobs::read(&self.context.cipher, &self.context.store).await.unwrap()
    }
}

fn save_all(packer: &Packer, blobs: u32) {
    for blob in 0..blobs {
        packer.save(BlobKind::Data, &blob.to_le_bytes()).unwrap();
    }
}

fn count(written: &Written, kind: Kind) -> usize {
    written.files.iter().filter(|(of, ..)| *of == kind).count()
}

#[tokio::test]
async fn blob_that_several_threads_have_is_stored_once() {
    let case = Case::new();
    let written = case.with(|packer| {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| save_all(packer, 1000));
            }
        });
        // A tree of the same bytes is another blob.
        packer.save(BlobKind::Tree, &7_u32.to_le_bytes()).unwrap();
        packer.finish().unwrap()
    });
    let written = written.await;
    assert_eq!((written.data.blobs, written.data.plain_bytes, written.trees.blobs), (1000, 4000, 1));
    assert_eq!((count(&written, Kind::Pack), count(&written, Kind::Index)), (2, 1));
    let known = case.known().await;
    for blob in 0..1000_u32 {
        assert!(known.take(BlobKind::Data, crypto::id_of(&blob.to_le_bytes())).unwrap().is_some(), "{blob}");
    }
}

#[tokio::test]
async fn long_run_writes_an_index_before_its_end_with_packs_that_rustic_accepts() {
    let case = Case::new();
    let blobs = u32::try_from(INDEX_BLOBS + PACK_BLOBS).unwrap();
    let written = case.with(move |packer| {
        save_all(packer, blobs);
        packer.finish().unwrap()
    });
    let written = written.await;
    assert_eq!((count(&written, Kind::Pack), count(&written, Kind::Index)), (6, 2));
    for (kind, id, size) in written.files {
        assert_eq!(case.context.store.stat(kind, &id).await.unwrap(), Some(size));
    }
    let last = crypto::id_of(&(blobs - 1).to_le_bytes());
    assert!(case.known().await.take(BlobKind::Data, last).unwrap().is_some());
}

#[tokio::test]
async fn run_without_anything_new_writes_nothing() {
    let case = Case::new();
    let written = case.with(|packer| packer.finish().unwrap()).await;
    assert_eq!(written.files, []);
}

#[tokio::test]
async fn one_failed_upload_ends_the_run_for_all() {
    let case = Case::new();
    std::fs::remove_dir(case.folder.path().join("data")).unwrap();
    std::fs::write(case.folder.path().join("data"), "not a folder").unwrap();
    let ended = case.with(|packer| {
        packer.save(BlobKind::Data, b"x").unwrap();
        packer.finish().map(|_| ())
    });
    assert!(matches!(ended.await, Err(RepositoryError::Cancelled { .. })));
    let error = case.context.first_error.take().unwrap();
    assert!(error.to_string().contains("write"), "{error}");
    assert!(case.known().await.find(BlobKind::Tree, Id::default()).unwrap().is_none());
}
