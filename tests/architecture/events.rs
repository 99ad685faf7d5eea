//! The events of the log: the fields that name an object or a cause, and whether the message contains each of them.

use proc_macro2::{TokenStream, TokenTree};

/// Fields that name the object or the cause. The message must contain them, because the log for people shows only the
/// message.
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

/// The events whose message has fewer placeholders than such fields: their lines, and the fields. Text that is not Rust
/// has none.
pub fn unprinted_fields(text: &str) -> Vec<(usize, String)> {
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
            let (fields, placeholders) = event(group.stream());
            if placeholders < fields.len() {
                found.push((level.span().start().line, fields.join(", ")));
            }
        }
        collect(group.stream(), found);
    }
}

/// The naming fields of an event, and the number of placeholders of its message.
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
            // The first string of the arguments is the message.
            TokenTree::Literal(message) if is_first => {
                let message = message.to_string().replace("{{", "");
                return (fields, message.matches('{').count());
            }
            _ => is_first = false,
        }
    }
    (fields, 0)
}
