//! The webhook's patches are accepted by a real API server, the injected containers run on a real kubelet, and the
//! dumps are sealed.

use std::fs;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api,
    api::{DynamicObject, ListParams, PostParams},
    core::ApiResource,
};
use serde_json::{Value, json};
use stowaway::{
    api::Repository,
    inject::{Cause, InjectionFacts, StrictJson, inject, pods_of},
    model::{
        Proof, Verdict,
        injected::{HELPER_VOLUME, SIDECAR_CONTAINER},
    },
};
use stowaway_e2e::{
    Kind, Namespace, S3, Sequence, Workload, in_namespace, process,
    runs::{all_green, ended, known, source},
    workload::{self, CONTAINER},
};

const STREAM: Sequence = Sequence::new(Kind::Every, 51, 5_000_003);

fn init_names(pod: &Pod) -> Vec<String> {
    let containers = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
    containers.into_iter().flatten().map(|container| container.name.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn annotated_pods_get_the_helper_and_their_dumps_are_sealed_without_a_shell_too() -> Result<()> {
    in_namespace("sealed", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        let strict = json!({
            "runAsNonRoot": true, "runAsUser": 12345, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
        });
        let pods = workload::start_all(
            namespace,
            &[
                Workload::dumping(namespace, "toolbox", &STREAM),
                Workload::dumping(namespace, "strict", &STREAM).set("securityContext", strict),
                // This image contains a single static program, and neither a shell nor a libc.
                Workload::new(namespace, "bare", "shell-less").annotate(workload::COMMAND, &STREAM.command()),
            ],
        )
        .await?;
        for pod in &pods {
            ensure!(init_names(pod) == [HELPER_VOLUME], "{:?}", init_names(pod));
        }
        let backup = namespace.back_up("sealed", json!({ "retryLimit": 0 })).await?;
        all_green(&backup)?;
        let sources = ["pod/toolbox/main", "pod/strict/main", "pod/bare/main"];
        for name in sources {
            let outcome = &source(&backup, name)?.outcome;
            ensure!(outcome.proof == Some(Proof::Sealed), "{name}: {outcome:?}");
        }
        restic.agrees_with(&backup, &known(&sources.map(|name| (name, &STREAM))))?;
        for name in ["toolbox", "strict"] {
            namespace.wait_until_ended(name, CONTAINER, "stowaway-helper").await?;
        }
        Ok(())
    })
    .await
}

/// Creates the pod with `dryRun`, and returns it as the API server would store it.
pub(super) async fn dry_run(namespace: &Namespace, pod: &Value) -> kube::Result<Value> {
    let mut pod = pod.clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    if let Some(metadata) = pod["metadata"].as_object_mut() {
        metadata.remove("namespace");
        // The owner references can stay, because the API server does not check that the owners exist.
        metadata.remove("uid");
        if !metadata.contains_key("name") && !metadata.contains_key("generateName") {
            metadata.insert("generateName".to_owned(), "shown-".into());
        }
    }
    let resource = ApiResource::erase::<Pod>(&());
    let pods: Api<DynamicObject> = Api::namespaced_with(namespace.cluster.client.clone(), &namespace.name, &resource);
    let object: DynamicObject = serde_json::from_value(pod).map_err(kube::Error::SerdeError)?;
    let shown = pods.create(&PostParams { dry_run: true, field_manager: None }, &object).await?;
    serde_json::to_value(shown).map_err(kube::Error::SerdeError)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_patch_applies_and_validates_and_is_recognized_in_what_the_api_server_makes_of_it() -> Result<()> {
    in_namespace("shapes", async |namespace: &Namespace| {
        S3::shared(namespace).await?.repository(namespace).await?;
        let repositories: Vec<Repository> = namespace.api::<Repository>().list(&ListParams::default()).await?.items;
        let without_webhook = Namespace { cluster: namespace.cluster.clone(), name: "kube-system".to_owned() };
        let (mut injected, mut foreign) = (0, Vec::new());
        for entry in fs::read_dir(process::clone_folder("tests/golden/inject"))? {
            let folder = entry?.path();
            let text = fs::read_to_string(folder.join("pod.yaml"))?;
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let StrictJson(object) = yaml_serde::from_str(&text)?;
            let Some(template) = pods_of(&object, &namespace.name)?.into_iter().next() else { continue };
            if text.contains("# on-create: false") || text.contains("# by-namespace:") {
                continue;
            }
            let facts = InjectionFacts {
                namespace: &namespace.name,
                on_create: true,
                by_namespace: None,
                image: "stowaway",
                repositories: &repositories,
            };
            let wanted = inject(&template.pod, &facts);
            let shown = dry_run(namespace, &template.pod).await;
            if let Err(kube::Error::Api(plain)) = dry_run(&without_webhook, &template.pod).await {
                // The API server rejects this pod even without the webhook.
                foreign.push(format!("{name}: {}", plain.message));
                continue;
            }
            match (wanted.effect, shown) {
                (stowaway::inject::Effect::Refuse, Err(kube::Error::Api(refused))) => {
                    ensure!([403, 422].contains(&refused.code), "{name}: refused with {}", refused.code);
                    for finding in &wanted.findings {
                        let start = finding.message.chars().take(60).collect::<String>();
                        ensure!(
                            refused.message.contains(&start),
                            "{name}: {:?} is not in {:?}",
                            start,
                            refused.message
                        );
                    }
                }
                (stowaway::inject::Effect::Inject, Ok(shown)) => {
                    let image = image_of(&shown).with_context(|| format!("{name}: nothing was injected"))?;
                    let again = inject(&shown, &InjectionFacts { image: &image, ..facts });
                    ensure!(
                        again.cause == Cause::AlreadyInjected,
                        "{name}: {:?} {:?} {}",
                        again.cause,
                        again.findings,
                        serde_json::to_string(&again.patch)?
                    );
                    injected += 1;
                }
                (stowaway::inject::Effect::Skip, Ok(shown)) => {
                    ensure!(image_of(&shown) == image_of(&template.pod), "{name}: injected although {}", wanted.cause);
                }
                (effect, shown) => anyhow::bail!("{name}: {effect:?} {} became {shown:?}", wanted.cause),
            }
        }
        ensure!(injected > 50, "only {injected} were injected");
        ensure!(foreign.len() < 12, "the API server rejects {} of the pods by itself: {foreign:#?}", foreign.len());
        Ok(())
    })
    .await
}

/// The image of Stowaway's containers in a pod.
pub(super) fn image_of(pod: &Value) -> Option<String> {
    let all = pod["spec"]["initContainers"].as_array()?;
    let injected = all.iter().find(|container| {
        container["name"].as_str().is_some_and(|name| name.starts_with("stowaway-") && container["image"] != "")
    })?;
    injected["image"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn injected_pods_are_admitted_where_pod_security_is_restricted_and_quotas_and_limits_apply() -> Result<()> {
    in_namespace("restricted", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        process::run(&mut namespace.kubectl(&[
            "label",
            "namespace",
            &namespace.name,
            "pod-security.kubernetes.io/enforce=restricted",
        ]))?;
        namespace
            .apply_object(json!({
                "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "all" },
                "spec": { "hard": { "requests.cpu": "4", "requests.memory": "4Gi", "limits.cpu": "20", "limits.memory": "8Gi" } },
            }))
            .await?;
        namespace
            .apply_object(json!({
                "apiVersion": "v1", "kind": "LimitRange", "metadata": { "name": "all" },
                "spec": { "limits": [{ "type": "Container", "max": { "memory": "1Gi", "cpu": "4" }, "min": { "memory": "8Mi", "cpu": "5m" } }] },
            }))
            .await?;
        let strict = json!({
            "runAsNonRoot": true, "runAsUser": 12345, "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
        });
        let resources = json!({ "limits": { "cpu": "100m", "memory": "64Mi" } });
        let pod = |name: &str| {
            Workload::dumping(namespace, name, &STREAM)
                .set("securityContext", strict.clone())
                .set("resources", resources.clone())
        };
        let pods = workload::start_all(
            namespace,
            &[pod("helped"), pod("beside").annotate(workload::INJECT, "sidecar")],
        )
        .await?;
        for pod in &pods {
            let class = pod.status.as_ref().and_then(|status| status.qos_class.clone());
            ensure!(class.as_deref() == Some("Guaranteed"), "a Guaranteed pod became {class:?}");
        }
        ensure!(init_names(&pods[1]).contains(&SIDECAR_CONTAINER.to_owned()), "{:?}", init_names(&pods[1]));
        let backup = namespace.back_up("restricted", json!({ "retryLimit": 0 })).await?;
        for name in ["pod/helped/main", "pod/beside/main"] {
            let outcome = &source(&backup, name)?.outcome;
            ensure!(outcome.proof == Some(Proof::Sealed), "{name}: {outcome:?}");
        }
        restic.check("restic", true)
    })
    .await
}

/// The kubelet kills a sidecar that still runs 5 s after the end of the Job's own container, and its exit code shows
/// that.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_helper_and_sidecar_completes_with_its_own_container() -> Result<()> {
    in_namespace("jobs", async |namespace: &Namespace| {
        S3::shared(namespace).await?.repository(namespace).await?;
        for inject in ["helper", "sidecar"] {
            namespace
                .apply_object(json!({
                    "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": inject },
                    "spec": { "backoffLimit": 0, "template": {
                        "metadata": { "annotations": { workload::COMMAND: "true", "stowaway.dev/inject": inject } },
                        "spec": { "restartPolicy": "Never", "terminationGracePeriodSeconds": 5, "containers": [{
                            "name": "main", "image": namespace.cluster.image("toolbox"), "command": ["sleep", "2"],
                        }] },
                    } },
                }))
                .await?;
        }
        for inject in ["helper", "sidecar"] {
            let done = |job: Option<&Job>| {
                job.and_then(|job| job.status.as_ref()).is_some_and(|status| status.succeeded == Some(1))
            };
            namespace.wait_for::<Job>(inject, "complete", done).await?;
            let pods: Api<Pod> = namespace.api();
            let pod = pods.list(&ListParams::default().labels(&format!("job-name={inject}"))).await?.items.remove(0);
            ensure!(init_names(&pod).contains(&HELPER_VOLUME.to_owned()), "{inject}: {:?}", init_names(&pod));
            let injected = pod.status.iter().filter_map(|status| status.init_container_statuses.as_ref()).flatten();
            for container in injected {
                let state = container.state.as_ref().and_then(|state| state.terminated.as_ref());
                let code = state.map(|state| state.exit_code);
                ensure!(code == Some(0), "{inject}: {} exited with {code:?}", container.name);
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_through_the_helper_takes_effect_once_and_whole() -> Result<()> {
    in_namespace("helped", async |namespace: &Namespace| {
        S3::shared(namespace).await?.repository(namespace).await?;
        Workload::dumping(namespace, "box", &STREAM)
            .annotate("stowaway.dev/restorecommand", "sh -c 'cat >/scratch/part && mv /scratch/part /scratch/whole'")
            .start(namespace)
            .await?;
        all_green(&namespace.back_up("one", json!({ "retryLimit": 0 })).await?)?;
        let from = json!({ "source": "pod/box/main" });
        let restored = namespace.restore("back", json!({ "from": from })).await?.status.unwrap_or_default();
        ended("back", &restored.outcome, Verdict::Succeeded, &["Completed"])?;
        let digest = namespace.shell("box", "sha256sum </scratch/whole | cut -d ' ' -f 1")?;
        ensure!(digest == STREAM.digest(), "other bytes were restored");
        ensure!(restored.outcome.proof == Some(Proof::Sealed), "{:?}", restored.outcome);
        Ok(())
    })
    .await
}
