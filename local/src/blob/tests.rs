//! Over HTTP, as clients come.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use time::OffsetDateTime;

use crate::{Builder, Local};

const HOUR: i64 = 3600;

struct Client {
    local: Local,
    http: reqwest::Client,
    base: String,
    sas: String,
}

async fn client() -> Client {
    client_of(Local::builder()).await
}

async fn client_of(local: Builder) -> Client {
    let local = local.start().await.unwrap();
    let base = format!("http://127.0.0.1:{}/devstoreaccount1", local.ports().blob);
    let sas = local.keys().account_sas("rwdlac", now() + HOUR);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    Client { local, http, base, sas }
}

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

impl Client {
    /// A request with the account SAS; `path` may have a query.
    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.with(&self.sas, method, path)
    }

    fn with(&self, sas: &str, method: Method, path: &str) -> RequestBuilder {
        let joint = if path.contains('?') { '&' } else { '?' };
        self.http.request(method, format!("{}/{path}{joint}{sas}", self.base)).timeout(Duration::from_secs(30))
    }

    async fn put(&self, name: &str, body: impl Into<Vec<u8>>) -> Response {
        let put = self.ask(Method::PUT, &format!("batchtoprocess/{name}")).header("x-ms-blob-type", "BlockBlob");
        sized(put, body).send().await.unwrap()
    }

    async fn put_block(&self, name: &str, id: &str, body: &'static str) -> Response {
        let id = STANDARD.encode(id).replace('=', "%3D").replace('+', "%2B");
        let path = format!("batchtoprocess/{name}?comp=block&blockid={id}");
        self.ask(Method::PUT, &path).body(body).send().await.unwrap()
    }

    fn commit(&self, name: &str, list: &[(&str, &str)]) -> RequestBuilder {
        let list = list.iter().map(|(from, id)| format!("<{from}>{}</{from}>", STANDARD.encode(id)));
        let body =
            format!("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<BlockList>{}</BlockList>", list.collect::<String>());
        self.ask(Method::PUT, &format!("batchtoprocess/{name}?comp=blocklist")).body(body)
    }

    async fn get(&self, name: &str) -> Response {
        self.ask(Method::GET, &format!("batchtoprocess/{name}")).send().await.unwrap()
    }

    async fn list(&self, query: &str) -> String {
        let path = format!("batchtoprocess?restype=container&comp=list{query}");
        let response = self.ask(Method::GET, &path).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.text().await.unwrap()
    }
}

