//! What holds for any input.

use std::collections::{HashMap, HashSet};

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::value::RawValue;
use time::macros::date;

use crate::{
    BlobPath, BlobType, BlobUri, Entities, ExportId, Extras, FileName, GrantLayout, Metadata, Snapshot, SqlName,
    TemporaryEndpoints,
};

/// Texts that are likely to meet each other's escapes, and any other.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[aA.=~/\\\\_\"\0 -]{0,12}",
        2 => "(con|NUL|com1|\\.\\.|=41|~1|~x|a\"b){1,3}",
        1 => "[a-zA-Z]{150,260}",
        1 => ".{0,80}",
        1 => vec(any::<char>(), 0..90).prop_map(String::from_iter),
    ]
}

fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,3})?",
        any_text().prop_map(|text| serde_json::to_string(&text).unwrap()),
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("\"\\u0041\\/\\ud83d\\ude00\"".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[ {}]", items.join(" , "))),
            vec((any_text(), inner), 0..4).prop_map(|fields| {
                let fields =
                    fields.iter().map(|(name, value)| format!("{}: {value}", serde_json::to_string(name).unwrap()));
                format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
            }),
        ]
    })
}

fn any_extras() -> impl Strategy<Value = Extras> {
    let number = |min: i64| proptest::option::of((min..=i64::MAX).prop_map(|number| u64::try_from(number).unwrap()));
    let short = || proptest::option::of(".{1,40}");
    let hash = || proptest::option::of("[0-9a-f]{64}");
    let snapshot = (".{1,20}", 1u64..100, 0u64..100, 0..=i64::MAX.unsigned_abs());
    let snapshot = snapshot.prop_map(|(id, part, more, as_of)| Snapshot { id, part, of: part + more, as_of });
    let times = proptest::option::of(
        (-62_135_596_800_000_000_000_i128..=253_402_300_799_999_999_999)
            .prop_map(|nanos| time::OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap()),
    );
    let texts = (proptest::option::of("[A-Za-z0-9._-]{1,120}"), short(), "[a-z0-9-]{1,20}", short(), short());
    let numbers = (number(1), number(0), number(0), number(0));
    (texts, numbers, hash(), hash(), proptest::option::of(snapshot), times).prop_map(
        |((export_id, publisher, epoch, schema, causation_id), numbers, plain_sha256, sha256, snapshot, expires_at)| {
            let (sequence, rows, bytes, plain_bytes) = numbers;
            let before = |of: Snapshot| Snapshot { as_of: sequence.map_or(of.as_of, |own| of.as_of % own), ..of };
            let snapshot = snapshot.map(before);
            Extras {
                export_id: export_id.map(|id| ExportId::new(id).unwrap()),
                publisher,
                epoch: Some(epoch),
                sequence,
                rows,
                bytes,
                plain_bytes,
                plain_sha256,
                sha256,
                schema,
                snapshot,
                expires_at,
                causation_id,
            }
        },
    )
}

fn is_safe_segment(name: &str) -> bool {
    let bytes = name.as_bytes();
    let windows = name.split('.').next().unwrap().to_ascii_uppercase();
    !bytes.is_empty()
        && bytes.len() <= 200
        && !name.contains("..")
        && !name.starts_with(['.', '-', ' '])
        && !name.ends_with(['.', ' '])
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-=~".contains(byte))
        && !["CON", "PRN", "AUX", "NUL", "COM1", "LPT9"].contains(&windows.as_str())
}

