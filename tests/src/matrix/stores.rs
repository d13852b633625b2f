//! Where the inbox and the sink of a cell lie: in SQLite files of its folder, or in PostgreSQL.

use std::path::{Path, PathBuf};

use waybill_subscriber::{
    inbox::{AnyInbox, PostgresInbox, PostgresInboxOptions, SqliteInbox, SqliteInboxOptions},
    sink::{self, AnySink},
};

use super::gate::{LEASE, entities};
use crate::{
    harness::query,
    own_database::{OwnDatabase, lines, server, with},
};

/// What the sink was, at some time.
#[derive(Debug)]
pub(super) enum Copy {
    File(PathBuf),
    Database(OwnDatabase),
}

#[derive(Debug, Clone)]
pub(super) enum Stores {
    Sqlite {
        folder: PathBuf,
    },
    /// The inbox in a schema, the sink in a database of its own, which can be put back without the inbox.
    Postgres {
        sink: OwnDatabase,
        /// How sessions call themselves.
        program: &'static str,
    },
}

impl Stores {
    pub(super) fn sqlite(folder: &Path) -> Self {
        Self::Sqlite { folder: folder.to_owned() }
    }

    pub(super) async fn postgres() -> Self {
        Self::Postgres { sink: OwnDatabase::new("matrix").await, program: "matrix" }
    }

    /// What another process is told, which has the folder.
    pub(super) fn told(&self) -> &str {
        match self {
            Self::Sqlite { .. } => "",
            Self::Postgres { sink, .. } => &sink.name,
        }
    }

    pub(super) fn named(told: &str, folder: &Path) -> Self {
        match told {
            "" => Self::sqlite(folder),
            name => Self::Postgres { sink: OwnDatabase { name: name.to_owned() }, program: "matrix" },
        }
    }

    /// Of the process that is frozen.
    pub(super) fn of_victim(self) -> Self {
        match self {
            Self::Sqlite { .. } => self,
            Self::Postgres { sink, .. } => Self::Postgres { sink, program: "victim" },
        }
    }

    fn inbox_file(folder: &Path) -> PathBuf {
        folder.join("inbox.sqlite")
    }

    fn sink_file(folder: &Path) -> PathBuf {
        folder.join("sink.sqlite")
    }

    fn inbox_schema(sink: &OwnDatabase) -> String {
        format!("{}_inbox", sink.name)
    }

    pub(super) async fn open(&self) -> (AnyInbox, AnySink) {
        match self {
            Self::Sqlite { folder } => {
                let options = SqliteInboxOptions { lease: LEASE, ..SqliteInboxOptions::default() };
                let inbox = SqliteInbox::open(&Self::inbox_file(folder), options).await.expect("the inbox opens");
                let sink = format!("sqlite:{}", Self::sink_file(folder).display());
                let sink = sink::open(&sink, &entities(), folder).await.expect("the sink opens");
                (AnyInbox::Sqlite(inbox), sink)
            }
            Self::Postgres { sink, program } => {
                let name = format!("{program}_{}", sink.name);
                // Whoever is frozen holds what it has locked for a second.
                let session =
                    [("application_name", &*name), ("options", "-c idle_in_transaction_session_timeout=1000")];
                let options = PostgresInboxOptions { lease: LEASE, schema: Self::inbox_schema(sink) };
                let inbox = PostgresInbox::open(&with(server(), &session), options).await.expect("the inbox opens");
                let sink = sink::open(&sink.address(&session), &entities(), Path::new("")).await;
                (AnyInbox::Postgres(inbox), sink.expect("the sink opens"))
            }
        }
    }

    /// Asks the inbox, the values of a row joined by `|`.
    pub(super) async fn inbox(&self, sql: &str) -> Vec<String> {
        match self {
            Self::Sqlite { folder } => query(&Self::inbox_file(folder), sql),
            Self::Postgres { sink, .. } => {
                let sql = format!("SET search_path = {}; {sql}", Self::inbox_schema(sink));
                lines(server().as_str(), &sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
            }
        }
    }

    /// Asks the sink.
    pub(super) async fn sink(&self, sql: &str) -> Vec<String> {
        match self {
            Self::Sqlite { folder } => query(&Self::sink_file(folder), sql),
            Self::Postgres { sink, .. } => sink.lines(sql).await,
        }
    }

    /// Of a sink that nobody has open.
    pub(super) async fn copy_sink(&self) -> Copy {
        match self {
            Self::Sqlite { folder } => {
                let copy = folder.join("copy.sqlite");
                std::fs::copy(Self::sink_file(folder), &copy).expect("a copy");
                Copy::File(copy)
            }
            Self::Postgres { sink, .. } => Copy::Database(sink.copy().await),
        }
    }

    pub(super) async fn restore_sink(&self, copy: Copy) {
        match (self, copy) {
            (Self::Sqlite { folder }, Copy::File(copy)) => {
                for ending in ["", "-wal", "-shm"] {
                    let path = format!("{}{ending}", Self::sink_file(folder).display());
                    if Path::new(&path).exists() {
                        std::fs::remove_file(path).expect("a file goes");
                    }
                }
                std::fs::copy(copy, Self::sink_file(folder)).expect("a copy");
            }
            (Self::Postgres { sink, .. }, Copy::Database(copy)) => {
                sink.restore(&copy).await;
                copy.end().await;
            }
            (stores, copy) => unreachable!("{copy:?} is none of {stores:?}"),
        }
    }

    /// Whether a frozen victim holds no lock: there all others would wait for it.
    pub(super) async fn are_free(&self) -> bool {
        match self {
            Self::Sqlite { folder } => [Self::inbox_file(folder), Self::sink_file(folder)].iter().all(|path| {
                if !path.exists() {
                    return true;
                }
                let db = rusqlite::Connection::open(path).expect("a database");
                db.busy_timeout(std::time::Duration::ZERO).expect("it is set");
                db.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok()
            }),
            Self::Postgres { sink, .. } => {
                let busy = format!(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'victim_{}' AND state <> 'idle'",
                    sink.name
                );
                lines(server().as_str(), &busy).await.expect("the server answers") == ["0"]
            }
        }
    }

    pub(super) async fn end(self) {
        if let Self::Postgres { sink, .. } = self {
            let inbox = format!("DROP SCHEMA IF EXISTS {} CASCADE", Self::inbox_schema(&sink));
            lines(server().as_str(), &inbox).await.expect("the schema goes");
            sink.end().await;
        }
    }
}
