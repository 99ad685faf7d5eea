//! Warnings about the keys of a `PersistentVolumeClaim` or a Namespace. They reject nothing, but a misspelt key or
//! value means that a volume is not backed up as its author intends.

use std::collections::BTreeMap;

use super::{
    Warning,
    accept_shrunken::accept_shrunken,
    consent::{namespace_opt_out, opt_out},
    excludes::excludes,
    keys::{KEYS, Key, KeyId, PREFIX, nearest, own_key},
    near_miss::{MAX_UNKNOWN, Object, bounded, near_misses},
    snapshot_class::snapshot_class,
    values,
};

type Texts = BTreeMap<String, String>;

/// An object other than a pod which can have keys.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Carrier {
    Claim,
    Namespace,
}

impl Carrier {
    fn kind(self) -> &'static str {
        match self {
            Self::Claim => "PersistentVolumeClaim",
            Self::Namespace => "Namespace",
        }
    }

    fn may_carry(self, key: &Key) -> bool {
        key.carrier.contains(self.kind())
    }

    /// Whether this key is read as a label of the object.
    fn may_be_labelled(self, key: &Key) -> bool {
        key.id == KeyId::Backup || (self == Self::Namespace && key.id == KeyId::Inject)
    }

    /// Whether this key is read as an annotation or a label of the object.
    pub(super) fn reads(self, key: &Key) -> bool {
        self.may_carry(key) || self.may_be_labelled(key)
    }
}

/// The keys of labels and annotations which Stowaway itself sets on claims that it creates, and of the label of
/// namespaces that collect metrics.
const OWN_MARKS: [&str; 8] =
    ["run", "kind", "source-hash", "attempt", "repository", "source", "restore-unfinished", "metrics"];

/// All settings that are probably not intended.
pub fn carrier_warnings(carrier: Carrier, annotations: Option<&Texts>, labels: Option<&Texts>) -> Vec<Warning> {
    let mut warnings = unknown_keys(carrier, annotations, labels);
    let found = match carrier {
        Carrier::Claim => opt_out(annotations, labels),
        Carrier::Namespace => namespace_opt_out(annotations, labels),
    };
    warnings.extend(found.warnings);
    if carrier == Carrier::Claim {
        warnings.extend(accept_shrunken(annotations).1);
    }
    let wrong = [excludes(annotations, None).err(), snapshot_class(annotations, None).err()];
    warnings.extend(wrong.into_iter().flatten().map(|problem| {
        let message =
            format!("{}; it is {}. Until it is corrected, the volume is not backed up", problem.reason, problem.value);
        Warning::mistake(problem.key, message)
    }));
    warnings
}

/// The keys with Stowaway's prefix that have no effect on the object: as many as are reported, and one more.
fn unread_own_keys(carrier: Carrier, annotations: Option<&Texts>, labels: Option<&Texts>) -> Vec<Warning> {
    let own = |texts: Option<&Texts>| -> Vec<String> {
        let keys = texts.into_iter().flat_map(BTreeMap::keys);
        keys.filter_map(|key| key.strip_prefix(PREFIX))
            .filter(|key| !OWN_MARKS.contains(key))
            .map(str::to_owned)
            .collect()
    };
    let mut warnings = Vec::new();
    for key in own(annotations) {
        // The author of the object decides how many keys it has, and each costs time.
        if warnings.len() > MAX_UNKNOWN {
            break;
        }
        let message = match KEYS.iter().find(|known| known.name == key) {
            Some(known) if carrier.may_carry(known) => continue,
            Some(known) if carrier.may_be_labelled(known) => {
                format!("has no effect as an annotation of a {}: make it a label", carrier.kind())
            }
            known => unread(carrier, known, &key),
        };
        warnings.push(Warning::mistake(format!("{PREFIX}{key}"), message));
    }
    for key in own(labels) {
        if warnings.len() > MAX_UNKNOWN {
            break;
        }
        let message = match KEYS.iter().find(|known| known.name == key) {
            Some(known) if carrier.may_be_labelled(known) => continue,
            Some(known) if carrier.may_carry(known) => {
                format!("has no effect as a label of a {}: make it an annotation", carrier.kind())
            }
            known => unread(carrier, known, &key),
        };
        warnings.push(of_label(Warning::mistake(format!("{PREFIX}{key}"), message)));
    }
    warnings
}

