//! Every shape of the message that we accept, and those that we refuse with their reason.

use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use time::macros::datetime;

use super::golden;
use crate::{BODY_BYTES_MAX, Encoding, ExportId, Extras, Format, HeaderRow, Media, Metadata, Reason, Snapshot};

const ACCEPTED: &str = "metadata/accepted";
const REFUSED: &str = "metadata/refused";
const PUBLIC_EXAMPLE: &str = "public-example.json";

/// What a reader makes of an accepted message. The default is what most golden files hold.
#[derive(Debug, PartialEq)]
struct Seen {
    blob_type: String,
    correlation_id: String,
    media: Media,
    encoding: Option<Encoding>,
    uri: String,
    properties: Option<String>,
    unknown: Vec<(String, String)>,
    extras: Extras,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            blob_type: "ItemChanges".to_owned(),
            correlation_id: "7e06807f-674f-4199-9140-a97b897dbaee".to_owned(),
            media: media(Format::JsonLines),
            encoding: Some(Encoding::Gzip),
            uri: "https://myaccount.blob.core.windows.net/batchtoprocess/ItemChanges/2022-07-05/7e06807f.jsonl.gz"
                .to_owned(),
            properties: Some("{}".to_owned()),
            unknown: Vec::new(),
            extras: Extras::default(),
        }
    }
}

fn media(format: Format) -> Media {
    Media::new(format)
}

/// Everything that a subscriber asks of a message, in its order; the first problem is the message's.
fn see(body: &[u8]) -> Result<Seen, (Reason, String)> {
    let metadata = Metadata::parse(body).map_err(|error| (error.reason, error.to_string()))?;
    let media = metadata.media().map_err(|error| (error.reason, error.to_string()))?;
    let encoding = metadata.encoding().map_err(|error| (error.reason, error.to_string()))?;
    let uri = metadata.blob_uri().map_err(|error| (error.reason, error.to_string()))?.normalised();
    let extras = metadata.extras().map_err(|error| (Reason::BadExtras, error.to_string()))?;
    Ok(Seen {
        media,
        encoding,
        uri,
        extras,
        properties: metadata.properties.map(|value| value.get().to_owned()),
        unknown: metadata.unknown.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect(),
        blob_type: metadata.blob_type,
        correlation_id: metadata.correlation_id,
    })
}

