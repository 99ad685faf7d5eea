//! Texts that fit a status, and arithmetic of times that cannot overflow.
//!
//! It must not know what is said.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::model::escape;

/// How much of a message goes into a status: 256 sources with a message each still fit one object.
const MAXIMUM_MESSAGE_BYTES: usize = 1024;

/// The text as one line without control characters, cut to what a status may hold.
pub(super) fn clip(text: &str) -> String {
    clip_to(&escape(text), MAXIMUM_MESSAGE_BYTES)
}

/// Cuts texts that take more than `budget` bytes together, so that each of them keeps its share.
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

/// How many bytes the text takes in an object: control characters are six bytes each in JSON.
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

/// How much of a message goes into one of the long lists of a status, beside which the sources have to fit.
const MAXIMUM_LINE_BYTES: usize = 320;

/// The text, cut to what an entry of such a list may hold.
pub(super) fn clip_line(text: &str) -> String {
    if text.len() <= MAXIMUM_LINE_BYTES {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(MAXIMUM_LINE_BYTES - '…'.len_utf8())])
}

/// That much later.
pub(super) fn later(then: Timestamp, wait: Duration) -> Timestamp {
    then.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

/// How long until then; nothing when it has passed.
pub(super) fn until(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or_default()
}

/// The selector as it is given to kubectl.
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
    fn text_is_cut_by_what_it_takes_in_an_object() {
        for text in ["a".repeat(5000), "\u{1}".repeat(5000), "é\"".repeat(5000)] {
            let cut = clip(&text);
            assert!(serde_json::to_string(&cut).unwrap().len() <= MAXIMUM_MESSAGE_BYTES + 2, "{cut}");
            assert!(cut.ends_with('…') && cut.len() > 100);
        }
        assert_eq!(clip("short"), "short");
    }

    #[test]
    fn many_texts_share_what_there_is() {
        let mut texts: Vec<String> = (0..512).map(|_| "x\u{1}".repeat(300)).collect();
        let mut borrowed: Vec<&mut String> = texts.iter_mut().collect();
        fit(&mut borrowed, 100_000);
        assert!(texts.iter().map(|text| stored_length(text)).sum::<usize>() <= 100_000);
        assert!(texts.iter().all(|text| text.starts_with('x')));
    }
}
