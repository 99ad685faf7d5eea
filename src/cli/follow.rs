//! The logs of runs, of their own pods alone: labels can be written by every tenant, so a pod counts only if it has the
//! account of its Job, which none but the controller's Jobs get, and which a pod keeps for ever.
//!
//! It must not know what the lines mean.

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
    plan::names::{Owner, account_name},
};

/// How often is looked for a pod that is not there yet.
const GLANCE: Duration = Duration::from_millis(300);
/// So many failures in a row end the search for a pod: its log is then missing, and the verdict is not.
const MOST_FAILURES: u32 = 20;

/// Whether the pod is that of the run's Job of this name.
pub(super) fn is_pod_of(pod: &Pod, job: &str) -> bool {
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    let owner = observe::controller_of(pod.owner_references());
    account == Some(account_name(job).as_str()) && owner.is_some_and(|owner| owner.kind == "Job" && owner.name == job)
}

/// Whether the Job is a run of one of these objects: one of them owns it, and it has the account that only the controller
/// gives.
pub(super) fn is_run_of(job: &Job, owners: &[Owner]) -> bool {
    let pod = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let account = pod.and_then(|pod| pod.service_account_name.as_deref());
    account == Some(account_name(&job.name_any()).as_str()) && owners.iter().any(|owner| owner.controls(&job.metadata))
}

/// Shows the log lines of runs on stderr while they are waited for.
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

    /// Follows the pod of a Job, whose name comes from a status.
    pub fn follow(&mut self, job: &str, source: &str) {
        if self.followed.insert(job.to_owned()) {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
            self.tasks.spawn(follow_job(pods, job.to_owned(), source.to_owned()));
        }
    }

    /// Gives the last lines a moment; the verdict itself is in the status.
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
                if failures == MOST_FAILURES {
                    return note(&format!("{source}: no log: {}", super::explain(&error)));
                }
            }
        }
        tokio::time::sleep(GLANCE).await;
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

    fn owner(uid: &str) -> Owner {
        let [api_version, kind, namespace, name] =
            ["stowaway.dev/v1alpha1", "Backup", "shop", "one"].map(str::to_owned);
        Owner { api_version, kind, namespace, name, uid: uid.to_owned(), since: None }
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
