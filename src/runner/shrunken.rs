//! The verdict and message of a run about a volume which has lost content since its last good snapshot. Pure.

use crate::{
    annotations::{KeyId, own_key},
    model::{Reason, Shrinkage, Verdict},
    repository::Shrunken,
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
