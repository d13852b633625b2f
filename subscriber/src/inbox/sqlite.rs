//! The inbox in one SQLite file: no server, many processes on one machine.
//!
//! Each process that works the inbox holds a shared lock on `FILE.workers`. Whoever opens it while nobody holds that lock
//! knows that every lease is a dead worker's, and ends them at once; leases of a live process end by their time only.

mod due;
mod retention;
mod row;
mod sequences;

use std::{fs::File, path::Path, sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::time::Instant;
use waybill_contracts::{MANIFEST_TYPE, MetadataError, Reason};
use waybill_store::{
    Migration, OpenError, Schema, Sqlite, SqliteOptions, StoreError,
    rusqlite::{
        self, OptionalExtension, Row, Transaction, named_params, params,
        types::{Value, ValueRef},
    },
    signed,
};

use self::{
    due::{Chosen, Due},
    row::{ROW_COLUMNS, count, instant, nanos, nanos_of, parse_column, parse_optional, read_file, read_row, span},
};
use super::{
    AT_RISK, Admitted, Announced, Arrival, Asked, AtRisk, Backlog, Beat, BlobSeen, Counts, End, FileKey, HistoryEntry,
    Inbox, InboxError, InboxRow, Lease, Leased, ListFilter, Pending, Place, PruneStep, Pruned, Retention,
    SequenceNamed, SequenceSeen, State, TypeBacklog, TypeTotals, Wanted, WorkerId, WorkerSeen,
    health::AT_RISK_NAMED,
    refuse_older,
    stored::{
        Ending, FORGOTTEN_AFTER, HISTORY_KEPT, OTHER_TYPE, StoredFile, UNKNOWN_TO_SINK, WANTED_AGAIN, WORKERS_MAX,
        not_wanted, trouble, trusted_until, unreadable,
    },
    turns::Turns,
};

/// Files of one type that are skipped in one transaction: few enough that nobody notices who waits for it.
const SKIPPED_AT_ONCE: u32 = 1_000;
/// `WBIN` in ASCII.
const APPLICATION_ID: i32 = 0x5742_494e;

pub(super) const SCHEMA: Schema = Schema {
    application_id: APPLICATION_ID,
    name: "inbox",
    migrations: &[
        Migration { name: "inbox, its history and known places", sql: include_str!("sqlite_0001.sql") },
        Migration { name: "filtered rows are counted", sql: include_str!("sqlite_0002.sql") },
        Migration { name: "rows that could not be used are counted", sql: include_str!("sqlite_0003.sql") },
        Migration {
            name: "what waits is summed up, and workers tell of themselves",
            sql: include_str!("sqlite_0004.sql"),
        },
        Migration { name: "types take turns, and urgent files come first", sql: include_str!("sqlite_0005.sql") },
        Migration { name: "a file goes on at a checkpoint", sql: include_str!("sqlite_0006.sql") },
        Migration {
            name: "numbers tell what is missing, and what is over can be pruned",
            sql: include_str!("sqlite_0007.sql"),
        },
        Migration { name: "manifests tell of numbers", sql: include_str!("sqlite_0008.sql") },
        Migration { name: "what was announced is summed up", sql: include_str!("sqlite_0009.sql") },
        Migration { name: "bursts are summed up", sql: include_str!("sqlite_0010.sql") },
    ],
    shared_with_user: false,
};

/// Adds the new rows, from an id on, to the sums that triggers keep of later changes.
pub(super) const SUM_UP: [&str; 2] = [
    "INSERT INTO tally
         SELECT state, coalesce(blob_type, ''), count(*), total(filtered_rows), total(bad_rows)
         FROM inbox NOT INDEXED WHERE id >= ?1 GROUP BY state, coalesce(blob_type, '')
     ON CONFLICT DO UPDATE SET messages = messages + excluded.messages,
         filtered_rows = filtered_rows + excluded.filtered_rows, bad_rows = bad_rows + excluded.bad_rows",
    "INSERT INTO announced
         SELECT blob_type, count(*), total(state = 'skipped'),
             total(CASE state WHEN 'done' THEN rows ELSE announced_rows END),
             total(coalesce(stored_bytes, announced_bytes)), count(coalesce(stored_bytes, announced_bytes))
         FROM inbox NOT INDEXED
         WHERE id >= ?1 AND blob_type IS NOT NULL AND file_key IS NOT NULL AND state <> 'duplicate' GROUP BY blob_type
     ON CONFLICT DO UPDATE SET files = files + excluded.files, skipped = skipped + excluded.skipped,
         rows = rows + excluded.rows, bytes = bytes + excluded.bytes,
         files_with_bytes = files_with_bytes + excluded.files_with_bytes",
];

/// How a [`SqliteInbox`] behaves.
#[derive(Debug, Clone)]
pub struct SqliteInboxOptions {
    /// How long a lease lasts unless renewed; default 60 s.
    pub lease: Duration,
    /// The clock.
    pub now: fn() -> OffsetDateTime,
}

impl Default for SqliteInboxOptions {
    fn default() -> Self {
        Self { lease: Duration::from_secs(60), now: OffsetDateTime::now_utc }
    }
}

/// An inbox in a SQLite file. Clones share it.
#[derive(Debug, Clone)]
pub struct SqliteInbox {
    db: Sqlite,
    options: SqliteInboxOptions,
    turns: Arc<Turns>,
    /// Held for as long as this process may hold leases.
    _workers: Option<Arc<File>>,
}

impl SqliteInbox {
    /// Opens or creates the file and, when no other process works it, ends the leases that dead workers left.
    ///
    /// # Errors
    /// [`InboxError::Open`] when it is not an inbox, newer than this program, or damaged; [`InboxError::WorkedByOlder`];
    /// [`InboxError::Unavailable`] when another process holds the file, or the disk is full.
    pub async fn open(path: &Path, options: SqliteInboxOptions) -> Result<Self, InboxError> {
        let path = path.to_owned();
        let (db, workers, alone) = tokio::task::spawn_blocking(move || {
            let mut beside = path.as_os_str().to_owned();
            beside.push(".workers");
            // And whether nobody else has it.
            let lock = || -> Result<(File, bool), InboxError> {
                let open = || File::options().create(true).truncate(false).write(true).open(&beside);
                let file = open().map_err(|error| InboxError::Open(Box::new(error)))?;
                let alone = file.try_lock().is_ok();
                Ok((file, alone))
            };
            let known = i64::from(SCHEMA.known());
            // Held until the schema is this one's.
            let older = SCHEMA.look(&path).filter(|found| *found < known);
            let before = older.map(|found| Ok::<_, InboxError>((found, lock()?))).transpose()?;
            if let Some((found, (_, false))) = before
                // Another program of this version may just have brought it up.
                && SCHEMA.look(&path).is_none_or(|found| found < known)
            {
                // An older program would go on as if nothing had changed, and not sum up what it saves.
                return Err(InboxError::WorkedByOlder { path: path.display().to_string(), found, known });
            }
            let db = Sqlite::open(&path, &SCHEMA, SqliteOptions::default()).map_err(not_open)?;
            drop(before);
            let (file, alone) = lock()?;
            Ok::<_, InboxError>((db, file, alone))
        })
        .await
        .map_err(|error| InboxError::Open(Box::new(error)))??;
        if alone {
            let now = nanos((options.now)());
            run(&db, move |tx| end_leases_of_the_dead(tx, now)).await?;
        }
        // From exclusive to shared: between the two another process may do what we just did; we hold no lease yet.
        let workers = tokio::task::spawn_blocking(move || {
            if alone {
                workers.unlock()?;
            }
            workers.lock_shared()?;
            Ok::<_, std::io::Error>(workers)
        })
        .await
        .map_err(|error| InboxError::Open(Box::new(error)))?
        .map_err(|error| InboxError::Open(Box::new(error)))?;
        Ok(Self { db, options, turns: Arc::default(), _workers: Some(Arc::new(workers)) })
    }

    /// Opens or creates the file only to look: its schema stays as it is, it ends no lease, and a process that works the inbox next
    /// counts as alone beside it. Whoever leases from it all the same loses its leases to such a process.
    ///
    /// # Errors
    /// As [`SqliteInbox::open`], and [`InboxError::Older`].
    pub async fn open_to_look(path: &Path) -> Result<Self, InboxError> {
        let path = path.to_owned();
        let db = tokio::task::spawn_blocking(move || {
            if let Some(version) = SCHEMA.look(&path) {
                refuse_older(version, &SCHEMA)?;
            }
            Sqlite::open(&path, &SCHEMA, SqliteOptions::default()).map_err(not_open)
        })
        .await
        .map_err(|error| InboxError::Open(Box::new(error)))??;
        Ok(Self { db, options: SqliteInboxOptions::default(), turns: Arc::default(), _workers: None })
    }

    fn now(&self) -> i64 {
        nanos((self.options.now)())
    }
}

impl Inbox for SqliteInbox {
    async fn admit(&self, burst: Vec<Arrival>) -> Result<Vec<Admitted>, InboxError> {
        let now = self.now();
        run(&self.db, move |tx| {
            let admitted =
                burst.iter().map(|arrival| admit_one(tx, arrival, now)).collect::<rusqlite::Result<Vec<_>>>()?;
            // Nobody else writes meanwhile: the new rows are those from the first one on.
            let new = admitted.iter().filter_map(|admitted| match *admitted {
                Admitted::AlreadySeen(_) => None,
                Admitted::Saved(id) | Admitted::Duplicate { id, .. } | Admitted::Quarantined(id, _) => Some(id),
            });
            if let Some(first) = new.min() {
                for sql in SUM_UP {
                    tx.prepare_cached(sql)?.execute([first])?;
                }
            }
            Ok(admitted)
        })
        .await
    }

    async fn known(&self, files: &[FileKey]) -> Result<Vec<Option<i64>>, InboxError> {
        let files = files.to_vec();
        read(&self.db, move |db| {
            let mut select = db.prepare_cached(FILE)?;
            files.iter().map(|file| select.query_row([file.as_str()], |row| row.get(0)).optional()).collect()
        })
        .await
    }

    async fn lease(&self, worker: &WorkerId, most: u32, wanted: &Wanted) -> Result<Vec<Leased>, InboxError> {
        let trusted_until = trusted_until(Instant::now(), self.options.lease);
        let now = self.now();
        let until = now + nanos_of(self.options.lease);
        let (worker, wanted, share) = (worker.clone(), wanted.clone(), self.turns.share(most));
        let (taken, urgent) = run(&self.db, move |tx| {
            let Chosen { files, urgent } = Due { tx, wanted: &wanted, now }.choose(most, &share)?;
            let mut take = tx.prepare_cached(
                "UPDATE inbox SET state = 'working', worker = ?2, leased_at = ?3, due_at = ?4, changed_at = ?3 WHERE id = ?1",
            )?;
            let mut taken = Vec::with_capacity(files.len());
            for file in files {
                let id = file.id;
                let (leased_at, until_at) = (instant(now), instant(until));
                let lease = Lease { id, worker: worker.clone(), leased_at, until: until_at, trusted_until };
                match file.leased(lease) {
                    Ok(leased) => {
                        take.execute(params![leased.lease.id, worker.0, now, until])?;
                        note(tx, leased.lease.id, now, State::Working, None, None, Some(&worker.0))?;
                        taken.push(leased);
                    }
                    // Damaged, or saved by a version that understood more: not in the way of the others.
                    Err(error) => put_aside(tx, id, &error, now)?,
                }
            }
            Ok((taken, urgent))
        })
        .await?;
        if let Some(last) = taken.get(urgent..).and_then(<[_]>::last) {
            self.turns.served(&last.waybill.metadata.blob_type);
        }
        Ok(taken)
    }

    async fn renew(&self, lease: &Lease, rows: u64) -> Result<Option<Lease>, InboxError> {
        let trusted_until = trusted_until(Instant::now(), self.options.lease);
        let now = self.now();
        let until = now + nanos_of(self.options.lease);
        let held = lease.clone();
        let renewed = run(&self.db, move |tx| {
            tx.prepare_cached(
                "UPDATE inbox SET due_at = ?4, rows = max(rows, ?5)
                 WHERE id = ?1 AND worker = ?2 AND leased_at = ?3 AND state = 'working' AND due_at > ?6",
            )?
            .execute(params![held.id, held.worker.0, nanos(held.leased_at), until, signed(rows), now])
        })
        .await?;
        Ok((renewed == 1).then(|| Lease { until: instant(until), trusted_until, ..lease.clone() }))
    }

    async fn note_blob(&self, lease: &Lease, blob: &BlobSeen) -> Result<bool, InboxError> {
        let now = self.now();
        let (held, blob) = (lease.clone(), blob.clone());
        let noted = run(&self.db, move |tx| {
            tx.prepare_cached(
                "UPDATE inbox SET blob_etag = ?4, blob_length = ?5, blob_checkpoint = ?7
                 WHERE id = ?1 AND worker = ?2 AND leased_at = ?3 AND state = 'working' AND due_at > ?6",
            )?
            .execute(params![
                held.id,
                held.worker.0,
                nanos(held.leased_at),
                blob.etag,
                signed(blob.length),
                now,
                blob.checkpoint_text()
            ])
        })
        .await?;
        Ok(noted == 1)
    }

    async fn finish(&self, lease: &Lease, end: End) -> Result<bool, InboxError> {
        let now = self.now();
        let held = lease.clone();
        run(&self.db, move |tx| finish(tx, &held, &end, now)).await
    }

    async fn skip_other_types(&self, types: &[String]) -> Result<u64, InboxError> {
        // Asked every few seconds: where there are none, only the sums are read, and nobody who writes waits.
        let types = types.to_vec();
        let others: Vec<String> = read(&self.db, move |db| {
            let (clause, values) = types_clause(&types);
            let sql = format!("SELECT blob_type FROM tally WHERE state = 'saved' AND messages > 0 AND NOT {clause}");
            db.prepare_cached(&sql)?.query_map(rusqlite::params_from_iter(values), |row| row.get(0))?.collect()
        })
        .await?;
        let mut skipped = 0;
        for blob_type in others {
            loop {
                let (now, of) = (self.now(), blob_type.clone());
                let part = run(&self.db, move |tx| skip_type(tx, &of, now)).await?;
                skipped += part;
                if part < u64::from(SKIPPED_AT_ONCE) {
                    break;
                }
            }
        }
        Ok(skipped)
    }

    async fn done_files(&self, after: i64, most: u32) -> Result<Vec<(i64, FileKey)>, InboxError> {
        read(&self.db, move |db| {
            let sql = "SELECT id, file_key FROM inbox
                       WHERE state = 'done' AND id > ?1 AND blob_type IS NOT ?3 ORDER BY id LIMIT ?2";
            db.prepare_cached(sql)?
                .query_map(params![after, most, MANIFEST_TYPE], |row| {
                    Ok((row.get(0)?, FileKey::from_stored(row.get(1)?)))
                })?
                .collect()
        })
        .await
    }

    async fn reopen(&self, ids: &[i64]) -> Result<u64, InboxError> {
        let now = self.now();
        let ids = ids.to_vec();
        run(&self.db, move |tx| {
            let mut reopened = 0;
            for id in ids {
                let changed = tx
                    .prepare_cached(
                        "UPDATE inbox SET state = 'saved', due_at = ?2, changed_at = ?2, rows = 0, bad_rows = 0, filtered_rows = NULL,
                                blob_etag = NULL, blob_length = NULL, blob_checkpoint = NULL
                         WHERE id = ?1 AND state = 'done'",
                    )?
                    .execute(params![id, now])?;
                if changed == 1 {
                    note(tx, id, now, State::Saved, None, Some(UNKNOWN_TO_SINK), None)?;
                    reopened += 1;
                }
            }
            Ok(reopened)
        })
        .await
    }

    async fn hasten(&self, ids: &[i64]) -> Result<u64, InboxError> {
        let (ids, now) = (ids.to_vec(), self.now());
        run(&self.db, move |tx| {
            let mut update =
                tx.prepare_cached("UPDATE inbox SET due_at = ?2 WHERE id = ?1 AND state = 'saved' AND due_at > ?2")?;
            ids.into_iter().map(|id| update.execute(params![id, now]).map(|changed| changed as u64)).sum()
        })
        .await
    }

    async fn retry(&self, id: i64) -> Result<Asked, InboxError> {
        const RETRY: &str =
            "UPDATE inbox SET state = 'saved', reason = NULL, problem = NULL, due_at = ?2, changed_at = ?2
             WHERE id = ?1 AND file_key IS NOT NULL AND state IN ('saved', 'quarantined', 'skipped', 'expired')";
        let now = self.now();
        run(&self.db, move |tx| {
            let changed = tx.prepare_cached(RETRY)?.execute(params![id, now])?;
            asked(tx, id, now, changed, State::Saved, WANTED_AGAIN)
        })
        .await
    }

    async fn skip(&self, id: i64, why: &str) -> Result<Asked, InboxError> {
        const SKIP: &str = "UPDATE inbox SET state = 'skipped', problem = ?3, due_at = NULL, changed_at = ?2
             WHERE id = ?1 AND state IN ('saved', 'quarantined', 'expired')";
        let (now, why) = (self.now(), not_wanted(why));
        run(&self.db, move |tx| {
            let changed = tx.prepare_cached(SKIP)?.execute(params![id, now, why])?;
            asked(tx, id, now, changed, State::Skipped, &why)
        })
        .await
    }

    async fn remember_place(&self, place: &Place) -> Result<(), InboxError> {
        let (place, now) = (place.clone(), self.now());
        run(&self.db, move |tx| {
            tx.prepare_cached("INSERT OR IGNORE INTO place (endpoint, container, first_seen_at) VALUES (?1, ?2, ?3)")?
                .execute(params![place.endpoint, place.container, now])
                .map(|_| ())
        })
        .await
    }

    async fn places(&self) -> Result<Vec<Place>, InboxError> {
        read(&self.db, |db| {
            db.prepare_cached("SELECT endpoint, container FROM place")?
                .query_map([], |row| Ok(Place { endpoint: row.get(0)?, container: row.get(1)? }))?
                .collect()
        })
        .await
    }

    async fn pending(&self, wanted: &Wanted) -> Result<Pending, InboxError> {
        let (now, wanted) = (self.now(), wanted.clone());
        read(&self.db, move |db| {
            let (clause, values) = wanted_clause(&wanted);
            // What is due is all that there is less what comes later, except where only the rows tell which are wanted.
            let total = if wanted.since.is_none() && !wanted.untried && wanted.ids.is_none() {
                format!("SELECT sum(messages) FROM tally WHERE {clause} state IN ('saved', 'working')")
            } else {
                format!("SELECT count(*) FROM inbox WHERE {clause} due_at IS NOT NULL")
            };
            // Those that are worked are few, and found by their state: so what comes later is counted in an index alone.
            let sql = format!(
                "SELECT (SELECT count(*) FROM inbox INDEXED BY inbox_state WHERE {clause} state = 'working' AND due_at > {now}),
                        coalesce(({total}), 0), count(*), min(due_at)
                 FROM inbox WHERE {clause} due_at > {now}"
            );
            let values = [values.clone(), values.clone(), values].concat();
            db.prepare_cached(&sql)?.query_row(rusqlite::params_from_iter(values), |row| {
                let (working, all, not_due) = (count(row, 0)?, count(row, 1)?, count(row, 2)?);
                Ok(Pending {
                    working,
                    due: all.saturating_sub(not_due),
                    later: not_due.saturating_sub(working),
                    next_due_in: row
                        .get::<_, Option<i64>>(3)?
                        .map(|due| Duration::from_nanos(due.saturating_sub(now).max(0).unsigned_abs())),
                })
            })
        })
        .await
    }

    async fn counts(&self) -> Result<Counts, InboxError> {
        read(&self.db, |db| {
            let mut counts = Counts::default();
            // Figures of messages are anybody's, so the sums are of a kind that does not overflow.
            let mut select = db.prepare_cached(
                "SELECT state, sum(messages), total(filtered_rows), total(bad_rows) FROM tally GROUP BY state",
            )?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                counts.set(parse_column(row, 0)?, count(row, 1)?);
                counts.filtered_rows += row.get::<_, f64>(2)? as u64;
                counts.bad_rows += row.get::<_, f64>(3)? as u64;
            }
            Ok(counts)
        })
        .await
    }

    async fn backlog(&self) -> Result<Backlog, InboxError> {
        let now = self.now();
        read(&self.db, move |db| {
            let sql = "SELECT blob_type, state, messages FROM tally
                       WHERE messages > 0 AND state IN ('saved', 'working', 'quarantined', 'expired') ORDER BY 1, 2";
            let read = |row: &Row<'_>| {
                let state = parse_column(row, 1)?;
                Ok(TypeBacklog { blob_type: row.get(0)?, state, messages: count(row, 2)? })
            };
            let by_type = db.prepare_cached(sql)?.query_map([], read)?.collect::<rusqlite::Result<_>>()?;
            // Numbers are given in the order of arrival.
            let sql = "SELECT received_at FROM inbox WHERE state = ?1 ORDER BY id LIMIT 1";
            let mut first = db.prepare_cached(sql)?;
            let mut oldest: Option<i64> = None;
            for state in [State::Saved, State::Working] {
                let received_at = first.query_row([state.as_str()], |row| row.get(0)).optional()?;
                oldest = [oldest, received_at].into_iter().flatten().min();
            }
            // Named, since the planner would read all that are saved, by their state.
            let at_risk = "FROM inbox INDEXED BY inbox_at_risk
                           WHERE expires_at IS NOT NULL AND state IN ('saved', 'working', 'quarantined')
                               AND expires_at < ?1";
            let until = now.saturating_add(nanos_of(AT_RISK));
            let many =
                db.prepare_cached(&format!("SELECT count(*) {at_risk}"))?.query_row([until], |row| count(row, 0))?;
            let sql =
                format!("SELECT id, blob_type, state, expires_at {at_risk} ORDER BY expires_at LIMIT {AT_RISK_NAMED}");
            let read = |row: &Row<'_>| {
                let (id, blob_type, state) = (row.get(0)?, row.get(1)?, parse_column(row, 2)?);
                Ok(AtRisk { id, blob_type, state, expires_at: instant(row.get(3)?) })
            };
            let named = db.prepare_cached(&sql)?.query_map([until], read)?.collect::<rusqlite::Result<_>>()?;
            Ok(Backlog {
                by_type,
                oldest_waiting: oldest.map(|at| span(at, now)),
                at_risk: many,
                first_at_risk: named,
                missing: sequences::missing(db)?,
            })
        })
        .await
    }

    async fn types(&self) -> Result<Vec<TypeTotals>, InboxError> {
        read(&self.db, |db| {
            let sql = "SELECT blob_type, files, skipped, coalesce(done, 0), rows, bytes, files_with_bytes, coalesce(filtered, 0)
                       FROM announced LEFT JOIN (
                           SELECT blob_type, sum(messages) FILTER (WHERE state = 'done') AS done,
                               total(filtered_rows) FILTER (WHERE state <> 'duplicate') AS filtered
                           FROM tally GROUP BY blob_type) USING (blob_type)
                       WHERE files > 0 ORDER BY blob_type";
            let mut select = db.prepare_cached(sql)?;
            let rows = select.query_map([], |row| {
                // Figures of messages are anybody's: a sum that is no number of ours has become one with a point.
                let sum = |at| {
                    Ok::<_, rusqlite::Error>(match row.get_ref(at)? {
                        ValueRef::Real(sum) => sum as u64,
                        _ => row.get::<_, i64>(at)?.unsigned_abs(),
                    })
                };
                Ok(TypeTotals {
                    blob_type: row.get(0)?,
                    files: count(row, 1)?,
                    skipped: count(row, 2)?,
                    done: count(row, 3)?,
                    rows: sum(4)?,
                    bytes: sum(5)?,
                    files_with_bytes: count(row, 6)?,
                    filtered_rows: sum(7)?,
                })
            })?;
            rows.collect()
        })
        .await
    }

    async fn note_named(&self, of: &SequenceNamed) -> Result<(), InboxError> {
        let (now, of) = (self.now(), of.clone());
        run(&self.db, move |tx| sequences::note_named(tx, &of, now)).await
    }

    async fn named(&self) -> Result<Vec<SequenceNamed>, InboxError> {
        let named = read(&self.db, sequences::named).await?;
        Ok(named.into_iter().map(|named| named.of).collect())
    }

    async fn sequences(&self) -> Result<Vec<SequenceSeen>, InboxError> {
        read(&self.db, sequences::all).await
    }

    async fn prunable(&self, retention: &Retention) -> Result<Pruned, InboxError> {
        let (now, retention) = (self.now(), retention.clone());
        read(&self.db, move |db| retention::prunable(db, &retention, now)).await
    }

    async fn prune(
        &self,
        retention: &Retention,
        step: PruneStep,
        most: u32,
    ) -> Result<(Pruned, Option<PruneStep>), InboxError> {
        let (now, retention) = (self.now(), retention.clone());
        run(&self.db, move |tx| retention::prune(tx, &retention, step, most, now)).await
    }

    async fn list(&self, filter: &ListFilter) -> Result<Vec<InboxRow>, InboxError> {
        // Only conditions that are there: an index serves none that may be absent.
        let mut conditions = vec!["id < ?"];
        let mut values = vec![Value::Integer(filter.before.unwrap_or(i64::MAX))];
        let texts = [
            ("state = ?", filter.state.map(|state| state.as_str().to_owned())),
            ("blob_type = ?", filter.blob_type.clone()),
            ("correlation_id = ?", filter.correlation_id.clone()),
        ];
        for (condition, text) in texts {
            conditions.extend(text.is_some().then_some(condition));
            values.extend(text.map(Value::Text));
        }
        let most = if filter.most == 0 { 100 } else { filter.most };
        values.push(Value::Integer(i64::from(most)));
        let conditions = conditions.join(" AND ");
        read(&self.db, move |db| {
            db.prepare_cached(&format!("SELECT {ROW_COLUMNS} FROM inbox WHERE {conditions} ORDER BY id DESC LIMIT ?"))?
                .query_map(rusqlite::params_from_iter(values), read_row)?
                .collect()
        })
        .await
    }

    async fn get(&self, id: i64) -> Result<Option<InboxRow>, InboxError> {
        read(&self.db, move |db| {
            db.prepare_cached(&format!("SELECT {ROW_COLUMNS} FROM inbox WHERE id = ?1"))?
                .query_row([id], read_row)
                .optional()
        })
        .await
    }

    async fn history(&self, id: i64) -> Result<Vec<HistoryEntry>, InboxError> {
        read(&self.db, move |db| {
            db.prepare_cached("SELECT at, state, reason, problem, worker FROM history WHERE inbox_id = ?1 ORDER BY id")?
                .query_map([id], |row| {
                    Ok(HistoryEntry {
                        at: instant(row.get(0)?),
                        state: parse_column(row, 1)?,
                        reason: parse_optional(row, 2)?,
                        problem: row.get(3)?,
                        worker: row.get(4)?,
                    })
                })?
                .collect()
        })
        .await
    }

    async fn beat(&self, worker: &WorkerId, beat: &Beat) -> Result<(), InboxError> {
        let (now, worker, beat) = (self.now(), worker.0.clone(), beat.clone());
        run(&self.db, move |tx| {
            tx.prepare_cached(
                "INSERT OR REPLACE INTO worker VALUES (
                     ?1, coalesce((SELECT started_at FROM worker WHERE worker = ?1), ?2), ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10,
                     ?11)",
            )?
            .execute(params![
                worker,
                now,
                beat.receives,
                beat.works,
                beat.attached,
                beat.last_contact_ago.map(|ago| now.saturating_sub(nanos_of(ago))),
                beat.bus_token_remaining.map(|remaining| now.saturating_add(nanos_of(remaining))),
                beat.blob_token_remaining.map(|remaining| now.saturating_add(nanos_of(remaining))),
                beat.lag.map(nanos_of),
                beat.problem.as_deref().map(trouble),
                beat.stopped,
            ])?;
            tx.prepare_cached(
                "DELETE FROM worker WHERE seen_at < ?1
                 OR worker NOT IN (SELECT worker FROM worker ORDER BY seen_at DESC LIMIT ?2)",
            )?
            .execute(params![now.saturating_sub(nanos_of(FORGOTTEN_AFTER)), WORKERS_MAX])
            .map(|_| ())
        })
        .await
    }

    async fn workers(&self) -> Result<Vec<WorkerSeen>, InboxError> {
        let now = self.now();
        read(&self.db, move |db| {
            let sql =
                "SELECT worker, started_at, seen_at, receives, works, attached, last_contact_at, bus_token_ends_at,
                     blob_token_ends_at, lag, problem, stopped,
                     (SELECT count(*) FROM inbox WHERE state = 'working' AND inbox.worker = worker.worker)
                 FROM worker ORDER BY seen_at DESC, worker";
            let optional =
                |row: &Row<'_>, at: usize| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(at)?.map(instant));
            db.prepare_cached(sql)?
                .query_map([], |row| {
                    let seen_at = row.get(2)?;
                    Ok(WorkerSeen {
                        worker: WorkerId(row.get(0)?),
                        started_at: instant(row.get(1)?),
                        seen_at: instant(seen_at),
                        seen_ago: span(seen_at, now),
                        receives: row.get(3)?,
                        works: row.get(4)?,
                        attached: row.get(5)?,
                        last_contact_at: optional(row, 6)?,
                        bus_token_ends_at: optional(row, 7)?,
                        blob_token_ends_at: optional(row, 8)?,
                        lag: row.get::<_, Option<i64>>(9)?.map(|lag| span(0, lag)),
                        problem: row.get(10)?,
                        stopped: row.get(11)?,
                        files: count(row, 12)?,
                    })
                })?
                .collect()
        })
        .await
    }
}

