//! The tokens: one cache per process, one renewal at a time, whoever asks.
//!
//! TenantService issues tokens for the bus and for storage in one answer, so both share a [`Generation`]. A token is
//! renewed at 70–80 % of its life (with jitter, so that a fleet does not ask at once), and when a service refuses it. The
//! caller names the generation that was refused: twenty callers with the same one cause one renewal. While TenantService
//! is down, tokens that still work go on being used.
//!
//! TenantService is spared: callers that waited for a renewal that failed share its error, after a failure nobody asks for
//! a moment that grows (or as long as it says itself), and renewals because of refusals are rationed, because a service
//! that refuses every token (a missing right, a firewall, a wrong clock) is not helped by more of them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use rand::RngExt;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use url::Url;
use waybill_azure::{
    BoxFuture, Generation, Grant, GrantError, Secret, Service, Token, TokenSource,
    http::{Answer, HttpClient, HttpError, may_carry_token},
    identity::{AccessTokens, IdentityError},
};
use waybill_contracts::{GrantLayout, TEMPORARY_ENDPOINTS_PATH, TemporaryEndpoints};

use crate::{figures::Tally, inbox::Place};

/// For the whole call to TenantService.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// A grant is a few hundred bytes; lists of them stay far below this.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// A token whose life is unknown is taken to live this long.
const ASSUMED_LIFE: Duration = Duration::from_secs(600);
/// For a token that is over by our clock when it comes: one of the clocks is wrong, and only a refusal tells which.
const ODD_LIFE: Duration = Duration::from_secs(60);
/// No token is renewed ahead of time sooner than this.
const RENEW_AFTER_MIN: Duration = Duration::from_millis(250);
/// How long nobody asks after a renewal failed; doubled up to [`HOLD_OFF_MAX`].
const HOLD_OFF: Duration = Duration::from_millis(250);
const HOLD_OFF_MAX: Duration = Duration::from_secs(15);
/// A longer `Retry-After` is cut to this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);
/// Renewals because of refusals that may follow each other at once: many rotations in a row are served without a pause.
const REFUSALS_AT_ONCE: u32 = 30;
/// How soon each of them may come again.
const REFUSAL_EVERY: Duration = Duration::from_secs(15);

/// How we show TenantService who we are.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Credential {
    /// A fixed bearer token, for development.
    Bearer(Secret),
    /// Access tokens of Entra ID.
    Entra(Arc<AccessTokens>),
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
    requests: Tally<&'static str>,
}

/// When the first token of a service dies; `None` for a service that the grant does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenEnds {
    /// Of those for Service Bus.
    pub bus: Option<OffsetDateTime>,
    /// Of those for storage.
    pub blob: Option<OffsetDateTime>,
}

#[derive(Default)]
struct State {
    issue: Option<Issue>,
    renewals: BTreeMap<RenewedBecause, u64>,
    failure: Option<Failure>,
    refusals: Ration,
}

/// The last renewal, which failed.
struct Failure {
    error: GrantError,
    /// In a row.
    times: u32,
    /// Nobody asks before.
    until: Instant,
}

/// So many at once, and then one every so often.
#[derive(Default)]
struct Ration {
    /// When everything that was taken is there again.
    full_at: Option<Instant>,
}

impl Ration {
    fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + REFUSAL_EVERY;
        let allowed = full_at - now <= REFUSAL_EVERY * REFUSALS_AT_ONCE;
        if allowed {
            self.full_at = Some(full_at);
        }
        allowed
    }
}

