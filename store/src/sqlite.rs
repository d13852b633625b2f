//! One thread writes, a few connections read beside it; clones share both.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, ffi};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::timeout,
};

use crate::{
    Commits, Schema, migrate,
    writer::{Counters, Job, Order, Orders, Waiting, Writer, panic_text},
};

/// Prepared statements kept per connection: a sink with 100 tables has about 8 for each.
const STATEMENTS_KEPT: usize = 1024;
/// The writer's page cache, in KiB: upserts into large tables read many index pages.
const WRITER_CACHE_KIB: i64 = 16 * 1024;
/// From how many bytes on the WAL is brought into the file. Rows come in the order of their files, so commits touch the same pages again and
/// again, and a page that changed several times goes to the file once.
const CHECKPOINT_BYTES: i64 = 16 << 20;
/// What the WAL is cut to after a check-point, in bytes: what it may hold then and a commit of the largest kind.
const WAL_KEPT_BYTES: i64 = 32 << 20;

/// How long those who look for commits have to close the file after they were dropped. It takes them no time, unless the file is out of reach.
const LOOKER_PATIENCE: Duration = Duration::from_secs(1);

/// A database. Clones share it; the last one dropped ends the writer's thread after what was queued.
#[derive(Clone)]
pub struct Sqlite {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    shown: Arc<str>,
    // Before `orders`: the last connection to close is then the writer's, which removes the WAL.
    readers: Readers,
    /// Who looks for commits has a receiver of it.
    looking: watch::Sender<()>,
    orders: mpsc::Sender<Order>,
    counters: Arc<Counters>,
}

/// Limits.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// Jobs per commit at most; default 128.
    pub group_max: usize,
    /// Jobs waiting at most; then callers wait. Default 1,024.
    pub queue_max: usize,
    /// How long another process may hold the file before we give up; default 30 s.
    pub busy_timeout: Duration,
    /// Read connections; default 2.
    pub readers: usize,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { group_max: 128, queue_max: 1024, busy_timeout: Duration::from_secs(30), readers: 2 }
    }
}

/// What the writer has done since the file was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Transactions that reached the disk.
    pub commits: u64,
    /// Jobs that ran, whatever became of them.
    pub jobs: u64,
}

