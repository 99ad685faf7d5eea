//! Requests and limits of a container, as the value of an annotation.

use serde_json::{Map, Value};

use crate::model::billionths;

const EXPECTED: &str = "is not a JSON object of requests and limits, such as {\"limits\":{\"memory\":\"256Mi\"}}";
/// The resources that can be set. Other resources are those of devices.
const KINDS: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Parses requests and limits in the form of a container's `resources`.
pub(super) fn resources(value: &str) -> Result<Value, String> {
    let parsed: Map<String, Value> = serde_json::from_str(value).map_err(|_| EXPECTED.to_owned())?;
    if parsed.is_empty() {
        return Err(EXPECTED.to_owned());
    }
    for (side, amounts) in &parsed {
        if !["requests", "limits"].contains(&side.as_str()) {
            return Err(format!("{side:?} is neither requests nor limits"));
        }
        for (kind, amount) in amounts.as_object().ok_or_else(|| format!("{side} is not an object"))? {
            if !KINDS.contains(&kind.as_str()) {
                return Err(format!("{side}.{kind} is none of {}", KINDS.join(", ")));
            }
            let amount = amount.as_str().and_then(billionths).filter(|amount| *amount > 0);
            let amount =
                amount.ok_or_else(|| format!("{side}.{kind} is not a quantity such as \"500m\" or \"256Mi\""))?;
            let limit = parsed.get("limits").and_then(|limits| billionths(limits.get(kind)?.as_str()?));
            if limit.is_some_and(|limit| limit < amount) {
                return Err(format!("{side}.{kind} is more than limits.{kind}"));
            }
        }
    }
    Ok(Value::Object(parsed))
}
