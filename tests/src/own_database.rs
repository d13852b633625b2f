//! A PostgreSQL database for one test alone, which can be copied and put back, as an operator does it with a backup.

use std::time::Duration;

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use url::Url;
use uuid::Uuid;
use waybill_store::tokio_postgres::{Client, Error, NoTls, SimpleQueryMessage, connect};

use crate::harness::PATIENCE;

/// A database of the tests' server.
#[derive(Debug, Clone)]
pub(crate) struct OwnDatabase {
    pub(crate) name: String,
}

impl OwnDatabase {
    /// One that is new, and empty.
    pub(crate) async fn new(what: &str) -> Self {
        let database = Self { name: format!("{what}_{}", Uuid::new_v4().simple()) };
        database.make_from("template0").await;
        database
    }

    /// As a program is told it; more of its sessions are `parameters`.
    pub(crate) fn address(&self, parameters: &[(&str, &str)]) -> String {
        let mut address = server();
        address.set_path(&self.name);
        with(address, parameters)
    }

    /// What it answers, the values of a row joined by `|`, as [`query`](crate::harness::query) does.
    pub(crate) async fn lines(&self, sql: &str) -> Vec<String> {
        lines(&self.address(&[]), sql).await.unwrap_or_else(|error| panic!("{}: {sql}: {error:?}", self.name))
    }

    /// A copy of all that it holds now. Whoever is connected has to be gone soon.
    pub(crate) async fn copy(&self) -> Self {
        let copy = Self { name: format!("{}_copy", self.name) };
        copy.make_from(&self.name).await;
        copy
    }

    /// Puts what a copy holds in the place of what there is.
    pub(crate) async fn restore(&self, copy: &Self) {
        self.remove().await;
        self.make_from(&copy.name).await;
    }

    /// Of all that it holds, nothing is left.
    pub(crate) async fn lose(&self) {
        self.remove().await;
        self.make_from("template0").await;
    }

    pub(crate) async fn end(self) {
        self.remove().await;
    }

    async fn make_from(&self, template: &str) {
        let (make, end) = (format!("CREATE DATABASE {} TEMPLATE {template}", self.name), Instant::now() + PATIENCE);
        // The server says so as long as somebody is connected to the template: a session outlives its process for a moment.
        while let Err(error) = lines(server().as_str(), &make).await {
            assert!(Instant::now() < end, "{make}: {error:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn remove(&self) {
        let remove = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        lines(server().as_str(), &remove).await.unwrap_or_else(|error| panic!("{remove}: {error:?}"));
    }
}

/// The server that `cargo xtask test` starts.
pub(crate) fn server() -> Url {
    let server = std::env::var("WAYBILL_TEST_POSTGRES")
        .expect("WAYBILL_TEST_POSTGRES is not set: run `cargo xtask test`, which starts a PostgreSQL");
    let mut server = Url::parse(&server).expect("an address");
    server.set_query(Some("sslmode=disable"));
    server
}

/// An address with more parameters of its sessions.
pub(crate) fn with(mut address: Url, parameters: &[(&str, &str)]) -> String {
    for (name, value) in parameters {
        address.query_pairs_mut().append_pair(name, value);
    }
    // A plus is a space in forms alone.
    address.as_str().replace('+', "%20")
}

/// A session, and what serves it.
pub(crate) async fn session(address: &str) -> Result<(Client, JoinSet<()>), Error> {
    let (client, connection) = connect(address, NoTls).await?;
    let mut served = JoinSet::new();
    served.spawn(async { connection.await.unwrap_or_default() });
    Ok((client, served))
}

/// What is answered there, the values of a row joined by `|`, nothing as `-`.
pub(crate) async fn lines(address: &str, sql: &str) -> Result<Vec<String>, Error> {
    let (client, _served) = session(address).await?;
    let answered = client.simple_query(sql).await?;
    let rows = answered.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let line =
        rows.map(|row| (0..row.len()).map(|column| row.get(column).unwrap_or("-")).collect::<Vec<_>>().join("|"));
    Ok(line.collect())
}
