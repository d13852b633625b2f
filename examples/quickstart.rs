//! The whole of Waybill in one program: `local` plays Azure, a publisher exports the AdventureWorks tables in the order of
//! their changes, and a subscriber builds a database, while tokens live a few seconds and die on the way.
//!
//! `cargo run --release --example quickstart [-- --out DIR]`

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;
use url::Url;
use waybill_azure::{Secret, blob::ContainerOptions};
use waybill_contracts::ReadyFile;
use waybill_examples::{
    adventureworks::{self, Change, Table},
    playground::publisher_tokens,
};
use waybill_formats::Field;
use waybill_local::{
    Local,
    fault::{BlobRequests, CutAt, Step, What},
};
use waybill_publisher::Publisher;
use waybill_subscriber::{
    Subscriber,
    grants::{Credential, RenewedBecause},
    inbox::{Inbox, SqliteInbox, SqliteInboxOptions, Wanted},
    sink::SqliteSink,
};

/// Changes per window; a window's changes of one table are one file.
const WINDOW: usize = 1_500;
/// Exports under way at once.
const EXPORTS_AT_ONCE: usize = 8;
/// Short enough that tokens die several times in a run of seconds.
const TOKEN_LIFE: Duration = Duration::from_secs(3);
/// Folder of inbox and outbox beside the database; removed at the next run.
const STATE: &str = "adventureworks.state";
/// Small, so that a download takes several requests and can be cut between and within them.
const RANGE_BYTES: u64 = 8 * 1024;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("quickstart: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<bool> {
    let out = out_folder()?;
    let tables = Arc::new(adventureworks::load()?);
    let files = plan(&tables);
    println!(
        "AdventureWorks: {} tables, {} rows, as {} files in the order of their changes",
        tables.len(),
        count(tables.iter().map(Table::rows).sum()),
        files.len()
    );
    let began = Instant::now();

    // Azure in this process. Its tokens live seconds, are rotated twice, and once a body is cut and its token refused.
    let local = Local::builder().token_life(TOKEN_LIFE).start().await?;
    let cut = What::Cut { at: CutAt::BlobByte(2 * RANGE_BYTES + 100), refuse_sas: true };
    local.faults().install([Step::new(BlobRequests::default(), cut).nth(5.try_into()?)])?;
    let ready = local.ready_file().clone();

    let publisher = publisher(&ready, &out).await?;
    let subscriber = subscriber(&ready, &out).await?;
    let database = out.join("adventureworks.sqlite");
    let sink = SqliteSink::open(&database, &adventureworks::entities()?).await?;

    let stop = CancellationToken::new();
    let (published, rotations) = (AtomicU64::new(0), AtomicU64::new(0));
    let line = || {
        let (received, worked) = (subscriber.receive_stats(), subscriber.work_stats());
        format!(
            "{} files published, {} received, {} applied, {} rows, {} parked, {} released",
            published.load(Ordering::Relaxed),
            received.saved.load(Ordering::Relaxed),
            worked.files_done.load(Ordering::Relaxed),
            count(worked.rows.load(Ordering::Relaxed)),
            count(worked.parked.load(Ordering::Relaxed)),
            count(worked.released.load(Ordering::Relaxed)),
        )
    };
    let main_job = async {
        let result = async {
            publish(&publisher, &local, &tables, &files, &published, &rotations).await?;
            publisher.flush(Duration::from_secs(60)).await?;
            let wanted = files.len() as u64;
            let all_done = async {
                while subscriber.inbox().counts().await?.done < wanted {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                anyhow::Ok(())
            };
            tokio::time::timeout(Duration::from_secs(120), all_done)
                .await
                .context("the subscriber did not finish")??;
            subscriber.until_idle(&Wanted::default(), Duration::ZERO, true, &stop).await?;
            anyhow::Ok(())
        };
        let result = result.await;
        stop.cancel();
        result
    };
    let (main_job, subscribed, (), ()) = tokio::join!(
        main_job,
        subscriber.run(sink.clone(), stop.clone()),
        publisher.run(stop.clone()),
        show(&line, &stop),
    );
    main_job?;
    subscribed?;
    let took = began.elapsed();

    let totals = sink.totals().await?;
    let worked = subscriber.work_stats();
    let rows = worked.rows.load(Ordering::Relaxed);
    println!(
        "\n{} files, {} rows in {:.1} s: {} rows per second",
        totals.files,
        count(rows),
        took.as_secs_f64(),
        count((rows as f64 / took.as_secs_f64()) as u64)
    );
    println!(
        "{} rows came before their parent and were parked; {} were released, {} are still parked",
        count(totals.applied.parked),
        count(totals.applied.released),
        count(totals.parked_now)
    );
    println!("{} older versions ignored, {} bad rows", count(totals.applied.ignored), count(totals.bad_now));
    if let Some(grants) = subscriber.grants() {
        let renewals: Vec<String> =
            grants.renewals().iter().map(|(because, times)| format!("{times} × {}", because.as_str())).collect();
        println!("tokens renewed: {}", renewals.join(", "));
    }
    let fired: Vec<String> = local.faults().log_lines().iter().map(|fired| fired.what.clone()).collect();
    println!(
        "faults: {}; {} rotations",
        if fired.is_empty() { "none".to_owned() } else { fired.join("; ") },
        rotations.load(Ordering::Relaxed)
    );
    let refused =
        subscriber.grants().and_then(|grants| grants.renewals().get(&RenewedBecause::RefusedByStorage).copied());
    sink.close().await;
    local.stop().await;

    let same = check(&tables, &database)? && totals.parked_now == 0 && totals.bad_now == 0;
    // What this program says it shows did happen.
    ensure!(!fired.is_empty(), "no download was cut: the files are smaller than the script expects");
    ensure!(refused.unwrap_or_default() > 0, "no token was refused in the middle of the work");
    ensure!(rotations.load(Ordering::Relaxed) == ROTATIONS as u64, "the tokens were not rotated {ROTATIONS} times");
    ensure!(totals.applied.parked > 0, "no row came before its parent");
    let shown = database.display();
    println!("\nTry next:");
    println!("  sqlite3 {shown} 'SELECT Name, ListPrice FROM product ORDER BY ListPrice DESC LIMIT 5'");
    println!(
        "  cargo run --release --bin waybill-subscriber -- list --data {}",
        out.join(STATE).join("subscriber").display()
    );
    println!("  cargo run --release --bin waybill-local -- run --random-ports --ready-file local.json");
    Ok(same)
}

fn out_folder() -> anyhow::Result<PathBuf> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let out = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => PathBuf::from("target/quickstart"),
        ["--out", folder] => PathBuf::from(folder),
        _ => anyhow::bail!("usage: quickstart [--out DIR]"),
    };
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    // Ours from an earlier run; anything else in the folder stays.
    for name in ["adventureworks.sqlite", "adventureworks.sqlite-wal", "adventureworks.sqlite-shm"] {
        remove(std::fs::remove_file(out.join(name)))?;
    }
    remove(std::fs::remove_dir_all(out.join(STATE)))?;
    Ok(out)
}

