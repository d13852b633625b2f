//! Tokens to a condition, by recursive descent: `OR`, `AND`, `NOT`, a comparison, `+ -`, `* / %`, a sign, a primary.
//!
//! A parenthesis may hold a condition or an expression, so both are parsed by one set of functions and told apart after.

use super::SqlError;
use super::ast::{Expression, Predicate, Property};
use super::lexer::{self, Placed, Token};
use crate::amqp::codec::Value;
use crate::broker::filter::operand::{Arithmetic, Comparison, Operand};
use crate::broker::filter::view::{SystemProperty, same_name};

/// Parentheses, prefixes and calls within each other. Each takes a few frames of the stack.
const DEPTH_MAX: usize = 64;

/// Names that must be delimited to be properties.
const KEYWORDS: [&str; 11] = ["AND", "OR", "NOT", "LIKE", "ESCAPE", "IN", "IS", "NULL", "EXISTS", "TRUE", "FALSE"];

/// Elements of one `IN`: fewer than an expression has characters.
type List = Vec<Expression>;

/// What was parsed, before it is known what is wanted.
enum Parsed {
    Condition(Predicate),
    Value(Expression),
}

pub(super) fn parse(expression: &str, parameters: &[(String, Value)]) -> Result<Predicate, SqlError> {
    let tokens = lexer::tokens(expression)?;
    let mut parser = Parser { expression, tokens, at: 0, depth: 0, parameters };
    let start = parser.at;
    let parsed = parser.any()?;
    if parser.peek() != &Token::End {
        return Err(parser.unexpected("the end, AND or OR"));
    }
    parser.condition(parsed, start)
}

struct Parser<'a> {
    expression: &'a str,
    tokens: Vec<Placed>,
    at: usize,
    depth: usize,
    parameters: &'a [(String, Value)],
}

