//! Finds the script of a command line such as `sh -c SCRIPT`, and adds the shell's option `pipefail` to it.
//!
//! Without that option, a pipe has the exit status of its last command: `pg_dump shop | gzip` succeeds although
//! `pg_dump` failed. Which shell a container has is not known here, so the script itself tries whether the shell
//! supports the option.

use super::script::{Unjudged, unjudged};

/// The line which the script writes to stderr if its shell does not support the option.
pub const PIPEFAIL_MISSING: &str =
    "stowaway: this shell has no pipefail: only the last command of a pipe is judged by its exit status";

/// Shells that accept a script with `-c`.
const SHELLS: [&str; 8] = ["sh", "bash", "ash", "dash", "ksh", "ksh93", "mksh", "zsh"];
/// Programs that run the program after their own options.
const WRAPPERS: [&str; 25] = [
    "busybox",
    "catatonit",
    "chpst",
    "chroot",
    "chrt",
    "doas",
    "dumb-init",
    "env",
    "flock",
    "gosu",
    "ionice",
    "nice",
    "nohup",
    "runuser",
    "setpriv",
    "setsid",
    "setuidgid",
    "stdbuf",
    "su-exec",
    "sudo",
    "taskset",
    "time",
    "timeout",
    "tini",
    "toybox",
];
/// Programs that run a script in the shell of a user.
const SWITCHERS: [&str; 2] = ["su", "runuser"];
/// The number of arguments of a wrapper that are tried as its program.
const MAX_CANDIDATES: usize = 8;
/// Options of shells that take the next argument.
const LONG_OPTIONS_WITH_VALUE: [&str; 2] = ["--rcfile", "--init-file"];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ShellScript<'a> {
    argv: &'a [String],
    /// The index of the first argument after the shell's name; the script's own index if the shell is not known.
    options: usize,
    /// The index of the script in the arguments.
    at: usize,
}

impl<'a> ShellScript<'a> {
    /// The script that a shell of the command line runs; none if no shell with `-c` is found.
    pub fn of(argv: &'a [String]) -> Option<Self> {
        let (options, at) = script_at(argv, 0)?;
        (at < argv.len()).then_some(Self { argv, options, at })
    }

    pub(super) fn text(&self) -> &'a str {
        &self.argv[self.at]
    }

    /// Whether an argument of the command line, by its index, is the script.
    pub fn is_at(&self, index: usize) -> bool {
        self.at == index
    }

    /// Whether the options of the shell set `errexit`.
    pub(super) fn has_errexit(&self) -> bool {
        errexit_after(self.argv[self.options..self.at].iter().map(String::as_str), false)
    }

    /// A command of the script whose failure does not fail the script; none if there is none, or if the script is not
    /// understood.
    pub fn unjudged(&self) -> Option<Unjudged> {
        unjudged(self)
    }

    /// Whether the command line sets or unsets the option itself, so that it must not be changed.
    pub fn decides(&self) -> bool {
        self.argv[..=self.at].iter().any(|argument| argument.contains("pipefail"))
    }

    /// Whether the script has a pipe outside of quotes. Some syntax, such as the patterns of `case`, may look like a
    /// pipe.
    pub fn has_pipe(&self) -> bool {
        pipes(self.text()).0
    }

    /// Whether a pipe is in quotes, and a shell within the script may run it. The option does not affect that shell.
    pub fn has_nested_pipe(&self) -> bool {
        let tokens: Vec<&str> = self.text().split([' ', '\t', '\n', '\'', '"', ';', '(', '&', '|']).collect();
        let is_shell = |token: &str| SHELLS.contains(&name_of(token)) || SWITCHERS.contains(&name_of(token));
        let shell = tokens.iter().position(|token| is_shell(token));
        let is_given = |from: usize| tokens[from..].iter().any(|token| is_cluster_with_c(token));
        pipes(self.text()).1 && shell.is_some_and(is_given)
    }

    /// The command line with a script that first sets the option if its shell supports it. Everything else stays the
    /// same: `$0`, the arguments, the options of the shell, and the line numbers, because the addition is put into the
    /// first line.
    pub fn with_pipefail(&self) -> Vec<String> {
        let otherwise = if self.has_pipe() { format!("echo '{PIPEFAIL_MISSING}' >&2") } else { ":".to_owned() };
        let mut argv = self.argv.to_vec();
        // A list with || never ends a shell with -e. The first try runs in a subshell, because in POSIX a shell exits
        // when a special builtin such as set fails.
        argv[self.at] = format!("(set -o pipefail) 2>/dev/null && set -o pipefail || {otherwise}; {}", self.text());
        argv
    }
}

