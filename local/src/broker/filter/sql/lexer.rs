//! Expression to tokens, each with its place.

use super::SqlError;

/// Characters of a token that an error quotes.
const QUOTED_MAX: usize = 40;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A name that may be a keyword.
    Word(String),
    /// A name in brackets or double quotes, which is never a keyword.
    Delimited(String),
    /// A name after `@`.
    Parameter(String),
    Text(String),
    Integer(i64),
    Double(f64),
    Symbol(&'static str),
    End,
}

/// A token and where it stands, in bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Placed {
    pub(super) token: Token,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Longer symbols first.
const SYMBOLS: [&str; 16] = ["<>", "!=", "<=", ">=", "=", "<", ">", "+", "-", "*", "/", "%", "(", ")", ",", "."];

/// All tokens; the last is [`Token::End`].
pub(super) fn tokens(expression: &str) -> Result<Vec<Placed>, SqlError> {
    let mut lexer = Lexer { expression, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.eat_while(char::is_whitespace);
        let start = lexer.at;
        let token = lexer.token()?;
        let is_end = token == Token::End;
        tokens.push(Placed { token, start, end: lexer.at });
        if is_end {
            return Ok(tokens);
        }
    }
}

/// An error at a place of the expression.
pub(super) fn error(expression: &str, start: usize, end: usize, details: impl Into<String>) -> SqlError {
    let before = expression.get(..start).unwrap_or(expression);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let token = expression.get(start..end).unwrap_or_default();
    SqlError {
        line: before.matches('\n').count() + 1,
        column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
        token: token.chars().take(QUOTED_MAX).collect(),
        details: details.into(),
    }
}

struct Lexer<'a> {
    expression: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.expression.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn eat_while(&mut self, mut wanted: impl FnMut(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    fn error(&self, start: usize, details: impl Into<String>) -> SqlError {
        error(self.expression, start, self.at, details)
    }

    fn token(&mut self) -> Result<Token, SqlError> {
        let start = self.at;
        let Some(first) = self.peek() else { return Ok(Token::End) };
        match first {
            '\'' => self.quoted('\'', "text").map(Token::Text),
            '"' => self.quoted('"', "name").and_then(|name| self.named(start, name)),
            '[' => self.quoted(']', "name").and_then(|name| self.named(start, name)),
            '@' => {
                self.at += 1;
                let name = self.eat_while(is_name_part);
                if name.is_empty() {
                    return Err(self.error(start, "a parameter's name was expected after '@'"));
                }
                Ok(Token::Parameter(name.to_owned()))
            }
            _ if first.is_ascii_digit() => self.number(),
            _ if first.is_alphabetic() => Ok(Token::Word(self.eat_while(is_name_part).to_owned())),
            _ => {
                let rest = self.rest();
                if let Some(symbol) = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol)) {
                    self.at += symbol.len();
                    return Ok(Token::Symbol(symbol));
                }
                self.at += first.len_utf8();
                let hint =
                    if first == '_' { "; a name that does not begin with a letter is written in []" } else { "" };
                Err(self.error(start, format!("unrecognized character '{first}'{hint}")))
            }
        }
    }

    fn named(&self, start: usize, name: String) -> Result<Token, SqlError> {
        if name.is_empty() {
            return Err(self.error(start, "a name must not be empty"));
        }
        Ok(Token::Delimited(name))
    }

    /// What is between delimiters; a closing one that is part of it is written twice.
    fn quoted(&mut self, close: char, what: &str) -> Result<String, SqlError> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            text.push_str(self.eat_while(|c| c != close));
            if self.peek().is_none() {
                return Err(self.error(start, format!("a {what} is not closed with {close}")));
            }
            self.at += 1;
            if self.peek() != Some(close) {
                return Ok(text);
            }
            self.at += 1;
            text.push(close);
        }
    }

    /// Digits; with a point or an exponent a double.
    fn number(&mut self) -> Result<Token, SqlError> {
        let start = self.at;
        self.digits();
        let mut is_integer = true;
        let mut ahead = self.rest().chars();
        if ahead.next() == Some('.') && ahead.next().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
            self.digits();
            is_integer = false;
        }
        if self.peek().is_some_and(|c| c == 'e' || c == 'E') {
            let mark = self.at;
            self.at += 1;
            if self.peek().is_some_and(|c| c == '+' || c == '-') {
                self.at += 1;
            }
            if self.digits().is_empty() {
                self.at = mark;
            } else {
                is_integer = false;
            }
        }
        let written = self.expression.get(start..self.at).unwrap_or_default();
        if self.peek().is_some_and(is_name_part) {
            self.eat_while(is_name_part);
            return Err(self.error(start, "a number must not run into a name"));
        }
        if is_integer {
            let value = written.parse().map_err(|_| self.error(start, "an integer must fit into 64 bits"))?;
            return Ok(Token::Integer(value));
        }
        match written.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Token::Double(value)),
            _ => Err(self.error(start, "a number is too large")),
        }
    }

    fn digits(&mut self) -> &'a str {
        self.eat_while(|c| c.is_ascii_digit())
    }
}

fn is_name_part(c: char) -> bool {
    c == '_' || c.is_alphabetic() || c.is_numeric()
}
