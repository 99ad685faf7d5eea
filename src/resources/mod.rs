//! Builds the Kubernetes objects that Stowaway creates: one pure function per object.

mod claim;
pub mod job;
pub mod manifests;
mod pod_defaults;
pub mod rbac;
mod settings;
pub mod snapshot;
#[cfg(test)]
mod tests;

pub use crate::{
    api::{backend_config, connection},
    plan::{labels, names},
};
pub use job::{JobRequest, assigns_users, job};
pub use rbac::{role_binding, service_account};
