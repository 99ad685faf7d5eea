//! The `VolumeSnapshotClass` for a volume's backup, according to its claim or its namespace. An invalid value is an
//! error, and never causes a backup of the live volume.

use std::collections::BTreeMap;

use super::{
    Problem,
    keys::{KeyId, own_key},
    values,
};

type Texts = BTreeMap<String, String>;

/// The name of the `VolumeSnapshotClass` of a `PersistentVolumeClaim`: its own, or its Namespace's if it has none.
/// `None` if the live volume is read. An empty name selects the live volume on purpose.
pub fn snapshot_class(claim: Option<&Texts>, namespace: Option<&Texts>) -> Result<Option<String>, Problem> {
    let key = own_key(KeyId::SnapshotClass);
    let value_of = |texts: Option<&Texts>| texts.and_then(|texts| texts.get(&key)).cloned();
    let (value, source) = match (value_of(claim), value_of(namespace)) {
        (Some(own), _) => (own, ""),
        (None, Some(namespaces)) => (namespaces, " of the namespace"),
        (None, None) => return Ok(None),
    };
    if value.is_empty() {
        return Ok(None);
    }
    values::object_name(&value).map_err(|reason| Problem {
        key: format!("{key}{source}"),
        value: values::shown(&value),
        reason,
    })?;
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(value: &str) -> Texts {
        [("stowaway.dev/volume-snapshot-class".to_owned(), value.to_owned())].into()
    }

    #[test]
    fn claim_wins_over_its_namespace_even_with_nothing() {
        let (own, namespace) = (texts("fast"), texts("slow.example"));
        assert_eq!(snapshot_class(None, None), Ok(None));
        assert_eq!(snapshot_class(Some(&Texts::new()), None), Ok(None));
        assert_eq!(snapshot_class(Some(&own), None), Ok(Some("fast".into())));
        assert_eq!(snapshot_class(None, Some(&namespace)), Ok(Some("slow.example".into())));
        assert_eq!(snapshot_class(Some(&Texts::new()), Some(&namespace)), Ok(Some("slow.example".into())));
        assert_eq!(snapshot_class(Some(&own), Some(&namespace)), Ok(Some("fast".into())));
        assert_eq!(snapshot_class(Some(&texts("")), Some(&namespace)), Ok(None));
    }

    #[test]
    fn value_that_names_no_class_is_an_error_with_the_key() {
        for value in [" ", "Fast", "a/b", "fast "] {
            let problem = snapshot_class(Some(&texts(value)), Some(&texts("slow"))).unwrap_err();
            assert_eq!(problem.key, "stowaway.dev/volume-snapshot-class", "{value:?}");
        }
        let problem = snapshot_class(None, Some(&texts("a/b"))).unwrap_err().to_string();
        assert!(problem.contains("stowaway.dev/volume-snapshot-class of the namespace"), "{problem}");
    }
}
