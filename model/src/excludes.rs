//! Exclude patterns of a volume's backup, with the meaning of restic's `--exclude`. Names are bytes, and need not be
//! UTF-8.

use std::{ffi::OsStr, path::Path};

use globset::{GlobBuilder, GlobMatcher};

/// Maximum number of patterns.
pub const MAX_PATTERNS: usize = 64;
/// Maximum size of all patterns together. They are part of a run's task, which has a limit.
pub const MAX_PATTERN_BYTES: usize = 4096;

/// Parsed exclude patterns.
#[derive(Clone, Debug, Default)]
pub struct Excludes {
    texts: Vec<String>,
    patterns: Vec<Vec<Part>>,
}

/// The part of a pattern between two slashes.
#[derive(Clone, Debug)]
enum Part {
    /// `**`: any number of names.
    Any,
    /// A pattern for one name. Each name is matched by itself, because the library's brackets also match a slash.
    Name(GlobMatcher),
}

impl Excludes {
    /// Parses patterns. A pattern with a leading slash is matched from the root of the volume; any other pattern is
    /// matched against the end of a path, at any depth. `*`, `?` and `[a-z]` match within one name, and `**` alone
    /// matches any number of names.
    ///
    /// Errors: a sentence for users about the first invalid pattern.
    pub fn new(patterns: &[String]) -> Result<Self, String> {
        if patterns.len() > MAX_PATTERNS {
            return Err(format!("has more than {MAX_PATTERNS} patterns"));
        }
        if patterns.iter().map(String::len).sum::<usize>() > MAX_PATTERN_BYTES {
            return Err(format!("has patterns of more than {MAX_PATTERN_BYTES} bytes altogether"));
        }
        let read = |text: &String| parts(text).map_err(|why| format!("has the pattern {text:?}, which {why}"));
        Ok(Self { texts: patterns.to_vec(), patterns: patterns.iter().map(read).collect::<Result<_, _>>()? })
    }

    /// The patterns as they were written.
    pub fn patterns(&self) -> &[String] {
        &self.texts
    }

    /// Whether the entry at this path, relative to the root of the volume, is excluded. The caller does not query
    /// entries of an excluded directory.
    pub fn leave_out(&self, path: &Path) -> bool {
        if self.patterns.is_empty() {
            return false;
        }
        let names: Vec<&OsStr> = path.iter().collect();
        self.patterns.iter().any(|pattern| matches(pattern, &names))
    }
}

/// Whether the pattern matches exactly these names. Of several `**`, only the last must be retried.
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

/// Parses one pattern.
fn parts(pattern: &str) -> Result<Vec<Part>, String> {
    if pattern.starts_with('!') {
        // The order of the patterns would matter, and so would which entries of an excluded directory are included
        // again.
        return Err(
            "would include again what other patterns exclude, which is not supported; write \\! for a literal '!'"
                .into(),
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
            '\\' if in_brackets => return Err("has a backslash within [ ], where it has no meaning".into()),
            '\\' => drop(characters.next()),
            '{' | '}' => {
                return Err(
                    "has braces, which do not form alternatives here: write two patterns, or \\{ for a literal brace"
                        .into(),
                );
            }
            '[' if characters.peek() == Some(&'!') => {
                return Err("has [!, which differs between tools: write [^ for \"none of these\"".into());
            }
            '[' => in_brackets = true,
            ']' => in_brackets = false,
            '\0' => return Err("contains a NUL, which no name can contain".into()),
            _ => {}
        }
    }
    let glob = GlobBuilder::new(name).backslash_escape(true).build();
    Ok(glob.map_err(|error| format!("is invalid: {}", error.kind()))?.compile_matcher())
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    use super::*;

    fn excludes(pattern: &str) -> Excludes {
        Excludes::new(&[pattern.to_owned()]).unwrap()
    }

    // The results of restic itself for these patterns are compared in `tests/integration/repository/excludes.rs`.
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
    fn invalid_patterns_are_rejected_with_the_reason() {
        for (pattern, why) in [
            ("", "slashes"),
            ("/", "slashes"),
            ("//a", "slashes"),
            ("a//b", "slashes"),
            ("./a", "slashes"),
            ("a/../b", "slashes"),
            ("!a", "include again"),
            ("*.{log,tmp}", "braces"),
            ("[!a]", "[^"),
            ("[a", "is invalid"),
            ("a\\", "is invalid"),
            ("[z-a]", "is invalid"),
            ("[\\]]", "backslash"),
            ("a\0", "NUL"),
        ] {
            let error = Excludes::new(&[pattern.to_owned()]).unwrap_err();
            assert!(error.contains(why), "{pattern:?}: {error}");
        }
        assert!(Excludes::new(&vec!["a".to_owned(); MAX_PATTERNS + 1]).is_err());
        assert!(Excludes::new(&["a".repeat(MAX_PATTERN_BYTES + 1)]).is_err());
    }
}
