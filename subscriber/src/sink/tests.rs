//! The sinks against their promises. `world` holds what the tests share.

mod any;
mod bad_rows;
mod columns;
mod crash;
mod dir;
mod order;
mod parking;
mod streams;
mod user_tables;
mod world;

use super::{DirSink, SqliteSink, conformance};

#[tokio::test]
async fn sqlite_conforms() {
    let folder = tempfile::tempdir().unwrap();
    conformance::exercise(async |name: &str| {
        SqliteSink::open(folder.path().join(name), &conformance::entities()).await.unwrap()
    })
    .await;
}

#[tokio::test]
async fn a_folder_conforms() {
    let folder = tempfile::tempdir().unwrap();
    conformance::exercise(async |name: &str| DirSink::open(folder.path().join(name)).await.unwrap()).await;
}
