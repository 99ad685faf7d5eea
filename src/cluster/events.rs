//! Writes Events about Stowaway's objects, which `kubectl describe` shows.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use super::call::{self, CallError};
use crate::model::escape;

/// The limit of the API server for an Event's note.
const MAX_NOTE_BYTES: usize = 1000;

/// Writes Events. Writing the same Event again within minutes only increments its count.
#[derive(Clone)]
pub struct EventRecorder {
    recorder: Recorder,
}

impl EventRecorder {
    /// Creates a recorder which reports as this component; `instance` is the name of its pod.
    pub fn new(client: Client, component: &str, instance: Option<String>) -> Self {
        Self { recorder: Recorder::new(client, Reporter { controller: component.to_owned(), instance }) }
    }

    /// Writes one Event about `regarding`, related to the Job `job`.
    pub async fn publish(
        &self,
        regarding: &ObjectReference,
        is_warning: bool,
        (reason, action): (&str, &str),
        note: &str,
        job: Option<&str>,
    ) -> Result<(), CallError> {
        let note = escape(note);
        let event = Event {
            type_: if is_warning { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            note: Some(note[..note.floor_char_boundary(MAX_NOTE_BYTES)].to_owned()),
            action: action.to_owned(),
            secondary: job.map(|name| ObjectReference {
                api_version: Some("batch/v1".into()),
                kind: Some("Job".into()),
                name: Some(name.to_owned()),
                namespace: regarding.namespace.clone(),
                ..ObjectReference::default()
            }),
        };
        let published = call::within(self.recorder.publish(&event, regarding)).await;
        published.map_err(CallError::at("write an Event"))
    }
}
