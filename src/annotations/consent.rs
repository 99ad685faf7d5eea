//! Whether a volume, or a namespace's volumes, are to be backed up: the opt-out.
//!
//! It must not know volumes; only the texts that an object carries.
//!
//! | key | where | value | means |
//! |---|---|---|---|
//! | `stowaway.dev/backup` | label or annotation | one of Go's booleans | that |
//! | | | anything else | nothing, with a warning: what is unclear is backed up |
//! | `k8up.io/backup`, `k8up.syn.tools/backup`, `appuio.ch/backup` | annotation of a claim | one of Go's booleans | that |
//! | | | anything else, such as `yes` | `false`, as these tools have it, with a warning |
//!
//! K8up reads its keys as an annotation of a claim, and nowhere else: on a Namespace, or as a label, they mean nothing here
//! either, and are reported.
//!
//! Ours wins over theirs, and the newest of theirs over the older ones. Of our annotation and our label that contradict each
//! other, the one that asks for a backup wins.

use std::collections::BTreeMap;

use super::{
    Warning,
    keys::{Role, key_of, own_key},
    values,
};

/// What an object says of its backup.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Consent {
    /// Whether it is to be backed up; `None` when it says nothing.
    pub wanted: Option<bool>,
    /// The key by which it says so.
    pub key: String,
    /// What was probably not meant.
    pub warnings: Vec<Warning>,
}

type Texts = BTreeMap<String, String>;

/// Reads the annotations and labels of a `PersistentVolumeClaim`.
pub fn consent(annotations: Option<&Texts>, labels: Option<&Texts>) -> Consent {
    let mut found = own_consent(annotations, labels);
    foreign_consent(annotations, &mut found);
    warn_of_foreign(labels, "as a label, which K8up does not read either: make it an annotation", &mut found);
    found
}

/// Reads the annotations and labels of a Namespace: Stowaway's own key alone.
pub fn namespace_consent(annotations: Option<&Texts>, labels: Option<&Texts>) -> Consent {
    let mut found = own_consent(annotations, labels);
    let reason = "on a Namespace, where K8up does not read it either: annotate each PersistentVolumeClaim, or write \
                  stowaway.dev/backup";
    for texts in [annotations, labels] {
        warn_of_foreign(texts, reason, &mut found);
    }
    found
}

fn foreign_keys() -> impl Iterator<Item = &'static str> {
    key_of(Role::Backup).into_iter().flat_map(|key| key.foreign).map(|(_, key)| *key)
}

fn warn_of_foreign(texts: Option<&Texts>, reason: &str, found: &mut Consent) {
    for key in foreign_keys().filter(|key| texts.is_some_and(|texts| texts.contains_key(*key))) {
        found.warnings.push(Warning { key: key.to_owned(), message: format!("has no effect {reason}") });
    }
}

fn own_consent(annotations: Option<&Texts>, labels: Option<&Texts>) -> Consent {
    let mut found = Consent::default();
    let own = own_key(Role::Backup);
    let said: Vec<bool> = [annotations, labels]
        .into_iter()
        .flatten()
        .filter_map(|texts| texts.get(&own))
        .filter_map(|value| match values::boolean(value) {
            Ok(wanted) => Some(wanted),
            Err(reason) => {
                let message = format!("says nothing: its value {reason}; without a clear \"false\" there is a backup");
                found.warnings.push(Warning { key: own.clone(), message });
                None
            }
        })
        .collect();
    if said.contains(&true) && said.contains(&false) {
        let message =
            "is \"true\" and \"false\" at once, as a label and as an annotation; there is a backup".to_owned();
        found.warnings.push(Warning { key: own.clone(), message });
    }
    if !said.is_empty() {
        (found.wanted, found.key) = (Some(said.contains(&true)), own);
    }
    found
}

