//! Whether anybody committed something, asked for by a thread of its own: a task that asks has to wake two others for it.

use std::{
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    time::Duration,
};

use rusqlite::Connection;
use tokio::sync::watch;

/// Tells of commits by any connection to an SQLite file, of any process. Dropped, it has its thread end, which closes its connection;
/// [`Sqlite::close`](crate::Sqlite::close) waits for that.
#[derive(Debug)]
pub struct Commits {
    told: watch::Receiver<()>,
    every: Duration,
    /// The thread ends when this is dropped. It is not waited for there: a file on a server that is gone has no end.
    _stop: Sender<()>,
}

impl Commits {
    /// `connect` is asked again where it failed. The thread drops `open` after its connection.
    pub(crate) fn of(
        path: &Path,
        every: Duration,
        open: impl Send + 'static,
        connect: impl Fn(&Path) -> rusqlite::Result<Connection> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (tell, told) = watch::channel(());
        let (stop, stopped) = channel();
        let file = path.to_owned();
        let look = move || {
            look(&file, every, &stopped, &tell, connect);
            drop(open);
        };
        std::thread::Builder::new().name("commits".to_owned()).spawn(look)?;
        Ok(Self { told, every, _stop: stop })
    }

    /// Returns when something was committed since it returned last, or may have been: at first, and as long as nobody can tell.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) {
        if self.told.changed().await.is_err() {
            // The thread is gone, so nobody can tell.
            tokio::time::sleep(self.every).await;
        }
    }
}

fn look(
    path: &Path,
    every: Duration,
    stopped: &Receiver<()>,
    tell: &watch::Sender<()>,
    connect: impl Fn(&Path) -> rusqlite::Result<Connection>,
) {
    let (mut connection, mut known) = (None, None);
    loop {
        if connection.is_none() {
            connection = connect(path).ok();
        }
        let version = connection.as_ref().and_then(|connection| version(connection).ok());
        if version.is_none() {
            connection = None;
        }
        if version.is_none() || version != known {
            tell.send_replace(());
        }
        known = version;
        match stopped.recv_timeout(every) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Changes with each commit of another connection.
/// Source: <https://www.sqlite.org/pragma.html#pragma_data_version>
fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
}
