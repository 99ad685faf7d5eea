//! Writes to the cluster: creates, patches and deletes objects. Each of these calls is idempotent, so that a caller can
//! repeat it.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use k8s_openapi::{
    ByteString, NamespaceResourceScope,
    api::{
        batch::v1::Job,
        core::v1::{PersistentVolumeClaim, Secret},
        rbac::v1::RoleBinding,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy},
    core::{ApiResource, DynamicObject},
};
use rand::{RngExt, distr::Alphanumeric};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    call::{self, CallError, code},
    observe,
};

/// The field manager of Stowaway's writes.
pub const FIELD_MANAGER: &str = "stowaway";
/// The length of a generated repository password: 62^32 is more than 2^190.
const PASSWORD_LENGTH: usize = 32;

/// The result of creating an object.
#[derive(Clone, Debug)]
pub enum Created<K> {
    /// This call created the object, which is returned as the API server stored it.
    Made(K),
    /// An object of this name exists already. Either an earlier call or another client created it, which only its
    /// content shows.
    Present(K),
}

/// Creates the object. An existing object of the same name is returned unchanged.
pub async fn create<K>(client: &Client, object: &K) -> Result<Created<K>, CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
{
    let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    created(&api, &K::kind(&()), object).await
}

/// Does the same as [`create`] for a kind which the cluster may lack.
pub async fn create_dynamic(
    client: &Client,
    kind: &ApiResource,
    object: &DynamicObject,
) -> Result<Created<DynamicObject>, CallError> {
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, kind);
    created(&api, &kind.kind, object).await
}

async fn created<K>(api: &Api<K>, kind: &str, object: &K) -> Result<Created<K>, CallError>
where
    K: Resource + Clone + Debug + DeserializeOwned + Serialize,
{
    let name = object.name_any();
    let what = format!("{kind} {}/{name}", object.namespace().unwrap_or_default());
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    match call::admitted(api.create(&parameters, object)).await {
        Ok(made) => Ok(Created::Made(made)),
        Err(error) if code(&error) == Some(409) => {
            let present = call::within(api.get(&name)).await;
            present.map(Created::Present).map_err(CallError::at(format!("read {what}, whose name is taken")))
        }
        Err(error) => Err(CallError::at(format!("create {what}"))(error)),
    }
}

/// Creates a claim and returns true. Returns false if a claim of this name exists, which is left unchanged.
pub async fn create_claim(client: &Client, claim: &PersistentVolumeClaim) -> Result<bool, CallError> {
    let (name, namespace) = (claim.name_any(), claim.namespace().unwrap_or_default());
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    match call::admitted(api.create(&parameters, claim)).await {
        Err(error) if code(&error) == Some(409) => Ok(false),
        created => {
            created.map(|_| true).map_err(CallError::at(format!("create PersistentVolumeClaim {namespace}/{name}")))
        }
    }
}

/// Adds a finalizer to an object, or removes it, and sets the given annotation in the same write. Finalizers of other
/// clients are kept. An object which no longer exists is not an error.
pub async fn finalizer<K>(
    client: &Client,
    object: &K,
    finalizer: &str,
    (wanted, annotation): (bool, Option<(&str, &str)>),
) -> Result<(), CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let mut finalizers = object.finalizers().to_vec();
    finalizers.retain(|present| present != finalizer);
    if wanted {
        finalizers.push(finalizer.to_owned());
    }
    if finalizers == object.finalizers() && annotation.is_none() {
        return Ok(());
    }
    // The `resourceVersion` makes the API server reject the write if the object was changed in between. This is needed
    // because a patch replaces the list of finalizers as a whole, and because the annotation's value was computed from
    // this version.
    let annotations: BTreeMap<&str, &str> = annotation.into_iter().collect();
    let metadata = json!({
        "resourceVersion": object.resource_version(),
        "finalizers": finalizers,
        "annotations": annotations,
    });
    patch_metadata(client, object, metadata, "change the finalizers of").await
}

/// Sets an annotation of an object. The UID in the patch prevents a write to a later object of the same name.
pub async fn annotation<K>(client: &Client, object: &K, (key, value): (&str, &str)) -> Result<(), CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let metadata = json!({ "uid": object.uid(), "annotations": { key: value } });
    patch_metadata(client, object, metadata, "annotate").await
}

/// Removes an annotation of an object. The UID in the patch prevents a write to a later object of the same name.
pub async fn remove_annotation<K>(client: &Client, object: &K, key: &str) -> Result<(), CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let metadata = json!({ "uid": object.uid(), "annotations": { key: null } });
    patch_metadata(client, object, metadata, "remove an annotation of").await
}

async fn patch_metadata<K>(
    client: &Client,
    object: &K,
    metadata: serde_json::Value,
    doing: &str,
) -> Result<(), CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    let patched = call::admitted(api.patch_metadata(&name, &parameters, &patch)).await;
    gone_is_done(patched, || format!("{doing} {} {namespace}/{name}", K::kind(&())))
}

