//! The arguments of `stowaway restore`, for one source or a whole namespace. This module only parses.

use std::{os::unix::ffi::OsStrExt, path::PathBuf, time::Duration};

use clap::{
    ArgGroup, Args, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser},
};
use jiff::Timestamp;

use super::{Output, RepositoryArguments, duration};
use crate::{
    api::{ScaleDown, ScaledKind},
    cli::{CliError, archive_target::ArchiveLocation},
    model::{ArchiveFormat, SourceName, escape_name},
    plan::SourceKind,
};

/// `stowaway restore`
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("wanted").args(["source", "all"]).required(true)))]
pub struct RestoreArguments {
    /// Cluster or repository.
    #[command(flatten)]
    pub location: RepositoryArguments,
    /// The source to restore, for example deployment/shop/postgres.
    #[arg(short, long)]
    pub source: Option<SourceName>,
    /// Options for all sources.
    #[command(flatten)]
    pub whole: WholeNamespace,
    /// Id of the snapshot. Default: the newest proven snapshot of the source.
    #[arg(long)]
    pub snapshot: Option<String>,
    /// The newest proven snapshot at or before this time, for example 2026-05-04T03:02:01Z.
    #[arg(long, value_name = "TIME", conflicts_with = "snapshot", value_parser = time)]
    pub as_of: Option<Timestamp>,
    /// Host of the snapshots, which is the namespace in which they were made. Default: the namespace itself; with
    /// --repository, any host.
    #[arg(long)]
    pub host: Option<String>,
    /// Restore only this path, as `ls` prints it or relative to the root of the volume; can be repeated.
    #[arg(long = "path", value_name = "PATH", value_parser = stored_path())]
    pub paths: Vec<String>,
    /// Folder to restore a volume or a stored file to; empty, or created (with --repository).
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["pod", "container", "command", "claim", "archive"])]
    pub target: Option<PathBuf>,
    /// Claim (`PersistentVolumeClaim`) to restore to.
    #[arg(long, value_name = "NAME", groups = ["into_claims", "may_replace"], conflicts_with_all = ["pod", "container", "command"])]
    pub claim: Option<String>,
    /// Restore even to a claim that is not empty; its content is saved as a snapshot first. For an archive: replace the
    /// archive of that name.
    #[arg(long, requires = "may_replace")]
    pub overwrite: bool,
    /// Create the claim if it does not exist, like the claim that was stored: with its size, access modes and volume
    /// mode, and with this storage class. Default: the stored claim's class, then the cluster's default class.
    #[arg(long, value_name = "STORAGE_CLASS", requires = "into_claims")]
    #[allow(clippy::option_option, reason = "not given, given without a class, given with one")]
    pub create: Option<Option<String>>,
    /// Size of a claim that is created, for example 10Gi. Default: the stored claim's request; if the snapshot does not
    /// record it, 1.5 times the size of the snapshot plus 1 GiB.
    #[arg(long, requires = "create")]
    pub size: Option<String>,
    /// Scale this workload to 0 during the restore, as deployment/NAME or statefulset/NAME. With --all give no name:
    /// the workload that mounts the claim is scaled.
    #[arg(long, value_name = "WORKLOAD", requires = "into_claims", value_parser = scale_down)]
    #[allow(clippy::option_option, reason = "not given, given without a name, given with one")]
    pub scale_down: Option<Option<ScaleDown>>,
    /// Options for an archive.
    #[command(flatten)]
    pub archive: ArchiveArguments,
    /// Pod to restore to. Default: the source's own pod.
    #[arg(long)]
    pub pod: Option<String>,
    /// Container of that pod.
    #[arg(short, long)]
    pub container: Option<String>,
    /// Name of the Restore object. Default: a name generated from the time.
    #[arg(long)]
    pub name: Option<String>,
    /// Wait for the verdict, and show the progress.
    #[arg(short, long)]
    pub wait: bool,
    /// Stop the command after this time.
    #[arg(long, value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Stop the command when no byte has moved for this time.
    #[arg(long, value_parser = duration)]
    pub idle_timeout: Option<Duration>,
    /// Result as text or as JSON.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// The command that reads the dump on its stdin. Default: the annotated restorecommand.
    #[arg(last = true)]
    pub command: Vec<String>,
}

