//! Who may write a command into an object: only who could run it anyway.
//!
//! It must not know what the command is for.

use k8s_openapi::api::admissionregistration::v1::{
    MatchResources, NamedRuleWithOperations, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
    ValidatingAdmissionPolicyBindingSpec, ValidatingAdmissionPolicySpec, Validation,
};

use super::metadata;
use crate::api;

const NAME: &str = "stowaway-restore-commands";

/// A Restore makes a command run in a pod of its namespace, so its author must have the right to exec there. Its spec
/// never changes after that.
pub(super) fn policy() -> ValidatingAdmissionPolicy {
    let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    ValidatingAdmissionPolicy {
        metadata: metadata(NAME, None),
        spec: Some(ValidatingAdmissionPolicySpec {
            failure_policy: Some("Fail".into()),
            match_constraints: Some(MatchResources {
                resource_rules: Some(vec![NamedRuleWithOperations {
                    api_groups: words(&[api::GROUP]),
                    api_versions: words(&["*"]),
                    resources: words(&["restores"]),
                    operations: words(&["CREATE"]),
                    ..NamedRuleWithOperations::default()
                }]),
                ..MatchResources::default()
            }),
            validations: Some(vec![Validation {
                expression: "authorizer.group('').resource('pods').subresource('exec')\
                             .namespace(object.metadata.namespace).check('create').allowed()"
                    .into(),
                message: Some(
                    "a Restore runs a command in a pod: its author needs the right to create pods/exec in the namespace"
                        .into(),
                ),
                reason: Some("Forbidden".into()),
                ..Validation::default()
            }]),
            ..ValidatingAdmissionPolicySpec::default()
        }),
        status: None,
    }
}

/// Puts the policy in force everywhere.
pub(super) fn binding() -> ValidatingAdmissionPolicyBinding {
    ValidatingAdmissionPolicyBinding {
        metadata: metadata(NAME, None),
        spec: Some(ValidatingAdmissionPolicyBindingSpec {
            policy_name: Some(NAME.into()),
            validation_actions: Some(vec!["Deny".into()]),
            ..ValidatingAdmissionPolicyBindingSpec::default()
        }),
    }
}
