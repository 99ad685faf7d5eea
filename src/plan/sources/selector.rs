//! A label selector, read as the API server reads it.
//!
//! It must not know what is selected.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::core::Selector;

/// The selector as the API server would understand it, which also refuses what can never be meant.
pub(super) fn selector(selector: &LabelSelector) -> Result<Selector, String> {
    for LabelSelectorRequirement { key, operator, values } in selector.match_expressions.iter().flatten() {
        let has_values = values.as_ref().is_some_and(|values| !values.is_empty());
        let allowed = match operator.as_str() {
            "In" | "NotIn" => has_values,
            "Exists" | "DoesNotExist" => !has_values,
            _ => return Err(format!("{operator:?} of {key:?} is no operator: In, NotIn, Exists or DoesNotExist")),
        };
        if !allowed {
            return Err(format!(
                "{operator} of {key:?} takes {} values",
                if has_values { "no" } else { "at least one" }
            ));
        }
    }
    selector.clone().try_into().map_err(|error: kube::core::ParseExpressionError| error.to_string())
}
