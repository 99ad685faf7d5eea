//! What is wrong with the keys of a `PersistentVolumeClaim` or a Namespace, which refuse nothing: a misspelt key or value there
//! means that a volume is stored otherwise than its author thinks.
//!
//! It must not know volumes; only the texts that an object carries.

use std::collections::BTreeMap;

use super::{
    Warning,
    accept_shrunken::accept_shrunken,
    consent::{consent, namespace_consent},
    excludes::excludes,
    keys::{KEYS, Key, PREFIX, Role, own_key},
    snapshot_class::snapshot_class,
    values,
};

type Texts = BTreeMap<String, String>;

/// An object that is no pod and carries keys.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Carrier {
    /// A `PersistentVolumeClaim`.
    Claim,
    /// A Namespace.
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

    /// Whether a label of this key is read on such an object.
    fn may_be_labelled(self, key: &Key) -> bool {
        key.role == Role::Backup || (self == Self::Namespace && key.role == Role::Inject)
    }
}

/// The labels and annotations that Stowaway itself puts on claims that it makes.
const OWN_MARKS: [&str; 6] = ["run", "kind", "source-hash", "attempt", "repository", "source"];
/// From how many on unknown keys are no longer reported one by one.
const MAXIMUM_UNKNOWN: usize = 16;

/// All that was probably not meant.
pub fn carrier_warnings(carrier: Carrier, annotations: Option<&Texts>, labels: Option<&Texts>) -> Vec<Warning> {
    let mut warnings = unknown_keys(carrier, annotations, labels);
    let said = match carrier {
        Carrier::Claim => consent(annotations, labels),
        Carrier::Namespace => namespace_consent(annotations, labels),
    };
    warnings.extend(said.warnings);
    if carrier == Carrier::Claim {
        warnings.extend(accept_shrunken(annotations).1);
    }
    let wrong = [excludes(annotations, None).err(), snapshot_class(annotations, None).err()];
    warnings.extend(wrong.into_iter().flatten().map(|problem| Warning {
        message: format!(
            "{}; it is {}. Until it is mended, nothing of the volume is stored",
            problem.reason, problem.value
        ),
        key: problem.key,
    }));
    warnings
}

/// The keys of Stowaway's prefix that have no effect on such an object, and values of labels that are none.
pub fn unknown_keys(carrier: Carrier, annotations: Option<&Texts>, labels: Option<&Texts>) -> Vec<Warning> {
    let own = |texts: Option<&Texts>| -> Vec<String> {
        let keys = texts.into_iter().flat_map(BTreeMap::keys);
        keys.filter_map(|key| key.strip_prefix(PREFIX))
            .filter(|key| !OWN_MARKS.contains(key))
            .map(str::to_owned)
            .collect()
    };
    let mut warnings = Vec::new();
    for key in own(annotations) {
        let message = match KEYS.iter().find(|known| known.name == key) {
            Some(known) if carrier.may_carry(known) => continue,
            Some(known) if carrier.may_be_labelled(known) => {
                format!("has no effect as an annotation of a {}: make it a label", carrier.kind())
            }
            known => unread(carrier, known, &key),
        };
        warnings.push(Warning { key: format!("{PREFIX}{key}"), message });
    }
    for key in own(labels) {
        let message = match KEYS.iter().find(|known| known.name == key) {
            Some(known) if carrier.may_be_labelled(known) => continue,
            Some(known) if carrier.may_carry(known) => {
                format!("has no effect as a label of a {}: make it an annotation", carrier.kind())
            }
            known => unread(carrier, known, &key),
        };
        warnings.push(Warning { key: format!("{PREFIX}{key}"), message: format!("{message} (it is a label)") });
    }
    let inject = own_key(Role::Inject);
    if carrier == Carrier::Namespace
        && let Some(value) = labels.and_then(|labels| labels.get(&inject))
        && values::injection(value).is_err()
    {
        let message = format!(
            "has no effect as a label with this value, {}: it is `helper`, `sidecar` or `none`",
            values::shown(value)
        );
        warnings.push(Warning { key: inject, message });
    }
    if warnings.len() > MAXIMUM_UNKNOWN {
        warnings.truncate(MAXIMUM_UNKNOWN);
        let message = "has more keys without an effect than are reported here".to_owned();
        warnings.push(Warning { key: PREFIX.to_owned(), message });
    }
    warnings
}

fn unread(carrier: Carrier, known: Option<&Key>, key: &str) -> String {
    match known {
        Some(known) => format!("has no effect on a {}; it is read on {}", carrier.kind(), known.carrier),
        None => {
            let distance = |name: &str| strsim::damerau_levenshtein(name, key);
            let keys = KEYS.iter().filter(|known| carrier.may_carry(known) || carrier.may_be_labelled(known));
            let nearest = keys.map(|known| known.name).min_by_key(|name| distance(name)).unwrap_or_default();
            format!(
                "is not known on a {} and has no effect; the nearest known one is {PREFIX}{nearest}",
                carrier.kind()
            )
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
    fn what_is_right_is_silent() {
        let own = [("backup", "false"), ("exclude", "*.log"), ("volume-snapshot-class", "fast")];
        assert!(
            messages(Carrier::Claim, &own, &[("backup", "true"), ("run", "x"), ("kind", "backup")]).len() == 1,
            "both at once"
        );
        assert!(messages(Carrier::Claim, &own, &[("run", "x"), ("kind", "backup")]).is_empty());
        assert!(messages(Carrier::Namespace, &own, &[("inject", "sidecar")]).is_empty());
        let foreign: Texts = [("example.org/backup".to_owned(), "x".to_owned())].into();
        assert!(carrier_warnings(Carrier::Claim, Some(&foreign), Some(&foreign)).is_empty());
    }

    #[test]
    fn number_of_reports_is_bounded() {
        let many: Vec<String> = (0..100).map(|index| format!("x{index}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "")).collect();
        assert_eq!(messages(Carrier::Claim, &many, &many).len(), MAXIMUM_UNKNOWN + 1);
    }
}
