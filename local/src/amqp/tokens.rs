//! The tokens that were put on one connection, and what they allow.
//!
//! A token covers the audience it was put for and everything below it. A newer one for the same audience takes its place,
//! so links that lean on it live on. Rights and resource of the token itself are [`Keys`]'s matter.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use time::macros::format_description;

use super::performative::AmqpError;
use crate::keys::{BusClaim, Keys, SasRefusal};

/// Audiences that one connection may put tokens for: more are a client's mistake.
const AUDIENCES_MAX: usize = 1_000;

/// Bytes of an audience: more than an entity's path and what may stand behind it.
const AUDIENCE_MAX: usize = 1_024;

/// Why a token was not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotPut {
    #[error(transparent)]
    Refused(#[from] SasRefusal),
    #[error("an audience has at most {AUDIENCE_MAX} bytes")]
    LongAudience,
    #[error(
        "a connection holds tokens for at most {AUDIENCES_MAX} audiences: put one for the namespace, or open another \
         connection"
    )]
    Full,
}

/// What a link needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    Send,
    Listen,
    /// Either: `$management` serves both sides, and each operation asks again.
    Any,
}

/// Where and what for a link needs a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) path: String,
    pub(crate) right: Right,
}

/// A token that is over, and why.
#[derive(Debug)]
pub(crate) struct Dead {
    audience: String,
    claim: BusClaim,
    refusal: SasRefusal,
}

#[derive(Debug, Default)]
pub(crate) struct Tokens {
    by_audience: BTreeMap<String, BusClaim>,
    /// One was good, now or before.
    had_one: bool,
}

impl Tokens {
    /// Checks a token and keeps it for its audience.
    pub(crate) fn put(&mut self, keys: &Keys, token: &str, audience: String, now: i64) -> Result<(), NotPut> {
        if audience.len() > AUDIENCE_MAX {
            return Err(NotPut::LongAudience);
        }
        if self.by_audience.len() >= AUDIENCES_MAX && !self.by_audience.contains_key(&audience) {
            return Err(NotPut::Full);
        }
        let claim = keys.check_bus(token, &audience, now)?;
        self.by_audience.insert(audience, claim);
        self.had_one = true;
        Ok(())
    }

    /// Whether a token allows this now.
    pub(crate) fn allow(&self, need: &Need, now: i64) -> bool {
        self.by_audience.iter().any(|(audience, claim)| {
            claim.expires_at > now && covers(audience, &need.path) && grants(claim, need.right)
        })
    }

    /// Whether none is there.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_audience.is_empty()
    }

    /// Whether there is one, or was: what the connection holds was allowed to it.
    pub(crate) fn had_one(&self) -> bool {
        self.had_one
    }

    /// When the next token dies, in seconds since 1970.
    pub(crate) fn next_expiry(&self) -> Option<i64> {
        self.by_audience.values().map(|claim| claim.expires_at).min()
    }

    /// Takes out the tokens that are over.
    pub(crate) fn bury(&mut self, keys: &Keys, now: i64) -> Vec<Dead> {
        let over = |claim: &BusClaim| {
            if claim.expires_at <= now { Some(SasRefusal::Expired) } else { keys.refusal_of(claim) }
        };
        self.by_audience
            .extract_if(.., |_, claim| over(claim).is_some())
            .map(|(audience, claim)| Dead { refusal: over(&claim).unwrap_or(SasRefusal::Expired), audience, claim })
            .collect()
    }
}

impl Dead {
    /// Whether a link leaned on this token.
    pub(crate) fn covered(&self, need: &Need) -> bool {
        covers(&self.audience, &need.path) && grants(&self.claim, need.right)
    }

    /// What the link is told: Azure's words for a token that is refused, with the time where that is the reason.
    pub(crate) fn words(&self) -> String {
        match self.refusal {
            SasRefusal::Expired => format!("{} Expiration time: '{}'.", self.refusal, utc(self.claim.expires_at)),
            _ => self.refusal.to_string(),
        }
    }
}

/// What a link is told that no token allows.
pub(crate) fn unauthorized(need: &Need) -> AmqpError {
    let claims = match need.right {
        Right::Send => "'Send' claim(s) are",
        Right::Listen => "'Listen' claim(s) are",
        Right::Any => "'Listen' or 'Send' claim(s) are",
    };
    let text = format!(
        "Unauthorized access. {claims} required to perform this operation. Resource: '{}'. Put a token on $cbs first.",
        need.path
    );
    AmqpError::new("amqp:unauthorized-access", text)
}

fn covers(audience: &str, path: &str) -> bool {
    audience.is_empty() || path.strip_prefix(audience).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn grants(claim: &BusClaim, right: Right) -> bool {
    match right {
        Right::Send => claim.rights.send,
        Right::Listen => claim.rights.listen,
        Right::Any => claim.rights.send || claim.rights.listen,
    }
}

fn utc(seconds: i64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|at| at.format(&format).ok()).unwrap_or_default()
}
