//! The tokens: one cache per process, one renewal at a time, whoever asks.
//!
//! TenantService issues tokens for the bus and for storage in one answer, so both share a [`Generation`]. A token is
//! renewed at 70–80 % of its life (with jitter, so that a fleet does not ask at once), and when a service refuses it. The
//! caller names the generation that was refused: twenty callers with the same one cause one renewal. While TenantService
//! is down, tokens that still work go on being used.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::RngExt;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;
use waybill_azure::{BoxFuture, Generation, Grant, GrantError, Secret, Service, TokenSource, http::HttpClient};
use waybill_contracts::{GrantLayout, TEMPORARY_ENDPOINTS_PATH, TemporaryEndpoints};

use crate::inbox::Place;

/// For the whole call to TenantService.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A grant is a few hundred bytes; lists of them stay far below this.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// A token whose life is unknown is taken to live this long.
const ASSUMED_LIFE: Duration = Duration::from_secs(600);
/// The first pause after a failed renewal ahead of time; doubled up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE: Duration = Duration::from_millis(500);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);

/// How we show TenantService who we are.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Credential {
    /// A fixed bearer token, for development.
    Bearer(Secret),
}

/// Why a token was renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RenewedBecause {
    /// There was none yet.
    First,
    /// Its time was nearly over.
    Due,
    /// Service Bus refused it.
    RefusedByBus,
    /// Storage refused it.
    RefusedByStorage,
}

impl RenewedBecause {
    /// As serialised.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Due => "due",
            Self::RefusedByBus => "refused-by-bus",
            Self::RefusedByStorage => "refused-by-storage",
        }
    }
}

/// The cache of one tenant's grants. See the module.
pub struct Grants {
    http: HttpClient,
    url: Url,
    credential: Credential,
    layout: GrantLayout,
    now: fn() -> OffsetDateTime,
    /// Held during a renewal, so that there is one at a time.
    renewing: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    generation: watch::Sender<Generation>,
}

#[derive(Default)]
struct State {
    issue: Option<Issue>,
    renewals: BTreeMap<RenewedBecause, u64>,
}

#[derive(Clone)]
struct Issue {
    bus: Option<Grant>,
    blob: Option<Grant>,
    generation: Generation,
    /// When to ask for the next one.
    renew_at: OffsetDateTime,
}

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grants").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

impl Grants {
    /// For the tenant at `tenant` (TenantService's base address). Asks nothing yet.
    ///
    /// # Errors
    /// [`GrantError::Refused`] when the address is neither https nor plain http to loopback: the bearer token would be
    /// readable on the way.
    pub fn new(
        http: HttpClient,
        tenant: &Url,
        credential: Credential,
        layout: GrantLayout,
        now: fn() -> OffsetDateTime,
    ) -> Result<Arc<Self>, GrantError> {
        if !(tenant.scheme() == "https" || tenant.scheme() == "http" && is_loopback(tenant)) {
            return Err(GrantError::Refused {
                service: Service::Bus,
                problem: format!("TenantService at {tenant}: only https, or http to this machine, may carry the token"),
            });
        }
        let mut url = tenant.clone();
        url.set_query(None);
        url.set_path(&format!("{}{TEMPORARY_ENDPOINTS_PATH}", tenant.path().trim_end_matches('/')));
        Ok(Arc::new(Self {
            http,
            url,
            credential,
            layout,
            now,
            renewing: tokio::sync::Mutex::new(()),
            state: Mutex::new(State::default()),
            generation: watch::Sender::new(Generation::default()),
        }))
    }

    /// Renews ahead of time until `stop`, so that an idle connection is given its next token before the old one dies.
    pub async fn run(&self, stop: &CancellationToken) {
        let mut pause = RETRY_PAUSE;
        let mut seen = self.generation.subscribe();
        loop {
            let current = self.issue();
            let wait = current.as_ref().map_or(Duration::ZERO, |issue| until(issue.renew_at, (self.now)()));
            tokio::select! {
                () = stop.cancelled() => return,
                // Somebody else renewed: count again from the new token.
                _ = seen.changed() => continue,
                () = tokio::time::sleep(wait) => {}
            }
            let because = if current.is_none() { RenewedBecause::First } else { RenewedBecause::Due };
            let renewed = tokio::select! {
                () = stop.cancelled() => return,
                renewed = self.renew(Service::Bus, current.map(|issue| issue.generation), because) => renewed,
            };
            match renewed {
                Ok(_) => pause = RETRY_PAUSE,
                Err(error) => {
                    tracing::warn!(error = %error, "renewing the tokens ahead of time failed; trying again");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(jittered(pause)) => {}
                    }
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
            }
        }
    }

    /// How often tokens were renewed, and why.
    #[must_use]
    pub fn renewals(&self) -> BTreeMap<RenewedBecause, u64> {
        self.state.lock().expect("no panic while the grants are held").renewals.clone()
    }

