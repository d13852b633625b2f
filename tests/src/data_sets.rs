//! Real tables in every format and in any order of arrival: what the sinks hold in the end is the source, value by value.
//!
//! AdventureWorks is in `examples/data`, a part of a year of a shop in `data/online-retail`. `cargo xtask soak` names the folder of the
//! whole year as well; all have the same form. Beside the rows of the source there are older versions of some of them, deletions, and
//! rows that came back; some files come twice.

use std::{collections::HashSet, fmt::Write as _, path::Path, sync::Arc};

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::task::JoinSet;
use waybill_contracts::{Entities, Format};
use waybill_examples::adventureworks::{self, Change, Table};
use waybill_formats::{
    Compression, DecodeOptions, Field, RowBatch, RowDecoder, RowWriter, Source, Step, WriterOptions,
};
use waybill_store::tokio_postgres::{self, NoTls};
use waybill_subscriber::{
    FileKey,
    apply::{EntityPlans, Position},
    sink::{Ahead, Applied, EntityBatch, PostgresSink, Sink, SinkError, SqliteSink},
};

use crate::harness::here;

/// Of each file at most.
const ROWS: usize = 4_000;

/// How the rows arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// As they came about: a price long before its item.
    Versions,
    Reversed,
    Random,
}

type Way = (Format, Order);

const FORMATS: [Format; 5] = [Format::JsonLines, Format::Csv, Format::Json, Format::Xml, Format::XmlLines];
const ORDERS: [Order; 3] = [Order::Versions, Order::Reversed, Order::Random];

/// Each format in each order.
fn ways() -> impl Iterator<Item = Way> {
    FORMATS.into_iter().flat_map(|format| ORDERS.map(|order| (format, order)))
}

/// Each order, and those formats that differ most.
const WHOLE: [Way; 3] =
    [(Format::JsonLines, Order::Random), (Format::Csv, Order::Versions), (Format::Xml, Order::Reversed)];
/// The other formats.
const OTHERS: [Way; 2] = [(Format::Json, Order::Reversed), (Format::XmlLines, Order::Random)];

/// The large tables of AdventureWorks: no other one refers to them.
const LARGE: [&str; 8] = [
    "address",
    "business_entity_address",
    "currency_rate",
    "customer",
    "purchase_order_detail",
    "sales_order_detail",
    "sales_order_header",
    "sales_order_header_sales_reason",
];

/// A row of a file.
#[derive(Debug, Clone, Copy)]
struct Event {
    change: Change,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// As the source has it.
    Last,
    /// A version of so many hours before, with what another row of the table has beside key and version.
    Older { hours: i64, like: Change },
    /// A deletion of so many hours before.
    Deleted { hours: i64 },
}

/// All rows in the order of their times.
fn history(tables: &[Table]) -> Vec<Event> {
    let mut before: Vec<(usize, Option<Change>)> = vec![(0, None); tables.len()];
    let mut dated = Vec::new();
    let mut values = Vec::new();
    for change in adventureworks::changes(tables) {
        let table = &tables[change.table];
        table.values(change, &mut values);
        let at = instant(&values[table.version]);
        let (nth, last) = &mut before[change.table];
        *nth += 1;
        let mut add = |hours, what| dated.push((at - Duration::hours(hours), Event { change, what }));
        // Where the version is a part of the key, another version is another row.
        if let (Some(like), false) = (last.replace(change), table.key.contains(&table.version)) {
            match *nth % 12 {
                2 => {
                    add(3, What::Older { hours: 3, like });
                    add(2, What::Deleted { hours: 2 });
                    add(1, What::Older { hours: 1, like });
                }
                5 => add(5, What::Older { hours: 5, like }),
                8 => add(4, What::Deleted { hours: 4 }),
                _ => {}
            }
        }
        add(0, What::Last);
    }
    dated.sort_by_key(|(at, _)| *at);
    dated.into_iter().map(|(_, event)| event).collect()
}

fn instant(version: &Field<'_>) -> OffsetDateTime {
    let Field::Text(text) = version else { panic!("a version is text, not {version:?}") };
    OffsetDateTime::parse(text, &Rfc3339).expect("a version is an instant")
}