#[derive(Clone)]
struct Issue {
    bus: Vec<Grant>,
    blob: Vec<Grant>,
    generation: Generation,
    asked_at: OffsetDateTime,
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
        let mut url = tenant.clone();
        url.set_query(None);
        url.set_fragment(None);
        let unusable = |problem: &str| GrantError::Refused { service: Service::Bus, problem: problem.to_owned() };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(unusable("TenantService's address holds a name or password; leave it out"));
        }
        if !may_carry_token(&url) {
            return Err(unusable(&format!(
                "TenantService at {url}: only https, or http to this machine, may carry the token"
            )));
        }
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
            requests: Tally::default(),
        }))
    }

    /// Renews ahead of time until `stop`, so that an idle connection is given its next token before the old one dies.
    ///
    /// # Cancel safety
    /// Cancel-safe: a renewal under way is given up, and whoever needs a token next asks for it.
    pub async fn run(&self, stop: &CancellationToken) {
        let mut seen = self.generation.subscribe();
        loop {
            seen.mark_unchanged();
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
            if let Err(error) = renewed {
                let wait = self.held_off().unwrap_or(HOLD_OFF);
                tracing::warn!(%error, wait_ms = wait.as_millis(), "the tokens were not renewed; trying again");
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = seen.changed() => {}
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
    }

    /// How often tokens were renewed, and why.
    #[must_use]
    pub fn renewals(&self) -> BTreeMap<RenewedBecause, u64> {
        self.state().renewals.clone()
    }

    /// How often TenantService was asked, by what came of it: `granted`, `refused` or `unavailable`.
    #[must_use]
    pub fn requests(&self) -> BTreeMap<&'static str, u64> {
        self.requests.all()
    }

    /// When the tokens that are there die; `None` while there are none.
    #[must_use]
    pub fn ends(&self) -> Option<TokenEnds> {
        let issue = self.issue()?;
        let end = |grants: &[Grant]| grants.iter().map(|grant| grant.expires_at).min();
        Some(TokenEnds { bus: end(&issue.bus), blob: end(&issue.blob) })
    }

    /// Why the last renewal failed, without secrets; `None` when it did not.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.state().failure.as_ref().map(|failure| failure.error.to_string())
    }

    /// Where files lie according to the current grant, if there is one.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        self.issue().map(|issue| issue.blob.iter().map(place_of).collect()).unwrap_or_default()
    }

    fn issue(&self) -> Option<Issue> {
        self.state().issue.clone()
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
        self.may_ask(service, because)?;
        let renewed = self.ask_and_read(service).await;
        self.requests.add(match &renewed {
            Ok(_) => "granted",
            Err(GrantError::Unavailable { .. }) => "unavailable",
            Err(_) => "refused",
        });
        let mut state = self.state();
        let issue = match renewed {
            Ok(issue) => issue,
            Err(error) => {
                let times = state.failure.as_ref().map_or(0, |failure| failure.times) + 1;
                let pause = jittered(HOLD_OFF.saturating_mul(1 << times.min(16)).min(HOLD_OFF_MAX));
                let asked = match &error {
                    GrantError::Unavailable { retry_after, .. } => retry_after.unwrap_or_default().min(RETRY_AFTER_MAX),
                    _ => Duration::ZERO,
                };
                state.failure = Some(Failure { error: error.clone(), times, until: Instant::now() + pause.max(asked) });
                return Err(error);
            }
        };
        state.failure = None;
        state.issue = Some(issue.clone());
        *state.renewals.entry(because).or_default() += 1;
        drop(state);
        tracing::debug!(generation = issue.generation.0, ?because, "tokens renewed");
        self.generation.send_replace(issue.generation);
        Ok(issue)
    }

    /// Whether TenantService may be asked now; else what the callers are told without a request.
    fn may_ask(&self, service: Service, because: RenewedBecause) -> Result<(), GrantError> {
        let mut state = self.state();
        let now = Instant::now();
        if let Some(failure) = &state.failure
            && failure.until > now
        {
            return Err(for_service(&failure.error, service, failure.until - now));
        }
        let refused = matches!(because, RenewedBecause::RefusedByBus | RenewedBecause::RefusedByStorage);
        if refused && !state.refusals.take(now) {
            return Err(GrantError::RefusedTwice { service });
        }
        Ok(())
    }

    async fn ask_and_read(&self, service: Service) -> Result<Issue, GrantError> {
        let asked_at = (self.now)();
        let answer = self.ask(service).await?;
        let generation = Generation(self.generation.borrow().0 + 1);
        read_issue(service, answer, generation, asked_at)
    }

    /// How long nobody asks TenantService, after a failure.
    fn held_off(&self) -> Option<Duration> {
        self.state().failure.as_ref().map(|failure| failure.until.saturating_duration_since(Instant::now()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the grants are held")
    }

    async fn ask(&self, service: Service) -> Result<TemporaryEndpoints, GrantError> {
        let mut answer = self.ask_once(service).await?;
        if answer.status == 401
            && let Credential::Entra(tokens) = &self.credential
        {
            // It may have been withdrawn before its time: a fresh one tells that from a refusal.
            tokens.forget().map_err(|error| no_access(service, error))?;
            answer = self.ask_once(service).await?;
        }
        let unavailable = |problem: String, retry_after| GrantError::Unavailable { service, problem, retry_after };
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

    async fn ask_once(&self, service: Service) -> Result<Answer, GrantError> {
        let bearer = match &self.credential {
            Credential::Bearer(bearer) => bearer.clone(),
            Credential::Entra(tokens) => tokens.token().await.map_err(|error| no_access(service, error))?,
        };
        self.http.get_json(&self.url, &bearer, CALL_TIMEOUT, ANSWER_BYTES_MAX).await.map_err(|error| match error {
            // The other side was not even asked: waiting does not help.
            HttpError::Setup(_) | HttpError::Plain { .. } => {
                GrantError::Refused { service, problem: error.to_string() }
            }
            _ => GrantError::Unavailable {
                service,
                problem: format!("TenantService gave no answer: {error}"),
                retry_after: None,
            },
        })
    }
}

fn no_access(service: Service, error: IdentityError) -> GrantError {
    let problem = error.to_string();
    match error {
        IdentityError::Unavailable { retry_after, .. } => GrantError::Unavailable { service, problem, retry_after },
        _ => GrantError::Refused { service, problem },
    }
}

#[deny(clippy::missing_trait_methods)]
impl TokenSource for Grants {
    fn grant(&self, service: Service, refused: Option<Generation>) -> BoxFuture<'_, Result<Grant, GrantError>> {
        Box::pin(async move {
            let first = self.grants(service, refused).await?.into_iter().next();
            first.ok_or_else(|| not_named(service))
        })
    }

    fn grants(&self, service: Service, refused: Option<Generation>) -> BoxFuture<'_, Result<Vec<Grant>, GrantError>> {
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
                (Some(issue), _) if issue.is_over(service, now) => (Some(issue.generation), RenewedBecause::Due),
                (Some(issue), _) => return issue.grants(service),
            };
            match (self.renew(service, older, because).await, current) {
                (Ok(issue), _) => issue.grants(service),
                // One place's token is over, and those of others live still.
                (Err(_), Some(issue)) if because == RenewedBecause::Due && issue.lives(service, now) => {
                    issue.grants(service)
                }
                (Err(error), _) => Err(error),
            }
        })
    }

    fn changes(&self) -> watch::Receiver<Generation> {
        self.generation.subscribe()
    }
}

