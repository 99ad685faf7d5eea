//! A single object which several replicas write. It is created by name, and a write fails if another client has changed
//! the object since it was read.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    apply::FIELD_MANAGER,
    call::{CallError, code},
};

/// Creates the object without content. An existing object stays unchanged.
///
/// The object is created by a server-side apply, because its request names the object: RBAC can grant `create` for this
/// name only, and a plain create has no name to check (`handlers/patch.go` of the API server passes the name to the
/// authorizer). A field which [`replace`] has written belongs to another entry of the object's managed fields, so that
/// this empty apply does not remove it.
pub async fn ensure<K>(client: &Client, namespace: &str, name: &str) -> Result<K, CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let object = json!({ "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": { "name": name, "namespace": namespace } });
    let made = api.patch(name, &PatchParams::apply(FIELD_MANAGER), &Patch::Apply(&object)).await;
    made.map_err(CallError::at(format!("create {} {namespace}/{name}", K::kind(&()))))
}

/// Replaces the object if it is unchanged since it was read. Returns whether it was unchanged.
pub async fn replace<K>(client: &Client, object: &K) -> Result<bool, CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
{
    let name = object.name_any();
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    match api.replace(&name, &parameters, object).await {
        Ok(_) => Ok(true),
        // Another client changed, deleted or recreated the object.
        Err(error) if matches!(code(&error), Some(404 | 409)) => Ok(false),
        Err(error) => Err(CallError::at(format!("write {} {namespace}/{name}", K::kind(&())))(error)),
    }
}
