//! Any order of arrival: the newest row of each key wins, whatever came when.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::atomic::{AtomicU32, Ordering},
};

use futures::future::join_all;
use proptest::prelude::*;
use tokio::sync::{Notify, mpsc};
use waybill_formats::{RowBatch, Source};

use super::{
    World,
    world::{decode, in_key_order, stats},
};
use crate::{
    FileKey,
    apply::Position,
    sink::{Applied, EntityBatch, Progress, Rebuild, Scope, Sink, SinkError},
};

/// A row whose `on` is false is not wanted: it is to its table what a deletion is.
const FAMILY: &str = r#"
    [entity.category]
    key = ["id"]
    where = "!has(row.on) || row.on"
    version = { field = "v", type = "integer" }
    columns = { id = "integer", category = "integer", text = "text" }
    [[entity.category.references]]
    fields = ["category"]
    entity = "category"

    [entity.item]
    key = ["id", "site"]
    where = "!has(row.on) || row.on"
    version = { field = "v", type = "integer" }
    columns = { id = "integer", site = "text", category = "integer", text = "text" }
    [[entity.item.references]]
    fields = ["category"]
    entity = "category"

    [entity.price]
    types = ["price", "offer"]
    key = ["id"]
    where = "!has(row.on) || row.on"
    version = { field = "v", type = "integer" }
    columns = { id = "integer", category = "integer", item = "integer", item_site = "text", text = "text" }
    [[entity.price.references]]
    fields = ["item", "item_site"]
    entity = "item"
    [[entity.price.references]]
    fields = ["category"]
    entity = "category"
"#;

const ENTITIES: [&str; 3] = ["category", "item", "price"];

/// The parts of an item's key, of which the second has what stands between parts.
fn item_key(item: u8) -> (u8, String) {
    (item % 3, format!("s,{}", item / 3))
}

#[derive(Debug, Clone)]
struct Op {
    key: u8,
    version: u8,
    is_deletion: bool,
    is_filtered: bool,
    category: Option<u8>,
    item: Option<u8>,
}

/// A file: rows of one entity. Its place among the files is its position.
#[derive(Debug, Clone)]
struct File {
    entity: usize,
    /// Of the other type of its entity, where that has two.
    is_other: bool,
    /// Its rows come in the order of their keys, where the database takes them so.
    is_sorted: bool,
    rows: Vec<Op>,
}

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Move {
    /// This many more rows of this file.
    Apply {
        file: usize,
        rows: u64,
    },
    /// All of this file as one, this many rows at a time, if nothing of it took effect; or it is given up before its end.
    Whole {
        file: usize,
        rows: u64,
        is_complete: bool,
    },
    /// The whole file again, from its begin.
    Again {
        file: usize,
    },
    /// The same rows as a file of another identity.
    Copy {
        file: usize,
    },
    Restart,
}

type Key = (usize, u8);
/// Declared version, file, row: as the sink orders them.
type Version = (u8, i64, u64);

fn op() -> impl Strategy<Value = Op> {
    let reference = || proptest::option::weighted(0.6, 0..5_u8);
    let removal = prop_oneof![6 => Just((false, false)), 1 => Just((true, false)), 1 => Just((false, true))];
    (0..5_u8, 0..8_u8, removal, reference(), reference()).prop_map(
        |(key, version, (is_deletion, is_filtered), category, item)| Op {
            key,
            version,
            is_deletion,
            is_filtered,
            category,
            item,
        },
    )
}

fn files() -> impl Strategy<Value = Vec<File>> {
    let file = (0..3_usize, any::<bool>(), any::<bool>(), prop::collection::vec(op(), 1..10))
        .prop_map(|(entity, is_other, is_sorted, rows)| File { entity, is_other, is_sorted, rows });
    prop::collection::vec(file, 1..8)
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        12 => (0..8_usize, 1..6_u64).prop_map(|(file, rows)| Move::Apply { file, rows }),
        3 => (0..8_usize, 1..6_u64, any::<bool>())
            .prop_map(|(file, rows, is_complete)| Move::Whole { file, rows, is_complete }),
        1 => (0..8_usize).prop_map(|file| Move::Again { file }),
        1 => (0..8_usize).prop_map(|file| Move::Copy { file }),
        1 => Just(Move::Restart),
    ];
    prop::collection::vec(one, 0..20)
}