proptest! {
    #[test]
    fn a_file_name_is_one_safe_segment(text in any_text()) {
        let name = FileName::encode(&text);
        prop_assert!(is_safe_segment(name.as_str()), "{text:?} became {name}");
    }

    #[test]
    fn different_texts_have_different_file_names_where_case_does_not_count(texts in vec(any_text(), 2..40)) {
        let mut taken = HashMap::new();
        for text in texts.iter().collect::<HashSet<_>>() {
            let name = FileName::encode(text).as_str().to_ascii_lowercase();
            if let Some(other) = taken.insert(name.clone(), text) {
                prop_assert!(false, "{text:?} and {other:?} are both {name}");
            }
        }
    }

    #[test]
    fn a_name_of_a_file_name_is_another_one(text in any_text()) {
        // The ends `~1`, `~x…` and the escapes of one name mean nothing special in the next.
        let once = FileName::encode(&text);
        let twice = FileName::encode(once.as_str());
        prop_assert!(once.as_str() == text || once.as_str() != twice.as_str(), "{text:?}: {once} {twice}");
    }

    #[test]
    fn an_sql_name_fits_every_database_and_differs_from_its_neighbours(
        head in "[ab]{0,50}(å|\"){0,3}", tails in vec("[xy~0-9]{0,30}", 2..20),
    ) {
        let mut taken = HashMap::new();
        for tail in tails.iter().collect::<HashSet<_>>() {
            let text = format!("{head}{tail}");
            let name = SqlName::new(&text);
            prop_assert!((1..=63).contains(&name.as_str().len()) && !name.as_str().contains('\0'));
            // The name of a name is its own, or it would be taken for that of the longer text.
            let again = SqlName::new(name.as_str());
            for (name, text) in [(name.clone(), text.clone()), (again, name.as_str().to_owned())] {
                if let Some(other) = taken.insert(name.clone(), text.clone()) {
                    prop_assert!(other == text, "{text:?} and {other:?} are both {name}");
                }
            }
        }
    }

    #[test]
    fn a_quoted_sql_name_ends_where_it_should(text in any_text()) {
        let name = SqlName::new(&text);
        let quoted = name.to_string();
        let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap();
        prop_assert!(!inner.replace("\"\"", "").contains('"'));
        prop_assert_eq!(inner.replace("\"\"", "\""), name.as_str());
        prop_assert!(!text.is_empty() && text.len() <= 63 && !text.contains('\0') || name.as_str().contains('~'));
    }

    #[test]
    fn the_path_of_an_export_is_four_safe_segments_and_stands_in_an_address(
        blob_type in "[A-Za-z0-9][A-Za-z0-9._-]{0,199}", correlation_id in any_text(),
    ) {
        let blob_type = BlobType::new(blob_type).unwrap();
        let path = BlobPath::for_export(&blob_type, date!(2022-07-05), &correlation_id, uuid::Uuid::nil(), "jsonl");
        prop_assert_eq!(&BlobPath::new(path.as_str()).unwrap(), &path);
        let segments = path.as_str().split('/').collect::<Vec<_>>();
        prop_assert_eq!(segments.len(), 3);
        prop_assert_eq!(segments[..2].join("/"), format!("{blob_type}/2022-07-05"));
        prop_assert!(segments[2].ends_with("-00000000-0000-0000-0000-000000000000.jsonl.gz"));
        let uri = BlobUri::parse(&format!("https://a.example/batch/{}", path.encoded())).unwrap();
        prop_assert_eq!(uri.under(&"https://a.example".parse().unwrap(), "batch"), Some(path));
    }

    #[test]
    fn a_blob_path_stands_in_an_address_or_is_refused(text in any_text()) {
        if let Ok(path) = BlobPath::new(text) {
            let uri = BlobUri::parse(&format!("https://a.example/c/{}", path.encoded())).unwrap();
            prop_assert_eq!(uri.under(&"https://a.example".parse().unwrap(), "c"), Some(path));
        }
    }

    #[test]
    fn a_normal_address_is_its_own(text in "(https|http|HTTPS)://(A\\.example|127\\.0\\.0\\.1|\\[::1\\]|localhost)(:443|:80|:8080|)/[a/%2Ee5cå .?~+-]{0,16}/[ab%41 ]{1,6}") {
        if let Ok(uri) = BlobUri::parse(&text) {
            let normal = uri.normalised();
            prop_assert_eq!(&BlobUri::parse(&normal).unwrap(), &uri, "{}", normal);
            prop_assert_eq!(BlobUri::parse(&normal).unwrap().normalised(), normal);
        }
    }

    #[test]
    fn two_files_never_have_one_normal_address(a in vec("[a%/?#å .]{1,4}", 2..4), b in vec("[a%/?#å .]{1,4}", 2..4)) {
        let normal = |segments: &[String]| BlobUri { origin: "https://a.example".to_owned(), segments: segments.to_vec() }.normalised();
        prop_assert_eq!(a == b, normal(&a) == normal(&b));
    }

    #[test]
    fn an_accepted_address_means_the_same_to_an_ordinary_url_parser(text in "https://a\\.example(:8443)?/[a%2E5c+ å./-]{1,10}/[ab;,&=@:!]{1,6}(\\?[a/.]{0,4})?") {
        if let Ok(uri) = BlobUri::parse(&text) {
            let url: url::Url = text.parse().unwrap();
            prop_assert_eq!(url.origin().ascii_serialization(), uri.origin);
            let segments = url.path_segments().unwrap().map(|segment| {
                percent_encoding::percent_decode_str(segment).decode_utf8().unwrap().into_owned()
            });
            prop_assert_eq!(segments.collect::<Vec<_>>(), uri.segments);
        }
    }

    #[test]
    fn a_message_survives_us_with_everything_it_holds(
        blob_type in "[A-Za-z0-9][A-Za-z0-9._-]{0,30}", correlation_id in any_text(), encoding in proptest::option::of("gzip|identity"),
        properties in proptest::option::of(any_json()), unknown in vec((any_text(), any_json()), 0..6),
    ) {
        let mut seen = HashSet::from(["blobType", "correlationId", "contentType", "contentEncoding", "uri", "properties"].map(str::to_owned));
        let raw = |text: String| RawValue::from_string(text).unwrap();
        let metadata = Metadata {
            blob_type,
            correlation_id: format!("c{}", correlation_id.chars().take(255).collect::<String>()),
            content_type: "text/csv".to_owned(),
            content_encoding: encoding,
            uri: "https://a.example/c/b".to_owned(),
            properties: properties.filter(|text| text != "null").map(raw),
            unknown: unknown.into_iter().filter(|(name, _)| seen.insert(name.clone())).map(|(name, value)| (name, raw(value))).collect(),
        };
        let body = metadata.to_json().unwrap();
        prop_assert_eq!(Metadata::parse(&body).unwrap(), metadata);
    }

    #[test]
    fn extras_survive_beside_any_other_properties(extras in any_extras(), others in vec((any_text(), any_json()), 0..5)) {
        let mut seen = HashSet::from(["waybill".to_owned()]);
        let others = others.into_iter().filter(|(name, _)| seen.insert(name.clone()));
        let others = others.map(|(name, value)| format!("{}:{value}", serde_json::to_string(&name).unwrap())).collect::<Vec<_>>();
        let mut metadata = Metadata {
            blob_type: "A".to_owned(),
            correlation_id: "c".to_owned(),
            content_type: "text/csv".to_owned(),
            content_encoding: None,
            uri: "https://a.example/c/b".to_owned(),
            properties: Some(RawValue::from_string(format!("{{{}}}", others.join(","))).unwrap()),
            unknown: Vec::new(),
        };
        metadata.set_extras(&extras).unwrap();
        let read = Metadata::parse(&metadata.to_json().unwrap()).unwrap();
        prop_assert_eq!(read.extras().unwrap(), extras);
        let text = read.properties.unwrap().get().to_owned();
        prop_assert!(text.starts_with(&format!("{{{}", others.join(","))), "{}", text);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in vec(any::<u8>(), 0..200), text in any_text(), json in any_json()) {
        for input in [bytes.as_slice(), text.as_bytes(), json.as_bytes()] {
            if let Ok(metadata) = Metadata::parse(input) {
                metadata.extras().ok();
            }
            TemporaryEndpoints::parse(input, &GrantLayout::default()).ok();
            Entities::parse(&String::from_utf8_lossy(input), "f").ok();
            BlobUri::parse(&String::from_utf8_lossy(input)).ok();
            crate::Media::parse(&String::from_utf8_lossy(input)).ok();
        }
    }
}
