//! The admission decision about one object: turns the outcome of `inject` or `validate` into an answer. Pure, and
//! independent of HTTP and of the review format.

use std::{collections::BTreeMap, fmt};

use super::{
    review::{Answer, Refusal, RefusalKind, RefusedField, Request, ReviewError},
    validate::{self, ValidationResult},
};
use crate::{
    annotations::{Carrier, Injection},
    api::{GROUP, Repository},
    inject::{Cause, Effect, InjectionFacts, Outcome, inject},
};

/// Reason of a decision: a closed list for audit annotations and metrics.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub enum DecisionReason {
    /// The cause that `inject` returned for a pod.
    Injection(Cause),
    /// The object is valid.
    Valid,
    /// Invalid, but allowed: the object had the same problems before, and the update did not touch them.
    KnownMistakes,
    /// Invalid, but allowed: a controller created the object, or it is being deleted.
    NotByHand,
    /// Invalid.
    Invalid,
    /// Not an object that the webhook checks.
    NotConcerned,
}

impl fmt::Debug for DecisionReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Injection(cause) => write!(formatter, "{cause}"),
            Self::Valid => formatter.write_str("Valid"),
            Self::KnownMistakes => formatter.write_str("KnownMistakes"),
            Self::NotByHand => formatter.write_str("NotByHand"),
            Self::Invalid => formatter.write_str("Invalid"),
            Self::NotConcerned => formatter.write_str("NotConcerned"),
        }
    }
}

/// An endpoint of the webhook: the kind of check that the API server requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AdmissionEndpoint {
    /// Inject into a pod. The value is that of the label `inject` of its namespace.
    Pods(Option<Injection>),
    /// Validate the annotations of a workload.
    Workloads,
    /// Validate an object of Stowaway.
    Objects,
    /// Warn about annotations of a claim or a Namespace that are probably mistakes. Nothing is refused.
    Annotations,
}

impl AdmissionEndpoint {
    /// The subject under which a decision of this endpoint is counted.
    pub fn subject(self) -> Subject {
        match self {
            Self::Pods(_) => Subject::Pods,
            Self::Workloads => Subject::Workloads,
            Self::Objects | Self::Annotations => Subject::Objects,
        }
    }
}

/// The label value of a metric for the kind of object.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Subject {
    /// Pods.
    Pods,
    /// Workloads.
    Workloads,
    /// Objects of Stowaway, claims and Namespaces.
    Objects,
}

/// The facts of a decision besides the request.
#[derive(Clone, Copy, Debug)]
pub struct DecisionFacts<'a> {
    /// Image reference of the injected containers.
    pub image: &'a str,
    /// The Repositories of the object's namespace.
    pub repositories: &'a [Repository],
}

/// A decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The effect.
    pub effect: Effect,
    /// The reason.
    pub reason: DecisionReason,
    /// The answer to the API server.
    pub answer: Answer,
}

/// Decides on one request.
///
/// # Errors
/// When the endpoint does not handle the object of the request.
pub fn decide(
    endpoint: AdmissionEndpoint,
    request: &Request,
    facts: DecisionFacts<'_>,
) -> Result<Decision, ReviewError> {
    if request.operation == "DELETE" || request.operation == "CONNECT" || !request.sub_resource.is_empty() {
        return Ok(not_concerned());
    }
    let object = request.object().ok_or(ReviewError::NoObject)?;
    let kind = (request.kind.group.as_str(), request.kind.kind.as_str());
    match endpoint {
        AdmissionEndpoint::Pods(by_namespace) => {
            if kind != ("", "Pod") {
                return Err(ReviewError::WrongKind);
            }
            let outcome = inject(
                object,
                &InjectionFacts {
                    namespace: &request.namespace,
                    on_create: request.is_create(),
                    by_namespace,
                    image: facts.image,
                    repositories: facts.repositories,
                },
            );
            Ok(of_outcome(outcome))
        }
        AdmissionEndpoint::Workloads => {
            if !validate::WORKLOADS.contains(&kind) {
                return Ok(not_concerned());
            }
            let facts = InjectionFacts {
                namespace: &request.namespace,
                on_create: true,
                by_namespace: None,
                image: facts.image,
                repositories: facts.repositories,
            };
            Ok(of_result(validate::workload(object, old_object(request), &facts)))
        }
        AdmissionEndpoint::Objects => {
            if kind.0 != GROUP {
                return Err(ReviewError::WrongKind);
            }
            let result = validate::object(kind.1, object, old_object(request), facts.repositories);
            Ok(result.map_or_else(not_concerned, of_result))
        }
        AdmissionEndpoint::Annotations => {
            let carrier = match kind {
                ("", "PersistentVolumeClaim") => Carrier::Claim,
                ("", "Namespace") => Carrier::Namespace,
                _ => return Err(ReviewError::WrongKind),
            };
            Ok(of_result(validate::carrier(carrier, object)))
        }
    }
}

fn old_object(request: &Request) -> Option<&serde_json::Value> {
    request.old_object().filter(|_| request.is_update())
}

fn not_concerned() -> Decision {
    decision(Effect::Skip, DecisionReason::NotConcerned, Answer::default())
}

fn decision(effect: Effect, reason: DecisionReason, mut answer: Answer) -> Decision {
    answer.audit.insert("effect", format!("{effect:?}"));
    answer.audit.insert("cause", format!("{reason:?}"));
    Decision { effect, reason, answer }
}

fn of_outcome(outcome: Outcome) -> Decision {
    let mut audit = BTreeMap::new();
    if outcome.effect == Effect::Inject
        && let Ok(injected) = serde_json::to_string(&outcome.injected)
    {
        audit.insert("injected", injected);
    }
    let problems: Vec<RefusedField> = outcome
        .findings
        .iter()
        .map(|finding| RefusedField {
            reason: finding.cause.to_string(),
            message: finding.message.clone(),
            field: finding.annotation.as_ref().map(|key| validate::field_of(&["metadata"], key)).unwrap_or_default(),
        })
        .collect();
    audit_problems(&mut audit, &problems);
    let refusal = (outcome.effect == Effect::Refuse).then_some(Refusal {
        kind: match outcome.cause {
            Cause::NameTaken => RefusalKind::Forbidden,
            _ => RefusalKind::Invalid,
        },
        problems,
    });
    let answer = Answer { refusal, patch: outcome.patch, warnings: outcome.warnings, audit };
    decision(outcome.effect, DecisionReason::Injection(outcome.cause), answer)
}

fn of_result(result: ValidationResult) -> Decision {
    let ValidationResult { refused, tolerated, not_by_hand, mut warnings } = result;
    let mut audit = BTreeMap::new();
    audit_problems(&mut audit, if refused.is_empty() { &tolerated } else { &refused });
    warnings.extend(tolerated.iter().map(|problem| problem.message.clone()));
    let reason = match (refused.is_empty(), tolerated.is_empty()) {
        (false, _) => DecisionReason::Invalid,
        (true, false) if not_by_hand => DecisionReason::NotByHand,
        (true, false) => DecisionReason::KnownMistakes,
        (true, true) => DecisionReason::Valid,
    };
    let effect = if refused.is_empty() { Effect::Skip } else { Effect::Refuse };
    let refusal = (!refused.is_empty()).then_some(Refusal { kind: RefusalKind::Invalid, problems: refused });
    decision(effect, reason, Answer { refusal, warnings, audit, ..Answer::default() })
}

fn audit_problems(audit: &mut BTreeMap<&'static str, String>, problems: &[RefusedField]) {
    if !problems.is_empty() {
        let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
        audit.insert("problems", messages.join("; "));
    }
}
