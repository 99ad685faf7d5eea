//! Repositories, Backups and Restores of the earlier version keep their specs and statuses under the API of this one.

use std::{collections::BTreeMap, fs};

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde::de::DeserializeOwned;
use stowaway::{
    api::{Backup, HEALTHY, Repository, Restore, SkipReason, SourceState, condition, crds},
    model::{DataPart, Proof, Verdict},
    plan::plan_repository,
};

use super::fixture;

fn object<T: DeserializeOwned>(name: &str) -> T {
    let text = fs::read_to_string(fixture(&format!("objects/{name}.yaml"))).unwrap();
    yaml_serde::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn repository_keeps_its_state_and_the_damage_that_was_found() {
    let repository: Repository = object("repository");
    let status = repository.status.clone().unwrap();
    assert_eq!(status.prune.as_ref().unwrap().message, "3 snapshots forgotten, 12 kept, 1048576 bytes freed");
    let check = status.check.as_ref().unwrap();
    assert_eq!((check.run.verdict, check.damaged_part), (Some(Verdict::Failed), DataPart::new(3, 13).ok()));
    // No run relies on the packs of the part in which damage was found.
    assert!(!check.damage().is_empty());
    let retention = repository.spec.retention.as_ref().unwrap();
    assert_eq!((retention.keep_last, retention.keep_daily, retention.keep_tags.len()), (Some(3), Some(7), 1));
    let (next, _) = plan_repository(&repository, &[], "6a1f2f0e", Timestamp::UNIX_EPOCH);
    assert_eq!(next.repository_id, status.repository_id);
    let healthy = condition(&next.conditions, HEALTHY).unwrap();
    assert_eq!((healthy.status.as_str(), healthy.reason.as_str()), ("False", "DamageFound"));
    assert_eq!(condition(&next.conditions, "Sound"), None);
    assert_eq!(next.conditions.len(), status.conditions.len());
}

#[test]
fn backups_keep_their_sources_and_verdicts() {
    let backup: Backup = object("backup");
    assert_eq!((backup.spec.retry_limit, backup.spec.repository_ref.unwrap().name.as_str()), (2, "main"));
    let status = backup.status.unwrap();
    assert_eq!((status.verdict, status.progress.as_deref()), (Some(Verdict::Failed), Some("2/4")));
    let sources: Vec<_> = status
        .sources
        .iter()
        .map(|source| (source.name.as_str(), source.state, source.outcome.verdict.unwrap(), source.outcome.proof))
        .collect();
    let done = SourceState::Done;
    assert_eq!(
        sources,
        [
            ("deployment/db/postgres", done, Verdict::Succeeded, Some(Proof::Sealed)),
            ("pvc/data", done, Verdict::Succeeded, Some(Proof::Sealed)),
            ("pod/cache-0/redis/rdb", done, Verdict::Failed, Some(Proof::Sealed)),
            ("deployment/web/php", done, Verdict::Unproven, Some(Proof::None)),
        ]
    );
    assert_eq!(status.sources[2].outcome.stderr_tail, "Could not connect to Redis");
    let skipped: Vec<_> = status.skipped.iter().map(|claim| (claim.name.as_str(), claim.reason)).collect();
    assert_eq!(skipped, [("scratch", SkipReason::OptedOut), ("pending", SkipReason::NotBound)]);
    let running = object::<Backup>("backup-running").status.unwrap();
    assert_eq!(running.verdict, None);
    assert_eq!(
        running.sources.iter().map(|source| source.state).collect::<Vec<_>>(),
        [SourceState::Running, SourceState::Waiting]
    );
    assert_eq!(running.sources[0].jobs, ["nightly-2-0123456789"]);
}

#[test]
fn restores_keep_their_targets_and_results() {
    let command: Restore = object("restore-command");
    assert_eq!(command.spec.to.unwrap().command, ["psql", "-U", "postgres", "shop"]);
    assert_eq!(command.status.unwrap().outcome.verdict, Some(Verdict::Succeeded));
    let claim: Restore = object("restore-claim");
    let target = claim.spec.to.unwrap().claim.unwrap();
    assert!((target.name.as_str(), target.overwrite) == ("data", true) && target.create.is_some());
    let status = claim.status.unwrap();
    // The workload is scaled back by this version.
    let scaled = status.scaled.unwrap();
    assert_eq!((scaled.replicas, scaled.is_back), (3, false));
    assert_eq!(status.found.unwrap().bytes, Some(1 << 30));
    assert!(status.safety_snapshot.is_some());
    let archive: Restore = object("restore-archive");
    assert_eq!(archive.status.unwrap().archive.unwrap().location, "archives/shop/data.tar.zst");
}

/// The fields of a schema: path, and type with allowed values.
fn fields(schema: &JSONSchemaProps, path: &str, found: &mut BTreeMap<String, (String, Vec<String>)>) {
    let values = schema.enum_.iter().flatten().map(|value| value.0.as_str().unwrap_or_default().to_owned());
    found.insert(path.to_owned(), (schema.type_.clone().unwrap_or_else(|| "any".to_owned()), values.collect()));
    for (name, field) in schema.properties.iter().flatten() {
        fields(field, &format!("{path}.{name}"), found);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        fields(items, &format!("{path}[]"), found);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(field)) = &schema.additional_properties {
        fields(field, &format!("{path}{{}}"), found);
    }
}

#[test]
fn no_field_and_no_value_of_the_earlier_schemas_is_dropped_by_the_api_server() {
    let mut now = BTreeMap::new();
    for definition in crds() {
        for version in definition.spec.versions {
            let schema = version.schema.unwrap().open_api_v3_schema.unwrap();
            fields(&schema, &definition.spec.names.kind, &mut now);
        }
    }
    let text = fs::read_to_string(fixture("fields.txt")).unwrap();
    assert!(text.lines().count() > 300);
    for line in text.lines() {
        let mut parts = line.splitn(3, ' ');
        let (path, kind) = (parts.next().unwrap(), parts.next().unwrap());
        let (kind_now, values_now) = now.get(path).unwrap_or_else(|| panic!("{path} is missing"));
        assert_eq!(kind_now, kind, "{path}");
        for value in parts.next().into_iter().flat_map(|values| values.split(',')) {
            assert!(values_now.iter().any(|now| now == value), "{path}: {value} is missing");
        }
    }
}
