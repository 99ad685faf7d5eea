//! The verdict and message of a dump of a server which a failed Restore may have half filled. Pure.

use crate::model::{Reason, RunReport, SnapshotIdentity, Verdict};

/// The report of a dump with these labels. The controller's note about the Restore is appended later. An adopted snapshot
/// keeps the verdict that its own tags have given it.
pub(super) fn judged(report: RunReport, label: &SnapshotIdentity) -> RunReport {
    let is_judged = matches!(report.verdict, Verdict::Failed | Verdict::Suspect) || report.reason == Reason::Adopted;
    if is_judged || !label.has_tag(SnapshotIdentity::SUSPECT) {
        return report;
    }
    let stored = message(report.snapshot.as_deref().unwrap_or_default());
    let message = if report.message.is_empty() { stored } else { format!("{}; {stored}", report.message) };
    RunReport { verdict: Verdict::Suspect, reason: Reason::RestoreUnfinished, message, ..report }
}

/// The message about a snapshot which an earlier attempt of the run stored.
pub(super) fn adopted_message(snapshot: &str) -> String {
    format!("{}; an earlier attempt of this run has stored it", message(snapshot))
}

fn message(snapshot: &str) -> String {
    format!(
        "stored as suspect, so no restore chooses it automatically and no good snapshot is dropped for it; if the dump is \
         good, run `restic tag --remove suspect {}`",
        snapshot.get(..8).unwrap_or(snapshot)
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::Failure;

    #[test]
    fn dump_that_is_tagged_as_suspect_is_never_green() {
        let label = |tags: &[&str]| SnapshotIdentity {
            host: "orchard".into(),
            path: "/casks".into(),
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
        };
        let green = RunReport { snapshot: Some("ab".repeat(32)), ..RunReport::done(Duration::ZERO) };
        assert_eq!(judged(green.clone(), &label(&["run=x"])), green);
        let suspect = judged(green.clone(), &label(&["run=x", "suspect"]));
        assert_eq!((suspect.verdict, suspect.reason), (Verdict::Suspect, Reason::RestoreUnfinished));
        assert!(suspect.message.contains("restic tag --remove suspect abababab`"), "{suspect:?}");
        let unproven = RunReport { verdict: Verdict::Unproven, message: "no proof".into(), ..green.clone() };
        let suspect = judged(unproven, &label(&["suspect"]));
        assert!(suspect.verdict == Verdict::Suspect && suspect.message.starts_with("no proof; "), "{suspect:?}");
        // The tags of an earlier snapshot decide, and a failed dump stays one.
        let adopted = RunReport { reason: Reason::Adopted, ..green };
        assert_eq!(judged(adopted.clone(), &label(&["suspect"])), adopted);
        let failed = RunReport::failed(Failure::new(Reason::CommandFailed, "it broke"), Duration::ZERO);
        assert_eq!(judged(failed.clone(), &label(&["suspect"])), failed);
    }
}
