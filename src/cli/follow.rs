//! Follows the logs of runs, and checks that a pod belongs to its run. Every tenant can write labels, so labels prove
//! nothing. A pod counts only if it runs as its Job's service account: only the controller's Jobs get that account, and
//! a pod's account is immutable.

use std::{collections::BTreeSet, time::Duration};

use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, LogParams},
};

use super::output::note;
use crate::{
    cluster::observe,
    plan::names::{OwnerRef, account_name},
};

/// How often a pod that does not exist yet is looked up.
const POLL_PERIOD: Duration = Duration::from_millis(300);
/// This many consecutive failures end the lookup of a pod. Then its log is missing, but not the verdict.
const MAX_FAILURES: u32 = 20;

/// Whether the pod belongs to the run's Job of this name.
pub(super) fn is_pod_of(pod: &Pod, job: &str) -> bool {
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    let owner = observe::controller_of(pod.owner_references());
    account == Some(account_name(job).as_str()) && owner.is_some_and(|owner| owner.kind == "Job" && owner.name == job)
}

/// Whether the Job is a run of one of these objects: one of them owns it, and it has the service account that only the
/// controller assigns.
pub(super) fn is_run_of(job: &Job, owners: &[OwnerRef]) -> bool {
    let pod = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let account = pod.and_then(|pod| pod.service_account_name.as_deref());
    account == Some(account_name(&job.name_any()).as_str()) && owners.iter().any(|owner| owner.controls(&job.metadata))
}

/// Shows the log lines of runs on stderr during `--wait`.
pub(super) struct Follower {
    client: Client,
    namespace: String,
    followed: BTreeSet<String>,
    tasks: tokio::task::JoinSet<()>,
}

impl Follower {
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned(), followed: BTreeSet::new(), tasks: tokio::task::JoinSet::new() }
    }

    /// Follows the pod of a Job. The name comes from a status.
    pub fn follow(&mut self, job: &str, source: &str) {
        if self.followed.insert(job.to_owned()) {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
            self.tasks.spawn(follow_job(pods, job.to_owned(), source.to_owned()));
        }
    }

    /// Waits briefly for the last lines; the verdict itself is in the status.
    pub async fn finish(mut self) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _late = tokio::time::timeout(Duration::from_secs(3), all).await;
    }
}

async fn follow_job(pods: Api<Pod>, job: String, source: String) {
    let selector = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
    let mut failures = 0;
    let pod = loop {
        match pods.list(&selector).await {
            Ok(list) => {
                failures = 0;
                let begun =
                    |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Pending");
                if let Some(pod) = list.items.into_iter().find(|pod| is_pod_of(pod, &job) && begun(pod)) {
                    break pod;
                }
            }
            Err(error) => {
                failures += 1;
                if failures == MAX_FAILURES {
                    return note(&format!("{source}: no log: {}", super::explain(&error)));
                }
            }
        }
        tokio::time::sleep(POLL_PERIOD).await;
    };
    let parameters = LogParams { follow: true, ..LogParams::default() };
    match pods.log_stream(&pod.name_any(), &parameters).await {
        Ok(reader) => {
            let mut lines = reader.lines();
            while let Ok(Some(line)) = lines.try_next().await {
                note(&format!("{source}: {line}"));
            }
        }
        Err(error) => note(&format!("{source}: no log: {}", super::explain(&error))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn owner(uid: &str) -> OwnerRef {
        let [api_version, kind, namespace, name] =
            ["stowaway.dev/v1alpha1", "Backup", "shop", "one"].map(str::to_owned);
        OwnerRef { api_version, kind, namespace, name, uid: uid.to_owned(), since: None }
    }

    fn job(account: &str, uid: &str) -> Job {
        serde_json::from_value(json!({
            "metadata": { "name": "one-0123456789", "ownerReferences": [{ "apiVersion": "stowaway.dev/v1alpha1", "kind": "Backup", "name": "one", "uid": uid, "controller": true }] },
            "spec": { "template": { "spec": { "serviceAccountName": account, "containers": [] } } },
        }))
        .unwrap()
    }

    #[test]
    fn only_jobs_that_the_object_owns_and_the_controller_wrote_are_its_runs() {
        let own = "stowaway-run-one-0123456789";
        assert!(is_run_of(&job(own, "u"), &[owner("u")]));
        assert!(!is_run_of(&job(own, "another"), &[owner("u")]));
        assert!(!is_run_of(&job("default", "u"), &[owner("u")]), "the author of a Job chooses its labels and owners");
        assert!(!is_run_of(&job("stowaway-run-other", "u"), &[owner("u")]));
    }

    #[test]
    fn only_a_pod_with_the_account_of_its_job_is_the_run() {
        let pod = |account: &str, job: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": { "name": "x", "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": "u", "controller": true }] },
                "spec": { "serviceAccountName": account, "containers": [] },
            }))
            .unwrap()
        };
        assert!(is_pod_of(&pod("stowaway-run-one-0123456789", "one-0123456789"), "one-0123456789"));
        assert!(!is_pod_of(&pod("default", "one-0123456789"), "one-0123456789"), "a relabelled pod");
        assert!(!is_pod_of(&pod("stowaway-run-one-0123456789", "other"), "one-0123456789"));
    }
}
