//! Tables that begin at a full export: whatever is missing before it and whenever the rest comes, they are what the publisher has.

use std::collections::BTreeMap;

use proptest::prelude::*;
use waybill_contracts::Reason;

use super::{
    World,
    world::{decode, entities, in_key_order, json_lines, refused},
};
use crate::{
    FileKey,
    apply::{Begin, EntityPlans, Position},
    replay::{FullExport, Part},
    sink::{Applied, EntityBatch, Rebuild, RebuildError, Scope, Sink, SqlSink, Way},
};

const EPOCH: &str = "01890000-0000-7000-8000-000000000000";

/// Rows wait for their category, and one whose `on` is false is not wanted.
const BY_VERSION: &str = r#"
    [entity.category]
    key = ["id"]
    columns = { id = "integer" }
    [entity.item]
    key = ["id"]
    where = "!has(row.on) || row.on"
    version = { field = "v", type = "integer" }
    columns = { id = "integer", category = "integer", v = "integer" }
    references = [{ fields = ["category"], entity = "category" }]
"#;
const BY_VERSION_LINE: &str = "version = { field = \"v\", type = \"integer\" }";

fn sequenced(sequence: u64) -> Position {
    Position::Sequenced { publisher: "shop".to_owned(), epoch: EPOCH.to_owned(), sequence }
}

fn snapshot(as_of: u64, sequence: u64) -> Position {
    Position::Snapshot { publisher: "shop".to_owned(), epoch: EPOCH.to_owned(), as_of, sequence }
}

fn key_of(sequence: u64) -> FileKey {
    FileKey::of_export("shop", &sequence.to_string())
}

/// As of this number, with the parts of these numbers.
fn full_export(as_of: u64, parts: impl IntoIterator<Item = u64>) -> FullExport {
    let begin = Begin {
        blob_type: "item".to_owned(),
        publisher: "shop".to_owned(),
        epoch: EPOCH.to_owned(),
        as_of,
        snapshot: "nightly".to_owned(),
    };
    let part = |sequence: u64| Part { id: sequence.cast_signed(), file: key_of(sequence) };
    FullExport { begin, parts: parts.into_iter().map(part).collect() }
}

/// What the publisher does to a row.
#[derive(Debug, Clone)]
struct Change {
    key: u8,
    is_deletion: bool,
    is_on: bool,
    category: Option<u8>,
}

/// What becomes of a file of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is there before the tables are derived again.
    Early,
    /// It comes when that is over.
    Late,
    /// It took effect once, and is not there any more when they are.
    Gone,
    /// It never comes.
    Missing,
}

#[derive(Debug, Clone)]
struct File {
    changes: Vec<Change>,
    fate: Fate,
    /// Where it comes among the others, each time.
    order: [u16; 3],
    is_sorted: bool,
}

/// A row as a file has it.
type Row = (u8, u64, Change);

/// A file of rows with its place.
struct Made {
    number: u64,
    position: Position,
    rows: Vec<Row>,
    fate: Fate,
    order: [u16; 3],
    is_sorted: bool,
}

impl Made {
    fn text(&self) -> String {
        self.rows.iter().map(|(key, version, change)| json(*key, *version, change) + "\n").collect()
    }

    fn batch(&self, world: &World) -> EntityBatch {
        let rows = decode(waybill_formats::Source::JsonLines, &self.text(), 2);
        let to = self.rows.len() as u64;
        let whole = world.batch("item", self.position.clone(), rows);
        if self.is_sorted && World::SORTS {
            let plan = whole.entity.as_ref().unwrap();
            let (rows, stretch) = in_key_order(plan, whole.rows, 0, to);
            return EntityBatch { rows, sorted: Some(stretch), ..whole };
        }
        whole
    }
}

