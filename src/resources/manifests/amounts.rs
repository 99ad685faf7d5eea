//! Requests and limits of a container that the user sets, and the amounts that apply without them.

use std::{collections::BTreeMap, str::FromStr};

use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity};

use super::{controller, webhook};
use crate::model::billionths;

/// The resources that can be set.
const KINDS: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Amounts by resource.
type ByKind = BTreeMap<String, Quantity>;

/// Requests and limits that replace the default amounts of the same resources.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Amounts {
    requests: ByKind,
    limits: ByKind,
}

/// Why amounts cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AmountsError {
    /// A part of the text is not `RESOURCE=AMOUNT`.
    #[error("{0:?} is not of the form RESOURCE=AMOUNT, such as cpu=100m or memory=256Mi, with one of {kinds}", kinds = KINDS.join(", "))]
    Form(String),
    /// A resource occurs twice.
    #[error("{0} is set twice")]
    Twice(String),
    /// The API server would refuse the pods.
    #[error(
        "the {component}'s request of {kind} ({request}) is more than its limit ({limit}); set its limit as well, by --{component}-limits {kind}=..."
    )]
    MoreThanLimit {
        /// `controller` or `webhook`.
        component: &'static str,
        /// The resource.
        kind: String,
        /// The requested amount.
        request: String,
        /// The limit.
        limit: String,
    },
}

/// Amounts of one side, as `cpu=100m,memory=256Mi`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AmountList(ByKind);

impl FromStr for AmountList {
    type Err = AmountsError;

    fn from_str(text: &str) -> Result<Self, AmountsError> {
        let mut amounts = ByKind::new();
        for part in text.split(',') {
            let form = || AmountsError::Form(part.to_owned());
            let (kind, amount) = part.split_once('=').ok_or_else(form)?;
            if !KINDS.contains(&kind) || billionths(amount).is_none_or(|amount| amount <= 0) {
                return Err(form());
            }
            if amounts.insert(kind.to_owned(), Quantity(amount.to_owned())).is_some() {
                return Err(AmountsError::Twice(kind.to_owned()));
            }
        }
        Ok(Self(amounts))
    }
}

impl Amounts {
    /// The amounts for the controller.
    ///
    /// # Errors
    /// If a request would be more than the limit of the same resource.
    pub fn of_controller(requests: AmountList, limits: AmountList) -> Result<Self, AmountsError> {
        Self { requests: requests.0, limits: limits.0 }.checked("controller", controller::resources())
    }

    /// The amounts for the webhook.
    ///
    /// # Errors
    /// If a request would be more than the limit of the same resource.
    pub fn of_webhook(requests: AmountList, limits: AmountList) -> Result<Self, AmountsError> {
        Self { requests: requests.0, limits: limits.0 }.checked("webhook", webhook::resources())
    }

    fn checked(self, component: &'static str, defaults: ResourceRequirements) -> Result<Self, AmountsError> {
        let applied = applied(defaults, Some(&self));
        let limits = applied.limits.unwrap_or_default();
        for (kind, request) in applied.requests.unwrap_or_default() {
            let Some(limit) = limits.get(&kind) else { continue };
            if billionths(&request.0) > billionths(&limit.0) {
                let limit = limit.0.clone();
                return Err(AmountsError::MoreThanLimit { component, kind, request: request.0, limit });
            }
        }
        Ok(self)
    }
}

/// The default amounts, where the user has not set others.
pub(super) fn applied(mut defaults: ResourceRequirements, amounts: Option<&Amounts>) -> ResourceRequirements {
    if let Some(amounts) = amounts {
        defaults.requests.get_or_insert_default().extend(amounts.requests.clone());
        defaults.limits.get_or_insert_default().extend(amounts.limits.clone());
    }
    defaults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> AmountList {
        text.parse().unwrap()
    }

    #[test]
    fn other_amounts_replace_those_of_the_same_resource() {
        let amounts = Amounts::of_controller(list("cpu=200m"), list("memory=1Gi,ephemeral-storage=1Gi")).unwrap();
        let applied = serde_json::to_value(applied(controller::resources(), Some(&amounts))).unwrap();
        assert_eq!(
            applied,
            serde_json::json!({
                "requests": { "cpu": "200m", "memory": "64Mi" }, "limits": { "memory": "1Gi", "ephemeral-storage": "1Gi" },
            })
        );
    }

    #[test]
    fn amounts_that_the_api_server_would_refuse_are_refused() {
        for text in ["", "cpu", "cpu=", "cpu=0", "cpu=-1", "cpu=much", "gpu=1", "cpu=1,"] {
            assert!(matches!(text.parse::<AmountList>(), Err(AmountsError::Form(_))), "{text:?}");
        }
        assert_eq!("cpu=1,cpu=2".parse::<AmountList>(), Err(AmountsError::Twice("cpu".into())));
        let error = Amounts::of_webhook(list("memory=1Gi"), AmountList::default()).unwrap_err().to_string();
        let expected = "the webhook's request of memory (1Gi) is more than its limit (128Mi); set its limit as well";
        assert!(error.starts_with(expected), "{error}");
        assert!(Amounts::of_webhook(list("memory=1Gi"), list("memory=1Gi")).is_ok());
    }
}
