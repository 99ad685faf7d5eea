//! Whether a volume may have lost its content since its last good snapshot, according to the annotation of its claim.
//! An unclear value does not accept the loss.

use std::collections::BTreeMap;

use super::{
    Warning,
    keys::{KeyId, own_key},
    values,
};

/// Reads the annotation of a `PersistentVolumeClaim`, and the warning about an invalid value.
pub fn accept_shrunken(claim: Option<&BTreeMap<String, String>>) -> (bool, Option<Warning>) {
    let key = own_key(KeyId::AcceptShrunken);
    let Some(value) = claim.and_then(|texts| texts.get(&key)) else { return (false, None) };
    match values::boolean(value) {
        Ok(accepts) => (accepts, None),
        Err(reason) => {
            let message = format!("accepts nothing, because its value {reason}");
            (false, Some(Warning::mistake(key, message)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_valid_value_accepts() {
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
