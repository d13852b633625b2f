//! `entities.toml`: what is understood, and that every mistake is shown with its line.

use super::golden;
use crate::{
    AfterWait, Column, ColumnType, Entities, Entity, OnMissing, OnUnwanted, Reference, SchemaMode, VersionField,
    VersionType,
};

const ACCEPTED: &str = "entities/accepted";
const REFUSED: &str = "entities/refused";
const ACCEPTED_FILES: [&str; 5] =
    ["design-example.toml", "every-choice.toml", "max-wait.toml", "no-entities.toml", "where.toml"];
const ADVENTURE_WORKS: &str = include_str!("../../../examples/data/adventureworks/entities.toml");

/// File, line, and the words by which a person finds the mistake.
const REFUSALS: [(&str, usize, &str); 50] = [
    ("not-toml.toml", 2, "not TOML: "),
    ("key-twice.toml", 3, "duplicate key"),
    ("table-twice.toml", 4, "duplicate key"),
    ("unknown-top-level.toml", 1, "the file: unknown key \"entities\"; known are entity"),
    ("unknown-key.toml", 3, "entity \"a\": unknown key \"typs\"; known are types, key, version"),
    ("unknown-version-key.toml", 3, "entity \"a\": `version`: unknown key \"collation\"; known are field, type"),
    (
        "unknown-reference-key.toml",
        7,
        "entity \"a\": a reference: unknown key \"missing\"; known are fields, entity, on_missing, max_wait, then",
    ),
    ("where-is-a-number.toml", 3, "entity \"a\": `where` is of type integer, not text"),
    ("on-unwanted-unknown.toml", 4, "entity \"a\": \"on_unwanted\" = \"keep\" is none of remove, drop"),
    ("on-unwanted-of-nothing.toml", 3, "entity \"a\": without `where` all rows are wanted; take out `on_unwanted`"),
    ("max-wait.toml", 8, "entity \"a\": a reference: `max_wait` does not say what then; add then = \"apply\""),
    ("max-wait-without-unit.toml", 8, "`max_wait` = \"7\" is no time to wait; write a whole number and a unit"),
    ("max-wait-of-nothing.toml", 8, "`max_wait` = \"0s\" is no time to wait"),
    ("max-wait-too-long.toml", 8, "`max_wait` = \"4000d\" is no time to wait"),
    ("max-wait-for-nothing.toml", 8, "with on_missing = \"apply\" no row waits; take out `max_wait`"),
    ("max-waits-differ.toml", 5, "another reference to \"a\" has another `max_wait` or `then`; give both the same"),
    ("then-unknown.toml", 9, "\"then\" = \"drop\" is none of apply, quarantine"),
    ("then-without-max-wait.toml", 7, "`then` needs a `max_wait` that it follows"),
    ("entity-is-text.toml", 1, "entity is of type string, not a table"),
    ("entity-has-no-name.toml", 1, "an entity needs a name"),
    ("no-key.toml", 3, "entity \"a\": `key` is missing"),
    ("key-empty.toml", 2, "entity \"a\": `key` is empty; name at least one"),
    ("key-with-empty-field.toml", 2, "entity \"a\": `key` is empty"),
    ("key-is-text.toml", 2, "entity \"a\": `key` is no list"),
    ("key-field-twice.toml", 4, "entity \"a\": `key` names \"id\" twice"),
    ("types-empty.toml", 3, "entity \"a\": `types` is empty; name at least one"),
    ("types-number.toml", 3, "entity \"a\": `types` is of type integer, not text"),
    ("version-without-type.toml", 3, "entity \"a\": `version`: `type` is missing"),
    ("version-type-unknown.toml", 3, "\"type\" = \"float\" is none of timestamp, integer, decimal, text"),
    ("schema-unknown.toml", 3, "\"schema\" = \"strict\" is none of evolve, freeze"),
    ("column-type-unknown.toml", 6, "\"price\" = \"money\" is none of integer, decimal, float"),
    ("column-twice.toml", 6, "duplicate key"),
    ("columns-differ-in-case.toml", 7, "entity \"a\": \"id\" and \"ID\" differ in case only"),
    ("column-reserved.toml", 5, "\"_waybill_version\" is a reserved name"),
    ("column-deleted.toml", 5, "\"_deleted\" is a reserved name"),
    ("column-without-name.toml", 5, "a column needs a name"),
    ("key-reserved.toml", 2, "\"_rescued\" is a reserved name"),
    ("version-field-differs-in-case.toml", 3, "\"modified\" and \"Modified\" differ in case only"),
    ("reference-field-differs-in-case.toml", 5, "\"ID\" and \"id\" differ in case only"),
    ("table-reserved.toml", 3, "table \"_waybill_progress\" begins with _waybill, which is reserved"),
    ("same-table.toml", 6, "entity \"b\": table \"A\" is also that of entity \"a\""),
    ("same-type.toml", 7, "entity \"b\": type \"Changes\" already belongs to entity \"a\""),
    (
        "type-is-a-pattern.toml",
        2,
        "entity \"order\": type \"Gateway.*\": a star stands for nothing here; name each blobType",
    ),
    ("several-types-without-version.toml", 5, "without a declared `version`"),
    ("reference-to-nothing.toml", 6, "entity \"a\": reference to \"b\": no such entity"),
    ("reference-without-fields.toml", 4, "entity \"a\": a reference: `fields` is missing"),
    ("reference-with-too-few-fields.toml", 6, "1 fields for a key of 2 (id, line)"),
    ("reference-of-another-type.toml", 10, "\"parent\" is declared as text, \"id\" as integer; declare both alike"),
    ("references-is-a-table.toml", 4, "`references` is no list of tables"),
    ("on-missing-unknown.toml", 7, "\"on_missing\" = \"wait\" is none of park, apply"),
];

