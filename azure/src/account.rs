//! Tokens of one's own account: signed here from keys, or issued by Entra ID to an identity; the same contract for both.
//!
//! For publishers, which are of the company that owns the bus and the storage account. A subscriber gets its tokens from
//! TenantService.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::JoinSet,
    time::Instant,
};
use url::Url;

use crate::{
    BlobPermissions, BoxFuture, Generation, Grant, GrantError, Service, Token, TokenSource, blob_service_sas, bus_sas,
    connection_string::{BlobConnectionString, BusConnectionString},
    identity::{AccessTokens, IdentityError},
};

/// What an identity's access tokens for Service Bus are asked for. Microsoft, "Authenticate a managed identity with Microsoft
/// Entra ID to access Azure Service Bus resources".
pub const BUS_SCOPE: &str = "https://servicebus.azure.net/.default";
/// The same for storage. Microsoft, "Authorize with Microsoft Entra ID" of the storage REST reference.
pub const BLOB_SCOPE: &str = "https://storage.azure.com/.default";

/// A refusal of a token that is younger than this, and was made because of a refusal, is a further one in a row; the second is told.
const JUST_SIGNED: Duration = Duration::from_secs(2);
/// The same for one that was issued: a missing role is not helped by more of them.
const JUST_ISSUED: Duration = Duration::from_secs(60);
/// So many in a row bring another issued token, which costs a request each: tokens may be withdrawn twice.
const WITHDRAWN_MAX: u32 = 2;
/// Azure counts a token's life in whole seconds.
const LIFE_MIN: Duration = Duration::from_secs(1);
/// A token that was issued is not renewed ahead of time sooner than this: a machine's identity gives the same one until it nears
/// its end.
const RENEW_AFTER_MIN: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(10) };
/// For a token that is over by our clock when it comes.
const ODD_LIFE: Duration = Duration::from_secs(60);
/// How long nobody asks after a renewal failed; doubled up to [`HOLD_OFF_MAX`].
const HOLD_OFF: Duration = Duration::from_millis(250);
const HOLD_OFF_MAX: Duration = Duration::from_secs(15);
/// A longer `Retry-After` is cut to this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// Signs tokens of `life` (default of the callers: 1 hour; at least 1 s, rounded up to a full second) from keys: for
/// `entity` on the bus, for `container` in the account with read, create, write, delete and list. See [`account_tokens`].
#[must_use]
pub fn key_tokens(
    bus: BusConnectionString,
    entity: String,
    blob: BlobConnectionString,
    container: String,
    life: Duration,
) -> Arc<dyn TokenSource> {
    account_tokens(Account::Key(bus), entity, Account::Key(blob), container, life)
}

/// By what right a service is used; `K` is its connection string.
#[derive(Debug)]
pub enum Account<K> {
    /// A key, with which tokens are signed here.
    Key(K),
    /// The roles of an identity.
    Identity {
        /// As in [`Grant`].
        endpoint: Url,
        /// For [`BUS_SCOPE`], or [`BLOB_SCOPE`].
        tokens: Box<AccessTokens>,
    },
}

/// Tokens for `entity` on the bus and for `container` in the storage account. Each is made when it is first asked for, and from
/// then on renewed at 70–80 % of its life and on refusal, as the contract of [`TokenSource`] says. One timer task renews ahead,
/// so that [`TokenSource::changes`] tells an idle connection in time; it starts with the first token, in the runtime that asks
/// for it, and ends with the source. `life` is that of tokens which are signed here, at least 1 s.
#[must_use]
pub fn account_tokens(
    bus: Account<BusConnectionString>,
    entity: String,
    blob: Account<BlobConnectionString>,
    container: String,
    life: Duration,
) -> Arc<dyn TokenSource> {
    let life = life.max(LIFE_MIN);
    let bus = match bus {
        Account::Key(key) => Issuer::Bus { key, life },
        Account::Identity { endpoint, tokens } => Issuer::Identity { endpoint, tokens },
    };
    let blob = match blob {
        Account::Key(key) => Issuer::Blob { key, life },
        Account::Identity { endpoint, tokens } => Issuer::Identity { endpoint, tokens },
    };
    Arc::new(AccountTokens::new(
        Part::new(Service::Bus, bus, entity),
        Part::new(Service::Blob, blob, container),
        OffsetDateTime::now_utc,
    ))
}

#[derive(Debug)]
struct AccountTokens {
    shared: Arc<Shared>,
    timer: Mutex<JoinSet<()>>,
}

