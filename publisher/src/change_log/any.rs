//! The logs that a configuration can name.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use futures::stream::BoxStream;
use time::OffsetDateTime;
use tokio::time::sleep;
use waybill_contracts::BlobType;

use super::{
    BadChange, ChangeFilter, Cut, ExpiredFile, FileNumber, LogError, LogStatus, LoggedChange, PlannedFile,
    RefusedChange, TableRows, Tail,
    postgres::{PostgresLog, PostgresSeat, SCHEMA_NAME},
    sqlite::{SqliteLog, SqliteSeat},
};
use crate::outbox::{Outbox, OutboxError};

/// Where nothing is told, there is a look at the log so often all the same.
const CALM: Duration = Duration::from_secs(1);

/// The change log of a service, in its own database. Clones share its connections.
#[derive(Debug, Clone)]
pub struct ChangeLog(Either<SqliteLog, PostgresLog>);

/// The right to plan, which one publisher has at a time. It ends when this is dropped, and with the process.
#[derive(Debug)]
pub(crate) struct Seat(Either<SqliteSeat, PostgresSeat>);

#[derive(Debug, Clone)]
enum Either<S, P> {
    Sqlite(S),
    Postgres(P),
}

/// Where the log is in a PostgreSQL database.
#[derive(Debug, Clone)]
pub struct PostgresChangeLogOptions {
    /// The schema that it has for itself, made if it is not there; default `waybill`.
    pub schema: String,
}

impl Default for PostgresChangeLogOptions {
    fn default() -> Self {
        Self { schema: SCHEMA_NAME.to_owned() }
    }
}

macro_rules! either {
    ($any:expr, $it:ident => $ask:expr) => {
        match $any {
            Either::Sqlite($it) => $ask,
            Either::Postgres($it) => $ask,
        }
    };
}

impl ChangeLog {
    /// Makes or completes the log in the service's SQLite file, which becomes one with a write-ahead log. Beside it lies
    /// `FILE.waybill-publisher`, locked by the one that follows the log.
    ///
    /// # Errors
    /// [`LogError::Open`].
    pub async fn sqlite(path: &Path) -> Result<Self, LogError> {
        SqliteLog::open(path).await.map(|log| Self(Either::Sqlite(log)))
    }

    /// Connects to the service's PostgreSQL database, and makes or completes the log in it. The address is
    /// `postgres://user:password@host:port/database`.
    ///
    /// # Errors
    /// [`LogError::Open`] for an address that cannot be used, and for a schema that is newer than this program or somebody
    /// else's; [`LogError::Unavailable`] when there is no answer.
    pub async fn postgres(address: &str, options: PostgresChangeLogOptions) -> Result<Self, LogError> {
        PostgresLog::open(address, &options.schema).await.map(|log| Self(Either::Postgres(log)))
    }

    /// The log in the service's SQLite file, if there is one; completed as by [`ChangeLog::sqlite`].
    ///
    /// # Errors
    /// As [`ChangeLog::sqlite`].
    pub async fn existing_sqlite(path: &Path) -> Result<Option<Self>, LogError> {
        if SqliteLog::is_there(path).await? { Self::sqlite(path).await.map(Some) } else { Ok(None) }
    }

    /// The log in the service's PostgreSQL database, if there is one; completed as by [`ChangeLog::postgres`].
    ///
    /// # Errors
    /// As [`ChangeLog::postgres`].
    pub async fn existing_postgres(address: &str, options: PostgresChangeLogOptions) -> Result<Option<Self>, LogError> {
        let is_there = PostgresLog::is_there(address, &options.schema).await?;
        if is_there { Self::postgres(address, options).await.map(Some) } else { Ok(None) }
    }

    /// Where it is, without secrets.
    #[must_use]
    pub fn shown(&self) -> String {
        either!(&self.0, log => log.shown())
    }

