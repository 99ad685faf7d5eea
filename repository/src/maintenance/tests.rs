//! Maintenance of repositories with index files which only other programs write, or with very many snapshots.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    Repository, StoreRules, create, crypto,
    fixtures::access,
    open_exclusively,
    store::{Kind, Write},
};
use stowaway_model::stream::{End, StreamItem, pieces};
use stowaway_model::{DataPart, Proof, SnapshotIdentity};

async fn store(repository: &Repository, data: &'static [u8]) -> String {
    let (sender, pieces) = pieces();
    sender.send(StreamItem::Data(Bytes::from_static(data))).await.unwrap();
    sender.send(StreamItem::End(End { proof: Proof::Sealed, bytes: data.len() as u64 })).await.unwrap();
    let identity = SnapshotIdentity { host: "shop".into(), path: "/x".into(), tags: vec![] };
    let rules = StoreRules { allow_empty: false, accept_unproven: false, time: Timestamp::UNIX_EPOCH, device: None };
    repository.store_stream(&identity, &rules, pieces, Arc::default()).await.unwrap().snapshot
}

/// Rewrites the indexes as the first stage of rustic's prune does: all packs are marked as removable.
async fn mark_all_packs(repository: &Repository) {
    let (store, cipher) = (&repository.store, &repository.cipher);
    for (id, _) in store.list(Kind::Index).await.unwrap() {
        let sealed = store.read(Kind::Index, &id).await.unwrap().unwrap();
        let file: Value = serde_json::from_slice(&cipher.decrypt_file(&sealed).unwrap()).unwrap();
        let marked = json!({ "packs": [], "packs_to_delete": file["packs"] }).to_string();
        let content: Bytes = cipher.encrypt_file(marked.as_bytes(), 2).unwrap().into();
        store.write(Kind::Index, &crypto::id_of(&content), vec![content], Write::Replace).await.unwrap();
        store.remove(Kind::Index, &id).await.unwrap();
    }
}

#[tokio::test]
async fn needed_packs_that_rustic_has_marked_are_kept_and_the_others_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let repository = create(access(directory.path()), CancellationToken::new()).await.unwrap();
    let kept = store(&repository, b"kept").await;
    let gone = store(&repository, b"gone").await;
    mark_all_packs(&repository).await;
    repository.close().await;
    let repository = open_exclusively(access(directory.path()), CancellationToken::new()).await.unwrap();
    repository.forget(|_| Ok((Forget { snapshots: [gone].into(), ..Forget::default() }, ()))).await.unwrap();
    let report = repository.prune(&PruneRules::default()).await.unwrap();
    assert_eq!((report.packs_before, report.packs_removed, report.packs_after), (4, 2, 2));
    for (id, _) in repository.store.list(Kind::Index).await.unwrap() {
        let sealed = repository.store.read(Kind::Index, &id).await.unwrap().unwrap();
        let file: Value = serde_json::from_slice(&repository.cipher.decrypt_file(&sealed).unwrap()).unwrap();
        assert_eq!(file["packs"].as_array().unwrap().len(), 2, "{file}");
        assert_eq!(file["packs_to_delete"], Value::Null, "{file}");
    }
    assert!(repository.check(Some(DataPart::ALL)).await.unwrap().is_sound());
    assert!(repository.read_file(&kept, "/x").await.is_ok());
}

#[tokio::test]
async fn ten_thousand_snapshots_are_listed_forgotten_and_pruned() {
    const ALL: usize = 10_000;
    let directory = tempfile::tempdir().unwrap();
    let repository = create(access(directory.path()), CancellationToken::new()).await.unwrap();
    let first = store(&repository, b"data").await;
    let file = directory.path().join("snapshots").join(first);
    let sealed = std::fs::read(&file).unwrap();
    let mut snapshot: Value = serde_json::from_slice(&repository.cipher.decrypt_file(&sealed).unwrap()).unwrap();
    let mut ids = Vec::new();
    for number in 1..ALL {
        snapshot["time"] = json!(Timestamp::from_second(i64::try_from(number).unwrap()).unwrap());
        snapshot["tags"] = json!([format!("source=deployment/shop/db-{}", number % 100)]);
        let content = repository.cipher.encrypt_file(snapshot.to_string().as_bytes(), 2).unwrap();
        let id = crypto::id_of(&content).to_hex();
        // Written directly, because the store would flush each file to disk.
        std::fs::write(directory.path().join("snapshots").join(&id), content).unwrap();
        ids.push(id);
    }
    repository.close().await;
    let repository = open_exclusively(access(directory.path()), CancellationToken::new()).await.unwrap();
    assert_eq!(repository.check(None).await.unwrap().snapshots, ALL as u64);
    // The last hundred are the newest of their sources.
    let snapshots = ids[..ids.len() - 100].iter().cloned().collect();
    let forget = Forget { snapshots, ..Forget::default() };
    let (forgotten, read) = repository.forget(|all| Ok((forget, all.len()))).await.unwrap();
    assert_eq!((forgotten, read), (ALL as u64 - 101, ALL));
    assert_eq!(repository.prune(&PruneRules::default()).await.unwrap().snapshots, 101);
}
