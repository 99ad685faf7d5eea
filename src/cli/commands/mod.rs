//! The commands that do the same with a cluster and without one, or need none: one file each.

pub(super) mod check;
pub(super) mod doctor;
pub(super) mod explain;
pub(super) mod forget;
pub(super) mod keys;
pub(super) mod logs;
pub(super) mod manifests;
pub(super) mod prune;
pub(super) mod unlock;
