//! The table of annotation keys. The parser, the documentation and the search for typos use it.

use std::fmt::Write as _;

use super::KeyDialect;

/// The prefix of Stowaway's keys.
pub const PREFIX: &str = "stowaway.dev/";

/// Identifies a key by its purpose.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum KeyId {
    Command,
    Container,
    FileExtension,
    RestoreCommand,
    /// The Repository to write to.
    Repository,
    /// The time for which a command may run.
    Timeout,
    /// The time for which a command may write nothing.
    IdleTimeout,
    AcceptUnproven,
    /// Whether a stream of 0 bytes is a valid dump.
    AllowEmpty,
    AllowMissing,
    Inject,
    /// Which of the pod's volumes are backed up or restored.
    Volumes,
    /// Whether empty volumes are restored before the app starts.
    Restore,
    /// Which Secrets the command needs.
    Secrets,
    Backup,
    /// Which files of a volume are left out.
    Exclude,
    /// The class by which a volume is snapshotted, so that it is read as of one moment.
    SnapshotClass,
    AcceptShrunken,
    /// Whether every command of a script's pipe counts.
    Pipefail,
    /// Whether a dump of a known format must be complete.
    FormatCheck,
    SidecarResources,
}

/// The format of a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// A JSON array of strings, or a line that is split as K8up does. It may contain passwords and is never shown.
    Command,
    /// The name of a container or an object.
    Name,
    Suffix,
    /// A duration as in Go, greater than zero.
    Duration,
    /// A boolean as in Go.
    Boolean,
    /// One of a few values, which are listed here.
    Choice(&'static str),
    /// Names, separated by commas.
    Names,
    Patterns,
    Resources,
}

impl Form {
    /// The format as the documentation describes it.
    fn describe(self) -> &'static str {
        match self {
            Self::Command => "a command line, or a JSON array of strings",
            Self::Name => "a name",
            Self::Suffix => "text, with its dot",
            Self::Duration => "a duration such as `90s` or `1h30m`",
            Self::Boolean => "`\"true\"` or `\"false\"`",
            Self::Choice(values) => values,
            Self::Names => "names, separated by commas",
            Self::Patterns => "patterns, one a line, or a JSON array of them",
            Self::Resources => "a JSON object as a container's `resources`",
        }
    }
}

#[derive(Debug)]
pub struct Key {
    pub id: KeyId,
    /// The key without the prefix.
    pub name: &'static str,
    /// Whether `<name>.<command>` sets it for a named command.
    pub named: bool,
    /// Which objects may have it.
    pub carrier: &'static str,
    pub form: Form,
    /// The behaviour without it, in Markdown.
    pub default: &'static str,
    /// Its meaning, in one line of Markdown.
    pub documentation: &'static str,
    /// The feature that uses it.
    pub feature: &'static str,
    /// The keys of other tools with the same meaning, newest first.
    pub foreign: &'static [(KeyDialect, &'static str)],
}

const POD: &str = "Pod";

impl Key {
    /// Whether a pod may have it.
    pub fn is_of_pods(&self) -> bool {
        self.carrier == POD
    }
}