/// The fields of a row in the order of the table's columns; what a deletion does not have is missing.
fn values<'t>(table: &'t Table, event: Event, into: &mut Vec<Field<'t>>) {
    table.values(event.change, into);
    let is_own = |at: usize| at == table.version || table.key.contains(&at);
    let hours = match event.what {
        What::Last => return,
        What::Older { hours, like } => {
            let mut others = Vec::new();
            table.values(like, &mut others);
            let others = others.into_iter().enumerate().filter(|(at, _)| !is_own(*at));
            others.for_each(|(at, value)| into[at] = value);
            hours
        }
        What::Deleted { hours } => {
            into.iter_mut().enumerate().filter(|(at, _)| !is_own(*at)).for_each(|(_, value)| *value = Field::Missing);
            hours
        }
    };
    let at = instant(&into[table.version]) - Duration::hours(hours);
    into[table.version] = Field::Text(at.format(&Rfc3339).expect("a year of four digits").into());
}

/// A file of rows of one table.
#[derive(Clone)]
struct File {
    /// Which it is: what comes twice may be the same file again.
    identity: usize,
    table: usize,
    rows: Vec<Event>,
}

/// The rows in files, in an order. Every fifth file comes twice, by turns as itself and as another one of the same rows.
fn files(mut history: Vec<Event>, order: Order, random: &mut StdRng) -> Vec<File> {
    match order {
        Order::Versions => {}
        Order::Reversed => history.reverse(),
        Order::Random => history.shuffle(random),
    }
    let tables = 1 + history.iter().map(|event| event.change.table).max().expect("there are rows");
    let mut open: Vec<Vec<Event>> = vec![Vec::new(); tables];
    let mut files: Vec<File> = Vec::new();
    let mut close = |table: usize, rows: Vec<Event>| files.push(File { identity: files.len(), table, rows });
    for event in history {
        let table = event.change.table;
        open[table].push(event);
        // Now and then early: versions of one key lie in several files of small tables too.
        if open[table].len() == ROWS || random.random_ratio(1, 300) {
            close(table, std::mem::take(&mut open[table]));
        }
    }
    open.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()).for_each(|(table, rows)| close(table, rows));
    let first = files.len();
    let again = files.iter().step_by(5).enumerate().map(|(nth, file)| {
        let identity = if nth % 2 == 0 { file.identity } else { first + nth };
        File { identity, ..file.clone() }
    });
    for file in again.collect::<Vec<_>>() {
        files.insert(random.random_range(0..=files.len()), file);
    }
    files
}

const DELETED: &str = "_deleted";

