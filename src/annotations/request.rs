//! The request that a pod's annotations make, and the problems that they can have. `Debug` and `Display` of these types
//! never show a command line.

use std::{fmt, time::Duration};

use super::keys::PREFIX;
use crate::model::{LiteralSyntax, Reason};

/// The tool, and its version, that defined a key; newest first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum KeyDialect {
    /// `stowaway.dev/`.
    Stowaway,
    /// `k8up.io/`: K8up 2.
    K8up,
    /// `k8up.syn.tools/`: K8up 0.1.8 to 1.
    Syn,
    /// `appuio.ch/` and `backup.appuio.ch/`: K8up up to 0.1.7.
    Appuio,
}

/// The request of one pod's annotations.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "each is an annotation of its own")]
pub struct Request {
    /// The commands, the plain command first, then by name. Empty when there are only warnings.
    pub commands: Vec<CommandRequest>,
    /// Name of a Repository of the pod's namespace.
    pub repository: Option<String>,
    /// End a command after this duration; never zero.
    pub timeout: Option<Duration>,
    /// End a command when no byte was transferred for this duration; never zero.
    pub idle_timeout: Option<Duration>,
    /// Accept a run without proof as green.
    pub accept_unproven: bool,
    /// Store a stream of 0 bytes.
    pub allow_empty: bool,
    /// Store a stream of a known format even if the end of that format is missing.
    pub skip_format_check: bool,
    /// Accept a Backup as green although the workload has no pod to dump.
    pub allow_missing: bool,
    /// The injection mode. When absent, the helper if there is a command.
    pub inject: Option<Injection>,
    /// The pod's volumes that are backed up, or restored; no name twice.
    pub volumes: Vec<String>,
    /// Restore into empty volumes before the app starts.
    pub restore_on_empty: bool,
    /// Secrets of the pod's namespace for the commands' containers; no name twice.
    pub secrets: Vec<String>,
    /// Requests and limits of the sidecar, in the form of a container's `resources`.
    pub sidecar_resources: Option<serde_json::Value>,
    /// Settings that were understood, but are probably not intended.
    pub warnings: Vec<Warning>,
}

/// An injection mode of a pod.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Injection {
    /// The helper program, into the containers of the commands.
    Helper,
    /// A sidecar that writes to the store itself, and the helper.
    Sidecar,
    /// Nothing.
    None,
}

/// One annotated command.
#[derive(Clone, Eq, PartialEq)]
pub struct CommandRequest {
    /// The `<name>` of `backupcommand.<name>`; none for the plain command.
    pub name: Option<String>,
    /// Program and arguments; the program's name is not empty.
    pub argv: Vec<String>,
    /// Shell syntax in the arguments that the program receives as text.
    pub literal: Option<LiteralSyntax>,
    /// Program and arguments of the command that reads the dump on stdin.
    pub restore_argv: Option<Vec<String>>,
    /// The same as `literal`, for the command that reads the dump.
    pub restore_literal: Option<LiteralSyntax>,
    /// The container that the annotations name.
    pub container: Option<String>,
    /// The suffix of the stored file's name, with its dot; may be empty.
    pub file_extension: String,
    /// Run a shell script with `pipefail`.
    pub pipefail: bool,
    /// The tool whose key set the command.
    pub dialect: KeyDialect,
}

impl fmt::Debug for CommandRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CommandRequest")
            .field("name", &self.name)
            .field("argv", &format_args!("({} arguments, redacted)", self.argv.len()))
            .field("restore_argv", &self.restore_argv.as_ref().map(|_| format_args!("(redacted)")))
            .field("container", &self.container)
            .field("file_extension", &self.file_extension)
            .field("pipefail", &self.pipefail)
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}

/// A setting that was understood, but is probably not intended.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, thiserror::Error)]
#[error("annotation {key}: {message}")]
pub struct Warning {
    pub key: String,
    /// The effect of the setting, and what to do about it.
    pub message: String,
    /// Whether the setting probably has a mistake, such as a misspelt key, so that the status of a Backup names it.
    /// Otherwise the warning is a remark about a valid setting.
    pub is_mistake: bool,
}

impl Warning {
    pub(super) fn mistake(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into(), is_mistake: true }
    }

    pub(super) fn remark(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into(), is_mistake: false }
    }
}

impl From<Problem> for Warning {
    /// The problem, where no run reports it.
    fn from(Problem { key, value, reason }: Problem) -> Self {
        Self::mistake(key, format!("{reason}; it is {value}"))
    }
}

/// An annotation whose value is invalid.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("annotation {key}: {reason}; it is {value}")]
pub struct Problem {
    pub key: String,
    /// The value as it may be shown: quoted and shortened. For a command line, only its length.
    pub value: String,
    /// The error, and what is expected instead.
    pub reason: String,
}

impl Problem {
    /// Whether the key is Stowaway's. Another tool may interpret the value of its own key differently.
    pub fn is_own(&self) -> bool {
        self.key.starts_with(PREFIX)
    }
}

/// A request from annotations of which those of other tools may be invalid.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lenient {
    /// The valid part of the request; `None` when no annotation concerns Stowaway.
    pub request: Option<Request>,
    /// Problems with the keys of other tools.
    pub foreign_errors: Vec<Problem>,
}

/// All problems of one pod's annotations.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problems {
    pub problems: Vec<Problem>,
    /// Warnings in addition to the problems, so that the user learns of them before the problems are corrected.
    pub warnings: Vec<Warning>,
}

impl Problems {
    /// The machine-readable cause.
    #[allow(clippy::unused_self, reason = "all error types have this method")]
    pub fn reason(&self) -> Reason {
        Reason::InvalidRequest
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                formatter.write_str("; ")?;
            }
            problem.fmt(formatter)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
