//! The paths that a Rust file names, with braces expanded and without its tests.
//!
//! The reader works on tokens, so it ignores comments and strings, and reads macros like other code.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// A path such as `crate::model::Reason`, or a single name.
#[derive(Debug)]
pub struct UsedPath {
    pub segments: Vec<String>,
    /// The line of its last name, from 1.
    pub line: usize,
    /// Whether it is in a `use`.
    pub imported: bool,
    /// Whether it is in a `pub use`, of any visibility.
    pub exported: bool,
}

/// What the tokens belong to.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Context {
    Code,
    Import,
    Export,
}

/// All paths of a file except those under `#[cfg(test)]`.
pub fn used_paths(text: &str) -> Result<Vec<UsedPath>, String> {
    let tokens: TokenStream = text.parse().map_err(|error: proc_macro2::LexError| error.to_string())?;
    let mut found = Vec::new();
    collect(tokens, &[], Context::Code, &mut found);
    Ok(found)
}

/// Reads tokens; `prefix` is the path before the braces of a `use`.
fn collect(tokens: TokenStream, prefix: &[String], outer: Context, found: &mut Vec<UsedPath>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut context = outer;
    let mut index = 0;
    while index < tokens.len() {
        match &tokens[index] {
            TokenTree::Punct(hash) if hash.as_char() == '#' && is_test_attribute(tokens.get(index + 1)) => {
                index += 2;
                // The item that follows, to its braces or its semicolon.
                while index < tokens.len() && !ends_item(&tokens[index]) {
                    index += 1;
                }
            }
            TokenTree::Ident(ident) if ident == "use" => {
                context = if is_public(&tokens[..index]) { Context::Export } else { Context::Import };
            }
            TokenTree::Ident(ident) if ident == "as" && context != Context::Code => index += 1,
            TokenTree::Ident(_) => index = path(&tokens, index, prefix, context, found),
            TokenTree::Punct(punct) if punct.as_char() == ';' => context = outer,
            TokenTree::Group(group) => collect(group.stream(), prefix_of(group, prefix, context), context, found),
            _ => {}
        }
        index += 1;
    }
}

/// Within a `use` braces keep the prefix; elsewhere there is none.
fn prefix_of<'a>(group: &Group, prefix: &'a [String], context: Context) -> &'a [String] {
    if context != Context::Code && group.delimiter() == Delimiter::Brace { prefix } else { &[] }
}

/// Whether the tokens before an item end with its visibility.
fn is_public(before: &[TokenTree]) -> bool {
    let is_pub = |token: &TokenTree| matches!(token, TokenTree::Ident(ident) if ident == "pub");
    match before {
        [.., keyword, TokenTree::Group(scope)] if scope.delimiter() == Delimiter::Parenthesis => is_pub(keyword),
        [.., keyword] => is_pub(keyword),
        [] => false,
    }
}

/// Reads the path that begins at `start`; gives the index of its last token.
fn path(tokens: &[TokenTree], start: usize, prefix: &[String], context: Context, found: &mut Vec<UsedPath>) -> usize {
    let mut segments = prefix.to_vec();
    let mut index = start;
    let mut line = 1;
    while let Some(TokenTree::Ident(ident)) = tokens.get(index) {
        line = ident.span().start().line;
        if ident != "self" || segments.is_empty() {
            segments.push(ident.to_string());
        }
        let is_colon = |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
        if !(is_colon(index + 1) && is_colon(index + 2)) {
            break;
        }
        match tokens.get(index + 3) {
            Some(TokenTree::Ident(_)) => index += 3,
            Some(TokenTree::Group(group)) if context != Context::Code => {
                collect(group.stream(), &segments, context, found);
                return index + 3;
            }
            // A glob, or generic arguments.
            _ => break,
        }
    }
    let (imported, exported) = (context != Context::Code, context == Context::Export);
    found.push(UsedPath { segments, line, imported, exported });
    index
}

fn is_test_attribute(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket
        && group.stream().to_string().replace(' ', "") == "cfg(test)")
}

fn ends_item(token: &TokenTree) -> bool {
    match token {
        TokenTree::Punct(punct) => punct.as_char() == ';',
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        _ => false,
    }
}
