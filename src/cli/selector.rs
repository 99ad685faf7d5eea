//! Parses label selectors as kubectl does: `a=b,c!=d,e in (f,g),!h`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// A label selector that cannot be parsed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not a label selector: write for example app=shop,tier!=cache,env in (test,live),!debug")]
pub struct SelectorError(String);

/// Parses a selector (Kubernetes' documentation, "Labels and Selectors", set-based and equality-based requirements).
pub fn parse_selector(text: &str) -> Result<LabelSelector, SelectorError> {
    let requirements: Option<Vec<_>> = split_terms(text).into_iter().map(requirement).collect();
    let requirements = requirements.ok_or_else(|| SelectorError(text.to_owned()))?;
    Ok(LabelSelector { match_expressions: Some(requirements), match_labels: None })
}

/// Splits at commas outside of parentheses.
fn split_terms(text: &str) -> Vec<&str> {
    let mut inside = false;
    text.split(move |c| {
        inside = (inside || c == '(') && c != ')';
        c == ',' && !inside
    })
    .map(str::trim)
    .collect()
}

fn requirement(term: &str) -> Option<LabelSelectorRequirement> {
    let make = |key: &str, operator: &str, values: Vec<&str>| {
        let key = key.trim();
        let plain = |text: &&str| !text.contains(|c: char| c.is_whitespace() || "=!()".contains(c));
        let valid = !key.is_empty() && plain(&key) && values.iter().all(plain);
        valid.then(|| LabelSelectorRequirement {
            key: key.to_owned(),
            operator: operator.to_owned(),
            values: (!values.is_empty()).then(|| values.into_iter().map(str::to_owned).collect()),
        })
    };
    if let Some((key, value)) = term.split_once("!=") {
        return make(key, "NotIn", vec![value.trim()]);
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return make(key, "In", vec![value.trim()]);
    }
    for (keyword, operator) in [(" notin ", "NotIn"), (" in ", "In")] {
        if let Some((key, set)) = term.split_once(keyword) {
            let values = set.trim().strip_prefix('(')?.strip_suffix(')')?.split(',').map(str::trim).collect();
            return make(key, operator, values);
        }
    }
    match term.strip_prefix('!') {
        Some(key) => make(key, "DoesNotExist", Vec::new()),
        None => make(term, "Exists", Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_read_as_kubectl_reads_them() {
        let selector =
            parse_selector("app=shop, tier!=cache,env in (test, live),zone notin (a),x==y,debug,!old").unwrap();
        let read: Vec<String> = selector
            .match_expressions
            .unwrap()
            .into_iter()
            .map(|r| format!("{} {} {}", r.key, r.operator, r.values.unwrap_or_default().join("|")))
            .collect();
        assert_eq!(
            read,
            [
                "app In shop",
                "tier NotIn cache",
                "env In test|live",
                "zone NotIn a",
                "x In y",
                "debug Exists ",
                "old DoesNotExist "
            ]
        );
    }

    #[test]
    fn broken_selectors_are_refused() {
        for text in ["", "a,", "a in b", "=b", "a in (b", "a b", "a=b=c"] {
            assert!(parse_selector(text).is_err(), "{text:?}");
        }
    }
}
