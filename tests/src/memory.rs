//! Memory is bounded by configuration, not by the size of a file.
//!
//! Each side runs in a process of its own: the test starts its own program again, with the part to play in the environment,
//! and reads what the kernel says of that process. So the peak is that of one side alone.

use std::{
    num::NonZeroU32,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{process::Command, time::timeout};
use tokio_util::sync::CancellationToken;
use waybill_contracts::ReadyFile;
use waybill_formats::Field;
use waybill_local::{
    BlobOperation,
    fault::{BlobRequests, Step, What, When},
};
use waybill_publisher::Publisher;
use waybill_subscriber::{
    FileKey, Subscriber,
    grants::Credential,
    inbox::{SqliteInbox, SqliteInboxOptions},
    sink::{Applied, EntityBatch, Guarantee, Progress, Sink, SinkError, WaitsEnded},
};

use crate::harness::{PATIENCE, World, tokens, until};

const NAME: &str =
    "memory::a_file_of_1_gb_takes_hardly_more_memory_than_one_of_256_mb_and_less_than_64_mib_of_heap_on_either_side";
const PART: &str = "WAYBILL_TEST_MEMORY_PART";
const FOLDER: &str = "WAYBILL_TEST_MEMORY_FOLDER";
const MIB: u64 = 1 << 20;

/// With digits that have no pattern, and a note that is always the same, rows pack about as well as real data.
const WORDS: [&str; 8] = ["saddle", "frame", "bell", "wheel", "pedal", "chain", "light", "brake"];

async fn publish(ready: &ReadyFile, folder: &std::path::Path, plain_bytes: u64) {
    let publisher = Publisher::builder(tokens(ready), folder.join("publisher")).build().await.expect("a publisher");
    export(&publisher, plain_bytes, 4).await;
    send(&publisher).await;
}

/// A hundred files at once, each of so many bytes.
async fn publish_a_hundred(ready: &ReadyFile, folder: &std::path::Path, plain_bytes: u64) {
    let publisher = Publisher::builder(tokens(ready), folder.join("publisher")).build().await.expect("a publisher");
    futures::future::join_all((0..100).map(|_| export(&publisher, plain_bytes, 0))).await;
    send(&publisher).await;
}

/// With fewer repetitions of a note, rows pack less well.
async fn export(publisher: &Publisher, plain_bytes: u64, notes: usize) {
    let mut writer = publisher.export("Large").expect("a good type").start().await.expect("the export begins");
    let (mut written, mut number, mut noise) = (0, 0_u64, 1_u64);
    let note = "a bicycle has two wheels and a rider who wants to get somewhere; ".repeat(notes);
    while written < plain_bytes {
        number += 1;
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (id, digits) = (number.to_string(), format!("{noise:016x}{:016x}", noise.wrapping_mul(number)));
        let word = WORDS[usize::try_from(noise >> 61).expect("three bits")];
        let row = [
            ("id", Field::Number(&id)),
            ("word", Field::Text(word.into())),
            ("digits", Field::Text(digits.into())),
            ("note", Field::Text(note.as_str().into())),
        ];
        writer.row(&row).await.expect("the row is written");
        written += note.len() as u64 + 76;
    }
    let exported = writer.finish().await.expect("the export is durable");
    assert!(exported.plain_bytes >= plain_bytes && exported.rows == Some(number), "{exported:?}");
}

async fn send(publisher: &Publisher) {
    let stop = CancellationToken::new();
    let flushed = async {
        let flushed = publisher.flush(PATIENCE).await;
        stop.cancel();
        flushed
    };
    let (flushed, ()) = tokio::join!(flushed, publisher.run(stop.clone()));
    flushed.expect("the message is sent");
}

/// Counts rows and keeps nothing of them.
#[derive(Clone, Default)]
struct CountingSink {
    rows: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    done: CancellationToken,
}

impl Sink for CountingSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    async fn progress(&self, _: &FileKey) -> Result<Progress, SinkError> {
        Ok(Progress { rows: self.rows.load(Ordering::SeqCst), done: self.done.is_cancelled(), ..Progress::default() })
    }

    async fn apply(&self, _: &FileKey, from: u64, batch: EntityBatch) -> Result<Applied, SinkError> {
        let rows: u64 = batch.rows.iter().map(|rows| rows.len() as u64).sum();
        let bytes: usize = batch.rows.iter().map(|rows| rows.size()).sum();
        self.bytes.fetch_add(bytes as u64, Ordering::SeqCst);
        assert_eq!(self.rows.fetch_add(rows, Ordering::SeqCst), from, "stretch after stretch");
        assert_eq!(from + rows, batch.to, "no row is bad");
        if batch.end.is_some() {
            self.done.cancel();
        }
        Ok(Applied { inserted: rows, ..Applied::default() })
    }

    async fn end_waits(&self) -> Result<WaitsEnded, SinkError> {
        Ok(WaitsEnded::default())
    }
}

