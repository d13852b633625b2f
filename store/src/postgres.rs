//! A pool of connections to one PostgreSQL database, and the steps that bring our tables in it to their schema.

use std::{error::Error as _, fmt, io, sync::Arc, time::Duration};

use deadpool_postgres::{Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime, Timeouts};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio_postgres::{
    Config, GenericClient, NoTls,
    config::{Host, SslMode},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{PostgresConnection, PostgresTransaction, Schema};

/// How every session of ours reads and writes dates, and that notices are not sent.
///
/// Each statement sees what was committed before it, whatever the database's own default is: who waited for a lock looks
/// again. The server gives up a client whose machine died after 90 s, and with it what it had locked. Statements are not
/// compiled: ours are short, and one that reads a table of a single row in a session that is to use indexes (`enable_seqscan=off`)
/// looks so expensive that the server would compile it for 150 ms each time.
const SESSION: &str = "-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres -c client_min_messages=warning \
                       -c extra_float_digits=1 -c standard_conforming_strings=on \
                       -c default_transaction_isolation=read\\ committed \
                       -c tcp_keepalives_idle=60 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3 -c jit=off";
/// Of a name, in bytes; longer ones are cut by the server. Source: PostgreSQL, section 4.1.1, NAMEDATALEN.
const NAME_MAX: usize = 63;

/// Two-part key of the advisory lock under which tables are made: `wayb` and 0.
const MIGRATION_LOCK: i64 = 0x7761_7962 << 32;

/// A database. Clones share its connections.
#[derive(Clone)]
pub struct Postgres {
    pool: Pool,
    shown: Arc<str>,
    schema: Option<Arc<str>>,
}

/// Limits.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// Connections at most; default 8.
    pub connections_max: usize,
    /// To connect, and to wait for a free connection; default 10 s each.
    pub connect_timeout: Duration,
    /// What `pg_stat_activity` shows; default `waybill`.
    pub application_name: String,
    /// The schema that names without one are looked for and made in; default: as the address or the server says.
    pub schema: Option<String>,
    /// More settings of each session, such as `-c work_mem=8MB`; default: none.
    pub settings: &'static str,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            connections_max: 8,
            connect_timeout: Duration::from_secs(10),
            application_name: "waybill".to_owned(),
            schema: None,
            settings: "",
        }
    }
}

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the text of each variant says it")]
pub enum PostgresError {
    #[error("the database's address cannot be used: {problem}; write postgres://USER@HOST:PORT/DATABASE")]
    Address { problem: String },
    #[error("{shown}: cannot connect: {problem}")]
    Unreachable { shown: String, problem: String },
    #[error("{shown}: cannot connect: {problem}")]
    Refused { shown: String, problem: String },
    #[error("{shown}: {problem}")]
    Failed { shown: String, problem: String, source: tokio_postgres::Error },
    #[error(
        "{shown}: the tables of the {name} have schema version {found}, this program knows up to {known}; use a newer program"
    )]
    Newer { shown: String, name: &'static str, found: i32, known: i32 },
    #[error("{shown}: step {name:?} of the schema failed, and nothing of it took effect: {problem}")]
    Migration { shown: String, name: &'static str, problem: String },
    #[error("{shown}: schema {schema:?} holds tables of others and no {name} of ours; name another schema")]
    Foreign { shown: String, schema: String, name: &'static str },
    #[error(
        "{shown}: schema {schema:?} cannot be made: {problem}; name another one, or have it made once for this user: \
         CREATE SCHEMA … AUTHORIZATION …"
    )]
    NoSchema { shown: String, schema: String, problem: String },
}

impl PostgresError {
    /// Whether it ends without anybody who mends the address, the user, its rights or the tables: the server is down or starts, it has no
    /// place for a connection or on its disk, its name is not known just now. Then trying again is of use.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Failed { source, .. } => passes(source),
            Self::Address { .. }
            | Self::Refused { .. }
            | Self::Newer { .. }
            | Self::Migration { .. }
            | Self::Foreign { .. }
            | Self::NoSchema { .. } => false,
        }
    }
}

