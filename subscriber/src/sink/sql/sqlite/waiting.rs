//! What waits in SQLite, and letting it go.

use std::sync::Arc;

use time::format_description::well_known::Rfc3339;
use waybill_contracts::AfterWait;
use waybill_store::rusqlite::Transaction;

use super::{
    super::{
        BadRowEntry, BadRowsOf, Failure,
        apply::{Arrived, give_up},
        tables::{Outgrown, Tables as _},
        waiting::{MissingParent, OVERDUE_ROWS_MAX, Patience, Released, SqlSink, again_in},
    },
    Inner, RELEASED_BYTES_MAX, RELEASED_ROWS_MAX, SqliteSink, outgrown, release, release_some,
    tables::SqliteTables,
};
use crate::sink::{SinkError, WaitsEnded};

impl SqlSink for SqliteSink {
    async fn missing(&self, waiting: Option<&str>, limit: u32) -> Result<Vec<MissingParent>, SinkError> {
        let waiting = waiting.map(str::to_owned);
        self.read(move |connection| {
            let sql = "SELECT missing_entity, missing_key, entity, count(*), min(parked_at) FROM _waybill_parked
                       WHERE ?1 IS NULL OR entity = ?1 GROUP BY missing_entity, missing_key, entity
                       ORDER BY min(parked_at), min(id) LIMIT ?2";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map((waiting, limit), |row| {
                Ok(MissingParent {
                    entity: row.get(0)?,
                    key: row.get(1)?,
                    waiting: row.get(2)?,
                    rows: row.get::<_, i64>(3)?.cast_unsigned(),
                    since: row.get(4)?,
                })
            })?;
            rows.collect()
        })
        .await
    }

    async fn release(&self, entity: &str, key: &str) -> Result<Released, SinkError> {
        let (inner, entity, key) = (Arc::clone(&self.inner), entity.to_owned(), key.to_owned());
        self.write(move |tx| release_without(tx, &inner, &entity, &key)).await
    }

    async fn bad_rows(&self, of: &BadRowsOf, limit: u32) -> Result<Vec<BadRowEntry>, SinkError> {
        self.list_bad_rows(of, limit).await
    }

    async fn count_bad_rows(&self, of: &BadRowsOf) -> Result<u64, SinkError> {
        self.number_of_bad_rows(of).await
    }

    async fn outgrown(&self) -> Result<Vec<Outgrown>, SinkError> {
        let inner = Arc::clone(&self.inner);
        self.read(move |connection| outgrown(connection, &inner.plans)).await
    }
}

impl SqliteSink {
    pub(super) async fn end_overdue_waits(&self) -> Result<WaitsEnded, SinkError> {
        let all = Patience::of(&self.inner.plans);
        let mut ended = WaitsEnded { again_in: again_in(&all), ..WaitsEnded::default() };
        for patience in all {
            // Others get their turn between two transactions.
            loop {
                let (inner, patience) = (Arc::clone(&self.inner), patience.clone());
                let Some(released) = self.write(move |tx| end_some(tx, &inner, &patience)).await? else { break };
                ended.applied += released.applied;
                ended.bad += released.bad;
            }
        }
        Ok(ended)
    }

    /// Lets parked rows go, by their ids, as many as one transaction takes.
    pub(super) async fn let_go(&self, ids: Vec<i64>) -> Result<(), SinkError> {
        let inner = Arc::clone(&self.inner);
        self.write(move |tx| release_these(tx, &inner, &ids)).await
    }

    async fn write<T, F>(&self, job: F) -> Result<T, SinkError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, Failure> + Send + 'static,
    {
        match self.store.write(job).await {
            Ok(result) => result.map_err(|failure| self.gave_up(failure)),
            Err(error) => Err(self.not_written(&error)),
        }
    }
}

fn release_without(tx: &Transaction<'_>, inner: &Inner, entity: &str, key: &str) -> Result<Released, Failure> {
    let now = inner.now();
    let mut tables = SqliteTables::new(tx, inner, &now);
    let parent = tables.open(entity)?;
    tables.without = Some((entity.to_owned(), key.to_owned()));
    let (mut released, mut file, mut next) = (Released::default(), None, Some(0));
    while let Some(after) = next {
        let (waiting, more) = tables.waiting(parent, key, after, RELEASED_ROWS_MAX, RELEASED_BYTES_MAX)?;
        file = file.or_else(|| waiting.first().map(|parked| parked.origin().file.to_owned()));
        let mut arrived = Arrived::new();
        released += release_some(&mut tables, waiting, &mut arrived)?;
        released += release(&mut tables, arrived)?;
        next = more;
    }
    if let Some(file) = file {
        tables.count_released(&file, released.applied)?;
    }
    Ok(released)
}

/// Lets these rows go, whatever they wait for.
fn release_these(tx: &Transaction<'_>, inner: &Inner, ids: &[i64]) -> Result<(), Failure> {
    let now = inner.now();
    let mut tables = SqliteTables::new(tx, inner, &now);
    let waiting = tables.these(ids, RELEASED_BYTES_MAX)?;
    let mut arrived = Arrived::new();
    release_some(&mut tables, waiting, &mut arrived)?;
    release(&mut tables, arrived).map(drop)
}

/// `None` when no row is overdue.
fn end_some(tx: &Transaction<'_>, inner: &Inner, patience: &Patience) -> Result<Option<Released>, Failure> {
    let (at, now) = ((inner.now)(), inner.now());
    let mut tables = SqliteTables::new(tx, inner, &now);
    let cutoff = patience.cutoff(at).format(&Rfc3339).unwrap_or_default();
    let waiting = tables.overdue(patience, &cutoff, OVERDUE_ROWS_MAX, RELEASED_BYTES_MAX)?;
    if waiting.is_empty() {
        return Ok(None);
    }
    Ok(Some(match patience.then {
        AfterWait::Apply => {
            let mut arrived = Arrived::new();
            let file = waiting.first().map(|parked| parked.origin().file.to_owned()).unwrap_or_default();
            let mut released = release_some(&mut tables, waiting, &mut arrived)?;
            released += release(&mut tables, arrived)?;
            tables.count_released(&file, released.applied)?;
            released
        }
        AfterWait::Quarantine => {
            give_up(&mut tables, &waiting)?;
            Released { bad: waiting.len() as u64, ..Released::default() }
        }
    }))
}
