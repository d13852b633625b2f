//! Durable commits a second, one after another and with 100 writers waiting, beside the floor: append and fsync.
//! `cargo bench -p waybill-store --profile dev --bench commits`

use std::{
    fs::File,
    io::Write,
    time::{Duration, Instant},
};

use futures::future::join_all;
use waybill_store::{Migration, Schema, Sqlite, SqliteOptions};

const SCHEMA: Schema = Schema {
    application_id: 0x5759_42ff,
    name: "bench",
    migrations: &[Migration {
        name: "rows",
        sql: "CREATE TABLE row (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, body BLOB NOT NULL)",
    }],
    shared_with_user: false,
};
const LONG: Duration = Duration::from_secs(3);

fn main() {
    let folder = tempfile::tempdir_in(std::env::var_os("BENCH_DIR").unwrap_or_else(|| ".".into())).expect("a folder");
    let body = vec![b'x'; 1024];

    let mut file = File::create(folder.path().join("append")).expect("a file");
    let (mut count, began) = (0u64, Instant::now());
    while began.elapsed() < LONG {
        file.write_all(&body).and_then(|()| file.sync_data()).expect("room on the disk");
        count += 1;
    }
    println!("append + fdatasync of 1 KiB: {:.0} /s", rate(count, began));

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for waiting in [1u64, 100] {
        let path = folder.path().join(format!("rows-{waiting}.sqlite"));
        let store = Sqlite::open(&path, &SCHEMA, SqliteOptions::default()).expect("a database");
        let (mut count, began) = (0u64, Instant::now());
        runtime.block_on(async {
            while began.elapsed() < LONG {
                let writes = join_all((0..waiting).map(|n| {
                    let (id, body) = (format!("{:032x}", count + n), body.clone());
                    store.write(move |tx| {
                        tx.prepare_cached("INSERT INTO row (id, body) VALUES (?1, ?2)")?.execute((id, body))
                    })
                }));
                for result in writes.await {
                    result.expect("a commit").expect("a row");
                }
                count += waiting;
            }
        });
        let stats = store.stats();
        println!("{waiting} waiting: {:.0} rows/s in {:.0} commits/s", rate(count, began), rate(stats.commits, began));
        runtime.block_on(store.close());
    }
}

fn rate(count: u64, began: Instant) -> f64 {
    count as f64 / began.elapsed().as_secs_f64()
}
