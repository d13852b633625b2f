//! What the database holds, fetched for many keys at once.

use std::{borrow::Cow, collections::HashSet, sync::Arc};

use waybill_contracts::SqlName;
use waybill_store::{
    PostgresTransaction,
    tokio_postgres::{self, types::ToSql},
};

use super::{
    super::{
        Failure,
        catalogue::{VERSION, read_begin, same_definition},
        tables::{Parked, TableId, read_without},
        waiting::Patience,
    },
    encode::{check_key_part, declared_type},
    overlay::{Flags, Held, KnownParked, Needs, Overlay},
};
use crate::apply::{Begin, EntityPlan, KeyPart};

/// Keys as arrays, one a part, for `unnest`. Keys that no row can have are left out.
pub(super) struct Keys<'k> {
    parts: Vec<(KeyPart, Part)>,
    pub(super) keys: Vec<&'k str>,
}

enum Part {
    Integers(Vec<i64>),
    Texts(Vec<String>),
}

impl<'k> Keys<'k> {
    pub(super) fn new(plan: &EntityPlan, keys: impl IntoIterator<Item = &'k str>) -> Self {
        let form = plan.key_form();
        let part = |part: &KeyPart| match part {
            KeyPart::Integer => (*part, Part::Integers(Vec::new())),
            _ => (*part, Part::Texts(Vec::new())),
        };
        let mut of = Self { parts: form.parts().iter().map(part).collect(), keys: Vec::new() };
        for key in keys {
            let values: Vec<(KeyPart, Cow<'_, str>)> = form.split(key).collect();
            if values.iter().any(|(part, text)| check_key_part(*part, text).is_err()) {
                continue;
            }
            for ((_, column), (_, text)) in of.parts.iter_mut().zip(values) {
                match column {
                    Part::Integers(numbers) => numbers.push(text.parse().expect("checked above")),
                    Part::Texts(texts) => texts.push(text.into_owned()),
                }
            }
            of.keys.push(key);
        }
        of
    }

    /// `unnest($1::int8[], $2::text[]::uuid[])`, from the parameter after `before` on.
    pub(super) fn unnest(&self, before: usize) -> String {
        let arrays: Vec<_> = (before + 1..)
            .zip(&self.parts)
            .map(|(at, (part, values))| match values {
                Part::Integers(_) => format!("${at}::int8[]"),
                Part::Texts(_) => format!("${at}::text[]::{}[]", declared_type(part.column_type())),
            })
            .collect();
        format!("unnest({})", arrays.join(", "))
    }

    /// `k1, k2`
    pub(super) fn names(&self) -> String {
        (1..=self.parts.len()).map(|at| format!("k{at}")).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        let mut parameters: Vec<&(dyn ToSql + Sync)> = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            parameters.push(match &part.1 {
                Part::Integers(numbers) => numbers,
                Part::Texts(texts) => texts,
            });
        }
        parameters
    }
}

/// `t."a" = u.k1 AND t."b" = u.k2`
pub(super) fn same_key(plan: &EntityPlan) -> String {
    let parts = (1..).zip(plan.key()).map(|(at, (field, _))| format!("t.{} = u.k{at}", SqlName::new(field)));
    parts.collect::<Vec<_>>().join(" AND ")
}

/// Whether there is anything at all to ask for, by entity, and at which full export its table begins. Refuses a table that was
/// derived again under another definition.
pub(super) async fn flags(
    tx: &PostgresTransaction<'_>,
    entities: &[Arc<EntityPlan>],
) -> Result<Vec<(Flags, Option<Begin>)>, Failure> {
    let sql = "SELECT EXISTS (SELECT 1 FROM _waybill_tombstone WHERE entity = e),
                   EXISTS (SELECT 1 FROM _waybill_parked WHERE entity = e),
                   EXISTS (SELECT 1 FROM _waybill_parked WHERE missing_entity = e), t.rule, t.filter, t.begins
               FROM unnest($1::text[]) WITH ORDINALITY AS u(e, n) LEFT JOIN _waybill_table t ON t.entity = e ORDER BY n";
    let names: Vec<&str> = entities.iter().map(|plan| plan.name()).collect();
    let rows = tx.query(&tx.prepare_cached(sql).await?, &[&names]).await?;
    let flags = rows.iter().zip(entities).map(|(row, plan)| {
        same_definition(plan, row.get(3), row.get(4), row.get(5))?;
        let flags = Flags { has_tombstones: row.get(0), has_parked: row.get(1), is_awaited: row.get(2) };
        Ok((flags, read_begin(plan, row.get(5))?))
    });
    flags.collect()
}

