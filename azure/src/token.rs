//! One interface for tokens: whoever needs one asks here, names the one that was refused, and never renews by itself.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use time::OffsetDateTime;
use tokio::sync::watch;
use url::Url;

use crate::Secret;

/// A boxed future, as in `futures`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Which of the two services a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Service Bus.
    Bus,
    /// Blob Storage.
    Blob,
}

/// Which issue of a token this is: grows by one with every renewal of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

/// Where a service is, what may be used there, and the token for it.
#[derive(Clone)]
pub struct Grant {
    /// Bus: `sb://host` or `amqps://host[:port]` (TLS), `amqp://host:port` (plain, loopback only).
    /// Blob: `https://account.blob.core.windows.net` or `http://127.0.0.1:port/account` (loopback only).
    pub endpoint: Url,
    /// Bus: the entity's path (`exports`, `exports/subscriptions/acme`). Blob: the container.
    pub entity: String,
    /// Bus: `SharedAccessSignature sr=…`. Blob: `sv=…&sig=…` without `?`.
    pub sas: Secret,
    /// When the token dies.
    pub expires_at: OffsetDateTime,
    /// Which issue this is.
    pub generation: Generation,
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever puts a token into the URL shall not find it in a log.
        let mut endpoint = self.endpoint.clone();
        endpoint.set_query(None);
        f.debug_struct("Grant")
            .field("endpoint", &endpoint.as_str())
            .field("entity", &self.entity)
            .field("sas", &self.sas)
            .field("expires_at", &self.expires_at)
            .field("generation", &self.generation)
            .finish()
    }
}

/// Why there is no token.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// The issuer could not be asked, or answered that it cannot answer now. Trying again later helps.
    #[error("no token for {service:?}: {problem}")]
    Unavailable {
        /// For which service.
        service: Service,
        /// What happened, without secrets.
        problem: String,
        /// How long the issuer asked us to wait.
        retry_after: Option<std::time::Duration>,
    },
    /// The issuer refused us. Trying again soon does not help; a person must look.
    #[error("no token for {service:?}: {problem}")]
    Refused {
        /// For which service.
        service: Service,
        /// What happened, without secrets.
        problem: String,
    },
    /// A fresh token was refused too: a missing right, a firewall or clock skew.
    #[error(
        "{service:?} refused two tokens in a row; check the rights of the grant, the firewall and this machine's clock"
    )]
    RefusedTwice {
        /// For which service.
        service: Service,
    },
}

/// Issues tokens. A clone of the `Arc` shares one cache.
///
/// Contract: at most one renewal runs at a time, whoever asks; a caller that names the generation that was refused gets
/// a newer one or an error, and twenty callers that name the same one cause one renewal. While the issuer is down, a
/// token that still works goes on being handed out.
pub trait TokenSource: Send + Sync + fmt::Debug {
    /// The current grant for `service`. `refused` names the generation that the service turned down, if one was.
    fn grant(&self, service: Service, refused: Option<Generation>) -> BoxFuture<'_, Result<Grant, GrantError>>;

    /// Tells when there is a newer generation, so that an open connection can put it.
    fn changes(&self) -> watch::Receiver<Generation>;
}

impl<T: TokenSource + ?Sized> TokenSource for Arc<T> {
    fn grant(&self, service: Service, refused: Option<Generation>) -> BoxFuture<'_, Result<Grant, GrantError>> {
        (**self).grant(service, refused)
    }

    fn changes(&self) -> watch::Receiver<Generation> {
        (**self).changes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_never_shows_its_token() {
        let grant = Grant {
            endpoint: "https://account.blob.core.windows.net/?sv=1&sig=hunter2".parse().unwrap(),
            entity: "exports".to_owned(),
            sas: Secret::new("SharedAccessSignature sig=hunter2"),
            expires_at: OffsetDateTime::UNIX_EPOCH,
            generation: Generation(7),
        };
        let shown = format!("{grant:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("account.blob.core.windows.net") && shown.contains("exports"), "{shown}");
    }
}
