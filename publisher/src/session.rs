//! Sessions of a publisher with PostgreSQL. One may hold an advisory lock: the server gives it back when the process ends, however
//! it ends.

use std::time::Duration;

use tokio::time::timeout;
use waybill_store::{Postgres, PostgresConnection, PostgresError, PostgresOptions};

/// A plan that was made while a table was small must not be kept, nor one that reads a whole table because nobody has
/// counted yet what is in it. What is planned or recorded must not be lost when the server dies, and no limit that the
/// database or the role has for others ends what takes long here. The server gives up a publisher whose machine died within
/// seconds, so that the next one can take over.
const SETTINGS: &str = "-c plan_cache_mode=force_custom_plan -c enable_seqscan=off -c synchronous_commit=on \
                        -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=60s \
                        -c tcp_keepalives_idle=3 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=4";

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

/// The session of a lock. Closed when it is dropped, not given back to the pool: its lock ends with it, a moment later.
#[derive(Debug)]
pub(crate) struct Session(Option<PostgresConnection>);

impl Session {
    /// Takes the lock of this number, unless another session has it.
    pub(crate) async fn lock(store: &Postgres, number: i64) -> Result<Option<Self>, PostgresError> {
        let session = Self(Some(store.connection().await?));
        let row = session.get().query_one("SELECT pg_try_advisory_lock($1)", &[&number]).await;
        Ok(row.map_err(|error| store.error(error))?.get::<_, bool>(0).then_some(session))
    }

    /// Whether the server still answers in it: its lock is held as long as it is there. One that does not answer in time counts as
    /// lost, because the server may have given it up without our knowing.
    pub(crate) async fn is_alive(&self, patience: Duration) -> bool {
        matches!(timeout(patience, self.get().simple_query("SELECT 1")).await, Ok(Ok(_)))
    }

    pub(crate) fn get(&self) -> &PostgresConnection {
        self.0.as_ref().expect("it is taken when it is dropped")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(PostgresConnection::take(connection));
        }
    }
}
