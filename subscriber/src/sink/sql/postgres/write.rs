//! What a pass says, written in bulk. Rows whose keys are new are copied straight into the table; others go through a
//! temporary table and one upsert. What the database refuses is found by halving, and told to the next pass.

use std::{fmt::Write as _, ops::Range};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt as _, pin_mut};
use sha2::{Digest as _, Sha256};
use waybill_store::{
    PostgresConnection, PostgresTransaction,
    tokio_postgres::{self, SimpleQueryMessage, error::SqlState},
};

use super::{
    super::{
        Failure,
        catalogue::{FOREIGN_KEY_ADVICE, TO_STRING, VERSION, key_columns},
        tables::TableId,
    },
    encode::{HEADER, TRAILER},
    fetch::{Keys, same_key},
    overlay::{Change, Changes, Guarded, Held, Open, Overlay, ParkedRow, RowChange, RowId, Wait},
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
    /// Left out by a trigger of the user's.
    skipped: u64,
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
        overlay.refused(refused);
        overlay.refused_appended.extend(refused_appended);
        return Ok(false);
    }
    let mut refused = write_tombstones(&mut tx, overlay, now).await?;
    refused.extend(write_parked(&mut tx, overlay, now).await?);
    if !refused.is_empty() {
        tx.rollback().await?;
        overlay.refused(refused);
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
fn row_fault(error: &tokio_postgres::Error) -> Option<RowFault> {
    let error = error.as_db_error()?;
    let class = error.code().code().get(..2)?;
    (matches!(class, "21" | "22" | "23" | "44" | "54" | "P0") || !CLASSES.contains(&class)).then(|| {
        let wants_another = *error.code() == SqlState::FOREIGN_KEY_VIOLATION;
        let mut problem = match error.detail() {
            Some(detail) => format!("{} ({detail})", error.message()),
            None => error.message().to_owned(),
        };
        if wants_another {
            problem.push_str(FOREIGN_KEY_ADVICE);
        }
        RowFault { problem, wants_another }
    })
}

/// Why the database does not take a row.
#[derive(Debug)]
struct RowFault {
    problem: String,
    /// It may take it once another one is written.
    wants_another: bool,
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
    refused.extend(halves.refused().map(|(at, problem)| {
        let (key, version) = gone[at];
        ((id, key.to_owned(), version.clone()), problem)
    }));
    Ok(())
}

fn is_there(table: &Open, key: &str) -> bool {
    table.known(key).is_some_and(|known| matches!(known.row, Held::Row(_)))
}

/// Finds the rows that the database refuses among many, by halving what fails. One that only wanted another one to be
/// there, or gone, which came after it, is tried again.
struct Halves {
    /// Still to be tried, the last one first.
    stretches: Vec<Range<usize>>,
    /// Single rows, and what is wrong with them.
    faults: Vec<(usize, RowFault)>,
    /// Faults when the last round began.
    faults_before: usize,
}

impl Halves {
    fn of(rows: usize) -> Self {
        let stretches = (rows > 0).then_some(0..rows).into_iter().collect();
        Self { stretches, faults: Vec::new(), faults_before: rows }
    }

    /// What is to be tried next.
    fn next(&mut self) -> Option<Range<usize>> {
        if self.stretches.is_empty() && self.faults.len() < self.faults_before {
            self.faults_before = self.faults.len();
            let again = self.faults.extract_if(.., |(_, fault)| fault.wants_another);
            self.stretches.extend(again.map(|(at, _)| at..at + 1));
            self.stretches.reverse();
        }
        self.stretches.pop()
    }

    /// Of a stretch that failed, and was taken back.
    ///
    /// # Errors
    /// The error, when it is not about what a row is.
    fn failed(&mut self, stretch: Range<usize>, error: tokio_postgres::Error) -> Result<(), Failure> {
        let Some(fault) = row_fault(&error) else { return Err(error.into()) };
        if stretch.len() > 1 {
            // The first half is looked at first.
            let middle = stretch.start + stretch.len() / 2;
            self.stretches.push(middle..stretch.end);
            self.stretches.push(stretch.start..middle);
        } else {
            self.faults.push((stretch.start, fault));
        }
        Ok(())
    }

    /// Rows that are not taken, whatever came before them.
    fn refused(self) -> impl Iterator<Item = (usize, String)> {
        self.faults.into_iter().map(|(at, fault)| (at, fault.problem))
    }
}

async fn put_rows(
    tx: &mut PostgresTransaction<'_>,
    overlay: &mut Overlay,
    id: TableId,
    refused: &mut Vec<(RowId, String)>,
) -> Result<(), Failure> {
    let table = overlay.table(id);
    let (mut guarded, mut skipped) = (None, Vec::new());
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
        let staged = overlay.changes.staged.as_deref().filter(|_| way == Way::Guarded);
        let put = put_tuples(tx, table, &overlay.changes.tuples, &tuples, (way, staged)).await?;
        for (at, problem) in put.refused {
            let (_, key, version) = &rows[at];
            refused.push(((id, (*key).clone(), (*version).clone()), problem));
        }
        skipped.push(put.skipped);
        if way == Way::Guarded {
            guarded = Some(Guarded { put: tuples.len() as u64, inserted: put.inserted, updated: put.updated });
        }
    }
    if let [new, known] = skipped[..] {
        overlay.changes.skipped.new += new;
        overlay.changes.skipped.known += known;
    }
    if guarded.is_some() {
        overlay.changes.guarded = guarded;
    }
    Ok(())
}

