//! Shell syntax in a command line which no shell interprets, so that the program receives it as text. A program that
//! ignores such an argument succeeds: `cat x | gzip` stores `x` as it is.
//!
//! The syntax is searched for a warning, so an argument that may be meant as written has no finding. An author states
//! that by quotes.

use std::fmt;

use super::{ShellScript, pipefail::name_of};

/// The quoting of an argument.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Quoting {
    /// Without quotes.
    Bare,
    /// In single quotes, in which a shell would change nothing.
    Single,
    /// In double quotes, in which a shell would replace variables.
    Double,
    /// As an element of a list.
    Element,
}

/// Options of `find` whose command ends with `;`.
const COMMANDS_OF_FIND: [&str; 4] = ["-exec", "-execdir", "-ok", "-okdir"];
/// The longest name of a program that a message shows.
const MAX_NAME: usize = 20;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Syntax {
    /// An operator, for example a pipe or a redirection.
    Operator(&'static str),
    Variable,
    Substitution,
    Backquote,
    Home,
    LineFeed,
    /// A quote after an equals sign, as in `--name='value'`.
    InnerQuote,
}

/// The first syntax of a command line that a shell would interpret, and that its program receives as it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LiteralSyntax {
    syntax: Syntax,
    /// The program's name; empty if it may contain something else.
    program: String,
    /// Whether the argument follows the script of a shell.
    is_after_script: bool,
    /// Whether the author can quote the argument.
    can_be_quoted: bool,
}

impl LiteralSyntax {
    /// The syntax in the arguments; none if there is none. An argument without a quoting is an element of a list.
    pub fn of(argv: &[String], quoting: &[Quoting]) -> Option<Self> {
        let program = name_of(argv.first()?);
        if program == "ssh" {
            // It passes its arguments to a shell.
            return None;
        }
        let script = ShellScript::of(argv);
        let mut in_find = false;
        let mut after_script = false;
        for (index, argument) in argv.iter().enumerate() {
            let quoting = quoting.get(index).copied().unwrap_or(Quoting::Element);
            in_find |= COMMANDS_OF_FIND.contains(&argument.as_str());
            if script.is_some_and(|script| script.is_at(index)) {
                after_script = true;
                continue;
            }
            let (before, next) = (index.checked_sub(1).map(|before| argv[before].as_str()), argv.get(index + 1));
            let found = match quoting {
                Quoting::Single => None,
                Quoting::Double => alone(argument),
                Quoting::Element => alone(argument)
                    .or_else(|| operator_of_list(argument, before?, next.map(String::as_str)).map(Syntax::Operator)),
                Quoting::Bare => bare(argument, next.is_none() || in_find),
            };
            if let Some(syntax) = found {
                let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
                let is_shown = program.len() <= MAX_NAME && program.bytes().all(is_plain);
                return Some(Self {
                    syntax,
                    program: if is_shown { program.to_owned() } else { String::new() },
                    is_after_script: after_script,
                    can_be_quoted: quoting != Quoting::Element,
                });
            }
        }
        None
    }
}

impl fmt::Display for LiteralSyntax {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.syntax {
            Syntax::Operator(operator) => write!(formatter, "`{operator}`")?,
            Syntax::Variable => formatter.write_str("a variable such as `$NAME`")?,
            Syntax::Substitution => {
                formatter.write_str("`$(...)`, which Kubernetes does not replace here either,")?;
            }
            Syntax::Backquote => formatter.write_str("a command in backquotes")?,
            Syntax::Home => formatter.write_str("`~`")?,
            Syntax::LineFeed => formatter.write_str("a line feed")?,
            Syntax::InnerQuote => formatter.write_str("a quote within an argument")?,
        }
        let program = if self.program.is_empty() { "the program" } else { &self.program };
        write!(formatter, " is passed to {program} as text, because ")?;
        formatter.write_str(match (self.is_after_script, self.syntax) {
            (true, _) => "it is not part of the script: write the whole script as one quoted argument",
            (false, Syntax::InnerQuote) => "a quote counts only where an argument begins: write '--name=value'",
            (false, _) => "the command runs without a shell: write `sh -c '...'`",
        })?;
        let needs_no_quote = !self.can_be_quoted || self.syntax == Syntax::InnerQuote;
        formatter.write_str(if needs_no_quote {
            ""
        } else {
            ", or put the argument into single quotes if it is meant so"
        })
    }
}