fn remove(result: std::io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("cannot clear an earlier run"),
        _ => Ok(()),
    }
}

async fn publisher(ready: &ReadyFile, out: &Path) -> anyhow::Result<Publisher> {
    Ok(Publisher::builder(publisher_tokens(ready)?, out.join(STATE).join("publisher"))
        .name("adventureworks")
        .build()
        .await?)
}

async fn subscriber(ready: &ReadyFile, out: &Path) -> anyhow::Result<Subscriber<SqliteInbox>> {
    let folder = out.join(STATE).join("subscriber");
    std::fs::create_dir_all(&folder)?;
    let inbox = SqliteInbox::open(&folder.join("inbox.sqlite"), SqliteInboxOptions::default()).await?;
    let credential = Credential::Bearer(Secret::new(&ready.bearer_token));
    Ok(Subscriber::<SqliteInbox>::builder()
        .entities(adventureworks::entities()?)
        .blob(ContainerOptions { range_bytes: RANGE_BYTES, ..ContainerOptions::default() })
        .with_tenant(inbox, &Url::parse(&ready.tenant_url)?, credential)?)
}

/// A file to publish: changes of one table, in their order.
struct File {
    table: usize,
    changes: Vec<Change>,
}

/// Cuts all changes into windows, and each window into a file per table.
fn plan(tables: &[Table]) -> Vec<File> {
    let mut files = Vec::new();
    for window in adventureworks::changes(tables).chunks(WINDOW) {
        let mut of_table: Vec<Vec<Change>> = tables.iter().map(|_| Vec::new()).collect();
        for change in window {
            of_table[change.table].push(*change);
        }
        let cut = of_table.into_iter().enumerate().filter(|(_, changes)| !changes.is_empty());
        files.extend(cut.map(|(table, changes)| File { table, changes }));
    }
    files
}

