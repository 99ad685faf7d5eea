//! Validates a Repository, Backup or Restore at admission, beyond the schema of its CRD. Without these checks, a
//! mistake would show only when a run fails.
//!
//! Of the other objects in the namespace only the Repositories are known. A missing Repository is only a warning,
//! because it may be created a moment later. A Restore's command is never shown.

use std::{borrow::Cow, fmt::Display};

use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ValidationResult, maintenance, runner_pod};
use crate::{
    annotations::{MAX_COMMAND_BYTES, PREFIX, label, object_name, positive_duration},
    api::{
        ACCEPT_REPOSITORY, Backup, HOST_PATH_TYPES, IS_DEFAULT, Repository, Restore, RestoreArchive, S3Backend,
        SecretKeyReference, StoreLocation, VolumeBackend, credential_sources, host_path_problem,
    },
    model::{ArchiveFormat, LiteralSyntax, command_warnings, region_of_endpoint, wrong_archive_name},
    plan::{self, PlanProblem, SourceFacts, choose_repository, plan_sources},
    webhook::review::RefusedField,
};

/// The findings, in the order of the fields.
#[derive(Default)]
pub(super) struct Findings {
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

struct Problem {
    /// The names on the path to the field.
    path: Vec<String>,
    message: String,
}

impl Problem {
    /// The field's value.
    fn value<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        self.path.iter().try_fold(object, |value, name| match value {
            Value::Array(list) => list.get(name.parse::<usize>().ok()?),
            value => value.get(name),
        })
    }

    fn refused(&self) -> RefusedField {
        let message = format!("{}: {}", self.path.join("."), self.message);
        RefusedField { reason: "FieldValueInvalid".to_owned(), message, field: self.path.join(".") }
    }
}

impl Findings {
    /// Adds a problem with a field whose value may be shown.
    pub fn wrong(&mut self, path: &[&str], value: impl Display, reason: impl Display) {
        self.hidden(path, format_args!("{reason}; it is \"{value}\""));
    }

    /// Adds a problem with a field whose value is not shown.
    pub fn hidden(&mut self, path: &[&str], message: impl Display) {
        let path = path.iter().map(|name| (*name).to_owned()).collect();
        self.problems.push(Problem { path, message: message.to_string() });
    }

    /// Adds a warning about a setting that is probably a mistake.
    pub fn warn(&mut self, path: &[&str], message: impl Display) {
        self.warnings.push(format!("{}: {message}", path.join(".")));
    }

    /// Validates the name of another object.
    pub fn name(&mut self, path: &[&str], name: &str) {
        if let Err(reason) = object_name(name) {
            self.wrong(path, name, reason);
        }
    }

    /// Validates the name of a Secret and a key in it.
    fn secret(&mut self, path: &[&str], name: &str, key: &str) {
        self.name(&[path, &["name"]].concat(), name);
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if !key.bytes().all(allowed) || matches!(key, "." | "..") {
            self.wrong(&[path, &["key"]].concat(), key, "is not a key of a Secret: letters, digits, '-', '_' and '.'");
        }
    }
}

/// Validates an object of Stowaway and, for an update, compares with the old version; none for an unknown kind.
pub fn object(
    kind: &str,
    object: &Value,
    old: Option<&Value>,
    repositories: &[Repository],
) -> Option<ValidationResult> {
    let findings = examine(kind, object, repositories)?;
    let before = old.filter(|_| !findings.problems.is_empty()).and_then(|old| examine(kind, old, repositories));
    let mut result = ValidationResult::of(object, findings.warnings);
    for problem in findings.problems {
        let is_same = |other: &Problem| other.path == problem.path && other.message == problem.message;
        let known = before.as_ref().is_some_and(|before| before.problems.iter().any(is_same))
            && old.is_some_and(|old| problem.value(old) == problem.value(object));
        result.add(problem.refused(), known);
    }
    Some(result)
}