impl AccountTokens {
    fn new(bus: Part, blob: Part, now: fn() -> OffsetDateTime) -> Self {
        let (changes, _) = watch::channel(Generation::default());
        Self { shared: Arc::new(Shared { bus, blob, now, changes, due: Notify::new() }), timer: Mutex::default() }
    }

    /// Starts the timer unless it runs; whether it does. Outside of a runtime there is nothing to start it in, and tokens are renewed
    /// when they are asked for.
    fn ensure_timer(&self) -> bool {
        let mut timer = lock(&self.timer);
        while timer.try_join_next().is_some() {}
        if timer.is_empty()
            && let Ok(runtime) = Handle::try_current()
        {
            timer.spawn_on(renew_ahead(Arc::clone(&self.shared)), &runtime);
        }
        !timer.is_empty()
    }
}

impl TokenSource for AccountTokens {
    fn grant(&self, service: Service, refused: Option<Generation>) -> BoxFuture<'_, Result<Grant, GrantError>> {
        Box::pin(async move {
            let timer_runs = self.ensure_timer();
            self.shared.grant(service, refused, timer_runs).await
        })
    }

    fn changes(&self) -> watch::Receiver<Generation> {
        self.shared.changes.subscribe()
    }
}

#[derive(Debug)]
struct Shared {
    bus: Part,
    blob: Part,
    now: fn() -> OffsetDateTime,
    /// A renewal of either part takes the next one.
    changes: watch::Sender<Generation>,
    /// A token is due by the clock that the timer does not see.
    due: Notify,
}

/// The tokens of one service.
#[derive(Debug)]
struct Part {
    service: Service,
    issuer: Issuer,
    /// The topic, or the container.
    entity: String,
    /// Held during a renewal, so that there is one at a time.
    renewing: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum Issuer {
    Bus { key: BusConnectionString, life: Duration },
    Blob { key: BlobConnectionString, life: Duration },
    Identity { endpoint: Url, tokens: Box<AccessTokens> },
}

#[derive(Debug, Default)]
struct State {
    issued: Option<Issued>,
    failure: Option<Failure>,
}

#[derive(Debug, Clone)]
struct Issued {
    grant: Grant,
    made_at: Instant,
    made_on: OffsetDateTime,
    /// By the clock that does not jump, and by the clock that goes on while the machine sleeps: whichever comes first.
    renew_at: (Instant, OffsetDateTime),
    /// How many in a row were refused before it.
    refused_before: u32,
}

/// The last renewal, which failed.
#[derive(Debug)]
struct Failure {
    error: GrantError,
    /// In a row.
    times: u32,
    /// Nobody asks before.
    until: Instant,
}

impl Failure {
    /// How long nobody asks.
    fn left(&self) -> Option<Duration> {
        self.until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }
}

impl Issued {
    fn is_due(&self, now: OffsetDateTime) -> bool {
        Instant::now() >= self.renew_at.0 || now >= self.renew_at.1
    }

    /// A token that was over when it came is used until it is refused: one of the clocks is wrong, and asking again would bring
    /// another like it.
    fn is_over(&self, now: OffsetDateTime) -> bool {
        now >= self.grant.expires_at && self.grant.expires_at > self.made_on
    }
}

impl Shared {
    fn part(&self, service: Service) -> &Part {
        match service {
            Service::Bus => &self.bus,
            Service::Blob => &self.blob,
        }
    }

    async fn grant(
        &self,
        service: Service,
        refused: Option<Generation>,
        timer_runs: bool,
    ) -> Result<Grant, GrantError> {
        let part = self.part(service);
        let is_refused = |issued: &Issued| refused.is_some_and(|refused| refused >= issued.grant.generation);
        let mut turn = None;
        loop {
            let current = lock(&part.state).issued.clone();
            let now = (self.now)();
            // What still works is handed out while somebody renews it, and while it cannot be renewed.
            let works = current.as_ref().filter(|issued| !is_refused(issued) && !issued.is_over(now));
            if let Some(issued) = works {
                let is_due = issued.is_due(now);
                // Nobody waits for an authority while there is a token that works: the timer asks it.
                let is_asked_for = is_due && timer_runs && part.issuer.is_elsewhere();
                if is_asked_for {
                    self.due.notify_one();
                }
                if !is_due || is_asked_for {
                    return Ok(issued.grant.clone());
                }
            }
            if turn.is_none() {
                turn = Some(match (part.renewing.try_lock(), works) {
                    (Ok(turn), _) => turn,
                    (Err(_), Some(issued)) => return Ok(issued.grant.clone()),
                    (Err(_), None) => part.renewing.lock().await,
                });
                // Another caller may have renewed before it was our turn.
                continue;
            }
            let (just_made, refused_max) = part.issuer.just_made();
            let refused = current
                .as_ref()
                .filter(|issued| is_refused(issued))
                .map_or(0, |issued| 1 + if issued.made_at.elapsed() < just_made { issued.refused_before } else { 0 });
            if refused > refused_max {
                return Err(part.refused_again());
            }
            return match (self.renew(part, refused).await, works) {
                (Err(_), Some(issued)) => Ok(issued.grant.clone()),
                (renewed, _) => renewed,
            };
        }
    }

