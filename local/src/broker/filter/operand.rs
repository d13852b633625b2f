//! A value within a filter, and what the operators make of it: C#'s rules, as Azure's documentation says.
//!
//! Integers of all widths are one type; an integer meets a double as a double; integer division truncates and arithmetic
//! wraps at 64 bits; only numbers, times and spans have an order; values of different kinds cannot be compared.

use std::{borrow::Cow, cmp::Ordering};

use uuid::Uuid;

use super::Truth;
use crate::amqp::codec::{Reader, Value};

/// A text that `+` may make.
const CONCATENATION_MAX: usize = 64 * 1024;

/// 100 ns, in which .NET counts, in a millisecond.
const TICKS_PER_MS: i64 = 10_000;

/// 1970-01-01 in ticks since 0001-01-01.
const EPOCH_TICKS: i64 = 621_355_968_000_000_000;

/// Why an expression has no value for a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EvaluationError {
    #[error("operator '{operator}' cannot be applied to {left} and {right}")]
    Mismatch { operator: &'static str, left: &'static str, right: &'static str },
    #[error("operator '{operator}' cannot be applied to {kind}")]
    Unary { operator: &'static str, kind: &'static str },
    #[error("division by zero")]
    DivisionByZero,
    #[error("a time or span is out of range")]
    OutOfRange,
    #[error("the name given to property() is {0}, not a text")]
    NameIsNoText(&'static str),
    #[error("'sys.{0}' is not a system property")]
    NoSystemProperty(String),
    #[error("ESCAPE must be a text of one character")]
    Escape,
    #[error("a text of {bytes} bytes is too long for {operator}; the most is {most}")]
    TooLong { operator: &'static str, bytes: usize, most: usize },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand<'a> {
    /// A property that is missing or null, or what was made with one.
    Unknown,
    Bool(bool),
    Int(i128),
    Double(f64),
    Text(Cow<'a, str>),
    /// Ticks since 1970.
    Time(i64),
    /// Ticks.
    Span(i64),
    Uuid(Uuid),
    /// Binaries, lists, decimals: they exist, but have no operators.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// How two comparable values stand to each other.
enum Relation {
    Ordered(Ordering),
    /// One is not a number.
    Unordered,
    /// They have no order.
    Same(bool),
}

impl Comparison {
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

impl Arithmetic {
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
        }
    }
}

impl<'a> Operand<'a> {
    /// From milliseconds since 1970.
    pub(crate) fn time(ms: i64) -> Self {
        Self::Time(ms.saturating_mul(TICKS_PER_MS))
    }

    /// From milliseconds.
    pub(crate) fn span(ms: i64) -> Self {
        Self::Span(ms.saturating_mul(TICKS_PER_MS))
    }

    /// From an encoded value; texts are borrowed.
    pub(crate) fn read(encoded: &'a [u8]) -> Self {
        match Reader::new(encoded).text() {
            Ok(Some(text)) => Self::Text(Cow::Borrowed(text)),
            Ok(None) => Self::Unknown,
            Err(_) => Reader::new(encoded).value().map_or(Operand::Other, |value| Operand::of(&value).into_owned()),
        }
    }

    /// From a decoded value. `com.microsoft:timespan` and `com.microsoft:datetime-offset` are how Azure's clients write
    /// a `TimeSpan` and a `DateTimeOffset`, in ticks.
    pub(crate) fn of(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Unknown,
            Value::Bool(value) => Self::Bool(*value),
            Value::Uint(value) => Self::Int(i128::from(*value)),
            Value::Int(value) => Self::Int(i128::from(*value)),
            Value::Double(value) => Self::Double(*value),
            Value::Char(value) => Self::Text(Cow::Owned(value.to_string())),
            Value::Text(text) | Value::Symbol(text) => Self::Text(Cow::Borrowed(text)),
            Value::Timestamp(ms) => Self::time(*ms),
            Value::Uuid(id) => Self::Uuid(*id),
            Value::Described(described) => match (described.0.as_text(), described.1.as_int()) {
                (Some("com.microsoft:timespan"), Some(ticks)) => Self::Span(ticks),
                (Some("com.microsoft:datetime-offset"), Some(ticks)) => Self::Time(ticks.saturating_sub(EPOCH_TICKS)),
                _ => Self::Other,
            },
            Value::Binary(_) | Value::List(_) | Value::Map(_) | Value::Array(_) | Value::Other(..) => Self::Other,
        }
    }

    pub(crate) fn into_owned(self) -> Operand<'static> {
        match self {
            Self::Unknown => Operand::Unknown,
            Self::Bool(value) => Operand::Bool(value),
            Self::Int(value) => Operand::Int(value),
            Self::Double(value) => Operand::Double(value),
            Self::Text(text) => Operand::Text(Cow::Owned(text.into_owned())),
            Self::Time(ticks) => Operand::Time(ticks),
            Self::Span(ticks) => Operand::Span(ticks),
            Self::Uuid(id) => Operand::Uuid(id),
            Self::Other => Operand::Other,
        }
    }

    /// For messages about it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Unknown => "an unknown value",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::Double(_) => "a double",
            Self::Text(_) => "a text",
            Self::Time(_) => "a time",
            Self::Span(_) => "a time span",
            Self::Uuid(_) => "a uuid",
            Self::Other => "a value without operators",
        }
    }

    /// `None` where values of these kinds cannot be compared. Neither is unknown.
    fn relation(&self, other: &Self) -> Option<Relation> {
        let doubles = |a: f64, b: f64| Some(a.partial_cmp(&b).map_or(Relation::Unordered, Relation::Ordered));
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(Relation::Ordered(a.cmp(b))),
            (Self::Double(a), Self::Double(b)) => doubles(*a, *b),
            (Self::Int(a), Self::Double(b)) => doubles(to_double(*a), *b),
            (Self::Double(a), Self::Int(b)) => doubles(*a, to_double(*b)),
            (Self::Time(a), Self::Time(b)) | (Self::Span(a), Self::Span(b)) => Some(Relation::Ordered(a.cmp(b))),
            (Self::Text(a), Self::Text(b)) => Some(Relation::Same(a == b)),
            (Self::Bool(a), Self::Bool(b)) => Some(Relation::Same(a == b)),
            (Self::Uuid(a), Self::Uuid(b)) => Some(Relation::Same(a == b)),
            _ => None,
        }
    }

    /// Whether two values are the same; values of different kinds and unknown ones are not.
    pub(crate) fn is(&self, other: &Self) -> bool {
        matches!(self.relation(other), Some(Relation::Ordered(Ordering::Equal) | Relation::Same(true)))
    }

    pub(crate) fn compare(&self, comparison: Comparison, other: &Self) -> Result<Truth, EvaluationError> {
        if *self == Self::Unknown || *other == Self::Unknown {
            return Ok(None);
        }
        let mismatch = || self.mismatch(comparison.symbol(), other);
        Ok(Some(match (self.relation(other).ok_or_else(mismatch)?, comparison) {
            (Relation::Ordered(order), Comparison::Equal) => order.is_eq(),
            (Relation::Ordered(order), Comparison::NotEqual) => order.is_ne(),
            (Relation::Ordered(order), Comparison::Less) => order.is_lt(),
            (Relation::Ordered(order), Comparison::LessOrEqual) => order.is_le(),
            (Relation::Ordered(order), Comparison::Greater) => order.is_gt(),
            (Relation::Ordered(order), Comparison::GreaterOrEqual) => order.is_ge(),
            (Relation::Unordered, comparison) => comparison == Comparison::NotEqual,
            (Relation::Same(same), Comparison::Equal) => same,
            (Relation::Same(same), Comparison::NotEqual) => !same,
            (Relation::Same(_), _) => return Err(mismatch()),
        }))
    }

    pub(crate) fn arithmetic(self, operator: Arithmetic, other: Self) -> Result<Self, EvaluationError> {
        use Arithmetic::{Add, Divide, Multiply, Remainder, Subtract};
        let ticks = |ticks: Option<i64>| ticks.ok_or(EvaluationError::OutOfRange);
        Ok(match (self, operator, other) {
            (Self::Unknown, ..) | (_, _, Self::Unknown) => Self::Unknown,
            (Self::Int(a), _, Self::Int(b)) => Self::Int(integers(a, operator, b)?),
            (Self::Double(a), _, Self::Double(b)) => Self::Double(doubles(a, operator, b)),
            (Self::Int(a), _, Self::Double(b)) => Self::Double(doubles(to_double(a), operator, b)),
            (Self::Double(a), _, Self::Int(b)) => Self::Double(doubles(a, operator, to_double(b))),
            (Self::Text(a), Add, Self::Text(b)) => {
                let bytes = a.len() + b.len();
                if bytes > CONCATENATION_MAX {
                    return Err(EvaluationError::TooLong { operator: "+", bytes, most: CONCATENATION_MAX });
                }
                Self::Text(a + b)
            }
            (Self::Time(a), Subtract, Self::Time(b)) => Self::Span(ticks(a.checked_sub(b))?),
            (Self::Time(a), Add, Self::Span(b)) => Self::Time(ticks(a.checked_add(b))?),
            (Self::Time(a), Subtract, Self::Span(b)) => Self::Time(ticks(a.checked_sub(b))?),
            (Self::Span(a), Add, Self::Span(b)) => Self::Span(ticks(a.checked_add(b))?),
            (Self::Span(a), Subtract, Self::Span(b)) => Self::Span(ticks(a.checked_sub(b))?),
            (a, Add | Subtract | Multiply | Divide | Remainder, b) => return Err(a.mismatch(operator.symbol(), &b)),
        })
    }

    pub(crate) fn negated(self) -> Result<Self, EvaluationError> {
        Ok(match self {
            Self::Unknown => Self::Unknown,
            Self::Int(value) => Self::Int(wrapped(-value)),
            Self::Double(value) => Self::Double(-value),
            Self::Span(ticks) => Self::Span(ticks.checked_neg().ok_or(EvaluationError::OutOfRange)?),
            other => return Err(EvaluationError::Unary { operator: "-", kind: other.kind() }),
        })
    }

    /// What a unary plus makes of it: itself, if it is a quantity.
    pub(crate) fn affirmed(self) -> Result<Self, EvaluationError> {
        match self {
            Self::Unknown | Self::Int(_) | Self::Double(_) | Self::Span(_) => Ok(self),
            other => Err(EvaluationError::Unary { operator: "+", kind: other.kind() }),
        }
    }

    pub(crate) fn mismatch(&self, operator: &'static str, other: &Operand<'_>) -> EvaluationError {
        EvaluationError::Mismatch { operator, left: self.kind(), right: other.kind() }
    }
}

