//! Parts of specs and statuses that several kinds share.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, PodSecurityContext, ResourceRequirements, Toleration,
};
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::model::{Proof, RunReport, Verdict, escape_lines};

/// The schema's limit of [`Outcome::stderr_tail`] and [`Outcome::log_tail`].
const MAX_TAIL_BYTES: usize = 1024;

/// A reference to a repository.
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
    /// A Repository of the same namespace.
    #[default]
    Repository,
}

/// A reference to one key of a Secret in the same namespace.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key within the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Settings for the pods of Jobs. A field that is absent leaves Stowaway's default. Labels and annotations which
/// Stowaway sets itself cannot be overridden.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunnerPod {
    /// Requests and limits of the runner. They replace the defaults as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pod tolerates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,
    /// Affinity of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Secrets for pulling the runner's image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Additional labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
    /// Additional annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
    /// Security context of the pod. Each field that is set replaces the default. `fsGroup` does not make a `hostPath`
    /// or `nfs` repository writable, so its directory must belong to `runAsUser` (default 65532).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurityContext>,
    /// Environment variables of the runner, for example `HTTPS_PROXY`, `NO_PROXY` or `SSL_CERT_FILE`. Variables of the
    /// Repository are also set in the containers that are injected into pods and use its store. A variable of a run
    /// replaces the variable of the Repository with the same name. Stowaway's own variables cannot be set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<RunnerVariable>,
    /// Name of the `PriorityClass` of the pod. A pod of a low priority is preempted by other pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

/// An environment variable of the runner.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.value) && has(self.valueFrom))")
    .message("value and valueFrom cannot be set together"))]
pub struct RunnerVariable {
    /// Name of the variable.
    #[schemars(length(max = 128), regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: String,
    /// Value of the variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub value: Option<String>,
    /// Source of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<VariableSource>,
}

/// The source of an environment variable's value, in the same namespace.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretKeyRef) != has(self.configMapKeyRef)")
    .message("set exactly one: secretKeyRef or configMapKeyRef"))]
pub struct VariableSource {
    /// A key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyReference>,
    /// A key of a `ConfigMap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<SecretKeyReference>,
}

impl RunnerVariable {
    /// Prefixes of names that cannot be set: variables which carry a run's task from Stowaway, variables by which
    /// Kubernetes names the API server, and variables by which the C library loads code or resolves names. They are
    /// reserved because the runner has rights in its namespace that the author of a Repository need not have.
    const RESERVED: [&str; 8] = ["STOWAWAY_", "POD_", "KUBE", "LD_", "MALLOC_", "GLIBC_", "GCONV_", "RES_"];
    /// Whole names that cannot be set, for the same reason.
    const RESERVED_NAMES: [&str; 4] = ["PATH", "HOME", "HOSTALIASES", "LOCALDOMAIN"];

    pub fn is_reserved(&self) -> bool {
        let name = self.name.as_str();
        Self::RESERVED.iter().any(|beginning| name.starts_with(beginning)) || Self::RESERVED_NAMES.contains(&name)
    }
}

/// How a run of one source ended, or what it waits for.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// How the run ended; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The machine-readable reason. While the run waits for its next attempt, why the last attempt failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub reason: String,
    /// A description of the reason.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub message: String,
    /// Exit status of the command, if it was received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Bytes of the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0))]
    pub bytes: Option<u64>,
    /// SHA-256 of the stream, 64 hex digits.
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
    /// Duration of the runner's work, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0))]
    pub duration_milliseconds: Option<u64>,
    /// The last lines of the command's stderr; only for failures.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub stderr_tail: String,
    /// The last lines of the run's own log, without the command's output; only if the run is not green.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub log_tail: String,
}

impl From<RunReport> for Outcome {
    fn from(report: RunReport) -> Self {
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

/// Escapes control characters, which lengthens the text, and keeps as many of its last bytes as the schema allows.
fn tail(text: &str) -> String {
    let text = escape_lines(text);
    text[text.ceil_char_boundary(text.len().saturating_sub(MAX_TAIL_BYTES))..].to_owned()
}

/// The schema of a duration as Go writes it, in hours, minutes, seconds and milliseconds: `90s`, `1h30m`. Its limits
/// allow months, and no number that overflows.
pub(super) fn duration_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "nullable": true,
        "maxLength": 32,
        "pattern": r"^([0-9]{1,6}(\.[0-9]{1,3})?(h|m|s|ms))+$",
        "x-kubernetes-validations": [{ "rule": "duration(self) > duration('0s')", "message": "must be longer than 0s" }],
    })
}

/// The schema of conditions: a list-map with the key `type`.
pub(super) fn conditions_schema(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = Vec::<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>::json_schema(generator);
    schema.insert("x-kubernetes-list-type".into(), "map".into());
    schema.insert("x-kubernetes-list-map-keys".into(), serde_json::json!(["type"]));
    schema.insert("maxItems".into(), 16.into());
    schema
}
