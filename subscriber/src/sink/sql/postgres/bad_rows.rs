//! The rows that cannot be used, read back from PostgreSQL.

use super::{
    super::{BadRowEntry, BadRowsOf, tables::stored},
    PostgresSink,
};
use crate::{FileKey, sink::SinkError};

const WHICH: &str = "_waybill_bad_row AS bad LEFT JOIN _waybill_progress AS progress USING (file)
    WHERE ($1::text IS NULL OR file = $1) AND bad.row > $2 AND ($3::text[] IS NULL OR blob_type = ANY ($3))";

impl PostgresSink {
    pub(super) async fn list_bad_rows(&self, of: &BadRowsOf, limit: u32) -> Result<Vec<BadRowEntry>, SinkError> {
        let sql = format!(
            "SELECT file, blob_type, bad.row, byte_offset, key, reason, problem, bytes,
                 to_char(found_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM {WHICH}
             ORDER BY file, bad.row LIMIT $4"
        );
        let file = of.file.as_ref().map(FileKey::as_str);
        let rows =
            self.connection().await?.query(&sql, &[&file, &stored(of.after), &of.types, &i64::from(limit)]).await;
        let rows = rows.map_err(|error| self.unavailable(self.store.error(error).to_string()))?;
        let bad = rows.iter().map(|row| BadRowEntry {
            file: FileKey::from_stored(row.get(0)),
            blob_type: row.get(1),
            row: row.get::<_, i64>(2).cast_unsigned(),
            offset: row.get::<_, Option<i64>>(3).map(i64::cast_unsigned),
            key: row.get(4),
            reason: row.get(5),
            problem: row.get(6),
            bytes: row.get(7),
            found_at: row.get(8),
        });
        Ok(bad.collect())
    }

    pub(super) async fn number_of_bad_rows(&self, of: &BadRowsOf) -> Result<u64, SinkError> {
        let sql = format!("SELECT count(*) FROM {WHICH}");
        let file = of.file.as_ref().map(FileKey::as_str);
        let row = self.connection().await?.query_one(&sql, &[&file, &stored(of.after), &of.types]).await;
        let row = row.map_err(|error| self.unavailable(self.store.error(error).to_string()))?;
        Ok(row.get::<_, i64>(0).cast_unsigned())
    }
}
