//! Tokens signed here, from keys: no issuer to ask, but the same contract.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::{runtime::Handle, sync::watch, task::JoinSet, time::Instant};

use super::{BlobConnectionString, BusConnectionString};
use crate::{
    BlobPermissions, BoxFuture, Generation, Grant, GrantError, Service, TokenSource, blob_service_sas, bus_sas,
};

/// A refusal of a token that is younger than this, and was made because of a refusal, is a second one in a row.
const JUST_MADE: Duration = Duration::from_secs(2);
/// Azure counts a token's life in whole seconds.
const LIFE_MIN: Duration = Duration::from_secs(1);

/// Signs tokens of `life` (default of the callers: 1 hour; at least 1 s, rounded up to a full second) from keys: for
/// `entity` on the bus, for `container` in the account with read, create, write, delete and list. Each is made when it is
/// first asked for, and from then on renewed at 70–80 % of its life and on refusal, as the contract of [`TokenSource`]
/// says. One timer task renews ahead, so that [`TokenSource::changes`] tells an idle connection in time; it starts with
/// the first token, in the runtime that asks for it, and ends with the source.
#[must_use]
pub fn key_tokens(
    bus: BusConnectionString,
    entity: String,
    blob: BlobConnectionString,
    container: String,
    life: Duration,
) -> Arc<dyn TokenSource> {
    Arc::new(KeyTokens::new(Signer { bus, entity, blob, container, life: life.max(LIFE_MIN) }, OffsetDateTime::now_utc))
}

#[derive(Debug)]
struct KeyTokens {
    shared: Arc<Shared>,
    timer: Mutex<JoinSet<()>>,
}

impl KeyTokens {
    fn new(signer: Signer, now: fn() -> OffsetDateTime) -> Self {
        let (changes, _) = watch::channel(Generation::default());
        let shared = Arc::new(Shared { signer, now, state: Mutex::default(), changes });
        Self { shared, timer: Mutex::default() }
    }

    /// Starts the timer unless it runs. Outside of a runtime there is nothing to start it in, and tokens are renewed when
    /// they are asked for.
    fn ensure_timer(&self) {
        let mut timer = lock(&self.timer);
        while timer.try_join_next().is_some() {}
        if timer.is_empty()
            && let Ok(runtime) = Handle::try_current()
        {
            timer.spawn_on(renew_ahead(Arc::clone(&self.shared)), &runtime);
        }
    }
}

impl TokenSource for KeyTokens {
    fn grant(&self, service: Service, refused: Option<Generation>) -> BoxFuture<'_, Result<Grant, GrantError>> {
        Box::pin(async move {
            self.ensure_timer();
            self.shared.grant(service, refused)
        })
    }

    fn changes(&self) -> watch::Receiver<Generation> {
        self.shared.changes.subscribe()
    }
}

#[derive(Debug)]
struct Shared {
    signer: Signer,
    now: fn() -> OffsetDateTime,
    state: Mutex<State>,
    changes: watch::Sender<Generation>,
}

/// The tokens of both services; a renewal of either takes the next generation.
#[derive(Debug, Default)]
struct State {
    generation: Generation,
    bus: Option<Issued>,
    blob: Option<Issued>,
}

#[derive(Debug)]
struct Issued {
    grant: Grant,
    made_at: Instant,
    /// By the clock that does not jump, and by the clock that goes on while the machine sleeps: whichever comes first.
    renew_at: (Instant, OffsetDateTime),
    because_refused: bool,
}

impl Issued {
    fn is_due(&self, now: OffsetDateTime) -> bool {
        Instant::now() >= self.renew_at.0 || now >= self.renew_at.1
    }
}

impl State {
    fn slot(&mut self, service: Service) -> &mut Option<Issued> {
        match service {
            Service::Bus => &mut self.bus,
            Service::Blob => &mut self.blob,
        }
    }
}

