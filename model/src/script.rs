//! Finds the commands of a shell script whose failure does not fail the script.
//!
//! A shell without `errexit` continues after a failed command, and its exit status is that of its last command, so
//! `pg_dump a; pg_dump b` succeeds although the first `pg_dump` failed. This judgement is for a warning, so it prefers
//! silence to a false alarm: a script that is not understood has no finding, and the author's own treatment of a status
//! counts, which is `||`, the condition of an `if` or a loop, `$?`, and `wait` with a process. Not examined are command
//! substitutions, and the commands before `&&` with `errexit`, whose failures a shell ignores.
//!
//! A general parser of shells is not used, because the author of a pod decides the script: the known ones recurse, so
//! that a deeply nested script would end the webhook.

mod lexer;
mod list;
mod simple;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt};

use self::{
    lexer::{Lexer, Token, Unclear, unquoted},
    list::{List, Status},
    simple::{ASSIGNING, HARMLESS, has_status, has_substitution, is_assignment},
};
use super::pipefail::{ShellScript, errexit_after, name_of};

/// The number of shells within shells that are examined.
const DEPTH: usize = 3;

/// A command whose failure does not fail its script.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unjudged {
    /// Other commands follow it.
    Earlier,
    /// It runs in the background, and nothing waits for it.
    Background,
}

impl fmt::Display for Unjudged {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Earlier => {
                "only the last command of the script is judged by its exit status: begin the script with `set -e;`, \
                 join its commands with `&&`, or add `|| true` to those that may fail"
            }
            Self::Background => {
                "the script runs a command with `&` and does not collect its exit status: remove the `&`, or end the \
                 script with `wait $!`"
            }
        })
    }
}

/// The first kind of unjudged commands that the script has.
pub(super) fn unjudged(script: &ShellScript<'_>) -> Option<Unjudged> {
    let found = examine(script, DEPTH);
    found.earlier.then_some(Unjudged::Earlier).or(found.background.then_some(Unjudged::Background))
}

#[derive(Clone, Copy, Default)]
struct Found {
    earlier: bool,
    background: bool,
}

fn examine(script: &ShellScript<'_>, depth: usize) -> Found {
    Examination::new(script, depth).run().unwrap_or_default()
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Script,
    Group,
    Subshell {
        /// Whether `errexit` is set outside of it.
        errexit: bool,
    },
    If,
    Loop,
    Case,
}

/// A compound command that is not closed yet.
struct Frame<'a> {
    kind: Kind,
    /// The function whose body it is.
    function: Option<&'a str>,
    list: List,
    /// The status of the branches that have ended.
    branches: Status,
    /// Whether a pattern of `case` is read.
    in_pattern: bool,
}

impl<'a> Frame<'a> {
    fn new(kind: Kind, function: Option<&'a str>) -> Self {
        Self { kind, function, list: List::default(), branches: Status::default(), in_pattern: false }
    }
}

/// The commands in the background.
#[derive(Default)]
struct Background {
    /// Whether one of them is relevant.
    is_relevant: bool,
    /// Whether the script waits for a process.
    is_awaited: bool,
}

struct Examination<'a> {
    text: &'a str,
    lexer: Lexer<'a>,
    depth: usize,
    /// The compound commands around the present one, except the innermost.
    outer: Vec<Frame<'a>>,
    frame: Frame<'a>,
    /// The arguments of the present command, as written.
    arguments: Vec<&'a str>,
    is_redirected: bool,
    /// The status of the compound command that has just been closed.
    closed: Option<Status>,
    /// The status of the list that has ended. It is lost if another command follows.
    last: Status,
    errexit: bool,
    /// The name of the function whose body follows.
    next_function: Option<&'a str>,
    /// The functions around the present command.
    functions: Vec<&'a str>,
    /// Functions that call `exit`.
    leaving: BTreeSet<&'a str>,
    /// Functions that a trap calls.
    trapped: BTreeSet<&'a str>,
    /// The functions that lose a status; none for the script itself.
    losing: BTreeSet<Option<&'a str>>,
    background: Background,
    /// The findings in shells within the script.
    nested: Found,
}

