//! A token source that counts, and where tokens go.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use time::OffsetDateTime;
use tokio::sync::{Barrier, watch};
use url::Url;

use super::{CONTAINER, SECRET, container, content, endpoint, generation, http, refusal, stored};
use crate::{
    BoxFuture, Generation, Grant, GrantError, Secret, Service, Token, TokenSource,
    blob::{BlobError, Container, ContainerOptions},
    peer::{End, Peer, Reply},
};

/// Tokens that are renewed only when the current one is refused.
pub(super) struct CountingTokens {
    endpoint: Mutex<Url>,
    sign: Box<dyn Fn(Generation) -> Secret + Send + Sync>,
    changes: watch::Sender<Generation>,
    asked: AtomicU64,
}

impl fmt::Debug for CountingTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CountingTokens")
    }
}

impl CountingTokens {
    pub(super) fn new(endpoint: Url, sign: impl Fn(Generation) -> Secret + Send + Sync + 'static) -> Self {
        let (changes, _) = watch::channel(Generation(1));
        Self { endpoint: Mutex::new(endpoint), sign: Box::new(sign), changes, asked: AtomicU64::new(0) }
    }

    pub(super) fn renewals(&self) -> u64 {
        self.changes.borrow().0 - 1
    }

    /// How often a token was refused.
    pub(super) fn refusals(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    pub(super) fn move_to(&self, endpoint: Url) {
        *self.endpoint.lock().unwrap() = endpoint;
    }
}

impl TokenSource for CountingTokens {
    fn grant(&self, service: Service, refused: Option<Generation>) -> BoxFuture<'_, Result<Grant, GrantError>> {
        assert_eq!(service, Service::Blob);
        self.asked.fetch_add(u64::from(refused.is_some()), Ordering::Relaxed);
        self.changes.send_if_modified(|current| {
            let renew = refused.is_some_and(|refused| refused >= *current);
            current.0 += u64::from(renew);
            renew
        });
        let generation = *self.changes.borrow();
        let grant = grant(self.endpoint.lock().unwrap().clone(), (self.sign)(generation), generation);
        Box::pin(async move { Ok(grant) })
    }

    fn changes(&self) -> watch::Receiver<Generation> {
        self.changes.subscribe()
    }
}

fn grant(endpoint: Url, sas: Secret, generation: Generation) -> Grant {
    let token = Token::Sas(sas);
    Grant { endpoint, entity: CONTAINER.to_owned(), token, expires_at: OffsetDateTime::UNIX_EPOCH, generation }
}