impl Postgres {
    /// Reads the address (`postgres://user:password@host:port/database?sslmode=…`, or libpq's `key=value` form); touches
    /// no network. `sslmode` is libpq's `disable`, `prefer` (default) or `require`; a server's certificate is always checked,
    /// against the system's trust store. Transaction pooling (PgBouncer) does not work: temporary tables and prepared
    /// statements belong to a session.
    ///
    /// # Errors
    /// [`PostgresError::Address`].
    pub fn new(address: &str, options: &PostgresOptions) -> Result<Self, PostgresError> {
        // The text of the parser's own error is fixed words, never a part of the address, which may hold a password.
        let problem = |problem: String| PostgresError::Address { problem };
        let mut config: Config = address.parse().map_err(|error: tokio_postgres::Error| problem(in_words(&error)))?;
        if config.get_hosts().is_empty() {
            return Err(problem("it names no host".to_owned()));
        }
        config.connect_timeout(options.connect_timeout);
        config.keepalives_idle(Duration::from_secs(60));
        if config.get_application_name().is_none() {
            config.application_name(&options.application_name);
        }
        let asked = config.get_options().map(|options| format!(" {options}")).unwrap_or_default();
        let schema = options.schema.as_deref().map(in_schema).unwrap_or_default();
        config.options(format!("{SESSION} {}{asked}{schema}", options.settings));
        let shown = shown(&config).into();

        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = if config.get_ssl_mode() == SslMode::Disable {
            Manager::from_config(config, NoTls, recycling)
        } else {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let tls = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .and_then(rustls::ConfigBuilder::with_platform_verifier)
                .map_err(|error| problem(format!("TLS cannot be set up: {error}; or set sslmode=disable")))?
                .with_no_client_auth();
            Manager::from_config(config, MakeRustlsConnect::new(tls), recycling)
        };
        let timeouts = Timeouts {
            wait: Some(options.connect_timeout),
            create: Some(options.connect_timeout),
            recycle: Some(options.connect_timeout),
        };
        let pool = Pool::builder(manager)
            .max_size(options.connections_max.max(1))
            .timeouts(timeouts)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| problem(error.to_string()))?;
        Ok(Self { pool, shown, schema: options.schema.as_deref().map(Arc::from) })
    }

    /// How many steps of a schema were taken here; `None` when there is nothing of it.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn version(&self, schema: &Schema) -> Result<Option<i32>, PostgresError> {
        version(&**self.connection().await?, schema).await.map_err(|error| self.error(error))
    }

    /// Makes or completes the tables of a schema, each step in a transaction with its number. Several programs may do so at
    /// once. The version is kept in a table `_waybill_schema`. With no step missing nobody waits, and nothing is written.
    ///
    /// Unless they are [shared with the user](Schema::shared_with_user), the tables have [`PostgresOptions::schema`] for
    /// themselves: it is made where it is not there, and refused where it holds something else.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn migrate(&self, schema: &Schema) -> Result<(), PostgresError> {
        if self.version(schema).await? == Some(schema.known()) {
            return Ok(());
        }
        let mut connection = self.connection().await?;
        loop {
            let tx = connection.transaction().await.map_err(|error| self.error(error))?;
            let is_behind = self.step(&tx, schema).await?;
            tx.commit().await.map_err(|error| self.error(error))?;
            if !is_behind {
                return Ok(());
            }
        }
    }

    /// The same within a transaction, for whoever takes it back: to find out whether it can be done.
    ///
    /// # Errors
    /// As [`Postgres::migrate`].
    pub async fn migrate_within(&self, tx: &PostgresTransaction<'_>, schema: &Schema) -> Result<(), PostgresError> {
        while self.step(tx, schema).await? {}
        Ok(())
    }

    /// Takes the next missing step; `false` when there is none.
    async fn step(&self, tx: &PostgresTransaction<'_>, schema: &Schema) -> Result<bool, PostgresError> {
        let failed = |error| self.error(error);
        self.lock_tables(tx).await.map_err(failed)?;
        if !schema.shared_with_user {
            self.own_schema(tx, schema).await?;
        }
        tx.batch_execute(
            "CREATE TABLE IF NOT EXISTS _waybill_schema (name text PRIMARY KEY, version integer NOT NULL)",
        )
        .await
        .map_err(failed)?;
        let taken = version(&**tx, schema).await.map_err(failed)?.unwrap_or(0);
        if taken > schema.known() {
            let shown = self.shown.to_string();
            return Err(PostgresError::Newer { shown, name: schema.name, found: taken, known: schema.known() });
        }
        let Some(step) = usize::try_from(taken).ok().and_then(|taken| schema.migrations.get(taken)) else {
            return Ok(false);
        };
        tracing::debug!(database = %self.shown, version = taken + 1, step = step.name, "migrating");
        tx.batch_execute(step.sql).await.map_err(|error| {
            let (shown, name) = (self.shown.to_string(), step.name);
            self.error_or(error, |problem| PostgresError::Migration { shown, name, problem })
        })?;
        tx.execute(
            "INSERT INTO _waybill_schema (name, version) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET version = excluded.version",
            &[&schema.name, &(taken + 1)],
        )
        .await
        .map_err(failed)?;
        Ok(true)
    }

    /// Makes the schema that tables have for themselves; one that is there has to be empty or theirs.
    async fn own_schema(&self, tx: &PostgresTransaction<'_>, schema: &Schema) -> Result<(), PostgresError> {
        let own = self.schema.as_deref().expect("tables that are not shared are in a schema of their own");
        let shown = || self.shown.to_string();
        let refused = |problem| PostgresError::NoSchema { shown: shown(), schema: own.to_owned(), problem };
        if own.is_empty() || own.len() > NAME_MAX {
            return Err(refused(format!("a name has 1 to {NAME_MAX} bytes")));
        }
        let is_used = "SELECT EXISTS (SELECT FROM pg_class WHERE relnamespace = oid_of.oid)
                       FROM (SELECT oid FROM pg_namespace WHERE nspname = $1) oid_of";
        match tx.query_opt(is_used, &[&own]).await.map_err(|error| self.error(error))? {
            None => {
                let make = format!("CREATE SCHEMA {}", quoted(own));
                tx.batch_execute(&make).await.map_err(|error| self.error_or(error, refused))
            }
            Some(row) if row.get(0) && version(&**tx, schema).await.map_err(|error| self.error(error))?.is_none() => {
                Err(PostgresError::Foreign { shown: shown(), schema: own.to_owned(), name: schema.name })
            }
            Some(_) => Ok(()),
        }
    }

    /// Waits until no other program makes or changes tables of ours; holds for the transaction.
    ///
    /// # Errors
    /// What the database says.
    pub async fn lock_tables(&self, tx: &PostgresTransaction<'_>) -> Result<(), tokio_postgres::Error> {
        tx.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK]).await.map(drop)
    }

    /// A connection; it goes back to the pool when it is dropped.
    ///
    /// # Errors
    /// [`PostgresError::Unreachable`] when none can be made now or none becomes free in time, [`PostgresError::Refused`] when the
    /// server, or whoever stands in for it, lets nobody in with this address.
    pub async fn connection(&self) -> Result<PostgresConnection, PostgresError> {
        self.pool.get().await.map_err(|error| {
            let shown = self.shown.to_string();
            let problem = match error {
                PoolError::Backend(error) if !passes(&error) => {
                    return PostgresError::Refused { shown, problem: in_words(&error) };
                }
                PoolError::Backend(error) => in_words(&error),
                PoolError::Timeout(_) => "it does not answer, or all connections are in use".to_owned(),
                PoolError::Closed => "the program is ending".to_owned(),
                other => other.to_string(),
            };
            PostgresError::Unreachable { shown, problem }
        })
    }

    /// A connection, if none has to be waited for; it may have to be made.
    pub async fn free_connection(&self) -> Option<PostgresConnection> {
        let timeouts = Timeouts { wait: Some(Duration::ZERO), ..self.pool.timeouts() };
        self.pool.timeout_get(&timeouts).await.ok()
    }

    /// An error of the driver, as this crate tells it.
    #[must_use]
    pub fn error(&self, error: tokio_postgres::Error) -> PostgresError {
        let shown = self.shown.to_string();
        if error.is_closed() {
            return PostgresError::Unreachable { shown, problem: "the connection was lost".to_owned() };
        }
        PostgresError::Failed { shown, problem: in_words(&error), source: error }
    }

    /// What a statement failed by: its own fault, unless it is an outage that it met.
    fn error_or(&self, error: tokio_postgres::Error, own: impl FnOnce(String) -> PostgresError) -> PostgresError {
        if passes(&error) { self.error(error) } else { own(in_words(&error)) }
    }

    /// `postgres://HOST:PORT/DATABASE`, without user or password.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Closes the connections; those in use end when they are given back.
    pub fn close(&self) {
        self.pool.close();
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("database", &self.shown).finish_non_exhaustive()
    }
}

