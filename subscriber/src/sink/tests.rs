//! The sinks against their promises. `world` holds what the tests share; what every database must do runs on each.

#![allow(clippy::duplicate_mod, reason = "the same tests run on each database")]

mod any;
mod crash;
mod dir;
mod on_postgres;
mod on_sqlite;
mod postgres;
mod sqlite;
mod stdout;
mod world;

use super::{DirSink, PostgresSink, SqliteSink, StdoutSink, conformance};

#[tokio::test]
async fn sqlite_conforms() {
    let folder = tempfile::tempdir().unwrap();
    conformance::exercise(async |name: &str| {
        SqliteSink::open(folder.path().join(name), &conformance::entities()).await.unwrap()
    })
    .await;
}

#[tokio::test]
async fn postgres_conforms() {
    let place = world::postgres::Place::new().await;
    conformance::exercise(async |name: &str| {
        PostgresSink::open(&place.schema(name).await, &conformance::entities()).await.unwrap()
    })
    .await;
}

#[tokio::test]
async fn a_folder_conforms() {
    let folder = tempfile::tempdir().unwrap();
    conformance::exercise(async |name: &str| DirSink::open(folder.path().join(name)).await.unwrap()).await;
}

#[tokio::test]
async fn standard_output_conforms() {
    let folder = tempfile::tempdir().unwrap();
    conformance::exercise(async |name: &str| {
        StdoutSink::open_with(&folder.path().join(name), std::io::sink()).await.unwrap()
    })
    .await;
}