/// The last part of a path.
pub(super) fn name_of(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// The index of the first option of the shell, and the index of the script, if the argument at `at` is the program.
fn script_at(argv: &[String], at: usize) -> Option<(usize, usize)> {
    let program = argv.get(at)?;
    if !WRAPPERS.contains(&name_of(program)) {
        return script_of(argv, at);
    }
    // Any argument may be the wrapped program. There is no recursion and a bound, because the author of a pod decides
    // how often a program runs itself, as in `runuser runuser runuser`.
    let is_candidate = |program: &usize| {
        let name = name_of(&argv[*program]);
        SHELLS.contains(&name) || SWITCHERS.contains(&name)
    };
    (at..argv.len()).filter(is_candidate).take(MAX_CANDIDATES).find_map(|program| script_of(argv, program))
}

/// The same if the argument at `program` is a shell, or runs the shell of a user.
fn script_of(argv: &[String], program: usize) -> Option<(usize, usize)> {
    let name = name_of(&argv[program]);
    let first = program + 1;
    if SHELLS.contains(&name) {
        return script_of_shell(argv, first).map(|at| (first, at));
    }
    let is_switcher = SWITCHERS.contains(&name);
    // The options of a switcher are not those of the shell.
    if is_switcher { script_of_switcher(argv, first).map(|at| (at, at)) } else { None }
}

/// The index after the options of a shell, if `-c` is one of them.
fn script_of_shell(argv: &[String], first: usize) -> Option<usize> {
    let mut at = first;
    let mut takes_script = false;
    while let Some(argument) = argv.get(at) {
        if matches!(argument.as_str(), "-" | "--") {
            at += 1;
            break;
        }
        if argument.starts_with("--") {
            at += 1 + usize::from(LONG_OPTIONS_WITH_VALUE.contains(&argument.as_str()));
            continue;
        }
        let Some(letters) = argument.strip_prefix(['-', '+']).filter(|letters| !letters.is_empty()) else { break };
        // A restricted shell may not redirect, which the addition to the script needs.
        if letters.contains('r') {
            return None;
        }
        takes_script |= argument.starts_with('-') && letters.contains('c');
        at += 1 + letters.matches(['o', 'O']).count();
    }
    takes_script.then_some(at)
}

/// The index after `-c` or `--command`. The user's shell is not known, unless the command line names it.
fn script_of_switcher(argv: &[String], first: usize) -> Option<usize> {
    let own: Vec<&str> = argv[first..].iter().map(String::as_str).take_while(|argument| *argument != "--").collect();
    let shell = own.iter().position(|argument| matches!(*argument, "-s" | "--shell")).and_then(|at| own.get(at + 1));
    if shell.is_some_and(|shell| !SHELLS.contains(&name_of(shell))) {
        return None;
    }
    let at = own.iter().position(|argument| *argument == "--command" || is_cluster_with_c(argument))?;
    Some(first + at + 1)
}

/// Whether the argument is a group of option letters with `c`, such as `-c` and `-lc`.
fn is_cluster_with_c(argument: &str) -> bool {
    argument.strip_prefix('-').is_some_and(|letters| {
        letters.contains('c') && letters.len() <= 6 && letters.bytes().all(|letter| letter.is_ascii_lowercase())
    })
}

/// Whether `errexit` is set after these arguments of a shell or of `set`.
pub(super) fn errexit_after<'a>(mut arguments: impl Iterator<Item = &'a str>, before: bool) -> bool {
    let mut is_set = before;
    while let Some(argument) = arguments.next() {
        let Some(letters) = argument.strip_prefix(['-', '+']) else { continue };
        if argument == "--" {
            break;
        }
        if letters.starts_with('-') {
            continue;
        }
        let has_name = letters.contains('o');
        if letters.contains('e') || has_name && arguments.next() == Some("errexit") {
            is_set = argument.starts_with('-');
        }
    }
    is_set
}