/// Every key that has an effect. Any other key of the prefix gets a warning, because it has none.
pub const KEYS: &[Key] = &[
    Key {
        id: KeyId::Command,
        name: "backupcommand",
        named: true,
        carrier: POD,
        form: Form::Command,
        default: "no backup",
        documentation: "The command whose stdout is stored. It does not run in a shell: write `sh -c '...'` for pipes and variables. A line is split at blanks and quotes as in K8up.",
        feature: "backup",
        foreign: &[
            (KeyDialect::K8up, "k8up.io/backupcommand"),
            (KeyDialect::Syn, "k8up.syn.tools/backupcommand"),
            (KeyDialect::Appuio, "appuio.ch/backupcommand"),
        ],
    },
    Key {
        id: KeyId::Container,
        name: "backupcommand-container",
        named: true,
        carrier: POD,
        form: Form::Name,
        default: "the one named by `kubectl.kubernetes.io/default-container`, else the first",
        documentation: "The container in which the command and its restore run.",
        feature: "backup",
        foreign: &[(KeyDialect::K8up, "k8up.io/backupcommand-container")],
    },
    Key {
        id: KeyId::FileExtension,
        name: "file-extension",
        named: true,
        carrier: POD,
        form: Form::Suffix,
        default: "none",
        documentation: "Appended to the stored file's name, for example `.sql`.",
        feature: "backup",
        foreign: &[
            (KeyDialect::K8up, "k8up.io/file-extension"),
            (KeyDialect::Syn, "k8up.syn.tools/file-extension"),
            (KeyDialect::Appuio, "backup.appuio.ch/file-extension"),
        ],
    },
    Key {
        id: KeyId::RestoreCommand,
        name: "restorecommand",
        named: true,
        carrier: POD,
        form: Form::Command,
        default: "a Restore must set its own command",
        documentation: "The counterpart of the command: it reads the dump on its stdin.",
        feature: "restore",
        foreign: &[],
    },
    Key {
        id: KeyId::Pipefail,
        name: "pipefail",
        named: true,
        carrier: POD,
        form: Form::Boolean,
        default: "`\"true\"`",
        documentation: "Whether the script of `sh -c` runs with `pipefail` if its shell supports it, so that each command of a pipe must succeed, also in a restore. A script that sets `pipefail` itself is not changed.",
        feature: "backup",
        foreign: &[],
    },
    Key {
        id: KeyId::Repository,
        name: "repository",
        named: false,
        carrier: POD,
        form: Form::Name,
        default: "the namespace's default; a Backup's `repositoryRef` overrides the annotation",
        documentation: "The Repository, in the pod's namespace, which stores the dumps.",
        feature: "backup",
        foreign: &[],
    },
    Key {
        id: KeyId::Timeout,
        name: "timeout",
        named: false,
        carrier: POD,
        form: Form::Duration,
        default: "the one of the Backup",
        documentation: "A command that runs longer than this is ended, and nothing is stored.",
        feature: "backup",
        foreign: &[],
    },
    Key {
        id: KeyId::IdleTimeout,
        name: "idle-timeout",
        named: false,
        carrier: POD,
        form: Form::Duration,
        default: "the one of the Backup",
        documentation: "A command that writes nothing for this duration is ended, and nothing is stored.",
        feature: "backup",
        foreign: &[],
    },
    Key {
        id: KeyId::AcceptUnproven,
        name: "accept-unproven",
        named: false,
        carrier: POD,
        form: Form::Boolean,
        default: "`\"false\"`",
        documentation: "Whether a dump may be green although nothing proves that it arrived completely (a container without a shell).",
        feature: "backup",
        foreign: &[],
    },
    Key {
        id: KeyId::AllowEmpty,
        name: "allow-empty",
        named: false,
        carrier: POD,
        form: Form::Boolean,
        default: "`\"false\"`",
        documentation: "Whether a dump of 0 bytes is valid.",
        feature: "backup",
        foreign: &[],
    },
    Key {
        id: KeyId::FormatCheck,
        name: "format-check",
        named: false,
        carrier: POD,
        form: Form::Boolean,
        default: "`\"true\"`",
        documentation: "Whether a dump of a known format, such as that of `pg_dump`, tar or gzip, is stored only if it has the end of that format.",
        feature: "backup",
        foreign: &[],
    },
    Key {
        id: KeyId::AllowMissing,
        name: "allow-missing",
        named: false,
        carrier: POD,
        form: Form::Boolean,
        default: "`\"false\"`",
        documentation: "Whether a Backup may be green although the workload has no pod to dump: it is scaled to 0, or has fewer pods than before. It is also read on the workload itself, where it restarts no pod; on a Backup, it confirms that its missing sources of the reason `Unknown` were deleted.",
        feature: "backup",
        foreign: &[],
    },
    Key {
        id: KeyId::Inject,
        name: "inject",
        named: false,
        carrier: POD,
        form: Form::Choice("`helper`, `sidecar` or `none`"),
        default: "`helper` where a command is annotated",
        documentation: "What is injected into the pod: the helper that proves dumps, a sidecar that writes to the store itself, or nothing.",
        feature: "injection",
        foreign: &[],
    },
    Key {
        id: KeyId::Volumes,
        name: "volumes",
        named: false,
        carrier: POD,
        form: Form::Names,
        default: "none for the sidecar; for `restore` the pod's only PersistentVolumeClaim",
        documentation: "The pod's volumes which the sidecar backs up and `restore` restores.",
        feature: "injection",
        foreign: &[],
    },
    Key {
        id: KeyId::Restore,
        name: "restore",
        named: false,
        carrier: POD,
        form: Form::Choice("`on-empty`"),
        default: "nothing is restored automatically",
        documentation: "Before the app starts, an empty volume is restored from its newest good snapshot. A pod for which this is impossible is rejected.",
        feature: "injection",
        foreign: &[],
    },
    Key {
        id: KeyId::Secrets,
        name: "secrets",
        named: false,
        carrier: POD,
        form: Form::Names,
        default: "none",
        documentation: "Secrets of the pod's namespace that are mounted into the command's container, each at `/stowaway-secrets/<name>`.",
        feature: "injection",
        foreign: &[],
    },
    Key {
        id: KeyId::Backup,
        name: "backup",
        named: false,
        carrier: "PersistentVolumeClaim, Namespace; also as a label. Keys of other tools: as an annotation of a PersistentVolumeClaim",
        form: Form::Boolean,
        default: "every PersistentVolumeClaim of a Backup's namespace is backed up",
        documentation: "`\"false\"` excludes a volume; on a Namespace it excludes all volumes except those with `\"true\"`.",
        feature: "backup",
        foreign: &[
            (KeyDialect::K8up, "k8up.io/backup"),
            (KeyDialect::Syn, "k8up.syn.tools/backup"),
            (KeyDialect::Appuio, "appuio.ch/backup"),
        ],
    },
    Key {
        id: KeyId::Exclude,
        name: "exclude",
        named: false,
        carrier: "PersistentVolumeClaim, Namespace",
        form: Form::Patterns,
        default: "all files of a volume are backed up; a claim's own patterns replace those of its Namespace",
        documentation: "Files and directories of a volume that are not backed up, as patterns of restic's `--exclude`. A pattern with a leading slash starts at the root of the volume; any other pattern matches at any depth.",
        feature: "backup",
        foreign: &[],
    },
    Key {
        id: KeyId::SnapshotClass,
        name: "volume-snapshot-class",
        named: false,
        carrier: "PersistentVolumeClaim, Namespace",
        form: Form::Name,
        default: "the live volume is read",
        documentation: "The VolumeSnapshotClass of a CSI snapshot that the volume is backed up from. A claim's own class replaces that of its Namespace, and with `\"\"` the live volume is read.",
        feature: "backup",
        foreign: &[],
    },
    Key {
        id: KeyId::AcceptShrunken,
        name: "accept-shrunken",
        named: false,
        carrier: "PersistentVolumeClaim",
        form: Form::Boolean,
        default: "`\"false\"`: such a volume is stored as `Suspect`",
        documentation: "Whether a volume that is empty, or has lost more than half of its files or bytes, may be green. Remove the annotation once the volume is backed up.",
        feature: "backup",
        foreign: &[],
    },
    Key {
        id: KeyId::SidecarResources,
        name: "sidecar-resources",
        named: false,
        carrier: POD,
        form: Form::Resources,
        default: "192Mi of memory, and a limit of CPU within those of the app",
        documentation: "Requests and limits of the sidecar, such as `{\"limits\":{\"cpu\":\"1\",\"memory\":\"256Mi\"}}`; they replace the defaults as a whole. With less memory, the sidecar may be killed.",
        feature: "injection",
        foreign: &[],
    },
];

