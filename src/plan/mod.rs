//! Facts in, plan out: what is to be backed up, and under which names.
//!
//! Pure. It must not know clients, clocks or files; whoever observes the cluster hands the facts in.

mod actions;
mod backup;
mod choose;
mod claim_uses;
#[cfg(test)]
mod fixtures;
mod injected;
mod jobs;
pub mod labels;
pub mod names;
mod owner;
mod provenance;
mod repository;
mod restore;
mod retention;
mod retry;
mod schedule;
mod sources;
mod stored_claim;
mod text;
mod upkeep;

pub use actions::{
    Actions, Around, MakeSnapshot, Occurrence, RestoreTarget, ScaleTo, StartJob, TargetMount, TemporaryClaim,
};
pub use backup::{BackupFacts, Staged, StagedClaim, is_recorded, job_refused, newer_of, plan_backup, sources_of};
pub use choose::{ChoiceError, choose_repository};
pub use claim_uses::{ClaimUses, OwnRuns, wants_claim_uses};
pub use injected::{InjectedVersion, injected_version};
pub use jobs::{
    JobRetention, ObservedJob, is_active, is_complete, is_over, is_started, is_suspended, job_retention, running_pod,
    wants_complaints,
};
pub use labels::is_run_pod;
pub use owner::{NON_ROOT, Owner, Said};
pub use provenance::{
    StoredJob, is_planned_claim, is_planned_snapshot, is_pod_of, is_pod_of_a_run, is_run, is_run_of, stored_job,
    without_foreign_sidecar,
};
pub use repository::{init_refused, is_acceptance, is_recorded_of_repository, plan_repository};
pub use restore::{
    ChosenSnapshot, NamespaceFacts, NamespacePlan, NamespaceWish, ObservedScale, Refusal, RefusedSource, RestoreFacts,
    SourceKind, TargetFacts, held_down_by, plan_namespace, plan_restore, restore_refused,
};
pub use retention::{Dropped, Kept, RetentionPlan, Shrunk, plan_retention};
pub use schedule::{Due, Schedule, ScheduleError, Slots, UnknownTimeZone, time_zone};

pub use sources::{
    ClaimFacts, ClaimMount, ClaimSnapshot, DEFAULT_CONTAINER, Expected, MAXIMUM_SOURCES, ObservedPod, ObservedWorkload,
    PlanProblem, PlanWarning, PlannedSource, SnapshotFacts, SourceFacts, SourcePlan, UnknownContainer, Workload,
    container_of, plan_sources, snapshot_volumes,
};
pub use upkeep::{
    ActiveJob, PruneRuns, UpkeepFacts, closed_repositories, plan_upkeep, pruned_repositories, same_repositories,
    upkeep_refused, wants_facts,
};