fn examine(kind: &str, object: &Value, repositories: &[Repository]) -> Option<Findings> {
    let mut findings = Findings::default();
    match kind {
        "Repository" => {
            if let Some(repository) = read(object, &mut findings) {
                of_repository(&repository, repositories, &mut findings);
            }
        }
        "Backup" => {
            if let Some(backup) = read(&durations(object, &mut findings), &mut findings) {
                of_backup(&backup, repositories, &mut findings);
            }
        }
        "Restore" => {
            if let Some(restore) = read(&durations(object, &mut findings), &mut findings) {
                of_restore(&restore, repositories, &mut findings);
            }
        }
        _ => return None,
    }
    Some(findings)
}

/// Parses the object. An object that cannot be parsed could not be executed either. The library's message would quote
/// values.
fn read<K: DeserializeOwned>(object: &Value, findings: &mut Findings) -> Option<K> {
    let spec = K::deserialize(object);
    if spec.is_err() {
        findings.hidden(&["spec"], "this version of Stowaway cannot parse it; is the webhook as new as the CRD?");
    }
    spec.ok()
}

/// Validates both durations of a run's spec on the raw text. Returns the object without invalid durations, so that the
/// rest can be validated: the library's own parser of durations fails at some texts.
fn durations<'a>(object: &'a Value, findings: &mut Findings) -> Cow<'a, Value> {
    let mut readable = Cow::Borrowed(object);
    let mut duration = |field: &str| {
        let text = object.get("spec")?.get(field)?.as_str()?;
        let duration = positive_duration(text).map_err(|reason| findings.wrong(&["spec", field], text, reason)).ok();
        if duration.is_none()
            && let Some(spec) = readable.to_mut().get_mut("spec").and_then(Value::as_object_mut)
        {
            spec.remove(field);
        }
        duration
    };
    let (timeout, idle) = (duration("timeout"), duration("idleTimeout"));
    if let (Some(timeout), Some(idle)) = (timeout, idle)
        && idle >= timeout
    {
        findings.warn(&["spec", "idleTimeout"], "has no effect, because spec.timeout is not longer");
    }
    readable
}

/// Warns about a Repository that is not the default, which its author may expect, and about a new one that becomes the
/// default instead of another one. The API server has set the creation time of a new object before it is validated.
fn warn_of_the_default(repository: &Repository, repositories: &[Repository], findings: &mut Findings) {
    let name = repository.name_any();
    let is_known = repositories.iter().any(|other| other.name_any() == name);
    let is_marked =
        |repository: &Repository| repository.annotations().get(IS_DEFAULT).is_some_and(|value| value == "true");
    let created = |repository: &Repository| repository.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let others = || repositories.iter().filter(|other| other.name_any() != name);
    let Ok(other) = choose_repository(others(), None) else { return };
    let Ok(chosen) = choose_repository(others().chain([repository]), None) else { return };
    if is_marked(other) || is_marked(repository) {
        return;
    }
    let same_second = "both were created in the same second, and its name comes first";
    let other_name = other.name_any();
    let message = if chosen.name_any() != name {
        let why = if created(other) == created(repository) { same_second } else { "it is older" };
        format!(
            "Repository {other_name} remains the default, because {why}; to use this one by default, annotate it with \
             {IS_DEFAULT}: \"true\""
        )
    } else if is_known {
        return;
    } else {
        format!(
            "this Repository becomes the default instead of Repository {other_name}, because {same_second}; annotate the \
             one to use by default with {IS_DEFAULT}: \"true\""
        )
    };
    findings.warn(&["metadata", "name"], message);
}

