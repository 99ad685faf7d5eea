//! Whether Backups would store a claim of a manifest, as far as the objects of the manifest decide it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::claims::opted_out;
use crate::{
    annotations::{excludes, namespace_opt_out, opt_out, snapshot_class},
    api::{Repository, SkipReason},
    plan::choose::repository_on,
};

/// What Backups would do with a claim.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DeclaredClaim {
    /// They store it.
    Source,
    /// They leave it out.
    Skip(SkipReason, String),
    /// They should store it, and would fail.
    Problem(String),
}

/// Decides about a claim by its name and its own metadata, those of its namespace, and the namespace's Repositories.
pub fn declared_claim(
    name: &str,
    claim: &ObjectMeta,
    namespace: &ObjectMeta,
    repositories: &[Repository],
) -> DeclaredClaim {
    if let Some((repository, _)) = repository_on(repositories, name) {
        let message = format!("Repository {} is on it, once it was opened", repository.name_any());
        return DeclaredClaim::Skip(SkipReason::HoldsRepository, message);
    }
    let own = opt_out(claim.annotations.as_ref(), claim.labels.as_ref());
    let of_namespace = namespace_opt_out(namespace.annotations.as_ref(), namespace.labels.as_ref());
    if let Some(message) = opted_out(&own, &of_namespace) {
        return DeclaredClaim::Skip(SkipReason::OptedOut, message);
    }
    let (own, of_namespace) = (claim.annotations.as_ref(), namespace.annotations.as_ref());
    let problem = excludes(own, of_namespace).err().or_else(|| snapshot_class(own, of_namespace).err());
    problem.map_or(DeclaredClaim::Source, |problem| {
        DeclaredClaim::Problem(format!("nothing of it would be stored, because {problem}"))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn annotated(key: &str, value: &str) -> ObjectMeta {
        let annotations = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() }
    }

    #[test]
    fn claim_is_a_source_unless_it_or_its_namespace_opts_out() {
        let none = ObjectMeta::default();
        let out = annotated("stowaway.dev/backup", "false");
        let skip = |message: &str| DeclaredClaim::Skip(SkipReason::OptedOut, message.to_owned());
        let of_namespace = "stowaway.dev/backup of the namespace excludes it, and the claim does not set it otherwise";
        for (claim, namespace, expected) in [
            (&none, &none, DeclaredClaim::Source),
            (&out, &none, skip("stowaway.dev/backup excludes it")),
            (&annotated("k8up.io/backup", "false"), &none, skip("k8up.io/backup excludes it")),
            (&none, &out, skip(of_namespace)),
            (&annotated("stowaway.dev/backup", "true"), &out, DeclaredClaim::Source),
        ] {
            assert_eq!(declared_claim("cask", claim, namespace, &[]), expected);
        }
    }

    #[test]
    fn setting_that_fails_a_backup_is_a_problem() {
        let claim = annotated("stowaway.dev/volume-snapshot-class", "No Name");
        let declared = declared_claim("cask", &claim, &ObjectMeta::default(), &[]);
        assert!(matches!(&declared, DeclaredClaim::Problem(why) if why.contains("snapshot-class")), "{declared:?}");
    }
}