/// The syntax of an argument without quotes. `may_end` states whether a `;` at its end may be meant as written.
fn bare(argument: &str, may_end: bool) -> Option<Syntax> {
    let operator = match argument {
        "|" | "|&" => Some("|"),
        "||" => Some("||"),
        "&&" => Some("&&"),
        "&" => Some("&"),
        ">=" | "<=" | "<>" => None,
        _ if argument.ends_with(';') && !may_end => Some(";"),
        _ => redirection(argument),
    };
    if let Some(operator) = operator {
        return Some(Syntax::Operator(operator));
    }
    if argument.contains('\n') && !argument.trim().is_empty() {
        return Some(Syntax::LineFeed);
    }
    if argument.contains("$(") {
        return Some(Syntax::Substitution);
    }
    if argument.contains('`') {
        return Some(Syntax::Backquote);
    }
    let names = argument.split('$').skip(1);
    if names.clone().any(is_name_of_environment) || alone(argument).is_some() {
        return Some(Syntax::Variable);
    }
    if argument == "~" || argument.starts_with("~/") {
        return Some(Syntax::Home);
    }
    let (name, value) = argument.split_once('=')?;
    let is_option = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    (is_option && value.starts_with(['\'', '"'])).then_some(Syntax::InnerQuote)
}

/// The redirection that the argument begins with, such as `2>&1`.
fn redirection(argument: &str) -> Option<&'static str> {
    let after = argument.trim_start_matches(|digit: char| digit.is_ascii_digit());
    if after.starts_with('>') || after.starts_with("&>") {
        Some(">")
    } else if after.starts_with('<') && !after.contains('>') {
        Some("<")
    } else {
        None
    }
}

