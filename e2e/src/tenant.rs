//! Somebody with few rights in one namespace, and what the API server says to him.
//!
//! It must not know what he tries.

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
    /// A new one, with these rights.
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

    /// Gives him more.
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

    /// Objects of one kind in his namespace, as he sees them.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + DeserializeOwned,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace.name)
    }

    /// What he tries is refused by that policy.
    pub async fn is_denied<T>(&self, policy: &str, attack: impl AsyncFn() -> kube::Result<T>) -> Result<()> {
        match self.answer(&attack).await? {
            Ok(_) => bail!("{policy} let it pass"),
            Err(message) if message.contains(&format!("ValidatingAdmissionPolicy '{policy}'")) => Ok(()),
            Err(message) => bail!("not refused by {policy}, but: {message}"),
        }
    }

    /// What he tries is done.
    pub async fn is_allowed<T>(&self, act: impl AsyncFn() -> kube::Result<T>) -> Result<T> {
        self.answer(&act).await?.or_else(|message| bail!("refused: {message}"))
    }

    /// What comes of it, once his rights have come into force.
    async fn answer<T>(&self, act: &impl AsyncFn() -> kube::Result<T>) -> Result<Result<T, String>> {
        let what = format!("the rights of {} are in force", self.name);
        self.namespace
            .wait_until(&what, async || match act().await {
                Ok(done) => Ok(Some(Ok(done))),
                // Said by the authorizer, which hears of new rights a moment later.
                Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains(" cannot ") => Ok(None),
                Err(kube::Error::Api(status)) => Ok(Some(Err(status.message.clone()))),
                Err(error) => Err(error.into()),
            })
            .await
    }
}

/// Binds a `ServiceAccount` of the namespace to a role: kind and name.
pub async fn bind(namespace: &Namespace, name: &str, role: (&str, &str), account: &str) -> Result<()> {
    namespace
        .apply_object(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": role.0, "name": role.1 },
            "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": namespace.name }],
        }))
        .await
}
