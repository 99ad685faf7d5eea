//! Finds pods with a helper, sidecar or restore step of another version of Stowaway. Pure.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::{Complaint, Diagnosis, Weight};
use crate::plan::{InjectedVersion, injected_version};

/// The number of pods that are named; all are counted.
const NAMED: usize = 10;

/// Adds the diagnosis of the pods of a namespace; `image` is the installation's image.
pub fn add_pods(diagnosis: &mut Diagnosis, pods: &[Pod], image: &str) {
    let versions = pods.iter().filter_map(|pod| Some((pod, injected_version(pod.spec.as_ref()?, image)?)));
    let versions: Vec<_> = versions.collect();
    let names: Vec<String> = versions
        .iter()
        .filter(|(_, version)| *version == InjectedVersion::Other)
        .map(|(pod, _)| pod.name_any())
        .collect();
    if names.is_empty() {
        if !versions.is_empty() {
            let count = versions.len();
            diagnosis
                .sound
                .push(format!("the injected containers of {count} pods have the version of the installation"));
        }
        return;
    }
    let more = names.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let what = format!(
        "{} pods run a helper, sidecar or restore step which another version of Stowaway has injected: {}{more}",
        names.len(),
        names[..names.len().min(NAMED)].join(", ")
    );
    let remedy = vec![
        "recreate them when it suits their app, so that they get the fixes of the installed version: kubectl rollout \
         restart KIND/NAME"
            .to_owned(),
    ];
    diagnosis.complaints.push(Complaint { weight: Weight::Note, what, remedy });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_with_what_another_version_injected_are_named() {
        let pod = |name: &str, tag: &str| -> Pod {
            let sidecar = json!({ "name": "stowaway-sidecar", "image": format!("stowaway:{tag}") });
            serde_json::from_value(json!({
                "metadata": { "name": name }, "spec": { "initContainers": [sidecar], "containers": [] },
            }))
            .unwrap()
        };
        let mut diagnosis = Diagnosis::default();
        add_pods(&mut diagnosis, &[pod("new", "2")], "stowaway:2");
        assert!(diagnosis.complaints.is_empty() && diagnosis.sound.len() == 1);
        add_pods(&mut diagnosis, &[pod("new", "2"), pod("old", "1")], "stowaway:2");
        let [complaint] = &diagnosis.complaints[..] else { panic!("{diagnosis:?}") };
        assert!(complaint.what.starts_with("1 pods") && complaint.what.ends_with(": old"), "{complaint:?}");
        assert!(complaint.remedy[0].contains("kubectl rollout restart"), "{complaint:?}");
    }
}
