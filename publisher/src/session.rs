//! Sessions of a publisher with PostgreSQL. One may hold an advisory lock: the server gives it back when the process ends, however
//! it ends.
//!
//! A server that is slow may keep a session of ours, and with it the lock, for a while after we gave it up: its statement waits for
//! a table, or nobody told it that the connection is cut. That is no other publisher, and is not taken for one.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::timeout;
use waybill_store::{
    Postgres, PostgresConnection, PostgresError, PostgresOptions,
    tokio_postgres::{Row, types::ToSql},
};

/// A plan that was made while a table was small must not be kept, nor one that reads a whole table because nobody has
/// counted yet what is in it. What is planned or recorded must not be lost when the server dies, and no limit that the
/// database or the role has for others ends what takes long here. The server gives up a publisher whose machine died within
/// seconds, so that the next one can take over.
const SETTINGS: &str = "-c plan_cache_mode=force_custom_plan -c enable_seqscan=off -c synchronous_commit=on \
                        -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=60s \
                        -c tcp_keepalives_idle=3 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=4";

/// What the way there and back may take, beyond what a statement may.
const GRACE: Duration = Duration::from_secs(2);
/// Sessions that were given up and may live on in the server: no more are remembered.
const GIVEN_UP_MAX: usize = 16;

/// Whether one of some sessions has a lock.
const HELD_BY: &str = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (classid::bigint << 32 | objid::bigint) = $1 AND pid = ANY ($2))";

/// How a publisher connects to tables of its own in this schema.
pub(crate) fn options(program: &str, schema: &str, connections_max: usize) -> PostgresOptions {
    PostgresOptions {
        connections_max,
        application_name: program.to_owned(),
        schema: Some(schema.to_owned()),
        settings: SETTINGS,
        ..PostgresOptions::default()
    }
}

/// Why a session did not answer what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Database(#[from] PostgresError),
    #[error("{shown}: it is slow or out of reach: no answer in {} s", .after.as_secs())]
    NoAnswer { shown: String, after: Duration },
    #[error("{shown}: a row is missing that was made with the tables; restore them")]
    NoRow { shown: String },
    #[error(
        "{shown}: it is slow: an earlier session of this publisher, in which it did not answer, lives on there and has the lock, \
         and no other publisher has"
    )]
    HeldByOurs { shown: String },
}

/// A lock that one session has at a time. Clones share what became of our own sessions.
#[derive(Debug, Clone)]
pub(crate) struct Lock {
    number: i64,
    given_up: Arc<GivenUp>,
}

/// The server's numbers of our sessions that ended here without an answer.
#[derive(Debug, Default)]
struct GivenUp(Mutex<Vec<i32>>);

impl GivenUp {
    fn pids(&self) -> MutexGuard<'_, Vec<i32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, pid: i32) {
        let mut pids = self.pids();
        if pids.len() >= GIVEN_UP_MAX {
            pids.remove(0);
        }
        pids.push(pid);
    }
}

impl Lock {
    pub(crate) fn new(number: i64) -> Self {
        Self { number, given_up: Arc::default() }
    }

    pub(crate) fn number(&self) -> i64 {
        self.number
    }

    /// Takes it, unless somebody else's session has it. The server ends each statement of the session after `limit`: one that waited
    /// longer would keep session and lock although nobody waits for it any more.
    ///
    /// # Errors
    /// Also while an earlier session of ours has it still.
    pub(crate) async fn take(&self, store: &Postgres, limit: Duration) -> Result<Option<Session>, SessionError> {
        let (connection, store) = (Some(store.connection().await?), store.clone());
        let (unanswered, given_up) = (AtomicBool::new(false), Arc::clone(&self.given_up));
        let mut session = Session { connection, store, limit, pid: None, unanswered, given_up };
        let begin = "SELECT pg_backend_pid(), set_config('statement_timeout', $1, false)";
        let begun = session.query_one(begin, &[&limit.as_millis().to_string()]).await?;
        session.pid = Some(begun.get(0));
        if session.query_one("SELECT pg_try_advisory_lock($1)", &[&self.number]).await?.get(0) {
            self.given_up.pids().clear();
            return Ok(Some(session));
        }
        let ours = self.given_up.pids().clone();
        if !ours.is_empty() && session.query_one(HELD_BY, &[&self.number, &ours]).await?.get(0) {
            return Err(SessionError::HeldByOurs { shown: session.store.shown().to_owned() });
        }
        Ok(None)
    }
}

/// The session of a lock. Closed when it is dropped, not given back to the pool: its lock ends with it, a moment later.
#[derive(Debug)]
pub(crate) struct Session {
    /// Until it is dropped.
    connection: Option<PostgresConnection>,
    store: Postgres,
    limit: Duration,
    /// As the server numbers it, once that is known.
    pid: Option<i32>,
    /// Something was asked and not answered: the server may still be at it.
    unanswered: AtomicBool,
    given_up: Arc<GivenUp>,
}

impl Session {
    /// Whether the server still answers in it: its lock is held as long as it is there.
    pub(crate) async fn is_alive(&self) -> bool {
        self.query("SELECT 1", &[]).await.is_ok()
    }

    /// Whether what was asked last had no answer. The server may have given the session up without our knowing, and the lock with it.
    pub(crate) fn is_lost(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) || self.get().is_closed()
    }

    /// Runs one statement.
    pub(crate) async fn query(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, SessionError> {
        self.unanswered.store(true, Ordering::Relaxed);
        let after = self.limit + GRACE;
        let answer = timeout(after, async {
            let statement = self.get().prepare_cached(sql).await?;
            self.get().query(&statement, values).await
        });
        let answer = answer.await;
        // That it cannot do it is an answer too.
        let is_answered = match &answer {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => error.as_db_error().is_some() && !self.get().is_closed(),
            Err(_) => false,
        };
        self.unanswered.store(!is_answered, Ordering::Relaxed);
        match answer {
            Ok(answer) => answer.map_err(|error| self.store.error(error).into()),
            Err(_) => Err(SessionError::NoAnswer { shown: self.store.shown().to_owned(), after }),
        }
    }

    /// The same, of one row.
    pub(crate) async fn query_one(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Row, SessionError> {
        let rows = self.query(sql, values).await?;
        rows.into_iter().next().ok_or_else(|| SessionError::NoRow { shown: self.store.shown().to_owned() })
    }

    fn get(&self) -> &PostgresConnection {
        self.connection.as_ref().expect("it is taken when it is dropped")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if *self.unanswered.get_mut()
            && let Some(pid) = self.pid
        {
            self.given_up.add(pid);
        }
        if let Some(connection) = self.connection.take() {
            drop(PostgresConnection::take(connection));
        }
    }
}
