//! The verdict and message of a run about a volume which has lost content since its last good snapshot. Pure.

use jiff::Timestamp;

use crate::{
    annotations::{KeyId, own_key},
    model::{
        Reason, SMALLEST_BYTES, Shrinkage, SnapshotIdentity, SnapshotQuery, SnapshotRecord, SourceName, Verdict,
        has_lost_most, latest_restorable,
    },
    repository::{Shrunken, SnapshotSummary},
};

/// The verdict. It is green only if the user accepted the loss.
pub(super) fn verdict(shrunken: &Shrunken) -> (Verdict, Reason) {
    match (shrunken.is_accepted, shrunken.kind) {
        (true, _) => (Verdict::Succeeded, Reason::Completed),
        (false, Shrinkage::Emptied) => (Verdict::Suspect, Reason::VolumeEmptied),
        (false, Shrinkage::LostMost) => (Verdict::Suspect, Reason::VolumeShrank),
    }
}

/// The numbers, and what to do next. `snapshot` is the id of the stored snapshot, `source` the volume's name.
pub(super) fn message(shrunken: &Shrunken, snapshot: &str, source: &str) -> String {
    let Shrunken { kind, now, before, last_good, last_good_time, is_accepted } = shrunken;
    let (id, last_good, key) = (short(snapshot), short(last_good), own_key(KeyId::AcceptShrunken));
    let what = match kind {
        Shrinkage::Emptied => "is empty".to_owned(),
        Shrinkage::LostMost => format!("holds {now}"),
    };
    let compared =
        format!("the volume {what}, and its last good snapshot {last_good} of {last_good_time:.0} holds {before}");
    if *is_accepted {
        return format!("{compared}; {key} accepts that: remove the annotation now, so that the next loss is noticed");
    }
    let claim = source.strip_prefix("pvc/").unwrap_or(source);
    format!(
        "{compared}: snapshot {id} is stored as suspect, so no restore chooses it automatically, and {last_good} is \
         kept. If the content is lost, restore {last_good}. If the loss is intended, run `restic tag --remove suspect \
         {id}`, or annotate PersistentVolumeClaim {claim} with {key}: \"true\" and back it up again"
    )
}

/// The message about a loss in several backups, each of which is green. Volumes are also emptied slowly by intention, by
/// rotated logs and expired caches, so a loss of this kind is no verdict.
pub(super) fn declined_message(declined: &Shrunken) -> String {
    let Shrunken { now, before, last_good, last_good_time, .. } = declined;
    let id = short(last_good);
    format!(
        "the volume holds {now}, and its snapshot {id} of {last_good_time:.0} holds {before}, although each backup since \
         then lost less than half: if the loss is not intended, restore {id} before the retention deletes it"
    )
}

/// A note about a stream which has lost most of its bytes since the last good snapshot of its source; empty if it has not.
/// A dump also shrinks by intention, so that this is no verdict. `stored` is the stream's own snapshot.
pub(super) fn stream_note(
    history: &[SnapshotSummary],
    identity: &SnapshotIdentity,
    (stored, bytes): (Option<&str>, u64),
    now: Timestamp,
) -> String {
    let source = identity.tag(SnapshotIdentity::SOURCE).and_then(|source| source.parse::<SourceName>().ok());
    let Some(source) = source.filter(|_| !identity.has_tag(SnapshotIdentity::SAFETY)) else { return String::new() };
    let earlier = history.iter().filter(|snapshot| stored != Some(snapshot.id.as_str()));
    let records: Vec<SnapshotRecord<'_>> = earlier.map(SnapshotSummary::record).collect();
    let cluster = identity.tag(SnapshotIdentity::CLUSTER).unwrap_or_default();
    let query = SnapshotQuery { source: &source, host: Some(&identity.host), as_of: None, cluster, now };
    let Ok(found) = latest_restorable(&records, &query) else { return String::new() };
    // A database of the same name in another cluster may be much larger.
    let before = found.snapshot.bytes.filter(|_| found.other_cluster.is_none() || bytes == 0);
    let Some(before) = before.filter(|before| has_lost_most(*before, bytes, SMALLEST_BYTES)) else {
        return String::new();
    };
    let (id, time) = (found.snapshot.short_id(), found.snapshot.time);
    format!(
        "the stream has {bytes} bytes, and the last good snapshot {id} of {time:.0} has {before}: if the source has lost \
         its data, restore {id} before the retention deletes it"
    )
}

