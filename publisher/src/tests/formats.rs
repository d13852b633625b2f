//! The change log's rows in each format, read back as subscribers read them.

use std::borrow::Cow;

use proptest::{
    prelude::*,
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use waybill_contracts::Media;
use waybill_formats::{DecodeOptions, Field, FieldPath, RowDecoder, Source, Step};
use waybill_store::rusqlite::Connection;

use super::{
    following::{Following, all_sent, at_once},
    world::World,
};
use crate::{FileFormat, FollowOptions, TypeOptions, change_log::ChangeLog};

/// A value as it is logged.
#[derive(Debug, Clone)]
enum Value {
    Missing,
    Null,
    Bool(bool),
    Number(String),
    Text(String),
}

impl Value {
    fn json(&self) -> String {
        match self {
            Self::Missing | Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(value) => value.clone(),
            Self::Text(value) => serde_json::to_string(value).unwrap(),
        }
    }

    /// As a reader of this format finds it: CSV and XML have no numbers, and a CSV row has every column.
    fn in_format(&self, format: &FileFormat) -> Field<'_> {
        let typed = matches!(format, FileFormat::JsonLines | FileFormat::Json);
        let text = |value: &str| Field::Text(Cow::Owned(value.to_owned()));
        match self {
            Self::Missing if matches!(format, FileFormat::Csv { .. }) => Field::Null,
            Self::Missing => Field::Missing,
            Self::Null => Field::Null,
            Self::Bool(value) if typed => Field::Bool(*value),
            Self::Bool(value) => text(if *value { "true" } else { "false" }),
            Self::Number(value) if typed => Field::Number(value),
            Self::Number(value) => text(value),
            Self::Text(value) => text(value),
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Missing),
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        "-?(0|[1-9][0-9]{0,18})(\\.[0-9]{1,6})?".prop_map(Value::Number),
        "[ -~éß漢😀\n\t]{0,12}".prop_map(Value::Text),
    ]
}

const NAMES: [&str; 3] = ["a", "Price", "name_2"];
const ROWS: usize = 400;

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_log_come_back_from_every_format_with_numbers_and_text_unchanged() {
    let columns = ["id"].into_iter().chain(NAMES).map(str::to_owned).collect();
    let types = [
        ("Jsonl", FileFormat::JsonLines),
        ("Json", FileFormat::Json),
        ("Csv", FileFormat::Csv { columns }),
        ("Xml", FileFormat::Xml),
        ("Xmll", FileFormat::XmlLines),
    ];
    let rows = prop::collection::vec((prop::array::uniform3(value()), any::<bool>()), ROWS);
    let rows = rows.new_tree(&mut TestRunner::default()).unwrap().current();

    let world = World::new().await;
    let path = world.path("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let mut service = Connection::open(&path).unwrap();
    let tx = service.transaction().unwrap();
    for (id, (values, deleted)) in rows.iter().enumerate() {
        let there = NAMES.iter().zip(values).filter(|(_, value)| !matches!(value, Value::Missing));
        let fields: String = there.map(|(name, value)| format!(", \"{name}\": {}", value.json())).collect();
        let row = format!("{{\"id\": {id}{fields}}}");
        let op = if *deleted { "delete" } else { "upsert" };
        for (blob_type, _) in &types {
            let sql = "INSERT INTO waybill_change_log (blob_type, op, row) VALUES (?1, ?2, ?3)";
            tx.execute(sql, (blob_type, op, &row)).unwrap();
        }
    }
    tx.commit().unwrap();
    let options = FollowOptions {
        types: types
            .iter()
            .map(|(name, format)| {
                ((*name).to_owned(), TypeOptions { format: format.clone(), ..TypeOptions::default() })
            })
            .collect(),
        ..at_once()
    };
    let following = Following::start(world.publisher().await, &log, options);
    all_sent(&log, &following).await;
    let refused = log.refused(10).await.unwrap();
    assert!(refused.is_empty(), "{refused:?}");

    for (blob_type, format) in &types {
        let messages = world.messages();
        let mut files: Vec<_> = messages.iter().filter(|message| message.metadata.blob_type == *blob_type).collect();
        files.sort_by_key(|message| message.extras.sequence);
        let mut number = 0;
        for file in files {
            let read_as = Media::parse(&file.metadata.content_type).unwrap().format;
            let mut decoder = RowDecoder::new(DecodeOptions::new(Source::of(read_as)));
            decoder.feed(world.plain(&file.metadata.uri).await.into());
            decoder.end();
            while let Step::Batch(batch) = decoder.next().unwrap() {
                assert!(batch.bad().is_empty());
                for row in batch.rows() {
                    let (values, deleted) = &rows[number];
                    let id = Value::Number(number.to_string());
                    assert_eq!(row.get(&FieldPath::name("id")), id.in_format(format), "{blob_type} {number}");
                    for (name, value) in NAMES.iter().zip(values) {
                        let read = row.get(&FieldPath::name(name));
                        assert_eq!(read, value.in_format(format), "{blob_type} {number} {name}");
                    }
                    let deleted = if *deleted { Value::Bool(true) } else { Value::Missing };
                    assert_eq!(
                        row.get(&FieldPath::name("_deleted")),
                        deleted.in_format(format),
                        "{blob_type} {number}"
                    );
                    number += 1;
                }
            }
        }
        assert_eq!(number, ROWS, "{blob_type}");
    }
    following.end().await;
    world.end().await;
}

/// What a format has no place for is told, and the rest goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_its_format_cannot_hold_is_left_out_and_told() {
    let world = World::new().await;
    let path = world.path("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let service = Connection::open(&path).unwrap();
    for row in [r#"{"a":1}"#, r#"{"a":2,"b":3}"#, r#"{"a":4}"#, r#"{"c":5}"#] {
        service.execute("INSERT INTO waybill_change_log (blob_type, row) VALUES ('T', ?1)", [row]).unwrap();
    }
    let files = TypeOptions { format: FileFormat::Csv { columns: vec!["a".to_owned()] }, ..TypeOptions::default() };
    let following =
        Following::start(world.publisher().await, &log, FollowOptions { files, ..FollowOptions::default() });
    all_sent(&log, &following).await;
    let refused = log.refused(10).await.unwrap();
    assert_eq!(refused.iter().map(|change| change.id).collect::<Vec<_>>(), [4, 2]);
    let plain = world.plain(&world.messages()[0].metadata.uri).await;
    assert_eq!(String::from_utf8(plain).unwrap(), "a,_deleted\n1,\n4,\n");
    following.end().await;
    world.end().await;
}
