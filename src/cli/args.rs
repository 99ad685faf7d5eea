//! The command line's arguments: commands and options. This module only parses; `cli::run` dispatches.

mod keys;
mod maintenance;
mod manifests;
mod restore;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub use self::keys::{KeyCommand, NewPassword};
pub use self::maintenance::{CheckArguments, DoctorArguments, ForgetArguments, PruneArguments, UnlockArguments};
pub use self::manifests::ManifestsArguments;
pub use self::restore::RestoreArguments;
use self::restore::stored_path;
use crate::{
    annotations::positive_duration,
    model::SourceName,
    plan::names::RunKind,
    resources::manifests::{LOG_FORMAT_VARIABLE, NAMESPACE},
    runner::{MountedVolume, questions::Question},
    telemetry::LogFormat,
};

/// Backs up workloads in Kubernetes. A pod needs one annotation, and a green backup can be restored.
#[derive(Debug, Parser)]
#[command(name = "stowaway", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Arguments {
    /// Format of the log lines.
    #[arg(long, global = true, value_enum, default_value_t, env = LOG_FORMAT_VARIABLE)]
    pub log_format: LogFormat,
    /// Minimum log level: error, warn, info, debug, trace, or a filter such as "info,kube=debug".
    #[arg(long, global = true, default_value = "info", env = "STOWAWAY_LOG_LEVEL")]
    pub log_level: String,
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit status: 0 green; 1 failed; 2 wrong usage or a refused object; 3 stored or restored, but not proven or incomplete; \
130 cancelled; 141 the reader of the output closed the pipe.
With --repository (or RESTIC_REPOSITORY, and neither --namespace nor --context) no cluster is needed: the commands work \
on that repository. Works as `kubectl stowaway`, too, when the binary is called kubectl-stowaway.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Back up the annotated pods of a namespace now, or the output of a local command.
    Backup(BackupArguments),
    /// Restore the newest (or a given) snapshot of one source, or of all sources of a namespace.
    Restore(Box<RestoreArguments>),
    /// List the snapshots of a repository.
    Snapshots(SnapshotsArguments),
    /// List the files in a snapshot.
    Ls(LsArguments),
    /// Write one file of a snapshot to stdout.
    Dump(DumpArguments),
    /// Verify the structure of a repository, and with --read-data also the content of its packs.
    Check(CheckArguments),
    /// Diagnose a repository, and print how to repair it.
    Doctor(DoctorArguments),
    /// Remove snapshots of a repository. The newest good snapshot of a source is only removed with --last-of-source.
    Forget(ForgetArguments),
    /// Remove the data of a repository that no snapshot references.
    Prune(PruneArguments),
    /// Remove stale locks of a repository, which are those whose holders no longer run.
    Unlock(UnlockArguments),
    /// Manage the keys of a repository. Each key has its own password.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Show the log of a Backup or Restore: every attempt of every source.
    Logs(LogsArguments),
    /// Show, without a cluster, what the webhook would inject into the pods of a file, and why or why not.
    Explain(ExplainArguments),
    /// Print the completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the Kubernetes manifests (CRDs and installation) to a folder.
    Manifests(Box<ManifestsArguments>),
    /// Write the manual pages of the commands to a folder.
    #[command(hide = true)]
    ManualPages {
        /// Folder to write to.
        #[arg(long)]
        output: PathBuf,
    },
    /// Print the reference table of the annotations as Markdown.
    #[command(hide = true)]
    Annotations,
    /// Run the controller (in the cluster).
    #[command(hide = true)]
    Controller(ControllerArguments),
    /// Run the admission webhook (in the cluster).
    #[command(hide = true)]
    Webhook(WebhookArguments),
    /// Write the webhook's CA bundle into its webhook configurations (in the cluster).
    #[command(hide = true)]
    Trust(TrustArguments),
    /// Execute one run (in its Job's pod).
    #[command(hide = true)]
    Runner {
        /// A query of the CLI to a waiting run, as JSON.
        #[arg(long, value_parser = question)]
        question: Option<Question>,
    },
    /// Wait for runs (in the sidecar of an app's pod).
    #[command(hide = true)]
    Sidecar {
        /// A mounted volume: NAME, or NAME=pvc/CLAIM.
        #[arg(long = "volume")]
        volumes: Vec<MountedVolume>,
    },
    /// Execute the run that stdin describes (in the sidecar).
    #[command(hide = true)]
    SidecarRun {
        /// A mounted volume: NAME, or NAME=pvc/CLAIM.
        #[arg(long = "volume")]
        volumes: Vec<MountedVolume>,
    },
    /// Restore into empty volumes before the app starts (in its pod).
    #[command(hide = true)]
    RestoreStep {
        /// A mounted volume: NAME, or NAME=pvc/CLAIM.
        #[arg(long = "volume")]
        volumes: Vec<MountedVolume>,
    },
}

