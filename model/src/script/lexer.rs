//! Splits a shell script into arguments and operators. Quotes, substitutions, comments and here-documents are skipped
//! as a whole. The time is linear in the length of the script, and there is no recursion, because the author of a pod
//! decides how deep a script is nested.

/// The script is not understood: a quote or a parenthesis is never closed, or its syntax is not known here.
#[derive(Debug)]
pub(super) struct Unclear;

#[derive(Debug, Eq, PartialEq)]
pub(super) enum Token<'a> {
    /// An argument as written, with its quotes.
    Argument(&'a str),
    /// A redirection with its target.
    Redirection,
    /// One of [`OPERATORS`].
    Operator(&'a str),
}

/// The operators; an operator precedes those that it begins with.
const OPERATORS: [&str; 13] = [";;&", ";;", ";&", ";", "&&", "&", "||", "|&", "|", "(", ")", "\n", "\r\n"];
/// The redirections, in the same order.
const REDIRECTIONS: [&str; 12] = ["&>>", "&>", "<<<", "<<-", "<<", "<>", "<&", "<", ">>", ">&", ">|", ">"];

/// A here-document that begins after the present line.
struct HereDocument {
    delimiter: String,
    /// Whether tabs at the begin of a line are ignored.
    strips_tabs: bool,
}

pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    here_documents: Vec<HereDocument>,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, here_documents: Vec::new() }
    }

    /// The next token; none at the end.
    pub fn next_token(&mut self) -> Result<Option<Token<'a>>, Unclear> {
        self.skip_blanks();
        let (start, rest) = (self.at, self.rest());
        if rest.is_empty() {
            return Ok(None);
        }
        if rest.starts_with("((") {
            // Arithmetic, or two subshells that begin at once. Only the former is understood.
            self.at = self.after_nested(start + 1, b')')?;
            let arithmetic = &self.text[start..self.at];
            return if arithmetic.ends_with("))") { Ok(Some(Token::Argument(arithmetic))) } else { Err(Unclear) };
        }
        let is_process = rest.starts_with("<(") || rest.starts_with(">(");
        if let Some(redirection) =
            REDIRECTIONS.iter().find(|redirection| rest.starts_with(**redirection) && !is_process)
        {
            self.at += redirection.len();
            return self.target(redirection).map(Some);
        }
        if let Some(operator) = OPERATORS.iter().find(|operator| rest.starts_with(**operator)) {
            self.at += operator.len();
            if operator.ends_with('\n') {
                self.skip_here_documents();
            }
            return Ok(Some(Token::Operator(operator.trim_start_matches('\r'))));
        }
        self.at = self.argument_end(if is_process { self.after_nested(start + 2, b')')? } else { start })?;
        let argument = &self.text[start..self.at];
        let is_number = argument.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && self.rest().starts_with(['<', '>']) {
            return self.next_token();
        }
        Ok(Some(Token::Argument(argument)))
    }

    /// Skips `byte` if it is the next token.
    pub fn take(&mut self, byte: u8) -> bool {
        self.skip_blanks();
        let is_next = self.text.as_bytes().get(self.at) == Some(&byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Skips blanks, continued lines and a comment.
    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest();
            if rest.starts_with([' ', '\t']) {
                self.at += 1;
            } else if rest.starts_with("\\\n") {
                self.at += 2;
            } else if rest.starts_with('#') {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else {
                return;
            }
        }
    }

    /// The target of a redirection.
    fn target(&mut self, redirection: &str) -> Result<Token<'a>, Unclear> {
        self.skip_blanks();
        let is_process = self.rest().starts_with("<(") || self.rest().starts_with(">(");
        let end = self.argument_end(if is_process { self.after_nested(self.at + 2, b')')? } else { self.at })?;
        let target = &self.text[self.at..end];
        self.at = end;
        if target.is_empty() {
            return Err(Unclear);
        }
        if let "<<" | "<<-" = redirection {
            self.here_documents.push(HereDocument { delimiter: unquoted(target), strips_tabs: redirection == "<<-" });
        }
        Ok(Token::Redirection)
    }

    /// Skips the here-documents of the line that has ended.
    fn skip_here_documents(&mut self) {
        for document in std::mem::take(&mut self.here_documents) {
            while !self.rest().is_empty() {
                let rest = self.rest();
                let line = rest.split_inclusive('\n').next().unwrap_or(rest);
                self.at += line.len();
                let line = line.trim_end_matches('\n');
                let line = if document.strips_tabs { line.trim_start_matches('\t') } else { line };
                if line == document.delimiter {
                    break;
                }
            }
        }
    }

    /// The index after the argument that includes `from`.
    fn argument_end(&self, from: usize) -> Result<usize, Unclear> {
        let bytes = self.text.as_bytes();
        let mut at = from;
        while let Some(byte) = bytes.get(at) {
            at = match byte {
                // The list of an array, or a pattern such as `@(a|b)`.
                b'(' if at > from && matches!(bytes[at - 1], b'=' | b'@' | b'!' | b'*' | b'+' | b'?') => {
                    self.after_nested(at + 1, b')')?
                }
                b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'<' | b'>' | b'(' | b')' => return Ok(at),
                b'\r' if bytes.get(at + 1) == Some(&b'\n') => return Ok(at),
                b'\\' => at + 2,
                b'\'' => self.after_single_quote(at + 1)?,
                b'"' | b'`' => self.after_nested(at + 1, *byte)?,
                b'$' => match bytes.get(at + 1) {
                    Some(b'(') => self.after_nested(at + 2, b')')?,
                    Some(b'{') => self.after_nested(at + 2, b'}')?,
                    _ => at + 1,
                },
                _ => at + 1,
            };
        }
        Ok(self.text.len())
    }

    fn after_single_quote(&self, from: usize) -> Result<usize, Unclear> {
        let length = self.text.as_bytes()[from..].iter().position(|byte| *byte == b'\'').ok_or(Unclear)?;
        Ok(from + length + 1)
    }

    /// The index after the quote or substitution that `closer` ends.
    fn after_nested(&self, from: usize, closer: u8) -> Result<usize, Unclear> {
        let bytes = self.text.as_bytes();
        let mut closers = vec![closer];
        let mut at = from;
        while let (Some(byte), Some(inner)) = (bytes.get(at), closers.last().copied()) {
            let is_in_double_quotes = inner == b'"' || inner == b'}' && closers.iter().nth_back(1) == Some(&b'"');
            let before = bytes[at - 1];
            at += 1;
            match byte {
                b'\\' => at += 1,
                byte if *byte == inner => drop(closers.pop()),
                b'\'' if !is_in_double_quotes => at = self.after_single_quote(at)?,
                b'"' | b'`' => closers.push(*byte),
                b'$' if bytes.get(at) == Some(&b'(') => {
                    closers.push(b')');
                    at += 1;
                }
                b'$' if bytes.get(at) == Some(&b'{') => {
                    closers.push(b'}');
                    at += 1;
                }
                b'(' if inner == b')' => closers.push(b')'),
                b'#' if inner == b')' && matches!(before, b' ' | b'\t' | b'\n' | b';' | b'(') => {
                    at += bytes[at..].iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len() - at);
                }
                _ => {}
            }
        }
        if closers.is_empty() { Ok(at) } else { Err(Unclear) }
    }
}

/// The argument without its quotes. Variables and substitutions stay as written.
pub(super) fn unquoted(argument: &str) -> String {
    let mut text = String::with_capacity(argument.len());
    let mut quote: Option<char> = None;
    let mut characters = argument.chars().peekable();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, '\\') => text.extend(characters.next().filter(|next| *next != '\n')),
            (Some('"'), '\\') => match characters.next_if(|next| matches!(next, '$' | '`' | '"' | '\\' | '\n')) {
                Some('\n') => {}
                Some(escaped) => text.push(escaped),
                None => text.push('\\'),
            },
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => quote = Some(character),
            _ => text.push(character),
        }
    }
    text
}
