//! Which files of a volume are excluded from its backup, according to its claim or its namespace. An invalid value is
//! an error, so that neither everything nor nothing is excluded because of it.

use std::collections::BTreeMap;

use super::{
    Problem,
    keys::{KeyId, own_key},
    values,
};

type Texts = BTreeMap<String, String>;

/// The exclude patterns of a `PersistentVolumeClaim`: its own, or its Namespace's if it has none. `[]` sets no patterns
/// on purpose.
pub fn excludes(claim: Option<&Texts>, namespace: Option<&Texts>) -> Result<Vec<String>, Problem> {
    let key = own_key(KeyId::Exclude);
    let value_of = |texts: Option<&Texts>| texts.and_then(|texts| texts.get(&key)).cloned();
    let (value, source) = match (value_of(claim), value_of(namespace)) {
        (Some(own), _) => (own, ""),
        (None, Some(namespaces)) => (namespaces, " of the namespace"),
        (None, None) => return Ok(Vec::new()),
    };
    values::patterns(&value).map_err(|reason| Problem {
        key: format!("{key}{source}"),
        value: values::shown(&value),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(value: &str) -> Texts {
        [("stowaway.dev/exclude".to_owned(), value.to_owned())].into()
    }

    #[test]
    fn patterns_are_lines_or_a_json_array() {
        for (value, expected) in [
            ("*.log", vec!["*.log"]),
            ("*.log\n\n  /cache \r\nname with blank\n", vec!["*.log", "/cache", "name with blank"]),
            (r#" ["*.log", " x", "[ab]"]"#, vec!["*.log", " x", "[ab]"]),
            ("[]", vec![]),
        ] {
            assert_eq!(excludes(Some(&texts(value)), None).unwrap(), expected, "{value:?}");
        }
        assert_eq!(excludes(None, None).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn patterns_that_cannot_be_read_are_an_error_with_the_key() {
        for value in ["", " \n", "[ab]*.log", "[1]", r#"["a", ["b"]]"#, "!a", r#"["a//b"]"#] {
            let problem = excludes(Some(&texts(value)), None).unwrap_err();
            assert_eq!(problem.key, "stowaway.dev/exclude", "{value:?}");
        }
    }

    #[test]
    fn claim_wins_over_its_namespace_even_with_nothing() {
        let (own, namespace) = (texts("[]"), texts("*.log"));
        assert_eq!(excludes(Some(&own), Some(&namespace)).unwrap(), Vec::<String>::new());
        assert_eq!(excludes(Some(&Texts::new()), Some(&namespace)).unwrap(), ["*.log"]);
        let problem = excludes(None, Some(&texts("!a"))).unwrap_err().to_string();
        assert!(problem.contains("stowaway.dev/exclude of the namespace"), "{problem}");
        // An invalid value that is not used is no error.
        assert!(excludes(Some(&own), Some(&texts("!a"))).is_ok());
    }
}