async fn append_rows(tx: &mut PostgresTransaction<'_>, overlay: &mut Overlay) -> Result<Vec<(u64, String)>, Failure> {
    let appended = &overlay.changes.appended;
    let Some(table) = overlay.open.iter().find(|table| table.plan.is_none()) else { return Ok(Vec::new()) };
    let tuples: Vec<Range<usize>> = appended.iter().map(|(tuple, _)| tuple.clone()).collect();
    let way = if table.is_exact { Way::Copy } else { Way::Upsert };
    let put = put_tuples(tx, table, &overlay.changes.tuples, &tuples, (way, None)).await?;
    let refused = put.refused.into_iter().map(|(at, problem)| (appended[at].1, problem)).collect();
    overlay.changes.skipped.new += put.skipped;
    Ok(refused)
}

/// Brings tuples into a table; those that it refuses are found, with what the database says. `staged` is a temporary table
/// that holds all of them already.
async fn put_tuples(
    tx: &mut PostgresTransaction<'_>,
    table: &Open,
    bytes: &[u8],
    tuples: &[Range<usize>],
    (way, mut staged): (Way, Option<&str>),
) -> Result<Put, Failure> {
    let mut put = Put::default();
    let mut halves = Halves::of(tuples.len());
    while let Some(stretch) = halves.next() {
        let ways: &[Way] = match way {
            // Somebody else may have put a row with this key there meanwhile.
            Way::Copy if stretch.len() == 1 && table.plan.is_some() => &[Way::Copy, Way::Upsert],
            Way::Copy => &[Way::Copy],
            Way::Upsert => &[Way::Upsert],
            Way::Guarded => &[Way::Guarded],
        };
        let mut failed = None;
        for way in ways {
            let inner = tx.savepoint("rows").await?;
            match put_stretch(&inner, table, bytes, &tuples[stretch.clone()], (*way, staged.take())).await {
                Ok(Stretch { inserted, updated, skipped }) => {
                    inner.commit().await?;
                    put.inserted += inserted;
                    put.updated += updated;
                    put.skipped += skipped;
                    failed = None;
                    break;
                }
                Err(Failure::Postgres(error)) => {
                    inner.rollback().await?;
                    failed = Some(error);
                }
                Err(failure) => return Err(failure),
            }
        }
        if let Some(error) = failed {
            halves.failed(stretch, error)?;
        }
    }
    put.refused = halves.refused().collect();
    Ok(put)
}

