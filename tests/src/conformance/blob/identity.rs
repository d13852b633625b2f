//! Access tokens as the right to upload: the client of `waybill-azure` against Azurite, which looks at who issued one, for whom and
//! until when, and takes it over https only.

use std::{process::Stdio, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde_json::json;
use time::OffsetDateTime;
use tokio::{process::Command, sync::watch};
use url::Url;
use waybill_azure::{
    BoxFuture, Generation, Grant, GrantError, Secret, Service, Token, TokenSource,
    blob::{BlobError, BlobHeaders, Container, ContainerOptions},
    http::{HttpClient, HttpOptions},
};

use crate::{conformance::azurite::Azurite, harness::python};

const CONTAINER: &str = "batchtoprocess";
/// Made by Microsoft's client with the account's key: ours makes no containers.
const MAKE_CONTAINER: &str = "import sys; from azure.storage.blob import BlobServiceClient as S; \
    S.from_connection_string(sys.argv[1], connection_verify=sys.argv[2]).create_container(sys.argv[3])";

/// Gives access tokens of these ends, one after the other; the last of them again and again.
#[derive(Debug)]
struct Issued {
    endpoint: Url,
    ends_in: Vec<i64>,
    current: watch::Sender<Generation>,
}

impl TokenSource for Issued {
    fn grant(&self, service: Service, refused: Option<Generation>) -> BoxFuture<'_, Result<Grant, GrantError>> {
        assert_eq!(service, Service::Blob);
        let generation = super::renewed(&self.current, refused);
        let number = usize::try_from(generation.0).expect("a small number").min(self.ends_in.len() - 1);
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let end = now + self.ends_in[number];
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = json!({
            "aud": "https://storage.azure.com", "iss": "https://sts.windows.net/10ca1000-0000-4000-8000-000000000001/",
            "iat": now - 3600, "nbf": now - 3600, "exp": end,
        });
        let signature = URL_SAFE_NO_PAD.encode(b"Azurite looks at none");
        let access = format!("{}.{}.{signature}", part(json!({"typ": "JWT", "alg": "RS256"})), part(claims));
        let grant = Grant {
            endpoint: self.endpoint.clone(),
            entity: CONTAINER.to_owned(),
            token: Token::Access(Secret::new(access)),
            expires_at: OffsetDateTime::from_unix_timestamp(end).expect("a time"),
            generation,
        };
        Box::pin(async move { Ok(grant) })
    }

    fn changes(&self) -> watch::Receiver<Generation> {
        self.current.subscribe()
    }
}

#[tokio::test]
async fn azurite_takes_uploads_by_access_token_and_an_expired_one_is_renewed() {
    let folder = tempfile::tempdir().expect("a folder for Azurite");
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let ca_file = folder.path().join("certificate.pem");
    std::fs::write(&ca_file, certified.cert.pem()).expect("a file");
    std::fs::write(folder.path().join("key.pem"), certified.signing_key.serialize_pem()).expect("a file");
    let options = ["--oauth", "basic", "--cert", "certificate.pem", "--key", "key.pem"];
    let azurite = Azurite::start_with(folder, &options).await;
    let connection = azurite.connection_string().replace("DefaultEndpointsProtocol=http;", "");
    let mut make = Command::new(python());
    make.args(["-c", MAKE_CONTAINER, &connection]).arg(&ca_file).arg(CONTAINER).stdin(Stdio::null());
    make.env("NO_PROXY", "127.0.0.1");
    assert!(make.status().await.expect("it runs").success());

    let http = HttpOptions { ca_file: Some(ca_file), ..HttpOptions::default() };
    let http = HttpClient::new(&http).expect("a client");
    let container = |ends_in: &[i64]| {
        let endpoint = azurite.endpoint().parse().expect("an address");
        let tokens = Issued { endpoint, ends_in: ends_in.to_vec(), current: watch::Sender::new(Generation(0)) };
        Container::new(http.clone(), Arc::new(tokens), ContainerOptions::default())
    };
    // The first one is over: refused, and the next one taken.
    let good = container(&[-60, 3600]);
    let upload = good.upload("folder/rows.jsonl");
    upload.stage(Bytes::from_static(b"{\"n\":1}\n")).await.expect("a block");
    let headers = BlobHeaders { content_type: "application/jsonl".to_owned(), ..BlobHeaders::default() };
    upload.commit(&headers).await.expect("a blob");
    let facts = good.head("folder/rows.jsonl").await.expect("it is there");
    assert_eq!(facts.length, 8);
    good.delete_unchanged("folder/rows.jsonl", &facts.etag).await.expect("it goes");

    let error = container(&[-60]).head("folder/rows.jsonl").await.expect_err("it is over");
    assert!(matches!(error, BlobError::AccessRefused { .. }), "{error}");
    tokio::time::timeout(Duration::from_secs(60), azurite.end()).await.expect("it ends in time");
}
