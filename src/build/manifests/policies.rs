//! Policies of the API server itself: they hold while nothing of ours runs, and whoever may not write them cannot get around
//! them. `commands` guards what is run in pods, `objects` which Secrets, stores and pods are used for whom, `accounts` the
//! identities of runs, `controller` what the controller's own account may make and take away, and `marks` what the
//! controller has written into objects of others.
//!
//! It must not know what the guarded objects are for.
//!
//! Each fails closed, and each is so narrow that it concerns nobody else's objects, even if it fails.

mod accounts;
mod commands;
mod controller;
mod marks;
mod objects;

use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MatchResources, NamedRuleWithOperations, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicyBindingSpec, ValidatingAdmissionPolicySpec, Validation,
};

use super::{CONTROLLER, Installation, conditions::text, metadata};

/// The author may do himself what he makes us do: exec in the namespace.
const MAY_EXEC: &str = "authorizer.group('').resource('pods').subresource('exec')\
                        .namespace(request.namespace).check('create').allowed()";

/// The author may do without Stowaway what Stowaway does for the author: create a pod with any Secret, claim and account of
/// the namespace.
const MAY_CREATE_PODS: &str =
    "authorizer.group('').resource('pods').namespace(request.namespace).check('create').allowed()";

/// The request is the controller's. `namespace` is that of the controller.
fn is_controller(namespace: &str) -> String {
    format!("request.userInfo.username == {}", text(&format!("system:serviceaccount:{namespace}:{CONTROLLER}")))
}

/// All policies, each with the binding that puts it in force everywhere.
pub(super) fn all(
    installation: &Installation<'_>,
) -> Vec<(ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding)> {
    let guards = commands::guards()
        .into_iter()
        .chain(objects::guards())
        .chain(accounts::guards(installation.namespace))
        .chain(controller::guards(installation))
        .chain(marks::guards(installation.namespace));
    guards.map(|guard| (guard.policy(), guard.binding())).collect()
}

/// A policy in a few words.
struct Guard {
    /// Its name.
    name: &'static str,
    /// Group, resources and operation that it looks at.
    rules: Vec<(&'static str, &'static [&'static str], &'static [&'static str])>,
    /// Which of those it concerns, by name and expression; all when there is none.
    concerns: Option<(&'static str, String)>,
    /// What must hold for them.
    expression: String,
    /// What is said when it does not.
    message: &'static str,
}

impl Guard {
    fn policy(&self) -> ValidatingAdmissionPolicy {
        let owned = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        let rule = |(group, resources, operations): &(&str, &[&str], &[&str])| NamedRuleWithOperations {
            api_groups: owned(&[group]),
            // A version that is served tomorrow is guarded today.
            api_versions: owned(&["*"]),
            resources: owned(resources),
            operations: owned(operations),
            ..NamedRuleWithOperations::default()
        };
        let concerns = self.concerns.as_ref().map(|(name, expression)| {
            vec![MatchCondition { name: (*name).to_owned(), expression: expression.clone() }]
        });
        ValidatingAdmissionPolicy {
            metadata: metadata(self.name, "policy", None),
            spec: Some(ValidatingAdmissionPolicySpec {
                failure_policy: Some("Fail".into()),
                match_constraints: Some(MatchResources {
                    resource_rules: Some(self.rules.iter().map(rule).collect()),
                    ..MatchResources::default()
                }),
                match_conditions: concerns,
                validations: Some(vec![Validation {
                    expression: self.expression.clone(),
                    message: Some(self.message.to_owned()),
                    reason: Some("Forbidden".into()),
                    ..Validation::default()
                }]),
                ..ValidatingAdmissionPolicySpec::default()
            }),
            status: None,
        }
    }

    fn binding(&self) -> ValidatingAdmissionPolicyBinding {
        ValidatingAdmissionPolicyBinding {
            metadata: metadata(self.name, "policy", None),
            spec: Some(ValidatingAdmissionPolicyBindingSpec {
                policy_name: Some(self.name.to_owned()),
                validation_actions: Some(vec!["Deny".into()]),
                ..ValidatingAdmissionPolicyBindingSpec::default()
            }),
        }
    }
}
