//! A Job that a tenant creates under the name of a run gets no rights of a run. The run starts once that Job is
//! deleted.

use anyhow::{Result, ensure};
use k8s_openapi::api::{
    authorization::v1::SubjectAccessReview, batch::v1::Job, core::v1::ServiceAccount, rbac::v1::RoleBinding,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use stowaway::{
    api::Backup,
    resources::names::{OwnerRef, job_name},
};
use stowaway_e2e::{
    Kind, Namespace, Right, S3, Sequence, Tenant, Workload, in_namespace,
    runs::{all_green, known, source},
};

const SOURCE: &str = "pod/box/main";

/// Whether the account may exec in the pods of the namespace.
async fn may_exec(namespace: &Namespace, account: &str) -> Result<bool> {
    let reviews: Api<SubjectAccessReview> = Api::all(namespace.cluster.client.clone());
    let review = serde_json::from_value(json!({
        "spec": {
            "user": format!("system:serviceaccount:{}:{account}", namespace.name),
            "resourceAttributes": {
                "namespace": namespace.name, "verb": "create", "resource": "pods", "subresource": "exec",
            },
        },
    }))?;
    let answer = reviews.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[tokio::test(flavor = "multi_thread")]
async fn job_that_was_made_before_its_run_gets_no_right_and_delays_the_run_until_it_is_deleted() -> Result<()> {
    let sequence = Sequence::new(Kind::Every, 0, 5000);
    in_namespace("taken", async |namespace: &Namespace| {
        let server = S3::shared(namespace).await?;
        Workload::dumping(namespace, "box", &sequence).start(namespace).await?;
        // The Backup waits for its Repository, so that the tenant's Job is created before any Job of the Backup.
        namespace.start_backup("one", json!({})).await?;
        let waits = |backup: Option<&Backup>| {
            backup.and_then(|backup| backup.status.as_ref()).is_some_and(|status| !status.sources.is_empty())
        };
        let backup: Backup = namespace.wait_for("one", "waiting", waits).await?;
        let owner = OwnerRef::of(&backup).expect("a stored Backup has a UID");
        let name = job_name(&owner, SOURCE, 1);

        let rights: &[Right] = &[("batch", &["jobs"], &["create", "get", "delete"])];
        let tenant = Tenant::new(namespace, "tenant", rights).await?;
        let jobs: Api<Job> = tenant.api();
        let job = |owners: Value, labels: Value| -> Result<Job> {
            Ok(serde_json::from_value(json!({
                "metadata": { "name": name, "ownerReferences": owners, "labels": labels },
                "spec": { "suspend": true, "template": { "spec": {
                    "restartPolicy": "Never", "serviceAccountName": "default",
                    "containers": [{ "name": "runner", "image": namespace.cluster.image("shell-less") }],
                } } },
            }))?)
        };
        // A Job with the owner or the labels of a run is denied.
        let with_owner = job(json!([owner.reference()]), json!({}))?;
        let labelled = job(json!([]), json!({ "stowaway.dev/kind": "backup", "stowaway.dev/run": "one" }))?;
        for attack in [&with_owner, &labelled] {
            tenant.is_denied("stowaway-run-marks", async || jobs.create(&PostParams::default(), attack).await).await?;
        }
        // A Job with the name alone is allowed.
        let bare = job(json!([]), json!({}))?;
        let taken = tenant.is_allowed(async || jobs.create(&PostParams::default(), &bare).await).await?;

        server.repository(namespace).await?;
        let is_taken = |backup: Option<&Backup>| {
            let source = backup.and_then(|backup| source(backup, SOURCE).ok());
            source.is_some_and(|source| source.outcome.reason == "NameTaken")
        };
        let backup: Backup = namespace.wait_for("one", "NameTaken", is_taken).await?;
        let message = &source(&backup, SOURCE)?.outcome.message;
        ensure!(message.contains(&name) && message.contains("delete it"), "{message}");
        ensure!(namespace.api::<RoleBinding>().get_opt(&name).await?.is_none(), "the tenant's Job has a RoleBinding");
        ensure!(!may_exec(namespace, "default").await?, "the account of the tenant's Job may exec");
        let account = namespace.api::<ServiceAccount>().get("default").await?;
        ensure!(account.owner_references().is_empty(), "the account has got an owner: {account:?}");
        let stored = jobs.get(&name).await?;
        ensure!(stored.uid() == taken.uid() && stored.spec == taken.spec, "the tenant's Job was changed: {stored:?}");

        jobs.delete(&name, &DeleteParams::background()).await?;
        let backup = namespace.backup_ended("one").await?;
        all_green(&backup)?;
        server.restic().agrees_with(&backup, &known(&[(SOURCE, &sequence)]))
    })
    .await
}
