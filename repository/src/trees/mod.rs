//! Trees: writing one, iterating over the entries of one, and reading those of a whole snapshot.

pub(crate) mod cached;
pub(crate) mod tree;
pub(crate) mod tree_nodes;
