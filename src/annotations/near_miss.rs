//! Keys which were probably meant for Stowaway and are not read: those whose prefix is similar to Stowaway's, and
//! misspelt keys of K8up. An unknown key with Stowaway's exact prefix is recognized by that prefix, and not here. A key
//! of another product is never reported, because both its prefix and its name have to be similar.

use std::collections::BTreeMap;

use super::{
    Carrier, Warning,
    keys::{KEYS, Key, KeyId, PREFIX, nearest},
};

/// Every key that this module reports, and every key that Stowaway reads, contains one of these texts. The API server
/// looks for them before it calls the webhook.
pub const KEY_FRAGMENTS: [&str; 4] = ["stow", "away", "k8up", "appuio.ch/"];

/// Keys which K8up sets on objects of its own. They are known, and mean nothing to Stowaway.
const OTHERS_OF_K8UP: [&str; 6] = [
    "k8up.io/type",
    "k8up.io/owned-by",
    "k8up.io/backupCommandPod",
    "k8up.io/preBackupPod",
    "k8up.io/ownerBackupUID",
    "k8up.syn.tools/type",
];

/// The label of Stowaway's domain.
const PRODUCT: &str = "stowaway";
const K8UP: &str = "k8up";
/// Kubernetes' limit: 253 bytes of the prefix, the slash, and 63 bytes of the name.
const MAX_KEY_BYTES: usize = 317;
/// The author of an object decides how many keys it has, so only the first ones are compared with known keys.
const MAX_COMPARED: usize = 64;
/// From this number on, unknown keys of an object are not reported individually.
pub(super) const MAX_UNKNOWN: usize = 16;
/// The greatest edit distance of similar texts.
const DISTANCE: usize = 2;
/// Names that are shorter than this have a distance of at most 1, because the short ones resemble each other.
const SHORT: usize = 8;

/// The kind of the object that has the keys.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Object {
    Pod,
    Workload,
    Claim,
    Namespace,
}

impl From<Carrier> for Object {
    fn from(carrier: Carrier) -> Self {
        match carrier {
            Carrier::Claim => Self::Claim,
            Carrier::Namespace => Self::Namespace,
        }
    }
}

impl Object {
    fn reads(self, key: &Key) -> bool {
        match self {
            Self::Pod => key.is_of_pods(),
            Self::Workload => key.id == KeyId::AllowMissing,
            Self::Claim => Carrier::Claim.reads(key),
            Self::Namespace => Carrier::Namespace.reads(key),
        }
    }

    /// Whether the key may have been meant although its name is not similar. A key of a pod may have been meant for
    /// another object.
    fn is_candidate(self, key: &Key) -> bool {
        matches!(self, Self::Pod | Self::Workload) || self.reads(key)
    }
}

/// A known key, as it was probably meant.
#[derive(Debug)]
pub(super) struct Intended {
    key: &'static Key,
    /// The complete key.
    spelling: String,
}

impl Intended {
    /// Stowaway's own key.
    pub(super) fn own(key: &'static Key) -> Self {
        Self { key, spelling: format!("{PREFIX}{}", key.name) }
    }

    /// Stowaway's own key, with the command's name from `name` if the key may have one.
    fn named(key: &'static Key, name: &str) -> Self {
        let own = Self::own(key);
        match name.split_once('.') {
            Some((_, command)) if key.named => Self { spelling: format!("{}.{command}", own.spelling), ..own },
            _ => own,
        }
    }

    /// The warning's message about the unknown key on this object.
    pub(super) fn message(&self, object: Object) -> String {
        let Self { key, spelling } = self;
        let (is_read, carrier) = match (spelling.starts_with(PREFIX), key.is_of_pods()) {
            (true, _) => (object.reads(key), key.carrier.split(';').next().unwrap_or_default()),
            (false, true) => (object == Object::Pod, key.carrier),
            (false, false) => (object == Object::Claim, "PersistentVolumeClaim"),
        };
        let elsewhere = match object {
            _ if is_read => String::new(),
            Object::Workload if key.is_of_pods() => {
                ", which is read on the pod template (spec.template.metadata.annotations)".to_owned()
            }
            _ => format!(", which is read on {carrier}"),
        };
        format!("is not known and has no effect; the nearest known one is {spelling}{elsewhere}")
    }
}

