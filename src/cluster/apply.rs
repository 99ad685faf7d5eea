//! Writing to the cluster. Each call may be made twice without harm.
//!
//! It must not know why something is written.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use k8s_openapi::{
    ByteString, NamespaceResourceScope,
    api::{
        batch::v1::Job,
        core::v1::{PersistentVolumeClaim, Secret, ServiceAccount},
        rbac::v1::RoleBinding,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy},
    core::{ApiResource, DynamicObject},
};
use rand::{RngExt, distr::Alphanumeric};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::call::{CallError, code};

/// The name under which we own fields.
pub const FIELD_MANAGER: &str = "stowaway";
/// How long a repository's password is that we make: 62^32 is more than 2^190.
const PASSWORD_LENGTH: usize = 32;

/// Why an object could not be had.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The API server refused it.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The name is taken.
    #[error("{what} exists and belongs to somebody else; delete or rename it")]
    Foreign {
        /// Kind, namespace and name.
        what: String,
    },
}

/// Makes the Job unless it is there; one of the same name with another owner is not ours to use.
pub async fn create_job(client: &Client, job: &Job) -> Result<Job, CreateError> {
    let api: Api<Job> = Api::namespaced(client.clone(), &job.namespace().unwrap_or_default());
    create_owned(&api, "Job", job).await
}

/// The same for a claim of ours.
pub async fn create_own_claim(client: &Client, claim: &PersistentVolumeClaim) -> Result<(), CreateError> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &claim.namespace().unwrap_or_default());
    create_owned(&api, "PersistentVolumeClaim", claim).await.map(|_| ())
}

/// The same for an object of a kind that the cluster may lack.
pub async fn create_dynamic(client: &Client, kind: &ApiResource, object: &DynamicObject) -> Result<(), CreateError> {
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, kind);
    create_owned(&api, &kind.kind, object).await.map(|_| ())
}

async fn create_owned<K>(api: &Api<K>, kind: &str, object: &K) -> Result<K, CreateError>
where
    K: Resource + Clone + Debug + DeserializeOwned + Serialize,
{
    let name = object.name_any();
    let what = format!("{kind} {}/{name}", object.namespace().unwrap_or_default());
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    match api.create(&parameters, object).await {
        Ok(made) => return Ok(made),
        Err(error) if code(&error) == Some(409) => {}
        Err(error) => return Err(CallError::at(format!("create {what}"))(error).into()),
    }
    let present = api.get(&name).await.map_err(CallError::at(format!("read {what}")))?;
    let uid = |object: &K| object.owner_references().first().map(|owner| owner.uid.clone());
    if uid(&present) == uid(object) { Ok(present) } else { Err(CreateError::Foreign { what }) }
}

/// Makes a claim unless there is one of its name, whoever made that.
pub async fn create_claim(client: &Client, claim: &PersistentVolumeClaim) -> Result<(), CallError> {
    let (name, namespace) = (claim.name_any(), claim.namespace().unwrap_or_default());
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    match api.create(&parameters, claim).await {
        Err(error) if code(&error) == Some(409) => Ok(()),
        created => created.map(drop).map_err(CallError::at(format!("create PersistentVolumeClaim {namespace}/{name}"))),
    }
}

/// Puts a finalizer on an object, or takes it away; those of others stay. One that is gone needs none.
pub async fn finalizer<K>(client: &Client, object: &K, finalizer: &str, wanted: bool) -> Result<(), CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let mut finalizers = object.finalizers().to_vec();
    finalizers.retain(|present| present != finalizer);
    if wanted {
        finalizers.push(finalizer.to_owned());
    }
    if finalizers == object.finalizers() {
        return Ok(());
    }
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    // Whoever changed it since is heard first: a list is replaced as a whole.
    let metadata = json!({ "resourceVersion": object.resource_version(), "finalizers": finalizers });
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let patched = api.patch(&name, &parameters, &Patch::Merge(json!({ "metadata": metadata }))).await;
    gone_is_done(patched, || format!("change the finalizers of {} {namespace}/{name}", K::kind(&())))
}

/// Makes or mends a `ServiceAccount` of ours.
pub async fn service_account(client: &Client, account: &ServiceAccount) -> Result<(), CallError> {
    server_side(client, account).await
}

/// Makes or mends a `RoleBinding` of ours.
pub async fn role_binding(client: &Client, binding: &RoleBinding) -> Result<(), CallError> {
    server_side(client, binding).await
}

async fn server_side<K>(client: &Client, object: &K) -> Result<(), CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
{
    let name = object.name_any();
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let patched = api.patch(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(object)).await;
    patched.map(|_| ()).map_err(CallError::at(format!("apply {} {namespace}/{name}", K::kind(&()))))
}