fn of_repository(repository: &Repository, repositories: &[Repository], findings: &mut Findings) {
    let spec = &repository.spec;
    for (key, value) in repository.annotations().iter().filter(|(key, _)| key.starts_with(PREFIX)) {
        let path = ["metadata", "annotations", key.as_str()];
        if key == ACCEPT_REPOSITORY {
            if !plan::is_acceptance(value) {
                findings.warn(&path, "has no effect; it is the id of a repository, 64 hex digits, or \"new\"");
            }
        } else if key != IS_DEFAULT {
            findings.warn(
                &path,
                format_args!("is not known on a Repository and has no effect; the others are {IS_DEFAULT} and {ACCEPT_REPOSITORY}"),
            );
        } else if value == "true" {
            let is_other = |other: &&Repository| {
                other.name_any() != repository.name_any() && other.annotations().get(IS_DEFAULT) == Some(value)
            };
            if let Some(other) = repositories.iter().find(is_other) {
                let other = other.name_any();
                let message = format!(
                    "Repository {other} is the default, too; while both are, neither is used: remove the annotation from \
                     one (kubectl annotate repositories.stowaway.dev {other} {IS_DEFAULT}-)"
                );
                findings.warn(&path, message);
            }
        } else if value != "false" {
            findings.warn(&path, "has no effect; only \"true\" makes a Repository the default one");
        }
    }
    warn_of_the_default(repository, repositories, findings);
    let backends = [
        spec.s3.is_some(),
        spec.azure.is_some(),
        spec.gcs.is_some(),
        spec.rest.is_some(),
        spec.sftp.is_some(),
        spec.volume.is_some(),
    ];
    if backends.iter().filter(|present| **present).count() != 1 {
        findings.hidden(&["spec"], "set exactly one backend: s3, azure, gcs, rest, sftp or volume");
    }
    of_store(spec, &["spec"], findings);
    let password = &spec.password_secret_ref;
    findings.secret(&["spec", "passwordSecretRef"], &password.name, &password.key);
    maintenance::check(repository, repositories, findings);
    if let Some(pod) = &spec.runner_pod {
        runner_pod::check(pod, findings);
    }
}

/// Validates the store of a repository or an archive, whose fields are at `base`.
fn of_store<'a>(store: impl Into<StoreLocation<'a>>, base: &[&str], findings: &mut Findings) {
    let store = store.into();
    let at = |path: &[&'static str]| [base, path].concat();
    if let Some(s3) = store.s3 {
        of_s3(s3, base, findings);
    }
    if let Some(endpoint) = store.azure.and_then(|azure| azure.endpoint.as_deref()) {
        of_url(&at(&["azure", "endpoint"]), endpoint, findings);
    }
    if let Some(endpoint) = store.gcs.and_then(|gcs| gcs.endpoint.as_deref()) {
        of_url(&at(&["gcs", "endpoint"]), endpoint, findings);
    }
    if let Some(rest) = store.rest {
        of_url(&at(&["rest", "url"]), &rest.url, findings);
    }
    for (_, source, path) in credential_sources(store) {
        let SecretKeyReference { name, key } = source.reference();
        findings.secret(&at(&path), name, key);
    }
    if let Some(volume) = store.volume {
        of_volume(volume, base, findings);
    }
}

fn of_s3(s3: &S3Backend, base: &[&str], findings: &mut Findings) {
    let at = |field: &'static str| [base, &["s3", field]].concat();
    let host = of_url(&at("endpoint"), &s3.endpoint, findings);
    let of_host = region_of_endpoint(&s3.endpoint);
    if let Some((region, given)) = of_host.zip(s3.region.as_deref()).filter(|(region, given)| region != given) {
        findings.warn(
            &at("region"),
            format_args!("is {given}, but the endpoint is in {region}; leave it out, so that the endpoint names it"),
        );
    }
    let bucket = at("bucket");
    if ["..", ".-", "-."].iter().any(|part| s3.bucket.contains(part)) {
        findings.wrong(&bucket, &s3.bucket, "is not a bucket name: a dot must be between letters or digits");
    }
    if s3.path_style {
        return;
    }
    // The bucket becomes part of the host name.
    if let Some(host) = host.filter(|host| host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok()) {
        findings.wrong(&at("pathStyle"), false, format_args!("a bucket cannot be put before the address {host}"));
    }
    if s3.bucket.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'_') {
        findings.wrong(
            &bucket,
            &s3.bucket,
            "with pathStyle false it is part of a host name: lower-case letters, digits and '-'",
        );
    } else if s3.bucket.contains('.') && s3.endpoint.starts_with("https:") {
        findings.warn(
            &bucket,
            "with pathStyle false and https, a bucket with a dot matches no certificate of most services",
        );
    }
}

