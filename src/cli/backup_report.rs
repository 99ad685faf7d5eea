//! What `backup --wait` prints below the table of a Backup that has ended: the message of each source, what is missing,
//! and what was skipped. The message of a green source states its reservations: accepted without proof, excluded files.
//! A list that the status has cut is printed with the number of the rest.

use super::fields;
use crate::{
    api::{BackupStatus, COMPLETE, Outcome, condition},
    model::Verdict,
};

/// The lines, without the table of the sources.
pub(super) fn lines(status: &BackupStatus) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for source in &status.sources {
        lines.extend(remarks(source.name.as_str(), &source.outcome));
    }
    for missing in &status.missing {
        let message = fields::with_options(&missing.message);
        lines.push(format!("{}: missing ({:?}): {message}", missing.name, missing.reason));
    }
    if status.missing_not_listed > 0 {
        lines.push(format!("{} more sources are missing", status.missing_not_listed));
    }
    if let Some(left_out) = &status.left_out {
        lines.push(fields::with_options(left_out));
    }
    let is_green = status.verdict.is_some_and(Verdict::is_green);
    let is_explained = status.left_out.is_some()
        || status.sources.iter().any(|source| source.outcome.verdict.is_some_and(|verdict| !verdict.is_green()))
        || status.missing.iter().any(|missing| missing.reason.is_loss());
    let is_whole = !status.sources.is_empty() && (is_green || is_explained);
    if let Some(condition) = condition(&status.conditions, COMPLETE).filter(|_| !is_whole) {
        lines.push(format!("{}: {}", condition.reason, fields::with_options(&condition.message)));
    }
    for skipped in &status.skipped {
        // The name of a workload has its kind, and that of a claim has none.
        let kind = if skipped.name.contains('/') { "" } else { "pvc/" };
        lines.push(format!("{kind}{}: not backed up ({:?}): {}", skipped.name, skipped.reason, skipped.message));
    }
    if status.skipped_not_listed > 0 {
        lines.push(format!("{} more were skipped", status.skipped_not_listed));
    }
    for warning in &status.annotation_warnings {
        lines.push(format!("probably a mistake in an annotation or label: {warning}"));
    }
    if status.annotation_warnings_not_listed > 0 {
        lines.push(format!(
            "{} more annotations or labels probably have a mistake",
            status.annotation_warnings_not_listed
        ));
    }
    lines
}

/// The message of a source or a Restore, and the end of its command's stderr; nothing if it succeeded without a
/// message.
pub(super) fn remarks(what: &str, outcome: &Outcome) -> Vec<String> {
    if outcome.verdict.is_some_and(Verdict::is_green) && outcome.message.is_empty() {
        return Vec::new();
    }
    let first = format!("{what}: {}", fields::with_options(&outcome.message));
    std::iter::once(first).chain(outcome.stderr_tail.lines().map(|line| format!("  | {line}"))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn lines_of(status: &Value) -> Vec<String> {
        lines(&serde_json::from_value(status.clone()).unwrap())
    }

    fn green() -> Value {
        json!({ "name": "pvc/data", "state": "Done", "verdict": "Succeeded", "reason": "Completed" })
    }

    fn complete(reason: &str, message: &str) -> Value {
        json!([{ "type": "Complete", "status": "False", "reason": reason, "message": message, "lastTransitionTime": "2026-05-04T03:02:01Z" }])
    }

    #[test]
    fn missing_sources_are_printed_whatever_their_reason_is() {
        let missing = |reason: &str| json!({ "name": format!("deployment/{}/main", reason.to_lowercase()), "reason": reason, "message": "scale it up" });
        for (verdict, reason) in [("Incomplete", "NoPod"), ("Incomplete", "Unknown"), ("Succeeded", "Gone")] {
            let status = json!({
                "verdict": verdict, "sources": [green()], "missing": [missing(reason)], "missingNotListed": 2,
                "conditions": complete("SourcesMissing", "1 of 1 sources are green"),
            });
            let name = reason.to_lowercase();
            let first = format!("deployment/{name}/main: missing ({reason}): scale it up");
            assert_eq!(lines_of(&status), [first.as_str(), "2 more sources are missing"]);
        }
    }

    #[test]
    fn backup_that_is_not_green_is_always_explained() {
        let conditions = complete("SourcesMissing", "the cause");
        for (status, expected) in [
            (json!({ "verdict": "Failed", "conditions": conditions }), vec!["SourcesMissing: the cause"]),
            (
                json!({ "verdict": "Incomplete", "sources": [green()], "conditions": conditions }),
                vec!["SourcesMissing: the cause"],
            ),
            (
                json!({ "verdict": "Incomplete", "sources": [green()], "leftOut": "300 sources", "conditions": conditions }),
                vec!["300 sources"],
            ),
            (json!({ "verdict": "Succeeded", "sources": [green()], "conditions": conditions }), vec![]),
        ] {
            assert_eq!(lines_of(&status), expected, "{status}");
        }
        let mut failed = green();
        failed["verdict"] = json!("Failed");
        failed["message"] = json!("no space");
        failed["stderrTail"] = json!("cat: x\ny");
        let status = json!({ "verdict": "Failed", "sources": [failed], "conditions": conditions });
        assert_eq!(lines_of(&status), ["pvc/data: no space", "  | cat: x", "  | y"]);
    }

    #[test]
    fn reservations_of_a_green_source_are_printed() {
        let mut noted = green();
        noted["name"] = json!("deployment/shop/main");
        noted["message"] = json!("stored, but nothing proved the end of the stream");
        let status = json!({ "verdict": "Succeeded", "sources": [green(), noted] });
        assert_eq!(lines_of(&status), ["deployment/shop/main: stored, but nothing proved the end of the stream"]);
    }

    #[test]
    fn skipped_claims_and_workloads_have_their_own_names_and_a_cut_list_has_the_number_of_the_rest() {
        let skipped = |name: &str, reason: &str| json!({ "name": name, "reason": reason, "message": "m" });
        let status = json!({
            "verdict": "Succeeded", "sources": [green()], "skippedNotListed": 3,
            "skipped": [skipped("cache", "OptedOut"), skipped("deployment/two", "OutsideClaims")],
        });
        let expected = [
            "pvc/cache: not backed up (OptedOut): m",
            "deployment/two: not backed up (OutsideClaims): m",
            "3 more were skipped",
        ];
        assert_eq!(lines_of(&status), expected);
    }
}
