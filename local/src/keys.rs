//! Every key of this process, and the one place where a SAS is checked: signature, expiry, resource, rights, and whether
//! it was revoked by a rotation. Shares no code with `waybill-azure` on purpose: a mistake made on both sides would hide.

use std::{fmt, sync::Mutex};

use tokio::sync::watch;

/// The keys. One per process, shared by the AMQP, Blob and tenant endpoints.
pub struct Keys {
    #[allow(dead_code)]
    state: Mutex<()>,
    revocations: watch::Sender<u64>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

/// What a valid Service Bus SAS allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusClaim {
    /// Seconds since 1970: `se`.
    pub expires_at: i64,
    /// The `sr` as a lower-case path below the host, without a leading slash: empty for the whole namespace.
    pub scope: String,
    /// Rights of the key that signed it.
    pub send: bool,
    /// See `send`.
    pub listen: bool,
    /// See `send`.
    pub manage: bool,
    /// Names this token: what [`Keys::is_revoked`] takes.
    pub signature: String,
}

/// Why a SAS is refused; the text is what Azure would say to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the text of each variant says it")]
pub enum SasRefusal {
    #[error("InvalidSignature: The token has an invalid signature.")]
    BadSignature,
    #[error("ExpiredToken: The token is expired.")]
    Expired,
    #[error("MalformedToken: The token is malformed: {0}")]
    Malformed(String),
    #[error("InvalidAudience: The authorization header contains a token for another audience.")]
    WrongAudience,
    #[error("RevokedToken: The key that signed the token was rotated.")]
    Revoked,
}

impl Keys {
    /// Checks a Service Bus SAS against the entity path (`exports/subscriptions/acme`, any case, no leading slash) that it
    /// is shown for; the token's scope must be that path or a prefix of it by whole segments. `now` in seconds since 1970.
    ///
    /// # Errors
    /// The refusal to tell the client.
    pub fn check_bus(&self, token: &str, entity: &str, now: i64) -> Result<BusClaim, SasRefusal> {
        todo!("{} {entity} {now}", token.len())
    }

    /// Whether a rotation has killed this token.
    #[must_use]
    pub fn is_revoked(&self, signature: &str) -> bool {
        todo!("{}", signature.len())
    }

    /// Changes whenever a token was revoked, so that links using it can be cut.
    #[must_use]
    pub fn revocations(&self) -> watch::Receiver<u64> {
        self.revocations.subscribe()
    }
}
