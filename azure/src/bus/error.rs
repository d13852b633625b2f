//! What goes wrong on the bus, and what each of the broker's error conditions means here.
//!
//! # Sources
//! AMQP 1.0 part 2, sections 2.8.14–2.8.18 (conditions); Microsoft, "AMQP errors in Azure Service Bus" (the `amqp:` and
//! `com.microsoft:` conditions and which of them may be retried).

use std::{fmt, time::Duration};

use fe2o3_amqp_types::{
    definitions::{self, ErrorCondition},
    primitives::Symbol,
};

use crate::{GrantError, Service, Token};

/// What a busy broker wants at least: Microsoft's clients wait 10 s after `com.microsoft:server-busy`.
const BUSY_WAIT: Duration = Duration::from_secs(10);

/// Why a link or the connection under it is gone, or a call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the text of each variant says it")]
pub enum BusError {
    #[error("cannot use the bus at {address}: {problem}")]
    Setup { address: String, problem: String },
    #[error("cannot connect to {address}: {problem}")]
    Connect { address: String, problem: String },
    #[error("no token for the bus")]
    Grant(#[from] GrantError),
    #[error("{entity}: the token was refused: {problem}")]
    Unauthorized { entity: String, problem: String },
    #[error("{entity}: no such entity: {problem}; check its name and that it exists")]
    NotFound { entity: String, problem: String },
    #[error("{entity}: the entity is disabled: {problem}")]
    Disabled { entity: String, problem: String },
    #[error("{entity}: the entity is full: {problem}; it goes on when there is room")]
    QuotaExceeded { entity: String, problem: String },
    #[error("{entity}: the broker is busy: {problem}")]
    Busy { entity: String, problem: String },
    #[error("{entity}: the link was detached: {problem}")]
    Detached { entity: String, problem: String },
    #[error("the connection is gone: {problem}")]
    Disconnected { problem: String },
    #[error("{what} took longer than {limit:?}")]
    Timeout { what: &'static str, limit: Duration },
    #[error("{entity}: message {message_id} is too large: {problem}")]
    TooLarge { entity: String, message_id: String, problem: String },
    #[error("{entity}: refused: {problem}")]
    Rejected { entity: String, problem: String },
    /// The broker gave up in the middle: what it was asked for may or may not have happened.
    #[error("{entity}: the broker failed: {problem}")]
    Failed { entity: String, problem: String },
    /// Other messages of the same call were accepted, or may have been.
    #[error("only a part of the messages was surely accepted")]
    Partly { source: Box<BusError> },
}

impl BusError {
    /// With what helps, where roles are what may be missing.
    pub(super) fn advised(self, token: &Token) -> Self {
        match (self, token) {
            (Self::Unauthorized { entity, problem }, Token::Access(_)) => {
                let problem = format!("{problem}; {}", token.advice(Service::Bus));
                Self::Unauthorized { entity, problem }
            }
            (other, _) => other,
        }
    }

    /// Whether the call surely had no effect at the broker, so that repeating it cannot duplicate.
    #[must_use]
    pub fn had_no_effect(&self) -> bool {
        match self {
            Self::Setup { .. }
            | Self::Connect { .. }
            | Self::Grant(_)
            | Self::Unauthorized { .. }
            | Self::NotFound { .. }
            | Self::Disabled { .. }
            | Self::QuotaExceeded { .. }
            | Self::Busy { .. }
            | Self::TooLarge { .. }
            | Self::Rejected { .. } => true,
            Self::Detached { .. }
            | Self::Disconnected { .. }
            | Self::Timeout { .. }
            | Self::Failed { .. }
            | Self::Partly { .. } => false,
        }
    }

    /// How long to wait at least before the next try, when the broker or the kind of error says so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { .. } | Self::QuotaExceeded { .. } => Some(BUSY_WAIT),
            Self::Grant(GrantError::Unavailable { retry_after, .. }) => *retry_after,
            Self::Partly { source } => source.retry_after(),
            Self::Setup { .. }
            | Self::Connect { .. }
            | Self::Grant(
                GrantError::Refused { .. } | GrantError::RefusedTwice { .. } | GrantError::Elsewhere { .. },
            )
            | Self::Unauthorized { .. }
            | Self::NotFound { .. }
            | Self::Disabled { .. }
            | Self::Detached { .. }
            | Self::Disconnected { .. }
            | Self::Timeout { .. }
            | Self::TooLarge { .. }
            | Self::Rejected { .. }
            | Self::Failed { .. } => None,
        }
    }

