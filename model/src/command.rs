//! The warnings about a command line, for its author: failures which its exit status hides, and shell syntax which no
//! shell interprets.

use super::{LiteralSyntax, ShellScript};

/// The warnings, which contain no part of the command line but the program's name. `pipefail` states whether the option
/// is set where the container's shell has it.
pub fn command_warnings(argv: &[String], pipefail: bool, literal: Option<&LiteralSyntax>) -> Vec<String> {
    let mut warnings: Vec<String> = literal.map(ToString::to_string).into_iter().collect();
    let Some(script) = ShellScript::of(argv) else { return warnings };
    warnings.extend(script.unjudged().map(|unjudged| unjudged.to_string()));
    // The container's shell is not known here.
    if !pipefail || script.decides() {
        return warnings;
    }
    if script.has_pipe() {
        let warning = "has a pipe: a failure of each of its commands counts only where the container's shell has \
                       pipefail, as bash and busybox have; in another shell only the last command counts";
        warnings.push(warning.to_owned());
    } else if script.has_nested_pipe() {
        let warning = "has a pipe in a shell within the script, where pipefail is not set: only the pipe's last \
                       command is judged; begin that inner script with `set -o pipefail;`";
        warnings.push(warning.to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_warning_fits_into_one_of_the_api_server() {
        let argv = |script: &str| ["sh", "-c", script].map(str::to_owned);
        let key = "annotation k8up.io/backupcommand: ";
        for script in ["a; b", "a & b", "a | b", "su x -c 'a | b'", "a; b | c"] {
            let warnings = command_warnings(&argv(script), true, None);
            assert!(!warnings.is_empty() && warnings.iter().all(|one| one.len() + key.len() <= 256), "{warnings:?}");
        }
        assert_eq!(command_warnings(&argv("a"), true, None), Vec::<String>::new());
    }
}