fn accepted() -> Vec<(&'static str, Seen)> {
    let of = |format| Seen { media: media(format), ..Seen::default() };
    let properties = |text: &str| Seen { properties: Some(text.to_owned()), ..Seen::default() };
    let uri = |text: &str| Seen { uri: text.to_owned(), ..Seen::default() };
    let encoding = |encoding| Seen { encoding, ..Seen::default() };
    let extras = |file, extras| {
        // These files hold `properties` indented, which is not what they are about.
        let raw = Metadata::parse(&golden::read(ACCEPTED, file)).unwrap().properties.unwrap();
        (file, Seen { properties: Some(raw.get().to_owned()), extras, ..Seen::default() })
    };
    vec![
        (
            PUBLIC_EXAMPLE,
            Seen {
                blob_type: "Gateway.ItemChanges".to_owned(),
                uri: "https://myaccount.blob.core.windows.net/batchtoprocess/Gateway.ItemChanges/2022-07-05/7e06807f-674f-4199-9140-a97b897dbaee-ce820821-8215-427a-96eb-7f476bcfc8a4.jsonl.gz".to_owned(),
                ..Seen::default()
            },
        ),
        ("content-type-text-csv.json", of(Format::Csv)),
        ("content-type-application-csv.json", of(Format::Csv)),
        ("content-type-application-json.json", of(Format::Json)),
        ("content-type-x-jsonlines.json", of(Format::JsonLines)),
        ("content-type-jsonl.json", of(Format::JsonLines)),
        ("content-type-x-ndjson.json", of(Format::JsonLines)),
        ("content-type-text-xml.json", of(Format::Xml)),
        ("content-type-application-xml.json", of(Format::Xml)),
        ("content-type-x-xmllines.json", of(Format::XmlLines)),
        (
            "content-type-parameters.json",
            Seen {
                media: Media {
                    charset: Some("utf-8".to_owned()),
                    header: HeaderRow::Absent,
                    ..media(Format::Csv)
                },
                ..Seen::default()
            },
        ),
        (
            "content-type-odd-spelling.json",
            Seen {
                media: Media { charset: Some("utf-8".to_owned()), ..media(Format::Csv) },
                ..Seen::default()
            },
        ),
        (
            "content-type-delimiter.json",
            Seen {
                media: Media { charset: Some("windows-1252".to_owned()), delimiter: b';', ..media(Format::Csv) },
                ..Seen::default()
            },
        ),
        ("content-type-row.json", Seen { media: Media { row: Some("Item".to_owned()), ..media(Format::Xml) }, ..Seen::default() }),
        (
            "properties-of-csv.json",
            Seen {
                media: Media {
                    charset: Some("utf-16".to_owned()),
                    header: HeaderRow::Absent,
                    delimiter: b'\t',
                    ..media(Format::Csv)
                },
                ..properties("{ \"charset\": \"UTF-16\", \"csv\": { \"delimiter\": \"\\t\", \"header\": \"absent\" } }")
            },
        ),
        (
            "properties-of-xml.json",
            Seen {
                media: Media { row: Some("Item".to_owned()), ..media(Format::Xml) },
                ..properties("{ \"xml\": { \"row\": \"Item\" }, \"csv\": { \"delimiter\": \"no\" }, \"charset\": 7 }")
            },
        ),
        (
            "properties-after-parameters.json",
            Seen {
                media: Media { delimiter: b'|', header: HeaderRow::Absent, ..media(Format::Csv) },
                ..properties("{ \"csv\": { \"delimiter\": \"no\", \"header\": \"absent\" } }")
            },
        ),
        ("content-encoding-absent.json", encoding(None)),
        ("content-encoding-null.json", encoding(None)),
        ("content-encoding-empty.json", encoding(None)),
        ("content-encoding-identity.json", encoding(Some(Encoding::Identity))),
        ("content-encoding-upper-case.json", encoding(Some(Encoding::Gzip))),
        ("properties-absent.json", Seen { properties: None, ..Seen::default() }),
        ("properties-null.json", Seen { properties: None, ..Seen::default() }),
        (
            "properties-kept-raw.json",
            properties(
                r#"{ "price": 19.90, "big": 123456789012345678901234567890, "exp": 1E400, "text": "\u00e5\/", "nested": {"list": [1, 2.0, null]} }"#,
            ),
        ),
        ("properties-list.json", properties("[\n    \"any\",\n    \"structure\"\n  ]")),
        (
            "unknown-fields.json",
            Seen {
                unknown: [
                    ("zeta", "19.90"),
                    ("version", r#"{"major": 2, "minor": 0.10}"#),
                    ("alpha", "null"),
                    ("BlobType", r#""another field""#),
                ]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
                ..Seen::default()
            },
        ),
        (
            "repeated-fields.json",
            Seen { unknown: vec![("other".to_owned(), "1".to_owned())], ..Seen::default() },
        ),
        ("byte-order-mark.json", Seen::default()),
        ("fields-in-another-order.json", Seen::default()),
        ("escaped-text.json", Seen { correlation_id: "😀 \0 \" \\".to_owned(), ..Seen::default() }),
        (
            "longest-names.json",
            Seen { blob_type: "å".repeat(200), correlation_id: "😀".repeat(256), ..Seen::default() },
        ),
        (
            "any-text-as-names.json",
            Seen {
                blob_type: "../Gateway Varuändring\n'; DROP TABLE \"x\"--".to_owned(),
                correlation_id: "order/4711 #2".to_owned(),
                ..Seen::default()
            },
        ),
        ("uri-with-a-query.json", Seen::default()),
        ("uri-in-another-spelling.json", Seen::default()),
        (
            "uri-on-loopback.json",
            uri("http://127.0.0.1:10000/devstoreaccount1/batchtoprocess/ItemChanges/a.csv"),
        ),
        (
            "uri-with-escapes.json",
            uri("https://myaccount.blob.core.windows.net/batchtoprocess/Varu%C3%A4ndring/a%20b%25%2Bc.jsonl.gz"),
        ),
        extras("extras-full.json", full_extras()),
        extras(
            "extras-partial.json",
            Extras { export_id: Some(ExportId::new("export.1_A-b").unwrap()), rows: Some(0), ..Extras::default() },
        ),
        extras("extras-empty.json", Extras::default()),
        extras("extras-null.json", Extras::default()),
        extras("extras-null-parts.json", Extras::default()),
        extras(
            "extras-other-spelling.json",
            Extras {
                export_id: Some(ExportId::new("e1").unwrap()),
                epoch: full_extras().epoch,
                plain_sha256: full_extras().plain_sha256,
                expires_at: full_extras().expires_at,
                sequence: Some(9_223_372_036_854_775_807),
                ..Extras::default()
            },
        ),
    ]
}

fn full_extras() -> Extras {
    Extras {
        export_id: Some(ExportId::new("0190a5d2-7c31-7c8e-9f5a-0c8f5c1e2b3a").unwrap()),
        publisher: Some("item-service".to_owned()),
        epoch: Some("0190a5d0-0000-7000-8000-000000000001".to_owned()),
        sequence: Some(42),
        rows: Some(1_000),
        bytes: Some(20_480),
        plain_bytes: Some(409_600),
        plain_sha256: Some("ab".repeat(32)),
        sha256: Some("cd".repeat(32)),
        schema: Some("https://schemas.example/item/3".to_owned()),
        snapshot: Some(Snapshot { id: "full-2022-07-05".to_owned(), part: 2, of: 3, as_of: 41 }),
        expires_at: Some(datetime!(2022-07-12 06:30 UTC)),
        causation_id: Some("cmd-17".to_owned()),
    }
}

/// File, reason, and the words by which a person finds the fault.
const REFUSALS: [(&str, Reason, &str); 47] = [
    ("empty.json", Reason::NotJson, "EOF while parsing a value at line 1 column 0"),
    ("not-json.json", Reason::NotJson, "expected value at line 1 column 1"),
    ("xml.json", Reason::NotJson, "expected value at line 1 column 1"),
    ("a-list.json", Reason::NotJson, "the message is JSON, but not an object"),
    ("a-text.json", Reason::NotJson, "the message is JSON, but not an object"),
    ("two-objects.json", Reason::NotJson, "trailing characters at line 1"),
    ("cut-off.json", Reason::NotJson, "EOF while parsing a string at line 1 column 150"),
    ("not-utf-8.json", Reason::NotJson, "not UTF-8 at byte 16"),
    ("utf-16.json", Reason::NotJson, "not UTF-8 at byte 0"),
    ("no-blobType.json", Reason::MissingField, "the message has no blobType"),
    ("no-correlationId.json", Reason::MissingField, "the message has no correlationId"),
    ("no-contentType.json", Reason::MissingField, "the message has no contentType"),
    ("no-uri.json", Reason::MissingField, "the message has no uri"),
    ("null-blobType.json", Reason::MissingField, "blobType is null, not text"),
    ("number-correlationId.json", Reason::MissingField, "correlationId is a number, not text"),
    ("list-uri.json", Reason::MissingField, "uri is a list, not text"),
    ("half-a-surrogate-pair.json", Reason::MissingField, "blobType holds an escape that is no character"),
    ("number-contentEncoding.json", Reason::UnknownContentEncoding, "contentEncoding is a number, not text"),
    ("empty-blobType.json", Reason::FieldOutOfBounds, "blobType has 0 characters; it needs 1 to 200"),
    ("blobType-too-long.json", Reason::FieldOutOfBounds, "blobType has 201 characters; it needs 1 to 200"),
    ("empty-correlationId.json", Reason::FieldOutOfBounds, "correlationId has 0 characters; it needs 1 to 256"),
    ("correlationId-too-long.json", Reason::FieldOutOfBounds, "correlationId has 257 characters; it needs 1 to 256"),
    ("content-type-empty.json", Reason::UnknownContentType, "contentType \"\" is none of those we read"),
    ("content-type-unknown.json", Reason::UnknownContentType, "\"application/octet-stream\" is none of those we read"),
    ("content-type-open-quote.json", Reason::UnknownContentType, "has a quoted parameter that does not end"),
    (
        "content-type-header-unknown.json",
        Reason::UnsupportedFormat,
        "is neither present nor absent, in contentType or properties",
    ),
    (
        "content-type-delimiter-unknown.json",
        Reason::UnsupportedFormat,
        "delimiter must be one ASCII character or comma, semicolon",
    ),
    (
        "properties-of-csv-unknown.json",
        Reason::UnsupportedFormat,
        "delimiter must be one ASCII character or comma, semicolon",
    ),
    ("content-encoding-unknown.json", Reason::UnknownContentEncoding, "\"br\" is neither gzip nor identity"),
    ("uri-relative.json", Reason::BadUri, "uri is not an absolute https address"),
    ("uri-file.json", Reason::BadUri, "uri is not an https address"),
    ("uri-without-tls.json", Reason::BadUri, "http is taken for loopback only"),
    ("extras-text.json", Reason::BadExtras, "properties.waybill: is text, not an object"),
    ("extras-exportId-with-a-slash.json", Reason::BadExtras, "/exportId: exportId \"a/b\" may hold"),
    ("extras-exportId-number.json", Reason::BadExtras, "/exportId: is a number, not proper text"),
    ("extras-sequence-zero.json", Reason::BadExtras, "/sequence: is no whole number from 1 to 9223372036854775807"),
    ("extras-sequence-text.json", Reason::BadExtras, "/sequence: is no whole number"),
    ("extras-rows-fraction.json", Reason::BadExtras, "/rows: is no whole number from 0"),
    ("extras-rows-negative.json", Reason::BadExtras, "/rows: is no whole number from 0"),
    ("extras-bytes-too-large.json", Reason::BadExtras, "/bytes: is no whole number from 0 to 9223372036854775807"),
    ("extras-hash-short.json", Reason::BadExtras, "/plainSha256: is no SHA-256 in 64 hexadecimal digits"),
    ("extras-hash-no-hex.json", Reason::BadExtras, "/sha256: is no SHA-256 in 64 hexadecimal digits"),
    ("extras-expiresAt-without-zone.json", Reason::BadExtras, "/expiresAt: is no RFC 3339 time"),
    ("extras-snapshot-part-after-of.json", Reason::BadExtras, "/snapshot/part: is 4, more than of, 3"),
    (
        "extras-snapshot-asOf-not-before.json",
        Reason::BadExtras,
        "/snapshot/asOf: is 7, not below the file's own sequence, 7",
    ),
    ("extras-snapshot-without-asOf.json", Reason::BadExtras, "/snapshot/asOf: is missing"),
    ("extras-publisher-empty.json", Reason::BadExtras, "/publisher: has 0 characters; it needs 1 to 256"),
];

pub(super) fn golden() -> Vec<String> {
    let accepted = accepted().into_iter().map(|(file, _)| format!("{ACCEPTED}/{file}"));
    accepted.chain(REFUSALS.iter().map(|(file, ..)| format!("{REFUSED}/{file}"))).collect()
}

fn public_example() -> Metadata {
    Metadata::parse(&golden::read(ACCEPTED, PUBLIC_EXAMPLE)).unwrap()
}

#[test]
fn every_accepted_shape_is_read_in_every_field() {
    for (file, expected) in accepted() {
        assert_eq!(see(&golden::read(ACCEPTED, file)), Ok(expected), "{file}");
    }
}

#[test]
fn every_refused_shape_has_its_reason_and_says_where_the_fault_is() {
    for (file, reason, words) in REFUSALS {
        let (seen, text) = see(&golden::read(REFUSED, file)).expect_err(file);
        assert_eq!(seen, reason, "{file}: {text}");
        assert!(text.contains(words), "{file}: {text}");
        assert!(!text.contains("SECRET"), "{file}: {text}");
    }
}

#[test]
fn the_example_of_the_public_description_is_written_as_it_was_read() {
    let example = golden::read_text(ACCEPTED, PUBLIC_EXAMPLE);
    let written = String::from_utf8(public_example().to_json().unwrap()).unwrap();
    assert_eq!(written, example.replace('\n', "").replace("\": ", "\":"));
}

#[test]
fn what_is_sent_on_keeps_every_field_and_every_digit() {
    for (file, expected) in accepted() {
        let read = Metadata::parse(&golden::read(ACCEPTED, file)).unwrap();
        match read.to_json() {
            Ok(body) => assert_eq!(Metadata::parse(&body).unwrap(), read, "{file}"),
            Err(error) => {
                let refused = expected.blob_type != "ItemChanges" || read.uri.contains('?');
                assert!(refused, "{file}: {error}");
            }
        }
    }
}

#[test]
fn what_is_accepted_but_not_published_is_refused_by_name() {
    type Change = fn(&mut Metadata);
    let changes: [(Change, &str); 9] = [
        (|m| m.blob_type = "../x".to_owned(), "blobType \"../x\" may hold letters"),
        (|m| m.blob_type = ".x".to_owned(), "blobType \".x\" must start with a letter or a digit"),
        (|m| m.correlation_id = String::new(), "correlationId has 0 characters"),
        (|m| m.content_type = "text/plain".to_owned(), "contentType \"text/plain\" is none"),
        (|m| m.content_encoding = Some("br".to_owned()), "contentEncoding \"br\" is neither"),
        (|m| m.uri = "https://myaccount.blob.core.windows.net/c".to_owned(), "uri names no blob"),
        (|m| m.uri.push_str("?sig=SECRET"), "uri has a query"),
        (
            |m| m.unknown.push(("uri".to_owned(), RawValue::NULL.to_owned())),
            "field \"uri\" stands in the message twice",
        ),
        (
            |m| {
                m.unknown =
                    vec![("a".to_owned(), RawValue::NULL.to_owned()), ("a".to_owned(), RawValue::TRUE.to_owned())]
            },
            "field \"a\" stands in the message twice",
        ),
    ];
    for (change, words) in changes {
        let mut metadata = public_example();
        change(&mut metadata);
        let text = metadata.to_json().expect_err(words).to_string();
        assert!(text.contains(words) && !text.contains("SECRET"), "{text}");
    }
}

#[test]
fn extras_take_their_place_among_other_properties() {
    let mut metadata = public_example();
    metadata.properties =
        Some(RawValue::from_string(r#"{"a": 19.90, "waybill": 1, "b": [1,  2]}"#.to_owned()).unwrap());
    metadata.set_extras(&full_extras()).unwrap();
    assert_eq!(metadata.extras().unwrap(), full_extras());
    let text = metadata.properties.unwrap().get().to_owned();
    assert!(text.starts_with(r#"{"a":19.90,"waybill":{"exportId":"#), "{text}");
    assert!(text.ends_with(r#""causationId":"cmd-17"},"b":[1,  2]}"#), "{text}");
}

#[test]
fn extras_are_written_as_the_golden_file_has_them() {
    let mut metadata = public_example();
    metadata.properties = Some(RawValue::from_string(r#"{"region":"north"}"#.to_owned()).unwrap());
    metadata.set_extras(&full_extras()).unwrap();
    let compact = |raw: &RawValue| raw.get().replace('\n', "").replace("  ", "").replace("\": ", "\":");
    let golden = Metadata::parse(&golden::read(ACCEPTED, "extras-full.json")).unwrap();
    assert_eq!(metadata.properties.unwrap().get(), compact(&golden.properties.unwrap()));
}

#[test]
fn extras_without_properties_make_them() {
    let mut metadata = public_example();
    metadata.properties = None;
    metadata.set_extras(&Extras { sequence: Some(7), ..Extras::default() }).unwrap();
    assert_eq!(metadata.properties.unwrap().get(), r#"{"waybill":{"sequence":7}}"#);
}

#[test]
fn extras_that_a_reader_would_refuse_are_not_written() {
    let bad = [
        (Extras { sequence: Some(0), ..Extras::default() }, "/sequence"),
        (Extras { rows: Some(u64::MAX), ..Extras::default() }, "/rows"),
        (Extras { sha256: Some("x".to_owned()), ..Extras::default() }, "/sha256"),
        (Extras { publisher: Some(String::new()), ..Extras::default() }, "/publisher"),
        (Extras { expires_at: Some(datetime!(-0001-01-01 0:00 UTC)), ..Extras::default() }, "/expiresAt"),
        (Extras { expires_at: Some(datetime!(9999-12-31 23:59 -1:00)), ..Extras::default() }, "/expiresAt"),
    ];
    for (extras, pointer) in bad {
        let mut metadata = public_example();
        let error = metadata.set_extras(&extras).expect_err(pointer);
        assert!(error.to_string().contains(pointer), "{error}");
        assert_eq!(metadata, public_example());
    }
}

#[test]
fn properties_that_are_no_object_are_not_lost_to_extras() {
    let mut metadata = public_example();
    metadata.properties = Some(RawValue::from_string("[1]".to_owned()).unwrap());
    let before = metadata.clone();
    let error = metadata.set_extras(&full_extras()).unwrap_err();
    assert_eq!(error.to_string(), "properties.waybill: properties is a list; only an object has room for it");
    assert_eq!(metadata, before);
}

#[test]
fn a_body_over_the_limit_is_refused_and_one_at_the_limit_is_read() {
    let example = golden::read_text(ACCEPTED, PUBLIC_EXAMPLE);
    let padding = " ".repeat(BODY_BYTES_MAX - example.len());
    Metadata::parse(format!("{example}{padding}").as_bytes()).unwrap();
    let error = Metadata::parse(format!("{example}{padding} ").as_bytes()).unwrap_err();
    assert_eq!(error.reason, Reason::FieldOutOfBounds);
    assert_eq!(error.to_string(), "the message has 1048577 bytes; at most 1048576 are read");
}

#[test]
fn a_body_over_the_limit_is_not_published() {
    let mut metadata = public_example();
    let spare = BODY_BYTES_MAX - metadata.to_json().unwrap().len();
    let filled = |bytes: usize| RawValue::from_string(format!("{{\"a\":\"{}\"}}", "x".repeat(bytes))).unwrap();
    let around = filled(0).get().len() - "{}".len();
    metadata.properties = Some(filled(spare - around));
    assert_eq!(metadata.to_json().unwrap().len(), BODY_BYTES_MAX);
    metadata.properties = Some(filled(spare - around + 1));
    let error = metadata.to_json().unwrap_err();
    assert_eq!(error.to_string(), "the message would have 1048577 bytes; readers take at most 1048576");
}

#[test]
fn nesting_as_deep_as_a_body_allows_takes_no_stack() {
    let depth = (BODY_BYTES_MAX - 1_000) / 2;
    let properties = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let body = golden::read_text(ACCEPTED, PUBLIC_EXAMPLE).replace("{}", &properties);
    let metadata = Metadata::parse(body.as_bytes()).unwrap();
    assert_eq!(metadata.extras().unwrap(), Extras::default());
    assert_eq!(metadata.to_json().unwrap().len(), body.replace('\n', "").replace("\": ", "\":").len());
}

#[test]
fn a_body_full_of_fields_takes_no_quadratic_time() {
    let fields = (0..70_000).map(|n| format!("\"f{n}\":1,")).collect::<String>();
    let body = golden::read_text(ACCEPTED, PUBLIC_EXAMPLE).replacen('{', &format!("{{{fields}"), 1);
    assert!(body.len() < BODY_BYTES_MAX);
    let start = Instant::now();
    let metadata = Metadata::parse(body.as_bytes()).unwrap();
    metadata.to_json().unwrap();
    assert_eq!(metadata.unknown.len(), 70_000);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn debug_of_a_message_shows_neither_a_query_nor_values_of_properties() {
    let mut metadata = Metadata::parse(&golden::read(ACCEPTED, "uri-with-a-query.json")).unwrap();
    metadata.properties = Some(RawValue::from_string(r#"{"a":"SECRET"}"#.to_owned()).unwrap());
    metadata.unknown = vec![("field".to_owned(), RawValue::from_string(r#""SECRET""#.to_owned()).unwrap())];
    let text = format!("{metadata:?}");
    assert!(text.contains("7e06807f.jsonl.gz") && text.contains("field"), "{text}");
    assert!(!text.contains("SECRET"), "{text}");
    assert!(!metadata.uri_without_query().contains('?'));
}

#[test]
fn each_format_is_found_by_its_own_suffix_and_content_type() {
    for format in [Format::JsonLines, Format::Json, Format::Csv, Format::Xml, Format::XmlLines] {
        assert_eq!(Format::from_suffix(format.suffix()), Some(format));
        assert_eq!(Format::from_suffix(&format.suffix().to_uppercase()), Some(format));
        assert_eq!(Media::parse(format.content_type()).unwrap(), media(format));
    }
    assert_eq!(Format::from_suffix("ndjson"), Some(Format::JsonLines));
    assert_eq!(Format::from_suffix("gz"), None);
    assert_eq!(Format::from_suffix(".csv"), None);
}