const ROTATIONS: usize = 2;

/// Publishes every file, JSON Lines and CSV by turns, and rotates the tokens at one and two thirds of the way.
async fn publish(
    publisher: &Publisher,
    local: &Local,
    tables: &[Table],
    files: &[File],
    published: &AtomicU64,
    rotations: &AtomicU64,
) -> anyhow::Result<()> {
    let exports = futures::stream::iter(files.iter().enumerate())
        .map(|(number, file)| async move {
            export(publisher, &tables[file.table], file, number).await?;
            let before = published.fetch_add(1, Ordering::Relaxed);
            if (1..=ROTATIONS).any(|turn| before as usize == files.len() * turn / (ROTATIONS + 1)) {
                local.rotate(None)?;
                rotations.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        })
        .buffered(EXPORTS_AT_ONCE);
    exports.try_collect::<()>().await
}

async fn export(publisher: &Publisher, table: &Table, file: &File, number: usize) -> anyhow::Result<()> {
    let as_csv = number % 2 == 1;
    let export = publisher.export(&table.blob_type)?.id(&format!("adventureworks-{number}"))?;
    let export = if as_csv { export.csv(table.columns.iter().map(|column| column.name.as_str())) } else { export };
    let mut writer = export.start().await?;
    let mut values = Vec::new();
    for change in &file.changes {
        table.values(*change, &mut values);
        let row: Vec<(&str, Field<'_>)> = table
            .columns
            .iter()
            .zip(&values)
            .enumerate()
            .map(|(index, (column, value))| {
                (column.name.as_str(), if as_csv { value.clone() } else { table.typed(index, value) })
            })
            .collect();
        writer.row(&row).await?;
    }
    let exported = writer.finish().await?;
    ensure!(!exported.repeated, "export {} was there already", exported.export_id);
    Ok(())
}

/// A line that changes on a terminal, a line a second elsewhere.
async fn show(line: &impl Fn() -> String, stop: &CancellationToken) {
    let terminal = std::io::stderr().is_terminal();
    let bar = if terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("the template is sound"));
    let every = Duration::from_millis(if terminal { 100 } else { 1000 });
    while tokio::time::timeout(every, stop.cancelled()).await.is_err() {
        bar.set_message(line());
        bar.tick();
        if !terminal {
            println!("{}", line());
        }
    }
    bar.finish_and_clear();
    println!("{}", line());
}

/// Compares every table with its source and says so.
fn check(tables: &[Table], database: &Path) -> anyhow::Result<bool> {
    let compared = adventureworks::compare(tables, database)?;
    let mut out = std::io::stdout().lock();
    writeln!(out)?;
    for table in compared.iter().filter(|table| !table.same()) {
        writeln!(
            out,
            "DIFFERENT {}: {} rows, sum {}; the source has {} rows, sum {}",
            table.name, table.found, table.found_sum, table.expected, table.expected_sum
        )?;
    }
    let same = compared.iter().filter(|table| table.same()).count();
    let rows = compared.iter().map(|table| table.found).sum();
    writeln!(
        out,
        "checked: {same} of {} tables equal their source, {} rows, every value",
        compared.len(),
        count(rows)
    )?;
    Ok(same == compared.len())
}

/// `12,345`.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits are ASCII")).collect();
    groups.join(",")
}