    /// Makes the next token, unless an attempt failed a moment ago. Whoever calls has the turn.
    async fn renew(&self, part: &Part, refused_before: u32) -> Result<Grant, GrantError> {
        let after = {
            let state = lock(&part.state);
            if let Some(failure) = &state.failure
                && let Some(left) = failure.left()
            {
                return Err(waiting(failure.error.clone(), Some(left)));
            }
            // Expiries have whole seconds, and the same expiry makes the same token: the one that was just refused.
            state.issued.as_ref().map(|issued| issued.grant.expires_at)
        };
        let made = part.make((self.now)(), after).await;
        let (now, made_at) = ((self.now)(), Instant::now());
        let mut state = lock(&part.state);
        match made {
            Ok((endpoint, token, expires_at)) => {
                let life = part.issuer.renew_after(expires_at, now);
                let mut generation = Generation::default();
                self.changes.send_modify(|newest| {
                    newest.0 += 1;
                    generation = *newest;
                    let grant = Grant { endpoint, entity: part.entity.clone(), token, expires_at, generation };
                    let renew_at = (made_at + life, now + life);
                    let issued = Issued { grant, made_at, made_on: now, renew_at, refused_before };
                    *state = State { issued: Some(issued), failure: None };
                });
                tracing::debug!(service = ?part.service, generation = generation.0, "token renewed");
                Ok(state.issued.as_ref().map(|issued| issued.grant.clone()).expect("it was put there above"))
            }
            Err(error) => {
                let times = state.failure.as_ref().map_or(0, |failure| failure.times) + 1;
                let pause = HOLD_OFF.saturating_mul(1 << times.min(16)).min(HOLD_OFF_MAX);
                let pause = pause.mul_f64(rand::random_range(0.5..1.0));
                let asked = match &error {
                    GrantError::Unavailable { retry_after, .. } => retry_after.map(|asked| asked.min(RETRY_AFTER_MAX)),
                    _ => None,
                };
                let error = waiting(error, asked);
                let until = made_at + pause.max(asked.unwrap_or_default());
                state.failure = Some(Failure { error: error.clone(), times, until });
                Err(error)
            }
        }
    }

    /// When the first token is to be renewed.
    fn next_renewal(&self) -> Option<Instant> {
        let due = |part: &Part| {
            let state = lock(&part.state);
            let failed = state.failure.as_ref().map(|failure| failure.until);
            state.issued.as_ref().map(|issued| failed.map_or(issued.renew_at.0, |until| until.max(issued.renew_at.0)))
        };
        [due(&self.bus), due(&self.blob)].into_iter().flatten().min()
    }

