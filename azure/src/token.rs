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
    /// What is shown there.
    pub token: Token,
    /// When the token dies.
    pub expires_at: OffsetDateTime,
    /// Which issue this is.
    pub generation: Generation,
}

/// What a service is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// A shared access signature. Bus: `SharedAccessSignature sr=…`. Blob: `sv=…&sig=…` without `?`.
    Sas(Secret),
    /// An access token of Microsoft Entra ID: what it allows, the roles say of whom it was issued to.
    Access(Secret),
}

impl Token {
    /// The text, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        match self {
            Self::Sas(secret) | Self::Access(secret) => secret.expose(),
        }
    }

    /// What helps when a service refuses a fresh one too.
    pub(crate) fn advice(&self, service: Service) -> &'static str {
        match self {
            Self::Sas(_) => "check the grant's rights, the firewall and the clock",
            Self::Access(_) => Self::role_advice(service),
        }
    }

    /// The same where it is an access token's roles that count.
    pub(crate) fn role_advice(service: Service) -> &'static str {
        match service {
            Service::Bus => {
                "give the identity the role Azure Service Bus Data Sender on the topic or the namespace (a new role counts after \
                 some minutes), and check the firewall and the clock"
            }
            Service::Blob => {
                "give the identity the role Storage Blob Data Contributor on the container or the account (a new role counts \
                 after some minutes), and check the firewall and the clock"
            }
        }
    }
}

impl Grant {
    /// What tells the place from others, in our own words: `host[:port][/path]/entity`. An issuer may spell an address otherwise
    /// tomorrow (`sb://ns`, `sb://NS/`, `amqps://ns`) and mean the same.
    #[must_use]
    pub fn place(&self) -> String {
        let host = self.endpoint.host_str().unwrap_or_default().to_ascii_lowercase();
        let port = self.endpoint.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{host}{port}{}/{}", self.endpoint.path().trim_end_matches('/'), self.entity)
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever puts a token into the URL shall not find it in a log.
        let mut endpoint = self.endpoint.clone();
        endpoint.set_query(None);
        f.debug_struct("Grant")
            .field("endpoint", &endpoint.as_str())
            .field("entity", &self.entity)
            .field("token", &self.token)
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
    /// The issuer names other places now. What lies there waits until it is named again.
    #[error("the current grant does not open {place}")]
    Elsewhere {
        /// Of which service.
        service: Service,
        /// What was to be used, and where it is.
        place: String,
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

    /// All grants for `service`, where the issuer may name several places; that of [`grant`](Self::grant) is the first of
    /// them. Never empty. A wrapper must pass it on.
    fn grants(&self, service: Service, refused: Option<Generation>) -> BoxFuture<'_, Result<Vec<Grant>, GrantError>> {
        Box::pin(async move { Ok(vec![self.grant(service, refused).await?]) })
    }

    /// Tells when there is a newer generation, so that an open connection can put it.
    fn changes(&self) -> watch::Receiver<Generation>;
}

#[deny(clippy::missing_trait_methods)]
impl<T: TokenSource + ?Sized> TokenSource for Arc<T> {
    fn grant(&self, service: Service, refused: Option<Generation>) -> BoxFuture<'_, Result<Grant, GrantError>> {
        (**self).grant(service, refused)
    }

    fn grants(&self, service: Service, refused: Option<Generation>) -> BoxFuture<'_, Result<Vec<Grant>, GrantError>> {
        (**self).grants(service, refused)
    }

    fn changes(&self) -> watch::Receiver<Generation> {
        (**self).changes()
    }
}

/// One place among those that a source names: what a [`Bus`](crate::bus::Bus) or a [`Container`](crate::blob::Container) of
/// that place takes its tokens from. When the source names it no more, that is [`GrantError::Elsewhere`], and no token goes
/// anywhere else.
#[derive(Debug, Clone)]
pub struct OnePlace {
    source: Arc<dyn TokenSource>,
    place: String,
}

impl OnePlace {
    /// The place of `grant`, which `source` gave.
    #[must_use]
    pub fn of(source: Arc<dyn TokenSource>, grant: &Grant) -> Self {
        Self { source, place: grant.place() }
    }
}

#[deny(clippy::missing_trait_methods)]
impl TokenSource for OnePlace {
    fn grant(&self, service: Service, refused: Option<Generation>) -> BoxFuture<'_, Result<Grant, GrantError>> {
        Box::pin(async move {
            let grants = self.source.grants(service, refused).await?;
            let here = grants.into_iter().find(|grant| grant.place() == self.place);
            here.ok_or_else(|| GrantError::Elsewhere { service, place: self.place.clone() })
        })
    }

    fn grants(&self, service: Service, refused: Option<Generation>) -> BoxFuture<'_, Result<Vec<Grant>, GrantError>> {
        Box::pin(async move { Ok(vec![self.grant(service, refused).await?]) })
    }

    fn changes(&self) -> watch::Receiver<Generation> {
        self.source.changes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one grant, for whatever service.
    #[derive(Debug)]
    struct Fixed(Grant);

    #[deny(clippy::missing_trait_methods)]
    impl TokenSource for Fixed {
        fn grant(&self, _: Service, _: Option<Generation>) -> BoxFuture<'_, Result<Grant, GrantError>> {
            Box::pin(async { Ok(self.0.clone()) })
        }

        fn grants(&self, _: Service, _: Option<Generation>) -> BoxFuture<'_, Result<Vec<Grant>, GrantError>> {
            Box::pin(async { Ok(vec![self.0.clone()]) })
        }

        fn changes(&self) -> watch::Receiver<Generation> {
            watch::Sender::new(Generation(1)).subscribe()
        }
    }

    fn at(endpoint: &str, entity: &str) -> Grant {
        Grant {
            endpoint: endpoint.parse().unwrap(),
            entity: entity.to_owned(),
            token: Token::Sas(Secret::new("sig")),
            expires_at: OffsetDateTime::UNIX_EPOCH,
            generation: Generation(1),
        }
    }

    #[tokio::test]
    async fn a_place_is_the_same_however_it_is_spelled_and_no_other_is() {
        let first = at("sb://ns.example", "exports");
        let granted = async |now: Grant| {
            let place = OnePlace::of(Arc::new(Fixed(now.clone())), &first);
            place.grant(Service::Bus, None).await.map(|grant| grant.endpoint == now.endpoint)
        };
        for same in ["sb://ns.example", "sb://ns.example/", "sb://NS.Example", "amqps://ns.example"] {
            assert!(granted(at(same, "exports")).await.unwrap(), "{same}, as it is spelled now");
        }
        let others =
            [("sb://ns.example:5000", "exports"), ("sb://ns.example/a", "exports"), ("sb://ns.example", "other")];
        for (endpoint, entity) in others.into_iter().chain([("sb://example", "exports")]) {
            let error = granted(at(endpoint, entity)).await.unwrap_err();
            assert!(matches!(&error, GrantError::Elsewhere { place, .. } if place == "ns.example/exports"), "{error}");
        }
    }

    #[test]
    fn a_grant_never_shows_its_token() {
        let grant = Grant {
            endpoint: "https://account.blob.core.windows.net/?sv=1&sig=hunter2".parse().unwrap(),
            entity: "exports".to_owned(),
            token: Token::Access(Secret::new("hunter2")),
            expires_at: OffsetDateTime::UNIX_EPOCH,
            generation: Generation(7),
        };
        let shown = format!("{grant:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("account.blob.core.windows.net") && shown.contains("exports"), "{shown}");
    }
}