async fn subscribe(ready: &ReadyFile, folder: &std::path::Path, plain_bytes: u64) {
    let folder = folder.join("subscriber");
    std::fs::create_dir_all(&folder).expect("a folder");
    let inbox = SqliteInbox::open(&folder.join("inbox.sqlite"), SqliteInboxOptions::default()).await;
    let credential = Credential::Bearer(waybill_azure::Secret::new(&ready.bearer_token));
    let tenant = url::Url::parse(&ready.tenant_url).expect("an address");
    let subscriber = Subscriber::<SqliteInbox>::builder()
        .with_tenant(inbox.expect("the inbox opens"), &tenant, credential)
        .expect("a subscriber");
    let sink = CountingSink::default();
    let stop = CancellationToken::new();
    let ends = async {
        sink.done.cancelled().await;
        stop.cancel();
    };
    let (ran, ()) = tokio::join!(subscriber.run(sink.clone(), stop.clone()), ends);
    ran.expect("the subscriber runs");
    let bytes = sink.bytes.load(Ordering::SeqCst);
    assert!(bytes >= plain_bytes / 100 * 95, "{bytes} bytes of rows in a file of {plain_bytes}");
}

/// A figure of `/proc/self/status`, in bytes.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).expect("a figure in kB");
    kib.parse::<u64>().expect("a number") * 1024
}

/// Plays the part that the environment names, and writes its peak of memory: heap and stacks, without the program's own
/// pages, which are looked at often, and all together as the kernel counts.
async fn play(part: &str) {
    let (side, plain_bytes) = part.split_once(' ').expect("SIDE BYTES");
    let plain_bytes = plain_bytes.parse().expect("a number");
    let folder = std::path::PathBuf::from(std::env::var_os(FOLDER).expect("a folder"));
    let ready = std::fs::read(folder.join("ready.json")).expect("the ready file");
    let ready: ReadyFile = serde_json::from_slice(&ready).expect("the ready file");
    let done = CancellationToken::new();
    let watch = async {
        let mut peak = 0;
        while timeout(Duration::from_millis(5), done.cancelled()).await.is_err() {
            peak = peak.max(status("RssAnon"));
        }
        peak
    };
    let work = async {
        match side {
            "publisher" => publish(&ready, &folder, plain_bytes).await,
            "hundred" => publish_a_hundred(&ready, &folder, plain_bytes).await,
            "subscriber" => subscribe(&ready, &folder, plain_bytes).await,
            other => panic!("no such part: {other}"),
        }
        done.cancel();
    };
    let (heap, ()) = tokio::join!(watch, work);
    std::fs::write(folder.join("peak"), format!("{heap} {}", status("VmHWM"))).expect("the answer is written");
}

/// Peak heap and peak of everything of one side in a process of its own.
async fn peak_of(world: &World, part: String) -> (u64, u64) {
    let mut run = Command::new(std::env::current_exe().expect("this program"));
    run.args(["--exact", NAME, "--nocapture", "--test-threads", "1"]);
    run.env(PART, &part).env(FOLDER, world.path("")).kill_on_drop(true);
    run.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = timeout(2 * PATIENCE, run.output()).await.expect("it ends in time").expect("it runs");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{part}: {told}");
    let peak = std::fs::read_to_string(world.path("peak")).unwrap_or_else(|_| panic!("{part} tells: {told}"));
    std::fs::remove_file(world.path("peak")).expect("it is there");
    let (heap, all) = peak.split_once(' ').expect("two figures");
    (heap.parse().expect("a number"), all.parse().expect("a number"))
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_1_gb_takes_hardly_more_memory_than_one_of_256_mb_and_less_than_64_mib_of_heap_on_either_side() {
    if let Ok(part) = std::env::var(PART) {
        return play(&part).await;
    }
    // Both at once, each in a world of its own: two cores are not idle.
    let (small, large) = tokio::join!(peaks_for(256), peaks_for(1000));
    for ((side, small), (_, large)) in small.iter().zip(&large) {
        // How full the queues between the stages get depends on which stage the machine holds up, and how many of its threads read
        // rows at once; a peak that grew with the file would be nearly four times as high.
        let most = 2 * small + 8 * MIB;
        assert!(*large < most, "{side}: {} MiB, then {} MiB", small / MIB, large / MIB);
    }
}

/// The peak heap of each side.
async fn peaks_for(megabytes: u64) -> [(&'static str, u64); 2] {
    let world = World::new().await;
    world.ready_file();
    let mut peaks = [("publisher", 0), ("subscriber", 0)];
    for (side, peak) in &mut peaks {
        let (heap, all) = peak_of(&world, format!("{side} {}", megabytes * 1_000_000)).await;
        println!("{side}, {megabytes} MB: {} MiB of heap, {} MiB in all", heap / MIB, all / MIB);
        assert!(heap < 64 * MIB, "{side} took {} MiB of heap for {megabytes} MB", heap / MIB);
        *peak = heap;
    }
    until("the file is settled", || world.counts().totals.completed == 1).await;
    world.end().await;
    peaks
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_files_at_once_take_less_than_400_mb_of_heap_while_storage_is_slow() {
    let world = World::new().await;
    world.ready_file();
    let every_block = When::Blob(BlobRequests::of(BlobOperation::PutBlock));
    let slow = Step::new(every_block, What::Delay(Duration::from_millis(300))).times(NonZeroU32::MAX);
    world.local.faults().install([slow]).expect("a good script");
    let (heap, all) = peak_of(&world, "hundred 8000000".to_owned()).await;
    println!("100 files of 8 MB: {} MiB of heap, {} MiB in all", heap / MIB, all / MIB);
    assert!(heap < 400 * 1_000_000, "{} MiB of heap", heap / MIB);
    world.end().await;
}
