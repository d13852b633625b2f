//! What rows become, row by row, against a model that knows them as numbers.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use waybill_contracts::{Entities, Format, Reason};
use waybill_formats::{
    Compression, DecodeOptions, Field, FieldPath, RowBatch, RowDecoder, RowWriter, Source, Step, WriterOptions,
};

use crate::{
    Job, Jobs,
    rule::{Became, Rule},
};

const ENTITIES: &str = r#"
[entity.item]
types = ["Item"]
key = ["id"]
version = { field = "v", type = "integer" }
columns = { id = "integer", price = "decimal" }
references = [{ fields = ["shop"], entity = "shop", on_missing = "park" }]

[entity.shop]
types = ["Shop"]
key = ["shop"]
version = { field = "v", type = "integer" }
"#;

pub(super) fn entities() -> Entities {
    Entities::parse(ENTITIES, "entities.toml").unwrap()
}

fn decoded(format: Format, text: &str) -> Vec<RowBatch> {
    let mut decoder = RowDecoder::new(DecodeOptions::new(Source::of(format)));
    decoder.feed(Bytes::from(text.to_owned()));
    decoder.end();
    let mut batches = Vec::new();
    loop {
        match decoder.next().unwrap() {
            Step::Batch(batch) => batches.push(batch),
            Step::Done(_) => return batches,
            Step::NeedInput => panic!("it was ended"),
        }
    }
}

/// What a file's rows become, as lines of JSON; or the first row of which it cannot be said, and why.
fn became(rule: &Rule, text: &str) -> Result<Vec<String>, (u64, Reason, String)> {
    let mut output = RowWriter::new(WriterOptions::JsonLines, Compression::None);
    for batch in decoded(Format::JsonLines, text) {
        assert!(batch.bad().is_empty());
        let mut rule = rule.apply();
        for row in batch.rows() {
            match rule.of(&row).map_err(|fault| (row.number(), fault.reason, fault.problem))? {
                Became::Nothing => {}
                Became::Row(None) => output.copy(&row).unwrap(),
                Became::Row(Some(fields)) | Became::Deletion { fields, .. } => output.row(fields).unwrap(),
            }
        }
    }
    let finished = output.finish();
    let text: Vec<u8> = [finished.head, finished.rest].concat();
    Ok(String::from_utf8(text).unwrap().lines().map(str::to_owned).collect())
}

fn with(job: Job, blob_type: &str, check: impl FnOnce(&Rule)) {
    let jobs = Jobs::compile(&[job], &entities()).unwrap();
    check(&jobs.task(blob_type).unwrap().rule);
}

