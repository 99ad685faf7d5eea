//! What can be typed: verbs and options. Only parsing; `main` of this module decides what is done.

mod keys;
mod restore;
mod upkeep;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub use self::keys::{KeyVerb, NewPassword};
pub use self::restore::RestoreArguments;
use self::restore::stored_path;
pub use self::upkeep::{CheckArguments, DoctorArguments, ForgetArguments, PruneArguments, UnlockArguments};
use crate::{
    annotations::positive_duration,
    build::manifests::NAMESPACE,
    model::SourceName,
    plan::names::RunKind,
    runner::{MountedVolume, questions::Question},
    telemetry::LogFormat,
};

/// Backs up what runs in Kubernetes: one annotation on a pod, and a green run restores.
#[derive(Debug, Parser)]
#[command(name = "stowaway", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Arguments {
    /// How log lines look.
    #[arg(long, global = true, value_enum, default_value_t, env = "STOWAWAY_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// How much is logged: error, warn, info, debug, trace, or a filter such as "info,kube=debug".
    #[arg(long, global = true, default_value = "info", env = "STOWAWAY_LOG_LEVEL")]
    pub log_level: String,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

const EXIT_CODES: &str = "\
Exit status: 0 green; 1 failed; 2 wrong usage or a refused object; 3 stored or restored, but not proven or not complete; \
130 cancelled; 141 the reader of its output has gone.
With --repository (or RESTIC_REPOSITORY, and neither --namespace nor --context) no cluster is needed: the verbs work on \
that repository. Works as `kubectl stowaway`, too, when the binary is called kubectl-stowaway.";

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Back up the annotated pods of a namespace now, or the output of a local command.
    Backup(BackupArguments),
    /// Restore the newest (or a given) snapshot of one source, or of all sources of a namespace.
    Restore(Box<RestoreArguments>),
    /// List the snapshots of a repository.
    Snapshots(SnapshotsArguments),
    /// List the files in a snapshot.
    Ls(LsArguments),
    /// Write one stored file to stdout.
    Dump(DumpArguments),
    /// Look whether a repository is whole, and whether its data still is what was written.
    Check(CheckArguments),
    /// Say what is wrong with a repository, and how to mend it.
    Doctor(DoctorArguments),
    /// Remove snapshots of a repository; the newest good one of a source only by --last-of-source.
    Forget(ForgetArguments),
    /// Remove the data of a repository that no snapshot needs.
    Prune(PruneArguments),
    /// Remove the locks of a repository whose holders are gone.
    Unlock(UnlockArguments),
    /// Look after the keys of a repository, each of which a password opens.
    #[command(subcommand)]
    Key(KeyVerb),
    /// Show the log of a Backup or Restore, every attempt of every source.
    Logs(LogsArguments),
    /// Show, without a cluster, what would be put into the pods of a file, and why, or why not.
    Explain(ExplainArguments),
    /// Print the completion script of a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Write the Kubernetes manifests (CRDs and installation) to a folder.
    Manifests {
        /// The folder.
        #[arg(long)]
        output: PathBuf,
        /// Image reference of controller, webhook, runs, and of what is injected.
        #[arg(long, default_value = crate::build::manifests::IMAGE)]
        image: String,
        /// Let cert-manager, which must be installed, issue the webhook's certificate; else the webhook does so itself.
        #[arg(long)]
        cert_manager: bool,
    },
    /// Print the table of annotations as Markdown.
    #[command(hide = true)]
    Annotations,
    /// Run the controller (in the cluster).
    #[command(hide = true)]
    Controller(ControllerArguments),
    /// Run the admission webhook (in the cluster).
    #[command(hide = true)]
    Webhook(WebhookArguments),
    /// Write the webhook's bundle into its webhook configurations (in the cluster).
    #[command(hide = true)]
    Trust(TrustArguments),
    /// Carry out one run (in its Job's pod).
    #[command(hide = true)]
    Runner {
        /// A question of the CLI to a waiting run, as JSON.
        #[arg(long, value_parser = question)]
        question: Option<Question>,
    },
    /// Wait for runs (in the sidecar of an app's pod).
    #[command(hide = true)]
    Sidecar {
        /// A volume that is mounted: NAME, or NAME=pvc/CLAIM.
        #[arg(long = "volume")]
        volumes: Vec<MountedVolume>,
    },
    /// Carry out the run that stdin names (in the sidecar).
    #[command(hide = true)]
    SidecarRun {
        /// A volume that is mounted: NAME, or NAME=pvc/CLAIM.
        #[arg(long = "volume")]
        volumes: Vec<MountedVolume>,
    },
    /// Fill empty volumes before the app starts (in its pod).
    #[command(hide = true)]
    RestoreStep {
        /// A volume that is mounted: NAME, or NAME=pvc/CLAIM.
        #[arg(long = "volume")]
        volumes: Vec<MountedVolume>,
    },
}

