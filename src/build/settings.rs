//! What a Repository's spec means for a run's pod: the volumes that carry its secrets, and the one that it may be on.
//!
//! It must not know the Job around it. Secrets appear here by name only.

use k8s_openapi::api::core::v1::{
    KeyToPath, ProjectedVolumeSource, SecretProjection, SecretVolumeSource, Volume, VolumeMount, VolumeProjection,
};

use crate::{
    api::{RepositorySpec, S3Credentials, SecretKeyReference, VolumeBackend},
    model::mounts,
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
    if let Some(s3) = &repository.s3 {
        volumes.push(s3_credentials(&s3.credentials));
        volume_mounts.push(read_only("s3-credentials", mounts::S3_FOLDER));
    }
    if let Some(volume) = &repository.volume {
        volumes.push(repository_volume(volume));
        volume_mounts.push(VolumeMount {
            name: "repository".into(),
            mount_path: mounts::REPOSITORY_FOLDER.into(),
            ..VolumeMount::default()
        });
    }
    (volumes, volume_mounts)
}

fn s3_credentials(credentials: &S3Credentials) -> Volume {
    let S3Credentials { access_key_id_secret_ref, secret_access_key_secret_ref, session_token_secret_ref } =
        credentials;
    let mut sources = vec![
        projection(access_key_id_secret_ref, mounts::S3_ACCESS_KEY_ID_FILE),
        projection(secret_access_key_secret_ref, mounts::S3_SECRET_ACCESS_KEY_FILE),
    ];
    sources.extend(
        session_token_secret_ref.as_ref().map(|reference| projection(reference, mounts::S3_SESSION_TOKEN_FILE)),
    );
    Volume {
        name: "s3-credentials".into(),
        projected: Some(ProjectedVolumeSource { sources: Some(sources), default_mode: Some(SECRET_MODE) }),
        ..Volume::default()
    }
}

fn projection(reference: &SecretKeyReference, file: &str) -> VolumeProjection {
    VolumeProjection {
        secret: Some(SecretProjection {
            name: reference.name.clone(),
            items: Some(vec![KeyToPath { key: reference.key.clone(), path: file.into(), mode: None }]),
            optional: Some(true),
        }),
        ..VolumeProjection::default()
    }
}

fn repository_volume(volume: &VolumeBackend) -> Volume {
    let VolumeBackend { persistent_volume_claim, nfs, host_path, csi, azure_file, path: _ } = volume.clone();
    Volume { name: "repository".into(), persistent_volume_claim, nfs, host_path, csi, azure_file, ..Volume::default() }
}

fn read_only(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.into(), mount_path: path.into(), read_only: Some(true), ..VolumeMount::default() }
}