/// The table's row of a key.
pub(super) fn key_of(id: KeyId) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.id == id)
}

/// The complete key, with Stowaway's prefix.
pub fn own_key(id: KeyId) -> String {
    format!("{PREFIX}{}", key_of(id).map_or("", |key| key.name))
}

/// The part of a key behind the slash has at most 63 bytes in Kubernetes, so a longer key cannot be in an object and is
/// not worth the search.
const MAX_KEY_BYTES: usize = 63;

/// The known key that is most similar to an unknown one, whose prefix is removed. None if the key is too long to be
/// searched for.
pub(super) fn nearest(unknown: &str, is_candidate: impl Fn(&Key) -> bool) -> Option<&'static Key> {
    if unknown.len() > MAX_KEY_BYTES {
        return None;
    }
    let base = unknown.split('.').next().unwrap_or(unknown);
    let distance = |name: &str| {
        // Part of a key, such as `container`, is as similar as a typo.
        let part = if name.contains(base) { 1 } else { usize::MAX };
        strsim::damerau_levenshtein(name, unknown).min(strsim::damerau_levenshtein(name, base)).min(part)
    };
    // Of equally similar keys, the first is the most likely, because the table is ordered by likelihood.
    KEYS.iter().filter(|key| is_candidate(key)).min_by_key(|key| distance(key.name))
}

/// The table of docs/annotations.md, as Markdown.
pub fn render() -> String {
    let mut text = String::from(
        "| annotation | on | value | without it | meaning | also read as | for |\n|---|---|---|---|---|---|---|\n",
    );
    for key in KEYS {
        let named = if key.named { format!("<br>`{PREFIX}{}.<name>`", key.name) } else { String::new() };
        let foreign: Vec<String> = key.foreign.iter().map(|(_, key)| format!("`{key}`")).collect();
        let _ = writeln!(
            text,
            "| `{PREFIX}{}`{named} | {} | {} | {} | {} | {} | {} |",
            key.name,
            key.carrier,
            key.form.describe(),
            key.default,
            key.documentation,
            foreign.join("<br>"),
            key.feature,
        );
    }
    text
}