/// Warnings about the keys which were probably meant for Stowaway, in the order of the keys.
pub(super) fn near_misses(object: Object, texts: Option<&BTreeMap<String, String>>) -> Vec<Warning> {
    let keys = texts.into_iter().flat_map(BTreeMap::keys);
    keys.filter(|key| may_be_meant(key))
        .take(MAX_COMPARED)
        .filter_map(|key| Some(Warning::mistake(key, intended(key, object)?.message(object))))
        .collect()
}

/// At most [`MAX_UNKNOWN`] of the warnings, and one that there are more.
pub(super) fn bounded(mut warnings: Vec<Warning>) -> Vec<Warning> {
    if warnings.len() > MAX_UNKNOWN {
        warnings.truncate(MAX_UNKNOWN);
        warnings.push(Warning::mistake(PREFIX, "has more keys without effect than are reported here"));
    }
    warnings
}

/// Whether the key is worth a comparison with the known keys.
fn may_be_meant(key: &str) -> bool {
    key.len() <= MAX_KEY_BYTES
        && KEY_FRAGMENTS.iter().any(|fragment| key.contains(fragment))
        && !key.starts_with(PREFIX)
        && !OTHERS_OF_K8UP.contains(&key)
        && !foreign().any(|(known, _)| known == key)
}

/// The keys of other tools that Stowaway reads.
fn foreign() -> impl Iterator<Item = (&'static str, &'static Key)> {
    KEYS.iter().flat_map(|key| key.foreign.iter().map(move |(_, foreign)| (*foreign, key)))
}

/// The known key that was probably meant by this unknown one.
fn intended(key: &str, object: Object) -> Option<Intended> {
    let key = key.to_ascii_lowercase();
    let Some((prefix, name)) = key.split_once('/') else {
        return own(Likeness::Similar, name_without_slash(&key)?, object);
    };
    likeness(prefix).and_then(|likeness| own(likeness, name, object)).or_else(|| of_k8up(prefix, name))
}

/// The similarity of a prefix to Stowaway's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Likeness {
    /// It has Stowaway's exact name, so that a less similar name behind it was meant for Stowaway, too. Another product
    /// may have the same name, with keys of its own.
    Product,
    /// It is similar, so that the name behind it decides.
    Similar,
}

fn likeness(prefix: &str) -> Option<Likeness> {
    let mut labels = prefix.split('.');
    if labels.clone().any(|label| label == PRODUCT) {
        return Some(Likeness::Product);
    }
    let is_near = |text: &str, known: &str| distance(text, known, DISTANCE).is_some();
    let is_similar = is_near(prefix, PREFIX.trim_end_matches('/')) || labels.any(|label| is_near(label, PRODUCT));
    is_similar.then_some(Likeness::Similar)
}

/// The name in a key such as `stowaway.dev.backup` or `stowaway-backup`.
fn name_without_slash(key: &str) -> Option<&str> {
    let rest = key.strip_prefix(PRODUCT)?;
    rest.strip_prefix(".dev").unwrap_or(rest).strip_prefix(['.', '-', '_'])
}

fn own(likeness: Likeness, name: &str, object: Object) -> Option<Intended> {
    let key = match (similar(name, KEYS.iter().map(|key| (key.name, key))), likeness) {
        (Some(key), _) => key,
        (None, Likeness::Product) => nearest(name, |key| object.is_candidate(key) && resembles(name, key.name))?,
        (None, Likeness::Similar) => return None,
    };
    Some(Intended::named(key, name))
}

/// Whether a name may have been meant for a known one although several characters differ: it is the beginning or the
/// end of the known name, or more than half of the characters are the same. Short names resemble too many others.
fn resembles(name: &str, known: &str) -> bool {
    let base = name.split('.').next().unwrap_or(name);
    let is_part = base.len() >= SHORT && (known.starts_with(base) || known.ends_with(base));
    is_part || known.len() >= SHORT && strsim::normalized_damerau_levenshtein(base, known) > 0.5
}

fn of_k8up(prefix: &str, name: &str) -> Option<Intended> {
    let has_prefix = |key: &str| key.split_once('/').is_some_and(|(known, _)| known == prefix);
    if !prefix.contains(K8UP) && !foreign().any(|(known, _)| has_prefix(known)) {
        return None;
    }
    let names = foreign().filter_map(|(known, key)| Some((known.split_once('/')?.1, key)));
    let key = similar(name, names)?;
    if key.named && name.contains('.') {
        // K8up has one command for each pod, and Stowaway several.
        return Some(Intended::named(key, name));
    }
    // Not every key of K8up exists with each of its prefixes.
    let keys = || key.foreign.iter().map(|(_, known)| *known);
    let spelling = keys().find(|known| has_prefix(known)).or_else(|| keys().next())?;
    Some(Intended { key, spelling: spelling.to_owned() })
}

