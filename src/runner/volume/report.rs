//! The verdict and message of a run about a stored volume, with everything that differs between the snapshot and the
//! volume. They are decided from the results of the walk alone.

use crate::{
    model::{Reason, Verdict},
    repository::{StoredFolder, Trouble, Troubles},
    runner::shrunken,
};

/// The number of paths that are named of findings which leave the verdict green.
const NAMED: usize = 5;

/// The verdict on a stored volume.
#[derive(Debug)]
pub(super) struct Account {
    pub verdict: Verdict,
    pub reason: Reason,
    /// For users; empty if all of the volume is stored and nothing changed meanwhile.
    pub message: String,
    /// The log's warnings, one for each affected path.
    pub warnings: Vec<String>,
}

/// The verdict on what was stored of `source`.
pub(super) fn account_for(stored: &StoredFolder, source: &str) -> Account {
    let StoredFolder { unreadable, mounts, without_attributes, .. } = stored;
    let lists = [
        ("not read", unreadable),
        ("not stored", mounts),
        ("attributes not stored", without_attributes),
        ("deleted before it was read", &stored.vanished_folders),
        ("changed while it was read", &stored.changed),
        ("changed while the walk was in it", &stored.changed_folders),
        ("skipped", &stored.passed_over),
    ];
    let warnings =
        lists.iter().flat_map(|(what, list)| list.first.iter().map(move |one| format!("{what}: {}", named(one))));
    let (verdict, reason) = if unreadable.count > 0 || mounts.count > 0 {
        (Verdict::Incomplete, Reason::SourceUnreadable)
    } else if let Some(shrunken) = stored.shrunken.as_ref().filter(|shrunken| !shrunken.is_accepted) {
        shrunken::verdict(shrunken)
    } else if without_attributes.count > 0 {
        (Verdict::Incomplete, Reason::MetadataNotKept)
    } else {
        (Verdict::Succeeded, Reason::Completed)
    };
    let sentences = sentences(stored, source).join("; ");
    let message = if sentences.is_empty() || !verdict.is_green() {
        sentences
    } else {
        format!("{}, {sentences}", counted(stored.files, "file is stored", "files are stored"))
    };
    Account { verdict, reason, message, warnings: warnings.collect() }
}

