//! Simple commands of a script: which ones may fail without a consequence for a dump, and what their arguments do.

use crate::pipefail::name_of;

/// Commands whose failure leaves no dump short. They set up the shell, print, wait or clean up; where they prepare
/// something that a later command needs, the later command fails itself. `cd` is not one of them, because a later `tar`
/// would store the wrong directory, and neither are `.` and `source`, which may select another database.
pub(super) const HARMLESS: &[&str] = &[
    ":", "[", "[[", "alias", "case", "chmod", "date", "disown", "echo", "for", "getopts", "hash", "jobs", "kill",
    "let", "logger", "mkdir", "printf", "pwd", "read", "rm", "rmdir", "select", "setopt", "shift", "shopt", "sleep",
    "sync", "test", "times", "touch", "true", "type", "ulimit", "umask", "unset", "which",
];
/// Builtins that assign variables, and succeed whatever a substitution in their arguments does.
pub(super) const ASSIGNING: &[&str] = &["declare", "export", "local", "readonly", "typeset"];
/// Programs that read a value for a variable. Without the value, the later command fails itself.
const READERS: &[&str] = &["basename", "cat", "dirname", "hostname", "id", "mktemp", "printenv", "uname", "whoami"];

/// Whether the argument reads the status of the command before it.
pub(super) fn has_status(argument: &str) -> bool {
    ["$?", "${?", "PIPESTATUS", "pipestatus"].iter().any(|status| argument.contains(status))
}

/// Whether the argument has the form of `NAME=value`.
pub(super) fn is_assignment(argument: &str) -> bool {
    let Some((name, _)) = argument.split_once('=') else { return false };
    let name = name.strip_suffix('+').unwrap_or(name);
    let name = name.split_once('[').map_or(name, |(name, _)| name);
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|character| character.is_ascii_alphanumeric() || character == '_')
}

/// Whether the argument contains the output of a command that matters.
pub(super) fn has_substitution(argument: &str) -> bool {
    let value = argument.split_once('=').map_or(argument, |(_, value)| value);
    if value.starts_with('\'') {
        return false;
    }
    let in_backquotes = value.split('`').skip(1).step_by(2);
    let in_parentheses = value.split("$(").skip(1).filter(|command| !command.starts_with('('));
    in_backquotes.chain(in_parentheses).any(|command| {
        let is_end = |character: char| character.is_whitespace() || ";|&<>()".contains(character);
        let name = name_of(command.trim_start().split(is_end).next().unwrap_or_default());
        !name.is_empty() && !HARMLESS.contains(&name) && !READERS.contains(&name)
    })
}