/// Starts a suspended Job.
pub async fn start_job(client: &Client, namespace: &str, name: &str) -> Result<(), CallError> {
    patch_job(client, namespace, name, &json!({ "spec": { "suspend": false } })).await
}

/// Cuts a Job short: Kubernetes ends its pod, and the Job stays as a failed one, for people to see.
pub async fn end_job(client: &Client, namespace: &str, name: &str) -> Result<(), CallError> {
    patch_job(client, namespace, name, &json!({ "spec": { "activeDeadlineSeconds": 1 } })).await
}

/// Has Kubernetes delete a Job and its pods so long after the Job's end.
pub async fn expire_job(client: &Client, namespace: &str, name: &str, after: Duration) -> Result<(), CallError> {
    let patch = json!({ "spec": { "ttlSecondsAfterFinished": after.as_secs() } });
    patch_job(client, namespace, name, &patch).await
}

async fn patch_job(client: &Client, namespace: &str, name: &str, patch: &serde_json::Value) -> Result<(), CallError> {
    let api: Api<Job> = Api::namespaced(client.clone(), namespace);
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let patched = api.patch(name, &parameters, &Patch::Merge(patch)).await;
    gone_is_done(patched, || format!("change Job {namespace}/{name}"))
}

/// Deletes a Job and its pods.
pub async fn delete_job(client: &Client, namespace: &str, name: &str) -> Result<(), CallError> {
    let api: Api<Job> = Api::namespaced(client.clone(), namespace);
    let parameters =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    gone_is_done(api.delete(name, &parameters).await, || format!("delete Job {namespace}/{name}"))
}

/// Deletes a claim. It is there until no pod has it mounted any more.
pub async fn delete_claim(client: &Client, namespace: &str, name: &str) -> Result<(), CallError> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let deleted = api.delete(name, &DeleteParams::default()).await;
    gone_is_done(deleted, || format!("delete PersistentVolumeClaim {namespace}/{name}"))
}

/// Deletes an object of a kind that the cluster may lack.
pub async fn delete_dynamic(client: &Client, kind: &ApiResource, namespace: &str, name: &str) -> Result<(), CallError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, kind);
    let deleted = api.delete(name, &DeleteParams::default()).await;
    gone_is_done(deleted, || format!("delete {} {namespace}/{name}", kind.kind))
}

/// Takes the rights of a run away.
pub async fn delete_role_binding(client: &Client, namespace: &str, name: &str) -> Result<(), CallError> {
    let api: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
    let deleted = api.delete(name, &DeleteParams::default()).await;
    gone_is_done(deleted, || format!("delete RoleBinding {namespace}/{name}"))
}

fn gone_is_done<T>(result: Result<T, kube::Error>, doing: impl FnOnce() -> String) -> Result<(), CallError> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if code(&error) == Some(404) => Ok(()),
        Err(error) => Err(CallError::at(doing())(error)),
    }
}

/// Writes the status of an object, as a whole. One that is gone, or was made anew under its name, is left alone.
pub async fn status<K, S>(client: &Client, object: &K, status: &S) -> Result<(), CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    S: Serialize,
{
    let name = object.name_any();
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": name, "uid": object.uid() },
        "status": status,
    });
    let patched = api.patch_status(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&patch)).await;
    match patched {
        // With `force` no field is in conflict: it is the UID.
        Err(error) if code(&error) == Some(409) => Ok(()),
        patched => gone_is_done(patched, || format!("write the status of {} {namespace}/{name}", K::kind(&()))),
    }
}

/// Makes a Secret with a random password unless there is one of that name, which is never read nor changed. Nobody owns
/// it: it must outlive whatever it was made for. Returns whether it was made.
pub async fn create_password(
    client: &Client,
    namespace: &str,
    name: &str,
    key: &str,
    explanation: &str,
) -> Result<bool, CallError> {
    let password: String = rand::rng().sample_iter(Alphanumeric).take(PASSWORD_LENGTH).map(char::from).collect();
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), FIELD_MANAGER.to_owned())])),
            annotations: Some(BTreeMap::from([("stowaway.dev/explanation".to_owned(), explanation.to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(key.to_owned(), ByteString(password.into_bytes()))])),
        ..Secret::default()
    };
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    match api.create(&parameters, &secret).await {
        Ok(_) => Ok(true),
        Err(error) if code(&error) == Some(409) => Ok(false),
        Err(error) => Err(CallError::at(format!("create Secret {namespace}/{name}"))(error)),
    }
}