impl Issue {
    fn part(&self, service: Service) -> &[Grant] {
        match service {
            Service::Bus => &self.bus,
            Service::Blob => &self.blob,
        }
    }

    /// A token that was over when it came is used until it is refused: asking again would bring another like it.
    fn is_over(&self, service: Service, now: OffsetDateTime) -> bool {
        self.part(service).iter().any(|grant| grant.expires_at <= now && grant.expires_at > self.asked_at)
    }

    fn lives(&self, service: Service, now: OffsetDateTime) -> bool {
        self.part(service).iter().any(|grant| grant.expires_at > now)
    }

    fn grants(&self, service: Service) -> Result<Vec<Grant>, GrantError> {
        let grants = self.part(service).to_vec();
        if grants.is_empty() { Err(not_named(service)) } else { Ok(grants) }
    }
}

fn not_named(service: Service) -> GrantError {
    GrantError::Refused {
        service,
        problem: "TenantService's answer names no such endpoint; ask its owner for the missing part".to_owned(),
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
        // A token behind the address is shown to nobody, and is no part of the place.
        let address = text.split(['?', '#']).next().unwrap_or_default();
        let unusable = |problem: String| GrantError::Refused {
            service,
            problem: format!("TenantService named an unusable {what} endpoint: {problem}"),
        };
        let url = Url::parse(address).map_err(|error| unusable(format!("{address:?}: {error}")))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(unusable("it holds a name or password".to_owned()));
        }
        Ok(url)
    };
    let assumed = asked_at + ASSUMED_LIFE;
    let (mut bus, mut blob) = (Vec::new(), Vec::new());
    for part in answer.service_bus {
        bus.push(Grant {
            endpoint: endpoint(&part.endpoint, "bus")?,
            entity: part.entity_path,
            token: Token::Sas(Secret::new(part.sas_token)),
            expires_at: part.expires_at.unwrap_or(assumed),
            generation,
        });
    }
    for part in answer.blob_storage {
        blob.push(Grant {
            endpoint: endpoint(&part.endpoint, "blob")?,
            entity: part.container,
            token: Token::Sas(Secret::new(part.sas_token.trim_start_matches('?'))),
            expires_at: part.expires_at.unwrap_or(assumed),
            generation,
        });
    }
    let dies_at = bus.iter().chain(&blob).map(|grant| grant.expires_at).min().unwrap_or(assumed);
    let mut life = until(dies_at, asked_at);
    if life.is_zero() {
        tracing::warn!(%dies_at, now = %asked_at, "a new token is over by this machine's clock; check the clock");
        life = ODD_LIFE;
    }
    let renew_at = asked_at + life.mul_f64(rand::rng().random_range(0.70..0.80)).max(RENEW_AFTER_MIN);
    Ok(Issue { bus, blob, generation, asked_at, renew_at })
}

