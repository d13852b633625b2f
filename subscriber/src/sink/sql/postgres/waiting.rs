//! What waits in PostgreSQL, and letting it go.

use std::sync::Arc;

use time::format_description::well_known::Rfc3339;
use waybill_contracts::AfterWait;
use waybill_store::PostgresTransaction;

use super::{
    super::{
        BadRowEntry, BadRowsOf, Failure,
        apply::{Arrived, give_up},
        refused,
        tables::{Outgrown, Parked},
        waiting::{MissingParent, OVERDUE_ROWS_MAX, Patience, Released, SqlSink, again_in},
    },
    BEGIN, PostgresSink, RELEASED_BYTES_MAX, RELEASED_ROWS_MAX, Run, TRIES, fetch, is_worth_another_try,
    write::without_nul,
};
use crate::{
    apply::EntityPlan,
    sink::{SinkError, WaitsEnded},
};

/// Whose wait ends.
enum Which<'w> {
    /// That of the rows that wait for this key.
    For(&'w str),
    /// That of rows that have waited for as long as they may.
    Overdue(&'w Patience),
    /// That of these, whatever they wait for.
    These(&'w [i64]),
}

impl SqlSink for PostgresSink {
    async fn missing(&self, waiting: Option<&str>, limit: u32) -> Result<Vec<MissingParent>, SinkError> {
        let sql = "SELECT missing_entity, missing_key, entity, count(*),
                       to_char(min(parked_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')
                   FROM _waybill_parked WHERE $1::text IS NULL OR entity = $1
                   GROUP BY missing_entity, missing_key, entity ORDER BY min(parked_at), min(id) LIMIT $2";
        let rows = self.connection().await?.query(sql, &[&waiting, &i64::from(limit)]).await;
        let rows = rows.map_err(|error| self.unavailable(self.store.error(error).to_string()))?;
        let missing = rows.iter().map(|row| MissingParent {
            entity: row.get(0),
            key: row.get(1),
            waiting: row.get(2),
            rows: row.get::<_, i64>(3).cast_unsigned(),
            since: row.get(4),
        });
        Ok(missing.collect())
    }

    async fn release(&self, entity: &str, key: &str) -> Result<Released, SinkError> {
        let Some(plan) = self.inner.plans.get(entity) else {
            let problem = format!("entity {entity:?} is not among those that the sink was opened with");
            return Err(self.gave_up(refused(problem)));
        };
        // As it is stored.
        Ok(self.let_go(plan, &Which::For(&without_nul(key))).await?.unwrap_or_default())
    }

    async fn bad_rows(&self, of: &BadRowsOf, limit: u32) -> Result<Vec<BadRowEntry>, SinkError> {
        self.list_bad_rows(of, limit).await
    }

    async fn count_bad_rows(&self, of: &BadRowsOf) -> Result<u64, SinkError> {
        self.number_of_bad_rows(of).await
    }

    async fn outgrown(&self) -> Result<Vec<Outgrown>, SinkError> {
        let sql = "SELECT name, blob_type FROM _waybill_table WHERE blob_type IS NOT NULL ORDER BY name";
        let rows = self.connection().await?.query(sql, &[]).await;
        let rows = rows.map_err(|error| self.unavailable(self.store.error(error).to_string()))?;
        Ok(Outgrown::of(&self.inner.plans, rows.iter().map(|row| (row.get(0), row.get(1))).collect()))
    }
}

impl PostgresSink {
    pub(super) async fn end_overdue_waits(&self) -> Result<WaitsEnded, SinkError> {
        let all = Patience::of(&self.inner.plans);
        let mut ended = WaitsEnded { again_in: again_in(&all), ..WaitsEnded::default() };
        for patience in &all {
            let plan = self.inner.plans.get(&patience.entity).expect("it is the patience of one of these");
            // Others get their turn between two transactions.
            while let Some(released) = self.let_go(plan, &Which::Overdue(patience)).await? {
                ended.applied += released.applied;
                ended.bad += released.bad;
            }
        }
        Ok(ended)
    }

    /// Lets parked rows go, by their ids, as many as one transaction takes.
    pub(super) async fn let_these_go(&self, ids: &[i64]) -> Result<(), SinkError> {
        match self.inner.plans.iter().next() {
            Some(plan) => self.let_go(plan, &Which::These(ids)).await.map(drop),
            None => Ok(()),
        }
    }

    /// `None` when nothing waits so. Locks `plan` and whatever may wait for it.
    async fn let_go(&self, plan: &EntityPlan, which: &Which<'_>) -> Result<Option<Released>, SinkError> {
        let mut connection = self.connection().await?;
        let mut why = None;
        for _ in 1..TRIES {
            let mut run = Run { locks_children: true, ..Run::new(&self.inner) };
            let tx = connection
                .transaction()
                .await
                .map_err(|error| self.unavailable(self.store.error(error).to_string()))?;
            match run.let_go(tx, plan, which).await {
                Ok(released) => return Ok(released),
                Err(Failure::Postgres(error)) if is_worth_another_try(&error) => {
                    tracing::debug!(%error, "the transaction is begun again");
                    self.inner.shapes.clear();
                    why = Some(error);
                }
                Err(failure) => return Err(self.gave_up(failure)),
            }
        }
        Err(self.in_the_way(why))
    }
}

impl Run<'_> {
    async fn let_go(
        &mut self,
        mut tx: PostgresTransaction<'_>,
        plan: &EntityPlan,
        which: &Which<'_>,
    ) -> Result<Option<Released>, Failure> {
        tx.batch_execute(BEGIN).await?;
        self.lock(&tx, plan).await?;
        let released = match which {
            Which::For(key) => self.release_without(&mut tx, plan.name(), key).await?,
            Which::Overdue(patience) => self.end_some(&mut tx, patience).await?,
            Which::These(ids) => {
                let waiting = fetch::these(&tx, ids, RELEASED_BYTES_MAX).await?;
                Some(self.release_waiting(&mut tx, waiting).await?)
            }
        };
        tx.commit().await?;
        Ok(released)
    }

    async fn release_without(
        &mut self,
        tx: &mut PostgresTransaction<'_>,
        entity: &str,
        key: &str,
    ) -> Result<Option<Released>, Failure> {
        let plans = Arc::clone(&self.inner.plans);
        let configured: Vec<&str> = plans.iter().map(|plan| plan.name()).collect();
        let (keys, most) = ([key.to_owned()], (RELEASED_ROWS_MAX, RELEASED_BYTES_MAX));
        self.without = Some((entity.to_owned(), key.to_owned()));
        let (mut released, mut file, mut next) = (Released::default(), None, Some(0));
        while let Some(after) = next {
            let (waiting, more) = fetch::waiting(tx, (entity, &keys), after, &configured, most).await?;
            file = file.or_else(|| waiting.first().map(|parked| parked.origin().file.to_owned()));
            released += self.release_waiting(tx, waiting).await?;
            next = more;
        }
        if let Some(file) = file {
            self.count_released(tx, &file, released.applied).await?;
        }
        Ok((released.rows() > 0).then_some(released))
    }

    /// Lets these rows go without what they wait for, then those that waited for them.
    async fn release_waiting(
        &mut self,
        tx: &mut PostgresTransaction<'_>,
        waiting: Vec<Parked>,
    ) -> Result<Released, Failure> {
        let mut arrived = Arrived::new();
        let mut released = self.release_some(tx, waiting, &mut arrived).await?;
        released += self.release(tx, arrived).await?;
        Ok(released)
    }

    async fn end_some(
        &mut self,
        tx: &mut PostgresTransaction<'_>,
        patience: &Patience,
    ) -> Result<Option<Released>, Failure> {
        let cutoff = patience.cutoff((self.inner.now)()).format(&Rfc3339).unwrap_or_default();
        let waiting = fetch::overdue(tx, patience, &cutoff, (OVERDUE_ROWS_MAX, RELEASED_BYTES_MAX)).await?;
        if waiting.is_empty() {
            return Ok(None);
        }
        Ok(Some(match patience.then {
            AfterWait::Apply => {
                let file = waiting.first().map(|parked| parked.origin().file.to_owned()).unwrap_or_default();
                let released = self.release_waiting(tx, waiting).await?;
                self.count_released(tx, &file, released.applied).await?;
                released
            }
            AfterWait::Quarantine => {
                let bad = waiting.len() as u64;
                self.settle(tx, None, move |overlay| give_up(overlay, &waiting)).await?;
                Released { bad, ..Released::default() }
            }
        }))
    }
}
