//! What scripts do to blobs, uploads, tokens and grants beyond cutting and refusing.

use waybill_contracts::{GrantLayout, TemporaryEndpoints};

use super::*;

fn at(operation: BlobOperation, what: What) -> Step {
    Step::new(BlobRequests::of(operation), what)
}

fn code(name: &str) -> What {
    What::Refuse { with: Refusal::Blob(name.parse().unwrap()), retry_after: None }
}

impl Setup {
    async fn granted(&self) -> TemporaryEndpoints {
        TemporaryEndpoints::parse(&self.grant(0).await.bytes().await.unwrap(), &GrantLayout::default()).unwrap()
    }

    async fn head(&self, sas: &str) -> Response {
        self.http.head(self.url("data", sas)).send().await.unwrap()
    }

    async fn put(&self, blob: &str, body: &'static str) -> reqwest::Result<Response> {
        let sas = self.local.keys().account_sas("rwdlc", self.later());
        let put = self.http.put(self.url(blob, &sas)).header("x-ms-blob-type", "BlockBlob").body(body);
        put.timeout(Duration::from_secs(5)).send().await
    }

    async fn exists(&self, blob: &str) -> bool {
        let sas = self.local.keys().account_sas("r", self.later());
        self.http.head(self.url(blob, &sas)).send().await.unwrap().status() == 200
    }
}

#[tokio::test]
async fn a_truncated_blob_is_consistently_shorter() {
    let setup = setup().await;
    let sas = setup.token("acme");
    setup.install(Step::new(BlobRequests::default(), What::Truncate { at: 1_000 }).times(nth(4)));
    let head = setup.head(&sas).await;
    assert_eq!(head.headers()["content-length"], "1000");
    let part = setup.get(&sas, "bytes=900-1999").await.unwrap();
    assert_eq!(part.headers()["content-range"], "bytes 900-999/1000");
    assert_eq!(part.bytes().await.unwrap(), setup.body[900..1_000]);
    assert_eq!(setup.get(&sas, "bytes=1000-").await.unwrap().status(), 416);
    assert_eq!(setup.read(&sas, "bytes=0-").await, (setup.body[..1_000].to_vec(), false));
    assert_eq!(setup.read(&sas, "bytes=0-").await, (setup.body.clone(), false), "it fired four times");
}

#[tokio::test]
async fn a_corrupt_byte_differs_and_nothing_else_does() {
    let setup = setup().await;
    let sas = setup.token("acme");
    setup.install(Step::new(BlobRequests::default(), What::Corrupt { at: 70_000 }).times(nth(2)));
    assert!(setup.read(&sas, "bytes=0-69999").await.0 == setup.body[..70_000], "it does not cover the byte");
    for (range, from) in [("bytes=0-", 0), ("bytes=70000-70000", 70_000)] {
        let (got, broke) = setup.read(&sas, range).await;
        let differs: Vec<usize> = got
            .iter()
            .zip(&setup.body[from..])
            .enumerate()
            .filter(|(_, (a, b))| a != b)
            .map(|(at, _)| at + from)
            .collect();
        assert_eq!((differs, broke), (vec![70_000], false));
    }
    assert!(setup.read(&sas, "bytes=0-").await.0 == setup.body);
}