fn foreign_consent(annotations: Option<&Texts>, found: &mut Consent) {
    for key in foreign_keys() {
        let Some(value) = annotations.and_then(|annotations| annotations.get(key)) else { continue };
        let wanted = values::boolean(value).unwrap_or_else(|reason| {
            let message = format!("{reason}, which counts as \"false\" with the tool that it is of");
            found.warnings.push(Warning { key: key.to_owned(), message });
            false
        });
        match found.wanted {
            None => (found.wanted, found.key) = (Some(wanted), key.to_owned()),
            Some(decided) if decided != wanted => {
                let message = format!("is ignored, since {} is present and wins", found.key);
                found.warnings.push(Warning { key: key.to_owned(), message });
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

    fn annotated(pairs: &[(&str, &str)]) -> Consent {
        consent(Some(&texts(pairs)), None)
    }

    const FOREIGN: [&str; 3] = ["k8up.io/backup", "k8up.syn.tools/backup", "appuio.ch/backup"];

    #[test]
    fn whoever_says_nothing_has_said_nothing() {
        assert_eq!(consent(None, None), Consent::default());
        assert_eq!(annotated(&[("stowaway.dev/backupcommand", "false")]), Consent::default());
    }

    #[test]
    fn keys_of_others_mean_nothing_as_labels_and_on_namespaces_and_are_reported() {
        for key in FOREIGN {
            let pair = texts(&[(key, "false")]);
            let found = [
                consent(None, Some(&pair)),
                namespace_consent(Some(&pair), None),
                namespace_consent(None, Some(&pair)),
            ];
            for found in found {
                assert_eq!((found.wanted, found.warnings.len()), (None, 1), "{key}");
                assert_eq!(found.warnings[0].key, key);
            }
        }
        let own = texts(&[("stowaway.dev/backup", "false")]);
        assert_eq!(namespace_consent(Some(&own), None).wanted, Some(false));
    }

    #[test]
    fn clear_words_are_taken_from_annotation_and_label_alike() {
        for (value, wanted) in [("false", false), ("F", false), ("0", false), ("true", true), ("1", true)] {
            let pairs = texts(&[("stowaway.dev/backup", value)]);
            for found in [consent(Some(&pairs), None), consent(None, Some(&pairs)), consent(Some(&pairs), Some(&pairs))]
            {
                assert_eq!((found.wanted, found.key.as_str()), (Some(wanted), "stowaway.dev/backup"));
                assert_eq!(found.warnings, []);
            }
        }
    }

    #[test]
    fn our_key_never_opts_out_by_a_word_that_is_unclear() {
        for value in ["no", "", "FALSE ", "off", "never"] {
            let found = annotated(&[("stowaway.dev/backup", value)]);
            assert_eq!((found.wanted, found.warnings.len()), (None, 1), "{value:?}");
        }
        let (yes, no) = (texts(&[("stowaway.dev/backup", "true")]), texts(&[("stowaway.dev/backup", "false")]));
        for found in [consent(Some(&yes), Some(&no)), consent(Some(&no), Some(&yes))] {
            assert_eq!((found.wanted, found.warnings.len()), (Some(true), 1));
        }
    }

    #[test]
    fn keys_of_others_have_their_own_truth_table() {
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
    fn our_key_wins_and_the_newer_of_theirs_next() {
        let found = annotated(&[("stowaway.dev/backup", "true"), ("k8up.io/backup", "false")]);
        assert_eq!((found.wanted, found.key.as_str()), (Some(true), "stowaway.dev/backup"));
        assert!(found.warnings[0].to_string().contains("k8up.io/backup"), "{:?}", found.warnings);
        let found = annotated(&[("appuio.ch/backup", "false"), ("k8up.io/backup", "true")]);
        assert_eq!((found.wanted, found.key.as_str(), found.warnings.len()), (Some(true), "k8up.io/backup", 1));
        // Who says the same is not contradicted.
        assert_eq!(annotated(&[("appuio.ch/backup", "false"), ("k8up.io/backup", "no")]).warnings.len(), 1);
    }
}