impl Op {
    fn is_removal(&self) -> bool {
        self.is_deletion || self.is_filtered
    }

    fn json(&self, entity: usize) -> String {
        let mut fields = vec![match entity {
            1 => format!("\"id\":{},\"site\":\"{}\"", item_key(self.key).0, item_key(self.key).1),
            _ => format!("\"id\":{}", self.key),
        }];
        fields.push(format!("\"v\":{}", self.version));
        fields.extend(self.category.map(|category| format!("\"category\":{category}")));
        fields.extend(self.item.filter(|_| entity == 2).map(|item| {
            let (id, site) = item_key(item);
            format!("\"item\":{id},\"item_site\":\"{site}\"")
        }));
        fields.extend(self.is_filtered.then(|| "\"on\":false".to_owned()));
        fields.push(match self.is_deletion {
            true => "\"_deleted\":true".to_owned(),
            false => format!("\"text\":\"x\",\"n\":{}", number(self.version)),
        });
        format!("{{{}}}", fields.join(","))
    }

    fn parents(&self, entity: usize) -> Vec<Key> {
        let category = self.category.map(|category| (0, category));
        let item = self.item.filter(|_| entity == 2).map(|item| (1, item));
        category.into_iter().chain(item).filter(|parent| *parent != (entity, self.key)).collect()
    }

    /// As the table shows it.
    fn shown(&self, entity: usize) -> String {
        let shown = |number: Option<u8>| number.map_or("-".to_owned(), |number| number.to_string());
        let item = self.item.filter(|_| entity == 2).map(item_key);
        let (item, site) = item.map_or((None, "-".to_owned()), |(item, site)| (Some(item), site));
        format!("{}|{}|{}|{site}", self.version, shown(self.category), shown(item))
    }
}

/// What a field that is not declared holds: some values need a wider column than others.
fn number(version: u8) -> String {
    if version % 3 == 1 { format!("{version}.50") } else { version.to_string() }
}

impl File {
    fn blob_type(&self) -> &'static str {
        if self.is_other && self.entity == 2 { "offer" } else { ENTITIES[self.entity] }
    }

    fn text(&self) -> String {
        self.rows.iter().map(|row| row.json(self.entity) + "\n").collect()
    }

    fn batch(&self, world: &World, place: usize, from: u64, to: u64) -> EntityBatch {
        let rows = decode(Source::JsonLines, &self.text(), 1);
        let position = Position::Broker { sequence_number: place as i64 };
        let end = (to == self.rows.len() as u64).then(|| stats(to));
        let whole = world.batch(self.blob_type(), position, rows);
        if self.is_sorted && World::SORTS {
            let plan = whole.entity.as_ref().unwrap();
            let (rows, stretch) = in_key_order(plan, whole.rows, from, to);
            return EntityBatch { rows, to, end, sorted: Some(stretch), ..whole };
        }
        let is_wanted = |row: &RowBatch| row.first_row() > from && row.last_row() <= to;
        EntityBatch { rows: whole.rows.into_iter().filter(is_wanted).collect(), to, end, ..whole }
    }
}

fn file_key(place: usize, copy: u64) -> FileKey {
    FileKey::of_export("shop", &format!("{place}.{copy}"))
}

