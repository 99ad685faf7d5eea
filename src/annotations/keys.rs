//! The one table of annotation keys: what is read, what the documentation says, what a typo is compared with.
//!
//! It must not know how a value is parsed; only which form it has.

use std::fmt::Write as _;

use super::Generation;

/// What our keys begin with.
pub const PREFIX: &str = "stowaway.dev/";

/// What a key is for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Role {
    /// The command that writes the dump to its stdout.
    Command,
    /// The container it runs in.
    Container,
    /// The suffix of the stored file.
    FileExtension,
    /// The command that reads the dump on its stdin.
    RestoreCommand,
    /// Where to.
    Repository,
    /// How long.
    Timeout,
    /// How long without a byte.
    IdleTimeout,
    /// Whether a run without proof is green.
    AcceptUnproven,
    /// Whether 0 bytes are a dump.
    AllowEmpty,
    /// Whether a workload may have no pod.
    AllowMissing,
    /// What is put into the pod.
    Inject,
    /// Which of the pod's volumes.
    Volumes,
    /// Whether they are filled before the app starts.
    Restore,
    /// Which Secrets the command needs.
    Secrets,
    /// Whether a volume is backed up at all.
    Backup,
    /// What of a volume is not.
    Exclude,
    /// How a volume is snapshot, to be read as it was at one moment.
    SnapshotClass,
    /// Whether a volume may be empty, or much smaller than before.
    AcceptShrunken,
    /// Whether every command of a script's pipe counts.
    Pipefail,
    /// Whether a dump of a known format has to have its end.
    FormatCheck,
    /// Requests and limits of the sidecar.
    SidecarResources,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// A JSON array of strings, or a line that is split as K8up does. It may hold passwords and is never shown.
    Command,
    /// The name of a container or an object.
    Name,
    /// A text that is appended to a file's name.
    Suffix,
    /// Go's durations, more than zero.
    Duration,
    /// Go's booleans.
    Boolean,
    /// One of a few words, which are told here.
    Choice(&'static str),
    /// Names, separated by commas.
    Names,
    /// Patterns of paths.
    Patterns,
    /// Requests and limits of a container.
    Resources,
}

impl Form {
    /// The form in the documentation's words.
    fn describe(self) -> &'static str {
        match self {
            Self::Command => "a command line, or a JSON array of strings",
            Self::Name => "a name",
            Self::Suffix => "text, with its dot",
            Self::Duration => "a duration such as `90s` or `1h30m`",
            Self::Boolean => "`\"true\"` or `\"false\"`",
            Self::Choice(words) => words,
            Self::Names => "names, separated by commas",
            Self::Patterns => "patterns, one a line, or a JSON array of them",
            Self::Resources => "a JSON object as a container's `resources`",
        }
    }
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// What it is for.
    pub role: Role,
    /// The key without our prefix.
    pub name: &'static str,
    /// Whether `<name>.<command>` says it of a named command.
    pub named: bool,
    /// Which objects may carry it.
    pub carrier: &'static str,
    /// How its value is written.
    pub form: Form,
    /// What holds without it, in Markdown.
    pub default: &'static str,
    /// What it says, in one line of Markdown.
    pub documentation: &'static str,
    /// The feature that reads it.
    pub feature: &'static str,
    /// The keys of other tools that say the same, newest first.
    pub foreign: &'static [(Generation, &'static str)],
}

const POD: &str = "Pod";

impl Key {
    /// Whether a pod may carry it.
    pub fn is_of_pods(&self) -> bool {
        self.carrier == POD
    }
}

