//! Tests that a snapshot which became visible while its lock was lost is kept only if all files that it needs are in
//! the store.

use std::{fs, path::PathBuf, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::*;
use crate::{archive::store_with, create, fixtures::access, format::BlobKind, open_exclusively, packer::Packer};

struct Case {
    folder: tempfile::TempDir,
    repository: Repository,
    written: Written,
    id: Id,
}

impl Case {
    /// Creates a repository with a visible snapshot.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = create(access(folder.path()), CancellationToken::new()).await.unwrap();
        let save = |packer: &Arc<Packer>, _| {
            let root = packer.save(BlobKind::Tree, b"{\"nodes\":[]}\n").unwrap();
            Ok((root, packer.finish()?))
        };
        let none = (Arc::default(), Arc::default());
        let (root, written) = store_with(&repository, &repository.store, Arc::default(), none, save).await.unwrap();
        let identity = SnapshotIdentity { host: "shop".into(), path: "/x".into(), tags: vec![] };
        let commit = Commit {
            repository: &repository,
            store: &repository.store,
            identity: &identity,
            time: Timestamp::UNIX_EPOCH,
        };
        let snapshot = commit.labelled(root.into(), SnapshotSummary::default());
        let id = commit.publish(&snapshot, &written).await.unwrap().parse().unwrap();
        Self { folder, repository, written, id }
    }

    fn path(&self, kind: Kind, id: &Id) -> PathBuf {
        self.folder.path().join(kind.path(id))
    }

    fn lose_lock(&self) {
        for lock in fs::read_dir(self.folder.path().join("locks")).unwrap() {
            fs::remove_file(lock.unwrap().path()).unwrap();
        }
    }

    async fn confirm(&self) -> Result<(), RepositoryError> {
        let identity = SnapshotIdentity { host: "shop".into(), path: "/x".into(), tags: vec![] };
        let (repository, store) = (&self.repository, &self.repository.store);
        let commit = Commit { repository, store, identity: &identity, time: Timestamp::UNIX_EPOCH };
        commit.confirm(self.id, &self.written).await
    }

    fn is_visible(&self) -> bool {
        self.path(Kind::Snapshot, &self.id).exists()
    }
}

#[tokio::test]
async fn snapshot_whose_data_a_prune_removed_is_removed_again() {
    for kind in [Kind::Pack, Kind::Index] {
        let case = Case::new().await;
        case.confirm().await.unwrap();
        case.lose_lock();
        let (_, file, _) = case.written.files.iter().find(|(found, ..)| *found == kind).unwrap();
        fs::remove_file(case.path(kind, file)).unwrap();
        let error = case.confirm().await.unwrap_err();
        assert!(matches!(error, RepositoryError::Damaged { .. }), "{error}");
        assert!(!case.is_visible());
    }
}

#[tokio::test]
async fn snapshot_beside_a_prune_that_did_not_know_of_it_is_removed_again() {
    let case = Case::new().await;
    case.lose_lock();
    let pruning = open_exclusively(access(case.folder.path()), CancellationToken::new()).await.unwrap();
    let error = case.confirm().await.unwrap_err();
    assert!(matches!(error, RepositoryError::LockLost { .. }), "{error}");
    assert!(!case.is_visible());
    pruning.close().await;
}

#[tokio::test]
async fn snapshot_whose_lock_was_lost_stays_if_all_its_files_exist() {
    let case = Case::new().await;
    case.lose_lock();
    case.confirm().await.unwrap();
    assert!(case.is_visible());
}

#[tokio::test]
async fn snapshot_that_uses_a_lost_pack_of_an_earlier_run_is_not_made() {
    let case = Case::new().await;
    let (_, pack, size) = case.written.files.iter().find(|(kind, ..)| *kind == Kind::Pack).unwrap();
    for used in [vec![(*pack, *size); 3], vec![(*pack, *size); 100]] {
        let written = Written { used, ..Written::default() };
        look_for_all(&case.repository.store, &written).await.unwrap();
        let content = fs::read(case.path(Kind::Pack, pack)).unwrap();
        for harm in [None, Some(&content[..0]), Some(&content[..content.len() - 1])] {
            match harm {
                None => fs::remove_file(case.path(Kind::Pack, pack)).unwrap(),
                Some(cut) => fs::write(case.path(Kind::Pack, pack), cut).unwrap(),
            }
            let error = look_for_all(&case.repository.store, &written).await.unwrap_err();
            assert!(error.to_string().contains(&Kind::Pack.path(pack)), "{error}");
        }
        fs::write(case.path(Kind::Pack, pack), content).unwrap();
    }
}
