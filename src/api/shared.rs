//! Parts of specs and statuses that several kinds share.
//!
//! It must not know which kind it is used in.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, PodSecurityContext, ResourceRequirements, Toleration,
};
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::model::{Proof, SourceReport, Verdict, escape_lines};

/// The schema's limit of [`Outcome::stderr_tail`] and [`Outcome::log_tail`].
const MAXIMUM_TAIL_BYTES: usize = 1024;

/// Names a repository.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryReference {
    /// Kind of the repository.
    #[serde(default)]
    pub kind: RepositoryKind,
    /// Name of the repository, in the same namespace.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

impl fmt::Display for RepositoryReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind: RepositoryKind::Repository, name } = self;
        write!(formatter, "Repository {name}")
    }
}

/// The kinds of repository.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum RepositoryKind {
    /// One of the same namespace.
    #[default]
    Repository,
}

/// Names one key of a Secret in the same namespace.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key within it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Shapes the pods of the Jobs. What is not said here stays as Stowaway makes it; its own labels and annotations win.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunnerPod {
    /// Requests and limits of the runner; they replace the defaults as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints to be tolerated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,
    /// Where the pod likes to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Secrets to pull the runner's image with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Further labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
    /// Further annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
    /// Security context of the pod; each field that is set here replaces the default one. A `hostPath` or `nfs`
    /// repository is not made writable by `fsGroup`: its folder has to belong to `runAsUser` (default 65532).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurityContext>,
    /// Environment variables of the runner, for example `HTTPS_PROXY` and `NO_PROXY`, or `SSL_CERT_FILE`. Those of the
    /// Repository also reach the containers that are injected into pods and use its store. A variable of a run replaces that
    /// of the Repository with the same name. Stowaway's own variables cannot be set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<RunnerVariable>,
    /// Name of the `PriorityClass` of the pod: one with a low priority is preempted by others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

/// An environment variable of the runner.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.value) && has(self.valueFrom))")
    .message("value and valueFrom exclude each other"))]
pub struct RunnerVariable {
    /// Name of the variable.
    #[schemars(length(max = 128), regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub value: Option<String>,
    /// Where its value is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<VariableSource>,
}

/// Where the value of an environment variable is, in the same namespace.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretKeyRef) != has(self.configMapKeyRef)")
    .message("exactly one is wanted: secretKeyRef or configMapKeyRef"))]
pub struct VariableSource {
    /// A key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyReference>,
    /// A key of a `ConfigMap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<SecretKeyReference>,
}

impl RunnerVariable {
    /// Beginnings of the names that cannot be set: those by which Stowaway hands a run its task, by which Kubernetes names
    /// the API server, and by which the C library loads code or resolves names. The runner has rights in its namespace that
    /// the author of a Repository need not have.
    const RESERVED: [&str; 8] = ["STOWAWAY_", "POD_", "KUBE", "LD_", "MALLOC_", "GLIBC_", "GCONV_", "RES_"];
    /// The same, as whole names.
    const RESERVED_NAMES: [&str; 4] = ["PATH", "HOME", "HOSTALIASES", "LOCALDOMAIN"];

    /// Whether the name is reserved, so that the variable is never set.
    pub fn is_reserved(&self) -> bool {
        let name = self.name.as_str();
        Self::RESERVED.iter().any(|beginning| name.starts_with(beginning)) || Self::RESERVED_NAMES.contains(&name)
    }
}

/// How a run of one source ended, or what it waits for.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// How it ended; absent as long as it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The machine-readable cause. While an attempt is waited for: why the last one failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub reason: String,
    /// The same for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub message: String,
    /// Exit status of the command, where one was received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Bytes of the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0))]
    pub bytes: Option<u64>,
    /// SHA-256 over those bytes, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub digest: Option<String>,
    /// How the end of the stream was proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// Id of the snapshot, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub snapshot: Option<String>,
    /// Milliseconds that the runner took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0))]
    pub duration_milliseconds: Option<u64>,
    /// The last lines of the command's stderr; only for failures.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub stderr_tail: String,
    /// The last lines of the run's own log, without those of the command; only where the run is not green.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub log_tail: String,
}

impl From<SourceReport> for Outcome {
    fn from(report: SourceReport) -> Self {
        let tail_if = |is_kept: bool, text: &str| if is_kept { tail(text) } else { String::new() };
        Self {
            stderr_tail: tail_if(report.verdict == Verdict::Failed, &report.stderr_tail),
            log_tail: tail_if(!report.verdict.is_green(), &report.log_tail),
            verdict: Some(report.verdict),
            reason: report.reason.to_string(),
            message: report.message,
            exit_code: report.exit_code,
            bytes: Some(report.bytes),
            digest: report.digest,
            proof: Some(report.proof),
            snapshot: report.snapshot,
            duration_milliseconds: Some(report.duration_milliseconds),
        }
    }
}

/// The last lines of a text without control characters, which escaping lengthens: cut from the front to what the schema allows.
fn tail(text: &str) -> String {
    let text = escape_lines(text);
    text[text.ceil_char_boundary(text.len().saturating_sub(MAXIMUM_TAIL_BYTES))..].to_owned()
}

/// A duration as Go writes it, in hours, minutes, seconds and milliseconds: `90s`, `1h30m`. Long enough for months,
/// short enough that no number overflows.
pub(super) fn duration_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "nullable": true,
        "maxLength": 32,
        "pattern": r"^([0-9]{1,6}(\.[0-9]{1,3})?(h|m|s|ms))+$",
        "x-kubernetes-validations": [{ "rule": "duration(self) > duration('0s')", "message": "must be longer than 0s" }],
    })
}

/// Conditions, as one list-map by type.
pub(super) fn conditions_schema(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = Vec::<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>::json_schema(generator);
    schema.insert("x-kubernetes-list-type".into(), "map".into());
    schema.insert("x-kubernetes-list-map-keys".into(), serde_json::json!(["type"]));
    schema.insert("maxItems".into(), 16.into());
    schema
}