/// Starts a suspended Job.
pub async fn start_job(client: &Client, namespace: &str, name: &str) -> Result<(), CallError> {
    patch_job(client, namespace, name, &json!({ "spec": { "suspend": false } })).await
}

/// Ends a Job early: Kubernetes ends its pod, and the failed Job remains, so that users can inspect it.
pub async fn end_job(client: &Client, namespace: &str, name: &str) -> Result<(), CallError> {
    patch_job(client, namespace, name, &json!({ "spec": { "activeDeadlineSeconds": 1 } })).await
}

/// Sets how long after the Job's end Kubernetes deletes the Job and its pods.
pub async fn expire_job(client: &Client, namespace: &str, name: &str, after: Duration) -> Result<(), CallError> {
    let patch = json!({ "spec": { "ttlSecondsAfterFinished": after.as_secs() } });
    patch_job(client, namespace, name, &patch).await
}

async fn patch_job(client: &Client, namespace: &str, name: &str, patch: &serde_json::Value) -> Result<(), CallError> {
    let api: Api<Job> = Api::namespaced(client.clone(), namespace);
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let patched = call::admitted(api.patch(name, &parameters, &Patch::Merge(patch))).await;
    gone_is_done(patched, || format!("change Job {namespace}/{name}"))
}

/// Deletes the Job with this UID, and its pods.
pub async fn delete_job(client: &Client, job: &Job) -> Result<(), CallError> {
    let (name, namespace) = (job.name_any(), job.namespace().unwrap_or_default());
    let api: Api<Job> = Api::namespaced(client.clone(), &namespace);
    let parameters =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..only(job.metadata.uid.clone()) };
    gone_is_done(call::admitted(api.delete(&name, &parameters)).await, || format!("delete Job {namespace}/{name}"))
}

/// Deletes the claim with this UID. The claim exists until no pod mounts it.
pub async fn delete_claim(client: &Client, claim: &ObjectMeta) -> Result<(), CallError> {
    let (name, namespace) = named(claim);
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let deleted = call::admitted(api.delete(name, &only(claim.uid.clone()))).await;
    gone_is_done(deleted, || format!("delete PersistentVolumeClaim {namespace}/{name}"))
}

/// Deletes the object with this UID, whose kind the cluster may lack.
pub async fn delete_dynamic(client: &Client, kind: &ApiResource, object: &ObjectMeta) -> Result<(), CallError> {
    let (name, namespace) = named(object);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, kind);
    let deleted = call::admitted(api.delete(name, &only(object.uid.clone()))).await;
    gone_is_done(deleted, || format!("delete {} {namespace}/{name}", kind.kind))
}

/// Deletes the `RoleBinding` of this name if `is_meant` accepts it. Another `RoleBinding` of the same name is left
/// unchanged.
pub async fn delete_role_binding(
    client: &Client,
    namespace: &str,
    name: &str,
    is_meant: impl FnOnce(&RoleBinding) -> bool,
) -> Result<(), CallError> {
    let Some(binding) = observe::object::<RoleBinding>(client, namespace, name).await? else { return Ok(()) };
    if !is_meant(&binding) {
        tracing::warn!(namespace, name, "RoleBinding {namespace}/{name} is not Stowaway's, and is left alone");
        return Ok(());
    }
    let api: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
    let deleted = call::admitted(api.delete(name, &only(binding.metadata.uid))).await;
    gone_is_done(deleted, || format!("delete RoleBinding {namespace}/{name}"))
}

/// Restricts a deletion to the object of this UID, so that a later object of the same name is not deleted.
fn only(uid: Option<String>) -> DeleteParams {
    let preconditions = Some(Preconditions { uid, resource_version: None });
    DeleteParams { preconditions, ..DeleteParams::default() }
}

fn named(metadata: &ObjectMeta) -> (&str, &str) {
    (metadata.name.as_deref().unwrap_or_default(), metadata.namespace.as_deref().unwrap_or_default())
}

fn gone_is_done<T>(result: Result<T, kube::Error>, doing: impl FnOnce() -> String) -> Result<(), CallError> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if code(&error) == Some(404) => Ok(()),
        Err(error) => Err(CallError::at(doing())(error)),
    }
}

/// Replaces the status of an object. An object which was deleted, or recreated under the same name, is left unchanged
/// without an error.
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
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let patched = call::admitted(api.patch_status(&name, &parameters, &Patch::Apply(&patch))).await;
    match patched {
        // `force` rules out conflicts over fields, so that this conflict is about the UID.
        Err(error) if code(&error) == Some(409) => Ok(()),
        patched => gone_is_done(patched, || format!("write the status of {} {namespace}/{name}", K::kind(&()))),
    }
}

/// Creates a Secret with a random password and returns true. An existing Secret of this name is neither read nor
/// changed, and the function returns false. The Secret has no owner reference, because it must outlive the object it
/// was created for.
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
    match call::admitted(api.create(&parameters, &secret)).await {
        Ok(_) => Ok(true),
        Err(error) if code(&error) == Some(409) => Ok(false),
        Err(error) => Err(CallError::at(format!("create Secret {namespace}/{name}"))(error)),
    }
}
