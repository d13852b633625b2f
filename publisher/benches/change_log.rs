//! How fast changes are logged in PostgreSQL and become files, and how long a single one takes to the broker when nothing else
//! goes on. Needs `WAYBILL_TEST_POSTGRES`; storage and bus are `waybill-local` in this process, on the same processors.
//! `cargo bench -p waybill-publisher --bench change_log`

#![allow(clippy::unwrap_used, reason = "a bench that fails stops")]

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use waybill_azure::connection_string::key_tokens;
use waybill_local::Local;
use waybill_publisher::{
    FollowOptions, Publisher,
    change_log::{Change, ChangeLog, PostgresChangeLogOptions, append_postgres},
    outbox::{PostgresOutbox, PostgresOutboxOptions},
};
use waybill_store::tokio_postgres::{NoTls, connect};

const CHANGES: u32 = 500_000;
const IN_A_TRANSACTION: u32 = 10_000;
const SINGLE: u32 = 20;

#[tokio::main]
async fn main() {
    let server = std::env::var("WAYBILL_TEST_POSTGRES").expect("WAYBILL_TEST_POSTGRES names a server");
    let address = format!("{server}?sslmode=disable");
    let schema = format!("bench_{}", uuid::Uuid::new_v4().simple());
    let log = ChangeLog::postgres(&address, PostgresChangeLogOptions { schema: schema.clone() }).await.unwrap();
    let (mut client, connection) = connect(&address, NoTls).await.unwrap();
    let mut served = tokio::task::JoinSet::new();
    served.spawn(async { connection.await.unwrap_or_default() });

    let began = Instant::now();
    for first in (0..CHANGES).step_by(IN_A_TRANSACTION as usize) {
        let changes: Vec<Change> = (first..first + IN_A_TRANSACTION).map(change).collect();
        let tx = client.transaction().await.unwrap();
        append_postgres(&tx, &schema, &changes).await.unwrap();
        tx.commit().await.unwrap();
    }
    tell("logged, in transactions of 10,000", began.elapsed());

    let local = Local::builder().start().await.unwrap();
    let ready = local.ready_file();
    let tokens = key_tokens(
        ready.service_bus_connection_string.parse().unwrap(),
        ready.topic.clone(),
        ready.blob_connection_string.parse().unwrap(),
        ready.container.clone(),
        Duration::from_secs(3600),
    );
    let options = PostgresOutboxOptions { schema: format!("{schema}_outbox"), ..PostgresOutboxOptions::default() };
    let outbox = PostgresOutbox::open(&address, options).await.unwrap();
    let publisher = Publisher::builder(tokens, "").build_on(outbox).unwrap();
    let stop = CancellationToken::new();
    let measured = async {
        let began = Instant::now();
        loop {
            let status = log.status().await.unwrap();
            if status.waiting == 0 && status.open_files.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tell("exported", began.elapsed());
        publisher.flush(Duration::from_secs(60)).await.unwrap();
        let mut took = Vec::new();
        for number in 0..SINGLE {
            // Longer than a type's files are apart.
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            let arrived = || local.broker().counts("exports/subscriptions/acme").unwrap().totals.enqueued;
            let before = arrived();
            let tx = client.transaction().await.unwrap();
            append_postgres(&tx, &schema, &[change(number)]).await.unwrap();
            tx.commit().await.unwrap();
            let began = Instant::now();
            while arrived() == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            took.push(began.elapsed());
        }
        took.sort_unstable();
        println!(
            "from a commit to the broker, {SINGLE} times: median {:?}, longest {:?}",
            took[took.len() / 2],
            took[took.len() - 1]
        );
        let before = processor_time();
        tokio::time::sleep(Duration::from_secs(10)).await;
        println!("idle for 10 s: {} ms of processor time, with waybill-local", (processor_time() - before) * 10);
        stop.cancel();
    };
    let (followed, (), ()) = tokio::join!(
        publisher.follow(&log, FollowOptions::default(), stop.clone()),
        publisher.run(stop.clone()),
        measured
    );
    followed.unwrap();
    local.stop().await;
    client.batch_execute(&format!("DROP SCHEMA {schema} CASCADE; DROP SCHEMA {schema}_outbox CASCADE")).await.unwrap();
}

/// In ticks of 10 ms. Source: proc(5), /proc/[pid]/stat, fields 14 and 15.
fn processor_time() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn change(number: u32) -> Change {
    let row = serde_json::json!({
        "ProductID": number,
        "Name": format!("Mountain frame, size {}", number % 60),
        "ListPrice": f64::from(number % 10_000) / 4.0,
        "ModifiedDate": "2014-02-08T10:01:36.827Z",
    });
    Change::upsert("ProductChanges", &row).expect("an object")
}

fn tell(what: &str, took: Duration) {
    println!(
        "{CHANGES} changes {what}: {:.2} s, {:.0} a second",
        took.as_secs_f64(),
        f64::from(CHANGES) / took.as_secs_f64()
    );
}