pub(super) fn golden() -> Vec<String> {
    let accepted = ACCEPTED_FILES.iter().map(|file| format!("{ACCEPTED}/{file}"));
    accepted.chain(REFUSALS.iter().map(|(file, ..)| format!("{REFUSED}/{file}"))).collect()
}

fn parse(file: &str) -> Entities {
    Entities::parse(&golden::read_text(ACCEPTED, file), file).unwrap()
}

fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).to_vec()
}

#[test]
fn the_example_of_the_design_is_understood() {
    let entities = parse("design-example.toml");
    let product = Entity {
        name: "product".to_owned(),
        types: texts(["ProductChanges"]),
        key: texts(["ProductID"]),
        version: Some(VersionField { field: "ModifiedDate".to_owned(), kind: VersionType::Timestamp }),
        table: "product".to_owned(),
        schema: SchemaMode::Evolve,
        columns: vec![Column { name: "ListPrice".to_owned(), kind: ColumnType::Decimal }],
        references: vec![Reference {
            fields: texts(["ProductSubcategoryID"]),
            entity: "product_subcategory".to_owned(),
            on_missing: OnMissing::Park,
            max_wait: None,
        }],
        filter: None,
        on_unwanted: OnUnwanted::Remove,
    };
    assert_eq!(entities.0["product"], product);
    let defaults = Entity {
        name: "product_subcategory".to_owned(),
        types: texts(["product_subcategory"]),
        key: texts(["ProductSubcategoryID"]),
        version: None,
        table: "product_subcategory".to_owned(),
        columns: Vec::new(),
        references: Vec::new(),
        ..product
    };
    assert_eq!(entities.0["product_subcategory"], defaults);
    assert_eq!(entities.for_type("ProductChanges").unwrap().name, "product");
    assert_eq!(entities.for_type("product"), None);
}

#[test]
fn every_choice_is_understood_and_columns_keep_the_order_of_the_file() {
    let entities = parse("every-choice.toml");
    let line = &entities.0["Order line"];
    assert_eq!(line.types, ["OrderLineChanges", "OrderLineCorrections"]);
    assert_eq!(line.schema, SchemaMode::Freeze);
    assert_eq!(line.version.as_ref().unwrap().kind, VersionType::Integer);
    let columns = line.columns.iter().map(|column| format!("{} {}", column.name, column.kind)).collect::<Vec<_>>();
    let expected = [
        "Zeta integer",
        "Alpha decimal",
        "F float",
        "B boolean",
        "T text",
        "At timestamp",
        "On date",
        "U uuid",
        "J json",
        "X binary",
    ];
    assert_eq!(columns, expected);
    assert_eq!(line.references[0].on_missing, OnMissing::Park);
    assert_eq!(line.references[1].on_missing, OnMissing::Apply);
    assert_eq!(entities.0["item"].version.as_ref().unwrap().kind, VersionType::Decimal);
    assert_eq!(entities.0["note"].version.as_ref().unwrap().kind, VersionType::Text);
    assert_eq!(entities.0["minimal"].key, ["id"]);
    assert!(parse("no-entities.toml").0.is_empty());
}

#[test]
fn a_reference_says_how_long_rows_wait_and_what_then() {
    let waits: Vec<_> = parse("max-wait.toml").0["a"].references.iter().map(|reference| reference.max_wait).collect();
    let waits: Vec<_> = waits.into_iter().flatten().map(|wait| (wait.after.as_secs(), wait.then)).collect();
    let expected = [
        (90, AfterWait::Apply),
        (90, AfterWait::Apply),
        (15 * 60, AfterWait::Quarantine),
        (12 * 3_600, AfterWait::Apply),
        (7 * 86_400, AfterWait::Quarantine),
    ];
    assert_eq!(waits, expected);
}

