//! Rows as SQLite holds them, and the values in them.

use std::time::Duration;

use time::OffsetDateTime;
use waybill_store::rusqlite::{self, Row};

use super::super::{
    BlobSeen, FileKey, InboxRow, PublisherSequence, State,
    stored::{StoredFile, shown},
};

pub(super) fn read_file(row: &Row<'_>) -> rusqlite::Result<StoredFile> {
    let sequence = match row.get::<_, Option<i64>>(5)? {
        Some(sequence) => Some(PublisherSequence {
            publisher: row.get::<_, Option<String>>(3)?.unwrap_or_default(),
            epoch: row.get::<_, Option<String>>(4)?.unwrap_or_default(),
            sequence: sequence.unsigned_abs(),
        }),
        None => None,
    };
    Ok(StoredFile {
        id: row.get(0)?,
        key: FileKey::from_stored(row.get(1)?),
        body: row.get(2)?,
        sequence,
        expires_at: row.get::<_, Option<i64>>(6)?.map(instant),
        sequence_number: row.get(7)?,
        received_at: instant(row.get(8)?),
        attempts: row.get(9)?,
        blob: match row.get(10)? {
            Some(etag) => Some(BlobSeen::stored(etag, count(row, 11)?, row.get(12)?)),
            None => None,
        },
    })
}

pub(super) const ROW_COLUMNS: &str =
    "id, state, reason, problem, file_key, blob_type, correlation_id, sequence, entity_path,
    broker_sequence, enqueued_at, message_id, received_at, changed_at, due_at, expires_at, attempts, worker, rows,
    bad_rows, duplicate_of, body, filtered_rows";

pub(super) fn read_row(row: &Row<'_>) -> rusqlite::Result<InboxRow> {
    let body: String = row.get(21)?;
    let state: State = parse_column(row, 1)?;
    let (uri, content_type) = shown(&body);
    Ok(InboxRow {
        id: row.get(0)?,
        state,
        reason: parse_optional(row, 2)?,
        problem: row.get(3)?,
        file: row.get::<_, Option<String>>(4)?.map(FileKey::from_stored),
        blob_type: row.get(5)?,
        correlation_id: row.get(6)?,
        uri,
        content_type,
        sequence: row.get::<_, Option<i64>>(7)?.map(i64::unsigned_abs),
        entity_path: row.get(8)?,
        sequence_number: row.get(9)?,
        enqueued_at: instant(row.get(10)?),
        message_id: row.get(11)?,
        received_at: instant(row.get(12)?),
        changed_at: instant(row.get(13)?),
        due_at: row.get::<_, Option<i64>>(14)?.filter(|_| state == State::Saved).map(instant),
        expires_at: row.get::<_, Option<i64>>(15)?.map(instant),
        attempts: row.get(16)?,
        worker: row.get(17)?,
        rows: count(row, 18)?,
        bad_rows: count(row, 19)?,
        filtered_rows: row.get::<_, Option<i64>>(22)?.map(i64::unsigned_abs),
        duplicate_of: row.get(20)?,
        body,
    })
}

pub(super) fn parse_column<T: std::str::FromStr>(row: &Row<'_>, index: usize) -> rusqlite::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get_ref(index)?.as_str()?.parse().map_err(|error: T::Err| {
        rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, Box::new(error))
    })
}

pub(super) fn parse_optional<T: std::str::FromStr>(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    if row.get_ref(index)? == rusqlite::types::ValueRef::Null { Ok(None) } else { parse_column(row, index).map(Some) }
}

pub(super) fn count(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(index).map(i64::unsigned_abs)
}

/// Instants are stored as nanoseconds since 1970, which sort and fit until 2262.
pub(super) fn nanos(instant: OffsetDateTime) -> i64 {
    i64::try_from(instant.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

pub(super) fn nanos_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX / 4)
}

/// Between two of them; none where the clock was set back.
pub(super) fn span(from: i64, to: i64) -> Duration {
    Duration::from_nanos(to.saturating_sub(from).max(0).unsigned_abs())
}

pub(super) fn instant(nanos: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanos)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