fn json(key: u8, version: u64, change: &Change) -> String {
    let category = change.category.map_or("null".to_owned(), |category| category.to_string());
    let on = if change.is_on { "" } else { ",\"on\":false" };
    match change.is_deletion {
        true => format!("{{\"id\":{key},\"v\":{version},\"_deleted\":true}}"),
        false => format!("{{\"id\":{key},\"v\":{version},\"category\":{category}{on}}}"),
    }
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = (0..5_u8, prop::bool::weighted(0.3), prop::bool::weighted(0.8), proptest::option::of(0..2_u8));
    let change = change.prop_map(|(key, is_deletion, is_on, category)| Change { key, is_deletion, is_on, category });
    prop::collection::vec(change, 1..4)
}

fn files() -> impl Strategy<Value = Vec<File>> {
    let fate =
        prop_oneof![3 => Just(Fate::Early), 2 => Just(Fate::Late), 2 => Just(Fate::Gone), 3 => Just(Fate::Missing)];
    let file = (changes(), fate, any::<[u16; 3]>(), any::<bool>()).prop_map(|(changes, fate, order, is_sorted)| File {
        changes,
        fate,
        order,
        is_sorted,
    });
    prop::collection::vec(file, 1..9)
}

/// The rows that there are after these changes, with the version of the last one.
fn table<'c>(changes: impl IntoIterator<Item = &'c Row>) -> BTreeMap<u8, Row> {
    let mut rows = BTreeMap::new();
    for row in changes {
        match row.2.is_deletion {
            true => rows.remove(&row.0),
            false => rows.insert(row.0, row.clone()),
        };
    }
    rows
}

/// Files of these changes, with a full export as of the number `as_of` that was read when `read` of them were there.
fn publish(
    files: &[File],
    as_of: usize,
    read: usize,
    parts: usize,
    coarse: u64,
    orders: &[[u16; 3]],
) -> (Vec<Made>, Vec<Row>) {
    let (mut made, mut all, mut number): (Vec<Made>, Vec<Row>, u64) = (Vec::new(), Vec::new(), 0);
    for (at, file) in files.iter().enumerate() {
        if at == read {
            full(&mut made, &all, as_of, parts, &mut number, orders);
        }
        number += 1;
        let rows: Vec<Row> = (all.len() as u64..)
            .zip(&file.changes)
            // Several changes of a moment have one version.
            .map(|(count, change)| (change.key, count / coarse, change.clone()))
            .collect();
        all.extend(rows.iter().cloned());
        // What is after the full export has to come.
        let fate = match file.fate {
            Fate::Gone | Fate::Missing if at >= as_of => Fate::Early,
            fate => fate,
        };
        made.push(Made {
            number,
            position: sequenced(number),
            rows,
            fate,
            order: file.order,
            is_sorted: file.is_sorted,
        });
    }
    if read == files.len() {
        full(&mut made, &all, as_of, parts, &mut number, orders);
    }
    (made, all)
}

fn full(made: &mut Vec<Made>, all: &[Row], as_of: usize, parts: usize, number: &mut u64, orders: &[[u16; 3]]) {
    let rows = table(all);
    for (part, order) in orders.iter().enumerate().take(parts) {
        *number += 1;
        made.push(Made {
            number: *number,
            position: snapshot(as_of as u64, *number),
            rows: rows.values().filter(|(key, ..)| *key as usize % parts == part).cloned().collect(),
            fate: Fate::Early,
            order: *order,
            is_sorted: false,
        });
    }
}

fn in_order<'m>(made: &'m [Made], nth: usize, fates: &'m [Fate]) -> Vec<&'m Made> {
    let mut chosen: Vec<_> = made.iter().filter(|file| fates.contains(&file.fate)).collect();
    chosen.sort_by_key(|file| file.order[nth]);
    chosen
}

async fn category(world: &World, sink: &impl Sink, id: u8) {
    let file = FileKey::of_export("shop", &format!("category {id}"));
    let batch = world.batch("category", sequenced(u64::from(id) + 1), json_lines(&format!("{{\"id\":{id}}}")));
    sink.apply(&file, 0, batch).await.unwrap();
}

