//! The sidecar and the restore step open the repository as a run does: from the same Secrets in the same files, at the
//! same location.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use stowaway::{
    api::Repository,
    model::{BackendConfig, DamagedPacks, Task, TaskKind, injected::BACKEND_VARIABLE, mounts},
    resources::{
        self, JobRequest,
        names::{OwnerRef, RunKind},
    },
};

use super::{REPOSITORIES, decide};

/// Secret, key and full path of each file of a Secret in a container, and kind, source and path of each other mounted
/// volume.
fn seen(pod: &Value, container: &Value) -> BTreeSet<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut found = BTreeSet::new();
    for mount in container["volumeMounts"].as_array().unwrap() {
        let path = text(&mount["mountPath"]);
        let volume = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        let projected = volume["projected"]["sources"].as_array().into_iter().flatten().map(|source| &source["secret"]);
        for secret in projected.chain([&volume["secret"]]).filter(|secret| !secret.is_null()) {
            let name = if secret["name"].is_null() { &secret["secretName"] } else { &secret["name"] };
            for item in secret["items"].as_array().unwrap() {
                found.insert((text(name), text(&item["key"]), format!("{path}/{}", text(&item["path"]))));
            }
        }
        for (kind, source) in volume.as_object().unwrap() {
            if !["name", "secret", "projected", "emptyDir"].contains(&kind.as_str()) {
                let mut source = source.clone();
                source.as_object_mut().unwrap().retain(|_, value| *value != json!(false));
                found.insert((kind.clone(), source.to_string(), path.clone()));
            }
        }
    }
    found
}

fn of_a_run(repository: &Repository, backend: BackendConfig) -> BTreeSet<(String, String, String)> {
    let mut named = repository.clone();
    named.metadata.uid = Some("uid".into());
    let job = resources::job(&JobRequest {
        owner: &OwnerRef::of(&named).unwrap(),
        kind: RunKind::Init,
        source: "",
        attempt: 1,
        task: &Task {
            backend,
            connection: resources::connection(&repository.spec),
            cluster: String::new(),
            repository_id: None,
            damaged_packs: DamagedPacks::default(),
            not_before: None,
            kind: TaskKind::Init,
            note: String::new(),
        },
        repository_name: "x",
        repository: &repository.spec,
        runner_pod: None,
        claim: None,
        assigns_users: false,
        timeout: None,
        target: None,
        image: "x",
    });
    let pod = serde_json::to_value(job.unwrap().spec.unwrap().template.spec.unwrap()).unwrap();
    seen(&pod, &pod["containers"][0])
}

#[test]
fn injected_containers_find_the_store_where_a_run_finds_it() {
    for name in ["main", "cellar.eu", "cellar", "barn"] {
        let repository = REPOSITORIES.iter().find(|one| one.metadata.name.as_deref() == Some(name)).unwrap();
        let backend = resources::backend_config(&repository.spec).unwrap();
        let pod = json!({
            "metadata": { "annotations": {
                "stowaway.dev/inject": "sidecar", "stowaway.dev/restore": "on-empty", "stowaway.dev/repository": name,
                "stowaway.dev/volumes": "barrels",
            } },
            "spec": { "containers": [{ "name": "press" }], "volumes": [{ "name": "barrels", "emptyDir": {} }] },
        });
        let outcome = decide(&pod);
        let patched = outcome.apply(&pod).unwrap();
        let containers = patched["spec"]["initContainers"].as_array().unwrap();
        assert_eq!(containers.len(), 2, "{:?}", outcome.findings);
        for container in containers {
            assert_eq!(seen(&patched["spec"], container), of_a_run(repository, backend.clone()), "{name}");
            let environment = container["env"].as_array().unwrap();
            let value = environment.iter().find(|variable| variable["name"] == BACKEND_VARIABLE).unwrap();
            let configured: BackendConfig = serde_json::from_str(value["value"].as_str().unwrap()).unwrap();
            assert_eq!(configured, backend, "{name}");
            assert_eq!(container["resources"]["limits"]["memory"], mounts::WORK_MEMORY);
        }
    }
}
