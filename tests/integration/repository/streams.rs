//! Any bytes in any pieces are restored unchanged, and restic finds no error.

use bytes::Bytes;
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
use sha2::{Digest, Sha256};
use stowaway::stream::StreamItem;

use super::*;

/// A piece of any length and of one of three kinds of content.
fn piece() -> impl Strategy<Value = Bytes> {
    let length = prop_oneof![3 => 0..5_usize, 3 => 5..5000_usize, 2 => 5000..3_000_000_usize];
    (length, any::<u64>(), 0..3).prop_map(|(length, seed, kind)| match kind {
        0 => noise(length, seed).into(),
        1 => vec![seed.to_le_bytes()[0]; length].into(),
        _ => (0..=255).cycle().take(length).collect(),
    })
}

#[test]
fn every_stream_comes_back_the_same() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let repository = runtime.block_on(new_repository(dir.path()));
    let config = ProptestConfig { cases: 40, max_shrink_iters: 200, failure_persistence: None, ..Default::default() };
    TestRunner::new(config)
        .run(&vec(piece(), 1..20), |parts| {
            let data = parts.concat();
            prop_assume!(!data.is_empty());
            let mut sent: Vec<StreamItem> = parts.into_iter().map(StreamItem::Data).collect();
            sent.push(end(data.len() as u64));
            runtime.block_on(async {
                let stored = store_pieces(&repository, "/db.bin", sent).await.unwrap();
                let digest: [u8; 32] = Sha256::digest(&data).into();
                prop_assert_eq!(
                    (stored.bytes, stored.digest),
                    (data.len() as u64, rustic_core::Id::new(digest).to_hex().as_str().to_owned())
                );
                let file = repository.read_file(&stored.snapshot, "/db.bin").await.unwrap();
                prop_assert!(collect(file).await == data);
                Ok(())
            })
        })
        .unwrap();
    runtime.block_on(repository.close());
    restic::newest().check(dir.path());
}
