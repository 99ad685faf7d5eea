//! One decision on one object, whatever it is: from what `inject` and `validate` say to an answer.
//!
//! Pure. It must not know HTTP, nor how a review is written.

use std::{collections::BTreeMap, fmt};

use super::{
    review::{Answer, Refusal, RefusalKind, RefusedField, Request, ReviewError},
    validate::{self, Judgement},
};
use crate::{
    annotations::{Carrier, Injection},
    api::{GROUP, Repository},
    inject::{Cause, Effect, InjectionFacts, Outcome, inject},
};

/// Why a decision is as it is; one closed list for audit annotations and metrics.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub enum Ground {
    /// What `inject` says of a pod.
    Injection(Cause),
    /// Nothing is wrong.
    Sound,
    /// Something is wrong, but was before, and was not touched.
    KnownMistakes,
    /// Something is wrong, but a controller made it, or it is on its way out.
    NotByHand,
    /// Something is wrong.
    Invalid,
    /// It is nothing that we look at.
    NotConcerned,
}

impl fmt::Debug for Ground {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Injection(cause) => write!(formatter, "{cause}"),
            Self::Sound => formatter.write_str("Sound"),
            Self::KnownMistakes => formatter.write_str("KnownMistakes"),
            Self::NotByHand => formatter.write_str("NotByHand"),
            Self::Invalid => formatter.write_str("Invalid"),
            Self::NotConcerned => formatter.write_str("NotConcerned"),
        }
    }
}

/// What is asked under one path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Question {
    /// What a pod gets, and what the label of its namespace says.
    Pods(Option<Injection>),
    /// Whether a workload can be carried out as annotated.
    Workloads,
    /// Whether an object of ours can be carried out.
    Objects,
    /// Whether the keys of a claim or a Namespace were probably meant otherwise; none is refused.
    Annotations,
}

impl Question {
    /// By which word it is counted.
    pub fn subject(self) -> Subject {
        match self {
            Self::Pods(_) => Subject::Pods,
            Self::Workloads => Subject::Workloads,
            Self::Objects | Self::Annotations => Subject::Objects,
        }
    }
}

/// Which question was asked, for those who count.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Subject {
    /// What a pod gets.
    Pods,
    /// Whether a workload's annotations are sound.
    Workloads,
    /// Whether an object of ours is sound.
    Objects,
}

/// What is known besides the request.
#[derive(Clone, Copy, Debug)]
pub struct DecisionFacts<'a> {
    /// Reference of our image.
    pub image: &'a str,
    /// The Repositories of the object's namespace.
    pub repositories: &'a [Repository],
}

/// A decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What is done.
    pub effect: Effect,
    /// Why.
    pub ground: Ground,
    /// What is answered.
    pub answer: Answer,
}

/// Decides.
///
/// # Errors
/// When the request is about nothing that could be decided on here.
pub fn decide(question: Question, request: &Request, facts: DecisionFacts<'_>) -> Result<Decision, ReviewError> {
    if request.operation == "DELETE" || request.operation == "CONNECT" || !request.sub_resource.is_empty() {
        return Ok(not_concerned());
    }
    let object = request.object().ok_or(ReviewError::NoObject)?;
    let kind = (request.kind.group.as_str(), request.kind.kind.as_str());
    match question {
        Question::Pods(by_namespace) => {
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
        Question::Workloads => {
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
            Ok(of_judgement(validate::workload(object, old_object(request), &facts)))
        }
        Question::Objects => {
            if kind.0 != GROUP {
                return Err(ReviewError::WrongKind);
            }
            let judgement = validate::object(kind.1, object, old_object(request), facts.repositories);
            Ok(judgement.map_or_else(not_concerned, of_judgement))
        }
        Question::Annotations => {
            let carrier = match kind {
                ("", "PersistentVolumeClaim") => Carrier::Claim,
                ("", "Namespace") => Carrier::Namespace,
                _ => return Err(ReviewError::WrongKind),
            };
            Ok(of_judgement(validate::carrier(carrier, object)))
        }
    }
}

fn old_object(request: &Request) -> Option<&serde_json::Value> {
    request.old_object().filter(|_| request.is_update())
}

fn not_concerned() -> Decision {
    decision(Effect::Skip, Ground::NotConcerned, Answer::default())
}

fn decision(effect: Effect, ground: Ground, mut answer: Answer) -> Decision {
    answer.audit.insert("effect", format!("{effect:?}"));
    answer.audit.insert("cause", format!("{ground:?}"));
    Decision { effect, ground, answer }
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
    decision(outcome.effect, Ground::Injection(outcome.cause), answer)
}

fn of_judgement(judgement: Judgement) -> Decision {
    let Judgement { refused, tolerated, not_by_hand, mut warnings } = judgement;
    let mut audit = BTreeMap::new();
    audit_problems(&mut audit, if refused.is_empty() { &tolerated } else { &refused });
    warnings.extend(tolerated.iter().map(|problem| problem.message.clone()));
    let ground = match (refused.is_empty(), tolerated.is_empty()) {
        (false, _) => Ground::Invalid,
        (true, false) if not_by_hand => Ground::NotByHand,
        (true, false) => Ground::KnownMistakes,
        (true, true) => Ground::Sound,
    };
    let effect = if refused.is_empty() { Effect::Skip } else { Effect::Refuse };
    let refusal = (!refused.is_empty()).then_some(Refusal { kind: RefusalKind::Invalid, problems: refused });
    decision(effect, ground, Answer { refusal, warnings, audit, ..Answer::default() })
}

fn audit_problems(audit: &mut BTreeMap<&'static str, String>, problems: &[RefusedField]) {
    if !problems.is_empty() {
        let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
        audit.insert("problems", messages.join("; "));
    }
}
