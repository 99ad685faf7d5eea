//! A fake API server: objects by path, lists by labels, conflicts of names, patches, and calls which are refused or never
//! answered.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::Notify;

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, Value>,
    version: u64,
    /// Method and path of all calls which change something.
    changes: Vec<String>,
    /// Calls which are never answered, and a notification of their arrival.
    held: BTreeMap<String, Arc<Notify>>,
    /// Calls which are answered with this status code.
    refused: BTreeMap<String, u16>,
}

/// The server. Clones share their state.
#[derive(Clone, Default)]
pub struct Api(Arc<Mutex<Inner>>);

/// The parsed path of an object or list.
struct ResourcePath<'a> {
    group: &'a str,
    namespace: Option<&'a str>,
    plural: &'a str,
    name: Option<&'a str>,
    part: Option<&'a str>,
}

fn resource_path(path: &str) -> ResourcePath<'_> {
    let depth = if path.starts_with("/apis/") { 4 } else { 3 };
    let end = path.match_indices('/').nth(depth - 1).map_or(path.len(), |(index, _)| index);
    let (group, rest) = path.split_at(end);
    let rest: Vec<&str> = rest.trim_matches('/').split('/').collect();
    match rest.as_slice() {
        ["namespaces", namespace, plural, rest @ ..] => ResourcePath {
            group,
            namespace: Some(namespace),
            plural,
            name: rest.first().copied(),
            part: rest.get(1).copied(),
        },
        [plural, rest @ ..] => {
            ResourcePath { group, namespace: None, plural, name: rest.first().copied(), part: rest.get(1).copied() }
        }
        [] => ResourcePath { group, namespace: None, plural: "", name: None, part: None },
    }
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
        "message": format!("answer {code} of the test"),
    });
    (code, status)
}

/// Matches the selectors which the controller uses: `a=b`, `a in (b,c)`, `a`, `!a`.
fn has_labels(object: &Value, selector: &str) -> bool {
    let label = |key: &str| object["metadata"]["labels"].get(key.trim()).and_then(Value::as_str);
    let mut rest = selector;
    while !rest.is_empty() {
        let end = rest.find(") ,").or_else(|| rest.find("),")).map(|index| index + 1);
        let end = end.filter(|end| rest[..*end].contains(" in (")).or_else(|| {
            if rest.split(',').next().is_some_and(|first| first.contains(" in (")) {
                Some(rest.len())
            } else {
                rest.find(',')
            }
        });
        let (term, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after.trim_start_matches(',');
        let holds = if let Some((key, values)) = term.split_once(" in (") {
            label(key).is_some_and(|value| values.trim_end_matches(')').split(',').any(|one| one.trim() == value))
        } else if let Some((key, value)) = term.split_once('=') {
            label(key) == Some(value)
        } else if let Some(key) = term.strip_prefix('!') {
            label(key).is_none()
        } else {
            label(term).is_some()
        };
        if !holds {
            return false;
        }
    }
    true
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&digits, 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}

impl Inner {
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.insert("resourceVersion".into(), json!(self.version.to_string()));
        metadata.entry("uid").or_insert(json!(format!("0{}-of-{}", self.version, path.rsplit('/').next().unwrap())));
        metadata.entry("creationTimestamp").or_insert(json!(format!("{:.0}", jiff::Timestamp::now())));
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    fn answer(&mut self, method: &Method, path: &str, query: &str, sent: &Value) -> (u16, Value) {
        let at = resource_path(path);
        if method != Method::GET {
            self.changes.push(format!("{method} {path}"));
        }
        if method == Method::POST {
            let name = sent["metadata"]["name"].as_str().unwrap_or("unnamed");
            let path = format!("{path}/{name}");
            if self.objects.contains_key(&path) {
                return failure(409, "AlreadyExists");
            }
            return (201, self.store(&path, sent.clone()));
        }
        let Some(name) = at.name else { return (200, self.list(&at, query)) };
        let object = path.strip_suffix(at.part.unwrap_or_default()).unwrap_or(path).trim_end_matches('/').to_owned();
        debug_assert!(object.ends_with(name));
        let Some(present) = self.objects.get(&object).cloned() else { return failure(404, "NotFound") };
        if method == Method::GET {
            return (200, present);
        }
        if method == Method::DELETE {
            self.objects.remove(&object);
            return (200, present);
        }
        for key in ["uid", "resourceVersion"] {
            let wanted = &sent["metadata"][key];
            if !wanted.is_null() && wanted != &present["metadata"][key] {
                return failure(409, "Conflict");
            }
        }
        let mut changed = present;
        if at.part == Some("status") {
            changed["status"] = sent["status"].clone();
        } else {
            json_patch::merge(&mut changed, sent);
        }
        (200, self.store(&object, changed))
    }

    fn list(&self, at: &ResourcePath<'_>, query: &str) -> Value {
        let parameter = |key: &str| {
            let found = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == key);
            found.map(|(_, value)| decoded(value)).unwrap_or_default()
        };
        let (labels, fields) = (parameter("labelSelector"), parameter("fieldSelector"));
        let items = self.objects.iter().filter(|(path, object)| {
            let one = resource_path(path);
            let is_meant = one.group == at.group
                && one.plural == at.plural
                && (at.namespace.is_none() || one.namespace == at.namespace);
            let is_named = fields.strip_prefix("metadata.name=").is_none_or(|name| one.name == Some(name));
            is_meant && is_named && has_labels(object, &labels)
        });
        let items: Vec<&Value> = items.map(|(_, object)| object).collect();
        json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": "1" }, "items": items })
    }
}

impl Api {
    pub fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move {
                let (parts, body) = request.into_parts();
                let sent = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                let sent = serde_json::from_slice(&sent).unwrap_or_default();
                let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
                let held = api.lock().held.get(&format!("{} {path}", parts.method)).cloned();
                if let Some(come) = held {
                    come.notify_one();
                    std::future::pending::<()>().await;
                }
                let refused = api.lock().refused.get(&format!("{} {path}", parts.method)).copied();
                let (status, answer) = match refused {
                    Some(code) => failure(code, "Refused"),
                    None => api.lock().answer(&parts.method, path, query, &sent),
                };
                let answer = Response::builder().status(status).body(axum::body::Body::from(answer.to_string()));
                Ok::<_, Infallible>(answer.unwrap())
            }
        });
        Client::new(service, "stowaway-system")
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Stores an object.
    pub fn put(&self, path: &str, object: Value) {
        self.lock().store(path, object);
    }

    /// The object at this path.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.lock().objects.get(path).cloned()
    }

    /// All objects whose path starts with `path`.
    pub fn below(&self, path: &str) -> Vec<Value> {
        self.lock()
            .objects
            .range(path.to_owned()..)
            .take_while(|(at, _)| at.starts_with(path))
            .map(|(_, o)| o.clone())
            .collect()
    }

    /// Removes all objects whose path starts with `path`.
    pub fn remove(&self, path: &str) {
        self.lock().objects.retain(|at, _| !at.starts_with(path));
    }

    /// The calls so far which changed something.
    pub fn changes(&self) -> Vec<String> {
        self.lock().changes.clone()
    }

    /// Answers this call with a failure of this status code.
    pub fn refuse(&self, call: &str, code: u16) {
        self.lock().refused.insert(call.to_owned(), code);
    }

    /// Carries out this call again.
    pub fn admit(&self, call: &str) {
        self.lock().refused.remove(call);
    }

    /// Never answers this call. The returned `Notify` is notified when the call arrives.
    pub fn hold(&self, call: &str) -> Arc<Notify> {
        self.lock().held.entry(call.to_owned()).or_default().clone()
    }
}
