//! The controller deletes the claims and snapshots that its Backups have made, and nobody else's, whatever becomes of it.
//!
//! It must not know what they are made for.

use super::{
    super::{CONTROLLER, conditions::text},
    Guard,
};
use crate::api;

pub(super) fn guards(namespace: &str) -> [Guard; 1] {
    [Guard {
        name: "stowaway-controller-deletes",
        rules: vec![
            ("", &["persistentvolumeclaims"], &["DELETE"]),
            ("snapshot.storage.k8s.io", &["volumesnapshots"], &["DELETE"]),
        ],
        concerns: Some((
            "is-the-controller",
            format!(
                "request.userInfo.username == {}",
                text(&format!("system:serviceaccount:{namespace}:{CONTROLLER}"))
            ),
        )),
        expression: format!(
            "oldObject.metadata.?ownerReferences.orValue([]).exists(owner, owner.?controller.orValue(false) && \
             owner.apiVersion.startsWith({}) && owner.kind == 'Backup')",
            text(&format!("{}/", api::GROUP))
        ),
        message: "Stowaway's controller deletes only those claims and snapshots that one of its Backups has made",
    }]
}
