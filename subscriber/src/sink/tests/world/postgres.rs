//! A sink in a schema of its own in the PostgreSQL that `cargo xtask test` starts.

use uuid::Uuid;
use waybill_contracts::Entities;
use waybill_formats::RowBatch;
use waybill_store::tokio_postgres::{self, NoTls, SimpleQueryMessage};

use super::{Clock, batch, entities, json_lines};
use crate::{
    FileKey,
    apply::Position,
    sink::{Applied, EntityBatch, PostgresSink, Sink, SinkOpenError},
};

fn server() -> String {
    std::env::var("WAYBILL_TEST_POSTGRES")
        .expect("WAYBILL_TEST_POSTGRES is not set: run `cargo xtask test`, which starts a PostgreSQL")
}

/// A prefix for schemas that no other test has.
pub(in super::super) struct Place {
    prefix: String,
}

impl Place {
    pub(in super::super) async fn new() -> Self {
        Self { prefix: format!("t{}", Uuid::new_v4().simple()) }
    }

    /// The address of a schema, made if it is not there.
    pub(in super::super) async fn schema(&self, name: &str) -> String {
        let schema = format!("{}_{name}", self.prefix);
        run(&server(), &format!("CREATE SCHEMA IF NOT EXISTS {schema}")).await;
        format!("{}?sslmode=disable&application_name={schema}&options=-c%20search_path%3D{schema}", server())
    }
}

/// Runs statements and gives what the last one answers: a line a row, columns by `|`, nulls as `-`.
pub(in super::super) async fn run(address: &str, sql: &str) -> Vec<String> {
    let (client, connection) = tokio_postgres::connect(address, NoTls).await.unwrap();
    let served = async { connection.await.unwrap() };
    let asked = async move {
        client.batch_execute("SET client_min_messages = warning").await.unwrap();
        let answers = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => {
                let values: Vec<_> = (0..row.len()).map(|at| row.get(at).unwrap_or("-").to_owned()).collect();
                Some(values.join("|"))
            }
            _ => None,
        };
        answers.into_iter().filter_map(row).collect()
    };
    tokio::join!(served, asked).1
}

/// A sink in a schema of its own.
pub(in super::super) struct World {
    pub(in super::super) address: String,
    pub(in super::super) entities: Entities,
    pub(in super::super) sink: PostgresSink,
    files: std::cell::Cell<i64>,
}

