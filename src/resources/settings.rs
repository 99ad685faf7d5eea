//! Volumes and mounts which the store of a Repository or an archive requires in a run's pod: those of its Secrets, and
//! the volume of the store itself. Secrets are referenced by name only.

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, KeyToPath, ProjectedVolumeSource, SecretProjection, SecretVolumeSource, Volume, VolumeMount,
    VolumeProjection,
};

use crate::{
    api::{CredentialSource, RepositorySpec, StoreLocation, StorePurpose, VolumeBackend, credential_sources},
    model::{Credential, mounts},
};

/// Readable only by the runner's user and group (`fsGroup`).
const SECRET_MODE: i32 = 0o440;

/// Directory for the files of a run that are temporary.
pub(super) const TEMPORARY_FOLDER: &str = "/tmp";
/// Mount paths of all volumes of runs.
pub(super) const MOUNT_PATHS: [&str; 8] = [
    mounts::PASSWORD_FOLDER,
    mounts::CREDENTIALS_FOLDER,
    mounts::ARCHIVE_CREDENTIALS_FOLDER,
    mounts::REPOSITORY_FOLDER,
    mounts::ARCHIVE_FOLDER,
    mounts::DATA_FOLDER,
    mounts::TARGET_FOLDER,
    TEMPORARY_FOLDER,
];

/// Name of the volume of a store in the pod of a run.
pub(super) fn volume_name(purpose: StorePurpose) -> &'static str {
    match purpose {
        StorePurpose::Repository => "repository",
        StorePurpose::Archive => "archive",
    }
}

/// The volumes and mounts for a run of this repository. Every Secret is optional for Kubernetes, so that the runner
/// starts and reports which one is missing. Otherwise the pod would hang without a report.
pub(super) fn volumes(repository: &RepositorySpec) -> (Vec<Volume>, Vec<VolumeMount>) {
    let password = &repository.password_secret_ref;
    let mut volumes = vec![Volume {
        name: "password".into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(password.name.clone()),
            items: Some(vec![KeyToPath { key: password.key.clone(), path: mounts::PASSWORD_FILE.into(), mode: None }]),
            default_mode: Some(SECRET_MODE),
            optional: Some(true),
        }),
        ..Volume::default()
    }];
    let mut volume_mounts = vec![read_only("password", mounts::PASSWORD_FOLDER)];
    add_store(repository, &mut volumes, &mut volume_mounts);
    (volumes, volume_mounts)
}

/// Adds the credentials of a store, and the volume of the store.
pub(super) fn add_store<'a>(
    store: impl Into<StoreLocation<'a>>,
    volumes: &mut Vec<Volume>,
    volume_mounts: &mut Vec<VolumeMount>,
) {
    let store = store.into();
    let name = volume_name(store.purpose);
    let credentials = match store.purpose {
        StorePurpose::Repository => "credentials",
        StorePurpose::Archive => "archive-credentials",
    };
    let sources = credential_sources(store);
    if !sources.is_empty() {
        let sources = sources.into_iter().map(|(credential, source, _)| projection(credential, source)).collect();
        volumes.push(Volume {
            name: credentials.into(),
            projected: Some(ProjectedVolumeSource { sources: Some(sources), default_mode: Some(SECRET_MODE) }),
            ..Volume::default()
        });
        volume_mounts.push(read_only(credentials, store.purpose.credentials_folder()));
    }
    if let Some(volume) = store.volume {
        volumes.push(volume_of(name, volume));
        volume_mounts.push(VolumeMount {
            name: name.into(),
            mount_path: store.purpose.volume_folder().into(),
            ..VolumeMount::default()
        });
    }
}

fn projection(credential: Credential, source: CredentialSource<'_>) -> VolumeProjection {
    let reference = source.reference();
    let name = reference.name.clone();
    let items = Some(vec![KeyToPath { key: reference.key.clone(), path: credential.file().into(), mode: None }]);
    match source {
        CredentialSource::Secret(_) => VolumeProjection {
            secret: Some(SecretProjection { name, items, optional: Some(true) }),
            ..VolumeProjection::default()
        },
        CredentialSource::ConfigMap(_) => VolumeProjection {
            config_map: Some(ConfigMapProjection { name, items, optional: Some(true) }),
            ..VolumeProjection::default()
        },
    }
}

fn volume_of(name: &str, volume: &VolumeBackend) -> Volume {
    let VolumeBackend { persistent_volume_claim, nfs, host_path, csi, azure_file, path: _ } = volume.clone();
    Volume { name: name.into(), persistent_volume_claim, nfs, host_path, csi, azure_file, ..Volume::default() }
}

fn read_only(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.into(), mount_path: path.into(), read_only: Some(true), ..VolumeMount::default() }
}
