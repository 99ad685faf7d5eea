//! The annotations of a workload itself, of which only `allow-missing` is read. All other keys are read on its pod
//! template or on other objects, and have no effect here.

use std::collections::BTreeMap;

use super::{
    Warning,
    keys::{KEYS, KeyId, PREFIX, nearest},
    near_miss::{Intended, MAX_UNKNOWN, Object, bounded, near_misses},
    values,
};

type Texts = BTreeMap<String, String>;

const MISPLACED: &str = "has no effect on the workload itself, so that nothing is backed up by it: move it to the \
                         annotations of the pod template (spec.template.metadata.annotations)";

/// Warnings about the annotations of a workload itself. A key that the template has as well is not reported, because
/// tools such as Helm charts copy keys onto both.
pub fn workload_warnings(own: Option<&Texts>, template: Option<&Texts>) -> Vec<Warning> {
    let is_in_template = |key: &str| template.is_some_and(|template| template.contains_key(key));
    let mut warnings = unread_keys(own, is_in_template);
    warnings.extend(near_misses(Object::Workload, own).into_iter().filter(|warning| !is_in_template(&warning.key)));
    bounded(warnings)
}

/// The keys of pods, and those with Stowaway's prefix, that have no effect: as many as are reported, and one more. The
/// author of the workload decides how many keys it has, and each costs time.
fn unread_keys(own: Option<&Texts>, is_in_template: impl Fn(&str) -> bool) -> Vec<Warning> {
    own.into_iter()
        .flatten()
        .filter(|(key, _)| !is_in_template(key))
        .filter_map(|(key, value)| Some(Warning::mistake(key, message(key, value)?)))
        .take(MAX_UNKNOWN + 1)
        .collect()
}

/// Why the annotation has no effect, if it has none.
fn message(key: &str, value: &str) -> Option<String> {
    let Some(own) = key.strip_prefix(PREFIX) else {
        let mut foreign = KEYS.iter().filter(|known| known.is_of_pods()).flat_map(|known| known.foreign);
        return foreign.any(|(_, foreign)| *foreign == key).then(|| MISPLACED.to_owned());
    };
    let base = own.split('.').next().unwrap_or(own);
    match KEYS.iter().find(|known| known.name == own || (known.named && known.name == base)) {
        Some(known) if known.id == KeyId::AllowMissing => {
            let reason = values::boolean(value).err()?;
            Some(format!("has no effect: its value, {}, {reason}", values::shown(value)))
        }
        Some(known) if known.is_of_pods() => Some(MISPLACED.to_owned()),
        Some(known) => Some(format!("has no effect on a workload; it is read on {}", known.carrier)),
        None => Some(nearest(own, |_| true).map_or_else(
            || "is too long to be one of Stowaway's, and has no effect".to_owned(),
            |known| Intended::own(known).message(Object::Workload),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(keys: &[&str]) -> Texts {
        keys.iter().map(|key| ((*key).to_owned(), "x".to_owned())).collect()
    }

    fn keys(own: &Texts, template: Option<&Texts>) -> Vec<String> {
        workload_warnings(Some(own), template).into_iter().map(|warning| warning.key).collect()
    }

    #[test]
    fn keys_that_a_workload_itself_does_not_read_are_reported_unless_its_template_has_them_too() {
        let own = texts(&[
            "stowaway.dev/backupcommand",
            "stowaway.dev/backupcommand.roles",
            "k8up.io/backupcommand",
            "stowaway.dev/backup",
            "stowaway.dev/backupcomand",
            "stowawy.dev/timeout",
            "example.org/backupcommand",
            "k8up.io/backup",
        ]);
        let expected = [
            "k8up.io/backupcommand",
            "stowaway.dev/backup",
            "stowaway.dev/backupcomand",
            "stowaway.dev/backupcommand",
            "stowaway.dev/backupcommand.roles",
            "stowawy.dev/timeout",
        ];
        assert_eq!(keys(&own, None), expected);
        let mut template = own.clone();
        template.remove("stowaway.dev/backupcommand.roles");
        assert_eq!(keys(&own, Some(&template)), ["stowaway.dev/backupcommand.roles"]);
        assert!(workload_warnings(None, None).is_empty());
    }

    #[test]
    fn unclear_value_of_the_key_that_a_workload_reads_is_reported() {
        let warnings = |value: &str| {
            let own = [("stowaway.dev/allow-missing".to_owned(), value.to_owned())].into();
            workload_warnings(Some(&own), None)
        };
        assert!(warnings("true").is_empty() && warnings("0").is_empty());
        let [warning] = &warnings("flase")[..] else { panic!("no warning") };
        assert!(warning.message.contains("\"flase\""), "{warning}");
    }

    #[test]
    fn number_and_length_of_the_keys_that_are_compared_with_the_known_ones_are_bounded() {
        let many: Texts = (0..10_000).map(|index| (format!("{PREFIX}x{index:05}"), String::new())).collect();
        assert_eq!(unread_keys(Some(&many), |_| false).len(), MAX_UNKNOWN + 1);
        assert_eq!(workload_warnings(Some(&many), None).len(), MAX_UNKNOWN + 1);
        // Keys that the template has as well do not count.
        let mut own = many.clone();
        own.insert(format!("{PREFIX}zeal"), String::new());
        assert_eq!(keys(&own, Some(&many)), [format!("{PREFIX}zeal")]);
        for (length, is_compared) in [(63, true), (64, false)] {
            let long = [(format!("{PREFIX}{}", "b".repeat(length)), String::new())].into();
            let [warning] = &workload_warnings(Some(&long), None)[..] else { panic!("no warning") };
            assert_eq!(warning.message.contains("the nearest known one is"), is_compared, "{warning}");
        }
    }
}