#[test]
fn a_wanted_row_passes_as_written_and_an_unwanted_one_becomes_a_deletion_with_its_key_and_version_alone() {
    with(Job::new("Public", ["Item"]).filter("row.price > 10.0"), "Item", |rule| {
        let text =
            "{\"id\":1,\"v\":1,\"price\":19.90,\"secret\":\"a\"}\n{\"id\":2,\"v\":7,\"price\":5.00,\"secret\":\"b\"}\n";
        let wanted = [r#"{"id":1,"v":1,"price":19.90,"secret":"a"}"#, r#"{"id":2,"v":7,"_deleted":true}"#];
        assert_eq!(became(rule, text).unwrap(), wanted);
    });
}

#[test]
fn a_deletion_passes_whatever_the_filter_says_and_sheds_all_but_its_key_and_version() {
    with(Job::new("Public", ["Item"]).filter("row.price > 10.0"), "Item", |rule| {
        let text = "{\"id\":1,\"v\":2,\"_deleted\":true,\"secret\":\"a\"}\n{\"id\":2,\"v\":3,\"price\":null,\"_deleted\":\"true\"}\n";
        let wanted = [r#"{"id":1,"v":2,"_deleted":true}"#, r#"{"id":2,"v":3,"_deleted":true}"#];
        assert_eq!(became(rule, text).unwrap(), wanted);
    });
}

#[test]
fn a_projection_keeps_its_fields_in_its_order_and_those_that_a_row_lacks_are_left_out() {
    let job = Job::new("Public", ["Item"]).fields(["shop", "id", "v", "name"]);
    with(job, "Item", |rule| {
        let text = "{\"v\":1,\"id\":1,\"secret\":\"a\",\"name\":\"n\",\"id\":9}\n{\"id\":2,\"v\":1,\"shop\":null}\n";
        let wanted = [r#"{"id":1,"v":1,"name":"n"}"#, r#"{"shop":null,"id":2,"v":1}"#];
        assert_eq!(became(rule, text).unwrap(), wanted, "of a repeated name the first counts");
    });
}

#[test]
fn rows_of_no_entity_pass_or_are_left_out_and_a_mark_of_deletion_is_never_projected_away() {
    with(Job::new("Logins", ["Audit"]).filter("row.kind == \"login\"").fields(["who"]), "Audit", |rule| {
        let text = "{\"kind\":\"login\",\"who\":\"a\"}\n{\"kind\":\"logout\",\"who\":\"b\"}\n{\"kind\":\"login\",\"who\":\"c\",\"_deleted\":true}\n";
        assert_eq!(became(rule, text).unwrap(), [r#"{"who":"a"}"#, r#"{"who":"c","_deleted":true}"#]);
    });
}

#[test]
fn a_row_that_cannot_be_judged_or_that_no_sink_could_use_says_which_and_why() {
    with(Job::new("Public", ["Item"]).filter("row.price > 10.0"), "Item", |rule| {
        let good = "{\"id\":1,\"v\":1,\"price\":1}\n";
        for (row, reason, said) in [
            (r#"{"id":2,"v":1,"price":null}"#, Reason::FilterError, "row.price"),
            (r#"{"id":2,"v":1}"#, Reason::FilterError, "row.price"),
            (r#"{"v":1,"price":20}"#, Reason::MissingKey, "\"id\""),
            (r#"{"id":"x","v":1,"price":20}"#, Reason::BadKey, "\"id\""),
            (r#"{"id":2,"price":20}"#, Reason::BadVersion, "\"v\""),
            (r#"{"id":2,"v":1.5,"price":20}"#, Reason::BadVersion, "\"v\""),
            (r#"{"id":2,"v":1,"price":20,"_deleted":"perhaps"}"#, Reason::MalformedRow, "_deleted"),
            (r#"{"_deleted":true,"v":1}"#, Reason::MissingKey, "\"id\""),
        ] {
            let (number, met, problem) = became(rule, &format!("{good}{row}\n")).unwrap_err();
            assert_eq!((number, met), (2, reason), "{row}: {problem}");
            assert!(problem.contains(said), "{row}: {problem}");
        }
    });
}

#[test]
fn a_version_that_is_a_part_of_the_key_stands_in_a_deletion_once() {
    let text = "[entity.price]\ntypes = [\"Price\"]\nkey = [\"id\", \"day\"]\nversion = { field = \"day\", type = \"integer\" }\n";
    let entities = Entities::parse(text, "entities.toml").unwrap();
    let jobs = Jobs::compile(&[Job::new("Public", ["Price"]).filter("row.wanted == true")], &entities).unwrap();
    let rule = &jobs.task("Price").unwrap().rule;
    let became = became(rule, "{\"id\":1,\"day\":2,\"wanted\":false}\n").unwrap();
    assert_eq!(became, [r#"{"id":1,"day":2,"_deleted":true}"#]);
}

/// A row as a model knows it.
#[derive(Debug, Clone)]
struct Item {
    id: u8,
    price: i16,
    deleted: bool,
    note: Option<String>,
}

fn items() -> impl Strategy<Value = Vec<Item>> {
    let note = proptest::option::of("[a-z\"\\\\é,\n]{0,6}");
    let item = (0..6_u8, -20..20_i16, proptest::bool::weighted(0.2), note)
        .prop_map(|(id, price, deleted, note)| Item { id, price, deleted, note });
    proptest::collection::vec(item, 1..40)
}

fn written(items: &[Item], format: Format) -> String {
    let options = WriterOptions::of(format).unwrap_or_else(|| WriterOptions::Csv {
        columns: ["id", "v", "price", "note", "_deleted"].map(str::to_owned).to_vec(),
    });
    let mut file = RowWriter::new(options, Compression::None);
    for (version, item) in items.iter().enumerate() {
        let numbers = [item.id.to_string(), version.to_string(), item.price.to_string()];
        let note = item.note.as_ref().map_or(Field::Null, |note| Field::Text(note.into()));
        let deleted = if item.deleted { Field::Bool(true) } else { Field::Missing };
        let fields = [
            ("id", Field::Number(&numbers[0])),
            ("v", Field::Number(&numbers[1])),
            ("price", Field::Number(&numbers[2])),
            ("note", note),
            ("_deleted", deleted),
        ];
        file.row(&fields).unwrap();
    }
    let finished = file.finish();
    String::from_utf8([finished.head, finished.rest].concat()).unwrap()
}

fn text(field: &Field<'_>) -> String {
    match field {
        Field::Number(text) => (*text).to_owned(),
        Field::Text(text) => text.clone().into_owned(),
        other => panic!("{other:?}"),
    }
}

proptest! {
    /// Whoever applies what the rows became, in any order and the newest version of a key winning, has the newest rows of all
    /// keys that match, and no others; and nothing of a row that does not match is there but its key and version.
    #[test]
    fn the_newest_of_what_rows_became_are_the_newest_that_match(
        items in items(),
        limit in -20..20_i16,
        format in prop_oneof![Just(Format::JsonLines), Just(Format::Json), Just(Format::Csv), Just(Format::XmlLines)],
        reversed in any::<bool>(),
    ) {
        let job = Job::new("Public", ["Item"]).filter(format!("row.price >= {limit}")).fields(["id", "v", "shop", "price"]);
        let jobs = Jobs::compile(&[job], &entities()).unwrap();
        let rule = &jobs.task("Item").unwrap().rule;

        let mut newest: BTreeMap<u8, &Item> = BTreeMap::new();
        items.iter().for_each(|item| { newest.insert(item.id, item); });
        let expected: BTreeMap<String, String> = newest
            .into_values()
            .filter(|item| !item.deleted && item.price >= limit)
            .map(|item| (item.id.to_string(), item.price.to_string()))
            .collect();

        let batches = decoded(format, &written(&items, format));
        let mut table: BTreeMap<String, (u64, Option<String>)> = BTreeMap::new();
        let mut rows = 0;
        for batch in &batches {
            let mut rule = rule.apply();
            let mut became = Vec::new();
            for row in batch.rows() {
                rows += 1;
                let item = &items[usize::try_from(row.number()).unwrap() - 1];
                let fields = match rule.of(&row).unwrap() {
                    Became::Row(Some(fields)) => {
                        prop_assert!(!item.deleted && item.price >= limit);
                        fields.to_vec()
                    }
                    Became::Deletion { fields, is_unwanted } => {
                        prop_assert_eq!(is_unwanted, !item.deleted);
                        prop_assert_eq!(fields.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["id", "v", "_deleted"]);
                        fields.to_vec()
                    }
                    other => panic!("{other:?}"),
                };
                let get = |name: &str| fields.iter().find(|(known, _)| *known == name).map(|(_, field)| field.clone());
                prop_assert_eq!(get("note"), None);
                let (key, version) = (text(&get("id").unwrap()), text(&get("v").unwrap()).parse::<u64>().unwrap());
                prop_assert_eq!(row.get(&FieldPath::name("id")), get("id").unwrap());
                became.push((key, version, get("price").map(|price| text(&price))));
            }
            if reversed {
                became.reverse();
            }
            for (key, version, price) in became {
                let known = table.get(&key).map(|(known, _)| *known);
                if known.is_none_or(|known| known < version) {
                    table.insert(key, (version, price));
                }
            }
        }
        prop_assert_eq!(rows, items.len());
        let table: BTreeMap<String, String> =
            table.into_iter().filter_map(|(key, (_, price))| Some((key, price?))).collect();
        prop_assert_eq!(table, expected);
    }
}