    async fn renew_due(&self, part: &Part) {
        let _turn = part.renewing.lock().await;
        let is_due = {
            let state = lock(&part.state);
            let is_held_off = state.failure.as_ref().is_some_and(|failure| failure.left().is_some());
            !is_held_off && state.issued.as_ref().is_some_and(|issued| issued.is_due((self.now)()))
        };
        if is_due && let Err(error) = self.renew(part, 0).await {
            tracing::warn!(service = ?part.service, %error, "a token was not renewed ahead of time; trying again");
        }
    }
}

/// Renews each token when it is due, until the source is dropped.
async fn renew_ahead(shared: Arc<Shared>) {
    let mut changes = shared.changes.subscribe();
    loop {
        changes.mark_unchanged();
        let by_the_timer = async {
            match shared.next_renewal() {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let due = async {
            tokio::select! {
                () = by_the_timer => {}
                () = shared.due.notified() => {}
            }
        };
        tokio::select! {
            () = due => {
                futures::future::join(shared.renew_due(&shared.bus), shared.renew_due(&shared.blob)).await;
            }
            // A token was made meanwhile, and may be the next to be due. (The sender lives in `shared`.)
            _ = changes.changed() => {}
        }
    }
}

/// A panic elsewhere does not spoil the state: every change to it is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Part {
    fn new(service: Service, issuer: Issuer, entity: String) -> Self {
        Self { service, issuer, entity, renewing: tokio::sync::Mutex::default(), state: Mutex::default() }
    }

    fn refused_again(&self) -> GrantError {
        match &self.issuer {
            Issuer::Bus { .. } | Issuer::Blob { .. } => GrantError::RefusedTwice { service: self.service },
            Issuer::Identity { .. } => {
                let service = self.service;
                let problem =
                    format!("{service:?} refused several access tokens in a row; {}", Token::role_advice(service));
                GrantError::Refused { service, problem }
            }
        }
    }

    /// A token that ends later than `after`, where it is signed here.
    async fn make(
        &self,
        now: OffsetDateTime,
        after: Option<OffsetDateTime>,
    ) -> Result<(Url, Token, OffsetDateTime), GrantError> {
        match &self.issuer {
            Issuer::Bus { key, life } => {
                let expires_at = full_second(now, *life, after);
                let host = key.endpoint.host_str().unwrap_or_default();
                let resource = format!("sb://{host}/{}", self.entity);
                let sas = bus_sas(&resource, &key.key_name, &key.key, expires_at);
                Ok((key.endpoint.clone(), Token::Sas(sas), expires_at))
            }
            Issuer::Blob { key: BlobConnectionString { endpoint, account, key }, life } => {
                let expires_at = full_second(now, *life, after);
                let all = BlobPermissions { read: true, create: true, write: true, delete: true, list: true };
                let sas = blob_service_sas(account, key, &self.entity, all, expires_at, endpoint)
                    .map_err(|error| GrantError::Refused { service: self.service, problem: error.to_string() })?;
                Ok((endpoint.clone(), Token::Sas(sas), expires_at))
            }
            Issuer::Identity { endpoint, tokens } => {
                // It keeps its own until five minutes before the end; who asks here wants another one.
                let asked = async {
                    if after.is_some() {
                        tokens.forget()?;
                    }
                    tokens.token_and_end().await
                };
                let (access, expires_at) = asked.await.map_err(|error| no_access(self.service, error))?;
                Ok((endpoint.clone(), Token::Access(access), expires_at))
            }
        }
    }
}

/// An error whose caller is told to wait for so long.
fn waiting(error: GrantError, wait: Option<Duration>) -> GrantError {
    match error {
        GrantError::Unavailable { service, problem, .. } => {
            GrantError::Unavailable { service, problem, retry_after: wait }
        }
        other => other,
    }
}

fn no_access(service: Service, error: IdentityError) -> GrantError {
    let problem = error.to_string();
    match error {
        IdentityError::Unavailable { retry_after, .. } => GrantError::Unavailable { service, problem, retry_after },
        _ => GrantError::Refused { service, problem },
    }
}

impl Issuer {
    /// How long a token counts as just made, and how many of those may be refused in a row.
    fn just_made(&self) -> (Duration, u32) {
        match self {
            Self::Bus { .. } | Self::Blob { .. } => (JUST_SIGNED, 1),
            Self::Identity { .. } => (JUST_ISSUED, WITHDRAWN_MAX),
        }
    }

    /// Whether somebody is asked for a token, who may take their time.
    fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Identity { .. })
    }

    /// How long a token that was just made is used before the next one is asked for.
    fn renew_after(&self, expires_at: OffsetDateTime, now: OffsetDateTime) -> Duration {
        let part = rand::random_range(0.70..0.80);
        match self {
            Self::Bus { life, .. } | Self::Blob { life, .. } => life.mul_f64(part),
            Self::Identity { .. } => {
                let life = Duration::try_from(expires_at - now).unwrap_or(ODD_LIFE);
                life.mul_f64(part).max(RENEW_AFTER_MIN)
            }
        }
    }
}

/// A full second at least one life away, and later than `after`.
fn full_second(now: OffsetDateTime, life: Duration, after: Option<OffsetDateTime>) -> OffsetDateTime {
    let end = (now + life + time::Duration::nanoseconds(999_999_999)).truncate_to_second();
    after.map_or(end, |after| end.max(after + time::Duration::SECOND))
}

#[cfg(test)]
mod tests;
