//! Which files of a volume are left out of its backup: what its claim says, or else its namespace.
//!
//! It must not know files. What cannot be carried out as written is an error: neither everything nor nothing is left out for
//! it.

use std::collections::BTreeMap;

use super::{
    Problem,
    keys::{Role, own_key},
    values,
};

type Texts = BTreeMap<String, String>;

/// The patterns that hold for a `PersistentVolumeClaim`: its own, or its Namespace's where it has none. `[]` is none on
/// purpose.
pub fn excludes(claim: Option<&Texts>, namespace: Option<&Texts>) -> Result<Vec<String>, Problem> {
    let key = own_key(Role::Exclude);
    let said = |texts: Option<&Texts>| texts.and_then(|texts| texts.get(&key)).cloned();
    let (value, whose) = match (said(claim), said(namespace)) {
        (Some(own), _) => (own, ""),
        (None, Some(namespaces)) => (namespaces, " of the namespace"),
        (None, None) => return Ok(Vec::new()),
    };
    values::patterns(&value).map_err(|reason| Problem {
        key: format!("{key}{whose}"),
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
    fn what_cannot_be_read_is_an_error_with_the_key() {
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
        // A mistake that nobody uses harms nobody.
        assert!(excludes(Some(&own), Some(&texts("!a"))).is_ok());
    }
}
