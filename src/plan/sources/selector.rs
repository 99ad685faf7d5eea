//! The conversion of a label selector, with the API server's validation.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::core::Selector;

/// Converts a selector. Like the API server, it refuses operators with a wrong number of values.
pub(super) fn selector(selector: &LabelSelector) -> Result<Selector, String> {
    for LabelSelectorRequirement { key, operator, values } in selector.match_expressions.iter().flatten() {
        let has_values = values.as_ref().is_some_and(|values| !values.is_empty());
        let allowed = match operator.as_str() {
            "In" | "NotIn" => has_values,
            "Exists" | "DoesNotExist" => !has_values,
            _ => {
                return Err(format!(
                    "{operator:?} of {key:?} is not an operator; use In, NotIn, Exists or DoesNotExist"
                ));
            }
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
