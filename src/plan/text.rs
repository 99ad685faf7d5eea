//! Texts which are cut to fit a status, and time arithmetic which cannot overflow.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::model::escape;

/// The longest message in a status. A status with 256 sources, each with such a message, still fits into one object.
const MAX_MESSAGE_BYTES: usize = 1024;

/// The text as one line without control characters, cut to [`MAX_MESSAGE_BYTES`].
pub(super) fn clip(text: &str) -> String {
    clip_to(&escape(text), MAX_MESSAGE_BYTES)
}

/// Cuts each text to an equal share of `budget` if the texts together take more than `budget` bytes.
pub(super) fn fit(texts: &mut [&mut String], budget: usize) {
    let total: usize = texts.iter().map(|text| stored_length(text)).sum();
    if total > budget {
        let share = budget / texts.len();
        for text in texts {
            **text = clip_to(text, share);
        }
    }
}

fn clip_to(text: &str, maximum: usize) -> String {
    if stored_length(text) <= maximum {
        return text.to_owned();
    }
    let room = maximum.saturating_sub('…'.len_utf8());
    let mut length = 0;
    let kept = text.chars().take_while(|character| {
        length += character_length(*character);
        length <= room
    });
    kept.chain(std::iter::once('…')).collect()
}

/// The number of bytes that the text takes in an object as JSON, in which a control character may take six bytes.
fn stored_length(text: &str) -> usize {
    text.chars().map(character_length).sum()
}

fn character_length(character: char) -> usize {
    match character {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        character => character.len_utf8(),
    }
}

/// The longest text in an entry of a long list of a status, which has to fit into one object together with the sources.
const MAX_LINE_BYTES: usize = 320;

/// The text, cut to [`MAX_LINE_BYTES`].
pub(super) fn clip_line(text: &str) -> String {
    if text.len() <= MAX_LINE_BYTES {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(MAX_LINE_BYTES - '…'.len_utf8())])
}

/// The next step if the node is lost, because its kubelet never reports that a pod has ended.
pub(super) fn if_lost(node: &str) -> String {
    format!(
        "if node {node} is lost, taint it with node.kubernetes.io/out-of-service=nodeshutdown:NoExecute, so that \
         Kubernetes deletes its pods"
    )
}

/// Adds a statement to a message, which may be empty.
pub(super) fn with_statement(message: &str, statement: &str) -> String {
    if message.is_empty() { statement.to_owned() } else { format!("{message}; {statement}") }
}

/// The sum, at most [`Timestamp::MAX`].
pub(super) fn later(then: Timestamp, wait: Duration) -> Timestamp {
    then.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

/// The time from `now` until `then`; zero if `then` has passed.
pub(super) fn until(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or_default()
}

/// The selector in kubectl's syntax.
pub(super) fn selector_text(selector: &LabelSelector) -> String {
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let requirement = |LabelSelectorRequirement { key, operator, values }: &LabelSelectorRequirement| {
        let values = values.as_deref().unwrap_or_default();
        match (operator.as_str(), values) {
            ("In", [value]) => format!("{key}={value}"),
            ("NotIn", [value]) => format!("{key}!={value}"),
            ("In", values) => format!("{key} in ({})", values.join(",")),
            ("NotIn", values) => format!("{key} notin ({})", values.join(",")),
            ("DoesNotExist", _) => format!("!{key}"),
            _ => key.clone(),
        }
    };
    labels.chain(selector.match_expressions.iter().flatten().map(requirement)).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selector_is_written_as_for_kubectl() {
        let selector: LabelSelector = serde_json::from_value(serde_json::json!({
            "matchLabels": { "app": "web" },
            "matchExpressions": [
                { "key": "tier", "operator": "In", "values": ["a"] },
                { "key": "env", "operator": "NotIn", "values": ["b", "c"] },
                { "key": "x", "operator": "Exists" },
                { "key": "y", "operator": "DoesNotExist" },
            ],
        }))
        .unwrap();
        assert_eq!(selector_text(&selector), "app=web,tier=a,env notin (b,c),x,!y");
    }

    #[test]
    fn text_is_cut_by_its_size_as_json() {
        for text in ["a".repeat(5000), "\u{1}".repeat(5000), "é\"".repeat(5000)] {
            let cut = clip(&text);
            assert!(serde_json::to_string(&cut).unwrap().len() <= MAX_MESSAGE_BYTES + 2, "{cut}");
            assert!(cut.ends_with('…') && cut.len() > 100);
        }
        assert_eq!(clip("short"), "short");
    }

    #[test]
    fn many_texts_share_the_budget() {
        let mut texts: Vec<String> = (0..512).map(|_| "x\u{1}".repeat(300)).collect();
        let mut borrowed: Vec<&mut String> = texts.iter_mut().collect();
        fit(&mut borrowed, 100_000);
        assert!(texts.iter().map(|text| stored_length(text)).sum::<usize>() <= 100_000);
        assert!(texts.iter().all(|text| text.starts_with('x')));
    }
}
