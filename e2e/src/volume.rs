//! Empty volumes for the tests' claims: folders of the built-in cluster's node, else whatever the cluster itself provides.

use std::{fs, path::PathBuf};

use anyhow::Result;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, json};

use crate::Namespace;

/// Says whose volume it is.
const LABEL: &str = "stowaway.dev/test-namespace";

/// Where the volumes of a namespace are.
fn folder(namespace: &Namespace) -> PathBuf {
    PathBuf::from("/var/tmp/stowaway-e2e").join(&namespace.name)
}

/// Makes so many volumes for claims of this namespace, each of which is bound once.
pub async fn provide(namespace: &Namespace, count: usize) -> Result<()> {
    if !namespace.cluster.is_built_in() {
        return Ok(());
    }
    let volumes: Api<PersistentVolume> = Api::all(namespace.cluster.client.clone());
    for number in 0..count {
        let path = folder(namespace).join(number.to_string());
        fs::create_dir_all(&path)?;
        let volume = serde_json::from_value(json!({
            "metadata": { "name": format!("{}-{number}", namespace.name), "labels": { LABEL: namespace.name } },
            "spec": {
                "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
                "persistentVolumeReclaimPolicy": "Retain", "storageClassName": namespace.name,
                "hostPath": { "path": path },
            },
        }))?;
        volumes.create(&PostParams::default(), &volume).await?;
    }
    Ok(())
}

/// The spec of a claim for one of them.
pub fn claim(namespace: &Namespace, access_mode: &str) -> Value {
    let mut spec = json!({ "accessModes": [access_mode], "resources": { "requests": { "storage": "1Gi" } } });
    if namespace.cluster.is_built_in() {
        spec["storageClassName"] = json!(namespace.name);
    }
    spec
}

/// Takes them away.
pub async fn clean_up(namespace: &Namespace) -> Result<()> {
    if !namespace.cluster.is_built_in() || !folder(namespace).exists() {
        return Ok(());
    }
    let volumes: Api<PersistentVolume> = Api::all(namespace.cluster.client.clone());
    let ours = ListParams::default().labels(&format!("{LABEL}={}", namespace.name));
    volumes.delete_collection(&DeleteParams::default(), &ours).await?;
    Ok(fs::remove_dir_all(folder(namespace))?)
}