/// The options that are valid only for all sources of a namespace.
#[derive(Args, Debug)]
pub struct WholeNamespace {
    /// Restore all sources: volumes into the claims of their names first, then commands into the annotated pods.
    /// Reports each source that cannot be restored. Always waits.
    #[arg(long, groups = ["into_claims", "may_replace"], conflicts_with_all = [
        "source", "snapshot", "paths", "target", "claim", "archive", "pod", "container", "command", "name",
    ])]
    pub all: bool,
    /// Restore only the volumes, or only the commands (with --all).
    #[arg(long, value_enum, requires = "all", conflicts_with = "source")]
    pub only: Option<Only>,
    /// Change nothing, and print what would be restored (with --all).
    // clap does not report a missing requirement that conflicts with a given option. Without this conflict, `--source x
    // --dry-run` would restore.
    #[arg(long, requires = "all", conflicts_with = "source")]
    pub dry_run: bool,
}

/// The options that are valid only for an archive.
#[derive(Args, Debug)]
pub struct ArchiveArguments {
    /// Write an archive to this location: pvc:CLAIM[/FOLDER] or s3:https://HOST/BUCKET[/PREFIX].
    #[arg(long = "archive", id = "archive", value_name = "LOCATION", group = "may_replace", conflicts_with_all = ["claim", "pod", "container", "command"])]
    pub location: Option<ArchiveLocation>,
    /// Format of the archive: tar, tar.gz, tar.lz4 or tar.zst.
    #[arg(long, requires = "archive", conflicts_with_all = ["all", "claim", "target", "pod", "container", "command"], default_value_t)]
    pub format: ArchiveFormat,
    /// Secret with the keys access-key-id and secret-access-key for the archive's bucket. Default: the identity of the
    /// Job's pod.
    #[arg(long = "archive-secret", value_name = "NAME", requires = "archive", conflicts_with_all = ["all", "claim", "target", "pod", "container", "command"])]
    pub secret: Option<String>,
}

impl RestoreArguments {
    /// The source; an error if `--all` was given instead of one.
    pub fn source(&self) -> Result<SourceName, CliError> {
        let missing = || {
            CliError::Usage(
                "--all restores a namespace of a cluster: select it with --namespace, without --repository".to_owned(),
            )
        };
        self.source.clone().ok_or_else(missing)
    }
}

/// Kind of the sources to restore.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Only {
    /// Volumes, which are claims.
    Volumes,
    /// Commands of pods.
    Commands,
}

impl From<Only> for SourceKind {
    fn from(only: Only) -> Self {
        match only {
            Only::Volumes => Self::Volume,
            Only::Commands => Self::Command,
        }
    }
}

/// A path in a snapshot. A path that is not UTF-8 becomes its escaped form.
pub(super) fn stored_path() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().map(|path| path.into_string().unwrap_or_else(|path| escape_name(path.as_bytes())))
}

fn time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| {
        format!(
            "{text:?} is not a time: write date, time and zone, as 2026-05-04T03:02:01Z (UTC), 2026-05-04T05:02:01+02:00 or \
             \"2026-05-04 03:02Z\"; `stowaway snapshots` prints the times of the snapshots"
        )
    })
}