fn integers(a: i128, operator: Arithmetic, b: i128) -> Result<i128, EvaluationError> {
    if b == 0 && matches!(operator, Arithmetic::Divide | Arithmetic::Remainder) {
        return Err(EvaluationError::DivisionByZero);
    }
    // Operands fit into 65 bits.
    Ok(wrapped(match operator {
        Arithmetic::Add => a + b,
        Arithmetic::Subtract => a - b,
        Arithmetic::Multiply => a.wrapping_mul(b),
        Arithmetic::Divide => a / b,
        Arithmetic::Remainder => a % b,
    }))
}

/// To 64 bits with a sign, as unchecked arithmetic does in C#; an unsigned value that fits stays.
fn wrapped(value: i128) -> i128 {
    if u64::try_from(value).is_ok() {
        return value;
    }
    #[allow(clippy::cast_possible_truncation, reason = "the lower 64 bits are what is wanted")]
    let low = value as i64;
    i128::from(low)
}

fn doubles(a: f64, operator: Arithmetic, b: f64) -> f64 {
    match operator {
        Arithmetic::Add => a + b,
        Arithmetic::Subtract => a - b,
        Arithmetic::Multiply => a * b,
        Arithmetic::Divide => a / b,
        Arithmetic::Remainder => a % b,
    }
}

#[allow(clippy::cast_precision_loss, reason = "as C# promotes")]
fn to_double(value: i128) -> f64 {
    value as f64
}