/// The keys that have no effect on the object although they were probably meant for Stowaway, and invalid values of
/// labels.
pub fn unknown_keys(carrier: Carrier, annotations: Option<&Texts>, labels: Option<&Texts>) -> Vec<Warning> {
    let mut warnings = unread_own_keys(carrier, annotations, labels);
    warnings.extend(
        foreign_of_pods(annotations)
            .map(|key| Warning::mistake(key, format!("has no effect on a {}; it is read on Pod", carrier.kind()))),
    );
    warnings.extend(near_misses(Object::from(carrier), annotations));
    warnings.extend(near_misses(Object::from(carrier), labels).into_iter().map(of_label));
    let inject = own_key(KeyId::Inject);
    if carrier == Carrier::Namespace
        && let Some(value) = labels.and_then(|labels| labels.get(&inject))
        && values::injection(value).is_err()
    {
        let message = format!(
            "has no effect as a label with this value, {}: it is `helper`, `sidecar` or `none`",
            values::shown(value)
        );
        warnings.push(Warning::mistake(inject, message));
    }
    bounded(warnings)
}

fn of_label(warning: Warning) -> Warning {
    Warning { message: format!("{} (it is a label)", warning.message), ..warning }
}

/// The keys of pods of other tools which the object has.
fn foreign_of_pods(annotations: Option<&Texts>) -> impl Iterator<Item = &'static str> {
    let foreign = KEYS.iter().filter(|key| key.is_of_pods()).flat_map(|key| key.foreign).map(|(_, key)| *key);
    foreign.filter(move |key| annotations.is_some_and(|annotations| annotations.contains_key(*key)))
}

