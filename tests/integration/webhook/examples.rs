//! The manifests of `examples/`, without a cluster: their fields are those of the API types, and the webhook admits them
//! without a warning and injects what they request.

use std::{
    fs,
    path::{Path, PathBuf},
};

use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    batch::v1::CronJob,
    core::v1::{PersistentVolumeClaim, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use stowaway::{
    api::{Backup, Repository, Restore},
    inject::pods_of,
};

use super::{Webhook, creation, patch, yaml};

/// Smaller numbers mean that the directory was not found.
const FEWEST_EXAMPLES: usize = 15;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// The objects of all files: the path of the file, and the object.
fn examples() -> Vec<(String, Value)> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .flat_map(|directory| fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()))
        .collect();
    files.sort();
    assert!(files.len() >= FEWEST_EXAMPLES, "{files:?}");
    let objects = files.iter().flat_map(|file| {
        let text = fs::read_to_string(file).unwrap();
        let name = file.strip_prefix(folder()).unwrap().display().to_string();
        let documents: Vec<Value> =
            yaml_serde::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap()).collect();
        documents.into_iter().map(move |object| (name.clone(), object))
    });
    objects.collect()
}

/// The fields of the value which the other one lacks.
fn lost_fields(value: &Value, other: &Value, path: &str) -> Vec<String> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, field)| {
                let path = format!("{path}.{name}");
                other.get(name).map_or_else(|| vec![path.clone()], |other| lost_fields(field, other, &path))
            })
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .flat_map(|(index, item)| lost_fields(item, &other[index], &format!("{path}[{index}]")))
            .collect(),
        _ => Vec::new(),
    }
}

/// The fields of the object which its type does not have.
fn unknown_fields<T: DeserializeOwned + Serialize>(object: &Value) -> Vec<String> {
    match serde_json::from_value::<T>(object.clone()) {
        Ok(typed) => lost_fields(object, &serde_json::to_value(typed).unwrap(), ""),
        Err(error) => vec![error.to_string()],
    }
}

#[test]
fn every_field_of_the_examples_is_a_field_of_the_api() {
    for (file, object) in examples() {
        let unknown = match object["kind"].as_str().unwrap() {
            "Backup" => unknown_fields::<Backup>(&object),
            "Repository" => unknown_fields::<Repository>(&object),
            "Restore" => unknown_fields::<Restore>(&object),
            "CronJob" => unknown_fields::<CronJob>(&object),
            "Deployment" => unknown_fields::<Deployment>(&object),
            "StatefulSet" => unknown_fields::<StatefulSet>(&object),
            "PersistentVolumeClaim" => unknown_fields::<PersistentVolumeClaim>(&object),
            "Role" => unknown_fields::<Role>(&object),
            "RoleBinding" => unknown_fields::<RoleBinding>(&object),
            "ServiceAccount" => unknown_fields::<ServiceAccount>(&object),
            kind => panic!("{file}: add the type of {kind}"),
        };
        assert_eq!(unknown, Vec::<String>::new(), "{file}");
    }
}

#[test]
fn field_that_the_api_does_not_have_is_found() {
    let text = fs::read_to_string(folder().join("stores/s3.yaml")).unwrap().replace("keepDaily", "keepDayly");
    assert_eq!(unknown_fields::<Repository>(&yaml(&text)), [".spec.retention.keepDayly"]);
    let text = text.replace("passwordSecretRef", "password");
    assert!(unknown_fields::<Repository>(&yaml(&text))[0].contains("missing field `passwordSecretRef`"));
}

/// A webhook which knows the Repository of the example for S3.
async fn webhook() -> Webhook {
    let text = fs::read_to_string(folder().join("stores/s3.yaml")).unwrap();
    Webhook::knowing(&[serde_json::from_value(yaml(&text)).unwrap()]).await
}

#[tokio::test]
async fn examples_are_admitted_without_a_warning() {
    let webhook = webhook().await;
    for (file, object) in examples() {
        let path = match object["kind"].as_str().unwrap() {
            "Backup" | "Repository" | "Restore" => "/objects",
            "CronJob" | "Deployment" | "StatefulSet" => "/workloads",
            "PersistentVolumeClaim" => "/annotations",
            _ => continue,
        };
        let answer = webhook.admit(path, &creation(&object)).await;
        assert!(answer["allowed"] == true && answer["warnings"].is_null(), "{file}: {answer}");
    }
}

#[tokio::test]
async fn pods_of_the_examples_are_injected() {
    let webhook = webhook().await;
    let mut injected = Vec::new();
    for (file, object) in examples() {
        let Ok(pods) = pods_of(&object, "orchard") else { continue };
        for template in pods {
            let answer = webhook.admit("/pods", &creation(&template.pod)).await;
            assert!(answer["allowed"] == true && answer["warnings"].is_null(), "{file}: {answer}");
            if !patch(&answer).0.is_empty() {
                injected.push(file.clone());
            }
        }
    }
    let expected = ["mariadb", "mongodb", "mysql", "postgresql", "redis"].map(|name| format!("databases/{name}.yaml"));
    assert_eq!(injected, [&expected[..], &["restores/on-empty.yaml".to_owned()]].concat());
}
