//! The trees of a snapshot. A tree lists the entries of a folder, ordered by the bytes of their names. Source: restic's
//! design document, section "Trees and Data".

use serde::Deserialize;

use super::null_is_empty;

/// A tree in memory. The type parameter selects the fields of a node which the caller needs; see [`super::Node`].
#[derive(Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub struct Tree<T> {
    #[serde(deserialize_with = "null_is_empty")]
    pub nodes: Vec<T>,
}

/// The beginning and the end of a tree's JSON, between which the nodes are separated by commas. restic's trees end with
/// a line feed, and a tree's id depends on it.
pub const TREE_BEGIN: &[u8] = b"{\"nodes\":[";
pub const TREE_END: &[u8] = b"]}\n";