fn soak() -> u32 {
    std::env::var("WAYBILL_SOAK").map_or(1, |times| times.parse().expect("WAYBILL_SOAK is a number"))
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

proptest! {
    // Each makes a database more.
    #![proptest_config(ProptestConfig { cases: World::CASES / 2 * soak(), ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_missing_before_the_full_export_the_table_is_the_publishers(
        files in files(),
        places in any::<[prop::sample::Index; 2]>(),
        parts in 1..3_usize,
        orders in any::<[[u16; 3]; 2]>(),
        coarse in 1..3_u64,
        is_by_version in any::<bool>(),
        late_category in any::<bool>(),
    ) {
        let as_of = places[0].index(files.len() + 1);
        // What is published while it is read may be in its rows or not.
        let read = as_of + places[1].index(files.len() + 1 - as_of);
        let (made, all) = publish(&files, as_of, read, parts, coarse, &orders);
        let rows = table(&all).into_values().filter(|(.., change)| change.is_on);
        let shown = |category: Option<u8>| category.map_or("-".to_owned(), |category| category.to_string());
        let expected: Vec<String> =
            rows.map(|(key, version, change)| format!("{key}|{version}|{}", shown(change.category))).collect();
        let toml = if is_by_version { BY_VERSION.to_owned() } else { BY_VERSION.replace(BY_VERSION_LINE, "") };
        run(async {
            let world = World::new(&toml).await;
            category(&world, &world.sink, 0).await;
            for file in in_order(&made, 0, &[Fate::Early, Fate::Gone]) {
                let batch = world.sink.look_ahead(&key_of(file.number), 0, file.batch(&world)).await.unwrap();
                world.sink.apply(&key_of(file.number), 0, batch).await.unwrap();
            }
            let of = full_export(as_of as u64, made.iter().filter(|file| matches!(file.position, Position::Snapshot { .. })).map(|file| file.number));
            let scope = Scope::of(&world.entities, &["item".to_owned()]);
            let mut rebuild = Rebuild::begin(&world.name(), &scope).await.unwrap();
            rebuild.begin_at(&of).await.unwrap();
            let shadow = rebuild.shadow();
            category(&world, &shadow, 0).await;
            if !late_category {
                category(&world, &world.sink, 1).await;
                category(&world, &shadow, 1).await;
            }
            for file in in_order(&made, 1, &[Fate::Early]) {
                let applied = shadow.apply(&key_of(file.number), 0, file.batch(&world)).await.unwrap();
                assert_eq!((applied.rows(), applied.bad), (file.rows.len() as u64, 0), "{applied:?}");
            }
            for file in in_order(&made, 1, &[Fate::Gone]) {
                rebuild.pass_over(&key_of(file.number), &of).await.unwrap();
            }
            rebuild.hold().await.unwrap();
            assert_eq!(rebuild.behind().await.unwrap(), []);
            assert_eq!(rebuild.flaw(&of).await.unwrap(), None);
            rebuild.swap().await.unwrap();

            let mut copies = 0;
            for file in in_order(&made, 2, &[Fate::Late, Fate::Early, Fate::Gone]) {
                // Late ones, and some again under another name.
                let key = match file.fate {
                    Fate::Late => key_of(file.number),
                    _ => FileKey::of_export("shop", &format!("copy {}", file.number)),
                };
                copies += 1;
                if file.fate == Fate::Late || copies % 2 == 0 {
                    let batch = world.sink.look_ahead(&key, 0, file.batch(&world)).await.unwrap();
                    let applied = world.sink.apply(&key, 0, batch).await.unwrap();
                    assert_eq!((applied.rows(), applied.bad), (file.rows.len() as u64, 0), "{applied:?}");
                }
            }
            if late_category {
                category(&world, &world.sink, 1).await;
            }
            assert_eq!(world.query("SELECT key FROM _waybill_parked"), Vec::<String>::new());
            assert_eq!(world.query("SELECT id, v, category FROM item ORDER BY id"), expected);
        });
    }
}

const ITEM: &str = r#"
    [entity.item]
    key = ["id"]
    version = { field = "v", type = "integer" }
    columns = { id = "integer" }
"#;

