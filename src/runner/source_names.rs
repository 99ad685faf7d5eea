//! The names of existing sources for a message about a name that is none of them.

use std::collections::BTreeSet;

/// How many names a message lists.
const LISTED: usize = 20;

/// The names, the most similar one to the wanted name first, and the number of those that are not listed.
pub fn similar_sources<'a>(names: impl IntoIterator<Item = &'a str>, wanted: &str) -> String {
    let names: BTreeSet<&str> = names.into_iter().collect();
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_by_cached_key(|name| strsim::damerau_levenshtein(name, wanted));
    let rest = names.len().saturating_sub(LISTED);
    names.truncate(LISTED);
    match (names.is_empty(), rest) {
        (true, _) => "nothing".to_owned(),
        (false, 0) => names.join(", "),
        (false, rest) => format!("{} and {rest} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_similar_name_is_first_and_a_cut_list_states_the_rest() {
        let names = ["pvc/attic", "deployment/mill/press", "pvc/cask", "pvc/cask"];
        assert_eq!(similar_sources(names, "pvc/caks"), "pvc/cask, pvc/attic, deployment/mill/press");
        assert_eq!(similar_sources([], "pvc/caks"), "nothing");
        let many: Vec<String> = (0..25).map(|number| format!("pvc/cask-{number:02}")).collect();
        let text = similar_sources(many.iter().map(String::as_str), "pvc/cask-24x");
        assert!(text.starts_with("pvc/cask-24, ") && text.ends_with(" and 5 more"), "{text}");
    }
}