/// Whether the text after a `$` begins with `{NAME`, or with a name as variables of the environment have. Other names
/// may be part of a password or of an operator such as MongoDB's `$gt`.
fn is_name_of_environment(text: &str) -> bool {
    let inner = text.strip_prefix('{').unwrap_or(text);
    let is_begin = |character: char| character.is_ascii_alphabetic() || character == '_';
    if inner.len() < text.len() {
        return inner.starts_with(is_begin);
    }
    let end = inner.find(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    let name = &inner[..end.unwrap_or(inner.len())];
    name.len() >= 2 && name.starts_with(is_begin) && !name.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// The syntax of an argument which is nothing but a variable or a substitution.
fn alone(argument: &str) -> Option<Syntax> {
    let after = argument.strip_prefix('$')?;
    if after.starts_with('(') && after.ends_with(')') {
        return Some(Syntax::Substitution);
    }
    let name = after.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).unwrap_or(after);
    let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then_some(Syntax::Variable)
}

/// The operator that an element of a list is. A separator such as that of `cut -d '|' -f 1` follows an option and
/// precedes another, and is no operator.
fn operator_of_list(element: &str, before: &str, next: Option<&str>) -> Option<&'static str> {
    let is_short_option = before.len() == 2 && before.starts_with('-');
    let takes_text = is_short_option || before.contains("separator") || before.contains("delimiter");
    let is_program = |text: &str| {
        text.starts_with(|first: char| first.is_ascii_alphabetic() || matches!(first, '/' | '_'))
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte))
    };
    match element {
        "2>&1" | "2>/dev/null" | ">/dev/null" => Some(">"),
        _ if takes_text || !next.is_some_and(is_program) => None,
        "|" => Some("|"),
        "||" => Some("||"),
        "&&" => Some("&&"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(argv: &[&str], quoting: Quoting) -> Option<LiteralSyntax> {
        let argv: Vec<String> = argv.iter().map(|argument| (*argument).to_owned()).collect();
        LiteralSyntax::of(&argv, &vec![quoting; argv.len()])
    }

    fn syntax(argv: &[&str], quoting: Quoting) -> Option<Syntax> {
        found(argv, quoting).map(|found| found.syntax)
    }

    #[test]
    fn shell_syntax_without_quotes_is_found() {
        for (line, expected) in [
            ("pg_dump shop | gzip", Syntax::Operator("|")),
            ("cat a || true", Syntax::Operator("||")),
            ("cat a && cat b", Syntax::Operator("&&")),
            ("cat a & cat b", Syntax::Operator("&")),
            ("cat a ; cat b", Syntax::Operator(";")),
            ("cat a; cat b", Syntax::Operator(";")),
            ("cat a > b", Syntax::Operator(">")),
            ("cat a >b", Syntax::Operator(">")),
            ("cat a 2>/dev/null", Syntax::Operator(">")),
            ("cat a 2>&1", Syntax::Operator(">")),
            ("psql < a", Syntax::Operator("<")),
            ("psql <<EOF", Syntax::Operator("<")),
            ("sh -c pg_dump | gzip", Syntax::Operator("|")),
            ("echo $HOME", Syntax::Variable),
            ("echo $db", Syntax::Variable),
            ("mysqldump -p$MYSQL_PASSWORD", Syntax::Variable),
            ("mysqldump --password=${password}", Syntax::Variable),
            ("pg_dump postgres://$PGUSER:$PGPASSWORD@host/shop", Syntax::Variable),
            ("sh -c echo $HOME", Syntax::Variable),
            ("env A=$HOME pg_dump", Syntax::Variable),
            ("echo $(date)", Syntax::Substitution),
            ("echo `date`", Syntax::Backquote),
            ("mysqldump -p$(PASSWORD)", Syntax::Substitution),
            ("cat ~/x", Syntax::Home),
            ("cat ~", Syntax::Home),
            ("cat a\ncat b", Syntax::LineFeed),
            ("tar c --exclude='a' .", Syntax::InnerQuote),
            ("tar c --exclude=\"a\" .", Syntax::InnerQuote),
        ] {
            let argv: Vec<&str> = line.split(' ').collect();
            assert_eq!(syntax(&argv, Quoting::Bare), Some(expected), "{line}");
            assert_eq!(syntax(&argv, Quoting::Single), None, "{line}");
        }
    }

    #[test]
    fn text_that_a_program_may_expect_is_not_reported() {
        for line in [
            "pg_dump --exclude-table=a|b shop",
            "curl http://host/x?a=1&b=2",
            "find /data -exec cat {} ;",
            "find /data -exec cat {} ; -exec rm {} ;",
            "psql -c x;",
            "tar c /data/a~ b~1",
            "mongoexport --query {\"a\":{$gt:5}}",
            "mysqldump -pSe$cret -pa$1 $1",
            "mysqldump --where id>=5",
            "expr a >= b",
            "awk $1",
            "sh -c a|b",
            "sh -c $SCRIPT",
            "sh -c date \n",
            "ssh host pg_dump | gzip",
            "pg_dump it's",
        ] {
            let argv: Vec<&str> = line.split(' ').collect();
            assert_eq!(syntax(&argv, Quoting::Bare), None, "{line}");
        }
    }

    #[test]
    fn quoted_arguments_and_lists_have_only_what_cannot_be_meant_so() {
        for (argv, expected) in [
            (&["pg_dump", "shop", "|", "gzip"][..], Some(Syntax::Operator("|"))),
            (&["pg_dump", "a", "&&", "pg_dump", "b"], Some(Syntax::Operator("&&"))),
            (&["pg_dump", "a", "2>&1"], Some(Syntax::Operator(">"))),
            (&["echo", "$HOME"], Some(Syntax::Variable)),
            (&["echo", "$(HOME)"], Some(Syntax::Substitution)),
            (&["sh", "-c", "$HOME | x"], None),
            (&["sh", "-c", "echo \"$1\"", "sh", "$HOME"], Some(Syntax::Variable)),
            (&["sort", "-t", "|", "file"], None),
            (&["cut", "--delimiter", "|", "file"], None),
            (&["grep", "a|b", "file"], None),
            (&["grep", "|", "-r"], None),
            (&["find", ".", "-exec", "cat", "{}", ";"], None),
            (&["mysqldump", "-pa$HOME", "~"], None),
        ] {
            assert_eq!(syntax(argv, Quoting::Element), expected, "{argv:?}");
        }
        assert_eq!(syntax(&["mysqldump", "a", "|", "b"], Quoting::Double), None);
        assert_eq!(syntax(&["mysqldump", "$PASSWORD"], Quoting::Double), Some(Syntax::Variable));
    }

    #[test]
    fn message_names_what_to_write_and_no_password() {
        for (line, parts) in [
            ("pg_dump shop | gzip", ["`|` is passed to pg_dump as text", "sh -c '...'", "single quotes"]),
            ("sh -c pg_dump | gzip", ["`|` is passed to sh as text", "not part of the script", "one quoted argument"]),
            ("PASSWORD=hush pg_dump | gzip", ["the program", "sh -c", "single quotes"]),
            ("mysqldump -phush$HUSH", ["`$NAME`", "mysqldump", "sh -c"]),
            ("mysqldump -p$(HUSH)", ["`$(...)`", "Kubernetes does not", "sh -c"]),
            ("tar c --exclude='hush'", ["a quote within an argument", "tar", "'--name=value'"]),
        ] {
            let argv: Vec<&str> = line.split(' ').collect();
            let message = found(&argv, Quoting::Bare).unwrap().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
            assert!(!message.to_lowercase().contains("hush"), "{message}");
            assert!(message.len() + "annotation k8up.io/backupcommand: ".len() <= 256, "{message}");
        }
        let of_list = found(&["pg_dump", "a", "|", "gzip"], Quoting::Element).unwrap().to_string();
        assert!(of_list.ends_with("write `sh -c '...'`"), "{of_list}");
    }

    proptest! {
        #[test]
        fn any_arguments_are_examined(argv in proptest::collection::vec("[a$({|>&;~'\"=é\n2]{0,6}", 0..6)) {
            for quoting in [Quoting::Bare, Quoting::Double, Quoting::Element] {
                let _ = LiteralSyntax::of(&argv, &vec![quoting; argv.len()]);
            }
        }
    }
}