/// Fetches what a pass needs to know of one table. The inner limits have each key looked up by the index: for tens of thousands of
/// keys at once PostgreSQL would read and hash the whole table instead, for every batch, however large the table is.
pub(super) async fn fetch(
    tx: &PostgresTransaction<'_>,
    overlay: &mut Overlay,
    id: TableId,
    needs: &Needs,
) -> Result<(), Failure> {
    let table = overlay.table(id);
    let Some(plan) = table.plan.clone() else { return Ok(()) };
    let (name, entity, flags) = (table.name.clone(), table.entity().to_owned(), table.flags);
    let all: HashSet<&str> = needs.whole.iter().chain(&needs.presence).map(String::as_str).collect();
    let keys = Keys::new(&plan, all.iter().copied());

    let mut found = Vec::new();
    if !keys.keys.is_empty() {
        let sql = format!(
            "SELECT u.n, found.{VERSION} FROM {} WITH ORDINALITY AS u({}, n)
             CROSS JOIN LATERAL (SELECT t.{VERSION} FROM {name} t WHERE {} LIMIT 1) found",
            keys.unnest(0),
            keys.names(),
            same_key(&plan)
        );
        let statement = tx.prepare_cached(&sql).await?;
        for row in tx.query(&statement, &keys.parameters()).await? {
            let place = usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or_default();
            found.push((keys.keys[place], row.get::<_, Option<Vec<u8>>>(1)));
        }
    }
    let whole: Vec<&str> = needs.whole.iter().map(String::as_str).filter(|key| !key.contains('\0')).collect();
    let mut buried = Vec::new();
    if flags.has_tombstones && !whole.is_empty() {
        let sql = "SELECT k, found.version FROM unnest($2::text[]) AS u(k) CROSS JOIN LATERAL (
                       SELECT version FROM _waybill_tombstone WHERE entity = $1 AND key = k LIMIT 1) found";
        buried = tx.query(&tx.prepare_cached(sql).await?, &[&entity, &whole]).await?;
    }
    // Of rows that are released it is known.
    let is_open = |key: &&&str| overlay.table(id).known(key).is_none_or(|known| known.parked.is_none());
    let may_wait: Vec<&str> = whole.iter().filter(is_open).copied().collect();
    let mut parked = Vec::new();
    if flags.has_parked && !may_wait.is_empty() {
        let sql = "SELECT key, id, version FROM _waybill_parked WHERE entity = $1 AND key = ANY ($2)";
        parked = tx.query(&tx.prepare_cached(sql).await?, &[&entity, &may_wait]).await?;
    }
    let mut awaited = Vec::new();
    if flags.is_awaited && !whole.is_empty() {
        let sql = "SELECT k FROM unnest($2::text[]) AS u(k)
                   WHERE EXISTS (SELECT 1 FROM _waybill_parked WHERE missing_entity = $1 AND missing_key = k)";
        awaited = tx.query(&tx.prepare_cached(sql).await?, &[&entity, &whole]).await?;
    }

    let table = overlay.table_mut(id);
    for key in &all {
        let known = table.know(key);
        known.is_whole |= needs.whole.contains(*key);
    }
    for (key, version) in found {
        table.know(key).row = Held::Row(version);
    }
    for row in buried {
        table.know(row.get(0)).tombstone = Some(row.get(1));
    }
    for row in parked {
        table.know(row.get(0)).parked = Some(KnownParked { id: row.get(1), version: row.get(2) });
    }
    for row in awaited {
        table.know(row.get(0)).is_waited_for = true;
    }
    Ok(())
}

/// How many rows wait for each of these keys; counting ends above `most`.
pub(super) async fn waiting_counts(
    tx: &PostgresTransaction<'_>,
    entity: &str,
    keys: &[&str],
    most: i64,
) -> Result<Vec<i64>, Failure> {
    let sql = "SELECT (SELECT count(*) FROM (SELECT 1 FROM _waybill_parked
                                             WHERE missing_entity = $1 AND missing_key = k LIMIT $3::int8 + 1) AS found)
               FROM unnest($2::text[]) WITH ORDINALITY AS u(k, n) ORDER BY n";
    let statement = tx.prepare_cached(sql).await?;
    let rows = tx.query(&statement, &[&entity, &keys, &most]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Rows that wait for rows with these keys, in the order of their ids after `after`: at most `rows_max`, and no further one
/// once they take `bytes_max`; and the last one's id, unless these are all. Rows of entities that are no longer configured go on
/// waiting.
pub(super) async fn waiting(
    tx: &PostgresTransaction<'_>,
    (entity, keys): (&str, &[String]),
    after: i64,
    configured: &[&str],
    (rows_max, bytes_max): (i64, i64),
) -> Result<(Vec<Parked>, Option<i64>), Failure> {
    // With one key the index gives the order; with several there are few rows to sort.
    let (same, single) = match keys {
        [key] => ("= $2", Some(key)),
        _ => ("= ANY ($2)", None),
    };
    let sql = format!(
        "SELECT id, entity, key, version, row, file, file_row, without, found FROM (
             SELECT *, sum(octet_length(row)) OVER (ORDER BY id) - octet_length(row) AS before, count(*) OVER () AS found FROM (
                 SELECT * FROM _waybill_parked
                 WHERE missing_entity = $1 AND missing_key {same} AND id > $3 AND entity = ANY ($4)
                 ORDER BY id LIMIT $5::int8) AS portion) AS counted
         WHERE before < $6::int8 ORDER BY id"
    );
    let statement = tx.prepare_cached(&sql).await?;
    let keys: &(dyn ToSql + Sync) = match &single {
        Some(key) => *key,
        None => &keys,
    };
    let rows = tx.query(&statement, &[&entity, keys, &after, &configured, &rows_max, &bytes_max]).await?;
    let found = rows.first().map_or(0, |row| row.get::<_, i64>(8));
    let is_all = found < rows_max && usize::try_from(found).is_ok_and(|found| found == rows.len());
    let waiting: Vec<_> = rows.iter().map(parked).collect();
    let last = waiting.last().map(|last| last.id).filter(|_| !is_all);
    Ok((waiting, last))
}

