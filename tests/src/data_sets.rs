//! Real tables in every format and in any order of arrival: what the sinks hold in the end is the source, value by value.
//!
//! AdventureWorks is in `examples/data`. `cargo xtask soak` names the folder of a larger set as well; both have the same form.

use std::{fmt::Write as _, path::Path, sync::Arc};

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
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
    sink::{Ahead, Applied, EntityBatch, PostgresSink, Sink, SqliteSink},
};

/// Of each file.
const ROWS: usize = 4_000;

/// How the files arrive.
#[derive(Debug, Clone, Copy)]
enum Order {
    /// As the rows came about: a price long before its item.
    Versions,
    Reversed,
    Random,
}

/// The formats, each with an order.
const WAYS: [(Format, Order); 5] = [
    (Format::JsonLines, Order::Random),
    (Format::Csv, Order::Versions),
    (Format::Json, Order::Reversed),
    (Format::Xml, Order::Random),
    (Format::XmlLines, Order::Reversed),
];

/// A file of rows of one table.
struct File {
    table: usize,
    rows: Vec<Change>,
}

/// The rows in files, in an order; every fifth file comes twice, under another identity.
fn files(tables: &[Table], order: Order, random: &mut StdRng) -> Vec<File> {
    let mut files: Vec<File> = Vec::new();
    let mut open: Vec<Vec<Change>> = tables.iter().map(|_| Vec::new()).collect();
    for change in adventureworks::changes(tables) {
        let rows = &mut open[change.table];
        rows.push(change);
        if rows.len() == ROWS {
            files.push(File { table: change.table, rows: std::mem::take(rows) });
        }
    }
    files.extend(
        open.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()).map(|(table, rows)| File { table, rows }),
    );
    match order {
        Order::Versions => {}
        Order::Reversed => {
            files.reverse();
            files.iter_mut().for_each(|file| file.rows.reverse());
        }
        Order::Random => {
            files.shuffle(random);
            files.iter_mut().for_each(|file| file.rows.shuffle(random));
        }
    }
    for at in (0..files.len()).step_by(5) {
        let again = File { table: files[at].table, rows: files[at].rows.clone() };
        files.insert(random.random_range(0..=files.len()), again);
    }
    files
}

/// The file's bytes in a format.
fn encode(tables: &[Table], file: &File, format: Format) -> Bytes {
    let table = &tables[file.table];
    let columns = || table.columns.iter().map(|column| column.name.clone()).collect();
    let options = WriterOptions::of(format).unwrap_or_else(|| WriterOptions::Csv { columns: columns() });
    let mut writer = RowWriter::new(options, Compression::Gzip(1));
    let mut values = Vec::new();
    for change in &file.rows {
        table.values(*change, &mut values);
        let is_typed = matches!(format, Format::JsonLines | Format::Json);
        let fields: Vec<(&str, Field<'_>)> = (table.columns.iter().zip(&values))
            .enumerate()
            .map(|(at, (column, value))| {
                (column.name.as_str(), if is_typed { table.typed(at, value) } else { value.clone() })
            })
            .collect();
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

/// Brings everything into a sink and gives what became of the rows.
async fn load(sink: &impl Sink, entities: &Entities, tables: &[Table], (format, order): (Format, Order)) -> Applied {
    let mut random = StdRng::seed_from_u64(7);
    let plans = EntityPlans::compile(entities).expect("the entities are right");
    let mut sum = Applied::default();
    for (nth, file) in files(tables, order, &mut random).iter().enumerate() {
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
        sum += sink.apply(&FileKey::of_export("shop", &nth.to_string()), 0, batch).await.expect("rows take effect");
    }
    assert_eq!(sum.bad, 0, "{format:?}, {order:?}");
    sum
}

async fn is_the_source_in_sqlite(tables: &[Table], entities: &Entities, way: (Format, Order)) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("shop.sqlite");
    let sink = SqliteSink::open(&path, entities).await.expect("a new file");
    let applied = load(&sink, entities, tables, way).await;
    let parked = sink.parked(10).await.expect("the sink answers");
    assert!(parked.is_empty(), "{way:?}: {parked:?}");
    assert!(matches!(way.1, Order::Versions) || applied.parked > 0, "{way:?}: children came before their parents");
    sink.close().await;
    for table in adventureworks::compare(tables, &path).expect("the database can be read") {
        assert!(table.same(), "{way:?}: {table:?}");
    }
}

async fn is_the_source_in_postgres(folder: &Path, tables: &[Table], entities: &Entities, way: (Format, Order)) {
    let server = std::env::var("WAYBILL_TEST_POSTGRES")
        .expect("WAYBILL_TEST_POSTGRES is not set: run `cargo xtask test`, which starts a PostgreSQL");
    let (client, connection) = tokio_postgres::connect(&server, NoTls).await.expect("the server answers");
    let mut served = JoinSet::new();
    served.spawn(connection);
    let schema = format!("data{}", uuid::Uuid::new_v4().simple());
    client.batch_execute(&format!("CREATE SCHEMA {schema}")).await.expect("a schema of its own");
    let address = format!("{server}?sslmode=disable&options=-c%20search_path%3D{schema}");
    let sink = PostgresSink::open(&address, entities).await.expect("a new schema");
    load(&sink, entities, tables, way).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_in_sqlite_are_their_source_in_every_format_whatever_the_order() {
    let (tables, entities) =
        (adventureworks::load().expect("the data"), adventureworks::entities().expect("the entities"));
    for way in WAYS {
        is_the_source_in_sqlite(&tables, &entities, way).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_in_postgres_are_their_source_in_every_format_whatever_the_order() {
    let (tables, entities) =
        (adventureworks::load().expect("the data"), adventureworks::entities().expect("the entities"));
    for way in WAYS {
        is_the_source_in_postgres(&adventureworks::folder(), &tables, &entities, way).await;
    }
}

/// A year of a real shop: half a million order lines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes long: `cargo xtask soak FOLDER` runs it with the folder of the data"]
async fn soak_a_year_of_a_shop_is_its_source_in_every_format_whatever_the_order() {
    let folder = std::env::var_os("WAYBILL_SOAK_DATA").expect("run it by `cargo xtask soak FOLDER`");
    let folder = Path::new(&folder).join("online-retail");
    let tables = adventureworks::load_from(&folder).expect("the data");
    let entities =
        Entities::parse(include_str!("data_sets/online_retail.toml"), "online_retail.toml").expect("entities");
    for way in WAYS {
        is_the_source_in_sqlite(&tables, &entities, way).await;
        is_the_source_in_postgres(&folder, &tables, &entities, way).await;
    }
}