/// Why a file is not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the text of each variant says it")]
pub enum OpenError {
    #[error("{path}: not a database of Waybill ({name}); give another path")]
    Foreign { path: String, name: &'static str },
    #[error("{path}: schema version {found}, this program knows up to {known}; use a newer program")]
    Newer { path: String, found: i64, known: i64 },
    #[error("{path}: damaged or no SQLite file: {problem}")]
    Damaged { path: String, problem: String },
    #[error("{path}: step {name:?} of the schema failed, and nothing of it took effect: {problem}")]
    Migration { path: String, name: &'static str, problem: String },
    #[error("{path}: cannot open: {problem}")]
    Io { path: String, problem: String },
    #[error("{path}: cannot open: another process holds it")]
    Busy { path: String },
    #[error("{path}: cannot open: the disk is full or refuses to be written")]
    DiskFull { path: String },
}

/// Why a job did not take effect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the text of each variant says it")]
pub enum StoreError {
    #[error("{path}: the disk is full or refuses to be written; nothing was lost, it goes on when there is room")]
    DiskFull { path: String },
    #[error("{path}: another process holds the database")]
    Busy { path: String },
    #[error("{path}: {source}")]
    Sqlite { path: String, source: rusqlite::Error },
    #[error("{path}: a job panicked and had no effect: {problem}")]
    Panicked { path: String, problem: String },
    #[error("{path}: the database is closed")]
    Closed { path: String },
}

impl Sqlite {
    /// Opens or creates the file, checks whose it is, takes missing steps. WAL, `synchronous=FULL`, foreign keys on.
    /// Several processes may do so at once. Blocks: another process may hold the file for up to `busy_timeout`.
    ///
    /// # Errors
    /// [`OpenError`]; a file that is refused is not touched.
    pub fn open(path: &Path, schema: &Schema, options: SqliteOptions) -> Result<Self, OpenError> {
        debug_assert!(schema.shared_with_user || schema.application_id != 0, "0 means that a file is nobody's");
        migrate::admit(path, schema)?;
        let failed = |error| OpenError::sqlite(path, error);
        let mut connection = connect(path, OpenFlags::SQLITE_OPEN_CREATE, &options).map_err(failed)?;
        // The first commit is made before the change to WAL, so that the id stands in the file itself from then on.
        migrate::migrate(path, &mut connection, schema)?;
        migrate::enter_wal(path, &connection, options.busy_timeout)?;
        // A user's database may have pages of another size than SQLite's own.
        let page_bytes: i64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(failed)?;
        let checkpoint_pages = CHECKPOINT_BYTES / page_bytes.max(512);
        connection
            .execute_batch(&format!(
                "PRAGMA foreign_keys = ON; PRAGMA cache_size = -{WRITER_CACHE_KIB};
                 PRAGMA wal_autocheckpoint = {checkpoint_pages}; PRAGMA journal_size_limit = {WAL_KEPT_BYTES}"
            ))
            .map_err(failed)?;
        if !schema.shared_with_user {
            // What a statement may have to take back is kept, and with triggers and indexes that is soon more than the 64 KiB
            // beyond which SQLite writes it to a temporary file. In a user's database statements may be large.
            connection.execute_batch("PRAGMA temp_store = MEMORY").map_err(failed)?;
        }
        let readers = Readers::open(path, &options).map_err(failed)?;

        let shown: Arc<str> = path.display().to_string().into();
        let counters = Arc::new(Counters::default());
        let (sender, orders) = mpsc::channel(options.queue_max.max(1));
        let writer = Writer {
            path: Arc::clone(&shown),
            connection,
            orders: Orders::new(orders),
            group_max: options.group_max.max(1),
            counters: Arc::clone(&counters),
        };
        std::thread::Builder::new()
            .name(format!("{}-writer", schema.name))
            .spawn(move || writer.run())
            .map_err(|error| OpenError::io(path, error))?;
        let looking = watch::Sender::new(());
        Ok(Self { inner: Arc::new(Inner { path: path.to_owned(), shown, readers, looking, orders: sender, counters }) })
    }

    /// Does in a file that is there what [`Sqlite::open`] does to its tables, then the job, and takes both back: to find out whether they can be
    /// done. Other writers wait meanwhile. Blocks.
    ///
    /// # Errors
    /// As [`Sqlite::open`].
    pub fn rehearse<T>(
        path: &Path,
        schema: &Schema,
        options: &SqliteOptions,
        job: impl FnOnce(&Transaction<'_>) -> T,
    ) -> Result<T, OpenError> {
        migrate::admit(path, schema)?;
        let connected = connect(path, OpenFlags::empty(), options);
        migrate::rehearse(path, &mut connected.map_err(|error| OpenError::sqlite(path, error))?, schema, job)
    }

    /// Runs `job` on the writer's thread within a transaction (`BEGIN IMMEDIATE`), apart from the jobs before it, and returns
    /// after the commit is on disk. Jobs that wait together share one commit. An `Err` of the job takes back what
    /// it wrote itself, and is returned as the inner result; a failed commit fails every job of the group. When the job's
    /// error is a `rusqlite::Error` that says the disk is full, it is returned as [`StoreError::DiskFull`] instead; an
    /// error type of its own can do the same with [`Sqlite::error`].
    ///
    /// Use `prepare_cached` within the job: statements are kept. A constraint that is deferred to the commit would fail
    /// the whole group, so let jobs check their own.
    ///
    /// # Errors
    /// [`StoreError`] when the transaction could not be committed, or the job panicked. After a commit that failed because
    /// of the disk, the job may still turn out to have taken effect if the machine goes down before the next commit.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the job: it may still take effect.
    pub async fn write<T, E, F>(&self, job: F) -> Result<Result<T, E>, StoreError>
    where
        T: Send + 'static,
        E: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    {
        self.ordered(job, Order::Job).await
    }

    /// As [`Sqlite::write`], for a job that may take long: it begins a transaction, so that nobody who was done before waits for it,
    /// and none of its pages is kept twice. Whoever writes behind it waits until it is over.
    ///
    /// # Errors
    /// As [`Sqlite::write`].
    ///
    /// # Cancel safety
    /// As [`Sqlite::write`].
    pub async fn write_alone<T, E, F>(&self, job: F) -> Result<Result<T, E>, StoreError>
    where
        T: Send + 'static,
        E: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    {
        self.ordered(job, Order::Alone).await
    }

    async fn ordered<T, E, F>(&self, job: F, order: fn(Box<dyn Job>) -> Order) -> Result<Result<T, E>, StoreError>
    where
        T: Send + 'static,
        E: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let order = order(Box::new(Waiting::new(job, reply)));
        self.inner.orders.send(order).await.map_err(|_| self.closed())?;
        answer.await.unwrap_or_else(|_| Err(self.closed()))
    }

    /// Runs `job` on a read connection (query only), beside the writer. All its statements see one state of the database:
    /// it runs in a read transaction.
    ///
    /// # Errors
    /// [`StoreError`].
    ///
    /// # Cancel safety
    /// Dropping the future loses the answer, nothing else.
    pub async fn read<T, F>(&self, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    {
        let Ok(permit) = Arc::clone(&self.inner.readers.permits).acquire_owned().await else {
            return Err(self.closed());
        };
        let idle = Arc::clone(&self.inner.readers.idle);
        let run = move || {
            let connection = take(&idle).expect("a permit stands for an idle connection");
            let result = catch_unwind(AssertUnwindSafe(|| {
                let tx = connection.unchecked_transaction()?;
                let value = job(&tx)?;
                tx.finish()?;
                Ok(value)
            }));
            give_back(&idle, connection);
            drop(permit);
            result
        };
        match tokio::task::spawn_blocking(run).await {
            Ok(Ok(result)) => result.map_err(|error| self.error(error)),
            Ok(Err(panic)) => Err(StoreError::Panicked {
                path: self.inner.shown.as_ref().to_owned(),
                problem: panic_text(panic.as_ref()),
            }),
            // The runtime is shutting down.
            Err(_) => Err(self.closed()),
        }
    }

    /// Tells of commits by anybody, asking so often.
    ///
    /// # Errors
    /// When there can be no thread for it.
    pub fn commits(&self, every: Duration) -> std::io::Result<Commits> {
        // Who is in the way is not waited for: then something may be going on.
        let options = SqliteOptions { busy_timeout: Duration::ZERO, ..SqliteOptions::default() };
        Commits::of(self.path(), every, self.inner.looking.subscribe(), move |path| connect_to_read(path, &options))
    }

    /// Takes nothing more, waits for what is queued and for readers, and closes the file: then nothing of it is left in
    /// the WAL, unless another process, or one of its [`Commits`] that lives, has it open. Clones answer [`StoreError::Closed`] from then on; doing it twice is
    /// fine.
    pub async fn close(&self) {
        self.inner.readers.close().await;
        drop(timeout(LOOKER_PATIENCE, self.inner.looking.closed()).await);
        let (tell, closed) = oneshot::channel();
        if self.inner.orders.send(Order::Close(tell)).await.is_ok() {
            // The writer drops its end when the file is closed.
            drop(closed.await);
        }
        self.inner.orders.closed().await;
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// How much was grouped.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            commits: self.inner.counters.commits.load(Ordering::Relaxed),
            jobs: self.inner.counters.jobs.load(Ordering::Relaxed),
        }
    }

    /// An error of SQLite in a job, as this crate tells it: a full disk is [`StoreError::DiskFull`].
    #[must_use]
    pub fn error(&self, error: rusqlite::Error) -> StoreError {
        StoreError::new(&self.inner.shown, error)
    }

    fn closed(&self) -> StoreError {
        StoreError::Closed { path: self.inner.shown.as_ref().to_owned() }
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

/// Connections that nobody uses just now, and as many permits.
struct Readers {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
    count: u32,
}

impl Readers {
    fn open(path: &Path, options: &SqliteOptions) -> rusqlite::Result<Self> {
        let count = options.readers.clamp(1, 64);
        let mut idle = Vec::with_capacity(count);
        for _ in 0..count {
            idle.push(connect_to_read(path, options)?);
        }
        let count = u32::try_from(count).expect("at most 64");
        let permits = Arc::new(Semaphore::new(count as usize));
        Ok(Self { idle: Arc::new(Mutex::new(idle)), permits, count })
    }

    async fn close(&self) {
        // With every permit taken no read is under way.
        if let Ok(all) = self.permits.acquire_many(self.count).await {
            self.permits.close();
            drop(all);
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}

fn take(idle: &Mutex<Vec<Connection>>) -> Option<Connection> {
    idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

fn give_back(idle: &Mutex<Vec<Connection>>, connection: Connection) {
    idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
}

fn connect_to_read(path: &Path, options: &SqliteOptions) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::empty(), options)?;
    connection.execute_batch("PRAGMA query_only = ON")?;
    Ok(connection)
}

fn connect(path: &Path, more: OpenFlags, options: &SqliteOptions) -> rusqlite::Result<Connection> {
    // Without SQLITE_OPEN_URI: a path is a path, whatever it begins with.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(options.busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    Ok(connection)
}

impl OpenError {
    /// Whether it ends without a person: another process holds the file, or the disk is full.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::DiskFull { .. } => true,
            Self::Foreign { .. }
            | Self::Newer { .. }
            | Self::Damaged { .. }
            | Self::Migration { .. }
            | Self::Io { .. } => false,
        }
    }

    pub(crate) fn io(path: &Path, error: impl fmt::Display) -> Self {
        Self::Io { path: path.display().to_string(), problem: error.to_string() }
    }

    #[allow(clippy::needless_pass_by_value, reason = "it is used as a function of `map_err`")]
    pub(crate) fn sqlite(path: &Path, error: rusqlite::Error) -> Self {
        let shown = path.display().to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged { path: shown, problem: error.to_string() }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path: shown },
            _ if StoreError::is_disk_full(&error) => Self::DiskFull { path: shown },
            Some(ErrorCode::CannotOpen) => {
                let problem = match path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
                    Some(folder) => format!("the folder {} does not exist", folder.display()),
                    None => error.to_string(),
                };
                Self::Io { path: shown, problem }
            }
            _ => Self::Io { path: shown, problem: error.to_string() },
        }
    }
}

impl StoreError {
    /// Whether it ends without a person: another process holds the file, or the disk is full.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self, Self::DiskFull { .. } | Self::Busy { .. })
    }

    /// An error of SQLite in the file of this path.
    #[must_use]
    pub fn new(path: &str, error: rusqlite::Error) -> Self {
        let path = path.to_owned();
        if Self::is_disk_full(&error) {
            return Self::DiskFull { path };
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path },
            _ => Self::Sqlite { path, source: error },
        }
    }

    /// Whether SQLite says that the disk takes no more. A file system that reserves blocks late, or counts them per user,
    /// says so in a failed write, sync or extension of the file instead of `SQLITE_FULL`.
    #[must_use]
    pub fn is_disk_full(error: &rusqlite::Error) -> bool {
        let rusqlite::Error::SqliteFailure(code, _) = error else { return false };
        code.code == ErrorCode::DiskFull
            || matches!(
                code.extended_code,
                ffi::SQLITE_IOERR_WRITE
                    | ffi::SQLITE_IOERR_FSYNC
                    | ffi::SQLITE_IOERR_DIR_FSYNC
                    | ffi::SQLITE_IOERR_SHMSIZE
                    | ffi::SQLITE_IOERR_SHMMAP
            )
    }
}
