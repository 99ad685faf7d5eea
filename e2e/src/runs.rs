//! Creates Backup and Restore objects as a user does, and checks their final status.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};
use stowaway::{
    api::{self, Backup, Outcome, Repository, Restore, SourceState, SourceStatus},
    model::Verdict,
};

use crate::{Namespace, Sequence};

impl Namespace {
    /// Waits until the Repository is Ready.
    pub async fn wait_until_repository_ready(&self, name: &str) -> Result<Repository> {
        self.wait_for(name, "Ready", |repository: Option<&Repository>| {
            repository
                .and_then(|repository| repository.status.as_ref())
                .is_some_and(|status| api::condition_is_true(&status.conditions, api::READY))
        })
        .await
    }

    /// Waits until the Repository is not Ready for that reason, and returns the condition.
    pub async fn wait_until_repository_refused(&self, name: &str, reason: &str) -> Result<Condition> {
        let ready =
            |repository: &Repository| api::condition(&repository.status.as_ref()?.conditions, api::READY).cloned();
        let repository = self
            .wait_for(name, reason, move |repository: Option<&Repository>| {
                let condition = repository.and_then(ready);
                condition.is_some_and(|condition| condition.status == "False" && condition.reason == reason)
            })
            .await?;
        ready(&repository).context("the condition is missing")
    }

    /// Creates a Backup.
    pub async fn start_backup(&self, name: &str, spec: Value) -> Result<()> {
        self.apply_object(object("Backup", name, &spec)).await
    }

    /// Waits for the verdict of a Backup.
    pub async fn backup_ended(&self, name: &str) -> Result<Backup> {
        let ended = |backup: Option<&Backup>| backup.and_then(|backup| backup.status.as_ref()?.verdict).is_some();
        self.wait_for(name, "ended", ended).await
    }

    /// Creates a Backup and waits for its verdict.
    pub async fn back_up(&self, name: &str, spec: Value) -> Result<Backup> {
        self.start_backup(name, spec).await?;
        self.backup_ended(name).await
    }

    /// Waits until every source of the Backup is Running.
    pub async fn wait_until_backup_runs(&self, name: &str) -> Result<Backup> {
        self.wait_for(name, "running", |backup: Option<&Backup>| {
            backup.and_then(|backup| backup.status.as_ref()).is_some_and(|status| {
                !status.sources.is_empty() && status.sources.iter().all(|source| source.state == SourceState::Running)
            })
        })
        .await
    }

    /// Creates a Restore and waits for its verdict.
    pub async fn restore(&self, name: &str, spec: Value) -> Result<Restore> {
        self.apply_object(object("Restore", name, &spec)).await?;
        let ended =
            |restore: Option<&Restore>| restore.and_then(|restore| restore.status.as_ref()?.outcome.verdict).is_some();
        self.wait_for(name, "ended", ended).await
    }
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "stowaway.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

/// The status of one source of a Backup.
pub fn source<'a>(backup: &'a Backup, name: &str) -> Result<&'a SourceStatus> {
    let sources = &backup.status.as_ref().context("the Backup has no status")?.sources;
    sources.iter().find(|source| source.name.as_str() == name).with_context(|| {
        let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
        format!("the Backup has no source {name}; it has {}", names.join(", "))
    })
}

/// Checks that the Backup and all of its sources are green.
pub fn all_green(backup: &Backup) -> Result<()> {
    let status = backup.status.as_ref().context("the Backup has no status")?;
    ensure!(!status.sources.is_empty(), "the Backup has no source");
    for source in &status.sources {
        ended(source.name.as_str(), &source.outcome, Verdict::Succeeded, &["Completed"])?;
    }
    ensure!(
        status.verdict == Some(Verdict::Succeeded),
        "all sources are green, and the Backup is {:?}",
        status.verdict
    );
    ensure!(
        api::condition_is_true(&status.conditions, api::COMPLETE),
        "green, and not Complete: {:?}",
        status.conditions
    );
    Ok(())
}

/// Checks that the outcome has that verdict for one of those reasons, and that a failure has a message.
pub fn ended(what: &str, outcome: &Outcome, verdict: Verdict, reasons: &[&str]) -> Result<()> {
    let is_as_expected = outcome.verdict == Some(verdict) && reasons.contains(&outcome.reason.as_str());
    ensure!(
        is_as_expected,
        "{what}: expected {verdict} for {}, got {:?} for {} (exit code {:?}, {:?} bytes): {}\n{}",
        reasons.join(" or "),
        outcome.verdict,
        outcome.reason,
        outcome.exit_code,
        outcome.bytes,
        outcome.message,
        outcome.stderr_tail
    );
    ensure!(verdict != Verdict::Failed || !outcome.message.is_empty(), "{what}: a failure without a message");
    Ok(())
}

/// Checks that the message contains all these texts.
pub fn ensure_contains(what: &str, message: &str, texts: &[&str]) -> Result<()> {
    for text in texts {
        if !message.contains(text) {
            bail!("{what} does not contain {text:?}: {message}");
        }
    }
    Ok(())
}

/// Maps each source to the digest that its snapshots must have.
pub fn known(sources: &[(&str, &Sequence)]) -> BTreeMap<String, String> {
    sources.iter().map(|(source, sequence)| ((*source).to_owned(), sequence.digest())).collect()
}