/// The file's bytes in a format.
fn encode(tables: &[Table], file: &File, format: Format) -> Bytes {
    let table = &tables[file.table];
    let names = || table.columns.iter().map(|column| column.name.as_str()).chain([DELETED]);
    let options = WriterOptions::of(format)
        .unwrap_or_else(|| WriterOptions::Csv { columns: names().map(str::to_owned).collect() });
    let mut writer = RowWriter::new(options, Compression::Gzip(1));
    let mut of_row = Vec::new();
    for event in &file.rows {
        values(table, *event, &mut of_row);
        let is_typed = matches!(format, Format::JsonLines | Format::Json);
        let fields = of_row.iter().enumerate().map(|(at, value)| match value {
            Field::Missing => Field::Missing,
            value if is_typed => table.typed(at, value),
            value => value.clone(),
        });
        let deleted = match event.what {
            What::Deleted { .. } => Field::Bool(true),
            What::Last | What::Older { .. } => Field::Missing,
        };
        let fields: Vec<(&str, Field<'_>)> = names().zip(fields.chain([deleted])).collect();
        writer.row(&fields).expect("the format can say it");
    }
    writer.finish().rest
}

fn decode(bytes: Bytes, format: Format) -> Vec<RowBatch> {
    let mut decoder = RowDecoder::new(DecodeOptions::new(Source::of(format)));
    decoder.feed(bytes);
    decoder.end();
    let mut batches = Vec::new();
    while let Step::Batch(batch) = decoder.next().expect("what was written can be read") {
        assert!(batch.bad().is_empty(), "{:?}", batch.bad());
        batches.push(batch);
    }
    batches
}

/// Brings everything into a sink.
async fn load(sink: &impl Sink, entities: &Entities, tables: &[Table], history: &[Event], way: Way) {
    let (format, order) = way;
    let mut random = StdRng::seed_from_u64(7);
    let plans = EntityPlans::compile(entities).expect("the entities are right");
    let (mut sum, mut known) = (Applied::default(), HashSet::new());
    for (nth, file) in files(history.to_vec(), order, &mut random).iter().enumerate() {
        let rows = decode(encode(tables, file, format), format);
        let blob_type: Arc<str> = tables[file.table].blob_type.as_str().into();
        let batch = EntityBatch {
            entity: Some(Arc::clone(plans.for_type(&blob_type).expect("an entity of this type"))),
            blob_type,
            format,
            filter: None,
            position: Position::Broker { sequence_number: nth as i64 },
            to: rows.last().map_or(0, RowBatch::last_row),
            rows,
            end: None,
            sorted: None,
            ahead: Ahead::default(),
        };
        let key = FileKey::of_export("shop", &file.identity.to_string());
        match (known.insert(file.identity), sink.apply(&key, 0, batch).await) {
            (true, Ok(applied)) => sum += applied,
            (false, Err(SinkError::Fenced { .. })) => {}
            (is_first, applied) => panic!("{way:?}: first: {is_first}, {applied:?}"),
        }
    }
    assert_eq!(sum.bad, 0, "{way:?}");
    let is_seen = match order {
        Order::Versions => sum.updated > 0 && sum.deleted > 0 && sum.superseded > 0,
        Order::Reversed => sum.ignored > 0 && sum.parked > 0,
        Order::Random => sum.updated > 0 && sum.deleted > 0 && sum.ignored > 0 && sum.parked > 0,
    };
    assert!(is_seen, "{way:?}: versions of one row and parents came in all orders: {sum:?}");
}

async fn is_the_source_in_sqlite(tables: &[Table], entities: &Entities, history: &[Event], way: Way) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("shop.sqlite");
    let sink = SqliteSink::open(&path, entities).await.expect("a new file");
    load(&sink, entities, tables, history, way).await;
    let parked = sink.parked(10).await.expect("the sink answers");
    assert!(parked.is_empty(), "{way:?}: {parked:?}");
    sink.close().await;
    for table in adventureworks::compare(tables, &path).expect("the database can be read") {
        assert!(table.same(), "{way:?}: {table:?}");
    }
}

async fn is_the_source_in_postgres(folder: &Path, tables: &[Table], entities: &Entities, history: &[Event], way: Way) {
    let server = std::env::var("WAYBILL_TEST_POSTGRES")
        .expect("WAYBILL_TEST_POSTGRES is not set: run `cargo xtask test`, which starts a PostgreSQL");
    let (client, connection) = tokio_postgres::connect(&server, NoTls).await.expect("the server answers");
    let mut served = JoinSet::new();
    served.spawn(connection);
    let schema = format!("data{}", uuid::Uuid::new_v4().simple());
    client.batch_execute(&format!("CREATE SCHEMA {schema}")).await.expect("a schema of its own");
    let address = format!("{server}?sslmode=disable&options=-c%20search_path%3D{schema}");
    let sink = PostgresSink::open(&address, entities).await.expect("a new schema");
    load(&sink, entities, tables, history, way).await;
    let parked = sink.parked(10).await.expect("the sink answers");
    assert!(parked.is_empty(), "{way:?}: {parked:?}");
    sink.close();

    // The server's own reader of CSV says what the source is.
    for table in tables {
        let name = &table.name;
        let (mut columns, mut texts) = (String::new(), String::new());
        for column in &table.columns {
            let comma = if columns.is_empty() { "" } else { ", " };
            write!(columns, "{comma}\"{}\"", column.name).expect("text grows");
            write!(texts, "{comma}\"{}\"::text", column.name).expect("text grows");
        }
        let sql = format!("CREATE TEMPORARY TABLE source AS SELECT {columns} FROM {schema}.\"{name}\" WHERE false");
        client.batch_execute(&sql).await.expect("a table of the same columns");
        let copy = client.copy_in(&format!("COPY source ({columns}) FROM STDIN (FORMAT csv, HEADER)")).await;
        let mut copy = std::pin::pin!(copy.expect("the server reads"));
        let csv = plain(&folder.join(&table.file));
        futures::SinkExt::send(&mut copy, Bytes::from(csv)).await.expect("the server reads on");
        let rows = copy.finish().await.expect("the source is CSV");
        let sql = format!(
            "SELECT (SELECT count(*) FROM {schema}.\"{name}\"),
                (SELECT count(*) FROM (SELECT {texts} FROM {schema}.\"{name}\" EXCEPT ALL SELECT {texts} FROM source) AS more)"
        );
        let found = client.query_one(&sql, &[]).await.expect("tables can be compared");
        let (there, differ) = (found.get::<_, i64>(0), found.get::<_, i64>(1));
        assert_eq!((there.cast_unsigned(), differ), (rows, 0), "{way:?}: {name}");
        client.batch_execute("DROP TABLE source").await.expect("it goes");
    }
    client.batch_execute(&format!("DROP SCHEMA {schema} CASCADE")).await.expect("it goes");
    drop(client);
    served.join_all().await.into_iter().for_each(|end| end.expect("the connection ends well"));
}

fn plain(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).expect("the source is there");
    if path.extension().is_none_or(|extension| extension != "gz") {
        return bytes;
    }
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut plain).expect("it is whole");
    plain
}