/// Selects the cluster, namespace and repository to work on.
#[derive(Args, Clone, Debug)]
pub struct RepositoryArguments {
    /// Namespace. Default: the current namespace of the kubeconfig.
    #[arg(short, long, conflicts_with = "repository")]
    pub namespace: Option<String>,
    /// Context of the kubeconfig.
    #[arg(long, conflicts_with = "repository")]
    pub context: Option<String>,
    /// Name of the Repository object. Default: the default Repository of the namespace.
    #[arg(long, conflicts_with = "repository")]
    pub repository_name: Option<String>,
    /// Namespace of Stowaway's installation; its controller's image is used for the Job which answers from within the
    /// cluster. Default: `STOWAWAY_SYSTEM_NAMESPACE`, then stowaway-system.
    #[arg(long, conflicts_with = "repository")]
    pub system_namespace: Option<String>,
    /// Path or restic URL of a repository to work on directly, without a cluster. URLs are
    /// s3:https://HOST/BUCKET/PREFIX, azure:CONTAINER:/PREFIX, gs:BUCKET:/PREFIX, rest:https://HOST/PATH and
    /// sftp:USER@HOST:PATH; restic's environment variables supply the credentials. Default: `RESTIC_REPOSITORY`. The
    /// password comes from `RESTIC_PASSWORD`, `RESTIC_PASSWORD_FILE` or --password-file.
    #[arg(short, long)]
    pub repository: Option<String>,
    /// File with the repository's password.
    #[arg(short, long, env = "RESTIC_PASSWORD_FILE")]
    pub password_file: Option<PathBuf>,
}

impl RepositoryArguments {
    /// The namespace of Stowaway's installation.
    pub fn system_namespace(&self) -> String {
        // Not clap's `env`, because a set variable would conflict with --repository.
        let given = self.system_namespace.clone().or_else(|| std::env::var("STOWAWAY_SYSTEM_NAMESPACE").ok());
        given.filter(|name| !name.is_empty()).unwrap_or_else(|| NAMESPACE.to_owned())
    }
}

/// Output format of a result.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Output {
    /// A table or a sentence.
    #[default]
    Text,
    /// JSON.
    Json,
}