#[tokio::test]
async fn a_slow_body_takes_its_time_and_is_whole() {
    let setup = setup().await;
    let sas = setup.token("acme");
    let bytes_per_second = nth(u32::try_from(setup.body.len()).unwrap() * 4);
    setup.install(Step::new(BlobRequests::default(), What::Slow { bytes_per_second }));
    let begun = std::time::Instant::now();
    assert_eq!(setup.read(&sas, "bytes=0-").await, (setup.body.clone(), false));
    assert!(begun.elapsed() >= Duration::from_millis(200), "a quarter of a second: {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_replaced_blob_has_another_etag_and_the_bytes_that_the_script_says() {
    let setup = setup().await;
    let sas = setup.token("acme");
    let etag = setup.head(&sas).await.headers()["etag"].clone();
    let again = async |expected: u16| {
        let get = setup.http.get(setup.url("data", &sas)).header("if-match", &etag).send().await.unwrap();
        assert_eq!(get.status().as_u16(), expected);
    };
    again(200).await;
    setup.install(at(BlobOperation::GetBlob, What::Replace { text: None }));
    again(412).await;
    assert!(setup.read(&sas, "bytes=0-").await.0 == setup.body);
    setup.install(at(BlobOperation::GetBlob, What::Replace { text: Some("other".to_owned()) }));
    assert_eq!(setup.read(&sas, "bytes=0-").await.0, b"other");
    setup.install(Step::new(BlobRequests::default(), What::Replace { text: Some("none".to_owned()) }));
    assert!(!setup.exists("missing").await, "a blob that is not there is not made");
}

#[tokio::test]
async fn storage_refuses_with_the_codes_that_clients_know_for_as_long_as_the_script_says() {
    let setup = setup().await;
    let sas = setup.token("acme");
    for (name, status) in [
        ("InternalError", 500),
        ("OperationTimedOut", 500),
        ("BlobNotFound", 404),
        ("ContainerNotFound", 404),
        ("BlobArchived", 409),
        ("AuthenticationFailed", 403),
    ] {
        setup.install(at(BlobOperation::GetBlob, code(name)));
        let refused = setup.get(&sas, "bytes=0-0").await.unwrap();
        assert_eq!((refused.status().as_u16(), refused.headers()["x-ms-error-code"].to_str().unwrap()), (status, name));
        assert!(refused.text().await.unwrap().contains(&format!("<Code>{name}</Code>")));
    }
    setup.install(at(BlobOperation::GetBlob, code("BlobNotFound")).lasting(Duration::from_millis(200)));
    let begun = tokio::time::Instant::now();
    while setup.get(&sas, "bytes=0-0").await.unwrap().status() == 404 {}
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert_eq!(setup.local.faults().waiting(), 0);
}

#[tokio::test]
async fn an_upload_that_is_cut_is_not_done_and_one_whose_answer_is_dropped_is() {
    let setup = setup().await;
    let cut = What::Cut { at: CutAt::BodyByte(3), refuse_sas: false };
    setup.install(at(BlobOperation::PutBlob, cut));
    assert!(setup.put("cut", "some bytes").await.is_err());
    assert!(!setup.exists("cut").await);
    for reset in [true, false] {
        let name = if reset { "reset" } else { "silent" };
        setup.install(at(BlobOperation::PutBlob, What::DropAnswer { reset }));
        let error = setup.put(name, "some bytes").await.unwrap_err();
        assert_eq!(error.is_timeout(), !reset, "{error}");
        assert!(setup.exists(name).await);
    }
}

#[tokio::test]
async fn a_blackhole_takes_a_request_or_a_service_and_lets_new_connections_through_when_it_is_over() {
    let setup = setup().await;
    let sas = setup.token("acme");
    let hole = |whose| What::Blackhole { whose, lasts: Duration::from_millis(300) };
    let short = |http: &reqwest::Client| {
        let get = http.get(setup.url("data", &sas)).header("range", "bytes=0-0");
        get.timeout(Duration::from_millis(200)).send()
    };
    setup.install(at(BlobOperation::GetBlob, hole(Whose::Event)));
    assert!(short(&setup.http).await.unwrap_err().is_timeout());
    assert_eq!(short(&setup.http).await.unwrap().status(), 206, "another connection");
    setup.install(Step::new(When::Now, hole(Whose::Service(Service::Blob))));
    let begun = tokio::time::Instant::now();
    let fresh = reqwest::Client::builder().no_proxy().build().unwrap();
    assert!(short(&fresh).await.unwrap_err().is_timeout(), "a new connection");
    assert!(short(&setup.http).await.unwrap_err().is_timeout(), "the old one");
    while short(&setup.http).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(setup.grant(0).await.status(), 200);
}

#[tokio::test]
async fn tokens_that_expire_before_their_time_are_refused_and_the_next_grant_is_good() {
    let setup = setup().await;
    let old = setup.granted().await;
    let sas = old.blob_storage[0].sas_token.clone();
    assert_eq!(setup.get(&sas, "bytes=0-0").await.unwrap().status(), 206);
    setup.install(Step::new(When::Now, What::Expire { tenant: Some("acme".to_owned()) }));
    let refused = setup.get(&sas, "bytes=0-0").await.unwrap();
    assert_eq!(refused.headers()["x-ms-error-code"], "AuthenticationFailed");
    let bus = &old.service_bus[0].sas_token;
    let keys = setup.local.keys();
    assert_eq!(keys.check_bus(bus, ACME, setup.later() - 3600), Err(crate::keys::SasRefusal::Expired));
    let new = setup.granted().await;
    assert_eq!(setup.get(&new.blob_storage[0].sas_token, "bytes=0-0").await.unwrap().status(), 206);
    assert!(keys.check_bus(&new.service_bus[0].sas_token, ACME, setup.later() - 3600).is_ok());
    assert_eq!(setup.get(&setup.token("zenith"), "bytes=0-0").await.unwrap().status(), 206, "another tenant");
}

#[tokio::test]
async fn a_rotation_with_a_grace_refuses_the_old_tokens_only_when_it_is_over() {
    let setup = setup().await;
    let sas = setup.token("acme");
    let bus = setup.local.keys().bus_token("acme", "localhost", setup.later()).unwrap();
    let check = || setup.local.keys().check_bus(&bus, ACME, setup.later() - 3600);
    let claim = check().unwrap();
    let mut revocations = setup.local.keys().revocations();
    let grace = Duration::from_millis(300);
    setup.install(Step::new(When::Now, What::Rotate { tenant: None, grace }));
    revocations.borrow_and_update();
    let begun = tokio::time::Instant::now();
    assert!(check().is_ok() && !setup.local.keys().is_revoked(&claim));
    assert_eq!(setup.get(&sas, "bytes=0-0").await.unwrap().status(), 206);
    assert_eq!(setup.get(&setup.token("acme"), "bytes=0-0").await.unwrap().status(), 206, "the new key");
    timeout(Duration::from_secs(20), revocations.changed()).await.unwrap().unwrap();
    assert!(begun.elapsed() >= grace);
    assert!(check().is_err() && setup.local.keys().is_revoked(&claim));
    assert_eq!(setup.get(&sas, "bytes=0-0").await.unwrap().status(), 403);
    assert_eq!(setup.get(&setup.token("acme"), "bytes=0-0").await.unwrap().status(), 206);
}

#[tokio::test]
async fn a_grant_is_refused_with_a_status_and_its_answer_can_be_lost() {
    let setup = setup().await;
    let grants = || When::Grant { tenant: None };
    let unwell = What::Refuse { with: Refusal::Status(502), retry_after: Some(Duration::from_secs(4)) };
    setup.install(Step::new(grants(), unwell));
    let refused = setup.grant(0).await;
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (502, "4"));
    setup.install(Step::new(grants(), What::DropAnswer { reset: true }));
    let ready = setup.local.ready_file();
    let url = format!("{}{}", ready.tenant_url, waybill_contracts::TEMPORARY_ENDPOINTS_PATH);
    assert!(setup.http.get(url).bearer_auth(&ready.bearer_token).send().await.is_err());
    assert_eq!(setup.local.stats().grants("acme").issued, 1, "it was issued all the same");
}
