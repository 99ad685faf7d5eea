//! A directory as the kubelet mounts a Secret: files behind a symbolic link that is replaced.

use std::{fs, os::unix::fs::symlink, path::Path};

use webhook_certs::Authority;

use super::*;
use crate::webhook::trust::folder::{Folder, FolderError};

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der))
}

struct Issued {
    bundle: String,
    certificate: String,
    key: String,
}

fn issue() -> Issued {
    let now = Timestamp::from_second(START).unwrap();
    let authority = Authority::issue("another", now).unwrap();
    let leaf = authority.issue_leaf(&[HOST.to_owned()], now).unwrap();
    Issued {
        bundle: authority.certificate().to_owned(),
        certificate: pem("CERTIFICATE", leaf.certificate()) + authority.certificate(),
        key: pem("PRIVATE KEY", leaf.key()),
    }
}

/// Writes a version of the Secret and replaces the link, as the kubelet does.
fn mount(folder: &Path, version: &str, certificate: &str, key: &str) {
    let data = folder.join(version);
    fs::create_dir(&data).unwrap();
    fs::write(data.join("tls.crt"), certificate).unwrap();
    fs::write(data.join("tls.key"), key).unwrap();
    symlink(version, folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        let _ = symlink(format!("..data/{file}"), folder.join(file));
    }
}

#[test]
fn certificate_is_served_from_the_folder_and_follows_it() {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::new();
    let mut taken = Folder::new(folder.path().to_owned());
    assert!(matches!(taken.take(&certificates), Err(FolderError::Read { .. })));
    for version in ["one", "two"] {
        let issued = issue();
        mount(folder.path(), version, &issued.certificate, &issued.key);
        taken.take(&certificates).unwrap();
        handshake(&certificates, &issued.bundle, START).unwrap();
    }
}

#[test]
fn half_a_change_or_garbage_leaves_what_was_served() {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::new();
    let mut taken = Folder::new(folder.path().to_owned());
    let (first, second) = (issue(), issue());
    mount(folder.path(), "first", &first.certificate, &first.key);
    taken.take(&certificates).unwrap();
    for (version, certificate, key) in [
        ("mixed", second.certificate.as_str(), first.key.as_str()),
        ("no-certificate", "", second.key.as_str()),
        ("no-key", second.certificate.as_str(), "-----BEGIN NOTHING-----"),
    ] {
        mount(folder.path(), version, certificate, key);
        let error = taken.take(&certificates).unwrap_err().to_string();
        assert!(!error.contains("BEGIN") && error.contains(folder.path().to_str().unwrap()), "{error}");
        handshake(&certificates, &first.bundle, START).unwrap();
    }
    mount(folder.path(), "second", &second.certificate, &second.key);
    taken.take(&certificates).unwrap();
    handshake(&certificates, &second.bundle, START).unwrap();
}

#[tokio::test]
async fn with_a_folder_the_bundles_are_published_and_nothing_is_written() {
    let world = World::new();
    let issued = issue();
    for name in [MUTATING, VALIDATING] {
        world.api.change(name, |configuration| {
            for entry in configuration["webhooks"].as_array_mut().unwrap() {
                entry["clientConfig"]["caBundle"] = json!(BASE64_STANDARD.encode(&issued.bundle));
            }
        });
    }
    let folder = tempfile::tempdir().unwrap();
    mount(folder.path(), "one", &issued.certificate, &issued.key);
    let settings = Settings {
        namespace: NAMESPACE.to_owned(),
        instance: "a".to_owned(),
        certificates_folder: Some(folder.path().to_owned()),
    };
    let (certificates, token, (sender, bundles)) =
        (Certificates::new(), CancellationToken::new(), watch::channel(Vec::new()));
    let before = *world.api.changes().borrow();
    let task = tokio::spawn(run(world.api.client(), settings, certificates.clone(), sender, token.clone()));
    world.until("the bundles are published", || *bundles.borrow() == vec![issued.bundle.clone(); 3]).await;
    handshake(&certificates, &issued.bundle, START).unwrap();
    token.cancel();
    task.await.unwrap();
    assert_eq!(*world.api.changes().borrow(), before, "something was written");
    assert!(world.api.get(LEASE).is_none() && world.api.get(SECRET).is_none());
}
