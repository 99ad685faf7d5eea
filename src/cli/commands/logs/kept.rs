//! The part of a source's log which the status of a run keeps: the last lines, and the result. It outlives the pod.

use indicatif::BinaryBytes;
use kube::Client;
use serde_json::json;

use crate::cli::{
    CliError,
    args::{Output, RunName},
    explain,
    output::{note, print_json_line, print_line},
};
use crate::{
    api::{Backup, Outcome, Restore},
    cluster::{call::CallError, observe},
    plan::names::RunKind,
};

/// The kept log of one source.
#[derive(Debug, PartialEq)]
pub(super) struct Kept {
    kind: RunKind,
    /// Name of the source.
    pub source: String,
    attempt: Option<u32>,
    lines: Vec<String>,
}

/// The kept logs of the Backup's or Restore's sources. A status that cannot be read is reported, and yields none.
pub(super) async fn of_run(client: &Client, namespace: &str, RunName { kind, name }: &RunName) -> Vec<Kept> {
    let mut found = Vec::new();
    if matches!(kind, None | Some(RunKind::Backup)) {
        match observe::object::<Backup>(client, namespace, name).await {
            Ok(backup) => found.extend(backup.iter().flat_map(of_backup)),
            Err(error) => unreadable("Backup", namespace, name, &error),
        }
    }
    if matches!(kind, None | Some(RunKind::Restore)) {
        match observe::object::<Restore>(client, namespace, name).await {
            Ok(restore) => found.extend(restore.iter().filter_map(of_restore)),
            Err(error) => unreadable("Restore", namespace, name, &error),
        }
    }
    found
}

fn unreadable(kind: &str, namespace: &str, name: &str, error: &CallError) {
    note(&format!("the status of {kind} {namespace}/{name} cannot be read: {}", explain(error)));
}

fn of_backup(backup: &Backup) -> Vec<Kept> {
    let sources = backup.status.iter().flat_map(|status| &status.sources);
    let kept = sources.filter_map(|source| {
        let lines = lines(&source.outcome);
        let (kind, attempt) = (RunKind::Backup, Some(source.attempt));
        (!lines.is_empty()).then(|| Kept { kind, source: source.name.to_string(), attempt, lines })
    });
    kept.collect()
}

fn of_restore(restore: &Restore) -> Option<Kept> {
    let lines = lines(&restore.status.as_ref()?.outcome);
    let (kind, source) = (RunKind::Restore, restore.spec.from.source.to_string());
    (!lines.is_empty()).then_some(Kept { kind, source, attempt: None, lines })
}

fn lines(outcome: &Outcome) -> Vec<String> {
    let Outcome { verdict, reason, message, bytes, snapshot, log_tail, stderr_tail, .. } = outcome;
    let mut lines: Vec<String> = log_tail.lines().map(str::to_owned).collect();
    lines.extend(stderr_tail.lines().map(|line| format!("| {line}")));
    let note = if message.is_empty() { String::new() } else { format!(": {message}") };
    match verdict {
        Some(verdict) => {
            let snapshot = snapshot.as_deref().map_or_else(String::new, |id| format!(", snapshot {id}"));
            let bytes = BinaryBytes(bytes.unwrap_or(0));
            lines.push(format!("verdict {verdict}: {reason}{note} ({bytes}{snapshot})"));
        }
        None if !reason.is_empty() => lines.push(format!("no verdict yet: {reason}{note}")),
        None => {}
    }
    lines
}

impl Kept {
    /// Prints it in the same format as the log of a pod.
    pub fn print(&self, output: Output) -> Result<(), CliError> {
        let Self { kind, source, attempt, lines } = self;
        if output == Output::Text {
            let attempt = attempt.map(|attempt| format!(", attempt {attempt}")).unwrap_or_default();
            print_line(&format!("==> {kind} of {source}{attempt} (its pod is deleted; from the status)"))?;
        }
        for line in lines {
            match output {
                Output::Text => print_line(line)?,
                Output::Json => print_json_line(&json!({
                    "kind": kind.to_string(),
                    "source": source,
                    "attempt": attempt.map(|attempt| attempt.to_string()),
                    "pod": null,
                    "line": line,
                }))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_whose_pod_is_deleted_has_its_last_lines_and_its_result() {
        let status = json!({ "sources": [
            { "name": "pvc/cask", "state": "Done", "attempt": 2, "verdict": "Incomplete", "reason": "SourceUnreadable",
              "message": "1 entry was not read", "bytes": 2048, "logTail": " WARN not read: /a\n WARN not read: /b" },
            { "name": "pvc/new", "state": "Waiting" },
        ] });
        let object = json!({ "apiVersion": "stowaway.dev/v1alpha1", "kind": "Backup", "metadata": { "name": "one" }, "spec": {}, "status": status });
        let backup: Backup = serde_json::from_value(object).unwrap();
        let [kept] = &of_backup(&backup)[..] else { panic!("{:?}", of_backup(&backup)) };
        assert_eq!((kept.source.as_str(), kept.attempt), ("pvc/cask", Some(2)));
        assert_eq!(
            kept.lines,
            [
                " WARN not read: /a",
                " WARN not read: /b",
                "verdict Incomplete: SourceUnreadable: 1 entry was not read (2.00 KiB)",
            ]
        );
    }
}
