//! One object that several replicas write: made by its name, and changed only if nobody has changed it meanwhile.
//!
//! It must not know what the object is for.

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

/// Makes the object, empty, unless it is there; one that is there stays as it is.
///
/// It is made by a server-side apply, since that names the object: a right to `create` can be given for this one name,
/// which a plain create does not know (`handlers/patch.go` of the API server puts the name into what it asks RBAC). What
/// [`replace`] wrote belongs to another entry of the object's field managers, so that an apply of nothing takes nothing
/// away.
pub async fn ensure<K>(client: &Client, namespace: &str, name: &str) -> Result<K, CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let object = json!({ "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": { "name": name, "namespace": namespace } });
    let made = api.patch(name, &PatchParams::apply(FIELD_MANAGER), &Patch::Apply(&object)).await;
    made.map_err(CallError::at(format!("make {} {namespace}/{name}", K::kind(&()))))
}

/// Writes the object as a whole, if it is still as it was when it was read; whether it was.
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
        // Changed, or gone and perhaps made anew.
        Err(error) if matches!(code(&error), Some(404 | 409)) => Ok(false),
        Err(error) => Err(CallError::at(format!("write {} {namespace}/{name}", K::kind(&())))(error)),
    }
}