/// Which cluster, which repository.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// Namespace; the kubeconfig's current one by default.
    #[arg(short, long, conflicts_with = "repository")]
    pub namespace: Option<String>,
    /// Context of the kubeconfig.
    #[arg(long, conflicts_with = "repository")]
    pub context: Option<String>,
    /// Name of the Repository object; the namespace's default one otherwise.
    #[arg(long, conflicts_with = "repository")]
    pub repository_name: Option<String>,
    /// Namespace of Stowaway's own installation, whose controller names the image that answers from within the cluster. Else
    /// `STOWAWAY_SYSTEM_NAMESPACE`, else stowaway-system.
    #[arg(long, conflicts_with = "repository")]
    pub system_namespace: Option<String>,
    /// Path or restic URL of a repository: work on it directly, without a cluster. URLs are s3:https://HOST/BUCKET/PREFIX,
    /// azure:CONTAINER:/PREFIX, gs:BUCKET:/PREFIX, rest:https://HOST/PATH and sftp:USER@HOST:PATH, with credentials by
    /// restic's environment variables. Else `RESTIC_REPOSITORY`. Password by `RESTIC_PASSWORD`, `RESTIC_PASSWORD_FILE` or --password-file.
    #[arg(short, long)]
    pub repository: Option<String>,
    /// File that holds the repository's password.
    #[arg(short, long, env = "RESTIC_PASSWORD_FILE")]
    pub password_file: Option<PathBuf>,
}

impl Place {
    /// The namespace of the installation.
    pub fn system_namespace(&self) -> String {
        // No `env` of the argument: it would be in conflict with --repository.
        let given = self.system_namespace.clone().or_else(|| std::env::var("STOWAWAY_SYSTEM_NAMESPACE").ok());
        given.filter(|name| !name.is_empty()).unwrap_or_else(|| NAMESPACE.to_owned())
    }
}

/// How results are printed.
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
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// Only pods with these labels (a=b,c!=d, as with kubectl).
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Name of the Backup object; made up from the time otherwise.
    #[arg(long)]
    pub name: Option<String>,
    /// Wait for the verdict, with progress.
    #[arg(short, long)]
    pub wait: bool,
    /// How often a failed source is tried again.
    #[arg(long)]
    pub retry_limit: Option<u8>,
    /// Result as a text or as JSON.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Create the repository when there is none (with --repository).
    #[arg(long, requires = "repository_or_command")]
    pub init: bool,
    /// Path of the stored file (with a local command); /<first word of the command> otherwise.
    #[arg(long)]
    pub stdin_filename: Option<String>,
    /// Name of the source (with a local command), for example job/shop/pg-dump.
    #[arg(long)]
    pub source: Option<SourceName>,
    /// Host of the snapshot (with a local command); this machine's name otherwise.
    #[arg(long)]
    pub host: Option<String>,
    /// End the command after this long, for example 90m.
    #[arg(long, value_parser = duration)]
    pub timeout: Option<Duration>,
    /// End the command when no byte came for this long.
    #[arg(long, value_parser = duration)]
    pub idle_timeout: Option<Duration>,
    /// Store an empty output, too.
    #[arg(long)]
    pub allow_empty: bool,
    /// Store the output of a local command although it is of a known format and the end of that format is missing.
    #[arg(long)]
    pub no_format_check: bool,
    /// The local command whose output is stored.
    #[arg(last = true, id = "repository_or_command")]
    pub command: Vec<String>,
}

