//! A user with few rights in one namespace, and checks of whether the API server admits the requests of that user.

use anyhow::{Result, bail};
use k8s_openapi::serde::de::DeserializeOwned;
use kube::{Api, Client, Resource, core::NamespaceResourceScope};
use serde_json::{Value, json};

use crate::Namespace;

/// A right: API group, resources, verbs.
pub type Right<'a> = (&'a str, &'a [&'a str], &'a [&'a str]);

/// A user who is a `ServiceAccount` of the namespace.
pub struct Tenant<'a> {
    namespace: &'a Namespace,
    name: String,
    client: Client,
}

impl<'a> Tenant<'a> {
    /// Creates a tenant with these rights.
    pub async fn new(namespace: &'a Namespace, name: &str, rights: &[Right<'_>]) -> Result<Self> {
        namespace
            .apply_object(json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } }))
            .await?;
        let user = format!("system:serviceaccount:{}:{name}", namespace.name);
        let client = namespace.cluster.impersonate(&user).await?;
        let tenant = Self { namespace, name: name.to_owned(), client };
        tenant.grant("own", rights).await?;
        Ok(tenant)
    }

    /// Grants more rights, as a Role whose name ends with `role`.
    pub async fn grant(&self, role: &str, rights: &[Right<'_>]) -> Result<()> {
        let name = format!("{}-{role}", self.name);
        let rules: Vec<Value> = rights
            .iter()
            .map(|(group, resources, verbs)| json!({ "apiGroups": [group], "resources": resources, "verbs": verbs }))
            .collect();
        let version = "rbac.authorization.k8s.io/v1";
        self.namespace
            .apply_object(
                json!({ "apiVersion": version, "kind": "Role", "metadata": { "name": name }, "rules": rules }),
            )
            .await?;
        bind(self.namespace, &name, ("Role", &name), &self.name).await
    }

    /// The API for objects of one kind in the tenant's namespace, with the rights of the tenant.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + DeserializeOwned,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace.name)
    }

    /// Checks that the request is denied by that policy.
    pub async fn is_denied<T>(&self, policy: &str, request: impl AsyncFn() -> kube::Result<T>) -> Result<()> {
        match self.response(&request).await? {
            Ok(_) => bail!("{policy} admitted the request"),
            Err(message) if message.contains(&format!("ValidatingAdmissionPolicy '{policy}'")) => Ok(()),
            Err(message) => bail!("not denied by {policy}, but: {message}"),
        }
    }

    /// Checks that the request succeeds, and returns its result.
    pub async fn is_allowed<T>(&self, request: impl AsyncFn() -> kube::Result<T>) -> Result<T> {
        self.response(&request).await?.or_else(|message| bail!("denied: {message}"))
    }

    /// Returns the result of the request, once the rights of the tenant are in force.
    async fn response<T>(&self, request: &impl AsyncFn() -> kube::Result<T>) -> Result<Result<T, String>> {
        let what = format!("the rights of {} are in force", self.name);
        self.namespace
            .wait_until(&what, async || match request().await {
                Ok(result) => Ok(Some(Ok(result))),
                // The message of the authorizer, which sees new rights with a delay.
                Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains(" cannot ") => Ok(None),
                Err(kube::Error::Api(status)) => Ok(Some(Err(status.message.clone()))),
                Err(error) => Err(error.into()),
            })
            .await
    }
}

/// Binds a `ServiceAccount` of the namespace to a role, given as kind and name.
pub async fn bind(namespace: &Namespace, name: &str, role: (&str, &str), account: &str) -> Result<()> {
    namespace
        .apply_object(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": role.0, "name": role.1 },
            "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": namespace.name }],
        }))
        .await
}