impl<'a> Examination<'a> {
    fn new(script: &ShellScript<'a>, depth: usize) -> Self {
        Self {
            text: script.text(),
            lexer: Lexer::new(script.text()),
            depth,
            outer: Vec::new(),
            frame: Frame::new(Kind::Script, None),
            arguments: Vec::new(),
            is_redirected: false,
            closed: None,
            last: Status::default(),
            errexit: script.has_errexit(),
            next_function: None,
            functions: Vec::new(),
            leaving: BTreeSet::new(),
            trapped: BTreeSet::new(),
            losing: BTreeSet::new(),
            background: Background::default(),
            nested: Found::default(),
        }
    }

    fn run(mut self) -> Result<Found, Unclear> {
        while let Some(token) = self.lexer.next_token()? {
            match token {
                Token::Argument(argument) => self.argument(argument)?,
                Token::Redirection => self.is_redirected |= self.closed.is_none(),
                Token::Operator(operator) => self.operator(operator)?,
            }
        }
        self.end_list(false)?;
        if self.frame.kind != Kind::Script {
            return Err(Unclear);
        }
        let is_lost = |function: Option<&str>| function.is_none_or(|name| !self.trapped.contains(name));
        let is_collected = self.background.is_awaited || self.text.contains("$!");
        Ok(Found {
            earlier: self.nested.earlier || self.losing.iter().copied().any(is_lost),
            background: self.nested.background || self.background.is_relevant && !is_collected,
        })
    }

    fn argument(&mut self, argument: &'a str) -> Result<(), Unclear> {
        if self.frame.in_pattern {
            return if argument == "esac" { self.close(Kind::Case) } else { Ok(()) };
        }
        if !self.arguments.is_empty() || self.is_redirected {
            self.further_argument(argument);
            return Ok(());
        }
        match argument {
            "then" => self.next_part(Kind::If, false),
            "elif" | "else" => self.next_part(Kind::If, true),
            "fi" => self.close(Kind::If),
            "do" => self.next_part(Kind::Loop, false),
            "done" => self.close(Kind::Loop),
            "}" => self.close(Kind::Group),
            "esac" => self.close(Kind::Case),
            _ if self.closed.is_some() => Err(Unclear),
            "{" | "if" | "while" | "until" => {
                self.open(match argument {
                    "{" => Kind::Group,
                    "if" => Kind::If,
                    _ => Kind::Loop,
                });
                Ok(())
            }
            "for" | "select" | "case" => {
                self.open(if argument == "case" { Kind::Case } else { Kind::Loop });
                self.arguments.push(argument);
                Ok(())
            }
            "coproc" => Err(Unclear),
            // The body of a function is a compound command.
            _ if self.next_function.is_some() => Err(Unclear),
            "!" | "time" => Ok(()),
            "[[" => self.test(),
            _ => {
                self.arguments.push(argument);
                Ok(())
            }
        }
    }

    fn further_argument(&mut self, argument: &'a str) {
        match (&self.arguments[..], argument) {
            (["function"], name) => self.begin_function(name),
            (["case", _], "in") => {
                self.end_command();
                self.frame.in_pattern = true;
            }
            (["for" | "select", _], "do") => drop(self.end_command()),
            _ => self.arguments.push(argument),
        }
    }

    /// Reads `[[ ... ]]`, in which operators of the shell have another meaning.
    fn test(&mut self) -> Result<(), Unclear> {
        self.arguments.push("[[");
        loop {
            match self.lexer.next_token()?.ok_or(Unclear)? {
                Token::Argument("]]") => return Ok(()),
                Token::Argument(argument) => self.arguments.push(argument),
                Token::Redirection | Token::Operator(_) => {}
            }
        }
    }

