//! An expression tree as text, with the fewest parentheses that its meaning allows.

use std::fmt::{self, Display, Formatter};

use crate::broker::filter::operand::{Arithmetic, Operand};
use crate::broker::filter::sql::ast::{Expression, Predicate, Property};
use crate::broker::filter::view::SystemProperty;

/// How tightly a node binds; one within a tighter one needs parentheses.
const OR: u8 = 0;
const AND: u8 = 1;
const NOT: u8 = 2;
const SUM: u8 = 3;
const PRODUCT: u8 = 4;
const SIGN: u8 = 5;

pub(super) struct Within<'a, T>(pub(super) u8, pub(super) &'a T);

fn parenthesised(
    f: &mut Formatter<'_>,
    yes: bool,
    write: impl FnOnce(&mut Formatter<'_>) -> fmt::Result,
) -> fmt::Result {
    if yes {
        f.write_str("(")?;
        write(f)?;
        return f.write_str(")");
    }
    write(f)
}

impl Display for Within<'_, Predicate> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Within(outer, predicate) = self;
        let not = |negated: bool| if negated { "NOT " } else { "" };
        match predicate {
            Predicate::Or(parts) => parenthesised(f, *outer > OR, |f| joined(f, parts, " OR ", AND)),
            Predicate::And(parts) => parenthesised(f, *outer > AND, |f| joined(f, parts, " AND ", NOT)),
            Predicate::Not(inner) => write!(f, "NOT {}", Within(NOT, inner.as_ref())),
            Predicate::Compare(parts) => {
                let (left, comparison, right) = parts.as_ref();
                write!(f, "{} {} {}", Within(SUM, left), comparison.symbol(), Within(SUM, right))
            }
            Predicate::IsNull { property, negated } => write!(f, "{property} IS {}NULL", not(*negated)),
            Predicate::In { left, list, negated } => {
                let list: Vec<_> = list.iter().map(|element| Within(SUM, element).to_string()).collect();
                write!(f, "{} {}IN ({})", Within(SUM, left.as_ref()), not(*negated), list.join(", "))
            }
            Predicate::Like { text, pattern, escape, negated } => {
                let (text, pattern) = (Within(SUM, text.as_ref()), Within(SUM, pattern.as_ref()));
                write!(f, "{text} {}LIKE {pattern}", not(*negated))?;
                escape.iter().try_for_each(|escape| write!(f, " ESCAPE {}", Within(SUM, escape.as_ref())))
            }
            Predicate::Exists(property) => write!(f, "EXISTS({property})"),
        }
    }
}

fn joined(f: &mut Formatter<'_>, parts: &[Predicate], with: &str, within: u8) -> fmt::Result {
    let parts: Vec<_> = parts.iter().map(|part| Within(within, part).to_string()).collect();
    f.write_str(&parts.join(with))
}

impl Display for Within<'_, Expression> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Within(outer, expression) = self;
        match expression {
            Expression::Constant(constant) => match constant {
                Operand::Text(text) => write!(f, "'{}'", text.replace('\'', "''")),
                Operand::Int(value) => write!(f, "{value}"),
                Operand::Double(value) => write!(f, "{value:?}"),
                Operand::Bool(value) => write!(f, "{}", if *value { "TRUE" } else { "FALSE" }),
                _ => f.write_str("NULL"),
            },
            Expression::Parameter(name, _) => write!(f, "@{name}"),
            Expression::Property(property) => write!(f, "{property}"),
            Expression::Lookup(name) => write!(f, "property({})", Within(SUM, name.as_ref())),
            Expression::NewId => f.write_str("newid()"),
            Expression::Negate(inner) => write!(f, "-{}", Within(SIGN, inner.as_ref())),
            Expression::Affirm(inner) => write!(f, "+{}", Within(SIGN, inner.as_ref())),
            Expression::Chain(first, others) => {
                let is_sum = matches!(others.first(), Some((Arithmetic::Add | Arithmetic::Subtract, _)));
                let (own, inner) = if is_sum { (SUM, PRODUCT) } else { (PRODUCT, SIGN) };
                parenthesised(f, *outer > own, |f| {
                    write!(f, "{}", Within(inner, first.as_ref()))?;
                    others
                        .iter()
                        .try_for_each(|(operator, other)| write!(f, " {} {}", operator.symbol(), Within(inner, other)))
                })
            }
        }
    }
}

impl Display for Property {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "[{}]", name.replace(']', "]]")),
            // Names are those of the enum's variants.
            Self::System(SystemProperty::Subject) => f.write_str("sys.Label"),
            Self::System(property) => write!(f, "sys.{property:?}"),
        }
    }
}