/// Applies everything, following `moves` and then file by file.
async fn apply_all(world: &mut World, files: &[File], moves: &[Move]) {
    let mut copies = 0;
    // Stretches that were read ahead, by their files: their turn may come much later.
    let mut ahead: HashMap<usize, (u64, EntityBatch)> = HashMap::new();
    let rest = (0..files.len()).map(|file| Move::Apply { file, rows: u64::MAX });
    for step in moves.iter().copied().chain(rest) {
        match step {
            Move::Restart => {
                ahead.clear();
                world.reopen(None).await;
            }
            Move::Apply { file, rows } if file < files.len() => {
                let (key, of) = (file_key(file, 0), &files[file]);
                let after = |from: u64| from.saturating_add(rows).min(of.rows.len() as u64);
                loop {
                    let from = world.sink.progress(&key).await.unwrap();
                    if from.done {
                        break;
                    }
                    let ready = ahead.remove(&file).filter(|(at, _)| *at == from.rows);
                    let batch = match ready {
                        Some((_, batch)) => batch,
                        None => of.batch(world, file, from.rows, after(from.rows)),
                    };
                    let to = batch.to;
                    let applied = world.sink.apply(&key, from.rows, batch).await.unwrap();
                    assert_eq!(applied.rows(), to - from.rows, "{applied:?}");
                    assert_eq!(applied.bad, 0);
                    if rows < u64::MAX {
                        if to < of.rows.len() as u64 {
                            let next = of.batch(world, file, to, after(to));
                            ahead.insert(file, (to, world.sink.look_ahead(&key, to, next).await.unwrap()));
                        }
                        break;
                    }
                }
            }
            Move::Whole { file, rows, is_complete } if file < files.len() => {
                apply_whole(world, &files[file], file, rows, is_complete).await;
            }
            Move::Again { file } if file < files.len() => {
                let (key, of) = (file_key(file, 0), &files[file]);
                let progress = world.sink.progress(&key).await.unwrap();
                if progress.rows > 0 {
                    let batch = of.batch(world, file, 0, of.rows.len() as u64);
                    let result = world.sink.apply(&key, 0, batch).await;
                    assert!(matches!(result, Err(SinkError::Fenced { .. })), "{result:?}");
                }
            }
            Move::Copy { file } if file < files.len() => {
                copies += 1;
                let batch = files[file].batch(world, file, 0, files[file].rows.len() as u64);
                world.sink.apply(&file_key(file, copies), 0, batch).await.unwrap();
            }
            _ => {}
        }
        no_parked_row_has_its_parent(world).await;
    }
}

async fn apply_whole(world: &World, of: &File, place: usize, rows: u64, is_complete: bool) {
    let (key, all) = (file_key(place, 0), of.rows.len() as u64);
    if world.sink.progress(&key).await.unwrap() != Progress::default() {
        return;
    }
    let (to, batches) = mpsc::channel(1);
    let giving = async move {
        let mut from = 0;
        while from < all {
            let next = (from + rows).min(all);
            let mut batch = of.batch(world, place, from, next);
            batch.end = batch.end.filter(|_| is_complete);
            to.send(batch).await.unwrap();
            from = next;
        }
    };
    let (applied, ()) = tokio::join!(world.sink.apply_whole(&key, batches), giving);
    match applied.unwrap() {
        Some(applied) => assert!(is_complete && (applied.rows(), applied.bad) == (all, 0), "{applied:?}"),
        None => {
            assert!(!is_complete);
            assert_eq!(world.sink.progress(&key).await.unwrap(), Progress::default());
        }
    }
}

