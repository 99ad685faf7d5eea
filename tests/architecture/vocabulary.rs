//! The vocabulary of `STYLE.md`: terms which names, comments, messages and documents avoid, and the terms to use instead.

/// Everyday terms that hide what a program does, separated by spaces, and the terms that replace them.
const AVOIDED: &[(&str, &str)] = &[
    ("told tell tells telling untold", "report, receive, configure"),
    ("said say says saying", "state, report, return, contain"),
    ("ask asks asked asking unasked wish wishes wished", "request, query, want"),
    ("hear hears heard", "receive, read"),
    ("ours theirs", "name the owner: Stowaway's, the app's, another client's"),
    ("whoever whomever whom somebody nobody anybody everybody", "name the actor, or no one"),
    ("anew", "again"),
    ("aloud", "in the status, in the log"),
    ("place places", "location, store, path, directory"),
    ("way ways", "mode, method, path"),
    ("word words", "token, message, text, term"),
    ("goes", "is deleted, ends, continues"),
    ("stand stands stood", "is, is set, is stored"),
    ("bring brings brought", "send, upload, restore"),
    ("knock knocks", "connect"),
];

/// Files with terms of other interfaces, and how often they occur: the user `nobody` of Linux, a function of a cipher, and
/// tokens which the helpers in running pods understand.
const FOREIGN: &[(&str, usize)] = &[
    ("helper/src/arguments.rs", 4),
    ("protocol/src/sidecar.rs", 2),
    ("repository/src/crypto.rs", 3),
    ("src/runner/sidecar/client.rs", 1),
    ("tests/integration/shell/mod.rs", 5),
    ("tests/integration/shell/restore.rs", 1),
    ("tests/integration/sidecar/lines.rs", 2),
    ("tests/integration/sidecar/pod.rs", 5),
];

/// The avoided terms of a file, as `file:line: rule`. Names are split at underscores and capitals.
pub fn avoided_terms(file: &str, text: &str) -> Vec<String> {
    let found: Vec<String> = text
        .lines()
        .enumerate()
        .flat_map(|(index, line)| terms(line).into_iter().map(move |term| (index + 1, term)))
        .filter_map(|(line, term)| {
            let (_, instead) = AVOIDED.iter().find(|(avoided, _)| avoided.split(' ').any(|avoided| avoided == term))?;
            Some(format!("{file}:{line}: avoid \"{term}\" (STYLE.md): {instead}"))
        })
        .collect();
    let allowed = FOREIGN.iter().find(|(foreign, _)| *foreign == file).map_or(0, |(_, count)| *count);
    if found.len() == allowed {
        return Vec::new();
    }
    if found.len() < allowed {
        return vec![format!("{file}: has {} foreign terms; lower its number in FOREIGN from {allowed}", found.len())];
    }
    found
}

/// The terms of a line, in lower case.
fn terms(line: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut follows_lower_case = false;
    for letter in line.chars() {
        let is_letter = letter.is_ascii_alphabetic();
        if !is_letter || letter.is_ascii_uppercase() && follows_lower_case {
            terms.push(String::new());
        }
        if is_letter && let Some(term) = terms.last_mut() {
            term.push(letter.to_ascii_lowercase());
        }
        follows_lower_case = letter.is_ascii_lowercase();
    }
    terms
}

#[test]
fn avoided_terms_are_found_in_comments_names_and_strings() {
    for text in ["// is told to end", "fn told_to_end() {}", "struct WayBack;", "\"nobody listens\"", "/// It Says"] {
        assert_eq!(avoided_terms("src/x.rs", text).len(), 1, "{text}");
    }
    for text in ["Placeholder", "password", "always", "essays", "anyway", "is replaced in-line", "keywords"] {
        assert_eq!(avoided_terms("src/x.rs", text), Vec::<String>::new(), "{text}");
    }
    assert!(avoided_terms("src/x.rs", "\n// anew")[0].starts_with("src/x.rs:2: avoid \"anew\""));
}

#[test]
fn foreign_terms_are_counted_and_their_number_can_only_shrink() {
    let file = "src/runner/sidecar/client.rs";
    assert_eq!(avoided_terms(file, "\"ask\""), Vec::<String>::new());
    assert_eq!(avoided_terms(file, "\"ask\" \"ask\"").len(), 2);
    assert!(avoided_terms(file, "")[0].contains("lower its number"));
}