/// Every key that works. A key that is not here gets a warning, since nothing would come of it.
pub const KEYS: &[Key] = &[
    Key {
        role: Role::Command,
        name: "backupcommand",
        named: true,
        carrier: POD,
        form: Form::Command,
        default: "no backup",
        documentation: "The command whose stdout is stored. It is no shell: write `sh -c '...'` for pipes and variables. Blanks and quotes split a line as in K8up.",
        feature: "backup",
        foreign: &[
            (Generation::K8up, "k8up.io/backupcommand"),
            (Generation::Syn, "k8up.syn.tools/backupcommand"),
            (Generation::Appuio, "appuio.ch/backupcommand"),
        ],
    },
    Key {
        role: Role::Container,
        name: "backupcommand-container",
        named: true,
        carrier: POD,
        form: Form::Name,
        default: "the one named by `kubectl.kubernetes.io/default-container`, else the first",
        documentation: "The container in which the command and its restore run.",
        feature: "backup",
        foreign: &[(Generation::K8up, "k8up.io/backupcommand-container")],
    },
    Key {
        role: Role::FileExtension,
        name: "file-extension",
        named: true,
        carrier: POD,
        form: Form::Suffix,
        default: "none",
        documentation: "Appended to the stored file's name, for example `.sql`.",
        feature: "backup",
        foreign: &[
            (Generation::K8up, "k8up.io/file-extension"),
            (Generation::Syn, "k8up.syn.tools/file-extension"),
            (Generation::Appuio, "backup.appuio.ch/file-extension"),
        ],
    },
    Key {
        role: Role::RestoreCommand,
        name: "restorecommand",
        named: true,
        carrier: POD,
        form: Form::Command,
        default: "a Restore has to bring its own",
        documentation: "The mirror of the command: it reads the dump on its stdin.",
        feature: "restore",
        foreign: &[],
    },
    Key {
        role: Role::Pipefail,
        name: "pipefail",
        named: true,
        carrier: POD,
        form: Form::Boolean,
        default: "`\"true\"`",
        documentation: "Whether the script of `sh -c` runs with `pipefail` where its shell has it, so that each command of a pipe has to succeed, also in a restore. A script that names `pipefail` itself is left as it is.",
        feature: "backup",
        foreign: &[],
    },
    Key {
        role: Role::Repository,
        name: "repository",
        named: false,
        carrier: POD,
        form: Form::Name,
        default: "the one of the Backup, else the namespace's default",
        documentation: "The Repository, in the pod's namespace, that the dumps go to.",
        feature: "backup",
        foreign: &[],
    },
    Key {
        role: Role::Timeout,
        name: "timeout",
        named: false,
        carrier: POD,
        form: Form::Duration,
        default: "the one of the Backup",
        documentation: "A command that runs longer is ended, and nothing is stored.",
        feature: "backup",
        foreign: &[],
    },
    Key {
        role: Role::IdleTimeout,
        name: "idle-timeout",
        named: false,
        carrier: POD,
        form: Form::Duration,
        default: "the one of the Backup",
        documentation: "A command that writes nothing for so long is ended, and nothing is stored.",
        feature: "backup",
        foreign: &[],
    },
    Key {
        role: Role::AcceptUnproven,
        name: "accept-unproven",
        named: false,
        carrier: POD,
        form: Form::Boolean,
        default: "`\"false\"`",
        documentation: "Whether a dump may be green although nothing proved that all of it arrived (a container without a shell).",
        feature: "backup",
        foreign: &[],
    },
    Key {
        role: Role::AllowEmpty,
        name: "allow-empty",
        named: false,
        carrier: POD,
        form: Form::Boolean,
        default: "`\"false\"`",
        documentation: "Whether a dump of 0 bytes is a dump.",
        feature: "backup",
        foreign: &[],
    },
    Key {
        role: Role::FormatCheck,
        name: "format-check",
        named: false,
        carrier: POD,
        form: Form::Boolean,
        default: "`\"true\"`",
        documentation: "Whether a dump of a known format, such as that of `pg_dump`, tar or gzip, is stored only if the end of that format is there.",
        feature: "backup",
        foreign: &[],
    },
    Key {
        role: Role::AllowMissing,
        name: "allow-missing",
        named: false,
        carrier: POD,
        form: Form::Boolean,
        default: "`\"false\"`",
        documentation: "Whether a Backup may be green although the workload has no pod to dump: it is scaled to 0, or has fewer pods than before. It is also read on the workload itself, where it restarts no pod.",
        feature: "backup",
        foreign: &[],
    },
    Key {
        role: Role::Inject,
        name: "inject",
        named: false,
        carrier: POD,
        form: Form::Choice("`helper`, `sidecar` or `none`"),
        default: "`helper` where a command is annotated",
        documentation: "What is put into the pod: the helper that proves dumps, a sidecar that writes to the store itself, or nothing.",
        feature: "injection",
        foreign: &[],
    },
    Key {
        role: Role::Volumes,
        name: "volumes",
        named: false,
        carrier: POD,
        form: Form::Names,
        default: "none for the sidecar; for `restore` the pod's only PersistentVolumeClaim",
        documentation: "The pod's volumes that the sidecar backs up and that `restore` fills.",
        feature: "injection",
        foreign: &[],
    },
    Key {
        role: Role::Restore,
        name: "restore",
        named: false,
        carrier: POD,
        form: Form::Choice("`on-empty`"),
        default: "nothing is restored by itself",
        documentation: "Before the app starts, an empty volume is filled from its newest good snapshot. A pod for which this cannot be done is refused.",
        feature: "injection",
        foreign: &[],
    },
    Key {
        role: Role::Secrets,
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
        role: Role::Backup,
        name: "backup",
        named: false,
        carrier: "PersistentVolumeClaim, Namespace; also as a label. Of other tools: as an annotation of a PersistentVolumeClaim",
        form: Form::Boolean,
        default: "every PersistentVolumeClaim of a Backup's namespace is backed up",
        documentation: "`\"false\"` leaves a volume out; on a Namespace it leaves all out but those that say `\"true\"`.",
        feature: "backup",
        foreign: &[
            (Generation::K8up, "k8up.io/backup"),
            (Generation::Syn, "k8up.syn.tools/backup"),
            (Generation::Appuio, "appuio.ch/backup"),
        ],
    },
    Key {
        role: Role::Exclude,
        name: "exclude",
        named: false,
        carrier: "PersistentVolumeClaim, Namespace",
        form: Form::Patterns,
        default: "all files of a volume are backed up; a claim's own patterns take the place of its Namespace's",
        documentation: "Files and folders of a volume that are left out, by patterns as of restic's `--exclude`: with a slash at the beginning from the volume's own folder on, else at any depth.",
        feature: "backup",
        foreign: &[],
    },
    Key {
        role: Role::SnapshotClass,
        name: "volume-snapshot-class",
        named: false,
        carrier: "PersistentVolumeClaim, Namespace",
        form: Form::Name,
        default: "the live volume is read",
        documentation: "The VolumeSnapshotClass of a CSI snapshot that the volume is backed up from; a claim's own takes the place of its Namespace's, and `\"\"` has the live volume read.",
        feature: "backup",
        foreign: &[],
    },
    Key {
        role: Role::AcceptShrunken,
        name: "accept-shrunken",
        named: false,
        carrier: "PersistentVolumeClaim",
        form: Form::Boolean,
        default: "`\"false\"`: such a volume is stored as `Suspect`",
        documentation: "Whether the volume may be empty, or have lost more than half of its files or bytes, and be green. Remove it once the volume is backed up.",
        feature: "backup",
        foreign: &[],
    },
    Key {
        role: Role::SidecarResources,
        name: "sidecar-resources",
        named: false,
        carrier: POD,
        form: Form::Resources,
        default: "192Mi of memory, and a limit of CPU within those of the app",
        documentation: "Requests and limits of the sidecar, such as `{\"limits\":{\"cpu\":\"1\",\"memory\":\"256Mi\"}}`; they replace the default ones as a whole, and with less memory the sidecar may be killed.",
        feature: "injection",
        foreign: &[],
    },
];

