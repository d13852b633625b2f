//! What a pass says, written in bulk. Rows whose keys are new are copied straight into the table; others go through a
//! temporary table and one upsert. What the database refuses is found by halving, and told to the next pass.

use std::{fmt::Write as _, ops::Range};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt as _, pin_mut};
use sha2::{Digest as _, Sha256};
use waybill_store::{PostgresTransaction, tokio_postgres};

use super::{
    super::{
        Failure,
        catalogue::{TO_STRING, VERSION, key_columns},
        tables::TableId,
    },
    encode::{HEADER, TRAILER},
    fetch::{Keys, same_key},
    overlay::{Changes, Guarded, Held, Open, Overlay, ParkedRow, RowChange, RowId},
    schema::tuple_columns,
};

/// Bytes of one message to the server.
const CHUNK: usize = 256 * 1024;

/// How tuples come into their table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Their keys are not there.
    Copy,
    /// They may be.
    Upsert,
    /// They may be, and the version that is there is not known: what became of them is counted.
    Guarded,
}

/// What became of tuples.
#[derive(Debug, Default)]
struct Put {
    refused: Vec<(usize, String)>,
    inserted: u64,
    updated: u64,
}

/// Writes everything. Where rows were refused, what was written is taken back, and `overlay` knows them: the pass is to run
/// again. `true` when all is written.
pub(super) async fn write(tx: &mut PostgresTransaction<'_>, overlay: &mut Overlay, now: &str) -> Result<bool, Failure> {
    let savepoint = tx.savepoint("pass").await?;
    let mut tx = savepoint;
    let mut refused = Vec::new();
    for at in 0..overlay.open.len() {
        delete_rows(&mut tx, overlay, TableId(at), &mut refused).await?;
    }
    for at in 0..overlay.open.len() {
        put_rows(&mut tx, overlay, TableId(at), &mut refused).await?;
    }
    let refused_appended = append_rows(&mut tx, overlay).await?;
    if !refused.is_empty() || !refused_appended.is_empty() {
        tx.rollback().await?;
        overlay.refused.extend(refused);
        overlay.refused_appended.extend(refused_appended);
        return Ok(false);
    }
    let mut refused = write_tombstones(&mut tx, overlay, now).await?;
    refused.extend(write_parked(&mut tx, overlay, now).await?);
    if !refused.is_empty() {
        tx.rollback().await?;
        overlay.refused.extend(refused);
        return Ok(false);
    }
    write_bad_rows(&tx, &overlay.changes, now).await?;
    tx.commit().await?;
    Ok(true)
}

/// The classes of errors that PostgreSQL knows; a trigger may raise others.
const CLASSES: [&str; 43] = [
    "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "20", "21", "22", "23", "24", "25", "26",
    "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44", "53", "54", "55", "57", "58",
    "72", "F0", "HV", "P0", "XX",
];

/// Whether the error is about what a row is, so that the others can go on without it.
///
/// Source: PostgreSQL, "Error Codes": 21 two rows with what the database takes for one key, 22 data exception, 23 integrity
/// constraint violation, 44 the check of a view, 54 program limit exceeded (a value too long for an index), P0 raised by a
/// trigger; and what a trigger raises with a code of its own.
fn row_fault(error: &tokio_postgres::Error) -> Option<String> {
    let error = error.as_db_error()?;
    let class = error.code().code().get(..2)?;
    (matches!(class, "21" | "22" | "23" | "44" | "54" | "P0") || !CLASSES.contains(&class)).then(|| {
        match error.detail() {
            Some(detail) => format!("{} ({detail})", error.message()),
            None => error.message().to_owned(),
        }
    })
}