/// Rows that wait for these, those that wait for them, and so on, the nearest first: at most `rows_max`, and no further one
/// once they take `bytes_max`. Each is given with what it waits for.
pub(super) async fn below(
    tx: &PostgresTransaction<'_>,
    waiting: &[Parked],
    configured: &[&str],
    (rows_max, bytes_max): (i64, i64),
) -> Result<Vec<((String, String), Parked)>, Failure> {
    // The inner limit has each step go by the index, whatever is known of the table.
    let next = |of: &str| {
        format!(
            "SELECT p.id, p.entity, p.key FROM {of} CROSS JOIN LATERAL (
                 SELECT id, entity, key FROM _waybill_parked
                 WHERE missing_entity = w.entity AND missing_key = w.key AND entity = ANY ($3) ORDER BY id LIMIT $4::int8) p"
        )
    };
    let sql = format!(
        "WITH RECURSIVE below AS ({} UNION {})
         SELECT id, entity, key, version, row, file, file_row, without, missing_entity, missing_key FROM (
             SELECT p.*, n, sum(octet_length(row)) OVER (ORDER BY n) - octet_length(row) AS before
             FROM (SELECT id, row_number() OVER () AS n FROM below LIMIT $4::int8) found JOIN _waybill_parked p USING (id)
         ) AS counted WHERE before < $5::int8 ORDER BY n",
        next("unnest($1::text[], $2::text[]) w (entity, key)"),
        next("below w"),
    );
    let entities: Vec<&str> = waiting.iter().map(|parked| parked.entity.as_str()).collect();
    let keys: Vec<&str> = waiting.iter().map(|parked| parked.key.as_str()).collect();
    let statement = tx.prepare_cached(&sql).await?;
    let rows = tx.query(&statement, &[&entities, &keys, &configured, &rows_max, &bytes_max]).await?;
    Ok(rows.iter().map(|row| ((row.get(8), row.get(9)), parked(row))).collect())
}

/// Rows whose reference has run out of patience: parked before `cutoff`, the longest waiting first, at most `rows_max`, and
/// no further one once they take `bytes_max`. Each is to go without what it waits for now.
pub(super) async fn overdue(
    tx: &PostgresTransaction<'_>,
    patience: &Patience,
    cutoff: &str,
    (rows_max, bytes_max): (i64, i64),
) -> Result<Vec<Parked>, Failure> {
    let sql = "SELECT id, entity, key, version, row, file, file_row, without, missing_key FROM (
                   SELECT *, sum(octet_length(row)) OVER (ORDER BY parked_at, id) - octet_length(row) AS before FROM (
                       SELECT * FROM _waybill_parked
                       WHERE missing_entity = $1 AND entity = $2 AND parked_at <= $3::text::timestamptz
                       ORDER BY parked_at, id LIMIT $4::int8) AS found) AS counted
               WHERE before < $5::int8 ORDER BY parked_at, id";
    let parameters: [&(dyn ToSql + Sync); 5] = [&patience.parent, &patience.entity, &cutoff, &rows_max, &bytes_max];
    let rows = tx.query(&tx.prepare_cached(sql).await?, &parameters).await?;
    let overdue = rows.iter().map(|row| {
        let mut parked = parked(row);
        parked.without.push((patience.parent.clone(), row.get(8)));
        parked
    });
    Ok(overdue.collect())
}

/// These parked rows, in the order of their ids, but no further one once they take `bytes_max`. Each is to go without what it
/// waits for now.
pub(super) async fn these(tx: &PostgresTransaction<'_>, ids: &[i64], bytes_max: i64) -> Result<Vec<Parked>, Failure> {
    let sql = "SELECT id, entity, key, version, row, file, file_row, without, missing_entity, missing_key FROM (
                   SELECT *, sum(octet_length(row)) OVER (ORDER BY id) - octet_length(row) AS before
                   FROM _waybill_parked WHERE id = ANY ($1)) AS counted
               WHERE before < $2::int8 ORDER BY id";
    let rows = tx.query(&tx.prepare_cached(sql).await?, &[&ids, &bytes_max]).await?;
    let these = rows.iter().map(|row| {
        let mut parked = parked(row);
        parked.without.push((row.get(8), row.get(9)));
        parked
    });
    Ok(these.collect())
}

fn parked(row: &tokio_postgres::Row) -> Parked {
    Parked {
        id: row.get(0),
        entity: row.get(1),
        key: row.get(2),
        version: row.get(3),
        json: row.get(4),
        file: row.get(5),
        row: row.get::<_, i64>(6).cast_unsigned(),
        without: read_without(row.get(7)),
    }
}
