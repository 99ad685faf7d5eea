//! What the controller has written into the metadata of a Restore is changed by the controller alone: that it was carried out,
//! and what its workload was before it was scaled down. Whoever could take the first away could have the restore of another
//! author repeated; whoever could change the second could scale a workload.
//!
//! A Restore may be created with both: it is then a copy, which is not carried out. It must not know how a Restore goes.

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
        message: "the annotations stowaway.dev/carried-out and stowaway.dev/scaled-from of a Restore are written by \
                  Stowaway's controller alone; to restore again, create another Restore",
    }]
}