async fn delete_rows(
    tx: &mut PostgresTransaction<'_>,
    overlay: &Overlay,
    id: TableId,
    refused: &mut Vec<(RowId, String)>,
) -> Result<(), Failure> {
    let table = overlay.table(id);
    let gone: Vec<(&str, &Vec<u8>)> = overlay.changes.tables[id.0]
        .iter()
        .filter_map(|(key, change)| match &change.row {
            Some(RowChange::Gone { version }) if is_there(table, key) => Some((key.as_str(), version)),
            _ => None,
        })
        .collect();
    let Some(plan) = table.plan.as_ref().filter(|_| !gone.is_empty()) else { return Ok(()) };
    let mut halves = Halves::of(gone.len());
    while let Some(stretch) = halves.next() {
        let keys = Keys::new(plan, gone[stretch.clone()].iter().map(|(key, _)| *key));
        let sql = format!(
            "DELETE FROM {} t USING {} AS u({}) WHERE {}",
            table.name,
            keys.unnest(0),
            keys.names(),
            same_key(plan)
        );
        let inner = tx.savepoint("rows").await?;
        match inner.execute(&inner.prepare_cached(&sql).await?, &keys.parameters()).await {
            Ok(_) => inner.commit().await?,
            Err(error) => {
                inner.rollback().await?;
                halves.failed(stretch, error)?;
            }
        }
    }
    refused.extend(halves.refused.into_iter().map(|(at, problem)| {
        let (key, version) = gone[at];
        ((id, key.to_owned(), version.clone()), problem)
    }));
    Ok(())
}

fn is_there(table: &Open, key: &str) -> bool {
    table.known(key).is_some_and(|known| matches!(known.row, Held::Row(_)))
}

/// Finds the rows that the database refuses among many, by halving what fails.
struct Halves {
    /// Still to be tried, the last one first.
    stretches: Vec<Range<usize>>,
    /// Single rows, and what is wrong with them.
    refused: Vec<(usize, String)>,
}

impl Halves {
    fn of(rows: usize) -> Self {
        Self { stretches: (rows > 0).then_some(0..rows).into_iter().collect(), refused: Vec::new() }
    }

    /// What is to be tried next.
    fn next(&mut self) -> Option<Range<usize>> {
        self.stretches.pop()
    }

    /// Of a stretch that failed, and was taken back.
    ///
    /// # Errors
    /// The error, when it is not about what a row is.
    fn failed(&mut self, stretch: Range<usize>, error: tokio_postgres::Error) -> Result<(), Failure> {
        let Some(problem) = row_fault(&error) else { return Err(error.into()) };
        if stretch.len() > 1 {
            halve(stretch, &mut self.stretches);
        } else {
            self.refused.push((stretch.start, problem));
        }
        Ok(())
    }
}

/// The first half is looked at first.
fn halve(stretch: Range<usize>, stretches: &mut Vec<Range<usize>>) {
    let middle = stretch.start + stretch.len() / 2;
    stretches.push(middle..stretch.end);
    stretches.push(stretch.start..middle);
}

async fn put_rows(
    tx: &mut PostgresTransaction<'_>,
    overlay: &mut Overlay,
    id: TableId,
    refused: &mut Vec<(RowId, String)>,
) -> Result<(), Failure> {
    let table = overlay.table(id);
    let mut guarded = None;
    let (mut new, mut others) = (Vec::new(), Vec::new());
    for (key, change) in &overlay.changes.tables[id.0] {
        if let Some(RowChange::Put { version, tuple }) = &change.row {
            // One that was there and is gone by now was deleted above.
            let to = if is_there(table, key) { &mut others } else { &mut new };
            to.push((tuple.clone(), key, version));
        }
    }
    let way = match (table.is_guarded, table.is_exact) {
        (true, _) => Way::Guarded,
        (false, true) => Way::Copy,
        (false, false) => Way::Upsert,
    };
    for (rows, way) in [(&mut new, way), (&mut others, Way::Upsert)] {
        // In the order of the pass, which is that of the keys.
        rows.sort_unstable_by_key(|(tuple, ..)| tuple.start);
        let tuples: Vec<Range<usize>> = rows.iter().map(|(tuple, ..)| tuple.clone()).collect();
        let put = put_tuples(tx, table, &overlay.changes.tuples, &tuples, way).await?;
        for (at, problem) in put.refused {
            let (_, key, version) = &rows[at];
            refused.push(((id, (*key).clone(), (*version).clone()), problem));
        }
        if way == Way::Guarded {
            guarded = Some(Guarded { put: tuples.len() as u64, inserted: put.inserted, updated: put.updated });
        }
    }
    if guarded.is_some() {
        overlay.changes.guarded = guarded;
    }
    Ok(())
}