/// The row of a file; of one that was pruned, the number that it had.
const FILE: &str = "SELECT id FROM inbox WHERE file_key = ?1 AND state <> 'duplicate'
                    UNION ALL SELECT id FROM pruned WHERE file_key = ?1 LIMIT 1";

fn admit_one(tx: &Transaction<'_>, arrival: &Arrival, now: i64) -> rusqlite::Result<Admitted> {
    let seen: Option<i64> = tx
        .prepare_cached("SELECT id FROM inbox WHERE entity_path = ?1 AND broker_sequence = ?2 AND enqueued_at = ?3")?
        .query_row(params![arrival.entity_path, arrival.sequence_number, nanos(arrival.enqueued_at)], |row| row.get(0))
        .optional()?;
    if let Some(id) = seen {
        return Ok(Admitted::AlreadySeen(id));
    }
    match &arrival.announced {
        Announced::Broken(broken) => {
            tx.prepare_cached(
                "INSERT INTO inbox (entity_path, broker_sequence, enqueued_at, message_id, state, reason, problem, body,
                                    received_at, changed_at, blob_type, correlation_id)
                 VALUES (?1, ?2, ?3, ?4, 'quarantined', ?5, ?6, ?7, ?8, ?8, ?9, ?10)",
            )?
            .execute(params![
                arrival.entity_path,
                arrival.sequence_number,
                nanos(arrival.enqueued_at),
                arrival.message_id,
                broken.reason.as_str(),
                broken.problem,
                String::from_utf8_lossy(&broken.body),
                now,
                broken.blob_type,
                broken.correlation_id,
            ])?;
            let id = tx.last_insert_rowid();
            note(tx, id, now, State::Quarantined, Some(broken.reason), Some(&broken.problem), None)?;
            Ok(Admitted::Quarantined(id, broken.reason))
        }
        Announced::File(waybill) => {
            let of: Option<i64> =
                tx.prepare_cached(FILE)?.query_row([waybill.key.as_str()], |row| row.get(0)).optional()?;
            let state = if of.is_some() { State::Duplicate } else { State::Saved };
            let sequence = waybill.sequence.as_ref();
            tx.prepare_cached(
                "INSERT INTO inbox (entity_path, broker_sequence, enqueued_at, message_id, state, body, received_at,
                                    changed_at, file_key, blob_type, correlation_id, publisher, epoch, sequence,
                                    expires_at, due_at, duplicate_of)
                 VALUES (:entity_path, :broker_sequence, :enqueued_at, :message_id, :state, :body, :now,
                         :now, :file_key, :blob_type, :correlation_id, :publisher, :epoch, :sequence,
                         :expires_at, :due_at, (SELECT id FROM inbox WHERE id = :duplicate_of))",
            )?
            .execute(named_params! {
                ":entity_path": arrival.entity_path,
                ":broker_sequence": arrival.sequence_number,
                ":enqueued_at": nanos(arrival.enqueued_at),
                ":message_id": arrival.message_id,
                ":state": state.as_str(),
                ":body": waybill.body,
                ":now": now,
                ":file_key": waybill.key.as_str(),
                ":blob_type": waybill.metadata.blob_type,
                ":correlation_id": waybill.metadata.correlation_id,
                ":publisher": sequence.map(|sequence| sequence.publisher.as_str()),
                ":epoch": sequence.map(|sequence| sequence.epoch.as_str()),
                ":sequence": sequence.map(|sequence| signed(sequence.sequence)),
                ":expires_at": waybill.expires_at.map(nanos),
                ":due_at": of.is_none().then_some(now),
                ":duplicate_of": of,
            })?;
            let id = tx.last_insert_rowid();
            note(tx, id, now, state, None, None, None)?;
            if let (State::Saved, Some(sequence)) = (state, sequence) {
                sequences::note(tx, sequence, &waybill.metadata.blob_type, now)?;
            }
            Ok(of.map_or(Admitted::Saved(id), |of| Admitted::Duplicate { id, of }))
        }
    }
}

