//! A condition and a message to true, false or unknown.
//!
//! An operator with an unknown operand is unknown, but for `AND` with something false and `OR` with something true. As in C#,
//! the right side of those two is not evaluated when the left side decides.

use std::borrow::Cow;

use uuid::Uuid;

use super::ast::{Expression, Predicate, Property};
use super::like;
use crate::broker::filter::Truth;
use crate::broker::filter::operand::{Comparison, EvaluationError, Operand};
use crate::broker::filter::view::{SystemProperty, View};

pub(super) fn predicate(predicate: &Predicate, view: &View<'_>) -> Result<Truth, EvaluationError> {
    match predicate {
        Predicate::And(parts) => decided_by(false, parts, view),
        Predicate::Or(parts) => decided_by(true, parts, view),
        Predicate::Not(inner) => Ok(self::predicate(inner, view)?.map(|truth| !truth)),
        Predicate::Compare(parts) => {
            let (left, comparison, right) = parts.as_ref();
            value(left, view)?.compare(*comparison, &value(right, view)?)
        }
        Predicate::IsNull { property, negated } => {
            let is_null = self::property(property, view).is_none_or(|found| found == Operand::Unknown);
            Ok(Some(is_null != *negated))
        }
        Predicate::In { left, list, negated } => {
            Ok(is_in(&value(left, view)?, list, view)?.map(|found| found != *negated))
        }
        Predicate::Like { text, pattern, escape, negated } => {
            Ok(is_like(text, pattern, escape.as_deref(), view)?.map(|found| found != *negated))
        }
        Predicate::Exists(Property::User(name)) => Ok(Some(view.user(name).is_some())),
        Predicate::Exists(Property::System(property)) => Ok(Some(view.system(*property) != Operand::Unknown)),
    }
}

/// `AND` is decided by the first part that is false, `OR` by the first that is true.
fn decided_by(decisive: bool, parts: &[Predicate], view: &View<'_>) -> Result<Truth, EvaluationError> {
    let mut truth = Some(!decisive);
    for part in parts {
        match predicate(part, view)? {
            Some(found) if found == decisive => return Ok(Some(decisive)),
            Some(_) => {}
            None => truth = None,
        }
    }
    Ok(truth)
}

fn is_in(left: &Operand<'_>, list: &[Expression], view: &View<'_>) -> Result<Truth, EvaluationError> {
    if *left == Operand::Unknown {
        return Ok(None);
    }
    let mut truth = Some(false);
    for element in list {
        match left.compare(Comparison::Equal, &value(element, view)?)? {
            Some(true) => return Ok(Some(true)),
            Some(false) => {}
            None => truth = None,
        }
    }
    Ok(truth)
}

fn is_like(
    text: &Expression,
    pattern: &Expression,
    escape: Option<&Expression>,
    view: &View<'_>,
) -> Result<Truth, EvaluationError> {
    let (text, pattern) = (value(text, view)?, value(pattern, view)?);
    let escape = escape.map(|escape| value(escape, view)).transpose()?;
    if [Some(&text), Some(&pattern), escape.as_ref()].contains(&Some(&Operand::Unknown)) {
        return Ok(None);
    }
    let escape = match escape {
        None => None,
        Some(Operand::Text(escape)) => Some(single(&escape).ok_or(EvaluationError::Escape)?),
        Some(_) => return Err(EvaluationError::Escape),
    };
    let (Operand::Text(text), Operand::Text(pattern)) = (&text, &pattern) else {
        return Err(text.mismatch("LIKE", &pattern));
    };
    like::matches(text, pattern, escape).map(Some)
}

fn single(text: &str) -> Option<char> {
    let mut chars = text.chars();
    chars.next().filter(|_| chars.next().is_none())
}

fn value<'a>(expression: &'a Expression, view: &View<'a>) -> Result<Operand<'a>, EvaluationError> {
    match expression {
        Expression::Constant(constant) | Expression::Parameter(_, constant) => Ok(borrowed(constant)),
        Expression::Property(property) => Ok(self::property(property, view).unwrap_or(Operand::Unknown)),
        Expression::Lookup(name) => match value(name, view)? {
            Operand::Text(name) => lookup(&name, view),
            Operand::Unknown => Ok(Operand::Unknown),
            other => Err(EvaluationError::NameIsNoText(other.kind())),
        },
        Expression::NewId => Ok(Operand::Uuid(Uuid::new_v4())),
        Expression::Negate(inner) => value(inner, view)?.negated(),
        Expression::Affirm(inner) => value(inner, view)?.affirmed(),
        Expression::Chain(first, others) => {
            let mut result = value(first, view)?;
            for (operator, other) in others {
                result = result.arithmetic(*operator, value(other, view)?)?;
            }
            Ok(result)
        }
    }
}

fn property<'a>(property: &Property, view: &View<'a>) -> Option<Operand<'a>> {
    match property {
        Property::User(name) => view.user(name),
        Property::System(property) => Some(view.system(*property)),
    }
}

/// A name that is known only now; it may have a scope.
fn lookup<'a>(name: &str, view: &View<'a>) -> Result<Operand<'a>, EvaluationError> {
    match name.split_once('.') {
        Some((scope, name)) if scope.eq_ignore_ascii_case("sys") => SystemProperty::named(name)
            .map(|property| view.system(property))
            .ok_or_else(|| EvaluationError::NoSystemProperty(name.to_owned())),
        Some((scope, name)) if scope.eq_ignore_ascii_case("user") => Ok(view.user(name).unwrap_or(Operand::Unknown)),
        _ => Ok(view.user(name).unwrap_or(Operand::Unknown)),
    }
}

fn borrowed<'a>(constant: &'a Operand<'static>) -> Operand<'a> {
    match constant {
        Operand::Text(text) => Operand::Text(Cow::Borrowed(text)),
        other => other.clone(),
    }
}
