//! The maintenance of a `Repository`: the schedules of prunes and checks in its spec, and their state in its status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SourceState;
use crate::model::{Age, DamagedPacks, DataPart, Verdict};

/// When snapshots are forgotten, and data that no snapshot needs is removed.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneSpec {
    /// Five fields of cron (minute, hour, day of the month, month, weekday), or `@hourly`, `@daily`, `@weekly`,
    /// `@monthly` or `@yearly`. With `-random` appended (`@daily-random`), the run starts at a time within that hour,
    /// day, ... which is always the same for this Repository. No backup of the repository runs during a prune.
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = r"^\s*(@(hourly|daily|midnight|weekly|monthly|yearly|annually)(-random)?|\S+(\s+\S+){4})\s*$")
    )]
    pub schedule: String,
}

/// When the integrity of the repository is checked.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckSpec {
    /// The schedule, in the same format as that of `prune`. Backups can run during a check.
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = r"^\s*(@(hourly|daily|midnight|weekly|monthly|yearly|annually)(-random)?|\S+(\s+\S+){4})\s*$")
    )]
    pub schedule: String,
    /// Each check reads all indexes, snapshots and trees, and a part of the data. The part is chosen so that all data
    /// is read within this duration, given in years, months, days and hours as in `30d`; it is at least 1/256 of the
    /// data. When absent, `90d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_all_within: Option<Age>,
}

/// The state of the prunes or of the checks.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MaintenanceStatus {
    /// Since when there is a schedule. Runs that were due earlier are not made up for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// The state of the last run; absent before the first run is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<SourceState>,
    /// When the last run was due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Time>,
    /// How many scheduled runs before this one were missed; this run makes up for them. Not counted beyond 1000.
    #[serde(default)]
    #[schemars(with = "i32", range(min = 0))]
    pub missed_slots: u32,
    /// The number of the run's present or last attempt, from 1; 0 before the first one.
    #[serde(default)]
    #[schemars(with = "i32", range(min = 0))]
    pub attempt: u32,
    /// The Job of that attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub job: Option<String>,
    /// When that attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// For a prune: the bytes which were repacked before it, while other runs could use the repository. The remaining
    /// prune needs an exclusive lock. Absent before anything was repacked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0))]
    pub repacked_bytes: Option<u64>,
    /// How the run ended; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The machine-readable reason. While the run waits for an attempt, it is `Queued`, or the reason why the last
    /// attempt failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub reason: String,
    /// A description of the reason: what was done, what failed, or what the run waits for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub message: String,
    /// When the next run, or the next attempt of this run, may begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_time: Option<Time>,
    /// When the last green run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_time: Option<Time>,
}

/// The state of the checks.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckStatus {
    /// The last check.
    #[serde(flatten)]
    pub run: MaintenanceStatus,
    /// The part of the data that was last read and found intact, for example `3/7` for the third of seven parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_part: Option<DataPart>,
    /// When the last of all parts was read and found intact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_read_time: Option<Time>,
    /// The part in which a check found damage. Each check reads it again until it is intact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged_part: Option<DataPart>,
    /// The packs whose content a check found damaged. Backups store the data that they need of these packs again. A
    /// pack stays listed until a check has read it and found it intact, or has found it removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged_packs: Option<DamagedPacks>,
}

impl CheckStatus {
    /// The packs that no run may rely on.
    pub fn damage(&self) -> DamagedPacks {
        // A check of an earlier version recorded only the part in which it found damage.
        let part = || self.damaged_part.map(DamagedPacks::anywhere_in).unwrap_or_default();
        self.damaged_packs.clone().unwrap_or_else(part)
    }
}
