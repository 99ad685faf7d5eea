//! The upkeep of a `Repository`: what is wished, and how it goes.
//!
//! It must not know when a schedule is due.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SourceState;
use crate::model::{Age, DataPart, Verdict};

/// When snapshots are forgotten and what none needs is removed.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneSpec {
    /// Five fields of cron (minute, hour, day of the month, month, weekday), or `@hourly`, `@daily`, `@weekly`, `@monthly`
    /// or `@yearly`; with `-random` appended (`@daily-random`) a time of that hour, day, ... that is always the same for this
    /// Repository. No backup of the repository runs meanwhile.
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = r"^\s*(@(hourly|daily|midnight|weekly|monthly|yearly|annually)(-random)?|\S+(\s+\S+){4})\s*$")
    )]
    pub schedule: String,
}

/// When it is checked that all is as it was written.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckSpec {
    /// As the schedule of `prune`. Backups go on meanwhile.
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = r"^\s*(@(hourly|daily|midnight|weekly|monthly|yearly|annually)(-random)?|\S+(\s+\S+){4})\s*$")
    )]
    pub schedule: String,
    /// Each check looks at all indexes, snapshots and trees, and reads a part of the data byte by byte: as much as it takes
    /// to have read all of it within this time, years, months, days and hours as in `30d`; at least a 256th. `90d` when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_all_within: Option<Age>,
}

/// How the prunes or checks go.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpkeepStatus {
    /// Since when there is a schedule; what was due before is not made up for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// What the last run does; absent before the first one is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<SourceState>,
    /// When the last run was due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Time>,
    /// How many slots before that were missed since the run before; they are made up for by this one. Not counted beyond
    /// 1000.
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
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Of a prune: bytes that were packed anew for it, beside others that work on the repository; absent before. What is left
    /// to be done then keeps them off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0))]
    pub repacked_bytes: Option<u64>,
    /// How the run ended; absent as long as it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The machine-readable cause. While an attempt is waited for: `Queued`, or why the last one failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub reason: String,
    /// The same for people: what was done, what failed, or what is waited for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub message: String,
    /// When the next run, or the next attempt of this one, may begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_time: Option<Time>,
    /// When the last run ended that was green.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_time: Option<Time>,
}

/// How the checks go.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckStatus {
    /// How the last one went.
    #[serde(flatten)]
    pub run: UpkeepStatus,
    /// The part of the data that was last read and found whole: the third of seven is `3/7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_part: Option<DataPart>,
    /// When the last part of all was read and found whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_read_time: Option<Time>,
    /// The part whose check found damage; it is read again and again until it is whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged_part: Option<DataPart>,
}