/// Validates the URL of a service, and returns its host.
fn of_url(path: &[&str], url: &str, findings: &mut Findings) -> Option<String> {
    let host = url.parse::<http::Uri>().ok().and_then(|url| {
        let authority = url.authority()?;
        let host = authority.host();
        // After the host there is a port, or nothing.
        let is_sound = host == authority.as_str() || authority.port_u16().is_some_and(|port| port > 0);
        (!host.is_empty() && is_sound).then(|| host.to_owned())
    });
    if host.is_none() {
        // The value is hidden, because a user may have put a password into it.
        findings.hidden(path, "is not a URL of a service, such as https://s3.example.org or http://minio.backup:9000");
    }
    host
}

fn of_volume(volume: &VolumeBackend, base: &[&str], findings: &mut Findings) {
    let at = |kind: &'static str, field: &'static str| [base, &["volume", kind, field]].concat();
    let mut read_only = Vec::new();
    if let Some(claim) = &volume.persistent_volume_claim {
        findings.name(&at("persistentVolumeClaim", "claimName"), &claim.claim_name);
        read_only.push(("persistentVolumeClaim", claim.read_only));
    }
    if let Some(nfs) = &volume.nfs {
        if nfs.server.is_empty() {
            findings.hidden(&at("nfs", "server"), "is empty");
        }
        folder(&at("nfs", "path"), &nfs.path, findings);
        read_only.push(("nfs", nfs.read_only));
    }
    if let Some(host_path) = &volume.host_path {
        if let Some(reason) = host_path_problem(&host_path.path) {
            findings.wrong(&at("hostPath", "path"), &host_path.path, reason);
        }
        let kind = host_path.type_.as_deref().unwrap_or_default();
        if !HOST_PATH_TYPES.contains(&kind) {
            findings.wrong(&at("hostPath", "type"), kind, "the store is a directory: Directory or DirectoryOrCreate");
        }
    }
    if let Some(csi) = &volume.csi {
        if csi.driver.is_empty() {
            findings.hidden(&at("csi", "driver"), "is empty");
        }
        read_only.push(("csi", csi.read_only));
    }
    if let Some(azure) = &volume.azure_file {
        findings.name(&at("azureFile", "secretName"), &azure.secret_name);
        if azure.share_name.is_empty() {
            findings.hidden(&at("azureFile", "shareName"), "is empty");
        }
        read_only.push(("azureFile", azure.read_only));
    }
    for (kind, _) in read_only.into_iter().filter(|(_, read_only)| *read_only == Some(true)) {
        let reason = "the store must be writable, because even a restore writes a lock to it; leave readOnly out";
        findings.wrong(&at(kind, "readOnly"), true, reason);
    }
}

/// Validates a directory of a node or a server. Kubernetes refuses paths with `..`.
fn folder(path: &[&str], folder: &str, findings: &mut Findings) {
    if !folder.starts_with('/') || folder.split('/').any(|part| part == "..") {
        findings.wrong(path, folder, "has to be an absolute path without '..'");
    }
}

fn of_reference(name: Option<&str>, repositories: &[Repository], findings: &mut Findings) {
    let path = ["spec", "repositoryRef", "name"];
    let Some(name) = name else {
        if repositories.is_empty() {
            findings
                .warn(&path[..2], "there is no Repository in this namespace yet; the run waits some minutes for one");
        }
        return;
    };
    findings.name(&path, name);
    if !repositories.iter().any(|repository| repository.name_any() == name) {
        let message = format!("there is no Repository {name} in this namespace yet; the run waits some minutes for it");
        findings.warn(&path, message);
    }
}