/// Whether there is a pipe outside of quotes, and whether there is a pipe within quotes.
fn pipes(script: &str) -> (bool, bool) {
    let (mut outside, mut within) = (false, false);
    let mut quote: Option<char> = None;
    let mut before = '\n';
    let mut characters = script.chars().peekable();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None | Some('"'), '\\') => drop(characters.next()),
            (Some(open), _) if character == open => quote = None,
            (Some(_), character) => within |= character == '|',
            (None, '\'' | '"') => quote = Some(character),
            (None, '#') if before.is_whitespace() || matches!(before, ';' | '(' | '&') => {
                while characters.next_if(|character| *character != '\n').is_some() {}
            }
            (None, '|') if characters.next_if_eq(&'|').is_none() && before != '>' => outside = true,
            (None, _) => {}
        }
        before = character;
    }
    (outside, within)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arguments(arguments: &[&str]) -> Vec<String> {
        arguments.iter().map(|argument| (*argument).to_owned()).collect()
    }

    fn script(line: &[&str]) -> Option<usize> {
        ShellScript::of(&arguments(line)).map(|script| script.at)
    }

    #[test]
    fn script_of_a_shell_is_found_at_any_position() {
        for (line, at) in [
            (&["sh", "-c", "x"][..], 2),
            (&["/bin/bash", "-ec", "x", "name", "argument"], 2),
            (&["bash", "-o", "errexit", "-c", "x"], 4),
            (&["bash", "-euo", "posix", "-c", "x"], 4),
            (&["bash", "-c", "-e", "x"], 3),
            (&["bash", "--norc", "--rcfile", "/f", "-lc", "--", "x"], 6),
            (&["dash", "-c", "--", "x"], 3),
            (&["zsh", "+e", "-c", "x"], 3),
            (&["/usr/bin/env", "sh", "-c", "x"], 3),
            (&["env", "-i", "A=b", "/bin/sh", "-c", "x"], 5),
            (&["busybox", "sh", "-c", "x"], 3),
            (&["timeout", "60", "nice", "-n", "5", "busybox", "ash", "-c", "x"], 8),
            (&["gosu", "postgres", "bash", "-c", "x"], 4),
            (&["sudo", "-u", "postgres", "--", "sh", "-c", "x"], 6),
            (&["su", "postgres", "-c", "x"], 3),
            (&["su", "-", "postgres", "-s", "/bin/sh", "-c", "x"], 6),
            (&["runuser", "-l", "postgres", "-c", "x"], 4),
            (&["runuser", "-u", "postgres", "--", "sh", "-c", "x"], 6),
            (&["sudo", "su", "postgres", "--command", "x"], 4),
        ] {
            assert_eq!(script(line), Some(at), "{line:?}");
        }
    }

    #[test]
    fn other_command_lines_have_no_script() {
        for line in [
            &["pg_dump", "-c", "x"][..],
            &["echo", "sh", "-c", "x"],
            &["sh", "/backup.sh", "-c", "x"],
            &["sh", "-c"],
            &["sh"],
            &["bash", "-rc", "x"],
            &["su", "postgres"],
            &["su", "-s", "/usr/bin/fish", "postgres", "-c", "x"],
            &["env", "A=b", "pg_dump"],
            &[],
        ] {
            assert_eq!(script(line), None, "{line:?}");
        }
    }

    #[test]
    fn program_that_runs_itself_many_times_is_searched_in_short_time() {
        // Both would never end in exponential time, and take minutes in quadratic time.
        for program in ["runuser", "su", "sh", "env"] {
            assert_eq!(script(&[&["sudo"][..], &vec![program; 500_000]].concat()), None, "{program}");
        }
        assert_eq!(script(&[&vec!["runuser"; 2000][..], &["sh", "-c", "x"]].concat()), Some(2002));
    }

    #[test]
    fn errexit_is_found_in_the_options_of_the_shell() {
        for (line, is_set) in [
            (&["sh", "-ec", "x"][..], true),
            (&["sh", "-c", "-e", "x"], true),
            (&["bash", "-euo", "pipefail", "-c", "x"], true),
            (&["bash", "-o", "errexit", "-c", "x"], true),
            (&["timeout", "-e", "5", "sh", "-c", "x"], false),
            (&["sh", "-e", "+e", "-c", "x"], false),
            (&["bash", "--rcfile", "errexit", "-c", "x"], false),
            (&["bash", "-o", "posix", "-c", "x"], false),
            (&["su", "postgres", "-c", "x"], false),
            (&["sh", "-c", "x", "-e"], false),
        ] {
            assert_eq!(ShellScript::of(&arguments(line)).unwrap().has_errexit(), is_set, "{line:?}");
        }
    }

    #[test]
    fn pipes_are_distinguished_from_similar_text() {
        for (text, expected) in [
            ("pg_dump | gzip", (true, false)),
            ("pg_dump|gzip", (true, false)),
            ("a |& b", (true, false)),
            ("a || b", (false, false)),
            ("a || b | c", (true, false)),
            ("a '|' b", (false, true)),
            ("a \"x|y\" \\| b", (false, true)),
            ("a \"\\\"|\" b", (false, true)),
            ("a # b | c", (false, false)),
            ("a#b | c", (true, false)),
            ("a # b | c\nd | e", (true, false)),
            ("a >| b", (false, false)),
            ("", (false, false)),
            ("it's | not", (false, true)),
        ] {
            assert_eq!(pipes(text), expected, "{text:?}");
        }
    }

    #[test]
    fn pipe_of_a_shell_within_the_script_is_nested() {
        for (text, is_nested) in [
            ("su postgres -c 'pg_dump | gzip'", true),
            ("exec sh -ec \"a | b\"", true),
            ("grep 'a|b' -c", false),
            ("sh -c 'a; b'", false),
        ] {
            let argv = arguments(&["sh", "-c", text]);
            assert_eq!(ShellScript::of(&argv).unwrap().has_nested_pipe(), is_nested, "{text:?}");
        }
    }

    #[test]
    fn command_line_that_sets_the_option_itself_is_recognized() {
        for line in [
            &["bash", "-o", "pipefail", "-c", "x"][..],
            &["bash", "-c", "set -euo pipefail; x"],
            &["bash", "-c", "set +o pipefail; x"],
        ] {
            assert!(ShellScript::of(&arguments(line)).unwrap().decides(), "{line:?}");
        }
        // An argument is no part of the script.
        assert!(!ShellScript::of(&arguments(&["sh", "-c", "x", "pipefail"])).unwrap().decides());
    }

    proptest! {
        #[test]
        fn nothing_but_the_beginning_of_the_script_changes(
            line in proptest::collection::vec("(sh|bash|env|su|-c|-e|--|[a|'\"# \\\\\n]{0,6})", 0..6)
        ) {
            if let Some(script) = ShellScript::of(&line) {
                let changed = script.with_pipefail();
                prop_assert_eq!(changed.len(), line.len());
                for (at, (new, old)) in changed.iter().zip(&line).enumerate() {
                    let is_kept = if at == script.at { new.ends_with(old.as_str()) } else { new == old };
                    prop_assert!(is_kept);
                }
                let added = &changed[script.at][..changed[script.at].len() - line[script.at].len()];
                prop_assert!(!added.contains('\n'));
            }
        }
    }
}
