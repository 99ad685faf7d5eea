//! Writes and reads the progress of a run, in an Event about its pod. Each run has one Event, which Kubernetes deletes
//! after an hour. The Event is for display only: it is the only object which a run may write, and every user who may
//! write Events in the namespace can forge it.

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};

use super::{
    apply::FIELD_MANAGER,
    call::{self, CallError},
};
use crate::model::{PROGRESS_ANNOTATION, PROGRESS_REASON, RunProgress, short_amount};

/// The source component of the Event.
const COMPONENT: &str = "stowaway-runner";

/// The Event's name. It is derived from the pod's name, so that a run writes a single Event.
fn name(pod: &str) -> String {
    format!("{pod}.progress")
}

/// Writes the progress of the run in this pod.
pub async fn write(
    client: &Client,
    (namespace, pod, uid): (&str, &str, &str),
    progress: RunProgress,
    now: jiff::Timestamp,
) -> Result<(), CallError> {
    let name = name(pod);
    let event = Event {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.to_owned()),
            annotations: serde_json::to_string(&progress)
                .ok()
                .map(|json| [(PROGRESS_ANNOTATION.to_owned(), json)].into()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(pod.to_owned()),
            namespace: Some(namespace.to_owned()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        },
        type_: Some("Normal".into()),
        reason: Some(PROGRESS_REASON.into()),
        message: Some(progress.describe(short_amount)),
        source: Some(EventSource { component: Some(COMPONENT.into()), host: None }),
        last_timestamp: Some(Time(now)),
        ..Event::default()
    };
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let written = call::within(events.patch(&name, &parameters, &Patch::Apply(&event))).await;
    written.map(drop).map_err(CallError::at(format!("write Event {namespace}/{name}")))
}

/// The progress of the run in the pod of this UID, as the run last reported it.
pub async fn read(
    client: &Client,
    namespace: &str,
    (pod, uid): (&str, &str),
) -> Result<Option<RunProgress>, CallError> {
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let one = ListParams::default().fields(&format!("metadata.name={},involvedObject.uid={uid}", name(pod)));
    let list = call::within(events.list(&one)).await.map_err(CallError::at(format!("list events in {namespace}")))?;
    let text = list.items.iter().find_map(|event| event.annotations().get(PROGRESS_ANNOTATION));
    Ok(text.and_then(|text| serde_json::from_str(text).ok()))
}