/// `stowaway backup`
#[derive(Args, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub struct BackupArguments {
    /// Cluster or repository.
    #[command(flatten)]
    pub location: RepositoryArguments,
    /// Only pods that match this label selector (a=b,c!=d, as for kubectl).
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Name of the Backup object. Default: a name generated from the time.
    #[arg(long)]
    pub name: Option<String>,
    /// Wait for the verdict, and show the progress.
    #[arg(short, long)]
    pub wait: bool,
    /// How many times a failed source is retried.
    #[arg(long)]
    pub retry_limit: Option<u8>,
    /// Result as text or as JSON.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Create the repository if it does not exist (with --repository).
    #[arg(long, requires = "repository_or_command")]
    pub init: bool,
    /// Path of the stored file (with a local command). Default: / and the name of the program.
    #[arg(long)]
    pub stdin_filename: Option<String>,
    /// Name of the source (with a local command), for example job/shop/pg-dump.
    #[arg(long)]
    pub source: Option<SourceName>,
    /// Host of the snapshot (with a local command). Default: the name of this machine.
    #[arg(long)]
    pub host: Option<String>,
    /// Stop the command after this time, for example 90m.
    #[arg(long, value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Stop the command when it has written no byte for this time.
    #[arg(long, value_parser = duration)]
    pub idle_timeout: Option<Duration>,
    /// Store an empty output, too.
    #[arg(long)]
    pub allow_empty: bool,
    /// Store the output of a local command even if it has a known format and the end of that format is missing.
    #[arg(long)]
    pub no_format_check: bool,
    /// The local command whose output is backed up.
    #[arg(last = true, id = "repository_or_command")]
    pub command: Vec<String>,
}

/// `stowaway snapshots`
#[derive(Args, Debug)]
pub struct SnapshotsArguments {
    /// Cluster or repository.
    #[command(flatten)]
    pub location: RepositoryArguments,
    /// Only snapshots of this source.
    #[arg(short, long)]
    pub source: Option<SourceName>,
    /// Open the store from this machine, with the credentials which you may read, instead of through a Job in the
    /// cluster.
    #[arg(long)]
    pub direct: bool,
    /// Table or JSON.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `stowaway ls`
#[derive(Args, Debug)]
pub struct LsArguments {
    /// Cluster or repository.
    #[command(flatten)]
    pub location: RepositoryArguments,
    /// Open the store from this machine instead of through a Job in the cluster.
    #[arg(long)]
    pub direct: bool,
    /// Table or JSON.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Id of the snapshot, or the start of the id.
    pub snapshot: String,
}

/// `stowaway dump`
#[derive(Args, Debug)]
pub struct DumpArguments {
    /// Cluster or repository.
    #[command(flatten)]
    pub location: RepositoryArguments,
    /// Open the store from this machine instead of through a Job in the cluster.
    #[arg(long)]
    pub direct: bool,
    /// Id of the snapshot, or the start of the id.
    pub snapshot: String,
    /// Path of the file, as `ls` prints it or relative to the root of the volume. Default: the only file of the
    /// snapshot.
    #[arg(value_parser = stored_path())]
    pub path: Option<String>,
}

/// `stowaway logs`
#[derive(Args, Debug)]
pub struct LogsArguments {
    /// Namespace. Default: the current namespace of the kubeconfig.
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Context of the kubeconfig.
    #[arg(long)]
    pub context: Option<String>,
    /// Only the logs of this source.
    #[arg(short, long)]
    pub source: Option<SourceName>,
    /// Text, or one JSON object per line.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// The run, as NAME, or as backup/NAME, restore/NAME or repository/NAME to select one kind.
    #[arg(value_parser = run_name)]
    pub run: RunName,
}

/// The object whose logs are shown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RunName {
    /// Kind of the run. None matches every kind with this name.
    pub kind: Option<RunKind>,
    /// Name of the object.
    pub name: String,
}

