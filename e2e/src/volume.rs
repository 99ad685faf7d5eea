//! Empty volumes for the claims of tests. In the built-in cluster they are folders of its node; another cluster
//! provisions them itself.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, json};

use crate::{Namespace, process};

/// The label with the namespace for which a volume was made.
const LABEL: &str = "e2e.example.com/namespace";

/// The folder of a namespace's volumes.
fn folder(namespace: &Namespace) -> PathBuf {
    PathBuf::from("/var/tmp/stowaway-e2e").join(&namespace.name)
}

/// Creates `count` volumes for claims of this namespace. A volume can be bound once, because it is retained when its
/// claim is deleted.
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

/// Creates `count` blank block devices of that many MiB for claims of this namespace. It works only for the built-in
/// cluster, because they are loop devices of this machine.
pub async fn provide_devices(namespace: &Namespace, count: usize, mebibytes: u64) -> Result<()> {
    ensure!(namespace.cluster.is_built_in(), "devices are made only for the built-in cluster");
    let volumes: Api<PersistentVolume> = Api::all(namespace.cluster.client.clone());
    let nodes: Api<Node> = Api::all(namespace.cluster.client.clone());
    let nodes = nodes.list(&ListParams::default()).await?.items;
    let names: Vec<&String> = nodes.iter().filter_map(|node| node.metadata.name.as_ref()).collect();
    fs::create_dir_all(folder(namespace))?;
    for number in 0..count {
        let file = folder(namespace).join(format!("{number}.device"));
        fs::File::create(&file)?.set_len(mebibytes << 20)?;
        let device = process::run(Command::new("losetup").args(["--find", "--show"]).arg(&file))?;
        let volume = serde_json::from_value(json!({
            "metadata": { "name": format!("{}-device-{number}", namespace.name), "labels": { LABEL: namespace.name } },
            "spec": {
                "capacity": { "storage": format!("{mebibytes}Mi") }, "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain", "storageClassName": namespace.name, "volumeMode": "Block",
                "local": { "path": String::from_utf8_lossy(&device).trim() },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{
                    "matchFields": [{ "key": "metadata.name", "operator": "In", "values": names }],
                }] } },
            },
        }))?;
        volumes.create(&PostParams::default(), &volume).await?;
    }
    Ok(())
}

/// Detaches the loop devices of the namespace's files.
fn detach_devices(namespace: &Namespace) -> Result<()> {
    for entry in fs::read_dir(folder(namespace))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "device") {
            continue;
        }
        let found =
            process::run(Command::new("losetup").args(["--noheadings", "--output", "NAME", "--associated"]).arg(path))?;
        for device in String::from_utf8_lossy(&found).split_whitespace() {
            process::run(Command::new("losetup").args(["--detach", device]))?;
        }
    }
    Ok(())
}

/// The spec of a claim for one of the provided volumes.
pub fn claim(namespace: &Namespace, access_mode: &str) -> Value {
    let mut spec = json!({ "accessModes": [access_mode], "resources": { "requests": { "storage": "1Gi" } } });
    if namespace.cluster.is_built_in() {
        spec["storageClassName"] = json!(namespace.name);
    }
    spec
}

/// Deletes the volumes of the namespace, and their folders.
pub async fn clean_up(namespace: &Namespace) -> Result<()> {
    if !namespace.cluster.is_built_in() || !folder(namespace).exists() {
        return Ok(());
    }
    let volumes: Api<PersistentVolume> = Api::all(namespace.cluster.client.clone());
    let of_namespace = ListParams::default().labels(&format!("{LABEL}={}", namespace.name));
    volumes.delete_collection(&DeleteParams::default(), &of_namespace).await?;
    detach_devices(namespace)?;
    Ok(fs::remove_dir_all(folder(namespace))?)
}