/// The row of a role.
pub(super) fn key_of(role: Role) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.role == role)
}

/// The whole key of a role, as we write it.
pub fn own_key(role: Role) -> String {
    format!("{PREFIX}{}", key_of(role).map_or("", |key| key.name))
}

/// A longer key cannot be in an object, and would only cost time: the part behind the slash has at most 63 bytes.
const MAXIMUM_KEY_BYTES: usize = 63;

/// The key that was probably meant by one that we don't know, both without our prefix; none when it is too long to be
/// looked for.
pub(super) fn nearest(unknown: &str) -> Option<String> {
    if unknown.len() > MAXIMUM_KEY_BYTES {
        return None;
    }
    let base = unknown.split('.').next().unwrap_or(unknown);
    let distance = |name: &str| {
        // A part of a key, such as `container`, is as near as a typo.
        let part = if name.contains(base) { 1 } else { usize::MAX };
        strsim::damerau_levenshtein(name, unknown).min(strsim::damerau_levenshtein(name, base)).min(part)
    };
    // Of equals the first: the table's order is that of likelihood.
    let name = KEYS.iter().map(|key| key.name).min_by_key(|name| distance(name)).unwrap_or_default();
    Some(format!("{PREFIX}{name}"))
}

/// The table of the README, as Markdown.
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