    /// What kind of failure it is, in `kebab-case`: for figures, which count by it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Setup { .. } => "setup",
            Self::Connect { .. } => "connect",
            Self::Grant(_) => "no-token",
            Self::Unauthorized { .. } => "unauthorized",
            Self::NotFound { .. } => "not-found",
            Self::Disabled { .. } => "disabled",
            Self::QuotaExceeded { .. } => "quota-exceeded",
            Self::Busy { .. } => "busy",
            Self::Detached { .. } => "detached",
            Self::Disconnected { .. } => "disconnected",
            Self::Timeout { .. } => "timeout",
            Self::TooLarge { .. } => "too-large",
            Self::Rejected { .. } => "rejected",
            Self::Failed { .. } => "failed",
            Self::Partly { source } => source.kind(),
        }
    }

    /// Whether only a person can mend it (missing entity, refused token), so that it is tried on a slow clock.
    #[must_use]
    pub fn needs_person(&self) -> bool {
        match self {
            Self::Setup { .. }
            | Self::Grant(
                GrantError::Refused { .. } | GrantError::RefusedTwice { .. } | GrantError::Elsewhere { .. },
            )
            | Self::Unauthorized { .. }
            | Self::NotFound { .. }
            | Self::Disabled { .. }
            | Self::TooLarge { .. }
            | Self::Rejected { .. } => true,
            Self::Partly { source } => source.needs_person(),
            Self::Connect { .. }
            | Self::Grant(GrantError::Unavailable { .. })
            | Self::QuotaExceeded { .. }
            | Self::Busy { .. }
            | Self::Detached { .. }
            | Self::Disconnected { .. }
            | Self::Timeout { .. }
            | Self::Failed { .. } => false,
        }
    }
}

/// What the broker gave as its reason: an error condition and a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cause {
    condition: String,
    text: String,
}

impl From<&definitions::Error> for Cause {
    fn from(error: &definitions::Error) -> Self {
        let condition: Symbol = match &error.condition {
            ErrorCondition::AmqpError(condition) => condition.into(),
            ErrorCondition::ConnectionError(condition) => condition.into(),
            ErrorCondition::SessionError(condition) => condition.into(),
            ErrorCondition::LinkError(condition) => condition.into(),
            ErrorCondition::Custom(condition) => condition.clone(),
        };
        Self { condition: condition.into_inner(), text: error.description.clone().unwrap_or_default() }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() { f.write_str(&self.condition) } else { write!(f, "{}: {}", self.condition, self.text) }
    }
}

impl Cause {
    /// A reason given without an AMQP error, for instance a status of `$cbs`.
    #[cfg(test)]
    fn new(condition: &str, text: &str) -> Self {
        Self { condition: condition.to_owned(), text: text.to_owned() }
    }

    /// Whether it is the token: then one renewal may help. A forced detach has many causes, so there the text decides.
    pub(super) fn is_token(&self) -> bool {
        match self.condition.as_str() {
            "amqp:unauthorized-access" | "com.microsoft:auth-failed" => true,
            "amqp:link:detach-forced" => {
                let text = self.text.to_ascii_lowercase();
                text.contains("token") || text.contains("claim")
            }
            _ => false,
        }
    }

    /// What it means that an attach was refused.
    pub(super) fn at_attach(&self, entity: &str) -> BusError {
        let (entity, problem) = (entity.to_owned(), self.to_string());
        if self.is_token() {
            return BusError::Unauthorized { entity, problem };
        }
        match self.condition.as_str() {
            "amqp:not-allowed"
            | "amqp:not-implemented"
            | "amqp:invalid-field"
            | "amqp:precondition-failed"
            | "com.microsoft:argument-error"
            | "com.microsoft:argument-out-of-range" => BusError::Rejected { entity, problem },
            _ => self
                .about_entity(entity, problem)
                .unwrap_or_else(|(entity, problem)| BusError::Detached { entity, problem }),
        }
    }

    /// What it means that an attached link or its session was ended. A token that died is no reason for a person: the
    /// next attach renews it.
    pub(super) fn at_detach(&self, entity: &str) -> BusError {
        let (entity, problem) = (entity.to_owned(), self.to_string());
        self.about_entity(entity, problem).unwrap_or_else(|(entity, problem)| BusError::Detached { entity, problem })
    }

    /// What it means that messages were rejected.
    pub(super) fn at_outcome(&self, entity: &str, message_id: &str) -> BusError {
        let (entity, problem) = (entity.to_owned(), self.to_string());
        if self.is_token() {
            return BusError::Unauthorized { entity, problem };
        }
        match self.condition.as_str() {
            "amqp:link:message-size-exceeded" => {
                BusError::TooLarge { entity, message_id: message_id.to_owned(), problem }
            }
            "amqp:internal-error" | "com.microsoft:timeout" | "com.microsoft:operation-cancelled" => {
                BusError::Failed { entity, problem }
            }
            _ => self
                .about_entity(entity, problem)
                .unwrap_or_else(|(entity, problem)| BusError::Rejected { entity, problem }),
        }
    }

    /// The conditions that mean the same wherever they come.
    fn about_entity(&self, entity: String, problem: String) -> Result<BusError, (String, String)> {
        Ok(match self.condition.as_str() {
            "amqp:not-found" | "amqp:resource-deleted" => BusError::NotFound { entity, problem },
            "com.microsoft:entity-disabled" => BusError::Disabled { entity, problem },
            "amqp:resource-limit-exceeded" => BusError::QuotaExceeded { entity, problem },
            "com.microsoft:server-busy" => BusError::Busy { entity, problem },
            _ => return Err((entity, problem)),
        })
    }
}