    /// How it stands.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub async fn status(&self) -> Result<LogStatus, LogError> {
        either!(&self.0, log => log.status().await)
    }

    /// Changes that no file can hold, newest first, so many at most.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub async fn refused(&self, most: u32) -> Result<Vec<RefusedChange>, LogError> {
        either!(&self.0, log => log.refused(most).await)
    }

    /// Changes, newest first, each with the export that it is in. The log is read from its end on until there are enough of them.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub async fn changes(&self, filter: &ChangeFilter) -> Result<Vec<LoggedChange>, LogError> {
        either!(&self.0, log => log.changes(filter).await)
    }

    /// The SQL of triggers that log every change of `table` as `blob_type`; a person runs it. `key` is the columns that tell a row
    /// from others; without any, the table's primary key.
    ///
    /// # Errors
    /// [`LogError::Table`] for a table that is not there or whose key is not known; [`LogError::Unavailable`].
    pub async fn triggers(&self, table: &str, blob_type: &BlobType, key: &[String]) -> Result<String, LogError> {
        either!(&self.0, log => log.triggers(table, blob_type, key).await)
    }

    /// Says that its files go to the outbox of this epoch from now on, and that this is its database server: after a copy was
    /// made or restored, or when its outbox was lost. Whether it was done: not while a publisher follows it.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub async fn adopt(&self, epoch: &str) -> Result<bool, LogError> {
        either!(&self.0, log => log.adopt(epoch).await)
    }

    /// Closes its connections. Clones fail from then on.
    pub async fn close(&self) {
        match &self.0 {
            Either::Sqlite(log) => log.close().await,
            Either::Postgres(log) => log.close(),
        }
    }

    /// The right to plan, for the outbox of this epoch; `None` while another has it.
    pub(crate) async fn seat(&self, epoch: &str) -> Result<Option<Seat>, LogError> {
        Ok(match &self.0 {
            Either::Sqlite(log) => log.seat(epoch).await?.map(|seat| Seat(Either::Sqlite(seat))),
            Either::Postgres(log) => log.seat(epoch).await?.map(|seat| Seat(Either::Postgres(seat))),
        })
    }

    /// The rows of a file as JSON Lines.
    pub(crate) fn lines(&self, file: &PlannedFile) -> BoxStream<'static, std::io::Result<Bytes>> {
        either!(&self.0, log => log.lines(file))
    }

    /// All rows of a table of the service, as JSON Lines: as the triggers log them, and as they are in one moment after this is
    /// called.
    ///
    /// # Errors
    /// [`LogError::Table`] for a table that is not there; [`LogError::Unavailable`].
    pub(crate) async fn rows_of(&self, table: &str) -> Result<TableRows, LogError> {
        either!(&self.0, log => log.rows_of(table).await)
    }

    /// Of the tables whose [triggers](Self::triggers) log the type, those that are none of `tables`: what all rows of the type
    /// would lack.
    ///
    /// # Errors
    /// [`LogError::Table`] for a table that is not there; [`LogError::Unavailable`].
    pub async fn other_tables_of(&self, blob_type: &BlobType, tables: &[String]) -> Result<Vec<String>, LogError> {
        let mut others = either!(&self.0, log => log.tables_of(blob_type).await)?;
        for table in tables {
            let name = either!(&self.0, log => log.table_name(table).await)?;
            others.retain(|other| *other != name);
        }
        Ok(others)
    }

    /// Whether its ids can be relied on.
    ///
    /// # Errors
    /// [`LogError::Ids`]; [`LogError::Unavailable`].
    pub async fn check(&self) -> Result<(), LogError> {
        either!(&self.0, log => log.check().await)
    }

    /// Whether its files go to this outbox, or to none yet, and the outbox knows of all numbers that they have.
    ///
    /// # Errors
    /// [`LogError::OtherCluster`], [`LogError::OtherOutbox`], [`LogError::OlderOutbox`]; [`LogError::Unavailable`].
    pub async fn check_outbox(&self, outbox: &impl Outbox) -> Result<(), LogError> {
        either!(&self.0, log => log.check_outbox(outbox.epoch()).await)?;
        self.check_numbers(outbox).await
    }

    /// Whether its files go to no outbox yet, so that a new one may be made.
    ///
    /// # Errors
    /// [`LogError::OtherCluster`], [`LogError::NoOutbox`]; [`LogError::Unavailable`].
    pub async fn check_no_outbox(&self) -> Result<(), LogError> {
        const NONE: &str = "";
        match either!(&self.0, log => log.check_outbox(NONE).await) {
            Err(LogError::OtherOutbox { shown, theirs, .. }) => Err(LogError::NoOutbox { shown, theirs }),
            checked => checked,
        }
    }

    /// An outbox that has given fewer numbers than the log knows of was restored from an older copy: it would give them once more. One
    /// that published since has given them to others.
    pub(crate) async fn check_numbers(&self, outbox: &impl Outbox) -> Result<(), LogError> {
        for (blob_type, export_id, number) in either!(&self.0, log => log.last_numbers(outbox.epoch()).await)? {
            let of_type = BlobType::new(blob_type.as_str()).map_err(|error| LogError::Unreadable(error.into()))?;
            let asked = async {
                let last = outbox.last_number(&number.publisher, &of_type).await?;
                Ok((last, last < number.sequence || number.is_anothers(outbox, &blob_type, &export_id).await?))
            };
            let (last, is_older) = asked.await.map_err(|error: OutboxError| LogError::Unavailable(error.into()))?;
            if is_older {
                return Err(LogError::OlderOutbox {
                    shown: self.shown(),
                    blob_type,
                    theirs: number.sequence,
                    ours: last,
                });
            }
        }
        Ok(())
    }

    /// Writes what a publisher writes into its tables, and takes it back: whether it may.
    ///
    /// # Errors
    /// [`LogError::Unavailable`], with what the database says.
    pub async fn try_writing(&self) -> Result<(), LogError> {
        either!(&self.0, log => log.try_writing().await)
    }
}