/// `stowaway explain`
#[derive(Args, Debug)]
pub struct ExplainArguments {
    /// File, YAML or JSON, with pods, workloads and Repositories, or lists of them; - reads stdin.
    #[arg(short, long)]
    pub filename: String,
    /// Namespace of the objects that do not name a namespace.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Image reference of the injected containers.
    #[arg(long, default_value = crate::resources::manifests::IMAGE)]
    pub image: String,
    /// Print the arguments of each command as its program receives them. They may contain passwords.
    #[arg(long)]
    pub show_arguments: bool,
    /// Text, or JSON with the patches.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `stowaway controller`
#[derive(Args, Debug)]
pub struct ControllerArguments {
    /// Image of the runs' pods, which is the controller's own image.
    #[arg(long, env = "STOWAWAY_IMAGE")]
    pub image: String,
    /// Port of /metrics and /healthz.
    #[arg(long, env = "STOWAWAY_METRICS_PORT", default_value_t = 8080)]
    pub metrics_port: u16,
}

/// `stowaway trust`
#[derive(Args, Debug)]
pub struct TrustArguments {
    /// Namespace of the webhook.
    #[arg(long, env = "POD_NAMESPACE", default_value = crate::resources::manifests::NAMESPACE)]
    pub namespace: String,
    /// Port of /metrics and /healthz.
    #[arg(long, env = "STOWAWAY_METRICS_PORT", default_value_t = 8080)]
    pub metrics_port: u16,
}

/// `stowaway webhook`
#[derive(Args, Debug)]
pub struct WebhookArguments {
    /// Image of the injected containers, which is the webhook's own image.
    #[arg(long, env = "STOWAWAY_IMAGE")]
    pub image: String,
    /// Namespace in which the webhook runs.
    #[arg(long, env = "POD_NAMESPACE", default_value = crate::resources::manifests::NAMESPACE)]
    pub namespace: String,
    /// Name of the webhook's Service.
    #[arg(long, default_value = "stowaway-webhook")]
    pub service: String,
    /// Name of the webhook's own pod.
    #[arg(long, env = "POD_NAME", default_value = "stowaway-webhook")]
    pub instance: String,
    /// Port on which the API server connects. (Private clusters of some clouds allow only 443 and 10250.)
    #[arg(long, default_value_t = 10250)]
    pub port: u16,
    /// Port of /healthz, /readyz and /metrics.
    #[arg(long, default_value_t = 8080)]
    pub health_port: u16,
    /// How long the webhook serves after SIGTERM.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub drain: Duration,
    /// Folder with tls.crt, tls.key and ca.crt, as cert-manager's Secret is mounted. Default: the webhook issues its
    /// own.
    #[arg(long)]
    pub certificates_folder: Option<PathBuf>,
}

fn run_name(text: &str) -> Result<RunName, String> {
    let (kind, name) = match text.split_once('/') {
        None => (None, text),
        Some(("backup", name)) => (Some(RunKind::Backup), name),
        Some(("restore", name)) => (Some(RunKind::Restore), name),
        Some(("repository", name)) => (Some(RunKind::Init), name),
        Some(("repack", name)) => (Some(RunKind::Repack), name),
        Some(("prune", name)) => (Some(RunKind::Prune), name),
        Some(("check", name)) => (Some(RunKind::Check), name),
        Some((kind, _)) => {
            return Err(format!(
                "there are no runs of kind {kind}: write backup/, restore/, or repository/, repack/, prune/ or check/"
            ));
        }
    };
    Ok(RunName { kind, name: name.to_owned() })
}

fn question(text: &str) -> Result<Question, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    positive_duration(text).map_err(|reason| format!("{text:?} {reason}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_local_backup_takes_everything_after_the_dashes() {
        let arguments =
            Arguments::parse_from(["stowaway", "backup", "--repository", "/r", "--init", "--", "pg_dump", "-n", "x"]);
        let Command::Backup(backup) = arguments.command else { panic!("another command") };
        assert_eq!(backup.command, ["pg_dump", "-n", "x"]);
    }

    #[test]
    fn logs_take_a_kind_before_the_name() {
        assert_eq!(run_name("first"), Ok(RunName { kind: None, name: "first".into() }));
        assert_eq!(run_name("restore/first"), Ok(RunName { kind: Some(RunKind::Restore), name: "first".into() }));
        assert_eq!(run_name("prune/main"), Ok(RunName { kind: Some(RunKind::Prune), name: "main".into() }));
        assert!(run_name("pod/first").unwrap_err().contains("backup/"));
    }

    #[test]
    fn a_cluster_and_a_local_repository_exclude_each_other() {
        assert!(Arguments::try_parse_from(["stowaway", "snapshots", "-n", "x", "--repository", "/r"]).is_err());
    }
}