fn finish(tx: &Transaction<'_>, lease: &Lease, end: &End, now: i64) -> rusqlite::Result<bool> {
    let Ending { state, reason, problem, due_in, tries, figures } = Ending::of(end);
    let due_at = due_in.map(|after| now + nanos_of(after));
    let changed = tx
        .prepare_cached(
            "UPDATE inbox SET state = :state, reason = :reason, problem = :problem, due_at = :due_at,
                    attempts = attempts + :tries, worker = NULL, leased_at = NULL, changed_at = :now,
                    rows = coalesce(:rows, rows), bad_rows = coalesce(:bad_rows, bad_rows),
                    filtered_rows = :filtered_rows,
                    stored_bytes = coalesce(nullif(:stored_bytes, 0), stored_bytes),
                    plain_bytes = coalesce(nullif(:plain_bytes, 0), plain_bytes)
             WHERE id = :id AND worker = :worker AND leased_at = :leased_at AND state = 'working' AND due_at > :now",
        )?
        .execute(named_params! {
            ":state": state.as_str(),
            ":reason": reason.map(Reason::as_str),
            ":problem": problem,
            ":due_at": due_at,
            ":tries": tries,
            ":now": now,
            ":rows": figures.map(|done| signed(done.rows)),
            ":bad_rows": figures.map(|done| signed(done.bad_rows)),
            ":filtered_rows": figures.and_then(|done| done.filtered_rows).map(signed),
            ":stored_bytes": figures.map(|done| signed(done.stored_bytes)),
            ":plain_bytes": figures.map(|done| signed(done.plain_bytes)),
            ":id": lease.id,
            ":worker": lease.worker.0,
            ":leased_at": nanos(lease.leased_at),
        })?;
    if changed == 0 {
        return Ok(false);
    }
    note(tx, lease.id, now, state, reason, problem, Some(&lease.worker.0))?;
    // Whoever came to its end tells no more; who waits may do so for months.
    if state == State::Saved {
        tx.prepare_cached(
            "DELETE FROM history WHERE inbox_id = ?1
                 AND id > (SELECT min(id) FROM history WHERE inbox_id = ?1)
                 AND id <= (SELECT id FROM history WHERE inbox_id = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
        )?
        .execute(params![lease.id, HISTORY_KEPT])?;
    }
    Ok(true)
}

/// Puts some of the saved files of a type aside; how many.
fn skip_type(tx: &Transaction<'_>, blob_type: &str, now: i64) -> rusqlite::Result<u64> {
    let mut skip = tx.prepare_cached(
        "UPDATE inbox SET state = 'skipped', due_at = NULL, changed_at = ?2, problem = ?3
         WHERE id IN (SELECT id FROM inbox INDEXED BY inbox_turn
                      WHERE blob_type = ?1 AND due_at IS NOT NULL AND state = 'saved' LIMIT ?4)
         RETURNING id",
    )?;
    let values = params![blob_type, now, OTHER_TYPE, SKIPPED_AT_ONCE];
    let ids: Vec<i64> = skip.query_map(values, |row| row.get(0))?.collect::<Result<_, _>>()?;
    for id in &ids {
        note(tx, *id, now, State::Skipped, None, Some(OTHER_TYPE), None)?;
    }
    Ok(ids.len() as u64)
}

fn put_aside(tx: &Transaction<'_>, id: i64, error: &MetadataError, now: i64) -> rusqlite::Result<()> {
    let problem = unreadable(error);
    tx.execute(
        "UPDATE inbox SET state = 'quarantined', reason = ?2, problem = ?3, due_at = NULL, worker = NULL,
                leased_at = NULL, changed_at = ?4 WHERE id = ?1",
        params![id, error.reason.as_str(), problem, now],
    )?;
    note(tx, id, now, State::Quarantined, Some(error.reason), Some(&problem), None)
}

fn end_leases_of_the_dead(tx: &Transaction<'_>, now: i64) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO history (inbox_id, at, state, problem)
         SELECT id, ?1, 'saved', 'its worker ended without finishing' FROM inbox WHERE state = 'working'",
        [now],
    )?;
    tx.execute(
        "UPDATE inbox SET state = 'saved', due_at = ?1, worker = NULL, leased_at = NULL, changed_at = ?1
         WHERE state = 'working'",
        [now],
    )?;
    Ok(())
}

