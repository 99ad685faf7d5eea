//! The patch, operation by operation: RFC 6902, adding to lists that may not be there yet.
//!
//! It must not know what is added.

use std::collections::BTreeSet;

use json_patch::{AddOperation, Patch, PatchOperation, ReplaceOperation, jsonptr::PointerBuf};
use serde_json::Value;

use super::pod::{List, PULL_SECRETS, PodView};

/// A patch in the making.
#[derive(Debug)]
pub(super) struct PatchBuilder {
    operations: Vec<PatchOperation>,
    /// Lists that are there, or that an operation has made.
    lists: BTreeSet<PointerBuf>,
}

impl PatchBuilder {
    /// An empty patch for a pod.
    pub fn new(view: &PodView<'_>) -> Self {
        let mut lists = BTreeSet::new();
        let mut present = |value: Option<&Value>, path: PointerBuf| {
            if value.is_some_and(Value::is_array) {
                lists.insert(path);
            }
        };
        for field in ["volumes", List::Init.field(), PULL_SECRETS] {
            present(view.spec.get(field), path(&["spec", field]));
        }
        for container in &view.containers {
            present(
                container.container.get("volumeMounts"),
                path(&["spec", container.list.field(), &container.index.to_string(), "volumeMounts"]),
            );
        }
        Self { operations: Vec::new(), lists }
    }

    /// Adds a value to the end of a list, making the list when there is none.
    pub fn append(&mut self, list: &[&str], value: Value) {
        let mut pointer = path(list);
        let value = if self.lists.insert(pointer.clone()) {
            Value::Array(vec![value])
        } else {
            pointer.push_back("-");
            value
        };
        self.operations.push(PatchOperation::Add(AddOperation { path: pointer, value }));
    }

    /// Adds a value in the midst of a list that is there.
    pub fn insert(&mut self, list: &[&str], index: usize, value: Value) {
        let mut pointer = path(list);
        pointer.push_back(index.to_string());
        self.operations.push(PatchOperation::Add(AddOperation { path: pointer, value }));
    }

    /// Replaces an entry of ours.
    pub fn replace(&mut self, list: &[&str], index: usize, value: Value) {
        let mut pointer = path(list);
        pointer.push_back(index.to_string());
        self.operations.push(PatchOperation::Replace(ReplaceOperation { path: pointer, value }));
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// The whole patch.
    pub fn finish(self) -> Patch {
        Patch(self.operations)
    }
}

/// A pointer; `/` and `~` in names are escaped.
fn path(names: &[&str]) -> PointerBuf {
    PointerBuf::from_tokens(names.iter().copied())
}
