//! The client of `waybill-azure` against Azurite: what the pipeline relies on holds elsewhere than in `local` too.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    time::sleep,
};
use url::Url;
use waybill_azure::{
    BlobPermissions, BoxFuture, Generation, Grant, GrantError, Service, Token, TokenSource,
    blob::{BlobError, BlobFacts, BlobHeaders, Container, ContainerOptions, Download},
    blob_service_sas,
    connection_string::BlobConnectionString,
    http::{HttpClient, HttpOptions},
};
use waybill_local::keys::Keys;

use crate::conformance::azurite::Azurite;

const CONTAINER: &str = "batchtoprocess";
/// Small, so that a blob takes several ranges.
const RANGE_BYTES: u64 = 8192;
/// Tokens that are signed here with the account's key.
struct Tokens {
    account: BlobConnectionString,
    began_at: OffsetDateTime,
    /// Of the first token; the next ones live for an hour.
    first_life: Duration,
    current: watch::Sender<Generation>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

impl TokenSource for Tokens {
    fn grant(&self, service: Service, refused: Option<Generation>) -> BoxFuture<'_, Result<Grant, GrantError>> {
        assert_eq!(service, Service::Blob);
        let generation = super::renewed(&self.current, refused);
        let life = if generation.0 == 0 { self.first_life } else { Duration::from_secs(3600 + generation.0) };
        let expires_at = self.began_at + life;
        let all = BlobPermissions { read: true, create: true, write: true, delete: true, list: true };
        let account = &self.account;
        let sas = blob_service_sas(&account.account, &account.key, CONTAINER, all, expires_at, &account.endpoint);
        let token = Token::Sas(sas.expect("a token"));
        let grant =
            Grant { endpoint: account.endpoint.clone(), entity: CONTAINER.to_owned(), token, expires_at, generation };
        Box::pin(async move { Ok(grant) })
    }

    fn changes(&self) -> watch::Receiver<Generation> {
        self.current.subscribe()
    }
}

/// A running Azurite with a container, and our client for it.
struct Place {
    azurite: Azurite,
    tokens: Arc<Tokens>,
    container: Container,
}

impl Place {
    async fn new(first_life: Duration) -> Self {
        let azurite = Azurite::start().await;
        make_container(azurite.endpoint()).await;
        let tokens = Arc::new(Tokens {
            account: azurite.connection_string().parse().expect("a connection string"),
            began_at: OffsetDateTime::now_utc(),
            first_life,
            current: watch::Sender::default(),
        });
        let http = HttpClient::new(&HttpOptions::default()).expect("a client");
        let source: Arc<dyn TokenSource> = Arc::<Tokens>::clone(&tokens);
        let options = ContainerOptions { range_bytes: RANGE_BYTES, ..ContainerOptions::default() };
        Self { azurite, tokens, container: Container::new(http, source, options) }
    }

    fn renewals(&self) -> u64 {
        self.tokens.current.borrow().0
    }

    async fn write(&self, blob: &str, content: &[u8]) -> Result<BlobFacts, BlobError> {
        let upload = self.container.upload(blob);
        for block in content.chunks(30_000) {
            upload.stage(Bytes::copy_from_slice(block)).await?;
        }
        upload.commit(&headers()).await
    }
}

