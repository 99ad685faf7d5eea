//! What a Repository's spec, or an archive's place, means for a run's pod: the volumes that carry its secrets, and the one
//! that it may be on.
//!
//! It must not know the Job around it. Secrets appear here by name only.

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, KeyToPath, ProjectedVolumeSource, SecretProjection, SecretVolumeSource, Volume, VolumeMount,
    VolumeProjection,
};

use crate::{
    api::{CredentialSource, Keeps, RepositorySpec, StorePlace, VolumeBackend, credential_sources},
    model::{Credential, mounts},
};

/// Readable by the runner's group (`fsGroup`) and its user alone.
const SECRET_MODE: i32 = 0o440;

/// Volumes and mounts that a run of this repository needs. Every Secret is optional for Kubernetes, so that the runner
/// starts and names what is missing, rather than a pod that hangs without a word.
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
    add_place(repository, &mut volumes, &mut volume_mounts);
    (volumes, volume_mounts)
}

/// Adds what a place is opened with, and the volume that it is on.
pub(super) fn add_place<'a>(
    place: impl Into<StorePlace<'a>>,
    volumes: &mut Vec<Volume>,
    volume_mounts: &mut Vec<VolumeMount>,
) {
    let place = place.into();
    let (credentials, name) = match place.keeps {
        Keeps::Repository => ("credentials", "repository"),
        Keeps::Archive => ("archive-credentials", "archive"),
    };
    let sources = credential_sources(place);
    if !sources.is_empty() {
        let sources = sources.into_iter().map(|(credential, source, _)| projection(credential, source)).collect();
        volumes.push(Volume {
            name: credentials.into(),
            projected: Some(ProjectedVolumeSource { sources: Some(sources), default_mode: Some(SECRET_MODE) }),
            ..Volume::default()
        });
        volume_mounts.push(read_only(credentials, place.keeps.credentials_folder()));
    }
    if let Some(volume) = place.volume {
        volumes.push(volume_of(name, volume));
        volume_mounts.push(VolumeMount {
            name: name.into(),
            mount_path: place.keeps.volume_folder().into(),
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