impl World {
    /// Whether it takes rows in the order of their keys.
    pub(in super::super) const SORTS: bool = false;
    /// Of each property.
    pub(in super::super) const CASES: u32 = 40;
    /// What the database takes for the name of the table `Taken`.
    pub(in super::super) const NAMES_OF_TAKEN: &[&str] = &["Taken"];
    /// What a table of the user has for the sink.
    pub(in super::super) const OWN_COLUMNS: &str = "_waybill_version bytea, _rescued json";
    /// What holds a decimal as it was written.
    pub(in super::super) const DECIMAL: &str = "numeric";
    /// A column that numbers the rows of a table.
    pub(in super::super) const NUMBERED: &str = "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY";
    /// A table that takes no price of 13.
    pub(in super::super) const ITEM_WITHOUT_13: &str =
        "CREATE TABLE item (id bigint, site text, changed timestamptz, price numeric CHECK (price <> 13),
             _waybill_version bytea, _rescued json, PRIMARY KEY (id, site))";

    /// A trigger that takes no item 5.
    pub(in super::super) const REFUSING: &[&str] = &[
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN IF NEW.id = 5 THEN RAISE 'not this one'; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER refuse BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION refuse()",
    ];

    /// A trigger that leaves item 5 out.
    pub(in super::super) const SKIPPING: &[&str] = &[
        "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN IF NEW.id = 5 THEN RETURN NULL; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER skip BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION skip()",
    ];

    /// What the first schema left.
    pub(in super::super) const GOLDEN_1: &str = include_str!("../../../../golden/sink-postgres-1.sql");

    pub(in super::super) async fn new(toml: &str) -> Self {
        Self::with_tables("", toml).await
    }

    /// With tables that are there before the sink.
    pub(in super::super) async fn with_tables(sql: &str, toml: &str) -> Self {
        let address = Place::new().await.schema("w").await;
        run(&address, sql).await;
        let entities = entities(toml);
        let sink = PostgresSink::open(&address, &entities).await.unwrap();
        Self { address, entities, sink, files: std::cell::Cell::new(0) }
    }

    /// With a clock of its own.
    pub(in super::super) async fn with_clock(toml: &str, clock: &Clock) -> Self {
        let (address, entities, clock) = (Place::new().await.schema("w").await, entities(toml), clock.clone());
        let sink = PostgresSink::open_with(&address, &entities, move || clock.now()).await.unwrap();
        Self { address, entities, sink, files: std::cell::Cell::new(0) }
    }

    /// Also what its sessions are called.
    pub(in super::super) fn schema(&self) -> &str {
        self.address.rsplit_once("search_path%3D").unwrap().1
    }

    /// As `sink::open` knows it.
    pub(in super::super) fn name(&self) -> String {
        self.address.clone()
    }

    /// Closes the sink and opens it again, with other entities if there are any.
    pub(in super::super) async fn reopen(&mut self, toml: Option<&str>) {
        self.sink.close();
        if let Some(toml) = toml {
            self.entities = entities(toml);
        }
        self.sink = PostgresSink::open(&self.address, &self.entities).await.unwrap();
    }

    /// Closes the sink, and why it does not open with other entities.
    pub(in super::super) async fn refusal(&self, toml: &str) -> String {
        self.sink.close();
        match PostgresSink::open(&self.address, &entities(toml)).await.unwrap_err() {
            SinkOpenError::Table { problem, .. } => problem,
            other => panic!("{other:?}"),
        }
    }

    /// Applies rows as a file of their own, in the order of the calls; every second one is read ahead.
    pub(in super::super) async fn file(&self, blob_type: &str, rows: &str) -> Applied {
        let (file, mut batch) = self.next_file(blob_type, rows);
        if self.files.get() % 2 == 0 {
            batch = self.sink.look_ahead(&file, 0, batch).await.unwrap();
        }
        self.sink.apply(&file, 0, batch).await.unwrap()
    }

    /// A file that was read ahead, and is to be applied.
    pub(in super::super) async fn ahead(&self, blob_type: &str, rows: &str) -> (FileKey, EntityBatch) {
        let (file, batch) = self.next_file(blob_type, rows);
        let batch = self.sink.look_ahead(&file, 0, batch).await.unwrap();
        (file, batch)
    }

    fn next_file(&self, blob_type: &str, rows: &str) -> (FileKey, EntityBatch) {
        self.files.set(self.files.get() + 1);
        let number = self.files.get();
        let file = FileKey::of_export("shop", &number.to_string());
        (file, self.batch(blob_type, Position::Broker { sequence_number: number }, json_lines(rows)))
    }

    pub(in super::super) fn batch(&self, blob_type: &str, position: Position, rows: Vec<RowBatch>) -> EntityBatch {
        batch(self.sink.plans(), blob_type, position, rows)
    }

    /// What a query gives: a line a row, columns by `|`, nulls as `-`.
    pub(in super::super) fn query(&self, sql: &str) -> Vec<String> {
        // A runtime of its own: tests ask in the middle of theirs.
        let (address, sql) = (self.address.clone(), sql.to_owned());
        let asked = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(&address, &sql))
        });
        asked.join().unwrap()
    }

    /// The same where others are at work, for whose locks the query may have to wait.
    pub(in super::super) async fn ask(&self, sql: &str) -> Vec<String> {
        run(&self.address, sql).await
    }

    /// A field of a parked row, as text.
    pub(in super::super) fn field_of_parked(name: &str) -> String {
        format!("(p.row::json ->> '{name}')")
    }
}