    fn operator(&mut self, operator: &'a str) -> Result<(), Unclear> {
        if self.frame.in_pattern {
            self.frame.in_pattern = operator != ")";
            return if matches!(operator, "(" | ")" | "|" | "\n") { Ok(()) } else { Err(Unclear) };
        }
        match operator {
            "(" if self.next_function.is_some() && self.lexer.take(b')') => Ok(()),
            "(" => match self.arguments[..] {
                [] if self.closed.is_none() && !self.is_redirected => {
                    self.open(Kind::Subshell { errexit: self.errexit });
                    Ok(())
                }
                [name] if self.lexer.take(b')') => {
                    self.begin_function(name);
                    Ok(())
                }
                _ => Err(Unclear),
            },
            ")" => match self.frame.kind {
                kind @ Kind::Subshell { .. } => self.close(kind),
                _ => Err(Unclear),
            },
            "|" | "|&" => {
                let status = self.end_command().ok_or(Unclear)?;
                let list = &mut self.frame.list;
                list.pipeline = Some(list.pipeline.unwrap_or_default().or(status));
                list.is_open = true;
                Ok(())
            }
            "&&" | "||" => {
                let status = self.end_command().ok_or(Unclear)?;
                let list = &mut self.frame.list;
                list.end_pipeline(status);
                list.is_alternative = operator == "||";
                list.is_open = true;
                Ok(())
            }
            "\n" => {
                let is_continued =
                    self.is_empty() && self.frame.list.is_open || matches!(self.arguments[..], ["case", _]);
                if is_continued { Ok(()) } else { self.end_list(false) }
            }
            ";" | "&" => self.end_list(operator == "&"),
            // The end of a branch of `case`.
            _ => {
                self.next_part(Kind::Case, true)?;
                self.frame.in_pattern = true;
                Ok(())
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.arguments.is_empty() && !self.is_redirected && self.closed.is_none()
    }

    fn open(&mut self, kind: Kind) {
        let function = self.next_function.take();
        self.functions.extend(function);
        self.outer.push(std::mem::replace(&mut self.frame, Frame::new(kind, function)));
    }

    /// Ends a part of a compound command. A branch may be the last part that runs; the status of a condition is
    /// examined by the command itself.
    fn next_part(&mut self, kind: Kind, is_branch: bool) -> Result<(), Unclear> {
        self.end_list(false)?;
        if self.frame.kind != kind {
            return Err(Unclear);
        }
        let status = std::mem::take(&mut self.last);
        if is_branch {
            self.frame.branches = self.frame.branches.or(status);
        }
        Ok(())
    }

    fn close(&mut self, kind: Kind) -> Result<(), Unclear> {
        self.end_list(false)?;
        let outer = self.outer.pop().filter(|_| self.frame.kind == kind).ok_or(Unclear)?;
        let frame = std::mem::replace(&mut self.frame, outer);
        let last = std::mem::take(&mut self.last);
        let status = match kind {
            Kind::Script | Kind::Group => last,
            Kind::Subshell { errexit } => {
                // Its `exit` and its own `errexit` only end the subshell.
                let ends_only_itself = last == Status::Leaving || self.errexit && !errexit;
                self.errexit = errexit;
                if ends_only_itself { Status::Relevant } else { last }
            }
            Kind::If | Kind::Case => frame.branches.or(last),
            Kind::Loop => {
                // Other iterations may follow.
                if last == Status::Relevant {
                    self.lose();
                }
                Status::Harmless
            }
        };
        if frame.function.is_some() {
            self.functions.pop();
        }
        // The definition of a function runs nothing.
        self.closed = Some(if frame.function.is_some() { Status::Harmless } else { status });
        Ok(())
    }

    fn begin_function(&mut self, name: &'a str) {
        self.follow();
        self.arguments.clear();
        self.next_function = Some(name);
    }

    /// Another command follows the last list.
    fn follow(&mut self) {
        if std::mem::take(&mut self.last) == Status::Relevant {
            self.lose();
        }
    }

    fn lose(&mut self) {
        self.losing.insert(self.functions.first().copied());
    }

    fn end_list(&mut self, in_background: bool) -> Result<(), Unclear> {
        let Some(status) = self.end_command() else {
            return if self.frame.list.is_open { Err(Unclear) } else { Ok(()) };
        };
        let mut list = std::mem::take(&mut self.frame.list);
        let status = list.end_pipeline(status);
        self.last = match (list.is_relevant, status) {
            _ if in_background => {
                self.background.is_relevant |= list.is_relevant;
                Status::Harmless
            }
            (true, _) if !self.errexit => Status::Relevant,
            (false, Status::Leaving) => Status::Leaving,
            _ => Status::Harmless,
        };
        Ok(())
    }

    /// The status of the command that has ended; none if there is no command.
    fn end_command(&mut self) -> Option<Status> {
        if self.is_empty() {
            return None;
        }
        self.is_redirected = false;
        self.frame.list.is_open = false;
        let closed = self.closed.take();
        closed.or_else(|| {
            let arguments = std::mem::take(&mut self.arguments);
            Some(self.simple(&arguments))
        })
    }

    /// The status of a command which is not compound.
    fn simple(&mut self, arguments: &[&'a str]) -> Status {
        let begin = arguments.iter().position(|argument| !is_assignment(argument)).unwrap_or(arguments.len());
        let (assignments, command) = arguments.split_at(begin);
        let name = command.first().map(|name| unquoted(name)).unwrap_or_default();
        let name = name_of(&name);
        let further = command.get(1..).unwrap_or_default();
        // `exit` without a status has the status of the command before it.
        if further.is_empty() && matches!(name, "exit" | "return") || arguments.iter().any(|one| has_status(one)) {
            self.last = Status::Harmless;
        }
        self.follow();
        let relevant_if = |is_relevant| if is_relevant { Status::Relevant } else { Status::Harmless };
        match name {
            "" => relevant_if(assignments.iter().any(|assignment| has_substitution(assignment))),
            "exit" | "return" | "break" | "continue" => {
                self.leaving.extend(self.functions.last().filter(|_| name == "exit"));
                Status::Leaving
            }
            "exec" => {
                self.examine_nested(further);
                if further.is_empty() { Status::Harmless } else { Status::Leaving }
            }
            "set" => {
                let further: Vec<String> = further.iter().map(|argument| unquoted(argument)).collect();
                self.errexit = errexit_after(further.iter().map(String::as_str), self.errexit);
                Status::Harmless
            }
            "trap" => {
                self.trapped
                    .extend(further.first().and_then(|action| action.trim_matches(['\'', '"']).split(' ').next()));
                Status::Harmless
            }
            // Without a process, it always succeeds.
            "wait" => {
                self.background.is_awaited |= !further.is_empty();
                relevant_if(!further.is_empty())
            }
            "cd" => relevant_if(further != ["/"]),
            "command" if further.first().is_some_and(|option| matches!(*option, "-v" | "-V")) => Status::Harmless,
            _ if ASSIGNING.contains(&name) => relevant_if(further.iter().any(|argument| has_substitution(argument))),
            _ if HARMLESS.contains(&name) || name.starts_with("((") => Status::Harmless,
            _ if self.leaving.contains(name) => Status::Leaving,
            _ => {
                self.examine_nested(command);
                Status::Relevant
            }
        }
    }

    /// Examines the script of a shell that the command starts.
    fn examine_nested(&mut self, command: &[&str]) {
        if self.depth == 0 {
            return;
        }
        let argv: Vec<String> = command.iter().map(|argument| unquoted(argument)).collect();
        if let Some(script) = ShellScript::of(&argv) {
            let found = examine(&script, self.depth - 1);
            self.nested.earlier |= found.earlier;
            self.nested.background |= found.background;
        }
    }
}
