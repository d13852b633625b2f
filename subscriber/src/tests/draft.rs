//! What `draft` makes of real tables, and of strange ones.

use std::path::Path;

use bytes::Bytes;
use waybill_contracts::{Entities, Format};
use waybill_formats::{DecodeOptions, FileStats, RowBatch, RowDecoder, Source, Step};

use crate::{
    FileKey,
    apply::{EntityPlans, Position},
    draft::{Sample, draft},
    sink::{Ahead, EntityBatch, Sink, SqlSink, SqliteSink},
};

fn decode(bytes: Vec<u8>, format: Format) -> Vec<RowBatch> {
    let mut decoder = RowDecoder::new(DecodeOptions::new(Source::of(format)));
    decoder.feed(Bytes::from(bytes));
    decoder.end();
    let mut batches = Vec::new();
    while let Step::Batch(batch) = decoder.next().unwrap() {
        batches.push(batch);
    }
    batches
}

fn drafted(samples: &[(&str, &str, Format)]) -> (String, Entities) {
    let sample = |(name, text, format): &(&str, &str, Format)| {
        let mut sample = Sample::new(name);
        decode(text.as_bytes().to_vec(), *format).iter().for_each(|batch| assert!(sample.see(batch, *format)));
        sample
    };
    let text = draft(samples.iter().map(sample).collect());
    let entities = Entities::parse(&text, "draft").unwrap_or_else(|error| panic!("{error}\n{text}"));
    EntityPlans::compile(&entities).unwrap();
    (text, entities)
}

#[tokio::test]
async fn the_draft_of_42_real_tables_takes_them_all_and_leaves_no_row_waiting() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/adventureworks");
    let mut tables = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let Some(name) = path.file_name().unwrap().to_str().unwrap().strip_suffix(".csv.gz") else { continue };
        tables.push((name.to_owned(), decode(std::fs::read(&path).unwrap(), Format::Csv)));
    }
    tables.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(tables.len(), 42);
    let samples = tables.iter().map(|(name, batches)| {
        let mut sample = Sample::new(name);
        batches.iter().for_each(|batch| assert!(sample.see(batch, Format::Csv)));
        sample
    });
    let text = draft(samples.collect());
    let entities = Entities::parse(&text, "draft").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(entities.0.len(), 42);
    for entity in entities.0.values() {
        assert_eq!(
            entity.version.as_ref().map(|version| version.field.as_str()),
            Some("ModifiedDate"),
            "{}",
            entity.name
        );
    }
    assert_eq!(entities.0["product_list_price_history"].key, ["ProductID", "StartDate"]);
    let references: usize = entities.0.values().map(|entity| entity.references.len()).sum();
    assert!(references >= 50, "{references} of the 56 that the tables declare, and a few of its own");

    let folder = tempfile::tempdir().unwrap();
    let sink = SqliteSink::open(folder.path().join("sink.sqlite"), &entities).await.unwrap();
    let mut rows = Vec::new();
    for (name, batches) in tables {
        let to = batches.last().unwrap().last_row();
        rows.push((name.clone(), to));
        let stats =
            FileStats { rows: to, bad_rows: 0, stored_bytes: 0, plain_bytes: 0, plain_sha256: None, gzip: true };
        let batch = EntityBatch {
            blob_type: name.as_str().into(),
            entity: sink.plans().for_type(&name).cloned(),
            filter: None,
            format: Format::Csv,
            position: Position::Broker { sequence_number: 1 },
            rows: batches,
            to,
            end: Some(stats),
            sorted: None,
            ahead: Ahead::default(),
        };
        sink.apply(&FileKey::of_export("", &name), 0, batch).await.unwrap();
    }
    assert!(sink.missing(None, 10).await.unwrap().is_empty());
    let totals = sink.totals().await.unwrap();
    assert_eq!((totals.tables, totals.bad_now), (rows, 0));
}

#[test]
fn several_versions_of_a_row_do_not_hide_its_key() {
    let text = "{\"id\":1,\"updated_at\":\"2014-02-08T10:01:36Z\"}\n{\"id\":1,\"updated_at\":\"2014-02-09T10:01:36Z\"}\n\
                {\"id\":2,\"updated_at\":\"2014-02-08T10:01:36Z\"}\n{\"id\":2,\"_deleted\":true}\n";
    let (_, entities) = drafted(&[("ItemChanges", text, Format::JsonLines)]);
    let item = &entities.0["item"];
    assert_eq!((&item.types[0], &item.key[0]), (&"ItemChanges".to_owned(), &"id".to_owned()));
    assert_eq!(item.version.as_ref().unwrap().field, "updated_at");
}

#[test]
fn types_are_those_that_every_value_has() {
    let text = "id,code,flag,amount,day,at,local,none,mixed\n\
                1,007,true,1.50,2014-02-08,2014-02-08T10:01:36Z,2014-02-08 10:01:36,,1\n\
                2,008,false,2,2014-02-09,2014-02-08T10:01:36.5Z,2014-02-08 10:01:37,,x\n";
    let (_, entities) = drafted(&[("T", text, Format::Csv)]);
    let columns: Vec<_> =
        entities.0["t"].columns.iter().map(|column| format!("{} {}", column.name, column.kind)).collect();
    let expected = [
        "id integer",
        "code text",
        "flag boolean",
        "amount decimal",
        "day date",
        "at timestamp",
        "local text",
        "mixed text",
    ];
    assert_eq!(columns, expected);
    let (_, entities) = drafted(&[("T", "[{\"id\":\"1\",\"n\":1,\"deep\":{\"a\":1}}]", Format::Json)]);
    let columns: Vec<_> =
        entities.0["t"].columns.iter().map(|column| format!("{} {}", column.name, column.kind)).collect();
    assert_eq!(columns, ["id text", "n integer", "deep json"], "a text of JSON was meant as text");
}

#[test]
fn names_of_strangers_are_quoted_and_those_of_the_sinks_left_out() {
    let text = "{\"id\":1,\"a b\":1,\"ID\":2,\"_waybill_version\":1,\"x\\n= \\\"y\":1,\"\":1}\n";
    let (text, entities) =
        drafted(&[("We \"ird\"\n[x]", text, Format::JsonLines), ("_waybill_x", text, Format::JsonLines)]);
    assert_eq!(entities.0.len(), 2, "{text}");
    let columns: Vec<_> =
        entities.0.values().next().unwrap().columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(columns, ["id", "a b", "x\n= \"y"]);
}

#[test]
fn rows_that_would_wait_for_each_other_do_not_wait() {
    let (text, entities) = drafted(&[
        ("order", "order_id,invoice_id\n1,7\n2,8\n", Format::Csv),
        ("invoice", "invoice_id,order_id\n7,1\n8,2\n", Format::Csv),
    ]);
    let waits = |name: &str| format!("{:?}", entities.0[name].references[0].on_missing);
    assert_eq!((waits("order"), waits("invoice")), ("Park".to_owned(), "Apply".to_owned()), "{text}");
    assert!(text.contains("each would wait for the other"), "{text}");
}

#[test]
fn what_dangles_is_applied_without_its_parent() {
    let (text, entities) = drafted(&[
        ("item", "item_id\n1\n2\n3\n4\n5\n", Format::Csv),
        ("price", "price_id,item_id\n1,1\n2,2\n3,3\n4,4\n5,9\n", Format::Csv),
    ]);
    assert!(text.contains("1 of 5 values are no keys there"), "{text}");
    assert_eq!(format!("{:?}", entities.0["price"].references[0].on_missing), "Apply");
}
