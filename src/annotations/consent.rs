//! Whether a volume, or the volumes of a namespace, are backed up: the opt-out.
//!
//! | key | where | value | meaning |
//! |---|---|---|---|
//! | `stowaway.dev/backup` | label or annotation | a boolean as in Go | that value |
//! | | | anything else | ignored, with a warning, so that the volume is backed up |
//! | `k8up.io/backup`, `k8up.syn.tools/backup`, `appuio.ch/backup` | annotation of a claim | a boolean as in Go | that value |
//! | | | anything else, such as `yes` | `false` as in these tools, with a warning |
//!
//! K8up reads its keys only as an annotation of a claim. On a Namespace, or as a label, they have no effect here
//! either, and are reported.
//!
//! Stowaway's key wins over other tools' keys, and of those, the newest wins. If Stowaway's annotation and label
//! contradict each other, `true` wins.

use std::collections::BTreeMap;

use super::{
    Warning,
    keys::{KeyId, key_of, own_key},
    values,
};

/// Whether an object opts out of its backup.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OptOut {
    /// Whether the object is to be backed up; `None` when it does not specify this.
    pub wanted: Option<bool>,
    /// The key that specifies it.
    pub key: String,
    /// Settings that are probably not intended.
    pub warnings: Vec<Warning>,
}

type Texts = BTreeMap<String, String>;

/// Reads the annotations and labels of a `PersistentVolumeClaim`.
pub fn opt_out(annotations: Option<&Texts>, labels: Option<&Texts>) -> OptOut {
    let mut found = own_opt_out(annotations, labels);
    foreign_opt_out(annotations, &mut found);
    warn_of_foreign(labels, "as a label, which K8up does not read either: make it an annotation", &mut found);
    found
}

/// Reads the annotations and labels of a Namespace; only Stowaway's own key counts.
pub fn namespace_opt_out(annotations: Option<&Texts>, labels: Option<&Texts>) -> OptOut {
    let mut found = own_opt_out(annotations, labels);
    let reason = "on a Namespace, where K8up does not read it either: annotate each PersistentVolumeClaim, or write \
                  stowaway.dev/backup";
    for texts in [annotations, labels] {
        warn_of_foreign(texts, reason, &mut found);
    }
    found
}

fn foreign_keys() -> impl Iterator<Item = &'static str> {
    key_of(KeyId::Backup).into_iter().flat_map(|key| key.foreign).map(|(_, key)| *key)
}

fn warn_of_foreign(texts: Option<&Texts>, reason: &str, found: &mut OptOut) {
    for key in foreign_keys().filter(|key| texts.is_some_and(|texts| texts.contains_key(*key))) {
        found.warnings.push(Warning::mistake(key, format!("has no effect {reason}")));
    }
}

fn own_opt_out(annotations: Option<&Texts>, labels: Option<&Texts>) -> OptOut {
    let mut found = OptOut::default();
    let own = own_key(KeyId::Backup);
    let decisions: Vec<bool> = [annotations, labels]
        .into_iter()
        .flatten()
        .filter_map(|texts| texts.get(&own))
        .filter_map(|value| match values::boolean(value) {
            Ok(wanted) => Some(wanted),
            Err(reason) => {
                let shown = values::shown(value);
                let message =
                    format!("has no effect: its value, {shown}, {reason}; without a clear \"false\" there is a backup");
                found.warnings.push(Warning::mistake(&own, message));
                None
            }
        })
        .collect();
    if decisions.contains(&true) && decisions.contains(&false) {
        let message =
            "is \"true\" and \"false\" at once, as a label and as an annotation; there is a backup".to_owned();
        found.warnings.push(Warning::mistake(&own, message));
    }
    if !decisions.is_empty() {
        (found.wanted, found.key) = (Some(decisions.contains(&true)), own);
    }
    found
}

