//! Locks on their own: whose are honoured, and how ours is kept.

use std::path::Path;

use rustic_core::repofile::MasterKey;
use tokio::task::yield_now;

use super::*;
use crate::{
    model::{BackendConfig, Connection, Secret},
    repository::{Access, Patience},
};

const HASTY: Rhythm = Rhythm { refresh: Duration::from_millis(5), retry: Duration::ZERO, lost: Duration::ZERO };

struct Setup {
    place: tempfile::TempDir,
    store: Store,
    cipher: Cipher,
    holder: LockHolder,
}

fn setup() -> Setup {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("config"), "").unwrap();
    let holder = LockHolder { host: "runner".into(), user: "pod UID 1".into() };
    let access = Access {
        backend: BackendConfig::Folder { path: place.path().to_str().unwrap().into() },
        password: Secret::new(String::new()),
        connection: Connection::default(),
        credentials: std::collections::BTreeMap::new(),
        holder: holder.clone(),
        patience: Patience { request: Duration::from_secs(30), retries: Duration::ZERO },
    };
    let store = Store::new(&access, CancellationToken::new()).unwrap();
    Setup { place, store, cipher: Cipher::of(&MasterKey::new()).unwrap(), holder }
}

fn locks(place: &Path) -> Vec<String> {
    let files = std::fs::read_dir(place.join("locks")).into_iter().flatten();
    // A file that is being written has a dot before its name.
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).filter(|name| !name.starts_with('.')).collect()
}

impl Setup {
    async fn foreign(&self, exclusive: bool, age: SignedDuration) {
        let file = LockFile {
            time: Timestamp::now() - age,
            exclusive,
            hostname: "admin".into(),
            username: "root".into(),
            pid: 7,
            uid: 0,
            gid: 0,
        };
        write_lock(&self.store, &self.cipher, 2, &file).await.unwrap();
    }

    async fn take(&self, rhythm: Rhythm) -> Result<Lock, RepositoryError> {
        Lock::take_and_keep(&self.store, &self.cipher, 2, &self.holder, rhythm).await
    }
}

#[tokio::test]
async fn fresh_exclusive_lock_is_honoured_and_named() {
    let setup = setup();
    setup.foreign(true, SignedDuration::from_mins(29)).await;
    let error = setup.take(RHYTHM).await.unwrap_err();
    assert!(error.to_string().contains("root on admin (process 7)"), "{error}");
    assert_eq!(locks(setup.place.path()).len(), 1, "ours is not left behind");
}

#[tokio::test]
async fn stale_and_shared_locks_are_passed_by() {
    let setup = setup();
    setup.foreign(true, SignedDuration::from_mins(31)).await;
    setup.foreign(false, SignedDuration::ZERO).await;
    let lock = setup.take(RHYTHM).await.unwrap();
    assert_eq!(locks(setup.place.path()).len(), 3);
    lock.release().await;
    assert_eq!(locks(setup.place.path()).len(), 2);
}

#[tokio::test]
async fn lock_that_cannot_be_read_is_an_error() {
    let setup = setup();
    let name = crypto::id_of(b"x").to_hex().as_str().to_owned();
    std::fs::create_dir(setup.place.path().join("locks")).unwrap();
    std::fs::write(setup.place.path().join("locks").join(name), "").unwrap();
    let error = setup.take(RHYTHM).await.unwrap_err();
    assert!(matches!(error, RepositoryError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn lock_is_refreshed_by_a_younger_file() {
    let setup = setup();
    let lock = setup.take(HASTY).await.unwrap();
    let first = locks(setup.place.path());
    while locks(setup.place.path()).iter().any(|name| first.contains(name)) {
        yield_now().await;
    }
    lock.check(&setup.store).await.unwrap();
    lock.release().await;
    assert!(locks(setup.place.path()).is_empty());
}

#[tokio::test]
async fn lock_that_cannot_be_refreshed_is_lost() {
    let setup = setup();
    let lock = setup.take(HASTY).await.unwrap();
    let folder = setup.place.path().join("locks");
    // Not a folder any more: even root cannot write into it. A refresh may be under way, hence the loop.
    while std::fs::remove_dir_all(&folder).and_then(|()| std::fs::write(&folder, "")).is_err() {
        yield_now().await;
    }
    lock.lost().cancelled().await;
    let error = lock.check(&setup.store).await.unwrap_err();
    assert!(matches!(error, RepositoryError::LockLost { .. }), "{error}");
}
