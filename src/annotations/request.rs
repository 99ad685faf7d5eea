//! The request that a pod's annotations make, and what can be wrong with it.
//!
//! It must not know how it is read. No `Debug` or `Display` here shows a command line.

use std::{fmt, time::Duration};

use super::keys::PREFIX;
use crate::model::Reason;

/// Whose annotation a command was read from, newest first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Generation {
    /// `stowaway.dev/`.
    Stowaway,
    /// `k8up.io/`: K8up 2.
    K8up,
    /// `k8up.syn.tools/`: K8up 0.1.8 to 1.
    Syn,
    /// `appuio.ch/` and `backup.appuio.ch/`: K8up up to 0.1.7.
    Appuio,
}

/// What the annotations of one pod ask for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "each is an annotation of its own")]
pub struct Request {
    /// The commands, the plain one first, then by name. Empty when there are only warnings to be told.
    pub commands: Vec<CommandRequest>,
    /// Name of a Repository of the pod's namespace.
    pub repository: Option<String>,
    /// End a command after this long; never zero.
    pub timeout: Option<Duration>,
    /// End a command when no byte moved for this long; never zero.
    pub idle_timeout: Option<Duration>,
    /// Call a run without proof green.
    pub accept_unproven: bool,
    /// Store a stream of 0 bytes.
    pub allow_empty: bool,
    /// Store a stream of a known format without the end of that format.
    pub skip_format_check: bool,
    /// Call a Backup green although the workload has no pod to dump.
    pub allow_missing: bool,
    /// What is to be put into the pod; the helper where there is a command, when nothing is said.
    pub inject: Option<Injection>,
    /// The pod's volumes that are backed up, or restored; no name twice.
    pub volumes: Vec<String>,
    /// Fill empty volumes before the app starts.
    pub restore_on_empty: bool,
    /// Secrets of the pod's namespace for the commands' containers; no name twice.
    pub secrets: Vec<String>,
    /// Requests and limits of the sidecar, as a container has them.
    pub sidecar_resources: Option<serde_json::Value>,
    /// What was understood, but probably not meant.
    pub warnings: Vec<Warning>,
}

/// What is put into a pod.
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
    /// The `<name>` of `backupcommand.<name>`; none for the plain one.
    pub name: Option<String>,
    /// Program and arguments; the program's name is not empty.
    pub argv: Vec<String>,
    /// Program and arguments of the command that reads the dump on stdin.
    pub restore_argv: Option<Vec<String>>,
    /// The container that was asked for.
    pub container: Option<String>,
    /// What is appended to the stored file's name, with its dot; may be empty.
    pub file_extension: String,
    /// Run a shell's script with `pipefail`.
    pub pipefail: bool,
    /// Whose key the command is.
    pub generation: Generation,
}

impl fmt::Debug for CommandRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CommandRequest")
            .field("name", &self.name)
            .field("argv", &format_args!("({} words, redacted)", self.argv.len()))
            .field("restore_argv", &self.restore_argv.as_ref().map(|_| format_args!("(redacted)")))
            .field("container", &self.container)
            .field("file_extension", &self.file_extension)
            .field("pipefail", &self.pipefail)
            .field("generation", &self.generation)
            .finish()
    }
}

/// Something that was understood, but probably not meant.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("annotation {key}: {message}")]
pub struct Warning {
    /// The whole key.
    pub key: String,
    /// What happens, and what to do about it.
    pub message: String,
}

/// One annotation that cannot be carried out as written.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("annotation {key}: {reason}; it is {value}")]
pub struct Problem {
    /// The whole key.
    pub key: String,
    /// The value as it may be shown: quoted and shortened; of a command line only the length.
    pub value: String,
    /// What is wrong, and what is expected instead.
    pub reason: String,
}

impl Problem {
    /// Whether the key is one of ours. Whoever reads another tool's may have another mind about its value.
    pub fn is_ours(&self) -> bool {
        self.key.starts_with(PREFIX)
    }
}

/// What is asked for by annotations of which those of other tools may be wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lenient {
    /// As far as it is right; `None` when nothing here concerns us.
    pub request: Option<Request>,
    /// What is wrong with the keys of other tools.
    pub passed_over: Vec<Problem>,
}

/// All that is wrong with one pod's annotations.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problems {
    /// At least one.
    pub problems: Vec<Problem>,
    /// What was probably not meant beside them, so that nobody learns of it only when they are mended.
    pub warnings: Vec<Warning>,
}

impl Problems {
    /// The machine-readable cause.
    #[allow(clippy::unused_self, reason = "every error of ours is asked in this form")]
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
