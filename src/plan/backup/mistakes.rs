//! Mistakes in annotations and labels, in the status of a Backup and in its Events. They do not change the verdict: a
//! misspelt key of one pod must not fail a backup of everything else.

use super::{Actions, EventRecord, SourcePlan};
use crate::{
    api::{AnnotationWarning, BackupStatus},
    model::escape,
    plan::text::clip_line,
};

/// The reason of an Event about an annotation which probably has a mistake.
const ANNOTATION_WARNING: &str = "AnnotationWarning";
/// The maximum number of mistakes which a status lists, and of Events about annotations.
const MAX_LISTED: usize = 32;
/// The number of mistakes which the message of a condition names.
const NAMED: usize = 3;

/// Writes the mistakes into the status, and reports each warning by an Event.
pub(super) fn record(plan: &SourcePlan, status: &mut BackupStatus, actions: &mut Actions) {
    let mistakes = || plan.warnings.iter().filter(|one| one.warning.is_mistake);
    let listed = mistakes().take(MAX_LISTED).map(|one| AnnotationWarning {
        object: clip_line(&escape(&one.object)),
        key: clip_line(&escape(&one.warning.key)),
        message: clip_line(&escape(&one.warning.message)),
    });
    status.annotation_warnings = listed.collect();
    status.annotation_warnings_not_listed = rest(mistakes().count(), MAX_LISTED);
    let mut event = |note: String| {
        let reason = ANNOTATION_WARNING.to_owned();
        actions.events.push(EventRecord { is_warning: true, reason, action: "Plan", note, job: None });
    };
    plan.warnings.iter().take(MAX_LISTED).for_each(|warning| event(warning.to_string()));
    let more = rest(plan.warnings.len(), MAX_LISTED);
    if more > 0 {
        event(format!("{more} more annotations or labels have a warning; stowaway explain prints those of a file"));
    }
}

/// The sentence for a condition; `None` if there is no mistake.
pub(super) fn message(status: &BackupStatus) -> Option<String> {
    let listed = &status.annotation_warnings;
    let count =
        listed.len().saturating_add(usize::try_from(status.annotation_warnings_not_listed).unwrap_or(usize::MAX));
    let what = match count {
        0 => return None,
        1 => "1 annotation or label probably has a mistake".to_owned(),
        count => format!("{count} annotations or labels probably have a mistake"),
    };
    let named: Vec<String> = listed.iter().take(NAMED).map(ToString::to_string).collect();
    let more = if count > NAMED { format!("; and {} more", count - NAMED) } else { String::new() };
    Some(format!("{what}: {}{more}", named.join("; ")))
}

fn rest(count: usize, listed: usize) -> u32 {
    u32::try_from(count.saturating_sub(listed)).unwrap_or(u32::MAX)
}