fn of_backup(backup: &Backup, repositories: &[Repository], findings: &mut Findings) {
    let spec = &backup.spec;
    // Parsed by the plan itself, without pods.
    let selector = spec.selector.as_ref();
    let plan = plan_sources(SourceFacts {
        namespace: "",
        pods: &[],
        claims: None,
        selector,
        cluster: "",
        backup_uid: "",
        expected: None,
    });
    for problem in &plan.problems {
        match problem {
            PlanProblem::Selector { message } => findings.hidden(&["spec", "selector"], message),
            problem => findings.hidden(&["spec"], problem),
        }
    }
    of_reference(spec.repository_ref.as_ref().map(|reference| reference.name.as_str()), repositories, findings);
    if let Some(pod) = &spec.runner_pod {
        runner_pod::check(pod, findings);
    }
    if spec.idle_timeout.is_some() && spec.timeout.is_none() {
        findings.warn(&["spec", "idleTimeout"], "applies only to commands; set spec.timeout to limit volumes");
    }
}

fn of_archive(to: &RestoreArchive, findings: &mut Findings) {
    of_store(to, &["spec", "to", "archive"], findings);
    let Some(name) = &to.name else { return };
    let path = ["spec", "to", "archive", "name"];
    if let Some(wrong) = wrong_archive_name(name) {
        findings.wrong(&path, name, wrong);
    }
    let is_of_another = |format: &ArchiveFormat| name.ends_with(&format!(".{format}"));
    if let Some(other) = ArchiveFormat::ALL.iter().find(|format| **format != to.format && is_of_another(format)) {
        findings.warn(&path, format_args!("has the suffix of format {other}, but the format is {}", to.format));
    }
}

fn of_restore(restore: &Restore, repositories: &[Repository], findings: &mut Findings) {
    let spec = &restore.spec;
    let source = spec.from.source.as_str();
    let parts: Vec<&str> = source.split('/').collect();
    if let ["statefulset", workload, rest @ ..] = &parts[..] {
        let name = format!("pod/{workload}-0/{}", rest.join("/"));
        let reason = format!("is not a source: each pod of a StatefulSet is a source, for example {name}");
        findings.wrong(&["spec", "from", "source"], source, reason);
    }
    if let Some(pod) = &spec.runner_pod {
        runner_pod::check(pod, findings);
    }
    if let Some(to) = &spec.to {
        if spec.idle_timeout.is_some() && (to.claim.is_some() || to.archive.is_some()) {
            let message = "applies only to a command that no longer reads; for a claim or an archive set spec.timeout";
            findings.hidden(&["spec", "idleTimeout"], message);
        }
        if let Some(pod) = &to.pod {
            findings.name(&["spec", "to", "pod"], pod);
        }
        if let Some(container) = &to.container
            && let Err(reason) = label(container)
        {
            findings.wrong(&["spec", "to", "container"], container, reason);
        }
        if let Some(archive) = &to.archive {
            of_archive(archive, findings);
        }
        let command = ["spec", "to", "command"];
        for warning in command_warnings(&to.command, true, LiteralSyntax::of(&to.command, &[]).as_ref()) {
            findings.warn(&command, warning);
        }
        if to.command.first().is_some_and(String::is_empty) {
            findings.hidden(&command, "begins with an empty argument instead of a program");
        }
        if to.command.iter().any(|argument| argument.contains('\0')) {
            findings.hidden(&command, "contains a NUL, which no argument can contain");
        }
        if to.command.iter().map(String::len).sum::<usize>() > MAX_COMMAND_BYTES {
            findings.hidden(
                &command,
                format_args!("has more than {MAX_COMMAND_BYTES} bytes; put the script into the image or a ConfigMap"),
            );
        }
    }
    of_reference(spec.repository_ref.as_ref().map(|reference| reference.name.as_str()), repositories, findings);
}