fn unread(carrier: Carrier, known: Option<&Key>, key: &str) -> String {
    match known {
        Some(known) => format!("has no effect on a {}; it is read on {}", carrier.kind(), known.carrier),
        None => {
            let nearest = nearest(key, |known| carrier.reads(known));
            let nearest =
                nearest.map_or_else(String::new, |known| format!("; the nearest known one is {PREFIX}{}", known.name));
            format!("is not known on a {} and has no effect{nearest}", carrier.kind())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(pairs: &[(&str, &str)]) -> Texts {
        pairs.iter().map(|(key, value)| (format!("stowaway.dev/{key}"), (*value).to_owned())).collect()
    }

    fn messages(carrier: Carrier, annotations: &[(&str, &str)], labels: &[(&str, &str)]) -> Vec<String> {
        let found = carrier_warnings(carrier, Some(&texts(annotations)), Some(&texts(labels)));
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn misspelt_keys_are_reported_with_the_one_that_was_meant() {
        for (typo, meant) in
            [("excludes", "exclude"), ("volumesnapshot-class", "volume-snapshot-class"), ("back-up", "backup")]
        {
            for carrier in [Carrier::Claim, Carrier::Namespace] {
                for (annotations, labels) in [(vec![(typo, "false")], vec![]), (vec![], vec![(typo, "false")])] {
                    let found = messages(carrier, &annotations, &labels);
                    assert_eq!(found.len(), 1, "{found:?}");
                    assert!(found[0].contains(&format!("stowaway.dev/{meant}")), "{found:?}");
                }
            }
        }
    }

    #[test]
    fn keys_on_the_wrong_kind_and_wrong_values_are_reported() {
        for (carrier, annotations, labels) in [
            (Carrier::Claim, vec![("backupcommand", "dump")], vec![]),
            (Carrier::Claim, vec![("backup", "no")], vec![]),
            (Carrier::Claim, vec![("exclude", "!a")], vec![]),
            (Carrier::Namespace, vec![("volume-snapshot-class", "Fast")], vec![]),
            (Carrier::Claim, vec![], vec![("exclude", "a")]),
            (Carrier::Claim, vec![], vec![("inject", "sidecar")]),
            (Carrier::Namespace, vec![], vec![("inject", "side-car")]),
            (Carrier::Namespace, vec![], vec![("inject", "true")]),
            (Carrier::Namespace, vec![("inject", "helper")], vec![]),
        ] {
            let found = messages(carrier, &annotations, &labels);
            assert_eq!(found.len(), 1, "{carrier:?} {annotations:?} {labels:?}: {found:?}");
        }
    }

    #[test]
    fn valid_keys_get_no_warning() {
        let own = [("backup", "false"), ("exclude", "*.log"), ("volume-snapshot-class", "fast")];
        assert!(
            messages(Carrier::Claim, &own, &[("backup", "true"), ("run", "x"), ("kind", "backup")]).len() == 1,
            "both at once"
        );
        assert!(messages(Carrier::Claim, &own, &[("run", "x"), ("kind", "backup")]).is_empty());
        assert!(messages(Carrier::Namespace, &own, &[("inject", "sidecar")]).is_empty());
        assert!(messages(Carrier::Namespace, &[], &[("metrics", "true")]).is_empty());
        for key in ["example.org/backup", "velero.io/backup", "k8up.io/owned-by"] {
            let foreign: Texts = [(key.to_owned(), "x".to_owned())].into();
            assert!(carrier_warnings(Carrier::Claim, Some(&foreign), Some(&foreign)).is_empty(), "{key}");
        }
    }

    #[test]
    fn similar_prefixes_and_keys_of_pods_are_reported_as_annotations_and_labels() {
        for key in ["stowaway.io/backup", "stowawy.dev/backup", "k8up.io/backups", "k8up.com/backup"] {
            let texts: Texts = [(key.to_owned(), "false".to_owned())].into();
            for carrier in [Carrier::Claim, Carrier::Namespace] {
                for (annotations, labels) in [(Some(&texts), None), (None, Some(&texts))] {
                    let found = carrier_warnings(carrier, annotations, labels);
                    let [warning] = &found[..] else { panic!("{key} on {carrier:?}: {found:?}") };
                    assert!(warning.is_mistake && warning.message.contains("/backup"), "{warning}");
                    assert_eq!(warning.message.ends_with("(it is a label)"), labels.is_some(), "{warning}");
                }
            }
        }
        let of_pod: Texts = [("k8up.io/backupcommand".to_owned(), "dump".to_owned())].into();
        let [warning] = &carrier_warnings(Carrier::Claim, Some(&of_pod), None)[..] else { panic!("no warning") };
        assert!(warning.message.contains("read on Pod"), "{warning}");
    }

    #[test]
    fn unclear_value_of_the_opt_out_is_shown() {
        for (annotations, labels) in [(vec![("backup", "flase")], vec![]), (vec![], vec![("backup", "flase")])] {
            for carrier in [Carrier::Claim, Carrier::Namespace] {
                let found = messages(carrier, &annotations, &labels);
                assert!(found.len() == 1 && found[0].contains("\"flase\""), "{found:?}");
            }
        }
    }

    #[test]
    fn number_of_reports_is_bounded() {
        let many: Vec<String> = (0..100).map(|index| format!("x{index}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "")).collect();
        assert_eq!(messages(Carrier::Claim, &many, &many).len(), 17);
    }

    #[test]
    fn number_of_own_keys_that_are_compared_with_the_known_ones_is_bounded() {
        let many: Texts = (0..10_000).map(|index| (format!("{PREFIX}x{index:05}"), String::new())).collect();
        for carrier in [Carrier::Claim, Carrier::Namespace] {
            for (annotations, labels) in [(Some(&many), None), (None, Some(&many)), (Some(&many), Some(&many))] {
                assert_eq!(unread_own_keys(carrier, annotations, labels).len(), MAX_UNKNOWN + 1, "{carrier:?}");
            }
        }
    }
}