/// Notes what a person asked, if a row was `changed`; else says why none was.
fn asked(tx: &Transaction<'_>, id: i64, now: i64, changed: usize, to: State, why: &str) -> rusqlite::Result<Asked> {
    if changed == 1 {
        note(tx, id, now, to, None, Some(why), None)?;
        return Ok(Asked::Done);
    }
    let row: Option<(String, bool)> = tx
        .prepare_cached("SELECT state, file_key IS NOT NULL FROM inbox WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(match row {
        None => Asked::Unknown,
        Some((_, false)) if to == State::Saved => Asked::NoFile,
        Some((state, _)) => Asked::Not(state.parse().unwrap_or(State::Done)),
    })
}

fn note(
    tx: &Transaction<'_>,
    id: i64,
    now: i64,
    state: State,
    reason: Option<Reason>,
    problem: Option<&str>,
    worker: Option<&str>,
) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO history (inbox_id, at, state, reason, problem, worker) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![id, now, state.as_str(), reason.map(Reason::as_str), problem, worker])
    .map(|_| ())
}

/// A condition that ends in `AND`, and its values.
fn wanted_clause(wanted: &Wanted) -> (String, Vec<Value>) {
    let mut clause = String::new();
    let mut values = Vec::new();
    if let Some(types) = &wanted.types {
        let (types, texts) = types_clause(types);
        clause.push_str(&types);
        clause.push_str(" AND ");
        values.extend(texts.into_iter().map(Value::Text));
    }
    if let Some(since) = wanted.since {
        clause.push_str("received_at >= ? AND ");
        values.push(Value::Integer(nanos(since)));
    }
    if wanted.untried {
        clause.push_str("problem IS NULL AND ");
    }
    if let Some(ids) = &wanted.ids {
        clause.push_str("id IN (SELECT value FROM json_each(?)) AND ");
        values.push(Value::Text(serde_json::json!(ids).to_string()));
    }
    (clause, values)
}