/// How many rows are new and how many replaced another, where that is counted; elsewhere how many did not come in.
#[derive(Debug, Default)]
struct Stretch {
    inserted: u64,
    updated: u64,
    skipped: u64,
}

impl Stretch {
    fn of(tuples: usize, written: u64) -> Self {
        Self { skipped: (tuples as u64).saturating_sub(written), ..Self::default() }
    }
}

async fn put_stretch(
    tx: &PostgresTransaction<'_>,
    table: &Open,
    bytes: &[u8],
    tuples: &[Range<usize>],
    (way, staged): (Way, Option<&str>),
) -> Result<Stretch, Failure> {
    let shape = table.shape.as_ref().expect("it is loaded where rows are written");
    let columns = tuple_columns(table.plan.as_deref(), shape);
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(", ");
    if way == Way::Copy {
        let sql = format!("COPY {} ({names}) FROM STDIN (FORMAT binary)", table.name);
        return Ok(Stretch::of(tuples.len(), copy(tx, &sql, bytes, tuples).await?));
    }
    let stage = Stage::new(table, &columns);
    if staged != Some(stage.name.as_str()) {
        tx.batch_execute(&stage.empty()).await?;
        copy(tx, &format!("COPY {} ({names}) FROM STDIN (FORMAT binary)", stage.name), bytes, tuples).await?;
    }
    let stage = stage.name;
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
        let answers = tx.simple_query(&sql).await?;
        let written = answers.iter().rev().find_map(|answer| match answer {
            SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
            _ => None,
        });
        return Ok(Stretch::of(tuples.len(), written.unwrap_or_default()));
    }
    // A row that replaced another carries the lock under which it did.
    let counted = format!(
        "WITH put AS ({sql} RETURNING t.xmax = 0 AS is_new)
         SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new) FROM put"
    );
    let row = tx.query_one(&tx.prepare_cached(&counted).await?, &[]).await?;
    let count = |at| row.get::<_, i64>(at).cast_unsigned();
    Ok(Stretch { inserted: count(0), updated: count(1), skipped: 0 })
}

/// The temporary table through which tuples pass.
struct Stage {
    name: String,
    declared: String,
}