impl Parser<'_> {
    fn placed(&self) -> &Placed {
        // The last token is the end, and nothing moves beyond it.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn peek(&self) -> &Token {
        &self.placed().token
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn is_keyword(&self, keyword: &str) -> bool {
        matches!(self.peek(), Token::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    fn eat_keyword(&mut self, keyword: &str) -> bool {
        let found = self.is_keyword(keyword);
        if found {
            self.next();
        }
        found
    }

    fn is_symbol(&self, symbol: &str) -> bool {
        matches!(self.peek(), Token::Symbol(found) if *found == symbol)
    }

    fn eat_symbol(&mut self, symbol: &str) -> bool {
        let found = self.is_symbol(symbol);
        if found {
            self.next();
        }
        found
    }

    fn expect_symbol(&mut self, symbol: &str) -> Result<(), SqlError> {
        if self.eat_symbol(symbol) { Ok(()) } else { Err(self.unexpected(&format!("'{symbol}'"))) }
    }

    fn expect_keyword(&mut self, keyword: &str) -> Result<(), SqlError> {
        if self.eat_keyword(keyword) { Ok(()) } else { Err(self.unexpected(keyword)) }
    }

    fn unexpected(&self, expected: &str) -> SqlError {
        let what = match self.peek() {
            Token::End => "end of the expression",
            Token::Word(word) if is_reserved(word) => "keyword",
            Token::Word(_) | Token::Delimited(_) => "name",
            Token::Parameter(_) => "parameter",
            Token::Text(_) => "text",
            Token::Integer(_) | Token::Double(_) => "number",
            Token::Symbol(_) => "symbol",
        };
        self.error_at(self.at, format!("syntax error, unexpected {what}, expecting {expected}"))
    }

    /// An error at a token.
    fn error_at(&self, at: usize, details: impl Into<String>) -> SqlError {
        let placed = &self.tokens[at.min(self.tokens.len() - 1)];
        lexer::error(self.expression, placed.start, placed.end, details)
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, SqlError>) -> Result<T, SqlError> {
        if self.depth >= DEPTH_MAX {
            return Err(self.error_at(self.at, format!("the expression is nested more than {DEPTH_MAX} levels deep")));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn condition(&self, parsed: Parsed, start: usize) -> Result<Predicate, SqlError> {
        match parsed {
            Parsed::Condition(condition) => Ok(condition),
            Parsed::Value(_) if self.peek() == &Token::End => {
                Err(self.unexpected("a comparison, LIKE, IN or IS after a value"))
            }
            Parsed::Value(_) => {
                Err(self.error_at(start, "a condition was expected, but this is a value; compare it, e.g. with = TRUE"))
            }
        }
    }

    fn value(&self, parsed: Parsed, start: usize) -> Result<Expression, SqlError> {
        match parsed {
            Parsed::Value(value) => Ok(value),
            Parsed::Condition(_) => Err(self.error_at(start, "a value was expected, but this is a condition")),
        }
    }

    fn any(&mut self) -> Result<Parsed, SqlError> {
        self.joined("OR", Self::conjunction, Predicate::Or)
    }

    fn conjunction(&mut self) -> Result<Parsed, SqlError> {
        self.joined("AND", Self::negation, Predicate::And)
    }

    fn joined(
        &mut self,
        keyword: &str,
        part: fn(&mut Self) -> Result<Parsed, SqlError>,
        join: fn(Vec<Predicate>) -> Predicate,
    ) -> Result<Parsed, SqlError> {
        let start = self.at;
        let first = part(self)?;
        if !self.is_keyword(keyword) {
            return Ok(first);
        }
        let mut parts = vec![self.condition(first, start)?];
        while self.eat_keyword(keyword) {
            let start = self.at;
            let next = part(self)?;
            parts.push(self.condition(next, start)?);
        }
        Ok(Parsed::Condition(join(parts)))
    }

    fn negation(&mut self) -> Result<Parsed, SqlError> {
        if !self.eat_keyword("NOT") {
            return self.comparison();
        }
        let start = self.at;
        let inner = self.deeper(Self::negation)?;
        Ok(Parsed::Condition(Predicate::Not(Box::new(self.condition(inner, start)?))))
    }

    fn comparison(&mut self) -> Result<Parsed, SqlError> {
        let start = self.at;
        let left = self.sum()?;
        if let Some(comparison) = self.comparison_sign() {
            let left = self.value(left, start)?;
            let right = self.sum_value()?;
            return Ok(Parsed::Condition(Predicate::Compare(Box::new((left, comparison, right)))));
        }
        if self.eat_keyword("IS") {
            let negated = self.eat_keyword("NOT");
            self.expect_keyword("NULL")?;
            return match self.value(left, start)? {
                Expression::Property(property) => Ok(Parsed::Condition(Predicate::IsNull { property, negated })),
                _ => Err(self.error_at(start, "IS NULL needs the name of a property before it")),
            };
        }
        let negated = self.is_keyword("NOT");
        if negated {
            self.next();
        }
        if self.eat_keyword("IN") {
            let left = Box::new(self.value(left, start)?);
            let list = self.list()?;
            return Ok(Parsed::Condition(Predicate::In { left, list, negated }));
        }
        if self.eat_keyword("LIKE") {
            let text = Box::new(self.value(left, start)?);
            let pattern = Box::new(self.sum_value()?);
            let escape = if self.eat_keyword("ESCAPE") { Some(Box::new(self.escape()?)) } else { None };
            return Ok(Parsed::Condition(Predicate::Like { text, pattern, escape, negated }));
        }
        if negated { Err(self.unexpected("IN or LIKE after NOT")) } else { Ok(left) }
    }

    fn comparison_sign(&mut self) -> Option<Comparison> {
        let Token::Symbol(symbol) = self.peek() else { return None };
        let comparison = match *symbol {
            "=" => Comparison::Equal,
            "<>" | "!=" => Comparison::NotEqual,
            "<" => Comparison::Less,
            "<=" => Comparison::LessOrEqual,
            ">" => Comparison::Greater,
            ">=" => Comparison::GreaterOrEqual,
            _ => return None,
        };
        self.next();
        Some(comparison)
    }

    fn list(&mut self) -> Result<List, SqlError> {
        self.expect_symbol("(")?;
        let mut list = vec![self.deeper(Self::sum_value)?];
        while self.eat_symbol(",") {
            list.push(self.deeper(Self::sum_value)?);
        }
        if !self.eat_symbol(")") {
            return Err(self.unexpected("',' or ')'"));
        }
        Ok(list)
    }

    /// A constant is checked now, anything else for each message.
    fn escape(&mut self) -> Result<Expression, SqlError> {
        let start = self.at;
        let escape = self.sum_value()?;
        match &escape {
            Expression::Constant(Operand::Text(text)) if text.chars().count() == 1 => Ok(escape),
            Expression::Constant(Operand::Unknown) => Ok(escape),
            Expression::Constant(_) => Err(self.error_at(start, "ESCAPE must be a text of one character")),
            _ => Ok(escape),
        }
    }

    fn sum_value(&mut self) -> Result<Expression, SqlError> {
        let start = self.at;
        let parsed = self.sum()?;
        self.value(parsed, start)
    }

    fn sum(&mut self) -> Result<Parsed, SqlError> {
        self.chain(&[("+", Arithmetic::Add), ("-", Arithmetic::Subtract)], Self::product)
    }

    fn product(&mut self) -> Result<Parsed, SqlError> {
        let signs = [("*", Arithmetic::Multiply), ("/", Arithmetic::Divide), ("%", Arithmetic::Remainder)];
        self.chain(&signs, Self::signed)
    }

    fn chain(
        &mut self,
        signs: &[(&str, Arithmetic)],
        part: fn(&mut Self) -> Result<Parsed, SqlError>,
    ) -> Result<Parsed, SqlError> {
        let start = self.at;
        let first = part(self)?;
        let mut others = Vec::new();
        while let Some((_, operator)) = signs.iter().find(|(symbol, _)| self.is_symbol(symbol)) {
            self.next();
            let start = self.at;
            let next = part(self)?;
            others.push((*operator, self.value(next, start)?));
        }
        if others.is_empty() {
            return Ok(first);
        }
        Ok(Parsed::Value(Expression::Chain(Box::new(self.value(first, start)?), others)))
    }

    fn signed(&mut self) -> Result<Parsed, SqlError> {
        let wrap: fn(Box<Expression>) -> Expression = if self.is_symbol("-") {
            Expression::Negate
        } else if self.is_symbol("+") {
            Expression::Affirm
        } else {
            return self.primary();
        };
        self.next();
        let start = self.at;
        let inner = self.deeper(Self::signed)?;
        Ok(Parsed::Value(wrap(Box::new(self.value(inner, start)?))))
    }

    fn primary(&mut self) -> Result<Parsed, SqlError> {
        let at = self.at;
        let constant = |value| Ok(Parsed::Value(Expression::Constant(value)));
        match self.peek().clone() {
            Token::Symbol("(") => {
                self.next();
                let inner = self.deeper(Self::any)?;
                self.expect_symbol(")")?;
                Ok(inner)
            }
            Token::Text(text) => {
                self.next();
                constant(Operand::Text(text.into()))
            }
            Token::Integer(value) => {
                self.next();
                constant(Operand::Int(i128::from(value)))
            }
            Token::Double(value) => {
                self.next();
                constant(Operand::Double(value))
            }
            Token::Parameter(name) => {
                self.next();
                let given = self.parameters.iter().find(|(given, _)| same_name(given.trim_start_matches('@'), &name));
                let (_, value) =
                    given.ok_or_else(|| self.error_at(at, format!("the parameter '@{name}' has no value")))?;
                Ok(Parsed::Value(Expression::Parameter(name, Operand::of(value).into_owned())))
            }
            Token::Word(word) if word.eq_ignore_ascii_case("EXISTS") => {
                self.next();
                self.expect_symbol("(")?;
                let property = self.property()?;
                self.expect_symbol(")")?;
                Ok(Parsed::Condition(Predicate::Exists(property)))
            }
            Token::Word(word) if is_reserved(&word) => {
                let value = match word.to_ascii_uppercase().as_str() {
                    "TRUE" => Operand::Bool(true),
                    "FALSE" => Operand::Bool(false),
                    "NULL" => Operand::Unknown,
                    _ => return Err(self.unexpected("a value or a condition")),
                };
                self.next();
                constant(value)
            }
            Token::Word(word) if self.calls() => self.call(&word).map(Parsed::Value),
            Token::Word(_) | Token::Delimited(_) => self.property().map(|p| Parsed::Value(Expression::Property(p))),
            Token::Symbol(_) | Token::End => Err(self.unexpected("a value or a condition")),
        }
    }

    /// Whether a parenthesis follows the next token.
    fn calls(&self) -> bool {
        matches!(self.tokens.get(self.at + 1), Some(Placed { token: Token::Symbol("("), .. }))
    }

    fn call(&mut self, function: &str) -> Result<Expression, SqlError> {
        let at = self.at;
        self.next();
        self.expect_symbol("(")?;
        let called = match function.to_ascii_lowercase().as_str() {
            "newid" => Expression::NewId,
            "property" | "p" => Expression::Lookup(Box::new(self.deeper(Self::sum_value)?)),
            _ => {
                let text = format!("there is no function '{function}'; there are newid(), property(name) and p(name)");
                return Err(self.error_at(at, text));
            }
        };
        self.expect_symbol(")")?;
        Ok(called)
    }

    /// `[scope.]name`
    fn property(&mut self) -> Result<Property, SqlError> {
        let at = self.at;
        let first = self.name()?;
        if !self.is_symbol(".") {
            return Ok(Property::User(first));
        }
        let is_sys = first.eq_ignore_ascii_case("sys");
        if !is_sys && !first.eq_ignore_ascii_case("user") {
            let text = format!("'{first}' is no scope; use sys or user, or put a name with a point into []");
            return Err(self.error_at(at, text));
        }
        self.next();
        let at = self.at;
        let name = self.name()?;
        if !is_sys {
            return Ok(Property::User(name));
        }
        let known = SystemProperty::named(&name).map(Property::System);
        known.ok_or_else(|| {
            self.error_at(at, format!("'sys.{name}' is not a system property; there are {}", SystemProperty::names()))
        })
    }

    fn name(&mut self) -> Result<String, SqlError> {
        match self.peek().clone() {
            Token::Word(word) if is_reserved(&word) => {
                Err(self.unexpected(&format!("a property; put the name into [] if it is one: [{word}]")))
            }
            Token::Word(name) | Token::Delimited(name) => {
                self.next();
                Ok(name)
            }
            _ => Err(self.unexpected("the name of a property")),
        }
    }
}

fn is_reserved(word: &str) -> bool {
    KEYWORDS.iter().any(|keyword| keyword.eq_ignore_ascii_case(word))
}
