//! Admission policies that the API server itself enforces: they apply even while Stowaway does not run, and only users
//! who may write policies can circumvent them. `commands` guards the commands that run in pods, `objects` the
//! use of Secrets, stores and pods on behalf of an author, `accounts` the identities of runs, `jobs` the Jobs and
//! `controller` the other objects that the controller's account may create, change and delete, and `marks` the
//! annotations that the controller writes on objects of users.
//!
//! Each policy fails closed, and matches so narrowly that even a failing policy affects no foreign objects.

mod accounts;
mod commands;
mod controller;
mod jobs;
mod marks;
mod objects;

use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MatchResources, NamedRuleWithOperations, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicyBindingSpec, ValidatingAdmissionPolicySpec, Validation,
};

use super::{CONTROLLER, Installation, conditions::text, metadata};

/// The author has the right to do what Stowaway would do for the author: exec in the namespace.
const MAY_EXEC: &str = "authorizer.group('').resource('pods').subresource('exec')\
                        .namespace(request.namespace).check('create').allowed()";

/// The author has the right to do without Stowaway what Stowaway would do for the author: create a pod with any Secret,
/// claim and account of the namespace.
const MAY_CREATE_PODS: &str =
    "authorizer.group('').resource('pods').namespace(request.namespace).check('create').allowed()";

/// The request comes from the controller, whose namespace is `namespace`.
fn is_controller(namespace: &str) -> String {
    format!("request.userInfo.username == {}", text(&format!("system:serviceaccount:{namespace}:{CONTROLLER}")))
}

/// All policies, each with the binding that enforces it in the whole cluster.
pub(super) fn all(
    installation: &Installation<'_>,
) -> Vec<(ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding)> {
    let guards = commands::guards()
        .into_iter()
        .chain(objects::guards())
        .chain(accounts::guards(installation.namespace))
        .chain(jobs::guards(installation))
        .chain(controller::guards(installation))
        .chain(marks::guards(installation.namespace));
    guards.map(|guard| (guard.policy(), guard.binding())).collect()
}

/// The parts in which the policies differ.
struct Guard {
    /// Name of the policy.
    name: &'static str,
    /// The group, resources and operations that it matches.
    rules: Vec<(&'static str, &'static [&'static str], &'static [&'static str])>,
    /// The match condition, by name and expression; none if all requests match.
    concerns: Option<(&'static str, String)>,
    /// The validation: an expression that must be true for a matching request.
    expression: String,
    /// The message of a refusal.
    message: &'static str,
}

impl Guard {
    fn policy(&self) -> ValidatingAdmissionPolicy {
        let owned = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        let rule = |(group, resources, operations): &(&str, &[&str], &[&str])| NamedRuleWithOperations {
            api_groups: owned(&[group]),
            // All versions, so that a future version is guarded from its start.
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