async fn append_rows(tx: &mut PostgresTransaction<'_>, overlay: &Overlay) -> Result<Vec<(u64, String)>, Failure> {
    let appended = &overlay.changes.appended;
    let Some(table) = overlay.open.iter().find(|table| table.plan.is_none()) else { return Ok(Vec::new()) };
    let tuples: Vec<Range<usize>> = appended.iter().map(|(tuple, _)| tuple.clone()).collect();
    let way = if table.is_exact { Way::Copy } else { Way::Upsert };
    let put = put_tuples(tx, table, &overlay.changes.tuples, &tuples, way).await?;
    Ok(put.refused.into_iter().map(|(at, problem)| (appended[at].1, problem)).collect())
}

/// Brings tuples into a table; those that it refuses are found, with what the database says.
async fn put_tuples(
    tx: &mut PostgresTransaction<'_>,
    table: &Open,
    bytes: &[u8],
    tuples: &[Range<usize>],
    way: Way,
) -> Result<Put, Failure> {
    let mut put = Put::default();
    if tuples.is_empty() {
        return Ok(put);
    }
    let mut stretches = vec![(0..tuples.len(), way)];
    while let Some((stretch, way)) = stretches.pop() {
        let inner = tx.savepoint("rows").await?;
        match put_stretch(&inner, table, bytes, &tuples[stretch.clone()], way).await {
            Ok((inserted, updated)) => {
                inner.commit().await?;
                put.inserted += inserted;
                put.updated += updated;
            }
            Err(Failure::Postgres(error)) => {
                let fault = row_fault(&error);
                inner.rollback().await?;
                let Some(problem) = fault else { return Err(error.into()) };
                if stretch.len() > 1 {
                    let mut halves = Vec::new();
                    halve(stretch, &mut halves);
                    stretches.extend(halves.into_iter().map(|half| (half, way)));
                } else if way == Way::Copy && table.plan.is_some() {
                    // Somebody else may have put a row with this key there meanwhile.
                    stretches.push((stretch, Way::Upsert));
                } else {
                    put.refused.push((stretch.start, problem));
                }
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(put)
}

/// How many rows are new and how many replaced another, where that is counted.
async fn put_stretch(
    tx: &PostgresTransaction<'_>,
    table: &Open,
    bytes: &[u8],
    tuples: &[Range<usize>],
    way: Way,
) -> Result<(u64, u64), Failure> {
    let shape = table.shape.as_ref().expect("it is loaded where rows are written");
    let columns = tuple_columns(table.plan.as_deref(), shape);
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(", ");
    if way == Way::Copy {
        copy(tx, &format!("COPY {} ({names}) FROM STDIN (FORMAT binary)", table.name), bytes, tuples).await?;
        return Ok((0, 0));
    }
    let mut declared = String::new();
    for (name, kind) in &columns {
        let comma = if declared.is_empty() { "" } else { ", " };
        write!(declared, "{comma}{name} {kind}").expect(TO_STRING);
    }
    // Its name tells its columns, so one that the session has already is right.
    let hash = Sha256::digest(format!("{} {declared}", table.name).as_bytes());
    let stage = format!("pg_temp._waybill_stage_{}", super::super::hex(hash.get(..12).unwrap_or_default()));
    tx.batch_execute(&format!(
        "CREATE TEMPORARY TABLE IF NOT EXISTS {} ({declared}) ON COMMIT DELETE ROWS; TRUNCATE {stage}",
        stage.trim_start_matches("pg_temp.")
    ))
    .await?;
    copy(tx, &format!("COPY {stage} ({names}) FROM STDIN (FORMAT binary)"), bytes, tuples).await?;
    let conflict = match &table.plan {
        Some(plan) => {
            let key = key_columns(plan);
            let skipped = plan.key().count();
            let set: Vec<_> =
                columns.iter().skip(skipped).map(|(name, _)| format!("{name} = excluded.{name}")).collect();
            format!(
                " ON CONFLICT ({key}) DO UPDATE SET {} WHERE t.{VERSION} IS NULL OR t.{VERSION} < excluded.{VERSION}",
                set.join(", ")
            )
        }
        None => String::new(),
    };
    let sql = format!("INSERT INTO {} AS t ({names}) SELECT {names} FROM {stage}{conflict}", table.name);
    if way == Way::Upsert {
        tx.batch_execute(&sql).await?;
        return Ok((0, 0));
    }
    // A row that replaced another carries the lock under which it did.
    let counted = format!(
        "WITH put AS ({sql} RETURNING t.xmax = 0 AS is_new)
         SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new) FROM put"
    );
    let row = tx.query_one(&tx.prepare_cached(&counted).await?, &[]).await?;
    Ok((row.get::<_, i64>(0).cast_unsigned(), row.get::<_, i64>(1).cast_unsigned()))
}

async fn copy(tx: &PostgresTransaction<'_>, sql: &str, bytes: &[u8], tuples: &[Range<usize>]) -> Result<(), Failure> {
    let sink = tx.copy_in::<_, Bytes>(sql).await?;
    pin_mut!(sink);
    let mut chunk = BytesMut::with_capacity(CHUNK + 4096);
    chunk.put_slice(HEADER);
    for tuple in tuples {
        chunk.put_slice(bytes.get(tuple.clone()).unwrap_or_default());
        if chunk.len() >= CHUNK {
            sink.send(chunk.split().freeze()).await?;
        }
    }
    chunk.put_slice(TRAILER);
    sink.send(chunk.freeze()).await?;
    sink.finish().await?;
    Ok(())
}

/// Gives the deletions that cannot be remembered: their keys may be longer than an index takes.
async fn write_tombstones(
    tx: &mut PostgresTransaction<'_>,
    overlay: &Overlay,
    now: &str,
) -> Result<Vec<(RowId, String)>, Failure> {
    let mut come = Vec::new();
    let (mut gone_entities, mut gone_keys) = (Vec::new(), Vec::new());
    for (at, (table, changes)) in overlay.open.iter().zip(&overlay.changes.tables).enumerate() {
        for (key, change) in changes {
            match &change.tombstone {
                Some(Some(version)) => come.push((TableId(at), key.as_str(), version.as_slice())),
                Some(None) if table.known(key).is_some_and(|known| known.tombstone.is_some()) => {
                    gone_entities.push(table.entity());
                    gone_keys.push(key.as_str());
                }
                Some(None) | None => {}
            }
        }
    }
    let mut halves = Halves::of(come.len());
    while let Some(stretch) = halves.next() {
        let inner = tx.savepoint("rows").await?;
        match bury(&inner, overlay, come.get(stretch.clone()).unwrap_or_default(), now).await {
            Ok(()) => inner.commit().await?,
            Err(error) => {
                inner.rollback().await?;
                halves.failed(stretch, error)?;
            }
        }
    }
    if !gone_keys.is_empty() {
        let sql = "DELETE FROM _waybill_tombstone t USING unnest($1::text[], $2::text[]) AS u(e, k)
                   WHERE t.entity = u.e AND t.key = u.k";
        tx.execute(&tx.prepare_cached(sql).await?, &[&gone_entities, &gone_keys]).await?;
    }
    let refused = halves.refused.into_iter().map(|(at, problem)| {
        let (id, key, version) = come[at];
        ((id, key.to_owned(), version.to_owned()), format!("its deletion cannot be remembered: {problem}"))
    });
    Ok(refused.collect())
}

async fn bury(
    tx: &PostgresTransaction<'_>,
    overlay: &Overlay,
    come: &[(TableId, &str, &[u8])],
    now: &str,
) -> Result<(), tokio_postgres::Error> {
    let entities: Vec<&str> = come.iter().map(|(id, ..)| overlay.table(*id).entity()).collect();
    let keys: Vec<&str> = come.iter().map(|(_, key, _)| *key).collect();
    let versions: Vec<&[u8]> = come.iter().map(|(.., version)| *version).collect();
    let sql = "INSERT INTO _waybill_tombstone (entity, key, version, deleted_at)
               SELECT e, k, v, $4::text::timestamptz FROM unnest($1::text[], $2::text[], $3::bytea[]) AS u(e, k, v)
               ON CONFLICT (entity, key) DO UPDATE SET version = excluded.version, deleted_at = excluded.deleted_at";
    tx.execute(&tx.prepare_cached(sql).await?, &[&entities, &keys, &versions, &now]).await?;
    Ok(())
}

/// Gives the rows that cannot be parked: the key that they wait for may be longer than an index takes.
async fn write_parked(
    tx: &mut PostgresTransaction<'_>,
    overlay: &Overlay,
    now: &str,
) -> Result<Vec<(RowId, String)>, Failure> {
    let changes = &overlay.changes;
    if !changes.unparked.is_empty() {
        let sql = "DELETE FROM _waybill_parked WHERE id = ANY ($1)";
        tx.execute(&tx.prepare_cached(sql).await?, &[&changes.unparked]).await?;
    }
    if !changes.waits.is_empty() {
        let ids: Vec<i64> = changes.waits.iter().map(|wait| wait.id).collect();
        let entities: Vec<&str> = changes.waits.iter().map(|wait| overlay.table(wait.missing.0).entity()).collect();
        let keys: Vec<String> = changes.waits.iter().map(|wait| without_nul(&wait.missing.1)).collect();
        let without: Vec<Option<&str>> = changes.waits.iter().map(|wait| wait.without.as_deref()).collect();
        let sql = "UPDATE _waybill_parked p SET missing_entity = u.e, missing_key = u.k, without = u.w
                   FROM unnest($1::int8[], $2::text[], $3::text[], $4::text[]) AS u(i, e, k, w) WHERE p.id = u.i";
        tx.execute(&tx.prepare_cached(sql).await?, &[&ids, &entities, &keys, &without]).await?;
    }
    let (mut gone_entities, mut gone_keys) = (Vec::new(), Vec::new());
    let mut come = Vec::new();
    // In the order in which they came, which is the one in which they are listed.
    let mut in_order: Vec<_> = changes.parked.iter().collect();
    in_order.sort_unstable_by_key(|(_, parked)| parked.as_ref().map(|parked| (&parked.file, parked.row)));
    for ((id, key), parked) in in_order {
        match parked {
            Some(parked) => come.push((*id, key.as_str(), parked)),
            None => {
                gone_entities.push(overlay.table(*id).entity());
                gone_keys.push(key.as_str());
            }
        }
    }
    if !gone_keys.is_empty() {
        let sql = "DELETE FROM _waybill_parked p USING unnest($1::text[], $2::text[]) AS u(e, k)
                   WHERE p.entity = u.e AND p.key = u.k";
        tx.execute(&tx.prepare_cached(sql).await?, &[&gone_entities, &gone_keys]).await?;
    }
    let mut halves = Halves::of(come.len());
    while let Some(stretch) = halves.next() {
        let inner = tx.savepoint("rows").await?;
        match park(&inner, overlay, come.get(stretch.clone()).unwrap_or_default(), now).await {
            Ok(()) => inner.commit().await?,
            Err(error) => {
                inner.rollback().await?;
                halves.failed(stretch, error)?;
            }
        }
    }
    let refused = halves.refused.into_iter().map(|(at, problem)| {
        let (id, key, parked) = come[at];
        ((id, key.to_owned(), parked.version.clone()), format!("it cannot wait for what it refers to: {problem}"))
    });
    Ok(refused.collect())
}

async fn park(
    tx: &PostgresTransaction<'_>,
    overlay: &Overlay,
    come: &[(TableId, &str, &ParkedRow)],
    now: &str,
) -> Result<(), tokio_postgres::Error> {
    let entities: Vec<&str> = come.iter().map(|(id, ..)| overlay.table(*id).entity()).collect();
    let keys: Vec<&str> = come.iter().map(|(_, key, _)| *key).collect();
    let versions: Vec<&[u8]> = come.iter().map(|(.., parked)| parked.version.as_slice()).collect();
    let missing_entities: Vec<&str> =
        come.iter().map(|(.., parked)| overlay.table(parked.missing.0).entity()).collect();
    let missing_keys: Vec<String> = come.iter().map(|(.., parked)| without_nul(&parked.missing.1)).collect();
    let rows: Vec<&str> = come.iter().map(|(.., parked)| parked.json.as_str()).collect();
    let files: Vec<&str> = come.iter().map(|(.., parked)| parked.file.as_str()).collect();
    let numbers: Vec<i64> = come.iter().map(|(.., parked)| parked.row).collect();
    let sql = "INSERT INTO _waybill_parked
                   (entity, key, version, missing_entity, missing_key, row, file, file_row, parked_at)
               SELECT e, k, v, me, mk, r, f, n, $9::text::timestamptz
               FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::text[], $6::text[], $7::text[],
                           $8::int8[]) WITH ORDINALITY AS u(e, k, v, me, mk, r, f, n, o) ORDER BY o
               ON CONFLICT (entity, key) DO UPDATE SET version = excluded.version,
                   missing_entity = excluded.missing_entity, missing_key = excluded.missing_key, row = excluded.row,
                   file = excluded.file, file_row = excluded.file_row, parked_at = excluded.parked_at, without = NULL";
    tx.execute(
        &tx.prepare_cached(sql).await?,
        &[&entities, &keys, &versions, &missing_entities, &missing_keys, &rows, &files, &numbers, &now],
    )
    .await?;
    Ok(())
}

/// A key that no row can have, as PostgreSQL can write it.
fn without_nul(key: &str) -> String {
    key.replace('\0', "\u{fffd}")
}

async fn write_bad_rows(tx: &PostgresTransaction<'_>, changes: &Changes, now: &str) -> Result<(), Failure> {
    if changes.bad.is_empty() {
        return Ok(());
    }
    let files: Vec<&str> = changes.bad.iter().map(|bad| bad.file.as_str()).collect();
    let rows: Vec<i64> = changes.bad.iter().map(|bad| bad.row).collect();
    let offsets: Vec<Option<i64>> = changes.bad.iter().map(|bad| bad.offset).collect();
    let reasons: Vec<&str> = changes.bad.iter().map(|bad| bad.reason.as_str()).collect();
    let problems: Vec<&str> = changes.bad.iter().map(|bad| bad.problem.as_str()).collect();
    let bytes: Vec<&[u8]> = changes.bad.iter().map(|bad| bad.bytes.as_slice()).collect();
    let keys: Vec<Option<&str>> = changes.bad.iter().map(|bad| bad.key.as_deref()).collect();
    let sql = "INSERT INTO _waybill_bad_row (file, row, byte_offset, reason, problem, bytes, found_at, key)
               SELECT DISTINCT ON (f, r) f, r, o, c, p, b, $7::text::timestamptz, k
               FROM unnest($1::text[], $2::int8[], $3::int8[], $4::text[], $5::text[], $6::bytea[], $8::text[])
                   AS u(f, r, o, c, p, b, k)
               ON CONFLICT (file, row) DO UPDATE SET reason = excluded.reason, problem = excluded.problem,
                   bytes = excluded.bytes, found_at = excluded.found_at, key = excluded.key";
    let sql = tx.prepare_cached(sql).await?;
    tx.execute(&sql, &[&files, &rows, &offsets, &reasons, &problems, &bytes, &now, &keys]).await?;
    Ok(())
}
