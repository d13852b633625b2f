//! TenantService's answers, and that no token of them is ever shown.

use time::OffsetDateTime;
use time::macros::datetime;

use super::golden;
use crate::{BlobEndpoint, BusEndpoint, GrantLayout, TemporaryEndpoints};

const ACCEPTED: &str = "grants/accepted";
const REFUSED: &str = "grants/refused";
const EXPIRES_AT: OffsetDateTime = datetime!(2022-07-06 06:30 UTC);

fn bus() -> BusEndpoint {
    BusEndpoint {
        endpoint: "sb://exports.servicebus.windows.net".to_owned(),
        entity_path: "exports/subscriptions/acme".to_owned(),
        sas_token:
            "SharedAccessSignature sr=sb%3A%2F%2Fexports.servicebus.windows.net%2Fexports%2Fsubscriptions%2Facme\
                    &sig=SECRETBUS%3D&se=1657089000&skn=listen"
                .to_owned(),
        expires_at: Some(EXPIRES_AT),
    }
}

fn blob() -> BlobEndpoint {
    BlobEndpoint {
        endpoint: "https://myaccount.blob.core.windows.net".to_owned(),
        container: "batchtoprocess".to_owned(),
        sas_token: "sv=2022-11-02&se=2022-07-06T06%3A30%3A00Z&sr=c&sp=rl&sig=SECRETBLOB%3D".to_owned(),
        expires_at: Some(EXPIRES_AT),
    }
}

fn accepted() -> Vec<(&'static str, TemporaryEndpoints)> {
    let answer = |service_bus, blob_storage| TemporaryEndpoints { service_bus, blob_storage };
    vec![
        ("default.json", answer(vec![bus()], vec![blob()])),
        ("without-expiresAt.json", answer(vec![bus()], vec![blob()])),
        (
            "lists.json",
            answer(
                vec![bus(), BusEndpoint { entity_path: "exports/subscriptions/acme-2".to_owned(), ..bus() }],
                vec![
                    blob(),
                    BlobEndpoint {
                        endpoint: "https://other.blob.core.windows.net/".to_owned(),
                        sas_token: "?sv=2022-11-02&se=2022-07-06&sig=SECRETBLOB%3D".to_owned(),
                        expires_at: Some(datetime!(2022-07-06 0:00 UTC)),
                        ..blob()
                    },
                ],
            ),
        ),
        ("bus-only.json", answer(vec![bus()], vec![])),
        (
            "blob-only.json",
            answer(vec![], vec![BlobEndpoint { sas_token: blob().sas_token.replace("%3A00Z", "Z"), ..blob() }]),
        ),
        (
            "loopback.json",
            answer(
                vec![BusEndpoint { endpoint: "amqp://127.0.0.1:5672".to_owned(), ..bus() }],
                vec![BlobEndpoint { endpoint: "http://127.0.0.1:10000/devstoreaccount1".to_owned(), ..blob() }],
            ),
        ),
        (
            "no-expiry-anywhere.json",
            answer(
                vec![BusEndpoint {
                    endpoint: "amqps://exports.servicebus.windows.net".to_owned(),
                    sas_token: "SharedAccessSignature sr=x&sig=SECRETBUS".to_owned(),
                    expires_at: None,
                    ..bus()
                }],
                vec![BlobEndpoint {
                    sas_token: "sv=2022-11-02&si=policy&sig=SECRETBLOB".to_owned(),
                    expires_at: None,
                    ..blob()
                }],
            ),
        ),
        ("other-layout.json", answer(vec![bus()], vec![blob()])),
    ]
}

/// The layout that a golden file is read with.
fn layout(file: &str) -> GrantLayout {
    if file != "other-layout.json" {
        return GrantLayout::default();
    }
    GrantLayout {
        bus: "/data/topics".to_owned(),
        bus_endpoint: "/ns/url".to_owned(),
        bus_entity: "/sub".to_owned(),
        bus_sas: "/token".to_owned(),
        blob: "/data/files".to_owned(),
        blob_endpoint: "/account".to_owned(),
        blob_container: "/folder".to_owned(),
        blob_sas: "/key".to_owned(),
        blob_expires_at: "/until".to_owned(),
        ..GrantLayout::default()
    }
}

const REFUSALS: [(&str, &str); 12] = [
    ("not-json.json", "at its root: is not JSON (line 1, column 1)"),
    ("neither-part.json", "at /serviceBus and /blobStorage: both are missing or empty"),
    ("text-part.json", "at /serviceBus/sasToken: is missing"),
    ("no-token.json", "at /blobStorage/1/sasToken: is missing"),
    ("number-token.json", "at /serviceBus/sasToken: is a number, not text"),
    ("empty-container.json", "at /blobStorage/container: is empty"),
    ("token-with-line-feed.json", "at /blobStorage/sasToken: holds a control character"),
    ("bad-time.json", "at /serviceBus/expiresAt: is no RFC 3339 time"),
    (
        "blob-without-tls.json",
        "at /blobStorage/endpoint: must begin with https:// (http:// is taken for loopback only)",
    ),
    (
        "bus-without-tls.json",
        "at /serviceBus/endpoint: must begin with sb:// or amqps:// (amqp:// is taken for loopback",
    ),
    ("endpoint-with-query.json", "at /blobStorage/endpoint: carries a user name, a query or a fragment"),
    ("endpoint-relative.json", "at /blobStorage/endpoint: is no absolute address"),
];

pub(super) fn golden() -> Vec<String> {
    let accepted = accepted().into_iter().map(|(file, _)| format!("{ACCEPTED}/{file}"));
    accepted.chain(REFUSALS.iter().map(|(file, _)| format!("{REFUSED}/{file}"))).collect()
}

#[test]
fn every_shape_of_an_answer_is_read() {
    for (file, expected) in accepted() {
        let read = TemporaryEndpoints::parse(&golden::read(ACCEPTED, file), &layout(file));
        let read = read.unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(read, expected, "{file}");
    }
}

#[test]
fn a_bad_answer_is_refused_by_pointer_and_never_quoted() {
    for (file, words) in REFUSALS {
        let error = TemporaryEndpoints::parse(&golden::read(REFUSED, file), &GrantLayout::default()).expect_err(file);
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(words), "{file}: {error}");
        assert!(!shown.contains("SECRET"), "{file}: {shown}");
    }
}

#[test]
fn what_is_written_in_the_default_shape_reads_back() {
    for (file, expected) in accepted() {
        let written = serde_json::to_vec(&expected).unwrap();
        assert_eq!(TemporaryEndpoints::parse(&written, &GrantLayout::default()).unwrap(), expected, "{file}");
    }
}

#[test]
fn the_default_answer_is_written_as_documented() {
    let written = serde_json::to_string_pretty(&accepted().remove(0).1).unwrap();
    assert_eq!(format!("{written}\n"), golden::read_text(ACCEPTED, "default.json"));
}

#[test]
fn debug_of_a_grant_shows_no_token() {
    for (file, answer) in accepted() {
        let shown = format!("{answer:?} {answer:#?}");
        assert!(shown.contains("redacted") && !shown.contains("SECRET") && !shown.contains("sig="), "{file}: {shown}");
    }
}

#[test]
fn a_configured_place_that_is_no_pointer_is_named() {
    let layout = GrantLayout { blob_sas: "sasToken".to_owned(), ..GrantLayout::default() };
    let error = TemporaryEndpoints::parse(&golden::read(ACCEPTED, "default.json"), &layout).unwrap_err();
    assert_eq!(
        error.to_string(),
        "TenantService's answer at /blobStoragesasToken: the configured place is no JSON pointer; it must start with '/'"
    );
}