/// A condition on `blob_type` in brackets, and its values: as [`is_of_types`](waybill_contracts::is_of_types) has it. The
/// plus keeps the index of types out of it, which finds all files of a type where the few that are due are asked for.
fn types_clause(types: &[String]) -> (String, Vec<String>) {
    let (patterns, names): (Vec<_>, Vec<_>) = types.iter().partition(|name| name.contains('*'));
    let mut clause = format!("(+blob_type IN ({})", vec!["?"; names.len()].join(","));
    let mut values: Vec<String> = names.into_iter().cloned().collect();
    for pattern in patterns {
        clause.push_str(" OR +blob_type GLOB ?");
        // Of GLOB's special characters only the star is ours.
        values.push(pattern.replace('[', "[[]").replace('?', "[?]"));
    }
    clause.push(')');
    (clause, values)
}

fn not_open(error: OpenError) -> InboxError {
    if error.passes() { InboxError::Unavailable(Box::new(error)) } else { InboxError::Open(Box::new(error)) }
}

async fn run<T: Send + 'static>(
    db: &Sqlite,
    job: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, InboxError> {
    db.write(job)
        .await
        .map_err(|error: StoreError| InboxError::Unavailable(Box::new(error)))?
        .map_err(|error| InboxError::Unavailable(Box::new(error)))
}

async fn read<T: Send + 'static>(
    db: &Sqlite,
    job: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, InboxError> {
    db.read(job).await.map_err(|error| InboxError::Unavailable(Box::new(error)))
}

#[cfg(test)]
mod tests;
