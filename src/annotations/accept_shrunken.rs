//! Whether a volume may have lost its content since its last good snapshot: the consent on its claim.
//!
//! It must not know volumes. A value that is unclear is no consent.

use std::collections::BTreeMap;

use super::{
    Warning,
    keys::{Role, own_key},
    values,
};

/// Reads the consent on a `PersistentVolumeClaim`, and what is wrong with it.
pub fn accept_shrunken(claim: Option<&BTreeMap<String, String>>) -> (bool, Option<Warning>) {
    let key = own_key(Role::AcceptShrunken);
    let Some(value) = claim.and_then(|texts| texts.get(&key)) else { return (false, None) };
    match values::boolean(value) {
        Ok(accepts) => (accepts, None),
        Err(reason) => {
            let message = format!("accepts nothing, because its value {reason}");
            (false, Some(Warning { key, message }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_consent_is_one() {
        let read = |value: &str| accept_shrunken(Some(&[("stowaway.dev/accept-shrunken".into(), value.into())].into()));
        assert_eq!(accept_shrunken(None), (false, None));
        for (value, expected) in [("true", true), ("1", true), ("false", false), ("F", false)] {
            assert_eq!(read(value), (expected, None), "{value}");
        }
        for value in ["", "yes", "tru", "True "] {
            let (accepts, warning) = read(value);
            assert!(!accepts && warning.is_some(), "{value:?}");
        }
    }
}
