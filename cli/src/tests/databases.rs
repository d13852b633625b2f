//! Databases for the binaries to work into: SQLite and PostgreSQL, asked the same; and a way to a PostgreSQL that is not open yet.

use std::{path::PathBuf, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
};
use url::Url;
use waybill_store::{
    rusqlite::{Connection, types::Value},
    tokio_postgres::{self, Client, NoTls, SimpleQueryMessage},
};

use super::binaries::PATIENCE;

/// The PostgreSQL that `cargo xtask test` starts.
pub(super) fn server() -> String {
    std::env::var("WAYBILL_TEST_POSTGRES")
        .expect("WAYBILL_TEST_POSTGRES is not set: run `cargo xtask test`, which starts a PostgreSQL")
}

/// A schema of its own there.
pub(super) struct Schema {
    pub(super) client: Client,
    connection: JoinSet<()>,
    pub(super) name: String,
    /// As a sink.
    pub(super) address: String,
}

impl Schema {
    pub(super) async fn new() -> Self {
        use std::hash::{BuildHasher, RandomState};
        let server = server();
        let (client, served) = tokio_postgres::connect(&server, NoTls).await.unwrap();
        let mut connection = JoinSet::new();
        connection.spawn(async { served.await.unwrap() });
        let name = format!("cli_sink_{:016x}", RandomState::new().hash_one(std::process::id()));
        client.batch_execute(&format!("CREATE SCHEMA {name}; SET search_path = {name}")).await.unwrap();
        let address = in_schema(&server, &name);
        Self { client, connection, name, address }
    }

    /// The columns by `|`; none of a table that is not there.
    pub(super) async fn rows(&self, sql: &str) -> Vec<String> {
        let Ok(answers) = self.client.simple_query(sql).await else { return Vec::new() };
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => {
                let values: Vec<_> = (0..row.len()).map(|at| row.get(at).unwrap_or("-").to_owned()).collect();
                Some(values.join("|"))
            }
            _ => None,
        };
        answers.into_iter().filter_map(row).collect()
    }

    pub(super) async fn until(&self, sql: &str, expected: &[&str]) {
        let looking = async {
            while self.rows(sql).await != expected {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, looking).await;
        assert!(found.is_ok(), "{sql}: {:?} instead of {expected:?}", self.rows(sql).await);
    }

    pub(super) async fn remove(mut self) {
        self.client.batch_execute(&format!("DROP SCHEMA {} CASCADE", self.name)).await.unwrap();
        drop(self.client);
        self.connection.join_next().await;
    }
}

/// A sink in a schema.
fn in_schema(server: &str, schema: &str) -> String {
    format!("{server}?sslmode=disable&options=-c%20search_path%3D{schema}")
}

/// A sink of either kind.
pub(super) enum Database {
    Sqlite { path: PathBuf, sink: String },
    Postgres(Box<Schema>),
}

impl Database {
    /// A file beside the test, and a schema.
    pub(super) async fn both(folder: &TempDir, name: &str) -> [Self; 2] {
        [Self::sqlite(folder, name), Self::Postgres(Box::new(Schema::new().await))]
    }

    pub(super) fn sqlite(folder: &TempDir, name: &str) -> Self {
        Self::Sqlite { path: folder.path().join(name), sink: format!("sqlite:{name}") }
    }

    /// As `--sink` takes it.
    pub(super) fn sink(&self) -> &str {
        match self {
            Self::Sqlite { sink, .. } => sink,
            Self::Postgres(schema) => &schema.address,
        }
    }

    /// Of SQL that both understand, the columns by `|`.
    pub(super) async fn query(&self, sql: &str) -> Vec<String> {
        let path = match self {
            Self::Sqlite { path, .. } => path,
            Self::Postgres(schema) => return schema.rows(sql).await,
        };
        let connection = Connection::open(path).unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        let mut statement = connection.prepare(sql).unwrap();
        let columns = statement.column_count();
        let shown = |value: Value| match value {
            Value::Null => "-".to_owned(),
            Value::Integer(number) => number.to_string(),
            Value::Real(number) => number.to_string(),
            Value::Text(text) => text,
            Value::Blob(bytes) => format!("{bytes:?}"),
        };
        let row = |row: &waybill_store::rusqlite::Row<'_>| {
            (0..columns).map(|at| row.get(at).map(shown)).collect::<Result<Vec<_>, _>>().map(|row| row.join("|"))
        };
        statement.query_map([], row).unwrap().collect::<Result<_, _>>().unwrap()
    }

    pub(super) async fn change(&self, sql: &str) {
        match self {
            Self::Sqlite { path, .. } => {
                let connection = Connection::open(path).unwrap();
                connection.busy_timeout(PATIENCE).unwrap();
                connection.execute_batch(sql).unwrap();
            }
            Self::Postgres(schema) => schema.client.batch_execute(sql).await.unwrap(),
        }
    }

    pub(super) async fn remove(self) {
        if let Self::Postgres(schema) = self {
            schema.remove().await;
        }
    }
}

/// What a PostgreSQL behind a [`Door`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    /// It does not run: connections are refused.
    Down,
    /// It lets nobody in, with this SQLSTATE.
    Saying(&'static str),
    /// It works.
    Open,
}

/// A port of this machine that leads to the PostgreSQL of the tests, as far as it is open.
pub(super) struct Door {
    port: u16,
    behind: watch::Sender<Behind>,
    _serving: JoinSet<()>,
}

impl Door {
    pub(super) async fn new(behind: Behind) -> Self {
        // Bound, and so nobody else's, but not listened at.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = socket.local_addr().unwrap().port();
        let (behind, seen) = watch::channel(behind);
        let mut serving = JoinSet::new();
        serving.spawn(serve(socket, seen));
        Self { port, behind, _serving: serving }
    }

    pub(super) fn set(&self, behind: Behind) {
        self.behind.send_replace(behind);
    }

    /// The server by this way.
    pub(super) fn server(&self) -> String {
        let mut server = Url::parse(&server()).unwrap();
        server.set_port(Some(self.port)).unwrap();
        server.to_string()
    }

    /// A schema there as a sink.
    pub(super) fn sink(&self, schema: &str) -> String {
        in_schema(&self.server(), schema)
    }
}

async fn serve(socket: TcpSocket, mut behind: watch::Receiver<Behind>) {
    if behind.wait_for(|behind| *behind != Behind::Down).await.is_err() {
        return;
    }
    let listener: TcpListener = socket.listen(64).unwrap();
    let mut relays = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let behind = *behind.borrow();
        relays.spawn(relay(client, behind));
    }
}

async fn relay(mut client: TcpStream, behind: Behind) {
    if let Behind::Saying(code) = behind {
        // Its startup message, which is less than this.
        let mut startup = [0; 4096];
        assert_ne!(client.read(&mut startup).await.unwrap(), 0);
        // Source: PostgreSQL, "Message Formats", ErrorResponse.
        let fields = format!("SFATAL\0VFATAL\0C{code}\0Mthe server says no\0\0");
        let length = u32::try_from(fields.len() + 4).unwrap();
        let answer = [&b"E"[..], &length.to_be_bytes(), fields.as_bytes()].concat();
        client.write_all(&answer).await.unwrap();
        return;
    }
    let server = Url::parse(&server()).unwrap();
    let mut server = TcpStream::connect((server.host_str().unwrap(), server.port().unwrap())).await.unwrap();
    // An error is an end.
    drop(copy_bidirectional(&mut client, &mut server).await);
}