/// Several workers at once, each with an order of its own, until everything is done or `most` batches have taken effect: then
/// they are dropped where they are, as a crash would.
async fn work_together(world: &World, files: &[File], workers: usize, most: u32) {
    let taken = AtomicU32::new(0);
    let is_enough = Notify::new();
    let worker = async |nth: usize| {
        for file in (0..files.len()).map(|at| (at * (nth + 1) + nth) % files.len()).chain(0..files.len()) {
            let (key, of) = (file_key(file, 0), &files[file]);
            loop {
                let progress = world.sink.progress(&key).await.unwrap();
                if progress.done {
                    break;
                }
                let to = (progress.rows + 1 + nth as u64).min(of.rows.len() as u64);
                // The others go on meanwhile.
                let batch = of.batch(world, file, progress.rows, to);
                let batch = world.sink.look_ahead(&key, progress.rows, batch).await.unwrap();
                match world.sink.apply(&key, progress.rows, batch).await {
                    Ok(applied) => {
                        assert_eq!((applied.rows(), applied.bad), (to - progress.rows, 0), "{applied:?}");
                        no_parked_row_has_its_parent(world).await;
                        if taken.fetch_add(1, Ordering::Relaxed) + 1 >= most {
                            is_enough.notify_one();
                        }
                    }
                    Err(SinkError::Fenced { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = is_enough.notified() => {}
        _ = join_all((0..workers).map(worker)) => {}
    }
}

/// Whether a row that waits has what it waits for, or, by its content, all that it refers to. What it waits for is never among
/// what it goes without.
async fn no_parked_row_has_its_parent(world: &World) {
    let [category, item, site] = ["category", "item", "item_site"].map(World::field_of_parked);
    let sql = format!(
        "SELECT p.entity, p.key, p.missing_entity, p.missing_key FROM _waybill_parked p WHERE
        p.missing_entity NOT IN ('category', 'item')
        OR p.missing_entity = 'category' AND EXISTS (SELECT 1 FROM category c WHERE CAST(c.id AS TEXT) = p.missing_key)
        OR p.missing_entity = 'item' AND EXISTS (
            SELECT 1 FROM item i WHERE CAST(i.id AS TEXT) || ',' || replace(i.site, ',', '\\,') = p.missing_key)
        OR ({category} IS NULL OR p.entity = 'category' AND {category} = p.key
            OR EXISTS (SELECT 1 FROM category c WHERE CAST(c.id AS TEXT) = {category}))
        AND ({item} IS NULL OR EXISTS (SELECT 1 FROM item i WHERE CAST(i.id AS TEXT) = {item} AND i.site = {site}))"
    );
    assert_eq!(world.ask(&sql).await, Vec::<String>::new(), "rows that wait although what they wait for is there");
}

/// What the sink holds, each place by key.
#[derive(Debug, Default, PartialEq)]
struct State {
    rows: BTreeMap<Key, String>,
    tombstones: BTreeSet<Key>,
    parked: BTreeMap<Key, String>,
}

fn key_of(entity: &str, key: &str) -> Key {
    let entity = ENTITIES.iter().position(|name| *name == entity).unwrap();
    let number = |text: &str| text.parse::<u8>().unwrap();
    match key.split_once(',') {
        Some((id, site)) => (entity, number(id) + 3 * number(site.trim_matches(['s', '\\', ',']))),
        None => (entity, number(key)),
    }
}

fn state(world: &World) -> State {
    let mut state = State::default();
    for (entity, name) in ENTITIES.iter().enumerate() {
        let key = if entity == 1 { "id || ',' || site" } else { "id" };
        let item = if entity == 2 { "item, item_site" } else { "NULL, NULL" };
        for row in world.query(&format!("SELECT {key}, v, category, {item} FROM {name}")) {
            let (key, rest) = row.split_once('|').unwrap();
            state.rows.insert(key_of(name, key), rest.to_owned());
        }
        if state.rows.keys().any(|(of, _)| *of == entity) {
            for row in world.query(&format!("SELECT v, n, _rescued FROM {name}")) {
                let version = row.split_once('|').unwrap().0.parse().unwrap();
                assert_eq!(row, format!("{version}|{}|-", number(version)), "whichever came first");
            }
        }
    }
    for row in world.query("SELECT entity, key FROM _waybill_tombstone") {
        let (entity, key) = row.split_once('|').unwrap();
        state.tombstones.insert(key_of(entity, key));
    }
    let fields = ["v", "category", "item", "item_site"].map(World::field_of_parked).join(", ");
    for row in world.query(&format!("SELECT entity, key, {fields} FROM _waybill_parked p")) {
        let parts: Vec<_> = row.splitn(3, '|').collect();
        state.parked.insert(key_of(parts[0], parts[1]), parts[2].to_owned());
    }
    state
}

/// Every row by its key and version.
fn by_key(files: &[File]) -> BTreeMap<Key, BTreeMap<Version, &Op>> {
    let mut all: BTreeMap<Key, BTreeMap<Version, &Op>> = BTreeMap::new();
    for (place, file) in files.iter().enumerate() {
        for (row, op) in (1..).zip(&file.rows) {
            all.entry((file.entity, op.key)).or_default().insert((op.version, place as i64, row), op);
        }
    }
    all
}

/// The newest of each key, and those among them whose parents, and theirs, are all there.
fn newest_and_complete(files: &[File]) -> (BTreeMap<Key, Op>, BTreeSet<Key>) {
    let newest: BTreeMap<Key, Op> =
        by_key(files).into_iter().map(|(key, rows)| (key, (*rows.last_key_value().unwrap().1).clone())).collect();
    let mut complete = BTreeSet::new();
    loop {
        let more: Vec<_> = newest
            .iter()
            .filter(|(key, op)| !op.is_removal() && !complete.contains(*key))
            .filter(|((entity, _), op)| op.parents(*entity).iter().all(|parent| complete.contains(parent)))
            .map(|(key, _)| *key)
            .collect();
        if more.is_empty() {
            return (newest, complete);
        }
        complete.extend(more);
    }
}

/// Files of newest rows without references, for every parent that a newest row misses, and for one of those that wait for
/// each other: so that nothing has to wait in the end. Other deletions stay.
fn missing_parents(files: &[File]) -> Vec<File> {
    let mut added: Vec<File> = Vec::new();
    loop {
        let all: Vec<_> = files.iter().chain(&added).cloned().collect();
        let (newest, complete) = newest_and_complete(&all);
        let waiting: Vec<_> = newest.iter().filter(|(key, op)| !op.is_removal() && !complete.contains(*key)).collect();
        let is_there = |parent: &Key| newest.get(parent).is_some_and(|op| !op.is_removal());
        let mut parents = waiting.iter().flat_map(|(key, op)| op.parents(key.0));
        let Some(add) = parents.find(|parent| !is_there(parent)).or_else(|| waiting.first().map(|(key, _)| **key))
        else {
            return added;
        };
        let row = Op { key: add.1, version: 100, is_deletion: false, is_filtered: false, category: None, item: None };
        added.push(File { entity: add.0, is_other: false, is_sorted: false, rows: vec![row] });
    }
}

/// Derives all tables again, from the files in an order of its own.
async fn rebuild(world: &World, files: &[File], shuffle: usize) {
    let scope = Scope::of(&world.entities, &ENTITIES.map(str::to_owned));
    let mut rebuild = Rebuild::begin(&world.name(), &scope).await.unwrap();
    let shadow = rebuild.shadow();
    for at in 0..files.len() {
        let file = (files.len() + shuffle - at) % files.len();
        let of = &files[file];
        shadow.apply(&file_key(file, 0), 0, of.batch(world, file, 0, of.rows.len() as u64)).await.unwrap();
    }
    rebuild.hold().await.unwrap();
    // Files that came a second time, under another name, are not among those.
    let behind = rebuild.behind().await.unwrap();
    assert!(behind.iter().all(|file| !file.as_str().ends_with(".0")), "{behind:?}");
    let swapped = rebuild.swap().await.unwrap();
    let wrong = swapped.iter().map(|table| table.inserted + table.deleted).sum::<u64>();
    assert_eq!(wrong, 0, "the tables were right: {swapped:?}");
}

/// How many times the cases of a usual run: `cargo xtask soak` says.
fn soak() -> u32 {
    std::env::var("WAYBILL_SOAK").map_or(1, |times| times.parse().expect("WAYBILL_SOAK is a number"))
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: World::CASES * soak(), ..ProptestConfig::default() })]

    #[test]
    fn tables_are_those_of_the_newest_rows_whatever_the_order(mut files in files(), moves in moves(), shuffle in 0..8_usize) {
        files.extend(missing_parents(&files));
        // The last files, which complete the others, come anywhere too.
        let moves: Vec<_> = moves
            .into_iter()
            .map(|step| match step {
                Move::Apply { file, rows } => Move::Apply { file: (file + shuffle) % files.len(), rows },
                step => step,
            })
            .collect();
        let (newest, complete) = newest_and_complete(&files);
        let mut expected = State::default();
        for (key, op) in &newest {
            if op.is_removal() {
                expected.tombstones.insert(*key);
            } else {
                prop_assert!(complete.contains(key), "{:?} has all its parents", key);
                expected.rows.insert(*key, op.shown(key.0));
            }
        }
        run(async {
            let mut world = World::new(FAMILY).await;
            apply_all(&mut world, &files, &moves).await;
            assert_eq!(state(&world), expected);
        });
    }

    #[test]
    fn several_workers_and_crashes_leave_the_same_tables(
        mut files in files(), workers in 1..5_usize, crashes in prop::collection::vec(1..8_u32, 0..4)
    ) {
        files.extend(missing_parents(&files));
        let (newest, _) = newest_and_complete(&files);
        let mut expected = State::default();
        for (key, op) in &newest {
            if op.is_removal() {
                expected.tombstones.insert(*key);
            } else {
                expected.rows.insert(*key, op.shown(key.0));
            }
        }
        run(async {
            let mut world = World::new(FAMILY).await;
            for most in crashes {
                work_together(&world, &files, workers, most).await;
                world.reopen(None).await;
                no_parked_row_has_its_parent(&world).await;
            }
            work_together(&world, &files, workers, u32::MAX).await;
            no_parked_row_has_its_parent(&world).await;
            assert_eq!(state(&world), expected);
        });
    }

    #[test]
    fn rows_without_their_parents_wait_and_nothing_old_comes_back(files in files(), moves in moves()) {
        let (newest, complete) = newest_and_complete(&files);
        let all = by_key(&files);
        run(async {
            let mut world = World::new(FAMILY).await;
            apply_all(&mut world, &files, &moves).await;
            let state = state(&world);
            for (key, op) in &newest {
                let (row, parked) = (state.rows.get(key), state.parked.get(key));
                let newest_shown = op.shown(key.0);
                assert!(!(state.tombstones.contains(key) && row.is_some()), "{key:?}: a tombstone and a row");
                if op.is_removal() {
                    assert_eq!((row, parked), (None, None), "{key:?} is deleted");
                    assert!(state.tombstones.contains(key), "{key:?} is remembered as deleted");
                } else if complete.contains(key) {
                    assert_eq!((row, parked), (Some(&newest_shown), None), "{key:?} has all its parents");
                } else if row != Some(&newest_shown) {
                    assert_eq!(parked, Some(&newest_shown), "{key:?} waits");
                }
                if let Some(row) = row {
                    // Of the rows that came after the last deletion.
                    let deleted = all[key].iter().filter(|(_, op)| op.is_removal()).map(|(version, _)| *version).max();
                    let after = all[key].iter().filter(|(version, op)| !op.is_removal() && Some(**version) > deleted);
                    assert!(after.map(|(_, op)| op.shown(key.0)).any(|shown| shown == *row), "{key:?}: {row} is deleted");
                }
            }
            assert!(state.rows.keys().chain(state.parked.keys()).all(|key| newest.contains_key(key)));
        });
    }

    #[test]
    fn one_row_at_a_time_the_rules_are_followed_to_the_letter(files in files()) {
        run(async {
            let world = World::new(FAMILY).await;
            let mut model = Model::default();
            for (place, file) in files.iter().enumerate() {
                let mut rows: Vec<_> = (1..).zip(&file.rows).collect();
                if file.is_sorted && World::SORTS {
                    let key = |op: &Op| if file.entity == 1 { item_key(op.key) } else { (op.key, String::new()) };
                    rows.sort_by_key(|(row, op)| (key(op), *row));
                }
                for (from, (row, op)) in (0..).zip(rows) {
                    let batch = file.batch(&world, place, from, from + 1);
                    let applied = world.sink.apply(&file_key(place, 0), from, batch).await.unwrap();
                    let expected = model.arrive(file.entity, op, (op.version, place as i64, row));
                    assert_eq!(applied, expected, "{op:?}");
                    assert_eq!(state(&world), model.state(), "after {op:?}");
                }
            }
        });
    }
}

proptest! {
    // Each makes a database more.
    #![proptest_config(ProptestConfig { cases: World::CASES / 4 * soak(), ..ProptestConfig::default() })]

    #[test]
    fn tables_derived_again_from_the_files_are_as_they_were(mut files in files(), moves in moves(), shuffle in 0..8_usize) {
        files.extend(missing_parents(&files));
        run(async {
            let mut world = World::new(FAMILY).await;
            apply_all(&mut world, &files, &moves).await;
            let before = state(&world);
            rebuild(&world, &files, shuffle).await;
            assert_eq!(state(&world), before);
        });
    }
}

/// The rules of `sink::sql`, in the simplest way.
#[derive(Default)]
struct Model {
    rows: BTreeMap<Key, (Version, Op)>,
    tombstones: BTreeMap<Key, Version>,
    parked: BTreeMap<Key, (Version, Op)>,
}

impl Model {
    fn arrive(&mut self, entity: usize, op: &Op, version: Version) -> Applied {
        let key = (entity, op.key);
        let known = self.rows.get(&key).map(|(version, _)| *version).max(self.tombstones.get(&key).copied());
        if known >= Some(version) {
            return Applied { ignored: 1, ..Applied::default() };
        }
        if op.is_removal() {
            self.rows.remove(&key);
            self.tombstones.insert(key, version);
            self.parked.retain(|parked, (of, _)| *parked != key || *of > version);
            let (deleted, filtered) = (u64::from(op.is_deletion), u64::from(op.is_filtered));
            return Applied { deleted, filtered, ..Applied::default() };
        }
        if !self.has_parents(entity, op) {
            if self.parked.get(&key).is_some_and(|(parked, _)| *parked >= version) {
                return Applied { ignored: 1, ..Applied::default() };
            }
            self.parked.insert(key, (version, op.clone()));
            return Applied { parked: 1, ..Applied::default() };
        }
        let is_new = self.put(key, version, op);
        let mut released = 0;
        while let Some((key, (version, op))) =
            self.parked.iter().find(|(key, (_, op))| self.has_parents(key.0, op)).map(|(key, of)| (*key, of.clone()))
        {
            self.put(key, version, &op);
            released += 1;
        }
        Applied { inserted: u64::from(is_new), updated: u64::from(!is_new), released, ..Applied::default() }
    }

    fn has_parents(&self, entity: usize, op: &Op) -> bool {
        op.parents(entity).iter().all(|parent| self.rows.contains_key(parent))
    }

    fn put(&mut self, key: Key, version: Version, op: &Op) -> bool {
        self.tombstones.remove(&key);
        self.parked.retain(|parked, (of, _)| *parked != key || *of > version);
        self.rows.insert(key, (version, op.clone())).is_none()
    }

    fn state(&self) -> State {
        let shown =
            |of: &BTreeMap<Key, (Version, Op)>| of.iter().map(|(key, (_, op))| (*key, op.shown(key.0))).collect();
        State {
            rows: shown(&self.rows),
            tombstones: self.tombstones.keys().copied().collect(),
            parked: shown(&self.parked),
        }
    }
}

#[tokio::test]
async fn without_a_declared_version_the_place_in_the_sequence_decides() {
    let world = World::new("[entity.item]\nkey = [\"id\"]").await;
    let sequenced = |publisher: &str, epoch: &str, sequence| Position::Sequenced {
        publisher: publisher.to_owned(),
        epoch: epoch.to_owned(),
        sequence,
    };
    let (old, new) = ("01890000-0000-7000-8000-000000000000", "01990000-0000-7000-8000-000000000000");
    let positions = [
        (sequenced("shop", old, 10), "updated"),
        (sequenced("shop", old, 9), "ignored"),
        (sequenced("shop", new, 1), "updated"),
        (sequenced("shop", old, 11), "ignored"),
        (Position::Broker { sequence_number: i64::MAX }, "ignored"),
    ];
    world.file("item", r#"{"id":1,"n":0}"#).await;
    for (nth, (position, expected)) in positions.into_iter().enumerate() {
        let rows = super::world::json_lines(&format!("{{\"id\":1,\"n\":{nth}}}"));
        let batch = world.batch("item", position, rows);
        let applied = world.sink.apply(&FileKey::of_export("x", &nth.to_string()), 0, batch).await.unwrap();
        assert_eq!(if applied.updated == 1 { "updated" } else { "ignored" }, expected, "{nth}");
    }
    assert_eq!(world.query("SELECT n FROM item"), ["2"]);
    // Rows of one file by their number.
    world.file("item", "{\"id\":2,\"n\":1}\n{\"id\":2,\"n\":3}\n{\"id\":2,\"n\":2}").await;
    assert_eq!(world.query("SELECT n FROM item WHERE id = '2'"), ["2"]);

    let foreign = world.batch("item", sequenced("other", new, 99), super::world::json_lines(r#"{"id":1,"n":9}"#));
    let (reason, problem) = super::world::refused(world.sink.apply(&FileKey::of_export("y", "1"), 0, foreign).await);
    assert_eq!(reason, waybill_contracts::Reason::ForeignPublisher);
    assert!(problem.contains("of one publisher, which is \"shop\"; this file is from \"other\""), "{problem}");
    assert_eq!(world.query("SELECT n FROM item WHERE id = '1'"), ["2"]);
}

#[tokio::test]
async fn rows_of_a_full_export_count_as_of_its_place_whenever_they_come() {
    let (publisher, epoch) = ("shop".to_owned(), "01890000-0000-7000-8000-000000000000".to_owned());
    let change = |sequence| Position::Sequenced { publisher: publisher.clone(), epoch: epoch.clone(), sequence };
    let full = |as_of, sequence| {
        let (publisher, epoch) = (publisher.clone(), epoch.clone());
        Position::Snapshot { publisher, epoch, as_of, sequence }
    };
    // Of key 1 the last change before the full export, of key 2 one that was published while it was made, of key 3 a deletion.
    let files = [
        (change(5), "{\"id\":1,\"n\":5}\n{\"id\":2,\"n\":5}\n{\"id\":3,\"n\":5}"),
        (full(5, 7), "{\"id\":1,\"n\":7}\n{\"id\":2,\"n\":7}\n{\"id\":3,\"n\":7}"),
        (change(6), "{\"id\":2,\"n\":6}\n{\"id\":3,\"_deleted\":true}"),
        (full(5, 8), "{\"id\":4,\"n\":8}"),
        (full(3, 9), "{\"id\":1,\"n\":9}\n{\"id\":4,\"n\":9}"),
    ];
    for rotation in 0..files.len() {
        for reversed in [false, true] {
            let world = World::new("[entity.item]\nkey = [\"id\"]").await;
            let mut order: Vec<usize> = (0..files.len()).map(|place| (place + rotation) % files.len()).collect();
            if reversed {
                order.reverse();
            }
            for place in order {
                let (position, rows) = &files[place];
                let batch = world.batch("item", position.clone(), super::world::json_lines(rows));
                world.sink.apply(&FileKey::of_export("shop", &place.to_string()), 0, batch).await.unwrap();
            }
            assert_eq!(
                world.query("SELECT id, n FROM item ORDER BY id"),
                ["1|7", "2|6", "4|8"],
                "{rotation} {reversed}"
            );
        }
    }
}

#[tokio::test]
async fn at_a_full_tie_the_deletion_wins_whichever_comes_first() {
    for deletion_first in [true, false] {
        let world = World::new(
            "[entity.item]\nkey = [\"id\"]\ntypes = [\"a\", \"b\"]\nversion = { field = \"v\", type = \"text\" }",
        )
        .await;
        let position = Position::Sequenced { publisher: "p".to_owned(), epoch: "e".to_owned(), sequence: 1 };
        let mut rows = [("a", "{\"id\":1,\"v\":\"x\",\"_deleted\":true}"), ("b", "{\"id\":1,\"v\":\"x\"}")];
        if !deletion_first {
            rows.reverse();
        }
        for (blob_type, row) in rows {
            let batch = world.batch(blob_type, position.clone(), super::world::json_lines(row));
            world.sink.apply(&FileKey::of_export("x", blob_type), 0, batch).await.unwrap();
        }
        assert!(world.query("SELECT * FROM item").is_empty(), "deletion first: {deletion_first}");
    }
}

#[tokio::test]
async fn a_deletion_in_the_batch_of_a_newer_row_that_waits_is_not_forgotten() {
    let world = World::new(FAMILY).await;
    world.file("item", r#"{"id":1,"site":"a","v":1}"#).await;
    let applied = world
        .file(
            "item",
            "{\"id\":1,\"site\":\"a\",\"v\":2,\"_deleted\":true}\n{\"id\":1,\"site\":\"a\",\"v\":3,\"category\":9}",
        )
        .await;
    assert_eq!(applied, Applied { parked: 1, deleted: 1, ..Applied::default() });
    assert!(world.query("SELECT * FROM item").is_empty());
    assert_eq!(world.file("item", r#"{"id":1,"site":"a","v":1}"#).await.ignored, 1);
    assert_eq!(world.file("category", r#"{"id":9,"v":1}"#).await.released, 1);
    assert_eq!(world.query("SELECT v FROM item"), ["3"]);
}

#[tokio::test]
async fn a_deletion_that_comes_before_its_row_keeps_it_away_and_a_newer_row_comes_back() {
    let world = World::new(FAMILY).await;
    assert_eq!(world.file("item", r#"{"id":1,"site":"a","v":5,"_deleted":true}"#).await.deleted, 1);
    assert_eq!(world.file("item", r#"{"id":1,"site":"a","v":4}"#).await.ignored, 1);
    assert_eq!(world.file("item", r#"{"id":1,"site":"a","v":3,"_deleted":true}"#).await.ignored, 1);
    assert_eq!(world.file("item", r#"{"id":1,"site":"a","v":6}"#).await.inserted, 1);
    assert!(world.query("SELECT * FROM _waybill_tombstone").is_empty());
    assert_eq!(world.file("item", r#"{"id":1,"site":"a","v":5}"#).await.ignored, 1);
    assert_eq!(world.query("SELECT v FROM item"), ["6"]);
}
