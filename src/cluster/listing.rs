//! Lists whose items are parsed one by one. An item which cannot be parsed is left out and reported, so that it does
//! not hide the other items.
//!
//! Such an item may have been written by a newer version, or by a user who may write a status and has put a value there
//! which Stowaway's types cannot hold. Its content is never shown, because its fields may hold passwords.

use std::{
    collections::BTreeSet,
    fmt,
    marker::PhantomData,
    sync::{Mutex, PoisonError},
};

use kube::{
    Client, Resource,
    api::ListParams,
    core::{Request, request::Error as RequestError},
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, SeqAccess, Visitor},
};
use serde_json::Value;

use super::call::{self, without_values};

/// The number of versions of unreadable objects that are remembered, so that each version is logged once.
const MAX_REPORTED: usize = 1024;

/// An object which cannot be parsed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unreadable {
    /// Its namespace; empty for a cluster-scoped object.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// UID and `resourceVersion`.
    version: String,
    /// Why the object cannot be parsed, without its content.
    pub why: String,
}

/// The response to a list.
#[derive(Deserialize)]
#[serde(bound = "K: DeserializeOwned")]
struct Listed<K> {
    #[serde(default, deserialize_with = "one_by_one")]
    items: Vec<Result<K, Unreadable>>,
}

fn one_by_one<'de, D, K>(deserializer: D) -> Result<Vec<Result<K, Unreadable>>, D::Error>
where
    D: Deserializer<'de>,
    K: DeserializeOwned,
{
    struct Items<K>(PhantomData<K>);

    impl<'de, K: DeserializeOwned> Visitor<'de> for Items<K> {
        type Value = Vec<Result<K, Unreadable>>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list of objects")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut found = Vec::new();
            while let Some(item) = items.next_element::<Value>()? {
                found.push(read(item));
            }
            Ok(found)
        }
    }

    deserializer.deserialize_any(Items(PhantomData))
}

fn read<K: DeserializeOwned>(item: Value) -> Result<K, Unreadable> {
    let text = |field: &str| item.pointer(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let version = format!("{}@{}", text("/metadata/uid"), text("/metadata/resourceVersion"));
    serde_json::from_value(item).map_err(|error| Unreadable { namespace, name, version, why: without_values(&error) })
}

/// All objects at this path which can be parsed, and those which cannot.
pub(super) async fn list<K>(
    client: &Client,
    path: &str,
    parameters: &ListParams,
) -> kube::Result<(Vec<K>, Vec<Unreadable>)>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let (items, unreadable) = request(client, path, parameters).await?;
    report(&K::kind(&()), &unreadable);
    Ok((items, unreadable))
}

async fn request<K: DeserializeOwned>(
    client: &Client,
    path: &str,
    parameters: &ListParams,
) -> kube::Result<(Vec<K>, Vec<Unreadable>)> {
    let mut request = Request::new(path).list(parameters).map_err(built)?;
    request.extensions_mut().insert("list");
    let Listed { items } = call::within_longer(client.request::<Listed<K>>(request)).await?;
    let (mut readable, mut unreadable) = (Vec::with_capacity(items.len()), Vec::new());
    for item in items {
        match item {
            Ok(item) => readable.push(item),
            Err(one) => unreadable.push(one),
        }
    }
    Ok((readable, unreadable))
}

/// The object of this name; `None` if it does not exist.
pub(super) async fn object<K: DeserializeOwned>(client: &Client, path: &str, name: &str) -> kube::Result<Option<K>> {
    let mut request = Request::new(path).get(name, &kube::api::GetParams::default()).map_err(built)?;
    request.extensions_mut().insert("get");
    match call::within(client.request::<Value>(request)).await {
        Ok(object) => serde_json::from_value(object).map(Some).map_err(kube::Error::SerdeError),
        Err(error) if call::code(&error) == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

fn built(error: RequestError) -> kube::Error {
    kube::Error::BuildRequest(error)
}

/// Logs each version of an unreadable object once.
fn report(kind: &str, unreadable: &[Unreadable]) {
    static REPORTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    for Unreadable { namespace, name, version, why } in unreadable {
        let mut reported = REPORTED.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.len() >= MAX_REPORTED {
            reported.clear();
        }
        if reported.insert(version.clone()) {
            tracing::warn!(kind, namespace, name, "{kind} {namespace}/{name} cannot be parsed and is ignored: {why}");
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::json;

    use super::*;
    use crate::api::{Repository, Restore};

    fn listed<K: DeserializeOwned>(items: &Value) -> (Vec<K>, Vec<Unreadable>) {
        let Listed { items } = serde_json::from_value(json!({ "kind": "List", "items": items })).unwrap();
        let (good, bad): (Vec<_>, Vec<_>) = items.into_iter().partition(Result::is_ok);
        (good.into_iter().flatten().collect(), bad.into_iter().filter_map(Result::err).collect())
    }

    fn repository(name: &str, attempt: i32) -> Value {
        json!({
            "apiVersion": "stowaway.dev/v1alpha1", "kind": "Repository",
            "metadata": { "name": name, "namespace": "orchard" },
            "spec": { "rest": { "url": "https://cellar" }, "passwordSecretRef": { "name": "key" } },
            "status": { "attempt": attempt },
        })
    }

    #[test]
    fn one_object_that_cannot_be_read_hides_no_other_one() {
        let (good, bad) = listed::<Repository>(&json!([repository("a", 1), repository("b", -1), repository("c", 2)]));
        assert_eq!(good.iter().map(|one| one.metadata.name.as_deref()).collect::<Vec<_>>(), [Some("a"), Some("c")]);
        assert!(matches!(&bad[..], [one] if one.name == "b" && one.namespace == "orchard"), "{bad:?}");
        let (good, bad) = listed::<PersistentVolumeClaim>(&json!([{ "metadata": { "name": 7 } }, { "metadata": {} }]));
        assert_eq!((good.len(), bad.len()), (1, 1));
        assert_eq!(listed::<Repository>(&Value::Null).0.len(), 0);
    }

    #[test]
    fn content_of_an_object_that_cannot_be_read_is_not_shown() {
        let restore = json!([{
            "metadata": { "name": "undo", "namespace": "orchard" },
            "spec": { "from": { "source": "a/b", "asOf": "hunter2" }, "to": { "command": "psql -p hunter2" } },
        }]);
        let (good, bad) = listed::<Restore>(&restore);
        assert!(good.is_empty() && !format!("{bad:?}").contains("hunter2"), "{bad:?}");
    }
}