/// An error that somebody else met, as the caller for `service` is told of it.
fn for_service(error: &GrantError, service: Service, wait: Duration) -> GrantError {
    match error.clone() {
        GrantError::Unavailable { problem, .. } => {
            GrantError::Unavailable { service, problem, retry_after: Some(wait) }
        }
        GrantError::Refused { problem, .. } => GrantError::Refused { service, problem },
        GrantError::RefusedTwice { .. } => GrantError::RefusedTwice { service },
        other => other,
    }
}

fn until(then: OffsetDateTime, now: OffsetDateTime) -> Duration {
    (then - now).try_into().unwrap_or(Duration::ZERO)
}

/// Between half and all of a pause.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use waybill_contracts::{BlobEndpoint, BusEndpoint};

    use super::*;

    /// After how long tokens are renewed that live so many seconds.
    fn renewed_after(bus: i64, blob: i64) -> Vec<f64> {
        let asked = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let expires_at = |life| Some(asked + time::Duration::seconds(life));
        let answer = TemporaryEndpoints {
            service_bus: vec![BusEndpoint {
                endpoint: "sb://ns.example".to_owned(),
                entity_path: "e".to_owned(),
                sas_token: "SharedAccessSignature sr=x".to_owned(),
                expires_at: expires_at(bus),
            }],
            blob_storage: vec![BlobEndpoint {
                endpoint: "https://a.example".to_owned(),
                container: "c".to_owned(),
                sas_token: "sv=1".to_owned(),
                expires_at: expires_at(blob),
            }],
        };
        let issue = || read_issue(Service::Bus, answer.clone(), Generation(1), asked).unwrap();
        (0..400).map(|_| (issue().renew_at - asked).as_seconds_f64()).collect()
    }

    #[test]
    fn tokens_are_renewed_after_70_to_80_percent_of_the_shorter_life_and_not_all_at_once() {
        for (bus, blob) in [(1_000, 7_200), (7_200, 1_000)] {
            let after = renewed_after(bus, blob);
            assert!(after.iter().all(|after| (700.0..=800.0).contains(after)), "{after:?}");
            let (first, last) = after.iter().fold((f64::MAX, 0.0_f64), |(a, b), at| (a.min(*at), b.max(*at)));
            assert!(first < 720.0 && last > 780.0, "from {first} to {last}");
        }
        let over = renewed_after(-5, 1_000);
        assert!(over.iter().all(|after| (42.0..=48.0).contains(after)), "the clocks differ: {over:?}");
        let soon = renewed_after(0, 0);
        assert!(soon.iter().all(|after| *after >= RENEW_AFTER_MIN.as_secs_f64()), "{soon:?}");
    }
}