    /// Where files lie according to the current grant, if there is one.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.issue().and_then(|issue| issue.blob).map(|grant| place_of(&grant))
    }

    fn issue(&self) -> Option<Issue> {
        self.state.lock().expect("no panic while the grants are held").issue.clone()
    }

    /// Asks TenantService, unless a newer generation than `older` is there by the time it is our turn.
    async fn renew(
        &self,
        service: Service,
        older: Option<Generation>,
        because: RenewedBecause,
    ) -> Result<Issue, GrantError> {
        let _one_at_a_time = self.renewing.lock().await;
        if let Some(issue) = self.issue()
            && older.is_none_or(|older| issue.generation > older)
        {
            return Ok(issue);
        }
        let asked_at = (self.now)();
        let answer = self.ask(service).await?;
        let generation = Generation(self.generation.borrow().0 + 1);
        let issue = read_issue(service, answer, generation, asked_at)?;
        {
            let mut state = self.state.lock().expect("no panic while the grants are held");
            state.issue = Some(issue.clone());
            *state.renewals.entry(because).or_default() += 1;
        }
        tracing::debug!(generation = generation.0, ?because, "tokens renewed");
        self.generation.send_replace(generation);
        Ok(issue)
    }

    async fn ask(&self, service: Service) -> Result<TemporaryEndpoints, GrantError> {
        let Credential::Bearer(bearer) = &self.credential;
        let unavailable = |problem: String, retry_after| GrantError::Unavailable { service, problem, retry_after };
        let answer = self
            .http
            .get_json(&self.url, bearer, CALL_TIMEOUT, ANSWER_BYTES_MAX)
            .await
            .map_err(|error| unavailable(error.to_string(), None))?;
        match answer.status {
            200 => TemporaryEndpoints::parse(&answer.body, &self.layout)
                .map_err(|error| GrantError::Refused { service, problem: error.to_string() }),
            401 | 403 => Err(GrantError::Refused {
                service,
                problem: format!(
                    "TenantService at {} answered {}; check the credential and that this tenant may export",
                    self.url, answer.status
                ),
            }),
            408 | 429 | 500.. => Err(unavailable(
                format!("TenantService at {} answered {}", self.url, answer.status),
                answer.retry_after,
            )),
            status => Err(GrantError::Refused {
                service,
                problem: format!("TenantService at {} answered {status}; check the address", self.url),
            }),
        }
    }
}

impl TokenSource for Grants {
    fn grant(&self, service: Service, refused: Option<Generation>) -> BoxFuture<'_, Result<Grant, GrantError>> {
        Box::pin(async move {
            let now = (self.now)();
            let current = self.issue();
            let (older, because) = match (&current, refused) {
                (None, _) => (None, RenewedBecause::First),
                (Some(issue), Some(refused)) if refused >= issue.generation => (
                    Some(issue.generation),
                    match service {
                        Service::Bus => RenewedBecause::RefusedByBus,
                        Service::Blob => RenewedBecause::RefusedByStorage,
                    },
                ),
                (Some(issue), _) if issue.part(service).is_some_and(|grant| grant.expires_at <= now) => {
                    (Some(issue.generation), RenewedBecause::Due)
                }
                (Some(issue), _) => return issue.grant(service),
            };
            self.renew(service, older, because).await?.grant(service)
        })
    }

    fn changes(&self) -> watch::Receiver<Generation> {
        self.generation.subscribe()
    }
}

impl Issue {
    fn part(&self, service: Service) -> Option<&Grant> {
        match service {
            Service::Bus => self.bus.as_ref(),
            Service::Blob => self.blob.as_ref(),
        }
    }

    fn grant(&self, service: Service) -> Result<Grant, GrantError> {
        self.part(service).cloned().ok_or_else(|| GrantError::Refused {
            service,
            problem: "TenantService's answer names no such endpoint; ask its owner for the missing part".to_owned(),
        })
    }
}

/// The place that a storage grant names.
#[must_use]
pub fn place_of(grant: &Grant) -> Place {
    Place { endpoint: grant.endpoint.as_str().trim_end_matches('/').to_owned(), container: grant.entity.clone() }
}

fn read_issue(
    service: Service,
    answer: TemporaryEndpoints,
    generation: Generation,
    asked_at: OffsetDateTime,
) -> Result<Issue, GrantError> {
    let endpoint = |text: &str, what: &str| {
        Url::parse(text).map_err(|error| GrantError::Refused {
            service,
            problem: format!("TenantService named an unusable {what} endpoint {text:?}: {error}"),
        })
    };
    let assumed = asked_at + ASSUMED_LIFE;
    // With a list, the first entry counts.
    let bus = match answer.service_bus.into_iter().next() {
        None => None,
        Some(part) => Some(Grant {
            endpoint: endpoint(&part.endpoint, "bus")?,
            entity: part.entity_path,
            sas: Secret::new(part.sas_token),
            expires_at: part.expires_at.unwrap_or(assumed),
            generation,
        }),
    };
    let blob = match answer.blob_storage.into_iter().next() {
        None => None,
        Some(part) => Some(Grant {
            endpoint: endpoint(&part.endpoint, "blob")?,
            entity: part.container,
            sas: Secret::new(part.sas_token.trim_start_matches('?')),
            expires_at: part.expires_at.unwrap_or(assumed),
            generation,
        }),
    };
    let dies_at = [&bus, &blob].into_iter().flatten().map(|grant| grant.expires_at).min().unwrap_or(assumed);
    let life = until(dies_at, asked_at);
    let renew_at = asked_at + life.mul_f64(rand::rng().random_range(0.70..0.80));
    Ok(Issue { bus, blob, generation, renew_at })
}

fn until(then: OffsetDateTime, now: OffsetDateTime) -> Duration {
    (then - now).try_into().unwrap_or(Duration::ZERO)
}

/// Between half and all of a pause.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.0))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