/// A token whose signature tells its generation.
pub(super) fn telling(generation: Generation) -> Secret {
    Secret::new(format!("sv=2021-12-02&se=2099-01-01&sr=c&sp=rcwdl&sig={SECRET}{}", generation.0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_parallel_refusals_make_one_renewal() {
    let blob = content(10_000);
    let served = blob.clone();
    // None is refused before all have asked.
    let all = Arc::new(Barrier::new(20));
    let peer = Peer::start(move |_, seen| match generation(seen) {
        1 => refusal(403, "AuthenticationFailed").behind(&all),
        _ => stored(&served, seen),
    })
    .await;
    let (container, tokens) = container(&peer, 4096);
    let mut downloads = tokio::task::JoinSet::new();
    for number in 0..20 {
        let container = container.clone();
        downloads.spawn(async move {
            let mut download = container.download(&format!("file-{number}"), 0, None).await.unwrap();
            let mut read = Vec::new();
            while let Some(bytes) = download.next().await.unwrap() {
                read.extend_from_slice(&bytes);
            }
            read
        });
    }
    for read in downloads.join_all().await {
        assert_eq!(read, blob);
    }
    assert_eq!((tokens.refusals(), tokens.renewals()), (20, 1));
}

#[tokio::test]
async fn a_second_refusal_is_an_error_that_names_the_code() {
    let peer = Peer::start(|_, _| refusal(403, "AuthorizationPermissionMismatch")).await;
    let (container, tokens) = container(&peer, 4096);
    let error = container.head("a").await.unwrap_err();
    let BlobError::AccessRefused { blob, code, .. } = error else { panic!("{error:?}") };
    assert_eq!((blob.as_str(), code.as_str()), ("a", "AuthorizationPermissionMismatch"));
    assert_eq!((tokens.renewals(), peer.seen().len()), (1, 2));
}

#[tokio::test]
async fn a_401_renews_as_well() {
    let peer = Peer::start(|number, _| refusal([401, 404][number], "BlobNotFound")).await;
    let (container, tokens) = container(&peer, 4096);
    assert!(matches!(container.head("a").await, Err(BlobError::NotFound { .. })));
    assert_eq!(tokens.renewals(), 1);
}

#[tokio::test]
async fn a_redirect_is_not_followed_so_the_token_stays() {
    let elsewhere = Peer::start(|_, _| Reply::new(200)).await;
    let location = endpoint(&elsewhere).to_string();
    let peer = Peer::start(move |_, _| Reply::new(307).with("Location", location.as_str())).await;
    let (container, _) = container(&peer, 4096);
    assert!(matches!(container.head("a").await, Err(BlobError::Refused { status: 307, .. })));
    assert!(matches!(container.download("a", 0, None).await, Err(BlobError::Refused { status: 307, .. })));
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn a_grant_that_moves_takes_its_token_to_the_new_place_only() {
    let blob = content(10_000);
    let (first, second) = (blob.clone(), blob.clone());
    let old = Peer::start(move |number, seen| match number {
        0 => stored(&first, seen),
        _ => refusal(403, "AuthenticationFailed"),
    })
    .await;
    let new = Peer::start(move |_, seen| stored(&second, seen)).await;
    let (container, tokens) = container(&old, 4000);
    let mut download = container.download("a", 0, None).await.unwrap();
    let mut read = Vec::new();
    while read.len() < 4000 {
        read.extend_from_slice(&download.next().await.unwrap().unwrap());
    }
    tokens.move_to(endpoint(&new));
    while let Some(bytes) = download.next().await.unwrap() {
        read.extend_from_slice(&bytes);
    }
    assert_eq!(read, blob);
    assert_eq!((old.seen().len(), new.seen().len()), (1, 2));
}

#[tokio::test]
async fn a_token_is_not_sent_over_plain_http_to_another_machine() {
    // 192.0.2.0/24 is for documentation: nothing answers there, and nothing must be asked.
    let tokens: Arc<dyn TokenSource> =
        Arc::new(CountingTokens::new(Url::parse("http://192.0.2.1/account").unwrap(), telling));
    let container = Container::new(http(), tokens, ContainerOptions::default());
    let error = container.head("a").await.unwrap_err();
    let BlobError::TokenWithheld { problem, .. } = error else { panic!("{error:?}") };
    assert!(problem.contains("http://192.0.2.1/account") && !problem.contains(SECRET), "{problem}");
}

#[tokio::test]
async fn names_that_would_leave_the_container_are_refused_before_anything_is_sent() {
    let peer = Peer::start(|_, _| Reply::new(200)).await;
    let (container, _) = container(&peer, 4096);
    for name in ["../other/a", "a/../../b", "a/./b", "", "/a", "a//b", "a/.."] {
        let error = container.head(name).await.unwrap_err();
        assert!(matches!(error, BlobError::Unfit { .. }), "{name}: {error:?}");
    }
    assert!(peer.seen().is_empty());
}

#[tokio::test]
async fn a_blobs_name_is_encoded_and_keeps_its_slashes() {
    let peer = Peer::start(|_, _| refusal(404, "BlobNotFound")).await;
    let (container, _) = container(&peer, 4096);
    container.head("Item Changes/2026-11-22/a%2Fb?c#d+e.gz").await.unwrap_err();
    assert_eq!(peer.seen()[0].path, "/account/batchtoprocess/Item%20Changes/2026-11-22/a%252Fb%3Fc%23d+e.gz");
}

#[tokio::test]
async fn an_endpoints_own_query_is_not_sent() {
    let peer = Peer::start(|_, _| refusal(404, "BlobNotFound")).await;
    let (container, tokens) = container(&peer, 4096);
    tokens.move_to(Url::parse(&format!("{}/?sv=old&sig=old#x", endpoint(&peer))).unwrap());
    container.head("a").await.unwrap_err();
    let seen = &peer.seen()[0];
    assert_eq!(seen.path, "/account/batchtoprocess/a");
    assert_eq!(seen.query, format!("sv=2021-12-02&se=2099-01-01&sr=c&sp=rcwdl&sig={SECRET}1"));
}

mod transport {
    use super::*;
    use crate::blob::transport::GrantTransport;

    fn signed(endpoint: &str, url: &str) -> Result<Url, String> {
        let transport = GrantTransport::new(
            http(),
            grant(Url::parse(endpoint).unwrap(), telling(Generation(1)), Generation(1)),
            std::time::Duration::from_secs(1),
            std::sync::Arc::default(),
        );
        assert!(!format!("{transport:?}").contains(SECRET));
        transport.signed(&Url::parse(url).unwrap()).map_err(|fault| fault.to_string())
    }

    #[test]
    fn the_token_is_put_on_inside_the_grants_container_alone() {
        const ENDPOINT: &str = "https://acme.blob.core.windows.net";
        signed(ENDPOINT, "https://acme.blob.core.windows.net/batchtoprocess/a").unwrap();
        signed(ENDPOINT, "https://acme.blob.core.windows.net/batchtoprocess?restype=container&comp=list").unwrap();
        signed(ENDPOINT, "https://ACME.blob.core.windows.net:443/batchtoprocess/a/b").unwrap();
        for foreign in [
            "https://evil.example.com/batchtoprocess/a",
            "https://acme.blob.core.windows.net.example.com/batchtoprocess/a",
            "https://acme.blob.core.windows.net:8443/batchtoprocess/a",
            "http://acme.blob.core.windows.net/batchtoprocess/a",
            "https://acme.blob.core.windows.net/other/a",
            "https://acme.blob.core.windows.net/batchtoprocess",
            "https://acme.blob.core.windows.net/batchtoprocess?restype=container&comp=metadata",
            "https://acme.blob.core.windows.net/?restype=container&comp=list",
            "https://acme.blob.core.windows.net/batchtoprocess2?restype=container&comp=list",
            "https://acme.blob.core.windows.net/batchtoprocess2/a",
            "https://acme.blob.core.windows.net/batchtoprocess/../other/a",
            "https://user@acme.blob.core.windows.net/batchtoprocess/a",
        ] {
            let error = signed(ENDPOINT, foreign).unwrap_err();
            assert!(!error.contains(SECRET), "{error}");
        }
        signed("http://127.0.0.1:10000/one", "http://127.0.0.1:10000/one/batchtoprocess/a").unwrap();
        signed("http://127.0.0.1:10000/one", "http://127.0.0.1:10000/two/batchtoprocess/a").unwrap_err();
        signed("http://127.0.0.1:10000/one", "http://127.0.0.1:10001/one/batchtoprocess/a").unwrap_err();
    }

    #[test]
    fn an_older_sas_is_replaced_and_other_parameters_stay() {
        let url =
            "https://acme.blob.core.windows.net/batchtoprocess/a?comp=block&SIG=old&blockid=YQ&se=x&sv=1&skoid=2&sip=3";
        let signed = signed("https://acme.blob.core.windows.net", url).unwrap();
        let expected = format!("comp=block&blockid=YQ&sv=2021-12-02&se=2099-01-01&sr=c&sp=rcwdl&sig={SECRET}1");
        assert_eq!(signed.query(), Some(expected.as_str()));
    }
}

/// Everything that an error can show.
fn shown(error: &BlobError) -> String {
    let mut text = format!("{error:?} {error}");
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(&format!(" {error:?} {error}"));
        source = error.source();
    }
    text
}

#[tokio::test]
async fn the_token_is_in_no_error_no_debug_and_no_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    // While there is one subscriber in the process, `tracing` asks only the thread that comes first to a line whether
    // anybody wants it. With two it asks all of them, so that tests without a log do not silence this one.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
    let _guard = tracing::subscriber::set_default(subscriber);
    let quoting =
        |status| Reply { body: format!("<Message>?sig={SECRET}1</Message>").into_bytes(), ..Reply::new(status) };
    let peer = Peer::start(move |number, _| match number {
        // Refusals may quote the request.
        0 | 1 => quoting(403),
        2 => quoting(400),
        3 => quoting(200).with("Content-Range", "nonsense"),
        _ => Reply::new(500).ending(End::Reset),
    })
    .await;
    let (container, tokens) = container(&peer, 4096);
    let mut text = format!("{container:?} {tokens:?} {:?}", container.upload("a"));
    for _ in 0..2 {
        text.push_str(&shown(&container.head("a").await.unwrap_err()));
    }
    text.push_str(&shown(&container.download("a", 0, None).await.unwrap_err()));
    text.push_str(&shown(&container.upload("a").stage("x".into()).await.unwrap_err()));
    assert!(peer.seen().iter().all(|seen| seen.query.contains(SECRET)), "the token was sent");
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("/batchtoprocess/a"), "the SDK's requests are logged: {log}");
    assert!(!text.contains(SECRET), "{text}");
    assert!(!log.contains(SECRET), "{log}");
}

#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
