//! SQL filters: an expression is parsed once, when the rule is made, and evaluated for each message.
//!
//! The grammar is that of "Subscription Rule SQL Filter Syntax": conditions (`NOT`, `AND`, `OR`, comparisons, `IS [NOT] NULL`,
//! `[NOT] IN`, `[NOT] LIKE … [ESCAPE …]`, `EXISTS`) over expressions (constants, parameters, properties of the scopes `user`
//! and `sys`, arithmetic, `newid()`, `property(name)`, `p(name)`). Keywords and names have no case, texts have.
//!
//! # What the documentation leaves open, and what we do
//! - A property that is null behaves as one that is missing: it is unknown, but `EXISTS` is true for an application property
//!   that is null. A system property that the sender did not set is unknown, and `EXISTS` is false for it.
//! - An unknown `sys.` name is refused when the rule is made, not for each message.
//! - `x IN (…)` is unknown when no element equals `x` and one of them is unknown, as in SQL-92.
//! - `<`, `>` and so on need numbers, times or spans, because C# has no order of texts; a comparison of different kinds fails,
//!   and a failed evaluation is not a match. `LIKE` looks at the case.
//!
//! # Sources
//! "Subscription Rule SQL Filter Syntax"; "Service Bus quotas" (1,024 characters); Azure's wording of a syntax error as quoted
//! in Azure/bicep issue 6557.

pub(super) mod ast;
mod eval;
mod lexer;
mod like;
mod parser;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::ast::Predicate;
use super::Truth;
use super::operand::{EvaluationError, Operand};
use super::view::View;
use crate::amqp::codec::Value;

/// Longest expression in UTF-16 code units, as .NET counts characters ("Service Bus quotas").
const EXPRESSION_MAX: usize = 1_024;

/// Parameters of one filter.
const PARAMETERS_MAX: usize = 100;

/// A parsed expression with the values of its parameters.
#[derive(Debug, Clone)]
pub struct SqlFilter {
    expression: String,
    parameters: Vec<(String, Value)>,
    predicate: Arc<Predicate>,
}

/// Two filters are equal when they say the same in the same words.
impl PartialEq for SqlFilter {
    fn eq(&self, other: &Self) -> bool {
        self.expression == other.expression && self.parameters == other.parameters
    }
}

/// Why an expression cannot be used. The wording is Azure's, the details are ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "There was an error parsing the SQL expression. [Token line={line}, column={column}, Token in error={token}, Additional details={details}]"
)]
pub struct SqlError {
    /// Line, from 1.
    pub line: usize,
    /// Column within the line in characters, from 1.
    pub column: usize,
    /// The token at that place, or nothing at the end of the expression.
    pub token: String,
    /// What was found or expected.
    pub details: String,
}

impl SqlFilter {
    /// Parses an expression without parameters.
    ///
    /// # Errors
    /// When it is longer than 1,024 characters or is no condition; the error says where and why.
    pub fn new(expression: &str) -> Result<Self, SqlError> {
        Self::with_parameters(expression, Vec::new())
    }

    /// Parses an expression with values for its parameters; a name is written with or without its `@`.
    ///
    /// # Errors
    /// As [`Self::new`], and when a parameter has no value or a value that cannot be compared.
    pub fn with_parameters(expression: &str, parameters: Vec<(String, Value)>) -> Result<Self, SqlError> {
        let refuse = |details: String| SqlError { line: 1, column: 1, token: String::new(), details };
        let length = expression.encode_utf16().count();
        if length > EXPRESSION_MAX {
            return Err(refuse(format!("the expression has {length} characters; the most is {EXPRESSION_MAX}")));
        }
        if parameters.len() > PARAMETERS_MAX {
            return Err(refuse(format!("there are {} parameters; the most is {PARAMETERS_MAX}", parameters.len())));
        }
        if let Some((name, _)) = parameters.iter().find(|(_, value)| Operand::of(value) == Operand::Other) {
            let text = format!("the value of parameter '{name}' must be a text, number, boolean, time, span or uuid");
            return Err(refuse(text));
        }
        let predicate = Arc::new(parser::parse(expression, &parameters)?);
        Ok(Self { expression: expression.to_owned(), parameters, predicate })
    }

    /// The expression as it was given.
    #[must_use]
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// Names and values of its parameters.
    #[must_use]
    pub fn parameters(&self) -> &[(String, Value)] {
        &self.parameters
    }

    /// `1=1` is how clients write a true filter.
    pub(crate) fn is_trivial(&self) -> bool {
        self.expression.chars().filter(|c| !c.is_whitespace()).eq("1=1".chars())
    }

    pub(crate) fn matches(&self, view: &View<'_>) -> Result<Truth, EvaluationError> {
        eval::predicate(&self.predicate, view)
    }
}