async fn apply(sink: &impl Sink, world: &World, position: Position, rows: &str) -> Applied {
    let number = match &position {
        Position::Sequenced { sequence, .. } | Position::Snapshot { sequence, .. } => *sequence,
        Position::Broker { sequence_number } => sequence_number.cast_unsigned(),
    };
    sink.apply(&key_of(number), 0, world.batch("item", position, json_lines(rows))).await.unwrap()
}

/// A table that begins at a full export as of number 5: rows 1 and 2. Of row 3, which an earlier file had, only the table that
/// was there before knows.
async fn begun() -> World {
    let world = World::new(ITEM).await;
    apply(&world.sink, &world, sequenced(2), r#"{"id":3,"v":1}"#).await;
    let (rebuild, of) = derived(&world, "{\"id\":1,\"v\":3}\n{\"id\":2,\"v\":4}").await;
    rebuild.pass_over(&key_of(2), &of).await.unwrap();
    assert_eq!(world.query("SELECT begins FROM _waybill_table"), ["-"], "it is in effect with its rows");
    let swapped = finished(rebuild).await;
    assert_eq!(
        (swapped, world.query("SELECT id FROM item ORDER BY id")),
        (Way::Compared, vec!["1".to_owned(), "2".to_owned()])
    );
    world
}

/// A shadow with a full export as of number 5.
async fn derived(world: &World, rows: &str) -> (Rebuild, FullExport) {
    let scope = Scope::of(&world.entities, &["item".to_owned()]);
    let rebuild = Rebuild::begin(&world.name(), &scope).await.unwrap();
    let of = full_export(5, [7]);
    rebuild.begin_at(&of).await.unwrap();
    assert_eq!(rebuild.flaw(&of).await.unwrap().unwrap(), "file 7 could not be worked");
    apply(&rebuild.shadow(), world, snapshot(5, 7), rows).await;
    (rebuild, of)
}

async fn finished(mut rebuild: Rebuild) -> Way {
    rebuild.hold().await.unwrap();
    assert_eq!(rebuild.behind().await.unwrap(), []);
    rebuild.swap().await.unwrap()[0].way
}

#[tokio::test]
async fn what_an_earlier_file_brings_late_has_no_effect_and_what_it_deletes_has() {
    let world = begun().await;
    assert_eq!(world.query("SELECT file, rows, done FROM _waybill_progress ORDER BY file").len(), 2);
    // Read ahead or not, in several commits, newer by its own word or not.
    let (key, late) =
        (key_of(4), "{\"id\":3,\"v\":2,\"fresh\":1}\n{\"id\":4,\"v\":9,\"_deleted\":true}\n{\"id\":1,\"v\":99}");
    let half =
        EntityBatch { end: None, to: 1, ..world.batch("item", sequenced(4), json_lines(late.lines().next().unwrap())) };
    let half = world.sink.look_ahead(&key, 0, half).await.unwrap();
    assert_eq!(world.sink.apply(&key, 0, half).await.unwrap(), Applied { ignored: 1, ..Applied::default() });
    let rest = world.sink.apply(&key, 1, world.batch("item", sequenced(4), json_lines(late))).await.unwrap();
    assert_eq!(rest, Applied { ignored: 1, deleted: 1, ..Applied::default() });
    assert_eq!(world.query("SELECT id, v FROM item ORDER BY id"), ["1|3", "2|4"]);
    assert_eq!(world.query("SELECT key FROM _waybill_tombstone"), ["4"]);
    assert_eq!(world.query("SELECT field FROM _waybill_column WHERE field = 'fresh'"), Vec::<String>::new());
    // An earlier full export is no newer than the changes before it.
    assert_eq!(apply(&world.sink, &world, snapshot(4, 6), r#"{"id":3,"v":2}"#).await.ignored, 1);
    // What is after it takes effect as ever, a row that was deleted too.
    assert_eq!(
        apply(&world.sink, &world, sequenced(8), "{\"id\":3,\"v\":10}\n{\"id\":2,\"v\":11,\"_deleted\":true}")
            .await
            .rows(),
        2
    );
    assert_eq!(world.query("SELECT id, v FROM item ORDER BY id"), ["1|3", "3|10"]);
}

#[tokio::test]
async fn a_batch_read_ahead_before_the_swap_is_judged_by_the_place_that_came_with_it() {
    let world = World::new(ITEM).await;
    // Its columns are known, so that it can be read ahead to the end.
    apply(&world.sink, &world, sequenced(1), r#"{"id":3,"v":1}"#).await;
    let batch = world.batch("item", sequenced(2), json_lines(r#"{"id":4,"v":1}"#));
    let ahead = world.sink.look_ahead(&key_of(2), 0, batch).await.unwrap();
    let (rebuild, of) = derived(&world, r#"{"id":1,"v":3}"#).await;
    rebuild.pass_over(&key_of(1), &of).await.unwrap();
    finished(rebuild).await;
    assert_eq!(world.sink.apply(&key_of(2), 0, ahead).await.unwrap(), Applied { ignored: 1, ..Applied::default() });
    assert_eq!(world.query("SELECT id FROM item"), ["1"]);
}

/// Whoever runs since before there were such places compares the rule that is stored with its own.
#[tokio::test]
async fn a_program_that_knows_no_such_place_takes_it_for_another_definition() {
    let mut world = begun().await;
    let plans = EntityPlans::compile(&world.entities).unwrap();
    let own = plans.get("item").unwrap().order();
    assert_eq!(world.query("SELECT rule FROM _waybill_table"), [format!("{own}, from a full export on")]);
    // For one that knows it, it is the same definition, opened again too.
    world.reopen(None).await;
    assert_eq!(apply(&world.sink, &world, sequenced(8), r#"{"id":3,"v":10}"#).await.inserted, 1);
    assert_eq!(apply(&world.sink, &world, sequenced(4), r#"{"id":4,"v":10}"#).await.ignored, 1);
    // A place that somebody took away is no table of all files.
    world.query("UPDATE _waybill_table SET begins = NULL");
    let batch = world.batch("item", sequenced(3), json_lines(r#"{"id":5,"v":1}"#));
    let error = world.sink.apply(&key_of(3), 0, batch).await.unwrap_err();
    assert!(format!("{error:?}").contains("was derived again under another definition"), "{error:?}");
    assert_eq!(world.query("SELECT id FROM item ORDER BY id"), ["1", "2", "3"]);
}

#[tokio::test]
async fn a_file_that_cannot_be_told_from_one_before_it_is_refused() {
    let mut world = begun().await;
    let of = |publisher: &str, epoch: &str| Position::Sequenced {
        publisher: publisher.to_owned(),
        epoch: epoch.to_owned(),
        sequence: 99,
    };
    let earlier = "01790000-0000-7000-8000-000000000000";
    for (position, wanted) in [
        (of("other", EPOCH), "this file is from \"other\""),
        (of("shop", earlier), "this file has a number of an earlier epoch, \"01790000"),
        (Position::Broker { sequence_number: 99 }, "this file has no number"),
    ] {
        let batch = world.batch("item", position, json_lines(r#"{"id":9,"v":99}"#));
        let (reason, problem) = refused(world.sink.apply(&key_of(99), 0, batch).await);
        assert_eq!(reason, Reason::ForeignPublisher);
        let begins = "its table begins at the full export \"nightly\" of item from \"shop\"";
        assert!(
            problem.contains(wanted) && problem.contains(begins) && problem.contains("rebuild --type item"),
            "{problem}"
        );
    }
    // The publisher began its numbers anew: it goes on.
    let later = of("shop", "01990000-0000-7000-8000-000000000000");
    let batch = world.batch("item", later, json_lines(r#"{"id":9,"v":99}"#));
    assert_eq!(world.sink.apply(&key_of(100), 0, batch).await.unwrap().inserted, 1);
    // Another type makes the table now, too.
    world.reopen(Some(&ITEM.replace("key =", "types = [\"item\", \"more\"]\n    key ="))).await;
    let batch = world.batch("more", sequenced(99), json_lines(r#"{"id":10,"v":99}"#));
    let (_, problem) = refused(world.sink.apply(&key_of(101), 0, batch).await);
    assert!(problem.contains("this file is of type \"more\""), "{problem}");
    assert_eq!(world.query("SELECT id FROM item ORDER BY id"), ["1", "2", "9"]);
}

#[tokio::test]
async fn derived_from_all_files_the_table_begins_at_the_first_again() {
    let world = begun().await;
    let scope = Scope::of(&world.entities, &["item".to_owned()]);
    let rebuild = Rebuild::begin(&world.name(), &scope).await.unwrap();
    let shadow = rebuild.shadow();
    apply(&shadow, &world, sequenced(2), r#"{"id":3,"v":1}"#).await;
    apply(&shadow, &world, snapshot(5, 7), r#"{"id":1,"v":3}"#).await;
    finished(rebuild).await;
    assert_eq!(world.query("SELECT id FROM item ORDER BY id"), ["1", "3"]);
    assert_eq!(world.query("SELECT begins FROM _waybill_table"), ["-"]);
    assert_eq!(apply(&world.sink, &world, sequenced(4), r#"{"id":4,"v":1}"#).await.inserted, 1);
}

#[tokio::test]
async fn a_row_of_the_full_export_that_cannot_be_used_is_a_flaw() {
    for (rows, wanted) in [
        ("{\"id\":1,\"v\":3}\n{\"id\":2}", "row 2 of file 7 cannot be used: version field \"v\" is missing"),
        ("{\"id\":1,\"v\":3}\nbroken", "row 2 of file 7 cannot be used: "),
    ] {
        let world = World::new(ITEM).await;
        let (rebuild, of) = derived(&world, rows).await;
        let flaw = rebuild.flaw(&of).await.unwrap().unwrap();
        assert!(flaw.contains(wanted), "{flaw}");
        rebuild.give_up().await.unwrap();
    }
    // One that is left out is kept nowhere.
    let world = World::new(ITEM).await;
    let scope = Scope::of(&world.entities, &["item".to_owned()]);
    let rebuild = Rebuild::begin(&world.name(), &scope).await.unwrap();
    let of = full_export(5, [7]);
    rebuild.begin_at(&of).await.unwrap();
    let mut batch = world.batch("item", snapshot(5, 7), json_lines("{\"id\":1,\"v\":3}\nbroken"));
    batch.rows.iter_mut().for_each(waybill_formats::RowBatch::forget_bad);
    rebuild.shadow().apply(&key_of(7), 0, batch).await.unwrap();
    assert_eq!(rebuild.shadow().progress(&key_of(7)).await.unwrap().bad, 1);
    assert_eq!(rebuild.flaw(&of).await.unwrap().unwrap(), "file 7 has rows that cannot be used: 1");
}

#[tokio::test]
async fn no_table_begins_at_a_full_export_of_a_type_that_does_not_make_it_alone() {
    for toml in ["", &ITEM.replace("key =", "types = [\"item\", \"more\"]\n    key =")] {
        let world = World::new(toml).await;
        let scope = Scope::of(&entities(toml), &["item".to_owned()]);
        let rebuild = Rebuild::begin(&world.name(), &scope).await.unwrap();
        let error = rebuild.begin_at(&full_export(5, [7])).await.unwrap_err();
        assert!(matches!(&error, RebuildError::NoTableFor(_)), "{error}");
        rebuild.give_up().await.unwrap();
    }
}

#[tokio::test]
async fn a_damaged_place_is_refused_and_not_taken_for_none() {
    let world = begun().await;
    world.query("UPDATE _waybill_table SET begins = '{}'");
    let batch = world.batch("item", sequenced(2), json_lines(r#"{"id":3,"v":1}"#));
    let (reason, problem) = refused(world.sink.apply(&key_of(102), 0, batch).await);
    assert_eq!(reason, Reason::RefusedByDatabase);
    assert!(problem.contains("cannot be read in _waybill_table"), "{problem}");
    assert!(world.sink.bad_rows(&Default::default(), 1).await.unwrap().is_empty());
}
