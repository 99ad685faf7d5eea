//! Pure planning: from observed facts to the next status and the actions of a Backup, Restore or Repository.
//!
//! Nothing here uses a client, a clock or a file; the caller observes the cluster and passes the facts in.

mod actions;
mod applied;
mod backup;
mod choose;
mod claim_uses;
#[cfg(test)]
mod fixtures;
mod injected;
mod jobs;
pub mod labels;
mod maintenance;
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

pub use actions::{
    Actions, CreateSnapshot, EventRecord, RestoreActions, RestoreTarget, ScaleTo, StartJob, TargetMount, TemporaryClaim,
};
pub use applied::{Applied, Refused};
pub use backup::{BackupFacts, Staged, StagedClaim, is_recorded, newer_of, plan_backup, settle_backup, sources_of};
pub use choose::{ChoiceError, choose_repository};
pub use claim_uses::{ClaimUses, OwnRuns, needs_claim_uses};
pub use injected::{InjectedVersion, injected_version};
pub use jobs::{
    CLAIM_LOOK, JobRetention, ObservedJob, end_of_run, holds_claim, is_active, is_complete, is_over, is_started,
    is_suspended, job_retention, running_pod, wants_warning_events,
};
pub use labels::is_run_pod;
pub use owner::{FileOwner, NON_ROOT, RunAs};
pub use provenance::{
    StoredJob, is_planned_claim, is_planned_snapshot, is_pod_of, is_pod_of_a_run, is_run, is_run_of, stored_job,
    without_foreign_sidecar,
};
pub use repository::{
    in_doubt, is_acceptance, is_recorded_of_repository, missed_by_backup, missed_by_restore, plan_repository,
    settle_repository,
};
pub use restore::{
    ChosenSnapshot, NamespaceFacts, NamespacePlan, NamespaceRequest, ObservedScale, Refusal, RefusedSource,
    RepositorySnapshots, RestoreFacts, SourceKind, TargetFacts, claim_stays_marked, pending_class, plan_namespace,
    plan_restore, repositories_to_read, scaled_down_by, scaling_refused, settle_restore,
};
pub use retention::{Dropped, Kept, RetentionPlan, Shrunk, plan_retention};
pub use schedule::{Due, Schedule, ScheduleError, Slots, UnknownTimeZone, time_zone};

pub use maintenance::{
    ActiveJob, MaintenanceFacts, PruneRuns, closed_repositories, damaged_packs, differing_retentions, needs_facts,
    plan_maintenance, pruned_repositories, same_repositories,
};
pub use sources::{
    ClaimFacts, ClaimMount, ClaimSnapshot, DEFAULT_CONTAINER, DeclaredClaim, EarlierSource, Expected, MAX_SOURCES,
    ObservedPod, ObservedWorkload, PlanProblem, PlanWarning, PlannedSource, SnapshotFacts, SourceFacts, SourcePlan,
    UnknownContainer, Workload, container_of, declared_claim, plan_sources, snapshot_volumes,
};