impl Stage {
    fn new(table: &Open, columns: &[(String, &'static str)]) -> Self {
        let mut declared = String::new();
        for (name, kind) in columns {
            let comma = if declared.is_empty() { "" } else { ", " };
            write!(declared, "{comma}{name} {kind}").expect(TO_STRING);
        }
        // Its name tells its columns, so one that the session has already is right.
        let hash = Sha256::digest(format!("{} {declared}", table.name).as_bytes());
        let name = format!("pg_temp._waybill_stage_{}", super::super::hex(hash.get(..12).unwrap_or_default()));
        Self { name, declared }
    }

    /// Statements that make it, or take away what an earlier batch left in it.
    fn empty(&self) -> String {
        let Self { name, declared } = self;
        format!(
            "CREATE TEMPORARY TABLE IF NOT EXISTS {} ({declared}); TRUNCATE {name}",
            name.trim_start_matches("pg_temp.")
        )
    }
}

/// Copies the tuples of the guarded table before the transaction that writes them, in the same session.
pub(super) async fn stage(
    connection: &mut PostgresConnection,
    overlay: &mut Overlay,
) -> Result<(), tokio_postgres::Error> {
    let Some((at, table)) = overlay.open.iter().enumerate().find(|(_, table)| table.is_guarded) else { return Ok(()) };
    let Some(shape) = &table.shape else { return Ok(()) };
    let columns = tuple_columns(table.plan.as_deref(), shape);
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let stage = Stage::new(table, &columns);
    let mut tuples: Vec<Range<usize>> = overlay.changes.tables[at].values().filter_map(put_tuple).collect();
    tuples.sort_unstable_by_key(|tuple| tuple.start);

    let tx = connection.transaction().await?;
    // Nothing of it has to outlive the session.
    tx.batch_execute(&format!("SET LOCAL synchronous_commit = off; {}", stage.empty())).await?;
    let copying = format!("COPY {} ({}) FROM STDIN (FORMAT binary)", stage.name, names.join(", "));
    copy(&tx, &copying, &overlay.changes.tuples, &tuples).await?;
    tx.commit().await?;
    overlay.changes.staged = Some(stage.name);
    Ok(())
}

fn put_tuple(change: &Change) -> Option<Range<usize>> {
    match &change.row {
        Some(RowChange::Put { tuple, .. }) => Some(tuple.clone()),
        Some(RowChange::Gone { .. }) | None => None,
    }
}

/// Gives how many rows came in.
async fn copy(
    tx: &PostgresTransaction<'_>,
    sql: &str,
    bytes: &[u8],
    tuples: &[Range<usize>],
) -> Result<u64, tokio_postgres::Error> {
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
    sink.finish().await
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
    let refused = halves.refused().map(|(at, problem)| {
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
    let in_the_database =
        |id: TableId, key: &str| overlay.table(id).known(key)?.parked.as_ref().map(|parked| parked.id);
    let forgotten = changes.parked.iter().filter(|(_, parked)| parked.is_none());
    let forgotten = forgotten.filter_map(|((id, key), _)| in_the_database(*id, key));
    let gone: Vec<i64> = changes.unparked.iter().copied().chain(forgotten).collect();
    if let (Some(first), Some(last)) = (gone.iter().min(), gone.iter().max()) {
        // Rows that are released lie together. Without the bounds the server reads all that wait to find some thousand.
        let sql = "DELETE FROM _waybill_parked WHERE id = ANY ($1) AND id BETWEEN $2 AND $3";
        tx.execute(&tx.prepare_cached(sql).await?, &[&gone, first, last]).await?;
    }
    let mut refused = Vec::new();
    let cannot_wait = |problem: String| format!("it cannot wait for what it refers to: {problem}");
    let mut halves = Halves::of(changes.waits.len());
    while let Some(stretch) = halves.next() {
        let inner = tx.savepoint("rows").await?;
        match wait(&inner, overlay, changes.waits.get(stretch.clone()).unwrap_or_default()).await {
            Ok(()) => inner.commit().await?,
            Err(error) => {
                inner.rollback().await?;
                halves.failed(stretch, error)?;
            }
        }
    }
    refused.extend(halves.refused().map(|(at, problem)| (changes.waits[at].row.clone(), cannot_wait(problem))));
    let mut come: Vec<_> =
        changes.parked.iter().filter_map(|((id, key), parked)| Some((*id, key.as_str(), parked.as_ref()?))).collect();
    // In the order in which they came, which is the one in which they are listed.
    come.sort_unstable_by_key(|(.., parked)| (&parked.file, parked.row));
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
    refused.extend(halves.refused().map(|(at, problem)| {
        let (id, key, parked) = come[at];
        ((id, key.to_owned(), parked.version.clone()), cannot_wait(problem))
    }));
    Ok(refused)
}

async fn wait(tx: &PostgresTransaction<'_>, overlay: &Overlay, waits: &[Wait]) -> Result<(), tokio_postgres::Error> {
    let ids: Vec<i64> = waits.iter().map(|wait| wait.id).collect();
    let entities: Vec<&str> = waits.iter().map(|wait| overlay.table(wait.missing.0).entity()).collect();
    let keys: Vec<String> = waits.iter().map(|wait| without_nul(&wait.missing.1)).collect();
    let without: Vec<Option<&str>> = waits.iter().map(|wait| wait.without.as_deref()).collect();
    let sql = "UPDATE _waybill_parked p SET missing_entity = u.e, missing_key = u.k, without = u.w
               FROM unnest($1::int8[], $2::text[], $3::text[], $4::text[]) AS u(i, e, k, w) WHERE p.id = u.i";
    tx.execute(&tx.prepare_cached(sql).await?, &[&ids, &entities, &keys, &without]).await?;
    Ok(())
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
pub(super) fn without_nul(key: &str) -> String {
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