impl Shared {
    fn grant(&self, service: Service, refused: Option<Generation>) -> Result<Grant, GrantError> {
        let mut state = lock(&self.state);
        let now = (self.now)();
        let mut because_refused = false;
        if let Some(issued) = state.slot(service) {
            because_refused = refused.is_some_and(|refused| refused >= issued.grant.generation);
            if because_refused && issued.because_refused && issued.made_at.elapsed() < JUST_MADE {
                return Err(GrantError::RefusedTwice { service });
            }
            if !because_refused && !issued.is_due(now) {
                return Ok(issued.grant.clone());
            }
        }
        self.issue(&mut state, service, now, because_refused)
    }

    fn issue(
        &self,
        state: &mut State,
        service: Service,
        now: OffsetDateTime,
        because_refused: bool,
    ) -> Result<Grant, GrantError> {
        let generation = Generation(state.generation.0 + 1);
        // Expiries have whole seconds, and the same expiry makes the same token: the one that was just refused.
        let after = state.slot(service).as_ref().map(|issued| issued.grant.expires_at);
        let grant = self.signer.sign(service, self.signer.expiry(now, after), generation)?;
        let life = self.signer.life.mul_f64(rand::random_range(0.70..0.80));
        let made_at = Instant::now();
        state.generation = generation;
        *state.slot(service) =
            Some(Issued { grant: grant.clone(), made_at, renew_at: (made_at + life, now + life), because_refused });
        self.changes.send_replace(generation);
        Ok(grant)
    }

    /// When the first token is to be renewed.
    fn next_renewal(&self) -> Option<Instant> {
        let state = lock(&self.state);
        [&state.bus, &state.blob].into_iter().flatten().map(|issued| issued.renew_at.0).min()
    }

    fn renew_due(&self) {
        let mut state = lock(&self.state);
        let now = (self.now)();
        for service in [Service::Bus, Service::Blob] {
            if state.slot(service).as_ref().is_some_and(|issued| issued.is_due(now))
                && let Err(error) = self.issue(&mut state, service, now, false)
            {
                // It was signed once, so only a date beyond the calendar is left; whoever asks next gets the error.
                tracing::warn!(?service, %error, "a token could not be renewed ahead of time");
                *state.slot(service) = None;
            }
        }
    }
}

/// Renews each token when it is due, until the source is dropped.
async fn renew_ahead(shared: Arc<Shared>) {
    let mut changes = shared.changes.subscribe();
    loop {
        changes.mark_unchanged();
        let due = async {
            match shared.next_renewal() {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => shared.renew_due(),
            // A token was made meanwhile, and may be the next to be due. (The sender lives in `shared`.)
            _ = changes.changed() => {}
        }
    }
}

/// A panic elsewhere does not spoil the state: every change to it is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Signer {
    bus: BusConnectionString,
    entity: String,
    blob: BlobConnectionString,
    container: String,
    life: Duration,
}

impl Signer {
    /// A full second at least one life away, and later than `after`.
    fn expiry(&self, now: OffsetDateTime, after: Option<OffsetDateTime>) -> OffsetDateTime {
        let end = (now + self.life + time::Duration::nanoseconds(999_999_999)).truncate_to_second();
        after.map_or(end, |after| end.max(after + time::Duration::SECOND))
    }

