//! The nodes of a tree: one for each entry of a folder. Source: restic's design document, section "Trees and Data", and
//! `internal/data/node.go` of restic.

use std::{
    borrow::Cow,
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Binary, DataId, TreeId, is_default, name, null_is_empty, time};

/// An entry of a folder.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Node {
    /// The escaped name; see [`Node::name`].
    pub name: String,
    #[serde(flatten)]
    pub kind: NodeType,
    #[serde(flatten)]
    pub meta: Metadata,
    /// The chunks of a file, in order; none if the entry is not a file.
    pub content: Option<Vec<DataId>>,
    /// The tree of a folder; none if the entry is not a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subtree: Option<TreeId>,
}

impl Node {
    /// Creates a node without content.
    pub fn new_node(name: &OsStr, kind: NodeType, meta: Metadata) -> Self {
        Self { name: name::escape(name.as_bytes()), kind, meta, content: None, subtree: None }
    }

    /// The name of the entry. A text which is no escaped name is the name itself.
    pub fn name(&self) -> Cow<'_, OsStr> {
        let name = if self.name.contains('\\') { name::unescape(&self.name) } else { None };
        name.map_or_else(|| OsStr::new(&self.name).into(), |name| OsString::from_vec(name).into())
    }

    pub fn is_dir(&self) -> bool {
        matches!(self.kind, NodeType::Dir)
    }

    pub fn is_file(&self) -> bool {
        matches!(self.kind, NodeType::File)
    }
}

/// The type of an entry, and what only this type has.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum NodeType {
    #[default]
    File,
    Dir,
    Symlink(LinkTarget),
    /// A block device. `device` is its number as `stat` returns it.
    Dev {
        #[serde(default)]
        device: u64,
    },
    /// A character device.
    Chardev {
        #[serde(default)]
        device: u64,
    },
    Fifo,
    Socket,
}

/// The target of a symbolic link.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LinkTarget {
    /// The target as Unicode, in which invalid bytes are replaced.
    linktarget: String,
    /// The bytes of a target which is not Unicode. restic before 0.16 did not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    linktarget_raw: Option<Binary>,
}

impl LinkTarget {
    pub fn new(target: &Path) -> Self {
        let raw = target.to_str().is_none().then(|| Binary(target.as_os_str().as_bytes().to_vec()));
        Self { linktarget: target.to_string_lossy().into_owned(), linktarget_raw: raw }
    }

    pub fn path(&self) -> &Path {
        match &self.linktarget_raw {
            Some(raw) => Path::new(OsStr::from_bytes(&raw.0)),
            None => Path::new(&self.linktarget),
        }
    }
}

/// Owner, mode, times and attributes of an entry, and the numbers by which the next backup recognises it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Metadata {
    /// A mode in the form of Go's `fs.FileMode`. restic omits a mode of 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "time::optional_local")]
    pub mtime: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "time::optional_local")]
    pub atime: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "time::optional_local")]
    pub ctime: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// The inode number; 0 if it is unknown.
    #[serde(default, skip_serializing_if = "is_default")]
    pub inode: u64,
    /// The number of the file system's device; 0 if it is unknown.
    #[serde(default, skip_serializing_if = "is_default")]
    pub device_id: u64,
    /// Bytes of a file. Some programs write 0 for a file whose length they did not know before they read it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub size: u64,
    /// The number of names (hard links); 0 if it is unknown.
    #[serde(default, skip_serializing_if = "is_default")]
    pub links: u64,
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub extended_attributes: Vec<ExtendedAttribute>,
}

/// An extended attribute of an entry.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ExtendedAttribute {
    pub name: String,
    /// None if the value is empty, which some programs write as null.
    #[serde(default)]
    pub value: Option<Binary>,
}