impl Seat {
    /// Every id up to this one is committed, or will never be.
    pub(crate) async fn settled(&mut self) -> Result<i64, LogError> {
        either!(&mut self.0, seat => seat.settled().await)
    }

    /// Whether more may be settled in a moment, so that it is worth looking sooner.
    pub(crate) fn may_settle_soon(&self) -> bool {
        match &self.0 {
            Either::Sqlite(_) => false,
            Either::Postgres(seat) => seat.may_settle_soon(),
        }
    }

    /// Waits until changes may have come: until the next look; in SQLite, where a thread asks `every` so often whether anything was committed,
    /// until that is so, for a second or until the next look.
    pub(crate) async fn until_news(&mut self, every: Duration, next_look: Duration) {
        match &mut self.0 {
            Either::Sqlite(seat) => seat.until_news(every, next_look.max(CALM)).await,
            Either::Postgres(_) => sleep(next_look).await,
        }
    }

    /// Types with changes up to this id that are in no file, and up to where each is planned.
    pub(crate) async fn waiting(&mut self, up_to: i64) -> Result<Vec<(String, i64)>, LogError> {
        either!(&mut self.0, seat => seat.waiting(up_to).await)
    }

    /// Plans the next file of a type, of changes up to this id: if it is full, or `due`. `None` when no change waits.
    pub(crate) async fn plan(
        &mut self,
        blob_type: &str,
        up_to: i64,
        cut: Cut,
        due: bool,
    ) -> Result<Option<Tail>, LogError> {
        either!(&mut self.0, seat => seat.plan(blob_type, up_to, cut, due).await)
    }

    /// The files that are not exported yet, in the order of their plans: a few of each type.
    pub(crate) async fn open_files(&mut self) -> Result<Vec<PlannedFile>, LogError> {
        either!(&mut self.0, seat => seat.open_files().await)
    }

    /// The file is in the outbox, with its blob and its number there.
    pub(crate) async fn exported(
        &mut self,
        number: i64,
        expires_at: Option<OffsetDateTime>,
        as_number: &FileNumber,
    ) -> Result<(), LogError> {
        either!(&mut self.0, seat => seat.exported(number, expires_at, as_number).await)
    }

    /// Leaves changes out of their file, each for its reason: their ids.
    pub(crate) async fn refuse(&mut self, file: &PlannedFile, bad: &[BadChange]) -> Result<Vec<i64>, LogError> {
        either!(&mut self.0, seat => seat.refuse(file, bad).await)
    }

    /// Keeps why a file could not be made.
    pub(crate) async fn not_made(&mut self, number: i64, problem: &str) -> Result<(), LogError> {
        either!(&mut self.0, seat => seat.not_made(number, problem).await)
    }

    /// Some files whose term is over, those that ended first before others: those after this one. Those of which nobody could tell
    /// before whether they were sent are among them if `unproven`.
    pub(crate) async fn expired(
        &mut self,
        by: OffsetDateTime,
        after: Option<&ExpiredFile>,
        unproven: bool,
    ) -> Result<Vec<ExpiredFile>, LogError> {
        // No file has a lower number.
        let after = after.map_or((OffsetDateTime::UNIX_EPOCH, 0), |file| (file.expires_at, file.number));
        either!(&mut self.0, seat => seat.expired(by, after, unproven).await)
    }

    /// Notes that nobody can tell whether a file was sent: whether that was not noted before.
    pub(crate) async fn unproven(&mut self, number: i64) -> Result<bool, LogError> {
        either!(&mut self.0, seat => seat.unproven(number).await)
    }

    /// Deletes changes of a file, some at a time, and the file with the last of them: whether that is done. Refused ones stay.
    pub(crate) async fn prune(&mut self, number: i64) -> Result<bool, LogError> {
        either!(&mut self.0, seat => seat.prune(number).await)
    }
}