fn foreign_opt_out(annotations: Option<&Texts>, found: &mut OptOut) {
    for key in foreign_keys() {
        let Some(value) = annotations.and_then(|annotations| annotations.get(key)) else { continue };
        let wanted = values::boolean(value).unwrap_or_else(|reason| {
            let message = format!("{reason}, which counts as \"false\" for the tool that the key belongs to");
            found.warnings.push(Warning::mistake(key, message));
            false
        });
        match found.wanted {
            None => (found.wanted, found.key) = (Some(wanted), key.to_owned()),
            Some(decided) if decided != wanted => {
                let message = format!("is ignored, because {} is present and wins", found.key);
                found.warnings.push(Warning::remark(key, message));
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(pairs: &[(&str, &str)]) -> Texts {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn annotated(pairs: &[(&str, &str)]) -> OptOut {
        opt_out(Some(&texts(pairs)), None)
    }

    const FOREIGN: [&str; 3] = ["k8up.io/backup", "k8up.syn.tools/backup", "appuio.ch/backup"];

    #[test]
    fn objects_without_the_key_do_not_opt_out() {
        assert_eq!(opt_out(None, None), OptOut::default());
        assert_eq!(annotated(&[("stowaway.dev/backupcommand", "false")]), OptOut::default());
    }

    #[test]
    fn foreign_keys_have_no_effect_as_labels_and_on_namespaces_and_are_reported() {
        for key in FOREIGN {
            let pair = texts(&[(key, "false")]);
            let found = [
                opt_out(None, Some(&pair)),
                namespace_opt_out(Some(&pair), None),
                namespace_opt_out(None, Some(&pair)),
            ];
            for found in found {
                assert_eq!((found.wanted, found.warnings.len()), (None, 1), "{key}");
                assert_eq!(found.warnings[0].key, key);
            }
        }
        let own = texts(&[("stowaway.dev/backup", "false")]);
        assert_eq!(namespace_opt_out(Some(&own), None).wanted, Some(false));
    }

    #[test]
    fn valid_values_are_read_from_annotation_and_label_alike() {
        for (value, wanted) in [("false", false), ("F", false), ("0", false), ("true", true), ("1", true)] {
            let pairs = texts(&[("stowaway.dev/backup", value)]);
            for found in [opt_out(Some(&pairs), None), opt_out(None, Some(&pairs)), opt_out(Some(&pairs), Some(&pairs))]
            {
                assert_eq!((found.wanted, found.key.as_str()), (Some(wanted), "stowaway.dev/backup"));
                assert_eq!(found.warnings, []);
            }
        }
    }

    #[test]
    fn own_key_never_opts_out_by_an_unclear_value() {
        for value in ["no", "", "FALSE ", "off", "never"] {
            let found = annotated(&[("stowaway.dev/backup", value)]);
            assert_eq!((found.wanted, found.warnings.len()), (None, 1), "{value:?}");
        }
        let (yes, no) = (texts(&[("stowaway.dev/backup", "true")]), texts(&[("stowaway.dev/backup", "false")]));
        for found in [opt_out(Some(&yes), Some(&no)), opt_out(Some(&no), Some(&yes))] {
            assert_eq!((found.wanted, found.warnings.len()), (Some(true), 1));
        }
    }

    #[test]
    fn foreign_keys_have_their_own_truth_table() {
        for key in FOREIGN {
            for (value, wanted, warnings) in [
                ("true", true, 0),
                ("T", true, 0),
                ("false", false, 0),
                ("0", false, 0),
                ("yes", false, 1),
                ("", false, 1),
            ] {
                let found = annotated(&[(key, value)]);
                assert_eq!((found.wanted, found.key.as_str()), (Some(wanted), key), "{value:?}");
                assert_eq!(found.warnings.len(), warnings, "{key} {value:?}");
            }
        }
    }

    #[test]
    fn own_key_wins_and_then_the_newest_foreign_key() {
        let found = annotated(&[("stowaway.dev/backup", "true"), ("k8up.io/backup", "false")]);
        assert_eq!((found.wanted, found.key.as_str()), (Some(true), "stowaway.dev/backup"));
        assert!(found.warnings[0].to_string().contains("k8up.io/backup"), "{:?}", found.warnings);
        let found = annotated(&[("appuio.ch/backup", "false"), ("k8up.io/backup", "true")]);
        assert_eq!((found.wanted, found.key.as_str(), found.warnings.len()), (Some(true), "k8up.io/backup", 1));
        // A key with the same value gets no warning.
        assert_eq!(annotated(&[("appuio.ch/backup", "false"), ("k8up.io/backup", "no")]).warnings.len(), 1);
    }
}