/// The known name that is most similar to a name, without the name of a command.
fn similar(name: &str, known: impl Iterator<Item = (&'static str, &'static Key)>) -> Option<&'static Key> {
    let base = name.split('.').next().unwrap_or(name);
    let near = known.filter_map(|(known, key)| {
        let limit = if known.len() < SHORT { 1 } else { DISTANCE };
        Some((distance(base, known, limit)?, key))
    });
    near.min_by_key(|(distance, _)| *distance).map(|(_, key)| key)
}

/// The edit distance, if it is at most `limit`.
fn distance(text: &str, known: &str, limit: usize) -> Option<usize> {
    if text.len().abs_diff(known.len()) > limit {
        return None;
    }
    Some(strsim::damerau_levenshtein(text, known)).filter(|distance| *distance <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(key: &str, object: Object) -> Option<String> {
        let texts = [(key.to_owned(), "x".to_owned())].into();
        let found = near_misses(object, Some(&texts));
        assert!(found.len() < 2 && found.iter().all(|warning| warning.key == key && warning.is_mistake), "{found:?}");
        let message = found.into_iter().next()?.message;
        Some(message.strip_prefix("is not known and has no effect; the nearest known one is ").unwrap().to_owned())
    }

    #[test]
    fn keys_that_were_probably_meant_for_stowaway_are_recognized_by_prefix_and_name() {
        for (key, expected) in [
            // Another domain, a missing or a misspelt one.
            ("stowaway.io/backupcommand", "stowaway.dev/backupcommand"),
            ("stowaway.com/backupcommand", "stowaway.dev/backupcommand"),
            ("stowaway.dev.io/backupcommand", "stowaway.dev/backupcommand"),
            ("stowaway/backupcommand", "stowaway.dev/backupcommand"),
            ("stowawaydev/backupcommand", "stowaway.dev/backupcommand"),
            ("other.stowaway.dev/backupcommand", "stowaway.dev/backupcommand"),
            ("stow-away.dev/backupcommand", "stowaway.dev/backupcommand"),
            ("stow.away.dev/backupcommand", "stowaway.dev/backupcommand"),
            ("stowawy.dev/backupcommand", "stowaway.dev/backupcommand"),
            ("stwoaway.dev/timeout", "stowaway.dev/timeout"),
            ("Stowaway.dev/inject", "stowaway.dev/inject"),
            // Prefix and name at once.
            ("stowawy.dev/backup-comand", "stowaway.dev/backupcommand"),
            ("stowaway.io/backupcommand.roles", "stowaway.dev/backupcommand.roles"),
            ("stowaway.io/timeout.roles", "stowaway.dev/timeout"),
            ("stowaway.io/container", "stowaway.dev/backupcommand-container"),
            ("stowaway.io/command", "stowaway.dev/backupcommand"),
            ("stowaway.io/backup-cmd", "stowaway.dev/backupcommand"),
            ("stowaway.io/dump-command.roles", "stowaway.dev/backupcommand.roles"),
            // No slash.
            ("stowaway.dev.backupcommand", "stowaway.dev/backupcommand"),
            ("stowaway-restorecommand", "stowaway.dev/restorecommand"),
            // Keys of K8up.
            ("k8up.io/backupcomand", "k8up.io/backupcommand"),
            ("k8up.io/backupCommand", "k8up.io/backupcommand"),
            ("k8up.io/backup-command", "k8up.io/backupcommand"),
            ("k8up.syn.tools/backupcomand", "k8up.syn.tools/backupcommand"),
            ("k8up.syn.tools/backupcommand-container", "k8up.io/backupcommand-container"),
            ("k8up.io/fileextension", "k8up.io/file-extension"),
            ("k8up.com/backupcommand", "k8up.io/backupcommand"),
            ("k8up/backupcommand", "k8up.io/backupcommand"),
            ("appuio.ch/backupcomand", "appuio.ch/backupcommand"),
            ("backup.appuio.ch/backupcommand", "k8up.io/backupcommand"),
            ("k8up.io/backupcommand.roles", "stowaway.dev/backupcommand.roles"),
        ] {
            assert_eq!(meant(key, Object::Pod).as_deref(), Some(expected), "{key}");
        }
    }

    #[test]
    fn keys_of_other_products_and_known_ones_are_never_near_misses() {
        for key in [
            "stowaway.dev/backupcomand",
            "k8up.io/backup",
            "k8up.io/backupcommand",
            "k8up.syn.tools/file-extension",
            "k8up.io/type",
            "k8up.io/owned-by",
            "k8up.io/backupCommandPod",
            "k8up.io/unknown",
            "appuio.ch/organization",
            "velero.io/backup",
            "backup.velero.io/backup-volumes",
            "pre.hook.backup.velero.io/command",
            "kubectl.kubernetes.io/restartedAt",
            "example.com/backupcommand",
            "backupcommand",
            "stowage.example/backupcommand",
            "throwaway.example/backup",
            "getaway.io/backup",
            "stowawy.dev/color",
            // Another product of the same name.
            "stowaway.com/team",
            "stowaway.com/owner",
            "stowaway.com/project",
            "stowaway.com/backend",
            "stowaway.com/restart",
            "stowaway.com/status",
            "stowaway.com/store",
            "stowaway.com/version",
            "stowaway.com/retention",
            "app.stowaway.example.org/name",
            "stowaway/x",
            "mystowaway.example.org/x",
            "stowaway-e2e",
            "stowaway",
            "bestow.io/restore",
        ] {
            assert_eq!(meant(key, Object::Pod), None, "{key}");
        }
    }

    #[test]
    fn key_that_another_object_reads_is_named_with_that_object() {
        for (object, key, expected) in [
            (Object::Claim, "stowaway.io/backup", "stowaway.dev/backup"),
            (Object::Claim, "stowaway.io/excludes", "stowaway.dev/exclude"),
            (Object::Claim, "k8up.io/backups", "k8up.io/backup"),
            (Object::Namespace, "k8up.io/backups", "k8up.io/backup, which is read on PersistentVolumeClaim"),
            (Object::Namespace, "stowawy.dev/inject", "stowaway.dev/inject"),
            (Object::Claim, "stowawy.dev/backupcomand", "stowaway.dev/backupcommand, which is read on Pod"),
            (
                Object::Pod,
                "stowawy.dev/backup",
                "stowaway.dev/backup, which is read on PersistentVolumeClaim, Namespace",
            ),
            (Object::Workload, "stowawy.dev/allow-missing", "stowaway.dev/allow-missing"),
            (
                Object::Workload,
                "k8up.io/backupcomand",
                "k8up.io/backupcommand, which is read on the pod template (spec.template.metadata.annotations)",
            ),
        ] {
            assert_eq!(meant(key, object).as_deref(), Some(expected), "{key} on {object:?}");
        }
    }

    #[test]
    fn number_of_comparisons_and_reports_is_bounded() {
        let many: BTreeMap<String, String> =
            (0..10_000).map(|number| (format!("stowaway.io/timeout.x{number:05}"), String::new())).collect();
        let found = near_misses(Object::Pod, Some(&many));
        assert_eq!(found.len(), MAX_COMPARED);
        assert_eq!(bounded(found).len(), MAX_UNKNOWN + 1);
        assert_eq!(meant(&format!("stowaway.io/{}", "b".repeat(400)), Object::Pod), None);
    }

    #[test]
    fn every_key_that_is_read_contains_a_fragment() {
        let own = KEYS.iter().map(|key| format!("{PREFIX}{}", key.name));
        for key in own.chain(foreign().map(|(key, _)| key.to_owned())) {
            assert!(KEY_FRAGMENTS.iter().any(|fragment| key.contains(fragment)), "{key}");
        }
    }

    #[test]
    fn keys_beyond_the_first_ones_are_not_compared() {
        let misspelt = "zz.stowawy.dev/backupcommand";
        for (others, is_compared) in [(0, true), (63, true), (64, false), (10_000, false)] {
            let keys =
                (0..others).map(|number| format!("bestow{number:05}.example/color")).chain([misspelt.to_owned()]);
            let texts: BTreeMap<String, String> = keys.map(|key| (key, String::new())).collect();
            for object in [Object::Pod, Object::Workload, Object::Claim, Object::Namespace] {
                assert_eq!(near_misses(object, Some(&texts)).len(), usize::from(is_compared), "{others} on {object:?}");
            }
        }
    }

    #[test]
    fn key_that_is_longer_than_kubernetes_allows_is_not_compared() {
        let key = |length: usize| format!("stowawy.dev/backupcommand.{}", "x".repeat(length - 26));
        assert!(key(317).len() == 317 && meant(&key(317), Object::Pod).is_some());
        assert_eq!(meant(&key(318), Object::Pod), None);
    }
}
