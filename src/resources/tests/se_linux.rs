//! The SELinux label of a run's pod.

use super::*;

#[test]
fn job_has_the_label_of_the_apps_files_unless_another_one_is_requested() {
    let level = |mount: &ClaimMount, requested: Option<&RunnerPod>| {
        pod_of(claim_job(mount, requested, false))
            .security_context
            .unwrap()
            .se_linux_options
            .and_then(|options| options.level)
    };
    let labelled = ClaimMount {
        se_linux: serde_json::from_value(json!({ "level": "s0:c1,c2" })).unwrap(),
        ..mount((70, None), None)
    };
    assert_eq!(level(&mount((70, None), None), None), None);
    assert_eq!(level(&labelled, None).as_deref(), Some("s0:c1,c2"));
    let requested = json!({ "securityContext": { "seLinuxOptions": { "level": "s0" } } });
    let requested: RunnerPod = serde_json::from_value(requested).unwrap();
    assert_eq!(level(&labelled, Some(&requested)).as_deref(), Some("s0"));
}
