//! A builder for the patch (RFC 6902), which creates lists that do not exist yet.

use std::collections::BTreeSet;

use json_patch::{AddOperation, Patch, PatchOperation, ReplaceOperation, jsonptr::PointerBuf};
use serde_json::Value;

use super::pod::{List, PULL_SECRETS, PodView};

#[derive(Debug)]
pub(super) struct PatchBuilder {
    operations: Vec<PatchOperation>,
    /// Lists that exist, or that an operation has created.
    lists: BTreeSet<PointerBuf>,
}

impl PatchBuilder {
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

    /// Adds a value to the end of a list. Creates the list if it does not exist.
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

    /// Inserts a value into an existing list.
    pub fn insert(&mut self, list: &[&str], index: usize, value: Value) {
        let mut pointer = path(list);
        pointer.push_back(index.to_string());
        self.operations.push(PatchOperation::Add(AddOperation { path: pointer, value }));
    }

    /// Replaces one of Stowaway's entries.
    pub fn replace(&mut self, list: &[&str], index: usize, value: Value) {
        let mut pointer = path(list);
        pointer.push_back(index.to_string());
        self.operations.push(PatchOperation::Replace(ReplaceOperation { path: pointer, value }));
    }

    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    pub fn finish(self) -> Patch {
        Patch(self.operations)
    }
}

/// A JSON pointer; `/` and `~` in names are escaped.
fn path(names: &[&str]) -> PointerBuf {
    PointerBuf::from_tokens(names.iter().copied())
}
