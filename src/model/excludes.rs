//! What of a volume is left out of its backup: patterns, with the meaning that they have for restic's `--exclude`.
//!
//! Names are bytes, and need not be UTF-8. It must not know files: it is asked about paths.

use std::{ffi::OsStr, path::Path};

use globset::{GlobBuilder, GlobMatcher};

/// How many patterns there may be.
pub const MAXIMUM_PATTERNS: usize = 64;
/// How long they may be altogether: a run's task has a limit, and they go with it.
pub const MAXIMUM_PATTERN_BYTES: usize = 4096;

/// Patterns that can be asked about paths.
#[derive(Clone, Debug, Default)]
pub struct Excludes {
    texts: Vec<String>,
    patterns: Vec<Vec<Part>>,
}

/// What stands between two slashes of a pattern.
#[derive(Clone, Debug)]
enum Part {
    /// `**`: any number of names.
    Any,
    /// One name. Matched by itself, since for the library a slash is as good as any other character in brackets.
    Name(GlobMatcher),
}

impl Excludes {
    /// Reads patterns. One that begins with a slash is about the path from the volume's own folder on, any other one about
    /// the end of a path, at any depth. `*`, `?` and `[a-z]` are within one name, `**` alone is any number of names.
    ///
    /// Errors: a sentence for people about the first one that cannot be carried out.
    pub fn new(patterns: &[String]) -> Result<Self, String> {
        if patterns.len() > MAXIMUM_PATTERNS {
            return Err(format!("has more than {MAXIMUM_PATTERNS} patterns"));
        }
        if patterns.iter().map(String::len).sum::<usize>() > MAXIMUM_PATTERN_BYTES {
            return Err(format!("has patterns of more than {MAXIMUM_PATTERN_BYTES} bytes altogether"));
        }
        let read = |text: &String| parts(text).map_err(|why| format!("has the pattern {text:?}, which {why}"));
        Ok(Self { texts: patterns.to_vec(), patterns: patterns.iter().map(read).collect::<Result<_, _>>()? })
    }

    /// The patterns as they were written.
    pub fn patterns(&self) -> &[String] {
        &self.texts
    }

    /// Whether what is at this path, relative to the volume's own folder, is left out. What is in a folder that is left out
    /// is not to be asked about.
    pub fn leave_out(&self, path: &Path) -> bool {
        if self.patterns.is_empty() {
            return false;
        }
        let names: Vec<&OsStr> = path.iter().collect();
        self.patterns.iter().any(|pattern| matches(pattern, &names))
    }
}

/// Whether the pattern is about exactly these names. Of several `**` only the last has to be tried again.
fn matches(pattern: &[Part], names: &[&OsStr]) -> bool {
    let (mut part, mut name) = (0, 0);
    let mut any = None;
    while name < names.len() {
        match (pattern.get(part), any) {
            (Some(Part::Any), _) => {
                any = Some((part, name));
                part += 1;
            }
            (Some(Part::Name(glob)), _) if glob.is_match(names[name]) => (part, name) = (part + 1, name + 1),
            (_, Some((at, taken))) => {
                any = Some((at, taken + 1));
                (part, name) = (at + 1, taken + 1);
            }
            (_, None) => return false,
        }
    }
    pattern[part..].iter().all(|part| matches!(part, Part::Any))
}

/// Reads one pattern.
fn parts(pattern: &str) -> Result<Vec<Part>, String> {
    if pattern.starts_with('!') {
        // It would matter in which order they are, and what of a folder that is left out comes back.
        return Err(
            "would take back what others leave out, which is not possible; write \\! for a name's own '!'".into()
        );
    }
    let (first, body) = match pattern.strip_prefix('/') {
        Some(body) => (None, body),
        None => (Some(Part::Any), pattern),
    };
    let body = body.strip_suffix('/').unwrap_or(body);
    let rest = body.split('/').map(|name| match name {
        "" | "." | ".." => Err("matches no path: names are separated by single slashes, and none is . or ..".into()),
        "**" => Ok(Part::Any),
        name => glob(name).map(Part::Name),
    });
    first.map(Ok).into_iter().chain(rest).collect()
}