/// The sentences of the message, the most harmful first, because a long message is truncated at its end.
fn sentences(stored: &StoredFolder, source: &str) -> Vec<String> {
    let StoredFolder {
        unreadable,
        mounts,
        without_attributes,
        changed,
        changed_folders,
        vanished_folders,
        passed_over,
        ..
    } = stored;
    let mut sentences = Vec::new();
    if unreadable.count > 0 {
        sentences.push(format!(
            "{} of the volume's entries could not be read, and all other entries are stored: {}",
            unreadable.count,
            list(unreadable, usize::MAX, named)
        ));
    }
    if mounts.count > 0 {
        sentences.push(format!(
            "{} in the volume, and its content is not stored: {}; back it up as a source of its own, or exclude it by \
             stowaway.dev/exclude",
            counted(mounts.count, "other file system is mounted", "other file systems are mounted"),
            list(mounts, usize::MAX, path)
        ));
    }
    if let Some(shrunken) = &stored.shrunken {
        sentences.push(shrunken::message(shrunken, &stored.snapshot, source));
    }
    if let Some(declined) = &stored.declined {
        sentences.push(shrunken::declined_message(declined));
    }
    if without_attributes.count > 0 {
        sentences.push(format!(
            "all contents are stored, but the attributes of {} could not be read: {}",
            counted(without_attributes.count, "entry", "entries"),
            list(without_attributes, NAMED, named)
        ));
    }
    if vanished_folders.count > 0 {
        let one = "folder was deleted before it was read, with all its content";
        let many = "folders were deleted before they were read, with all their content";
        sentences.push(format!(
            "{}: {}",
            counted(vanished_folders.count, one, many),
            list(vanished_folders, NAMED, path)
        ));
    }
    if changed.count > 0 {
        sentences.push(format!(
            "{} while being read, and may be stored as a mixture of old and new content: {}; for a point-in-time copy \
             use a snapshot of the volume (stowaway.dev/volume-snapshot-class) or a dump (stowaway.dev/backupcommand)",
            counted(changed.count, "file changed", "files changed"),
            list(changed, NAMED, named)
        ));
    }
    if changed_folders.count > 0 {
        let (one, many) = ("folder changed while it was read", "folders changed while they were read");
        sentences.push(format!(
            "{}, so entries that were added or moved meanwhile may be missing: {}; for a point-in-time copy use a snapshot \
             of the volume (stowaway.dev/volume-snapshot-class)",
            counted(changed_folders.count, one, many),
            list(changed_folders, NAMED, path)
        ));
    }
    if passed_over.count > 0 {
        let entries = counted(passed_over.count, "entry of the storage system is", "entries of the storage system are");
        let named = list(passed_over, NAMED, named);
        sentences.push(format!("{entries} skipped: {named}; if the app made such a directory, rename it"));
    }
    if let Some(error) = &stored.attributes_refused {
        sentences.push(format!("no attributes are stored, because the file system has none ({error})"));
    }
    let vanished = stored.vanished.saturating_sub(vanished_folders.count);
    if vanished > 0 {
        let (one, many) = ("entry was deleted before it was read", "entries were deleted before they were read");
        sentences.push(counted(vanished, one, many));
    }
    if stored.left_out > 0 {
        sentences.push(format!(
            "{} left out by the volume's patterns (stowaway.dev/exclude)",
            counted(stored.left_out, "entry is", "entries are")
        ));
    }
    sentences
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn list(troubles: &Troubles, most: usize, show: fn(&Trouble) -> String) -> String {
    let shown: Vec<String> = troubles.first.iter().take(most).map(show).collect();
    let more = if (shown.len() as u64) < troubles.count { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}

fn named(trouble: &Trouble) -> String {
    format!("{} ({})", trouble.path, trouble.reason)
}

fn path(trouble: &Trouble) -> String {
    trouble.path.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn troubles(count: u64, path: &str, reason: &str) -> Troubles {
        let one = Trouble { path: path.into(), reason: reason.into() };
        Troubles { count, first: (count > 0).then_some(one).into_iter().collect() }
    }

    fn stored() -> StoredFolder {
        StoredFolder { files: 7, bytes: 4711, ..StoredFolder::default() }
    }

    fn judged(stored: &StoredFolder) -> (Verdict, Reason, String) {
        let account = account_for(stored, "pvc/claim");
        (account.verdict, account.reason, account.message)
    }

    #[test]
    fn volume_which_is_stored_completely_has_an_empty_message() {
        assert_eq!(judged(&stored()), (Verdict::Succeeded, Reason::Completed, String::new()));
    }

    #[test]
    fn unreadable_entries_are_named_and_never_green() {
        let unreadable = troubles(2, "press/secret", "permission denied");
        let (verdict, reason, message) = judged(&StoredFolder { unreadable, left_out: 3, ..stored() });
        assert_eq!((verdict, reason), (Verdict::Incomplete, Reason::SourceUnreadable));
        assert!(message.starts_with("2 of the volume's entries could not be read"), "{message}");
        assert!(message.contains("press/secret (permission denied), ..."), "{message}");
        assert!(
            message.ends_with("; 3 entries are left out by the volume's patterns (stowaway.dev/exclude)"),
            "{message}"
        );
    }

    #[test]
    fn file_system_that_is_not_read_is_named_and_never_green() {
        let mounts = troubles(1, "exports/home", "another file system is mounted there");
        let (verdict, reason, message) = judged(&StoredFolder { mounts, ..stored() });
        assert_eq!((verdict, reason), (Verdict::Incomplete, Reason::SourceUnreadable));
        assert!(message.contains("1 other file system is mounted") && message.contains("exports/home"), "{message}");
        assert!(message.contains("stowaway.dev/exclude"), "the next step is named: {message}");
    }

    #[test]
    fn attributes_that_are_missing_are_a_verdict_of_their_own() {
        let without_attributes = troubles(1, "file", "failed to list its attributes: EIO");
        let (verdict, reason, message) = judged(&StoredFolder { without_attributes, ..stored() });
        assert_eq!((verdict, reason), (Verdict::Incomplete, Reason::MetadataNotKept));
        assert!(message.starts_with("all contents are stored"), "{message}");
    }

    #[test]
    fn findings_without_fault_of_the_run_are_green_and_named() {
        for (noted, expected) in [
            (StoredFolder { changed: troubles(2, "db.sqlite", "it was written to"), ..stored() }, "db.sqlite (it was"),
            (
                StoredFolder { changed_folders: troubles(1, "new", "changed"), ..stored() },
                "1 folder changed while it was read, so entries that were added or moved meanwhile may be missing: new",
            ),
            (StoredFolder { vanished: 3, ..stored() }, "7 files are stored, 3 entries were deleted"),
            (
                StoredFolder { vanished: 1, vanished_folders: troubles(1, "cache", "gone"), ..stored() },
                "1 folder was deleted before it was read, with all its content: cache",
            ),
            (StoredFolder { passed_over: troubles(1, ".zfs", "ZFS snapshots"), ..stored() }, ".zfs (ZFS snapshots)"),
            (StoredFolder { attributes_refused: Some("EIO".into()), ..stored() }, "no attributes are stored"),
            (StoredFolder { left_out: 1, ..stored() }, "7 files are stored, 1 entry is left out"),
        ] {
            let (verdict, reason, message) = judged(&noted);
            assert_eq!((verdict, reason), (Verdict::Succeeded, Reason::Completed), "{message}");
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn file_that_changed_has_a_next_step() {
        let message = judged(&StoredFolder { changed: troubles(1, "f", "it grew"), ..stored() }).2;
        assert!(message.contains("stowaway.dev/volume-snapshot-class"), "{message}");
    }
}
