//! Guards the annotations that the controller writes on a Restore: that it was executed, and the replicas of its
//! workload before it was scaled down. Only the controller may change them. A user who could remove the first could
//! repeat the restore of another author; a user who could change the second could scale a workload.
//!
//! A Restore may be created with both annotations. It is then a copy, which is not executed.

use super::{
    super::{CONTROLLER, conditions::text},
    Guard,
};
use crate::api::{CARRIED_OUT, GROUP, SCALED_FROM};

pub(super) fn guards(namespace: &str) -> [Guard; 1] {
    let value = |object: &str, key: &str| format!("{object}.metadata.?annotations[?{}].orValue('')", text(key));
    let changes = |key: &str| format!("{} != {}", value("object", key), value("oldObject", key));
    [Guard {
        name: "stowaway-restore-marks",
        rules: vec![(GROUP, &["restores"], &["UPDATE"])],
        concerns: Some((
            "changes-what-the-controller-wrote",
            format!("{} || {}", changes(CARRIED_OUT), changes(SCALED_FROM)),
        )),
        expression: format!(
            "request.userInfo.username == {}",
            text(&format!("system:serviceaccount:{namespace}:{CONTROLLER}"))
        ),
        message: "only Stowaway's controller may write the annotations stowaway.dev/carried-out and stowaway.dev/scaled-from \
                  of a Restore; to restore again, create another Restore",
    }]
}
