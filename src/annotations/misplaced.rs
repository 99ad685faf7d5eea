//! Keys of pods that are on a workload itself instead of its pod template, where they are not read.

use std::collections::BTreeMap;

use super::{
    Warning,
    keys::{KEYS, KeyId, PREFIX},
};

/// The pod keys among the annotations of a workload, which have no effect there. A key that the template has as well is
/// not reported, because tools such as Helm charts copy keys onto both. `allow-missing` is read on the workload, too.
pub fn misplaced_keys(
    own: Option<&BTreeMap<String, String>>,
    template: Option<&BTreeMap<String, String>>,
) -> Vec<String> {
    let is_in_template = |key: &str| template.is_some_and(|template| template.contains_key(key));
    let keys = own.into_iter().flat_map(BTreeMap::keys);
    keys.filter(|key| is_of_pods(key) && !is_in_template(key)).cloned().collect()
}

/// The warning about such a key.
pub fn misplaced_warning(key: String) -> Warning {
    let message = "has no effect on the workload itself, so that nothing is backed up by it: move it to the annotations \
                   of the pod template (spec.template.metadata.annotations)";
    Warning { key, message: message.to_owned() }
}

fn is_of_pods(key: &str) -> bool {
    let pod_keys = || KEYS.iter().filter(|known| known.is_of_pods());
    if let Some(own) = key.strip_prefix(PREFIX) {
        let base = own.split('.').next().unwrap_or(own);
        return pod_keys().any(|known| known.id != KeyId::AllowMissing && known.name == base);
    }
    pod_keys().flat_map(|known| known.foreign).any(|(_, foreign)| *foreign == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(keys: &[&str]) -> BTreeMap<String, String> {
        keys.iter().map(|key| ((*key).to_owned(), "x".to_owned())).collect()
    }

    #[test]
    fn keys_of_pods_are_found_on_a_workload_unless_its_template_has_them_too() {
        let own = texts(&[
            "stowaway.dev/backupcommand",
            "stowaway.dev/backupcommand.roles",
            "k8up.io/backupcommand",
            "stowaway.dev/allow-missing",
            "stowaway.dev/backup",
            "example.org/backupcommand",
        ]);
        let found = misplaced_keys(Some(&own), None);
        assert_eq!(found, ["k8up.io/backupcommand", "stowaway.dev/backupcommand", "stowaway.dev/backupcommand.roles"]);
        let template = texts(&["stowaway.dev/backupcommand", "k8up.io/backupcommand"]);
        assert_eq!(misplaced_keys(Some(&own), Some(&template)), ["stowaway.dev/backupcommand.roles"]);
        assert!(misplaced_keys(None, None).is_empty());
    }
}