    fn sign(&self, service: Service, expires_at: OffsetDateTime, generation: Generation) -> Result<Grant, GrantError> {
        Ok(match service {
            Service::Bus => {
                let host = self.bus.endpoint.host_str().unwrap_or_default();
                let resource = format!("sb://{host}/{}", self.entity);
                Grant {
                    endpoint: self.bus.endpoint.clone(),
                    entity: self.entity.clone(),
                    sas: bus_sas(&resource, &self.bus.key_name, &self.bus.key, expires_at),
                    expires_at,
                    generation,
                }
            }
            Service::Blob => {
                let all = BlobPermissions { read: true, create: true, write: true, delete: true, list: true };
                let BlobConnectionString { endpoint, account, key } = &self.blob;
                let sas = blob_service_sas(account, key, &self.container, all, expires_at, endpoint)
                    .map_err(|error| GrantError::Refused { service, problem: error.to_string() })?;
                Grant { endpoint: endpoint.clone(), entity: self.container.clone(), sas, expires_at, generation }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Weak,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;
    use crate::sas_expiry;

    fn tokens(life: Duration) -> KeyTokens {
        KeyTokens::new(signer(life), OffsetDateTime::now_utc)
    }

    fn signer(life: Duration) -> Signer {
        let bus =
            "Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=Root;SharedAccessKey=a2V5;UseDevelopmentEmulator=true";
        let blob = "AccountName=acme;AccountKey=a2V5";
        Signer {
            bus: bus.parse().unwrap(),
            entity: "exports".into(),
            blob: blob.parse().unwrap(),
            container: "batchtoprocess".into(),
            life,
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn each_service_gets_its_own_token_that_lives_as_long_as_it_says() {
        let tokens = tokens(HOUR);
        let before = OffsetDateTime::now_utc();
        let bus = tokens.grant(Service::Bus, None).await.unwrap();
        let blob = tokens.grant(Service::Blob, None).await.unwrap();
        let after = OffsetDateTime::now_utc();
        assert_eq!((bus.endpoint.as_str(), bus.entity.as_str()), ("amqp://127.0.0.1:5672", "exports"));
        assert!(bus.sas.expose().starts_with("SharedAccessSignature sr=sb%3A%2F%2F127.0.0.1%2Fexports&"));
        assert_eq!(
            (blob.endpoint.as_str(), blob.entity.as_str()),
            ("https://acme.blob.core.windows.net/", "batchtoprocess")
        );
        assert!(blob.sas.expose().contains("&sr=c&sp=rcwdl&"));
        for grant in [bus, blob] {
            assert_eq!(sas_expiry(&grant.sas).unwrap(), grant.expires_at);
            assert!(grant.expires_at >= before + HOUR && grant.expires_at < after + HOUR + Duration::from_secs(1));
        }
    }

    #[tokio::test]
    async fn asking_again_gives_the_same_token() {
        let tokens = tokens(HOUR);
        let first = tokens.grant(Service::Blob, None).await.unwrap();
        let second = tokens.grant(Service::Blob, None).await.unwrap();
        assert_eq!(first.generation, second.generation);
        assert_eq!(first.sas, second.sas);
    }

    #[tokio::test]
    async fn a_renewed_token_is_another_one_even_within_the_same_second() {
        let tokens = tokens(HOUR);
        for service in [Service::Bus, Service::Blob] {
            let first = tokens.grant(service, None).await.unwrap();
            let second = tokens.grant(service, Some(first.generation)).await.unwrap();
            assert!(second.sas != first.sas && second.expires_at > first.expires_at);
            assert!(second.expires_at - first.expires_at < Duration::from_secs(10));
        }
    }

    #[tokio::test]
    async fn twenty_refusals_of_one_token_are_one_renewal() {
        let tokens = Arc::new(tokens(HOUR));
        let first = tokens.grant(Service::Blob, None).await.unwrap();
        let mut callers = JoinSet::new();
        for _ in 0..20 {
            let (tokens, refused) = (Arc::clone(&tokens), first.generation);
            callers.spawn(async move { tokens.grant(Service::Blob, Some(refused)).await.unwrap().generation });
        }
        for generation in callers.join_all().await {
            assert_eq!(generation, Generation(first.generation.0 + 1));
        }
    }

    #[tokio::test]
    async fn a_refusal_of_one_service_leaves_the_token_of_the_other() {
        let tokens = tokens(HOUR);
        let bus = tokens.grant(Service::Bus, None).await.unwrap();
        let blob = tokens.grant(Service::Blob, None).await.unwrap();
        tokens.grant(Service::Blob, Some(blob.generation)).await.unwrap();
        assert_eq!(tokens.grant(Service::Bus, None).await.unwrap().generation, bus.generation);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_refusal_in_a_row_is_an_error_until_a_while_later() {
        let tokens = tokens(HOUR);
        let first = tokens.grant(Service::Bus, None).await.unwrap();
        let second = tokens.grant(Service::Bus, Some(first.generation)).await.unwrap();
        let error = tokens.grant(Service::Bus, Some(second.generation)).await.unwrap_err();
        assert!(matches!(error, GrantError::RefusedTwice { service: Service::Bus }), "{error}");
        // It may work elsewhere, so whoever has not been refused still gets it.
        assert_eq!(tokens.grant(Service::Bus, None).await.unwrap().generation, second.generation);
        tokio::time::advance(JUST_MADE).await;
        let third = tokens.grant(Service::Bus, Some(second.generation)).await.unwrap();
        assert!(third.generation > second.generation);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_hears_of_a_new_token_between_70_and_80_percent_of_the_old_ones_life() {
        let tokens = tokens(HOUR);
        let mut generation = tokens.grant(Service::Bus, None).await.unwrap().generation;
        let mut changes = tokens.changes();
        for _ in 0..20 {
            let made_at = Instant::now();
            changes.mark_unchanged();
            changes.changed().await.unwrap();
            let age = made_at.elapsed();
            // The clock of paused time goes in whole milliseconds.
            assert!(age >= HOUR * 7 / 10 && age <= HOUR * 8 / 10 + Duration::from_millis(2), "{age:?}");
            let renewed = tokens.grant(Service::Bus, None).await.unwrap();
            assert!(renewed.generation > generation);
            assert_eq!(renewed.generation, *changes.borrow());
            generation = renewed.generation;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_was_made_later_is_renewed_in_its_own_time() {
        let tokens = tokens(HOUR);
        tokens.grant(Service::Bus, None).await.unwrap();
        tokio::time::advance(HOUR / 2).await;
        let blob = tokens.grant(Service::Blob, None).await.unwrap();
        tokio::time::sleep(HOUR / 2).await;
        // The bus token was renewed meanwhile, the blob's is half-way.
        assert_eq!(tokens.grant(Service::Blob, None).await.unwrap().generation, blob.generation);
        assert!(tokens.grant(Service::Bus, None).await.unwrap().generation > blob.generation);
        tokio::time::sleep(HOUR * 4 / 10).await;
        assert!(tokens.grant(Service::Blob, None).await.unwrap().generation > blob.generation);
    }

    #[tokio::test]
    async fn after_a_sleep_of_the_machine_the_wall_clock_decides() {
        static SLEPT: AtomicBool = AtomicBool::new(false);
        let now = || {
            let slept = if SLEPT.load(Ordering::Relaxed) { HOUR } else { Duration::ZERO };
            OffsetDateTime::now_utc() + slept
        };
        let tokens = KeyTokens::new(signer(HOUR), now);
        let before = tokens.grant(Service::Blob, None).await.unwrap();
        assert_eq!(tokens.grant(Service::Blob, None).await.unwrap().generation, before.generation);
        SLEPT.store(true, Ordering::Relaxed);
        assert!(tokens.grant(Service::Blob, None).await.unwrap().generation > before.generation);
    }

    #[tokio::test]
    async fn dropping_the_source_ends_its_timer() {
        let tokens = tokens(HOUR);
        tokens.grant(Service::Bus, None).await.unwrap();
        let shared: Weak<Shared> = Arc::downgrade(&tokens.shared);
        let mut changes = tokens.changes();
        drop(tokens);
        // Ends once the task is gone, which held the other end.
        while changes.changed().await.is_ok() {}
        assert_eq!(shared.strong_count(), 0);
    }

    #[test]
    fn without_a_runtime_tokens_are_still_made() {
        let tokens = tokens(HOUR);
        let grant = futures::executor::block_on(tokens.grant(Service::Bus, None)).unwrap();
        assert_eq!(grant.generation, Generation(1));
    }
}