/// The message about a suspect snapshot which an earlier attempt of the run stored.
pub(super) fn adopted_message(snapshot: &str) -> String {
    format!(
        "stored as suspect {} by an earlier attempt of this run, because the volume has lost most of its content; \
         that attempt's log has the numbers. If the loss is intended, run `restic tag --remove suspect {0}`",
        short(snapshot)
    )
}

fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::VolumeExtent;

    #[test]
    fn dump_that_lost_most_of_its_bytes_names_the_last_good_one() {
        let identity = |tags: &[&str]| SnapshotIdentity {
            host: "shop".into(),
            path: "/shop-db.sql".into(),
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
        };
        let own = identity(&["source=deployment/shop/db", "proof=Sealed"]);
        let history = |bytes| {
            let (id, time) = ("cd".repeat(32), "2026-05-04T03:02:01Z".parse().unwrap());
            [SnapshotSummary { id, time, identity: own.clone(), paths: vec![own.path.clone()], bytes }]
        };
        let now = "2026-05-05T03:02:01Z".parse().unwrap();
        let note = |before, bytes| {
            stream_note(&history(before), &identity(&["source=deployment/shop/db"]), (None, bytes), now)
        };
        let lost = note(Some(1_000_000), 1_000);
        assert!(lost.contains("1000 bytes") && lost.contains("cdcdcdcd of 2026-05-04T03:02:01Z has 1000000"), "{lost}");
        for (before, bytes) in [(Some(1_000_000), 500_000), (Some(60_000), 10), (None, 10)] {
            assert_eq!(note(before, bytes), "", "{before:?} {bytes}");
        }
        assert_eq!(stream_note(&[], &own, (None, 10), now), "");
        let id = "cd".repeat(32);
        assert_eq!(stream_note(&history(Some(1_000_000)), &own, (Some(&id), 10), now), "", "the run's own snapshot");
    }

    #[test]
    fn loss_is_not_green_without_consent_and_names_the_numbers_and_the_next_step() {
        let shrunken = |kind, is_accepted| Shrunken {
            kind,
            now: VolumeExtent { files: 2, folders: 0, bytes: 7 },
            before: VolumeExtent { files: 120, folders: 3, bytes: 4711 },
            last_good: "cd".repeat(32),
            last_good_time: "2026-05-04T03:02:01Z".parse().unwrap(),
            is_accepted,
        };
        let declined = declined_message(&shrunken(Shrinkage::LostMost, false));
        assert!(declined.contains("2 files of 7 bytes") && declined.contains("restore cdcdcdcd before"), "{declined}");
        for (kind, reason, text) in [
            (Shrinkage::Emptied, Reason::VolumeEmptied, "the volume is empty"),
            (Shrinkage::LostMost, Reason::VolumeShrank, "the volume holds 2 files of 7 bytes"),
        ] {
            let suspect = shrunken(kind, false);
            assert_eq!(verdict(&suspect), (Verdict::Suspect, reason));
            let message = message(&suspect, &"ab".repeat(32), "pvc/cask");
            for part in [
                text,
                "cdcdcdcd of 2026-05-04T03:02:01Z holds 120 files of 4711 bytes",
                "restic tag --remove suspect abababab",
                "PersistentVolumeClaim cask with stowaway.dev/accept-shrunken: \"true\"",
            ] {
                assert!(message.contains(part), "{message}");
            }
            let accepted = shrunken(kind, true);
            assert_eq!(verdict(&accepted), (Verdict::Succeeded, Reason::Completed));
            assert!(super::message(&accepted, "ab", "pvc/cask").contains("remove the annotation"));
        }
    }
}