/// Our client makes no containers, so this is a plain request with an account SAS.
async fn make_container(endpoint: &str) {
    let url = Url::parse(endpoint).expect("an address");
    let address = (url.host_str().expect("a host"), url.port().expect("a port"));
    let sas = Keys::emulator().account_sas("c", OffsetDateTime::now_utc().unix_timestamp() + 60);
    let request = format!(
        "PUT {}/{CONTAINER}?restype=container&{sas} HTTP/1.1\r\nhost: {}:{}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        url.path(),
        address.0,
        address.1
    );
    let mut stream = TcpStream::connect(address).await.expect("Azurite listens");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

fn headers() -> BlobHeaders {
    BlobHeaders {
        content_type: "application/x-jsonlines".into(),
        metadata: BTreeMap::from([("exportid".into(), "e-1".into()), ("rows".into(), "12".into())]),
    }
}

/// Bytes that differ at every place, so that a lost or repeated one shows.
fn content(length: usize) -> Vec<u8> {
    (0..length as u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).take(length).collect()
}

async fn rest(download: &mut Download) -> Result<Vec<u8>, BlobError> {
    let mut bytes = Vec::new();
    while let Some(more) = download.next().await? {
        bytes.extend_from_slice(&more);
    }
    Ok(bytes)
}

#[tokio::test]
async fn azurite_commits_our_blocks_once_and_a_second_upload_finds_the_first() {
    let place = Place::new(Duration::from_secs(3600)).await;
    let (blob, bytes) = ("Item Changes/2026-11-22/é+%.jsonl.gz", content(100_000));
    assert!(matches!(place.container.head(blob).await, Err(BlobError::NotFound { .. })));
    let written = place.write(blob, &bytes).await.expect("it is written");
    let error = place.write(blob, b"another").await.expect_err("there is one");
    assert!(matches!(error, BlobError::AlreadyExists { .. }), "{error:?}");
    // What the publisher does to adopt its own blob.
    assert_eq!(place.container.head(blob).await.expect("it is there"), written);
    let mut download = place.container.download(blob, 0, Some(&written.etag)).await.expect("it opens");
    assert_eq!(download.facts(), &written);
    assert!(rest(&mut download).await.expect("it is read") == bytes);
    let empty = place.write("empty", b"").await.expect("it is written");
    let mut download = place.container.download("empty", 0, Some(&empty.etag)).await.expect("it opens");
    assert!(download.next().await.expect("it ends").is_none());
    place.container.delete(blob).await.expect("it is deleted");
    assert!(matches!(place.container.delete(blob).await, Err(BlobError::NotFound { .. })));
    place.azurite.end().await;
}

#[tokio::test]
async fn a_download_from_azurite_resumes_at_a_byte_of_the_same_version_only() {
    let place = Place::new(Duration::from_secs(3600)).await;
    let bytes = content(60_000);
    let written = place.write("a", &bytes).await.expect("it is written");
    for from in [1, 8191, 8192, 59_999, 60_000] {
        let mut download = place.container.download("a", from, Some(&written.etag)).await.expect("it opens");
        assert_eq!(download.position(), from);
        assert!(rest(&mut download).await.expect("it is read") == bytes[from as usize..], "from byte {from}");
    }
    let mut download = place.container.download("a", 0, None).await.expect("it opens");
    while download.position() < RANGE_BYTES {
        download.next().await.expect("it is read");
    }
    place.container.delete("a").await.expect("it is deleted");
    place.write("a", &bytes).await.expect("it is written again");
    assert!(matches!(rest(&mut download).await, Err(BlobError::Changed { .. })));
    let error = place.container.download("a", 100, Some(&written.etag)).await.expect_err("it is another");
    assert!(matches!(error, BlobError::Changed { .. }), "{error:?}");
    place.azurite.end().await;
}

#[tokio::test]
async fn a_token_that_ends_between_two_ranges_of_azurite_is_renewed_and_no_byte_is_lost_or_repeated() {
    const LIFE: Duration = Duration::from_secs(6);
    let place = Place::new(LIFE).await;
    let bytes = content(60_000);
    let written = place.write("a", &bytes).await.expect("it is written");
    let upload = place.container.upload("b");
    upload.stage("begun, ".into()).await.expect("a block");
    let mut download = place.container.download("a", 0, Some(&written.etag)).await.expect("it opens");
    let mut read = Vec::new();
    while (read.len() as u64) < RANGE_BYTES {
        read.extend(download.next().await.expect("it is read").expect("there is more"));
    }
    assert_eq!(place.renewals(), 0, "all of this took less than {LIFE:?}");
    // Storage looks at the token when a request begins, and writes its end in whole seconds.
    sleep(LIFE + Duration::from_secs(1)).await;
    read.extend(rest(&mut download).await.expect("the rest is read"));
    assert!(read == bytes);
    assert_eq!(place.renewals(), 1);
    upload.stage("and ended".into()).await.expect("a block");
    upload.commit(&headers()).await.expect("it is committed");
    let mut download = place.container.download("b", 0, None).await.expect("it opens");
    assert_eq!(rest(&mut download).await.expect("it is read"), b"begun, and ended");
    assert_eq!(place.renewals(), 1);
    place.azurite.end().await;
}
