//! A minimal API server: objects by path, versions, conflicts, server-side apply as the webhook uses it, watches, and
//! failures on demand.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Either, Full, StreamBody};
use hyper::body::Frame;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::sync::watch;

type Answer = Response<Either<Full<Bytes>, StreamBody<stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>>>>;

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, Value>,
    version: u64,
    /// The number of more calls that fail.
    failing: u32,
    /// Suffix of a path. Another client writes the object with this path before the next write of it.
    rival: Option<String>,
}

/// The server. Clones share its state.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<watch::Sender<u64>>,
}

impl Api {
    pub fn new() -> Self {
        Self { inner: Arc::default(), changed: Arc::new(watch::Sender::new(0)) }
    }

    /// A client of the webhook, which may not write webhook configurations.
    pub fn client(&self) -> Client {
        self.client_that(|method, path| *method == Method::GET || !path.contains("webhookconfigurations"))
    }

    /// A client of the writer, which may write nothing but webhook configurations.
    pub fn writer(&self) -> Client {
        self.client_that(|method, path| *method == Method::GET || path.contains("webhookconfigurations"))
    }

    fn client_that(&self, may: fn(&Method, &str) -> bool) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (parts, body) = request.into_parts();
                if !may(&parts.method, parts.uri.path()) {
                    return Ok(failure(StatusCode::FORBIDDEN, "the client has no right to do that"));
                }
                let body = body.collect_bytes().await.unwrap_or_default();
                Ok::<_, Infallible>(api.answer(&parts.method, parts.uri.path(), parts.uri.query().unwrap_or(""), &body))
            }
        });
        Client::new(service, "default")
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// The object whose path has this suffix.
    pub fn get(&self, name: &str) -> Option<Value> {
        let inner = self.lock();
        inner.objects.iter().find(|(path, _)| path.ends_with(name)).map(|(_, object)| object.clone())
    }

    /// Writes an object as another client would.
    pub fn put(&self, path: &str, object: Value) {
        self.store(&mut self.lock(), path, object);
    }

    /// Changes an object as another client would.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut inner = self.lock();
        let (path, mut object) =
            inner.objects.iter().find(|(path, _)| path.ends_with(name)).map(|(p, o)| (p.clone(), o.clone())).unwrap();
        change(&mut object);
        self.store(&mut inner, &path, object);
    }

    /// Deletes an object.
    pub fn delete(&self, name: &str) {
        let mut inner = self.lock();
        inner.objects.retain(|path, _| !path.ends_with(name));
        inner.version += 1;
        self.changed.send_replace(inner.version);
    }

    /// Lets this many calls fail from now on.
    pub fn fail(&self, calls: u32) {
        self.lock().failing = calls;
    }

    /// Lets another client write this object before its next write.
    pub fn rival(&self, name: &str) {
        self.lock().rival = Some(name.to_owned());
    }

    /// Whether the other client has written.
    pub fn rival_has_written(&self) -> bool {
        self.lock().rival.is_none()
    }

    /// Notifies of every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn store(&self, inner: &mut Inner, path: &str, mut object: Value) -> Value {
        inner.version += 1;
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = json!(inner.version.to_string());
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("uid-{}", inner.version));
        }
        inner.objects.insert(path.to_owned(), object.clone());
        self.changed.send_replace(inner.version);
        object
    }

    fn answer(&self, method: &Method, path: &str, query: &str, body: &Bytes) -> Answer {
        let mut inner = self.lock();
        if inner.failing > 0 {
            inner.failing -= 1;
            return failure(StatusCode::INTERNAL_SERVER_ERROR, "a failure on demand");
        }
        let one = query.split('&').find_map(|pair| pair.strip_prefix("fieldSelector=metadata.name%3D"));
        if let Some(name) = one {
            let path = format!("{path}/{name}");
            let is_watch = query.contains("watch=");
            return if is_watch { self.watch(path) } else { list(&inner, &path) };
        }
        let found = inner.objects.get(path).cloned();
        if *method == Method::GET {
            return found.map_or_else(|| failure(StatusCode::NOT_FOUND, "not there"), |object| success(&object));
        }
        let mut found = found;
        if let (Some(object), true) = (&found, inner.rival.as_ref().is_some_and(|name| path.ends_with(name.as_str()))) {
            found = Some(self.store(&mut inner, path, object.clone()));
            inner.rival = None;
        }
        let sent: Value = serde_json::from_slice(body).unwrap();
        let differs = |field: &str| {
            let (sent, found) = (&sent["metadata"][field], found.as_ref().map(|object| &object["metadata"][field]));
            !sent.is_null() && found != Some(sent)
        };
        if differs("resourceVersion") || differs("uid") {
            return failure(StatusCode::CONFLICT, "it was changed");
        }
        let object = match (method, found) {
            (&Method::PUT, None) => return failure(StatusCode::NOT_FOUND, "not there"),
            (&Method::PUT, Some(_)) | (_, None) => sent,
            (_, Some(found)) => match applied(found.clone(), &sent) {
                // A write without a change makes no new version.
                Some(object) if object == found => return success(&object),
                Some(object) => object,
                None => return failure(StatusCode::UNPROCESSABLE_ENTITY, "an entry lacks what it needs"),
            },
        };
        success(&self.store(&mut inner, path, object))
    }

    /// Events of one object from now on; they contain only its metadata.
    fn watch(&self, path: String) -> Answer {
        let (api, changes) = (self.clone(), self.changes());
        let events =
            stream::unfold((api, changes, path, None::<String>), |(api, mut changes, path, known)| async move {
                loop {
                    changes.changed().await.ok()?;
                    let object = api.lock().objects.get(&path).cloned();
                    let version = object.as_ref().map(|object| object["metadata"]["resourceVersion"].to_string());
                    if version == known {
                        continue;
                    }
                    let kind = if object.is_some() { "MODIFIED" } else { "DELETED" };
                    let metadata = object.map_or_else(
                        || json!({ "name": path.rsplit('/').next(), "resourceVersion": changes.borrow().to_string() }),
                        |object| object["metadata"].clone(),
                    );
                    let line = format!("{}\n", json!({ "type": kind, "object": partial(&metadata) }));
                    return Some((Ok(Frame::data(Bytes::from(line))), (api, changes, path, version)));
                }
            });
        Response::new(Either::Right(StreamBody::new(Box::pin(events))))
    }
}

/// Applies bundles to the entries with the same names.
fn applied(mut found: Value, sent: &Value) -> Option<Value> {
    for entry in sent["webhooks"].as_array().into_iter().flatten() {
        let entries = found["webhooks"].as_array_mut()?;
        let same = entries.iter_mut().find(|same| same["name"] == entry["name"])?;
        same["clientConfig"]["caBundle"] = entry["clientConfig"]["caBundle"].clone();
    }
    Some(found)
}

fn list(inner: &Inner, path: &str) -> Answer {
    let items: Vec<Value> = inner.objects.get(path).map(|object| partial(&object["metadata"])).into_iter().collect();
    success(&json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
        "metadata": { "resourceVersion": inner.version.to_string() }, "items": items,
    }))
}

fn partial(metadata: &Value) -> Value {
    json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata })
}

fn success(object: &Value) -> Answer {
    Response::new(Either::Left(Full::new(Bytes::from(object.to_string()))))
}

fn failure(code: StatusCode, message: &str) -> Answer {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "code": code.as_u16(), "reason": code.canonical_reason().map(|text| text.replace(' ', "")), "message": message,
    });
    let mut answer = success(&status);
    *answer.status_mut() = code;
    answer
}