/// AdventureWorks with its entities.
fn adventure_works() -> (Vec<Table>, Entities) {
    (adventureworks::load().expect("the data"), adventureworks::entities().expect("the entities"))
}

/// AdventureWorks without its large tables.
fn small_tables() -> Vec<Table> {
    let all = adventureworks::load().expect("the data").into_iter();
    all.filter(|table| !LARGE.contains(&table.name.as_str())).collect()
}

/// The tables of the shop that are in a folder.
fn shop(folder: &Path) -> (Vec<Table>, Entities) {
    let entities = Entities::parse(include_str!("data_sets/online_retail.toml"), "online_retail.toml");
    (adventureworks::load_from(folder).expect("the data"), entities.expect("the entities"))
}

/// The large tables not in every format in every order: that is for the soak.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_in_sqlite_are_their_source_in_every_format_whatever_the_order() {
    let (all, entities) = adventure_works();
    let history_of_all = history(&all);
    let small = small_tables();
    let history_of_small = history(&small);
    for way in ways() {
        let (tables, history) =
            if WHOLE.contains(&way) { (&all, &history_of_all) } else { (&small, &history_of_small) };
        is_the_source_in_sqlite(tables, &entities, history, way).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_in_postgres_are_their_source_in_every_format_whatever_the_order() {
    let folder = adventureworks::folder();
    let (all, entities) = adventure_works();
    let small = small_tables();
    for (tables, ways) in [(&all, &WHOLE[..]), (&small, &OTHERS[..])] {
        let history = history(tables);
        for way in ways {
            is_the_source_in_postgres(&folder, tables, &entities, &history, *way).await;
        }
    }
}

/// A part of a year: 14,000 rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_a_shop_are_their_source_in_every_format_in_every_order() {
    let folder = here().join("data/online-retail");
    let (tables, entities) = shop(&folder);
    let history = history(&tables);
    for way in ways() {
        is_the_source_in_sqlite(&tables, &entities, &history, way).await;
    }
    for way in WHOLE {
        is_the_source_in_postgres(&folder, &tables, &entities, &history, way).await;
    }
}

/// AdventureWorks whole, and a year of a real shop: half a million order lines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "an hour long: `cargo xtask soak FOLDER` runs it with the folder of the data"]
async fn soak_both_data_sets_are_their_source_in_every_format_in_every_order() {
    let data = std::env::var_os("WAYBILL_SOAK_DATA").expect("run it by `cargo xtask soak FOLDER`");
    let year = Path::new(&data).join("online-retail");
    for (folder, (tables, entities)) in [(adventureworks::folder(), adventure_works()), (year.clone(), shop(&year))] {
        let history = history(&tables);
        for way in ways() {
            println!("{}: {way:?}", folder.display());
            is_the_source_in_sqlite(&tables, &entities, &history, way).await;
            is_the_source_in_postgres(&folder, &tables, &entities, &history, way).await;
        }
    }
}