#[test]
fn every_mistake_is_shown_with_its_file_line_and_remedy() {
    for (file, line, words) in REFUSALS {
        let error = Entities::parse(&golden::read_text(REFUSED, file), "shop/entities.toml").expect_err(file);
        assert_eq!(error.line, line, "{file}: {error}");
        let text = error.to_string();
        assert!(text.starts_with(&format!("shop/entities.toml:{line}: ")), "{file}: {text}");
        assert!(text.contains(words), "{file}: {text}");
    }
}

#[test]
fn a_predicate_is_kept_with_its_place() {
    let error = |text: &str, at| {
        let entities = Entities::parse(text, "e.toml").unwrap();
        let filter = entities.0["a"].filter.as_ref().unwrap();
        (filter.text().to_owned(), filter.error(at, "wrong").to_string())
    };
    let begin = "[entity.a]\nkey = [\"é\"]\n";
    for (written, text, at, shown) in [
        ("where = 'row.é > 1'", "row.é > 1", 6, "e.toml:3:16: wrong"),
        ("where = \"row.x > 1\"", "row.x > 1", 0, "e.toml:3:10: wrong"),
        ("where = \'\'\'\nrow.x > 1\n  && row.y\'\'\'", "row.x > 1\n  && row.y", 15, "e.toml:5:6: wrong"),
        ("where = \"\"\"row.x > 1\"\"\"", "row.x > 1", 8, "e.toml:3:20: wrong"),
        // Where escapes stand in it, the file's columns are not the text's.
        ("where = \"row.x == \\\"y\\\"\"", "row.x == \"y\"", 9, "e.toml:3: wrong (at character 10 of the predicate)"),
    ] {
        assert_eq!(error(&format!("{begin}{written}"), at), (text.to_owned(), shown.to_owned()), "{written}");
    }
    assert_eq!(parse("where.toml").0["a"].filter.as_ref().unwrap().text(), "row.ListPrice > 10.0");
}

#[test]
fn lines_are_counted_the_same_with_a_byte_order_mark_and_carriage_returns() {
    let text = golden::read_text(REFUSED, "column-type-unknown.toml").replace('\n', "\r\n");
    assert_eq!(Entities::parse(&format!("\u{feff}{text}"), "f").unwrap_err().line, 6);
}

#[test]
fn a_row_may_wait_only_for_what_the_configured_types_bring() {
    let entities = parse("every-choice.toml");
    let lines = texts(["OrderLineChanges", "Elsewhere"]);
    assert_eq!(entities.check_types(None), Ok(()));
    // The line's parent is a line, and its item need not be there.
    assert_eq!(entities.check_types(Some(&lines)), Ok(()));

    let entities = parse("design-example.toml");
    assert_eq!(entities.check_types(Some(&texts(["product_subcategory"]))), Ok(()));
    assert_eq!(entities.check_types(Some(&texts(["ProductChanges", "product_subcategory"]))), Ok(()));
    let error = entities.check_types(Some(&texts(["ProductChanges"]))).unwrap_err();
    assert_eq!(error.parent, "product_subcategory");
    assert_eq!(
        error.to_string(),
        "entity \"product\" parks rows until their \"product_subcategory\" is there, but `types` lists none of its types \
         (product_subcategory); add one of them, or set on_missing = \"apply\" for ProductSubcategoryID"
    );
}

#[test]
fn the_adventure_works_entities_are_42_with_56_references_of_which_53_park() {
    let entities = Entities::parse(ADVENTURE_WORKS, "entities.toml").unwrap();
    assert_eq!(entities.0.len(), 42);
    let references = || entities.0.values().flat_map(|entity| entity.references.iter().map(move |to| (entity, to)));
    assert_eq!(references().count(), 56);
    let dangling = references().filter(|(_, reference)| reference.on_missing == OnMissing::Apply);
    let dangling = dangling.map(|(from, to)| format!("{}.{}", from.name, to.fields.join("+"))).collect::<Vec<_>>();
    let expected =
        ["customer.PersonID", "sales_order_detail.SalesOrderID", "sales_order_header_sales_reason.SalesOrderID"];
    assert_eq!(dangling, expected);
    for entity in entities.0.values() {
        let version = VersionField { field: "ModifiedDate".to_owned(), kind: VersionType::Timestamp };
        assert_eq!(entity.version, Some(version), "{}", entity.name);
        for field in entity.key.iter().chain(entity.references.iter().flat_map(|reference| &reference.fields)) {
            assert!(entity.column(field).is_some(), "{}: {field} has no declared type", entity.name);
        }
    }
    assert_eq!(entities.for_type("ProductListPriceHistoryChanges").unwrap().table, "product_list_price_history");
    assert_eq!(entities.0["product"].column("ListPrice"), Some(ColumnType::Decimal));
}