#[cfg(test)]
mod tests {
    use fe2o3_amqp_types::definitions::{AmqpError, ConnectionError, LinkError};

    use super::*;
    use crate::Service;

    fn outcome(condition: &str) -> BusError {
        Cause::new(condition, "why").at_outcome("exports", "m1")
    }

    #[test]
    fn a_busy_broker_asks_for_ten_seconds_and_had_no_effect() {
        let error = outcome("com.microsoft:server-busy");
        assert!(matches!(&error, BusError::Busy { problem, .. } if problem == "com.microsoft:server-busy: why"));
        assert!(error.retry_after() >= Some(Duration::from_secs(10)));
        assert!(error.had_no_effect() && !error.needs_person());
    }

    #[test]
    fn rejections_are_told_apart_by_their_condition() {
        assert!(matches!(outcome("amqp:resource-limit-exceeded"), BusError::QuotaExceeded { .. }));
        assert!(matches!(outcome("com.microsoft:entity-disabled"), BusError::Disabled { .. }));
        assert!(matches!(outcome("amqp:not-found"), BusError::NotFound { .. }));
        assert!(matches!(outcome("amqp:not-allowed"), BusError::Rejected { .. }));
        assert!(matches!(outcome("amqp:unauthorized-access"), BusError::Unauthorized { .. }));
        assert!(
            matches!(outcome("amqp:link:message-size-exceeded"), BusError::TooLarge { message_id, .. } if message_id == "m1")
        );
    }

    #[test]
    fn a_failure_inside_the_broker_is_an_unknown_outcome() {
        for condition in ["amqp:internal-error", "com.microsoft:timeout", "com.microsoft:operation-cancelled"] {
            let error = outcome(condition);
            assert!(matches!(error, BusError::Failed { .. }), "{condition}");
            assert!(!error.had_no_effect(), "{condition}");
            assert!(!error.needs_person(), "{condition}");
        }
    }

    #[test]
    fn a_forced_detach_is_about_the_token_only_when_it_says_so() {
        let idle =
            Cause::new("amqp:link:detach-forced", "The link 'G0:1' is force detached because it is idle for 600000 ms");
        let expired = Cause::new("amqp:link:detach-forced", "Unauthorized access. 'Listen' claim(s) are required");
        let renew = Cause::new("amqp:link:detach-forced", "... Detach origin: InnerMessageReceiver.RenewToken ...");
        assert!(!idle.is_token());
        assert!(expired.is_token() && renew.is_token());
        assert!(Cause::new("com.microsoft:auth-failed", "").is_token());
    }

    #[test]
    fn a_token_that_died_detaches_but_a_refused_attach_needs_a_person() {
        let cause = Cause::new("amqp:unauthorized-access", "ExpiredToken");
        assert!(matches!(cause.at_detach("exports"), BusError::Detached { .. }));
        assert!(!cause.at_detach("exports").needs_person());
        assert!(cause.at_attach("exports").needs_person());
    }

    #[test]
    fn an_attach_that_can_never_work_needs_a_person_and_one_that_may_does_not() {
        assert!(matches!(Cause::new("amqp:not-allowed", "").at_attach("e"), BusError::Rejected { .. }));
        assert!(matches!(Cause::new("amqp:internal-error", "").at_attach("e"), BusError::Detached { .. }));
        assert!(matches!(Cause::new("amqp:link:stolen", "").at_detach("e"), BusError::Detached { .. }));
    }

    #[test]
    fn conditions_keep_their_names_and_texts() {
        let of = |condition: ErrorCondition| {
            Cause::from(&definitions::Error::new(condition, Some("x".to_owned()), None)).to_string()
        };
        assert_eq!(of(AmqpError::NotFound.into()), "amqp:not-found: x");
        assert_eq!(of(ConnectionError::ConnectionForced.into()), "amqp:connection:forced: x");
        assert_eq!(of(LinkError::DetachForced.into()), "amqp:link:detach-forced: x");
        assert_eq!(of(ErrorCondition::Custom(Symbol::from("com.microsoft:timeout"))), "com.microsoft:timeout: x");
        assert_eq!(Cause::new("amqp:not-found", "").to_string(), "amqp:not-found");
    }

    #[test]
    fn a_part_that_failed_keeps_its_clock_and_loses_its_certainty() {
        let partly = BusError::Partly { source: Box::new(outcome("com.microsoft:server-busy")) };
        assert!(!partly.had_no_effect());
        assert_eq!(partly.retry_after(), Some(BUSY_WAIT));
        assert!(BusError::Partly { source: Box::new(outcome("amqp:not-found")) }.needs_person());
    }

    #[test]
    fn the_issuer_of_tokens_decides_how_long_to_wait() {
        let unavailable = BusError::Grant(GrantError::Unavailable {
            service: Service::Bus,
            problem: "503".to_owned(),
            retry_after: Some(Duration::from_secs(7)),
        });
        assert_eq!(unavailable.retry_after(), Some(Duration::from_secs(7)));
        assert!(!unavailable.needs_person());
        assert!(BusError::Grant(GrantError::RefusedTwice { service: Service::Bus }).needs_person());
    }
}