/// `stowaway snapshots`
#[derive(Args, Debug)]
pub struct SnapshotsArguments {
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// Only those of this source.
    #[arg(short, long)]
    pub source: Option<SourceName>,
    /// Open the store from here with the credentials that you may read, instead of asking a Job in the cluster.
    #[arg(long)]
    pub direct: bool,
    /// Table or JSON.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `stowaway ls`
#[derive(Args, Debug)]
pub struct LsArguments {
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// Open the store from here, instead of asking a Job in the cluster.
    #[arg(long)]
    pub direct: bool,
    /// Table or JSON.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Id of the snapshot, or its first digits.
    pub snapshot: String,
}

/// `stowaway dump`
#[derive(Args, Debug)]
pub struct DumpArguments {
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// Open the store from here, instead of asking a Job in the cluster.
    #[arg(long)]
    pub direct: bool,
    /// Id of the snapshot, or its first digits.
    pub snapshot: String,
    /// Path of the file, as `ls` prints it or relative to the volume's own folder; the only file otherwise.
    #[arg(value_parser = stored_path())]
    pub path: Option<String>,
}

/// `stowaway logs`
#[derive(Args, Debug)]
pub struct LogsArguments {
    /// Namespace; the kubeconfig's current one by default.
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Context of the kubeconfig.
    #[arg(long)]
    pub context: Option<String>,
    /// Only this source.
    #[arg(short, long)]
    pub source: Option<SourceName>,
    /// Text, or one JSON object a line.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// The run, as NAME, or as backup/NAME, restore/NAME or repository/NAME where only one of them is meant.
    #[arg(value_parser = run_name)]
    pub run: RunName,
}

/// Whose runs are asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RunName {
    /// What for; none means whatever has the name.
    pub kind: Option<RunKind>,
    /// Name of the object.
    pub name: String,
}

/// `stowaway explain`
#[derive(Args, Debug)]
pub struct ExplainArguments {
    /// The file, YAML or JSON, with pods, workloads and Repositories, or lists of them; - is stdin.
    #[arg(short, long)]
    pub filename: String,
    /// Namespace of objects that name none.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Image reference of what would be injected.
    #[arg(long, default_value = crate::build::manifests::IMAGE)]
    pub image: String,
    /// Text, or JSON with the patches.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `stowaway controller`
#[derive(Args, Debug)]
pub struct ControllerArguments {
    /// Image of the runs' pods; the controller's own.
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
    #[arg(long, env = "POD_NAMESPACE", default_value = crate::build::manifests::NAMESPACE)]
    pub namespace: String,
    /// Port of /metrics and /healthz.
    #[arg(long, env = "STOWAWAY_METRICS_PORT", default_value_t = 8080)]
    pub metrics_port: u16,
}

/// `stowaway webhook`
#[derive(Args, Debug)]
pub struct WebhookArguments {
    /// Image of what is put into pods; the webhook's own.
    #[arg(long, env = "STOWAWAY_IMAGE")]
    pub image: String,
    /// Namespace it runs in.
    #[arg(long, env = "POD_NAMESPACE", default_value = crate::build::manifests::NAMESPACE)]
    pub namespace: String,
    /// Name of its Service there.
    #[arg(long, default_value = "stowaway-webhook")]
    pub service: String,
    /// Name of its own pod.
    #[arg(long, env = "POD_NAME", default_value = "stowaway-webhook")]
    pub instance: String,
    /// Port at which the API server calls. (Private clusters of some clouds let only 443 and 10250 through.)
    #[arg(long, default_value_t = 10250)]
    pub port: u16,
    /// Port of /healthz, /readyz and /metrics.
    #[arg(long, default_value_t = 8080)]
    pub health_port: u16,
    /// How long it serves after it was told to end.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub drain: Duration,
    /// Folder with tls.crt, tls.key and ca.crt, as cert-manager's Secret is mounted; the webhook makes its own otherwise.
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
                "no runs of a {kind}: write backup/, restore/, or repository/, repack/, prune/ or check/"
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
        let Verb::Backup(backup) = arguments.verb else { panic!("another verb") };
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