/// `reqwest` leaves the length of an empty body out, and storage insists on one.
fn sized(ask: RequestBuilder, body: impl Into<Vec<u8>>) -> RequestBuilder {
    let body = body.into();
    ask.header("content-length", body.len()).body(body)
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// Status and code of a refusal, and that the body's code is the same.
async fn refusal(response: Response) -> (u16, String) {
    let (status, code) = (response.status().as_u16(), header(&response, "x-ms-error-code").to_owned());
    let id = header(&response, "x-ms-request-id").to_owned();
    assert!(!id.is_empty());
    let body = response.text().await.unwrap();
    if !body.is_empty() {
        assert!(body.contains(&format!("<Code>{code}</Code>")), "{body}");
        assert!(body.contains(&format!("RequestId:{id}")), "{body}");
    }
    (status, code)
}

fn names(xml: &str) -> Vec<String> {
    xml.split("<Name>").skip(1).map(|rest| rest.split_once('<').unwrap().0.to_owned()).collect()
}

#[tokio::test]
async fn a_small_blob_comes_back_with_what_it_carries() {
    let client = client().await;
    let put = client
        .ask(Method::PUT, "batchtoprocess/a/b%20c.jsonl.gz")
        .header("x-ms-blob-type", "BlockBlob")
        .header("x-ms-blob-content-type", "application/x-jsonlines")
        .header("content-encoding", "gzip")
        .header("x-ms-blob-cache-control", "no-cache")
        .header("x-ms-blob-content-language", "de")
        .header("x-ms-blob-content-disposition", "attachment")
        .header("x-ms-meta-exportid", "e-1")
        .header("x-ms-meta-rows", "3")
        .header("x-ms-client-request-id", "mine")
        .header("x-ms-version", "2023-11-03")
        .body("three\nrows\nhere\n");
    let put = put.send().await.unwrap();
    assert_eq!(put.status(), 201);
    // base64 of md5("three\nrows\nhere\n")
    assert_eq!(header(&put, "content-md5"), "t7G1vks0vZITH2y/W4N0Tw==");
    assert_eq!((header(&put, "x-ms-client-request-id"), header(&put, "x-ms-version")), ("mine", "2023-11-03"));
    let etag = header(&put, "etag").to_owned();
    assert!(etag.starts_with("\"0x") && !header(&put, "last-modified").is_empty());

    let get = client.get("a/b%20c.jsonl.gz").await;
    assert_eq!(get.status(), 200);
    let head = client.ask(Method::HEAD, "batchtoprocess/a/b%20c.jsonl.gz").send().await.unwrap();
    assert_eq!(head.status(), 200);
    for (name, value) in [
        ("content-type", "application/x-jsonlines"),
        ("content-encoding", "gzip"),
        ("cache-control", "no-cache"),
        ("content-language", "de"),
        ("content-disposition", "attachment"),
        ("x-ms-meta-exportid", "e-1"),
        ("x-ms-meta-rows", "3"),
        ("content-length", "16"),
        ("content-md5", "t7G1vks0vZITH2y/W4N0Tw=="),
        ("accept-ranges", "bytes"),
        ("x-ms-blob-type", "BlockBlob"),
        ("etag", &etag),
    ] {
        assert_eq!((header(&get, name), header(&head, name)), (value, value), "{name}");
    }
    assert_eq!(get.text().await.unwrap(), "three\nrows\nhere\n");
    assert_eq!(head.text().await.unwrap(), "");
    let metadata = client.ask(Method::GET, "batchtoprocess/a/b%20c.jsonl.gz?comp=metadata").send().await.unwrap();
    assert_eq!((metadata.status().as_u16(), header(&metadata, "x-ms-meta-rows")), (200, "3"));
}

#[tokio::test]
async fn a_container_is_made_once_and_deleted_once() {
    let client = client().await;
    let container = |method| client.ask(method, "other?restype=container").header("x-ms-meta-a", "b").send();
    assert_eq!(container(Method::PUT).await.unwrap().status(), 201);
    let again = refusal(container(Method::PUT).await.unwrap()).await;
    assert_eq!(again, (409, "ContainerAlreadyExists".to_owned()));
    let properties = container(Method::GET).await.unwrap();
    assert_eq!((properties.status().as_u16(), header(&properties, "x-ms-meta-a")), (200, "b"));
    let listed = client.ask(Method::GET, "?comp=list").send().await.unwrap().text().await.unwrap();
    assert_eq!(names(&listed), ["batchtoprocess", "other"]);
    let listed = client.ask(Method::GET, "?comp=list&prefix=o&include=metadata").send().await.unwrap();
    assert!(listed.text().await.unwrap().contains("<Metadata><a>b</a></Metadata>"));
    assert_eq!(container(Method::DELETE).await.unwrap().status(), 202);
    for method in [Method::DELETE, Method::HEAD] {
        assert_eq!(refusal(container(method).await.unwrap()).await, (404, "ContainerNotFound".to_owned()));
    }
    let put = client.ask(Method::PUT, "other/blob").header("x-ms-blob-type", "BlockBlob").body("x").send();
    assert_eq!(refusal(put.await.unwrap()).await, (404, "ContainerNotFound".to_owned()));
    for (name, code) in [
        ("Upper", "InvalidResourceName"),
        ("two--hyphens", "InvalidResourceName"),
        ("-first", "InvalidResourceName"),
        ("ab", "OutOfRangeInput"),
    ] {
        let made = client.ask(Method::PUT, &format!("{name}?restype=container")).send().await.unwrap();
        assert_eq!(refusal(made).await, (400, code.to_owned()), "{name}");
    }
    let public = client.ask(Method::PUT, "open?restype=container").header("x-ms-blob-public-access", "blob");
    assert_eq!(refusal(public.send().await.unwrap()).await, (409, "PublicAccessNotPermitted".to_owned()));
}

#[tokio::test]
async fn the_name_of_a_deleted_container_is_free_after_30_seconds() {
    let began = OffsetDateTime::now_utc();
    let clock = Arc::new(AtomicI64::new(0));
    let later = Arc::clone(&clock);
    let moved = move || began + time::Duration::seconds(later.load(Ordering::Relaxed));
    let client = client_of(Local::builder().now(moved)).await;
    let container = |method| client.ask(method, "batchtoprocess?restype=container").send();
    assert_eq!(container(Method::DELETE).await.unwrap().status(), 202);
    for after in [0, 29] {
        clock.store(after, Ordering::Relaxed);
        assert_eq!(
            refusal(container(Method::PUT).await.unwrap()).await,
            (409, "ContainerBeingDeleted".to_owned()),
            "after {after} s"
        );
        assert_eq!(refusal(container(Method::HEAD).await.unwrap()).await, (404, "ContainerNotFound".to_owned()));
    }
    clock.store(30, Ordering::Relaxed);
    assert_eq!(container(Method::PUT).await.unwrap().status(), 201);
}

#[tokio::test]
async fn a_blob_in_the_archive_is_known_and_not_read_until_its_tier_changes() {
    let client = client().await;
    let put = client.ask(Method::PUT, "batchtoprocess/b").header("x-ms-blob-type", "BlockBlob");
    let put = put.header("x-ms-access-tier", "Archive").body("x").send().await.unwrap();
    let etag = header(&put, "etag").to_owned();
    let archived = (409, "BlobArchived".to_owned());
    assert_eq!(refusal(client.get("b").await).await, archived);
    let head = client.ask(Method::HEAD, "batchtoprocess/b").send().await.unwrap();
    assert_eq!((head.status().as_u16(), header(&head, "x-ms-access-tier")), (200, "Archive"));
    assert!(client.list("").await.contains("<AccessTier>Archive</AccessTier>"));
    let set = async |tier: &str| {
        let set = client.ask(Method::PUT, "batchtoprocess/b?comp=tier").header("x-ms-access-tier", tier);
        set.header("content-length", "0").send().await.unwrap()
    };
    assert_eq!(refusal(set("Warm").await).await, (400, "InvalidHeaderValue".to_owned()));
    assert_eq!(set("Cold").await.status(), 200);
    let got = client.get("b").await;
    assert_eq!((header(&got, "x-ms-access-tier"), header(&got, "etag")), ("Cold", etag.as_str()));
    assert_eq!(header(&got, "x-ms-access-tier-inferred"), "");
    client.put("plain", "x").await;
    assert_eq!(header(&client.get("plain").await, "x-ms-access-tier-inferred"), "true");
}

#[tokio::test]
async fn a_range_comes_with_the_hash_that_was_asked_for() {
    let client = client().await;
    client.put("b", large(5 << 20)).await;
    let ask = async |range: &str, md5: &str, crc64: &str| {
        let ask = client.ask(Method::GET, "batchtoprocess/b").header("x-ms-range-get-content-md5", md5);
        let ask = ask.header("x-ms-range-get-content-crc64", crc64);
        let ask = if range.is_empty() { ask } else { ask.header("range", range) };
        ask.send().await.unwrap()
    };
    let crc64 = ask("bytes=10-99", "false", "true").await;
    let expected = super::write::CRC64.checksum(&large(100)[10..]).to_le_bytes();
    assert_eq!(header(&crc64, "x-ms-content-crc64"), STANDARD.encode(expected));
    let wrong = (400, "InvalidHeaderValue".to_owned());
    assert_eq!(refusal(ask("bytes=10-99", "true", "true").await).await, wrong);
    assert_eq!(refusal(ask("", "true", "false").await).await, wrong);
    let long = refusal(ask("bytes=0-4194304", "true", "false").await).await;
    assert_eq!(long, (400, "OutOfRangeInput".to_owned()));
    assert_eq!(ask("bytes=0-4194303", "true", "false").await.status(), 206);
}

#[tokio::test]
async fn ranges_are_cut_to_the_blob_and_refused_beyond_it() {
    let client = client().await;
    client.put("b", "0123456789").await;
    let range = async |name: &str, value: &str| {
        client.ask(Method::GET, "batchtoprocess/b").header(name.to_owned(), value).send().await.unwrap()
    };
    for (asked, got, content_range) in [
        ("bytes=0-3", "0123", "bytes 0-3/10"),
        ("bytes=4-", "456789", "bytes 4-9/10"),
        ("bytes=9-9", "9", "bytes 9-9/10"),
        ("bytes=8-100", "89", "bytes 8-9/10"),
        ("bytes=0-", "0123456789", "bytes 0-9/10"),
        ("bytes=0-18446744073709551615", "0123456789", "bytes 0-9/10"),
    ] {
        for name in ["range", "x-ms-range"] {
            let response = range(name, asked).await;
            assert_eq!((response.status().as_u16(), header(&response, "content-range")), (206, content_range));
            // base64 of md5("0123456789"): a range shows the whole blob's under another name.
            assert_eq!(header(&response, "x-ms-blob-content-md5"), "eB5eJF1ptWaXm4bijSPyxw==");
            assert_eq!(header(&response, "content-md5"), "");
            assert_eq!(response.text().await.unwrap(), got);
        }
    }
    let response = range("range", "bytes=10-").await;
    assert_eq!(header(&response, "content-range"), "bytes */10");
    assert_eq!(refusal(response).await, (416, "InvalidRange".to_owned()));
    for wrong in ["bytes=-3", "bytes=3-2", "rows=1-2", "bytes=a-b"] {
        assert_eq!(refusal(range("range", wrong).await).await, (400, "InvalidHeaderValue".to_owned()), "{wrong}");
    }
    let both =
        client.ask(Method::GET, "batchtoprocess/b").header("range", "bytes=0-0").header("x-ms-range", "bytes=1-2");
    let both = both.header("x-ms-range-get-content-md5", "true").send().await.unwrap();
    // base64 of md5("12")
    assert_eq!(header(&both, "content-md5"), "wgrU12/pd1mqJ6DJm/9nEA==");
    assert_eq!(both.text().await.unwrap(), "12");

    client.put("empty", "").await;
    assert_eq!(client.get("empty").await.bytes().await.unwrap().len(), 0);
    let response = client.ask(Method::GET, "batchtoprocess/empty").header("range", "bytes=0-").send().await.unwrap();
    assert_eq!(refusal(response).await, (416, "InvalidRange".to_owned()));
}

#[tokio::test]
async fn conditions_of_reads_are_304_for_what_is_known_and_412_for_what_must_not_be() {
    let client = client().await;
    let etag = header(&client.put("b", "x").await, "etag").to_owned();
    let ask = async |method: Method, name: &str, value: &str| {
        let asked = client.ask(method, "batchtoprocess/b").header(name.to_owned(), value).send().await.unwrap();
        (asked.status().as_u16(), header(&asked, "x-ms-error-code").to_owned())
    };
    let (past, future) = ("Tue, 01 Jan 2019 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT");
    for method in [Method::GET, Method::HEAD] {
        for (name, value, status) in [
            ("if-match", etag.as_str(), 200),
            ("if-match", etag.trim_matches('"'), 200),
            ("if-match", "*", 200),
            ("if-match", "\"0x0\"", 412),
            ("if-none-match", &etag, 304),
            ("if-none-match", "\"0x0\"", 200),
            ("if-modified-since", past, 200),
            ("if-modified-since", future, 304),
            ("if-unmodified-since", past, 412),
            ("if-unmodified-since", future, 200),
        ] {
            let code = if status == 200 { "" } else { "ConditionNotMet" };
            let got = ask(method.clone(), name, value).await;
            assert_eq!(got, (status, code.to_owned()), "{method} {name}: {value}");
        }
    }
    assert_eq!(ask(Method::GET, "if-modified-since", "yesterday").await.1, "InvalidHeaderValue");
    let missing = client.ask(Method::GET, "batchtoprocess/none").header("if-match", "*").send().await.unwrap();
    assert_eq!(refusal(missing).await, (404, "BlobNotFound".to_owned()));
}

#[tokio::test]
async fn conditions_of_writes_protect_what_is_there() {
    let client = client().await;
    let put = async |name: &str, header: &str, value: &str| {
        let put = client.ask(Method::PUT, &format!("batchtoprocess/{name}")).header("x-ms-blob-type", "BlockBlob");
        put.header(header.to_owned(), value).body("y").send().await.unwrap()
    };
    assert_eq!(refusal(put("new", "if-match", "*").await).await, (412, "ConditionNotMet".to_owned()));
    let first = put("new", "if-none-match", "*").await;
    assert_eq!(first.status(), 201);
    let etag = header(&first, "etag").to_owned();
    assert_eq!(refusal(put("new", "if-none-match", "*").await).await, (409, "BlobAlreadyExists".to_owned()));
    assert_eq!(refusal(put("new", "if-match", "\"0x1\"").await).await, (412, "ConditionNotMet".to_owned()));
    assert_eq!(refusal(put("new", "if-none-match", &etag).await).await, (412, "ConditionNotMet".to_owned()));
    let second = put("new", "if-match", &etag).await;
    assert_eq!(second.status(), 201);
    assert_ne!(header(&second, "etag"), etag);

    let delete = async |value: &str| {
        client.ask(Method::DELETE, "batchtoprocess/new").header("if-match", value).send().await.unwrap()
    };
    assert_eq!(refusal(delete(&etag).await).await, (412, "ConditionNotMet".to_owned()));
    assert_eq!(delete(header(&second, "etag")).await.status(), 202);
    assert_eq!(refusal(delete("*").await).await, (404, "BlobNotFound".to_owned()));
}

#[tokio::test]
async fn of_many_writers_that_want_to_be_first_one_is() {
    let client = client().await;
    let put = async |index: usize| {
        let put = client.ask(Method::PUT, "batchtoprocess/race").header("x-ms-blob-type", "BlockBlob");
        put.header("if-none-match", "*").body(format!("{index}")).send().await.unwrap().status().as_u16()
    };
    let mut statuses = futures::future::join_all((0..16).map(put)).await;
    statuses.sort_unstable();
    assert_eq!(statuses.first(), Some(&201));
    assert!(statuses.iter().skip(1).all(|status| *status == 409), "{statuses:?}");
}

#[tokio::test]
async fn blocks_become_a_blob_when_they_are_listed() {
    let client = client().await;
    for (id, body) in [("b1", "one,"), ("b2", "two,"), ("b3", "three")] {
        let put = client.put_block("blocks", id, body).await;
        assert_eq!(put.status(), 201);
        assert!(!header(&put, "x-ms-content-crc64").is_empty());
    }
    assert_eq!(refusal(client.get("blocks").await).await, (404, "BlobNotFound".to_owned()));
    let commit = client.commit("blocks", &[("Latest", "b2"), ("Uncommitted", "b1"), ("Latest", "b2")]);
    let commit = commit.header("x-ms-blob-content-type", "text/csv").header("x-ms-meta-a", "b").send().await.unwrap();
    assert_eq!(commit.status(), 201);
    let got = client.get("blocks").await;
    assert_eq!((header(&got, "content-type"), header(&got, "x-ms-meta-a")), ("text/csv", "b"));
    assert_eq!(header(&got, "content-md5"), "", "nobody has computed it");
    assert_eq!(got.text().await.unwrap(), "two,one,two,");

    // What was staged and not listed is gone; what was committed stays at hand.
    let gone = client.commit("blocks", &[("Latest", "b3")]).send().await.unwrap();
    assert_eq!(refusal(gone).await, (400, "InvalidBlockList".to_owned()));
    client.put_block("blocks", "b1", "ONE,").await;
    let mixed = client.commit("blocks", &[("Committed", "b1"), ("Latest", "b1"), ("Uncommitted", "b1")]);
    assert_eq!(mixed.send().await.unwrap().status(), 201);
    assert_eq!(client.get("blocks").await.text().await.unwrap(), "one,ONE,ONE,");
    let wrong = client.commit("blocks", &[("Uncommitted", "b1")]).send().await.unwrap();
    assert_eq!(refusal(wrong).await, (400, "InvalidBlockList".to_owned()));
}

#[tokio::test]
async fn a_commit_obeys_its_conditions_and_keeps_the_blocks_when_they_fail() {
    let client = client().await;
    client.put_block("c", "b1", "1").await;
    let refused = client.commit("c", &[("Latest", "b1")]).header("if-match", "*").send().await.unwrap();
    assert_eq!(refusal(refused).await, (412, "ConditionNotMet".to_owned()));
    let made = client.commit("c", &[("Latest", "b1")]).header("if-none-match", "*").send().await.unwrap();
    assert_eq!(made.status(), 201);
    client.put_block("c", "b1", "2").await;
    let refused = client.commit("c", &[("Latest", "b1")]).header("if-none-match", "*").send().await.unwrap();
    assert_eq!(refusal(refused).await, (409, "BlobAlreadyExists".to_owned()));
    assert_eq!(client.get("c").await.text().await.unwrap(), "1");
    let made =
        client.commit("c", &[("Uncommitted", "b1")]).header("if-match", header(&made, "etag")).send().await.unwrap();
    assert_eq!(made.status(), 201);
    assert_eq!(client.get("c").await.text().await.unwrap(), "2");
}

#[tokio::test]
async fn the_block_list_says_what_is_committed_and_what_waits() {
    let client = client().await;
    let list = async |kind: &str| {
        let path = format!("batchtoprocess/l?comp=blocklist&blocklisttype={kind}");
        let response = client.ask(Method::GET, &path).send().await.unwrap();
        let length = header(&response, "x-ms-blob-content-length").to_owned();
        (length, response.text().await.unwrap())
    };
    let missing = client.ask(Method::GET, "batchtoprocess/l?comp=blocklist").send().await.unwrap();
    assert_eq!(refusal(missing).await, (404, "BlobNotFound".to_owned()));
    client.put_block("l", "b2", "22").await;
    client.put_block("l", "b1", "1").await;
    let block = |id: &str, size: u32| format!("<Block><Name>{}</Name><Size>{size}</Size></Block>", STANDARD.encode(id));
    let (length, xml) = list("all").await;
    assert_eq!(length, "0");
    let staged = format!(
        "<CommittedBlocks></CommittedBlocks><UncommittedBlocks>{}{}</UncommittedBlocks>",
        block("b1", 1),
        block("b2", 2)
    );
    assert!(xml.contains(&staged), "{xml}");
    client.commit("l", &[("Latest", "b2"), ("Latest", "b1")]).send().await.unwrap();
    client.put_block("l", "b3", "333").await;
    let (length, xml) = list("committed").await;
    assert_eq!(length, "3");
    let kept = format!("<CommittedBlocks>{}{}</CommittedBlocks>", block("b2", 2), block("b1", 1));
    assert!(xml.contains(&kept) && !xml.contains("Uncommitted"), "{xml}");
    let (_, xml) = list("uncommitted").await;
    assert!(xml.contains(&block("b3", 3)) && !xml.contains("<CommittedBlocks>"), "{xml}");
    let wrong = client.ask(Method::GET, "batchtoprocess/l?comp=blocklist&blocklisttype=some").send().await.unwrap();
    assert_eq!(refusal(wrong).await, (400, "InvalidQueryParameterValue".to_owned()));
}

#[tokio::test]
async fn wrong_blocks_and_lists_are_refused() {
    let client = client().await;
    let put = async |path: &str| client.ask(Method::PUT, path).body("x").send().await.unwrap();
    let code = async |path: &str| refusal(put(path).await).await;
    let none = (400, "MissingRequiredQueryParameter".to_owned());
    assert_eq!(code("batchtoprocess/w?comp=block").await, none);
    for id in ["***", "", &"YWFh".repeat(22)] {
        let got = code(&format!("batchtoprocess/w?comp=block&blockid={id}")).await;
        assert_eq!(got, (400, "InvalidBlockId".to_owned()), "{id}");
    }
    client.put_block("w", "four", "x").await;
    let other_length = client.put_block("w", "five5", "x").await;
    assert_eq!(refusal(other_length).await, (400, "InvalidBlobOrBlock".to_owned()));
    for body in
        ["", "<BlockList>", "<Blocks/>", "<BlockList><Some>YQ==</Some></BlockList>", "<BlockList>x</BlockList>", "no"]
    {
        let commit = client.ask(Method::PUT, "batchtoprocess/w?comp=blocklist");
        let commit = sized(commit, body).send().await.unwrap();
        let (status, code) = refusal(commit).await;
        assert_eq!((status, code.as_str()), (400, "InvalidXmlDocument"), "{body:?}");
    }
    let commit = client.ask(Method::PUT, "batchtoprocess/w?comp=blocklist").body("<BlockList/>").send().await.unwrap();
    assert_eq!(commit.status(), 201);
    assert_eq!(client.get("w").await.text().await.unwrap(), "");
}

#[tokio::test]
async fn a_body_is_checked_against_the_hash_that_comes_with_it() {
    let client = client().await;
    // md5("data") and CRC-64/NVME of "data", by Python.
    let (md5, crc64) = ("jXd/OF09/siBXSD3SWAm3A==", "gCf8jkNhru0=");
    let put = async |name: &str, value: &str, path: &str| {
        let put = client.ask(Method::PUT, path).header("x-ms-blob-type", "BlockBlob").header(name.to_owned(), value);
        put.body("data").send().await.unwrap()
    };
    for path in ["batchtoprocess/h", "batchtoprocess/h2?comp=block&blockid=YQ%3D%3D"] {
        for (name, right, code) in [("content-md5", md5, "Md5Mismatch"), ("x-ms-content-crc64", crc64, "Crc64Mismatch")]
        {
            let response = put(name, right, path).await;
            assert_eq!(response.status(), 201);
            assert_eq!(header(&response, name), right, "{path}");
            let other = if name == "content-md5" { "AAAAAAAAAAAAAAAAAAAAAA==" } else { "AAAAAAAAAAA=" };
            assert_eq!(refusal(put(name, other, path).await).await, (400, code.to_owned()), "{path}");
        }
        assert_eq!(refusal(put("content-md5", "short", path).await).await, (400, "InvalidMd5".to_owned()));
        let wrong = refusal(put("x-ms-content-crc64", "short", path).await).await;
        assert_eq!(wrong, (400, "InvalidHeaderValue".to_owned()));
    }
    let stored = put("x-ms-blob-content-md5", "AAAAAAAAAAAAAAAAAAAAAA==", "batchtoprocess/h").await;
    assert_eq!(refusal(stored).await, (400, "Md5Mismatch".to_owned()));
}

#[tokio::test]
async fn listing_pages_by_prefix_delimiter_and_marker() {
    let client = client().await;
    for name in ["a/1", "a/2", "a/x/1", "a/x/2", "b", "c%26d%3Ce%3E", "z/1"] {
        assert_eq!(client.put(name, "x").await.status(), 201);
    }
    client.put_block("a/staged", "b1", "x").await;
    let all = ["a/1", "a/2", "a/x/1", "a/x/2", "b", "c&amp;d&lt;e&gt;", "z/1"];
    assert_eq!(names(&client.list("").await), all);
    assert_eq!(names(&client.list("&prefix=a/").await), ["a/1", "a/2", "a/x/1", "a/x/2"]);
    assert_eq!(names(&client.list("&delimiter=/").await), ["a/", "b", "c&amp;d&lt;e&gt;", "z/"]);
    let below = client.list("&prefix=a/&delimiter=/").await;
    assert_eq!(names(&below), ["a/1", "a/2", "a/x/"]);
    assert!(below.contains("<BlobPrefix><Name>a/x/</Name></BlobPrefix>"), "{below}");
    assert!(names(&client.list("&prefix=a/s").await).is_empty());
    assert_eq!(names(&client.list("&prefix=a/s&include=uncommittedblobs").await), ["a/staged"]);

    for (delimiter, whole) in [("", &all[..]), ("&delimiter=/", &["a/", "b", "c&amp;d&lt;e&gt;", "z/"][..])] {
        for page_size in 1..=8 {
            let (mut seen, mut marker) = (Vec::new(), String::new());
            loop {
                let page = client.list(&format!("&maxresults={page_size}{delimiter}&marker={marker}")).await;
                let on_page = names(&page);
                assert!(on_page.len() <= page_size);
                seen.extend(on_page);
                match page.split_once("<NextMarker>") {
                    Some((_, rest)) => rest.split_once('<').unwrap().0.clone_into(&mut marker),
                    None => break,
                }
            }
            assert_eq!(seen, whole, "{page_size} a page {delimiter}");
        }
    }
    let zero = client.ask(Method::GET, "batchtoprocess?restype=container&comp=list&maxresults=0").send().await.unwrap();
    assert_eq!(refusal(zero).await, (400, "OutOfRangeQueryParameterValue".to_owned()));
    let marker = client.ask(Method::GET, "batchtoprocess?restype=container&comp=list&marker=***").send().await.unwrap();
    assert_eq!(refusal(marker).await, (400, "InvalidQueryParameterValue".to_owned()));
}

#[tokio::test]
async fn a_listing_shows_what_a_blob_carries() {
    let client = client().await;
    let put = client.ask(Method::PUT, "batchtoprocess/one").header("x-ms-blob-type", "BlockBlob");
    let put = put.header("content-type", "text/csv").header("x-ms-meta-rows", "7").body("12345").send().await.unwrap();
    let etag = header(&put, "etag").trim_matches('"').to_owned();
    let listed = client.list("&include=metadata").await;
    for part in [
        format!("<Etag>{etag}</Etag>"),
        format!("<Last-Modified>{}</Last-Modified>", header(&put, "last-modified")),
        format!("<Content-MD5>{}</Content-MD5>", header(&put, "content-md5")),
        "<Content-Length>5</Content-Length><Content-Type>text/csv</Content-Type>".to_owned(),
        "<BlobType>BlockBlob</BlobType>".to_owned(),
        "<Metadata><rows>7</rows></Metadata>".to_owned(),
        format!("ServiceEndpoint=\"{}/\" ContainerName=\"batchtoprocess\"", client.base),
    ] {
        assert!(listed.contains(&part), "{part} in {listed}");
    }
    assert!(!client.list("").await.contains("<Metadata>"));
}

#[tokio::test]
async fn metadata_and_properties_can_be_set_and_change_the_etag() {
    let client = client().await;
    let mut etag = header(&client.put("m", "x").await, "etag").to_owned();
    for (path, name, value, shown) in [
        ("batchtoprocess/m?comp=metadata", "x-ms-meta-k", "v", "x-ms-meta-k"),
        ("batchtoprocess/m?comp=properties", "x-ms-blob-content-type", "text/plain", "content-type"),
    ] {
        let set = client.ask(Method::PUT, path).header(name, value).header("if-match", &etag).send().await.unwrap();
        assert_eq!(set.status(), 200);
        assert_ne!(header(&set, "etag"), etag);
        let stale = client.ask(Method::PUT, path).header(name, value).header("if-match", &etag).send().await.unwrap();
        assert_eq!(refusal(stale).await, (412, "ConditionNotMet".to_owned()));
        header(&set, "etag").clone_into(&mut etag);
        let got = client.get("m").await;
        assert_eq!((header(&got, shown), header(&got, "etag")), (value, etag.as_str()));
        assert_eq!(got.text().await.unwrap(), "x");
    }
    let wrong = client.ask(Method::PUT, "batchtoprocess/m?comp=metadata").header("x-ms-meta-1-2", "v").send().await;
    assert_eq!(refusal(wrong.unwrap()).await, (400, "InvalidMetadata".to_owned()));
    let missing = client.ask(Method::PUT, "batchtoprocess/none?comp=metadata").send().await.unwrap();
    assert_eq!(refusal(missing).await, (404, "BlobNotFound".to_owned()));
}

#[tokio::test]
async fn each_operation_needs_its_right() {
    let client = client().await;
    client.put("b", "x").await;
    let denied = (403, "AuthorizationPermissionMismatch".to_owned());
    for (right, method, path) in [
        ("r", Method::GET, "batchtoprocess/b"),
        ("r", Method::HEAD, "batchtoprocess/b"),
        ("r", Method::GET, "batchtoprocess/b?comp=blocklist"),
        ("l", Method::GET, "batchtoprocess?restype=container&comp=list"),
        ("w", Method::PUT, "batchtoprocess/b?comp=metadata"),
        ("w", Method::PUT, "batchtoprocess/b?comp=properties"),
        ("w", Method::PUT, "batchtoprocess/b?comp=tier"),
        ("w", Method::PUT, "batchtoprocess/b?comp=block&blockid=YQ%3D%3D"),
        ("w", Method::PUT, "batchtoprocess/b"),
        ("d", Method::DELETE, "batchtoprocess/b"),
    ] {
        let ask = async |rights: &str| {
            let sas = client.local.keys().service_sas("batchtoprocess", None, rights, now() + HOUR);
            let ask = client.with(&sas, method.clone(), path).header("x-ms-blob-type", "BlockBlob");
            ask.header("x-ms-access-tier", "Hot").header("content-length", "0").send().await.unwrap()
        };
        let others: String = "rwdl".chars().filter(|other| !right.contains(*other)).collect();
        assert_eq!(refusal(ask(&others).await).await, denied, "{method} {path} with {others}");
        let allowed = ask(right).await.status();
        assert!(allowed.is_success(), "{method} {path} with {right}: {allowed}");
    }
}

#[tokio::test]
async fn a_sas_that_may_create_may_not_overwrite() {
    let client = client().await;
    let sas = client.local.keys().service_sas("batchtoprocess", None, "c", now() + HOUR);
    let put = async || {
        let put = client.with(&sas, Method::PUT, "batchtoprocess/once").header("x-ms-blob-type", "BlockBlob");
        put.body("x").send().await.unwrap()
    };
    assert_eq!(put().await.status(), 201);
    assert_eq!(refusal(put().await).await, (403, "UnauthorizedBlobOverwrite".to_owned()));
    // "Create an account SAS": blocks need `w`, even for a blob that is not there yet.
    for path in ["batchtoprocess/new?comp=block&blockid=YQ%3D%3D", "batchtoprocess/new?comp=blocklist"] {
        let put = client.with(&sas, Method::PUT, path).body("<BlockList/>").send().await.unwrap();
        assert_eq!(refusal(put).await, (403, "AuthorizationPermissionMismatch".to_owned()), "{path}");
    }
}

#[tokio::test]
async fn a_sas_opens_its_own_place_until_it_ends() {
    let client = client().await;
    client.put("b", "x").await;
    client.put("c", "x").await;
    let keys = client.local.keys();
    let get = async |sas: &str, path: &str| client.with(sas, Method::GET, path).send().await.unwrap();
    let failed = (403, "AuthenticationFailed".to_owned());

    let blob = keys.service_sas("batchtoprocess", Some("b"), "r", now() + HOUR);
    assert_eq!(get(&blob, "batchtoprocess/b").await.status(), 200);
    assert_eq!(refusal(get(&blob, "batchtoprocess/c").await).await, failed);
    let other = keys.service_sas("other", None, "r", now() + HOUR);
    assert_eq!(refusal(get(&other, "batchtoprocess/b").await).await, failed);
    let ended = keys.service_sas("batchtoprocess", None, "r", now());
    let ended = get(&ended, "batchtoprocess/b").await;
    assert_eq!(ended.status(), StatusCode::FORBIDDEN);
    let body = ended.text().await.unwrap();
    assert!(body.contains("<AuthenticationErrorDetail>") && body.contains("expired"), "{body}");

    let container = keys.service_sas("batchtoprocess", None, "rwdl", now() + HOUR);
    let delete = client.with(&container, Method::DELETE, "batchtoprocess?restype=container").send().await.unwrap();
    assert_eq!(refusal(delete).await, (403, "AuthorizationFailure".to_owned()));
    let anonymous = client.http.get(format!("{}/batchtoprocess/b", client.base)).send().await.unwrap();
    assert_eq!(header(&anonymous, "www-authenticate"), "SharedKey", "nobody issues access tokens");
    assert_eq!(refusal(anonymous).await, (401, "NoAuthenticationInformation".to_owned()));
}

#[tokio::test]
async fn what_is_missing_here_says_so() {
    let client = client().await;
    client.put("b", "x").await;
    for (method, path, name, value) in [
        (Method::PUT, "batchtoprocess/b?comp=lease", "x-ms-lease-action", "acquire"),
        (Method::PUT, "batchtoprocess/b?comp=snapshot", "a", "b"),
        (Method::GET, "batchtoprocess/b?snapshot=2020", "a", "b"),
        (Method::PUT, "batchtoprocess/b", "x-ms-copy-source", "http://x/"),
        (Method::PUT, "batchtoprocess/b", "x-ms-blob-type", "PageBlob"),
        (Method::POST, "?comp=batch", "a", "b"),
    ] {
        let ask = client.ask(method, path).header(name, value).header("content-length", "0").send().await.unwrap();
        assert_eq!(refusal(ask).await, (501, "NotImplemented".to_owned()), "{path} {name}");
    }
    let untyped = client.ask(Method::PUT, "batchtoprocess/b").body("x").send().await.unwrap();
    assert_eq!(refusal(untyped).await, (400, "MissingRequiredHeader".to_owned()));
    let lease = client.ask(Method::DELETE, "batchtoprocess/b").header("x-ms-lease-id", "1").send().await.unwrap();
    assert_eq!(refusal(lease).await, (412, "LeaseNotPresentWithBlobOperation".to_owned()));
    let account = client.http.get(format!("{}/b", client.base.replace("devstoreaccount1", "x"))).send().await.unwrap();
    assert_eq!(refusal(account).await, (400, "InvalidUri".to_owned()));
}

#[tokio::test]
async fn a_body_of_unknown_length_is_refused() {
    let client = client().await;
    let body = reqwest::Body::wrap_stream(futures::stream::iter([Ok::<_, std::io::Error>("x")]));
    let put = client.ask(Method::PUT, "batchtoprocess/s").header("x-ms-blob-type", "BlockBlob");
    assert_eq!(refusal(put.body(body).send().await.unwrap()).await, (411, "MissingContentLengthHeader".to_owned()));
}

/// Bytes that differ everywhere, so that a piece in the wrong place shows.
fn large(len: usize) -> Vec<u8> {
    (0..len as u64).map(|index| (index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

#[tokio::test]
async fn large_bodies_lie_in_files_and_come_back_whole() {
    let client = client().await;
    let body = large((20 << 20) + 12_345);
    assert_eq!(client.put("large", body.clone()).await.status(), 201);
    assert_eq!(client.local.blob().resident_bytes(), 0);
    for (index, part) in body.chunks(6 << 20).enumerate() {
        let path = format!("batchtoprocess/parts?comp=block&blockid=YWE{index}");
        assert_eq!(client.ask(Method::PUT, &path).body(part.to_vec()).send().await.unwrap().status(), 201);
    }
    let list: String = (0..4).map(|index| format!("<Latest>YWE{index}</Latest>")).collect();
    let commit = client.ask(Method::PUT, "batchtoprocess/parts?comp=blocklist");
    let commit = commit.body(format!("<BlockList>{list}</BlockList>")).send().await.unwrap();
    assert_eq!(commit.status(), 201);
    for name in ["large", "parts"] {
        let got = client.get(name).await.bytes().await.unwrap();
        assert!(got == body, "{name}");
        let across =
            client.ask(Method::GET, &format!("batchtoprocess/{name}")).header("range", "bytes=6291450-12582920");
        let across = across.send().await.unwrap().bytes().await.unwrap();
        assert!(across == body[6_291_450..=12_582_920], "{name}");
    }
}

#[tokio::test]
async fn small_bodies_beyond_the_budget_lie_in_files_too() {
    let client = client().await;
    let body = large(3 << 20);
    for index in 0..14 {
        assert_eq!(client.put(&format!("n{index}"), body.clone()).await.status(), 201);
    }
    let resident = client.local.blob().resident_bytes();
    assert!((1 << 20..=super::RESIDENT_MAX).contains(&resident), "{resident}");
    for index in 0..14 {
        assert!(client.get(&format!("n{index}")).await.bytes().await.unwrap() == body);
        client.ask(Method::DELETE, &format!("batchtoprocess/n{index}")).send().await.unwrap();
    }
    assert_eq!(client.local.blob().resident_bytes(), 0, "deleted blobs give their memory back");
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    use tokio::io::AsyncWriteExt as _;
    let client = client().await;
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", client.local.ports().blob)).await.unwrap();
    let head = format!(
        "PUT /devstoreaccount1/batchtoprocess/half?{} HTTP/1.1\r\nhost: x\r\nx-ms-blob-type: BlockBlob\r\ncontent-length: 10\r\n\r\nabc",
        client.sas
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await.unwrap();
    assert!(!answer.starts_with(b"HTTP/1.1 201"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(refusal(client.get("half").await).await, (404, "BlobNotFound".to_owned()));
    assert_eq!(client.local.blob().resident_bytes(), 0);
}

#[tokio::test]
async fn a_reader_keeps_the_blob_that_it_began_with() {
    let client = client().await;
    let body = large(16 << 20);
    client.put("o", body.clone()).await;
    let mut reading = client.get("o").await;
    let first = reading.chunk().await.unwrap().unwrap();
    assert_eq!(client.put("o", "new").await.status(), 201);
    client.ask(Method::DELETE, "batchtoprocess/o").send().await.unwrap();
    let mut got = first.to_vec();
    while let Some(more) = reading.chunk().await.unwrap() {
        got.extend_from_slice(&more);
    }
    assert!(got == body);
}

#[tokio::test]
async fn the_account_may_stand_in_the_host() {
    let client = client().await;
    client.put("b", "x").await;
    let url = format!("http://127.0.0.1:{}/batchtoprocess/b?{}", client.local.ports().blob, client.sas);
    let get = client.http.get(url).header("host", "devstoreaccount1.blob.localhost").send().await.unwrap();
    assert_eq!(get.text().await.unwrap(), "x");
}
