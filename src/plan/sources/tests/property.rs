//! Property tests: the order of the pods does not matter, and no two sources share a name or path.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::{COMMAND, ObservedPod, plan, pod};

/// Pods from few names, so that many names collide.
fn any_pod() -> impl Strategy<Value = ObservedPod> {
    let name = || proptest::sample::select(vec!["a", "b", "a-b", "b-a"]);
    (
        proptest::sample::select(vec!["deployment", "statefulset", "daemonset", "pod", "job"]),
        (name(), name(), name(), proptest::option::of(name())),
        proptest::sample::select(vec!["", "-a", "-b"]),
        proptest::sample::select(vec!["Running", "Pending", "Failed", "Succeeded"]),
        (any::<bool>(), any::<bool>(), 0..3_u8),
    )
        .prop_map(|(kind, (workload, suffix, container, command), extension, phase, (ready, leaving, hour))| {
            let command = command.map(|command| format!(".{command}")).unwrap_or_default();
            let name = if kind == "pod" { workload.to_owned() } else { format!("{workload}-{suffix}") };
            let change = json!({
                "metadata": {
                    "creationTimestamp": format!("2026-01-01T0{hour}:00:00Z"),
                    "deletionTimestamp": leaving.then_some("2026-01-01T00:00:00Z"),
                    "annotations": {
                        COMMAND: null,
                        format!("{COMMAND}{command}"): "dump",
                        format!("stowaway.dev/file-extension{command}"): extension,
                        "stowaway.dev/backupcommand.more": "dump",
                    },
                },
                "spec": { "containers": [{ "name": container }], "nodeName": suffix },
                "status": { "phase": phase, "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }] },
            });
            pod(kind, workload, &name, &change)
        })
}

/// The first pod of each name, because a namespace has no two pods of one name.
fn with_own_names(pods: &[ObservedPod]) -> Vec<ObservedPod> {
    let mut names = BTreeSet::new();
    pods.iter().filter(|observed| names.insert(&observed.pod.metadata.name)).cloned().collect()
}

proptest! {
    #[test]
    fn order_of_pods_does_not_matter(
        (pods, shuffled) in proptest::collection::vec(any_pod(), 0..12).prop_flat_map(|pods| (Just(with_own_names(&pods)), Just(with_own_names(&pods)).prop_shuffle()))
    ) {
        prop_assert_eq!(plan(&pods), plan(&shuffled));
    }

    #[test]
    fn no_two_sources_share_a_name_or_a_path(pods in proptest::collection::vec(any_pod(), 0..16)) {
        let plan = plan(&pods);
        let names: BTreeSet<_> = plan.sources.iter().map(|source| &source.name).collect();
        prop_assert_eq!(names.len(), plan.sources.len());
        let mut taken = BTreeSet::new();
        for source in &plan.sources {
            // The last choice may be both paths of a source, but no path of another source.
            for path in BTreeSet::from([&source.identity.path, &source.alternative_path]) {
                prop_assert!(taken.insert(path), "{path} twice: {:#?}", plan.sources);
            }
        }
        prop_assert!(plan.sources.is_sorted_by_key(|source| &source.name));
    }
}
