//! What the log's events say to people: the fields that name something, and whether the message has a place for each.
//!
//! It must not know what is logged. It works on tokens.

use proc_macro2::{TokenStream, TokenTree};

/// Fields that say which object, or why. Without them a message is a riddle; figures may be for machines alone.
const NAMING: [&str; 12] = [
    "error",
    "folder",
    "host",
    "kind",
    "name",
    "namespace",
    "path",
    "pod",
    "repository",
    "snapshot",
    "source",
    "volume",
];

/// The events whose message has fewer places than such fields: their lines, and the fields. Of a text that is no Rust there
/// are none.
pub fn untold(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    if let Ok(tokens) = text.parse::<TokenStream>() {
        collect(tokens, &mut found);
    }
    found
}

fn collect(tokens: TokenStream, found: &mut Vec<(usize, String)>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (index, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        if let [.., TokenTree::Ident(level), TokenTree::Punct(mark)] = &tokens[..index]
            && mark.as_char() == '!'
            && ["trace", "debug", "info", "warn", "error"].iter().any(|known| level == known)
        {
            let (fields, places) = event(group.stream());
            if places < fields.len() {
                found.push((level.span().start().line, fields.join(", ")));
            }
        }
        collect(group.stream(), found);
    }
}

/// The naming fields of an event, and how many places its message has.
fn event(arguments: TokenStream) -> (Vec<String>, usize) {
    let mut fields = Vec::new();
    let mut is_first = true;
    for token in arguments {
        match token {
            TokenTree::Punct(comma) if comma.as_char() == ',' => is_first = true,
            // `%name`, `?name`
            TokenTree::Punct(_) => {}
            TokenTree::Ident(field) if is_first => {
                fields.extend(NAMING.iter().find(|known| field == **known).map(|known| (*known).to_owned()));
                is_first = false;
            }
            // What stands first in its argument and is a text: the message.
            TokenTree::Literal(message) if is_first => {
                let message = message.to_string().replace("{{", "");
                return (fields, message.matches('{').count());
            }
            _ => is_first = false,
        }
    }
    (fields, 0)
}