async fn version(client: &(impl GenericClient + Sync), schema: &Schema) -> Result<Option<i32>, tokio_postgres::Error> {
    let known = client.query_one("SELECT to_regclass('_waybill_schema') IS NOT NULL", &[]).await?;
    if !known.get::<_, bool>(0) {
        return Ok(None);
    }
    let row = client.query_opt("SELECT version FROM _waybill_schema WHERE name = $1", &[&schema.name]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// See [`PostgresError::passes`].
///
/// Of what the server says these are connections, other transactions, its means, objects that somebody uses, an operator's doing (a
/// start, a stop), its system and its defects; and that it only reads, as a standby does until it takes over, or a disk that is nearly full makes it.
/// Source: PostgreSQL, Appendix A, "PostgreSQL Error Codes".
fn passes(error: &tokio_postgres::Error) -> bool {
    const OUTAGE: [&str; 8] = ["08", "25006", "40", "53", "55", "57", "58", "XX"];
    if let Some(code) = error.code() {
        return OUTAGE.iter().any(|class| code.code().starts_with(class));
    }
    match error.source().and_then(|cause| cause.downcast_ref::<io::Error>()) {
        Some(error) => match error.kind() {
            // Of a socket's file; the driver calls a server that does not write so, too, which no system said.
            io::ErrorKind::PermissionDenied => error.raw_os_error().is_none(),
            // What came is no PostgreSQL, or a certificate that is not trusted.
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => false,
            _ => true,
        },
        None => error.is_closed(),
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The last setting of a name counts.
fn in_schema(schema: &str) -> String {
    // Source: PostgreSQL, "libpq", section 34.1.2, `options`: spaces and backslashes are escaped with a backslash.
    format!(" -c search_path={}", quoted(schema).replace('\\', "\\\\").replace(' ', "\\ "))
}

/// What the server says, or why there was no answer, without the driver's own frame around it.
fn in_words(error: &tokio_postgres::Error) -> String {
    if let Some(error) = error.as_db_error() {
        return match error.hint() {
            Some(hint) => format!("{} ({}; {hint})", error.message(), error.code().code()),
            None => format!("{} ({})", error.message(), error.code().code()),
        };
    }
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn shown(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        #[cfg(unix)]
        Some(Host::Unix(path)) => path.display().to_string(),
        None => String::new(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("postgres://{host}:{port}/{database}")
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// The address of a server that lets nobody in, with this code.
    fn saying(code: &'static str) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("postgres://me:geheim@{}/shop?sslmode=disable", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut startup = [0; 4096];
            assert_ne!(client.read(&mut startup).unwrap(), 0);
            // Source: PostgreSQL, "Message Formats", ErrorResponse.
            let fields = format!("SFATAL\0VFATAL\0C{code}\0Mit says no\0\0");
            let length = u32::try_from(fields.len() + 4).unwrap();
            client.write_all(&[&b"E"[..], &length.to_be_bytes(), fields.as_bytes()].concat()).unwrap();
        });
        address
    }

    async fn not_connected(address: &str) -> PostgresError {
        Postgres::new(address, &PostgresOptions::default()).unwrap().connection().await.unwrap_err()
    }

    #[tokio::test]
    async fn a_server_that_starts_or_is_full_passes_and_a_password_or_a_right_takes_a_person() {
        for (code, passes) in [
            ("57P03", true),
            ("57P01", true),
            ("53300", true),
            ("58030", true),
            ("28P01", false),
            ("28000", false),
            ("3D000", false),
            ("42501", false),
            ("0A000", false),
        ] {
            let error = not_connected(&saying(code)).await;
            assert_eq!((error.passes(), matches!(error, PostgresError::Refused { .. })), (passes, !passes), "{error}");
            assert!(error.to_string().ends_with(&format!("/shop: cannot connect: it says no ({code})")), "{error}");
        }
        let nowhere = not_connected("postgres://me@nowhere.invalid/shop?sslmode=disable").await;
        assert!(nowhere.passes(), "{nowhere}");
    }

    #[test]
    fn an_address_is_shown_without_its_secrets() {
        let address = "postgres://me:geheim@localhost:5433/shop?sslmode=disable";
        let postgres = Postgres::new(address, &PostgresOptions::default()).unwrap();
        assert_eq!(postgres.shown(), "postgres://localhost:5433/shop");
        assert!(!format!("{postgres:?}").contains("geheim"));
    }

    #[test]
    fn an_address_that_cannot_be_used_says_how_to_write_it_and_keeps_its_secrets() {
        for address in ["postgres://me:geheim@", "mysql://me:geheim@localhost/x", "host=a port=geheim"] {
            let error = Postgres::new(address, &PostgresOptions::default()).unwrap_err().to_string();
            assert!(error.contains("write postgres://USER@HOST:PORT/DATABASE"), "{error}");
            assert!(!error.contains("geheim"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_unreachable() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let address = format!("postgres://me@127.0.0.1:{port}/shop?sslmode=disable");
        let error = Postgres::new(&address, &PostgresOptions::default()).unwrap().connection().await.unwrap_err();
        assert!(matches!(&error, PostgresError::Unreachable { problem, .. } if problem.contains("refused")), "{error}");
        assert!(error.passes());
    }
}
