//! Changes into the log, within the caller's own transaction.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use waybill_contracts::BlobType;

/// What a change did to its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// It is there, as the change says.
    Upsert,
    /// It is gone.
    Delete,
}

impl Op {
    /// The stored name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upsert => "upsert",
            Self::Delete => "delete",
        }
    }
}

/// A change to be logged.
#[derive(Debug, Clone)]
pub struct Change {
    blob_type: BlobType,
    op: Op,
    row: Box<RawValue>,
    key: Option<String>,
    correlation_id: Option<String>,
    causation_id: Option<String>,
    traceparent: Option<String>,
}

/// Why a change cannot be logged.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {problem}")]
pub struct InvalidChange {
    what: &'static str,
    problem: String,
}

impl Change {
    /// A row of `blob_type` as it is from now on: whatever serialises as a JSON object. Numbers given as `RawValue` stay as
    /// written.
    ///
    /// # Errors
    /// When the row is no object, or the type not `[A-Za-z0-9][A-Za-z0-9._-]*` of 1–200 characters.
    pub fn upsert(blob_type: &str, row: &impl Serialize) -> Result<Self, InvalidChange> {
        Self::new(blob_type, Op::Upsert, row)
    }

    /// A row that is gone: its key, and its version if the type has one; more does no harm.
    ///
    /// # Errors
    /// As [`Change::upsert`].
    pub fn delete(blob_type: &str, row: &impl Serialize) -> Result<Self, InvalidChange> {
        Self::new(blob_type, Op::Delete, row)
    }

    fn new(blob_type: &str, op: Op, row: &impl Serialize) -> Result<Self, InvalidChange> {
        let invalid = |what, problem: String| InvalidChange { what, problem };
        let blob_type = BlobType::new(blob_type).map_err(|error| invalid("blobType", error.to_string()))?;
        let row = to_raw_value(row).map_err(|error| invalid("row", error.to_string()))?;
        if !row.get().starts_with('{') {
            return Err(invalid("row", "it is no JSON object".to_owned()));
        }
        Ok(Self { blob_type, op, row, key: None, correlation_id: None, causation_id: None, traceparent: None })
    }

    /// The row's key as text, for people who look for it.
    #[must_use]
    pub fn key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    /// For tracking; 1 to 256 characters. A file whose changes all have the same one carries it in its message.
    #[must_use]
    pub fn correlation_id(mut self, id: &str) -> Self {
        self.correlation_id = Some(id.to_owned());
        self
    }

    /// The message or command that caused it; carried as the correlation id is.
    #[must_use]
    pub fn causation_id(mut self, id: &str) -> Self {
        self.causation_id = Some(id.to_owned());
        self
    }

    /// The W3C trace context; carried as the correlation id is.
    #[must_use]
    pub fn traceparent(mut self, traceparent: &str) -> Self {
        self.traceparent = Some(traceparent.to_owned());
        self
    }
}

/// Logs changes within a transaction of the service on its SQLite database, which
/// [`ChangeLog::sqlite`](super::ChangeLog::sqlite) has made a log in. Log a change after the row itself is written. Once the
/// transaction commits, they will be published.
///
/// # Errors
/// What the database says; the transaction can go on or be rolled back.
#[cfg(feature = "rusqlite")]
pub fn append_sqlite(
    tx: &waybill_store::rusqlite::Transaction<'_>,
    changes: &[Change],
) -> waybill_store::rusqlite::Result<()> {
    let mut insert = tx.prepare_cached(
        "INSERT INTO waybill_change_log (blob_type, op, row, key, correlation_id, causation_id, traceparent)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for change in changes {
        insert.execute((
            change.blob_type.as_str(),
            change.op.as_str(),
            change.row.get(),
            &change.key,
            &change.correlation_id,
            &change.causation_id,
            &change.traceparent,
        ))?;
    }
    Ok(())
}

/// Why [`append_postgres`] failed.
#[cfg(feature = "tokio-postgres")]
#[derive(Debug, thiserror::Error)]
#[error("changes cannot be logged in schema {schema:?}")]
pub struct AppendError {
    schema: String,
    source: waybill_store::tokio_postgres::Error,
}

/// Changes in one statement: few enough that its values stay small, many enough that the way to the server hardly counts.
#[cfg(feature = "tokio-postgres")]
const AT_ONCE: usize = 1_000;

/// Logs changes within a transaction of the service on its PostgreSQL database, in the log of `schema` (`waybill` unless it
/// was made elsewhere). Log a change after the row itself is written. Once the transaction commits, they will be published.
///
/// A change without a correlation id gets the one of the transaction's setting `waybill.correlation_id`, if there is one.
///
/// # Errors
/// [`AppendError`]; the transaction has to be rolled back then.
#[cfg(feature = "tokio-postgres")]
pub async fn append_postgres(
    tx: &waybill_store::tokio_postgres::Transaction<'_>,
    schema: &str,
    changes: &[Change],
) -> Result<(), AppendError> {
    let failed = |source| AppendError { schema: schema.to_owned(), source };
    let setting = |name: &str| format!("coalesce({name}, nullif(current_setting('waybill.{name}', true), ''))");
    let sql = format!(
        "INSERT INTO \"{}\".change_log (blob_type, op, row, key, correlation_id, causation_id, traceparent)
         SELECT blob_type, op, row::json, key, {}, {}, {}
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
             WITH ORDINALITY AS given (blob_type, op, row, key, correlation_id, causation_id, traceparent, place)
         ORDER BY place",
        schema.replace('"', "\"\""),
        setting("correlation_id"),
        setting("causation_id"),
        setting("traceparent"),
    );
    let statement = tx.prepare(&sql).await.map_err(failed)?;
    for changes in changes.chunks(AT_ONCE) {
        fn column<'c>(changes: &'c [Change], of: impl Fn(&'c Change) -> Option<&'c str>) -> Vec<Option<&'c str>> {
            changes.iter().map(of).collect()
        }
        let column = |of: fn(&Change) -> Option<&str>| column(changes, of);
        tx.execute(
            &statement,
            &[
                &column(|change| Some(change.blob_type.as_str())),
                &column(|change| Some(change.op.as_str())),
                &column(|change| Some(change.row.get())),
                &column(|change| change.key.as_deref()),
                &column(|change| change.correlation_id.as_deref()),
                &column(|change| change.causation_id.as_deref()),
                &column(|change| change.traceparent.as_deref()),
            ],
        )
        .await
        .map_err(failed)?;
    }
    Ok(())
}