fn scale_down(text: &str) -> Result<ScaleDown, String> {
    let (kind, name) = text.split_once('/').unwrap_or((text, ""));
    let kind = match kind {
        "deployment" | "deploy" => ScaledKind::Deployment,
        "statefulset" | "sts" => ScaledKind::StatefulSet,
        _ => return Err("write deployment/NAME or statefulset/NAME".to_owned()),
    };
    if name.is_empty() {
        return Err(format!("the name of the {kind} is missing"));
    }
    Ok(ScaleDown { kind, name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Arguments, Command};

    fn parsed(line: &str) -> Result<RestoreArguments, String> {
        let arguments = Arguments::try_parse_from(["stowaway", "restore"].into_iter().chain(line.split(' ')));
        match arguments.map_err(|error| error.to_string())?.command {
            Command::Restore(arguments) => Ok(*arguments),
            command => panic!("{command:?}"),
        }
    }

    #[test]
    fn one_source_or_all_of_them_are_restored() {
        let neither = parsed("--wait").unwrap_err();
        assert!(neither.contains("--source") && neither.contains("--all"), "{neither}");
        assert!(parsed("--all --source pvc/data").is_err());
        assert!(parsed("--all --snapshot abcdef12").is_err(), "an id is of one source");
        assert!(parsed("--all --name x").is_err(), "there are several Restores");
        assert!(parsed("--source pvc/data --only volumes").is_err());
        assert!(parsed("--source pvc/data --dry-run").is_err(), "it would restore");
        let all = parsed("--all --only commands --dry-run --as-of 2026-05-04T03:02:01Z --host old").unwrap();
        assert_eq!((all.whole.only, all.whole.dry_run, all.host.as_deref()), (Some(Only::Commands), true, Some("old")));
    }

    #[test]
    fn time_that_cannot_be_read_is_refused_with_the_forms_that_can() {
        let refused = parsed("--source pvc/a --as-of yesterday").unwrap_err();
        let forms = ["2026-05-04T03:02:01Z", "2026-05-04T05:02:01+02:00", "2026-05-04 03:02Z"];
        assert!(refused.contains("\"yesterday\" is not a time"), "{refused}");
        for form in forms {
            assert!(refused.contains(form), "{refused}");
            assert!(time(form).is_ok(), "{form}");
        }
        assert!(parsed("--source pvc/a --as-of 2026-05-04").unwrap_err().contains("is not a time"), "of which zone?");
    }

    #[test]
    fn claims_are_made_of_a_class_or_of_the_default_one() {
        assert_eq!(parsed("--all --create --overwrite").unwrap().create, Some(None));
        assert_eq!(
            parsed("--source pvc/a --claim a --create fast --size 2Gi").unwrap().create,
            Some(Some("fast".into()))
        );
        assert_eq!(parsed("--all").unwrap().create, None);
        for nowhere in ["", " --target /a", " --pod a", " -- tar x"] {
            for option in ["--create", "--overwrite", "--scale-down statefulset/a"] {
                assert!(
                    parsed(&format!("--source pvc/a {option}{nowhere}")).is_err(),
                    "{option}{nowhere}: there is no claim"
                );
            }
        }
        assert!(parsed("--source pvc/a --claim a --size 2Gi").is_err(), "nothing is made");
    }

    #[test]
    fn paths_need_not_be_utf8() {
        use std::{ffi::OsString, os::unix::ffi::OsStringExt};
        let arguments = ["stowaway", "restore", "--source", "pvc/a", "--path"].map(OsString::from);
        let path = OsString::from_vec(b"caf\xe9.txt".to_vec());
        let arguments = Arguments::try_parse_from(arguments.into_iter().chain([path])).unwrap();
        let Command::Restore(arguments) = arguments.command else { panic!("another command") };
        assert_eq!(arguments.paths, [r"caf\xe9.txt"]);
    }

    #[test]
    fn workloads_are_named_as_for_kubectl() {
        let named =
            |text: &str| parsed(&format!("--source pvc/a --claim a --scale-down {text}")).map(|one| one.scale_down);
        let wanted = ScaleDown { kind: ScaledKind::StatefulSet, name: "db".into() };
        assert_eq!(named("statefulset/db"), Ok(Some(Some(wanted))));
        for wrong in ["db", "statefulset/", "daemonset/db"] {
            assert!(named(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parsed("--all --scale-down").unwrap().scale_down, Some(None));
    }

    #[test]
    fn archive_excludes_claim_and_command() {
        let one = parsed("--source pvc/a --archive pvc:away/year --format tar.zst --overwrite").unwrap();
        assert_eq!(one.archive.format, ArchiveFormat::TarZstd);
        assert!(parsed("--source pvc/a --archive pvc:away --claim a").is_err());
        assert!(parsed("--source pvc/a --archive pvc:away --create").is_err());
        assert!(parsed("--source pvc/a --archive pvc:away -- tar x").is_err());
        for wrong in ["", " --claim a", " --target /a", " --pod a"] {
            assert!(parsed(&format!("--source pvc/a --format tar{wrong}")).is_err(), "{wrong}");
            assert!(parsed(&format!("--source pvc/a --archive-secret b{wrong}")).is_err(), "{wrong}");
        }
    }
}
