//! What an expression is made of. Chains are flat, so that only parentheses and prefixes make a tree deeper.

use crate::broker::filter::operand::{Arithmetic, Comparison, Operand};
use crate::broker::filter::view::SystemProperty;

/// What is true, false or unknown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Predicate {
    And(Vec<Predicate>),
    Or(Vec<Predicate>),
    Not(Box<Predicate>),
    Compare(Box<(Expression, Comparison, Expression)>),
    IsNull { property: Property, negated: bool },
    In { left: Box<Expression>, list: Vec<Expression>, negated: bool },
    Like { text: Box<Expression>, pattern: Box<Expression>, escape: Option<Box<Expression>>, negated: bool },
    Exists(Property),
}

/// What has a value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expression {
    Constant(Operand<'static>),
    /// With the value that the rule gives it.
    Parameter(String, Operand<'static>),
    Property(Property),
    /// `property(name)`.
    Lookup(Box<Expression>),
    NewId,
    Negate(Box<Expression>),
    Affirm(Box<Expression>),
    /// Operators of one precedence, from left to right.
    Chain(Box<Expression>, Vec<(Arithmetic, Expression)>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Property {
    User(String),
    System(SystemProperty),
}