fn glob(name: &str) -> Result<GlobMatcher, String> {
    let mut characters = name.chars().peekable();
    let mut in_brackets = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' if in_brackets => return Err("has a backslash within [ ], which means nothing there".into()),
            '\\' => drop(characters.next()),
            '{' | '}' => {
                return Err("has braces, which are no alternatives here: write two patterns, or \\{ for a brace".into());
            }
            '[' if characters.peek() == Some(&'!') => {
                return Err("has [!, which differs between tools: write [^ for \"none of these\"".into());
            }
            '[' => in_brackets = true,
            ']' => in_brackets = false,
            '\0' => return Err("holds a NUL, which no name does".into()),
            _ => {}
        }
    }
    let glob = GlobBuilder::new(name).backslash_escape(true).build();
    Ok(glob.map_err(|error| format!("is none: {}", error.kind()))?.compile_matcher())
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    use super::*;

    fn excludes(pattern: &str) -> Excludes {
        Excludes::new(&[pattern.to_owned()]).unwrap()
    }

    // What restic itself makes of the same patterns is compared with in `tests/integration/repository/excludes.rs`.
    #[test]
    fn patterns_are_anchored_by_a_slash_and_match_at_any_depth_without() {
        for (pattern, path, expected) in [
            ("cache", "cache", true),
            ("cache", "a/cache", true),
            ("cache", "caches", false),
            ("cache/", "a/cache", true),
            ("/cache", "cache", true),
            ("/cache", "a/cache", false),
            ("a/b", "x/a/b", true),
            ("a/b", "a/x/b", false),
            ("/a/**/b", "a/b", true),
            ("/a/**/b", "a/x/y/b", true),
            ("*.log", "a/.log", true),
            ("/*.log", "a/x.log", false),
            ("a*b", "a/b", false),
            ("a?b", "a/b", false),
            ("a[^x]b", "a/b", false),
            ("a[+-9]b", "a/b", false),
            ("a[+-9]b", "a.b", true),
            ("/**/b/**/d", "a/b/c/b/x/d", true),
            ("/**/b/**/d", "a/b/c/b/x/d/e", false),
            ("b/**", "a/b", true),
            ("/**", "a", true),
            ("[a-c]x", "bx", true),
            ("\\!x", "!x", true),
            ("\\{x\\}", "{x}", true),
            ("\\*", "a", false),
        ] {
            assert_eq!(excludes(pattern).leave_out(Path::new(path)), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn names_that_are_no_utf8_are_matched_byte_by_byte() {
        let path = |bytes: &'static [u8]| Path::new(OsStr::from_bytes(bytes));
        assert!(excludes("*.log").leave_out(path(b"a/\xff\xfe.log")));
        assert!(excludes("x?y").leave_out(path(b"x\xffy")));
        assert!(!excludes("x?y").leave_out(path(b"x\xff\xffy")));
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_the_reason() {
        for (pattern, why) in [
            ("", "slashes"),
            ("/", "slashes"),
            ("//a", "slashes"),
            ("a//b", "slashes"),
            ("./a", "slashes"),
            ("a/../b", "slashes"),
            ("!a", "take back"),
            ("*.{log,tmp}", "braces"),
            ("[!a]", "[^"),
            ("[a", "is none"),
            ("a\\", "is none"),
            ("[z-a]", "is none"),
            ("[\\]]", "backslash"),
            ("a\0", "NUL"),
        ] {
            let error = Excludes::new(&[pattern.to_owned()]).unwrap_err();
            assert!(error.contains(why), "{pattern:?}: {error}");
        }
        assert!(Excludes::new(&vec!["a".to_owned(); MAXIMUM_PATTERNS + 1]).is_err());
        assert!(Excludes::new(&["a".repeat(MAXIMUM_PATTERN_BYTES + 1)]).is_err());
    }
}
