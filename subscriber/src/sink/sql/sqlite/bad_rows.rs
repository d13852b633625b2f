//! The rows that cannot be used, read back from SQLite.

use super::{
    super::{BadRowEntry, BadRowsOf, tables::stored},
    SqliteSink,
};
use crate::{FileKey, sink::SinkError};

const WHICH: &str = "_waybill_bad_row AS bad LEFT JOIN _waybill_progress AS progress USING (file)
    WHERE (?1 IS NULL OR file = ?1) AND bad.row > ?2
      AND (?3 IS NULL OR blob_type IN (SELECT value FROM json_each(?3)))";

/// As the parameters of [`WHICH`].
fn parameters(of: &BadRowsOf) -> (Option<String>, i64, Option<String>) {
    let file = of.file.as_ref().map(|file| file.as_str().to_owned());
    (file, stored(of.after), of.types.as_ref().map(|types| serde_json::json!(types).to_string()))
}

impl SqliteSink {
    pub(super) async fn list_bad_rows(&self, of: &BadRowsOf, limit: u32) -> Result<Vec<BadRowEntry>, SinkError> {
        let (file, after, types) = parameters(of);
        self.read(move |connection| {
            let sql = format!(
                "SELECT file, blob_type, bad.row, byte_offset, key, reason, problem, bytes, found_at FROM {WHICH}
                 ORDER BY file, bad.row LIMIT ?4"
            );
            let mut statement = connection.prepare_cached(&sql)?;
            let rows = statement.query_map((file, after, types, limit), |row| {
                Ok(BadRowEntry {
                    file: FileKey::from_stored(row.get(0)?),
                    blob_type: row.get(1)?,
                    row: row.get::<_, i64>(2)?.cast_unsigned(),
                    offset: row.get::<_, Option<i64>>(3)?.map(i64::cast_unsigned),
                    key: row.get(4)?,
                    reason: row.get(5)?,
                    problem: row.get(6)?,
                    bytes: row.get(7)?,
                    found_at: row.get(8)?,
                })
            })?;
            rows.collect()
        })
        .await
    }

    pub(super) async fn number_of_bad_rows(&self, of: &BadRowsOf) -> Result<u64, SinkError> {
        let parameters = parameters(of);
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(&format!("SELECT count(*) FROM {WHICH}"))?;
            statement.query_row(parameters, |row| row.get::<_, i64>(0).map(i64::cast_unsigned))
        })
        .await
    }
}
