//! Tokens that are signed here, and tokens of the authority of `waybill-local`, shown to its bus and its storage.

use std::{
    path::PathBuf,
    sync::{
        Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use waybill_local::{
    Local,
    config::{ClientConfig, Config, Ports},
    keys::{Role, TokenKind},
};

use super::*;
use crate::{
    Secret,
    blob::{BlobError, BlobHeaders, Container, ContainerOptions},
    bus::{Bus, BusError, BusOptions},
    http::{HttpClient, HttpOptions},
    identity::{AccessTokenOptions, Identity},
    sas_expiry,
};

fn tokens(life: Duration) -> AccountTokens {
    tokens_at(life, OffsetDateTime::now_utc)
}

fn tokens_at(life: Duration, now: fn() -> OffsetDateTime) -> AccountTokens {
    let bus = "Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=Root;SharedAccessKey=a2V5;UseDevelopmentEmulator=true";
    let blob = "AccountName=acme;AccountKey=a2V5";
    let bus = Issuer::Bus { key: bus.parse().unwrap(), life };
    let blob = Issuer::Blob { key: blob.parse().unwrap(), life };
    AccountTokens::new(
        Part::new(Service::Bus, bus, "exports".into()),
        Part::new(Service::Blob, blob, "batchtoprocess".into()),
        now,
    )
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
    assert!(bus.token.expose().starts_with("SharedAccessSignature sr=sb%3A%2F%2F127.0.0.1%2Fexports&"));
    assert_eq!(
        (blob.endpoint.as_str(), blob.entity.as_str()),
        ("https://acme.blob.core.windows.net/", "batchtoprocess")
    );
    assert!(blob.token.expose().contains("&sr=c&sp=rcwdl&"));
    for grant in [bus, blob] {
        assert_eq!(sas_expiry(&Secret::new(grant.token.expose())).unwrap(), grant.expires_at);
        assert!(grant.expires_at >= before + HOUR && grant.expires_at < after + HOUR + Duration::from_secs(1));
    }
}

#[tokio::test]
async fn asking_again_gives_the_same_token() {
    let tokens = tokens(HOUR);
    let first = tokens.grant(Service::Blob, None).await.unwrap();
    let second = tokens.grant(Service::Blob, None).await.unwrap();
    assert_eq!(first.generation, second.generation);
    assert_eq!(first.token, second.token);
}

#[tokio::test]
async fn a_renewed_token_is_another_one_even_within_the_same_second() {
    let tokens = tokens(HOUR);
    for service in [Service::Bus, Service::Blob] {
        let first = tokens.grant(service, None).await.unwrap();
        let second = tokens.grant(service, Some(first.generation)).await.unwrap();
        assert!(second.token != first.token && second.expires_at > first.expires_at);
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
    tokio::time::advance(JUST_SIGNED).await;
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
    let tokens = tokens_at(HOUR, now);
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

const CLIENT: &str = "5e0b1f6e-0000-4000-8000-000000000001";

/// `local` with a client that has these roles.
struct World {
    local: Local,
    http: HttpClient,
    tokens: Arc<dyn TokenSource>,
}

impl World {
    async fn new(roles: &[Role], token_life: Duration) -> Self {
        let mut config = Config { ports: Ports::RANDOM, tls: true, ..Config::default() };
        config.clients = vec![ClientConfig {
            id: CLIENT.to_owned(),
            tenant: "acme".to_owned(),
            secret: Some("s3cret".to_owned()),
            certificate_file: None,
            roles: roles.iter().copied().collect(),
        }];
        let local = Local::builder().config(config).access_token_life(token_life).start().await.unwrap();
        let ready = local.ready_file().clone();
        let ca_file = ready.ca_file.clone().map(PathBuf::from);
        let http = HttpClient::new(&HttpOptions { ca_file, ..HttpOptions::default() }).unwrap();
        let access = |scope: &str| {
            let authority = Some(ready.authority_url.as_deref().unwrap().parse().unwrap());
            let options = AccessTokenOptions { authority, ..AccessTokenOptions::of(scope) };
            let directory_id = ready.clients[0].directory_id.clone();
            let secret = Secret::new("s3cret");
            let identity = Identity::Secret { directory_id, client_id: CLIENT.to_owned(), secret };
            AccessTokens::new(http.clone(), identity, options).unwrap()
        };
        let bus: BusConnectionString = ready.service_bus_tls_connection_string.as_deref().unwrap().parse().unwrap();
        let blob: BlobConnectionString = ready.blob_connection_string.parse().unwrap();
        let tokens = account_tokens(
            Account::Identity { endpoint: bus.endpoint, tokens: Box::new(access(BUS_SCOPE)) },
            ready.topic.clone(),
            Account::Identity { endpoint: blob.endpoint, tokens: Box::new(access(BLOB_SCOPE)) },
            ready.container.clone(),
            HOUR,
        );
        Self { local, http, tokens }
    }

    fn container(&self) -> Container {
        Container::new(self.http.clone(), Arc::clone(&self.tokens), ContainerOptions::default())
    }

    fn bus(&self) -> Bus {
        let ca_file = self.local.ready_file().ca_file.clone().map(PathBuf::from);
        Bus::new(Arc::clone(&self.tokens), BusOptions { ca_file, ..BusOptions::default() })
    }

    async fn upload(&self, blob: &str) -> Result<(), BlobError> {
        let upload = self.container().upload(blob);
        upload.stage(Bytes::from_static(b"rows")).await?;
        let headers = BlobHeaders { content_type: "text/plain".to_owned(), ..BlobHeaders::default() };
        upload.commit(&headers).await.map(drop)
    }

    /// How many different tokens storage took.
    fn taken_by_storage(&self) -> usize {
        self.local.keys().tokens_used(TokenKind::Storage).len()
    }
}

#[tokio::test]
async fn an_identity_with_the_roles_uploads_and_opens_a_link_and_no_key_is_used() {
    let world = World::new(&[Role::BusSender, Role::BlobContributor], HOUR).await;
    world.upload("folder/one").await.unwrap();
    assert_eq!(world.container().head("folder/one").await.unwrap().length, 4);
    let bus = world.bus();
    bus.sender().await.unwrap();
    bus.close().await;
    let of_client = format!("client {CLIENT}");
    for kind in [TokenKind::Bus, TokenKind::Storage] {
        let used = world.local.keys().tokens_used(kind);
        assert_eq!(
            used.iter().map(|used| used.signed_by.as_str()).collect::<Vec<_>>(),
            [of_client.as_str()],
            "{kind:?}"
        );
    }
}

#[tokio::test]
async fn an_identity_without_a_role_is_refused_and_told_which_one_it_lacks() {
    let world = World::new(&[Role::BusReceiver, Role::BlobReader], HOUR).await;
    let error = world.upload("one").await.unwrap_err();
    let BlobError::AccessRefused { code, .. } = &error else { panic!("{error:?}") };
    assert_eq!(code, "AuthorizationPermissionMismatch");
    assert!(error.to_string().contains("the role Storage Blob Data Contributor"), "{error}");
    assert!(matches!(world.container().head("one").await, Err(BlobError::NotFound { .. })), "it may read");
    let bus = world.bus();
    let error = bus.sender().await.unwrap_err();
    assert!(matches!(error, BusError::Unauthorized { .. }), "{error:?}");
    assert!(error.to_string().contains("the role Azure Service Bus Data Sender"), "{error}");
    // More tokens do not help, so no more are asked for than if they had been withdrawn.
    assert!(matches!(bus.sender().await, Err(BusError::Unauthorized { .. })));
    let error = bus.sender().await.unwrap_err();
    assert!(
        matches!(&error, BusError::Grant(GrantError::Refused { problem, .. }) if problem.contains("the role")),
        "{error:?}"
    );
    bus.close().await;
}

#[tokio::test]
async fn twenty_uploads_whose_token_was_withdrawn_ask_for_one_new_one() {
    let world = World::new(&[Role::BlobContributor], HOUR).await;
    world.upload("first").await.unwrap();
    world.local.rotate(Some("acme")).unwrap();
    let uploads = (0..20).map(|number| {
        let world = &world;
        async move { world.upload(&format!("file {number}")).await.unwrap() }
    });
    futures::future::join_all(uploads).await;
    assert_eq!(world.taken_by_storage(), 2);
}

#[tokio::test]
async fn tokens_that_are_withdrawn_twice_are_replaced_twice_at_once() {
    let world = World::new(&[Role::BlobContributor], HOUR).await;
    for name in ["first", "second", "third"] {
        world.upload(name).await.unwrap();
        world.local.rotate(Some("acme")).unwrap();
    }
    assert_eq!(world.taken_by_storage(), 3);
}

/// Tokens for storage from an authority at this port, where nobody answers in TLS.
fn issued_at(port: u16) -> AccountTokens {
    let http = HttpClient::new(&HttpOptions::default()).unwrap();
    let authority = Some(format!("https://127.0.0.1:{port}").parse().unwrap());
    let options = AccessTokenOptions { authority, ..AccessTokenOptions::of(BLOB_SCOPE) };
    let identity = Identity::Secret {
        directory_id: CLIENT.to_owned(),
        client_id: CLIENT.to_owned(),
        secret: Secret::new("s3cret"),
    };
    let endpoint = "https://acme.blob.core.windows.net".parse().unwrap();
    let issuer = Issuer::Identity { endpoint, tokens: Box::new(AccessTokens::new(http, identity, options).unwrap()) };
    let bus = "Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=Root;SharedAccessKey=a2V5;UseDevelopmentEmulator=true";
    let bus = Issuer::Bus { key: bus.parse().unwrap(), life: HOUR };
    let blob = Part::new(Service::Blob, issuer, "batchtoprocess".into());
    AccountTokens::new(Part::new(Service::Bus, bus, "exports".into()), blob, OffsetDateTime::now_utc)
}

#[tokio::test]
async fn while_an_authority_is_asked_for_a_token_that_is_due_nobody_waits_for_it() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tokens = issued_at(silent.local_addr().unwrap().port());
    let now = OffsetDateTime::now_utc();
    let grant = Grant {
        endpoint: "https://acme.blob.core.windows.net".parse().unwrap(),
        entity: "batchtoprocess".to_owned(),
        token: Token::Access(Secret::new("old")),
        expires_at: now + HOUR,
        generation: Generation(1),
    };
    // By the clock that goes on while the machine sleeps.
    let renew_at = (Instant::now() + HOUR, now);
    let issued = Issued { grant, made_at: Instant::now(), made_on: now, renew_at, refused_before: 0 };
    lock(&tokens.shared.blob.state).issued = Some(issued);
    let at_once = Duration::from_secs(5);
    let granted = tokio::time::timeout(at_once, tokens.grant(Service::Blob, None)).await;
    assert_eq!(granted.expect("at once").unwrap().generation, Generation(1));
    let _asked = silent.accept().await.unwrap();
    // The question waits for an answer.
    let granted = tokio::time::timeout(at_once, tokens.grant(Service::Blob, None)).await;
    assert_eq!(granted.expect("at once").unwrap().generation, Generation(1));
}

#[tokio::test]
async fn who_comes_later_waits_for_what_is_left_of_the_time_that_an_authority_asks_for() {
    let tokens = issued_at(1);
    let until = Instant::now() + Duration::from_secs(60);
    let error = GrantError::Unavailable {
        service: Service::Blob,
        problem: "busy".to_owned(),
        retry_after: Some(Duration::from_secs(90)),
    };
    lock(&tokens.shared.blob.state).failure = Some(Failure { error, times: 1, until });
    let error = tokens.grant(Service::Blob, None).await.unwrap_err();
    let GrantError::Unavailable { retry_after: Some(left), .. } = error else { panic!("{error:?}") };
    assert!(left <= Duration::from_secs(60), "{left:?}");
}

#[tokio::test]
async fn an_issued_token_is_renewed_before_its_end_and_told_to_who_is_idle() {
    let world = World::new(&[Role::BlobContributor], Duration::from_secs(4)).await;
    let first = world.tokens.grant(Service::Blob, None).await.unwrap();
    let mut changes = world.tokens.changes();
    changes.mark_unchanged();
    changes.changed().await.unwrap();
    assert!(OffsetDateTime::now_utc() < first.expires_at, "renewed after the end of the old one");
    let second = world.tokens.grant(Service::Blob, None).await.unwrap();
    assert!(
        second.token != first.token && second.expires_at > first.expires_at && second.generation > first.generation
    );
    let shown = format!("{second:?}{:?}", world.tokens);
    assert!(!shown.contains(second.token.expose()) && !shown.contains("s3cret"), "{shown}");
}

#[tokio::test]
async fn while_the_authority_is_down_a_token_that_works_is_used_and_the_answer_shared() {
    let world = World::new(&[Role::BlobContributor], Duration::from_secs(30)).await;
    let first = world.tokens.grant(Service::Blob, None).await.unwrap();
    let World { local, tokens, .. } = world;
    local.stop().await;
    // Refused elsewhere: nobody can issue another, and twenty who ask share the answer.
    let asked = (0..20).map(|_| tokens.grant(Service::Blob, Some(first.generation)));
    for answer in futures::future::join_all(asked).await {
        assert!(matches!(answer, Err(GrantError::Unavailable { .. })), "{answer:?}");
    }
    assert_eq!(tokens.grant(Service::Blob, None).await.unwrap().generation, first.generation);
}
