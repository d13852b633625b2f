//! Filters of subscriptions: pure functions from a message to true, false or unknown.
//!
//! `view` reads what a filter asks for from the message's bytes, and nothing else; `operand` is a value and what the
//! operators do to it; `correlation` compares fields; `sql` parses and evaluates expressions. Unknown is not a match, and
//! neither is an evaluation that fails (text compared with a number, division by zero).
//!
//! # Sources
//! "Topic filters and actions"; "Subscription Rule SQL Filter Syntax"; "Set subscription filters (Azure Service Bus)"
//! (a correlation filter equals a SQL filter that compares each stated property with `=`). That a filter's property names
//! have no case holds for correlation filters too: the live tests of `Azure.Messaging.ServiceBus` match `Color` with
//! `color` (`RuleManagerLiveTests.cs`).

mod correlation;
pub(crate) mod operand;
pub(crate) mod sql;
#[cfg(test)]
mod tests;
pub(crate) mod view;

pub use correlation::CorrelationFilter;
pub(crate) use operand::EvaluationError;
pub use sql::{SqlError, SqlFilter};
pub(crate) use view::View;

/// True, false, or unknown.
pub(crate) type Truth = Option<bool>;

/// Which messages a rule matches.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// All.
    True,
    /// None.
    False,
    /// Those whose properties equal all that are stated.
    Correlation(CorrelationFilter),
    /// Those for which an expression is true.
    Sql(SqlFilter),
}

/// Why a filter cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// The expression of a SQL filter cannot be used.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// A correlation filter that states nothing.
    #[error("a correlation filter must state at least one property")]
    NothingStated,
    /// A correlation filter that is too large to be kept for every message.
    #[error("a correlation filter takes {bytes} bytes; the most is {most}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest size.
        most: usize,
    },
    /// A value that no property of a message can equal.
    #[error("the property '{0}' of a correlation filter must be a text, number, boolean, time or uuid")]
    NotComparable(String),
}

impl Filter {
    /// A SQL filter.
    ///
    /// # Errors
    /// When the expression cannot be parsed.
    pub fn sql(expression: &str) -> Result<Self, SqlError> {
        SqlFilter::new(expression).map(Self::Sql)
    }

    /// Whether no message needs to be looked at.
    pub(crate) fn matches_everything(&self) -> bool {
        match self {
            Self::True => true,
            Self::Sql(filter) => filter.is_trivial(),
            Self::False | Self::Correlation(_) => false,
        }
    }

    pub(crate) fn check(&self) -> Result<(), FilterError> {
        match self {
            Self::Correlation(filter) => filter.check(),
            // The expression was parsed when the filter was made.
            Self::True | Self::False | Self::Sql(_) => Ok(()),
        }
    }

    pub(crate) fn matches(&self, view: &View<'_>) -> Result<Truth, EvaluationError> {
        match self {
            Self::True => Ok(Some(true)),
            Self::False => Ok(Some(false)),
            Self::Correlation(filter) => Ok(Some(filter.matches(view))),
            Self::Sql(filter) => filter.matches(view),
        }
    }
}
