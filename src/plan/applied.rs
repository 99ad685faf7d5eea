//! The result of a plan's actions. A plan contains the status as it becomes if everything is created; the `settle_*`
//! function of the kind corrects the status by [`Applied`] before it is stored.

use super::names::RunKind;
use crate::model::Reason;

/// The result of the creations of one plan. An object that is not named here was created.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Whether the planned claim of a Restore was not created, because a claim of its name exists or because the API
    /// server refused the preparation of the Restore.
    pub no_claim_made: bool,
    pub refused: Vec<Refused>,
}

/// A Job or `VolumeSnapshot` which could not be created, and for which an immediate retry would fail, too.
#[derive(Clone, Debug)]
pub struct Refused {
    pub kind: RunKind,
    /// The source of the [`super::StartJob`] or [`super::CreateSnapshot`].
    pub source: String,
    pub reason: Reason,
    pub message: String,
    /// Whether a later attempt may succeed, because the API server did not refuse the request itself.
    pub is_temporary: bool,
}
