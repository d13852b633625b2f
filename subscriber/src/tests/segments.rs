//! Files of segments, worked on all processors.

use std::{num::NonZeroU32, time::Duration};

use waybill_azure::blob::ContainerOptions;
use waybill_contracts::Reason;
use waybill_formats::{
    Compression, DecodeOptions, Field, RowDecoder, RowWriter, Source, Step, WriterOptions, seek::Checkpoint,
};
use waybill_local::{
    BlobOperation,
    fault::{self, BlobRequests, CutAt, What, Whose},
};

use super::{
    sink::MemorySink,
    world::{Running, World, builder, rows_in, until},
};
use crate::inbox::{BlobSeen, End, Inbox, Leased, SqliteInbox, State, Wanted, WorkerId};

const ROWS: u64 = 300_000;

fn file() -> Vec<u8> {
    let mut writer = RowWriter::new(WriterOptions::JsonLines, Compression::Gzip(4));
    for n in 1..=ROWS {
        writer.row(&[("id", Field::Number(&n.to_string()))]).unwrap();
    }
    writer.finish().rest.to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_segments_takes_effect_once_whether_its_index_is_right_or_not() {
    let world = World::new().await;
    let good = file();
    let mut forged = good.clone();
    // The last entry's plain bytes, one more: its sum of stored bytes is right, and only the last segment tells.
    let end_of_index = 12 + usize::from(u16::from_le_bytes([good[10], good[11]]));
    let varints: Vec<usize> = (18..end_of_index).filter(|&at| good[at - 1] & 0x80 == 0).collect();
    forged[varints[varints.len() - 2]] ^= 1;
    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 0x10;
    for (name, bytes) in [("good", &good), ("forged", &forged), ("damaged", &damaged)] {
        world.upload(name, bytes).await;
    }
    for name in ["good", "forged"] {
        let inbox = world.inbox(name).await;
        world.send(&[world.waybill("T", name, r#""rows":300000"#)]).await;
        let sink = MemorySink::default();
        let subscriber = world.subscriber(inbox.clone(), builder());
        let running = Running::run(&subscriber, sink.clone());
        until("it is done", || async { inbox.counts().await.unwrap().done > 0 && sink.rows().len() as u64 == ROWS })
            .await;
        running.stop().await;
        let expected: Vec<String> = (1..=ROWS).map(|n| format!("{{\"id\":{n}}}")).collect();
        assert!(sink.in_order() == expected, "{name}: each row once, in the file's order");
    }
    let inbox = world.inbox("damaged").await;
    world.send(&[world.waybill("T", "damaged", "")]).await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::run(&subscriber, MemorySink::default());
    let rows = rows_in(&inbox, State::Quarantined, 1).await;
    running.stop().await;
    let row = rows.values().next().unwrap();
    assert_eq!(row.reason, Some(Reason::CorruptGzip), "{row:?}");
}

/// Rows that pack badly.
pub(super) fn large_row(n: u64) -> String {
    let mut noise = n.wrapping_add(1);
    let digits: String = (0..4)
        .map(|_| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            format!("{:016x}", noise ^ (noise >> 29))
        })
        .collect();
    format!("{{\"id\":{n},\"digits\":\"{digits}\"}}")
}

pub(super) const LARGE_ROWS: u64 = 250_000;

pub(super) fn large_file() -> Vec<u8> {
    let mut writer = RowWriter::new(WriterOptions::JsonLines, Compression::Gzip(1));
    let mut decoder = RowDecoder::new(DecodeOptions::new(Source::JsonLines));
    for n in 1..=LARGE_ROWS {
        decoder.feed(format!("{}\n", large_row(n)).into());
    }
    decoder.end();
    while let Step::Batch(batch) = decoder.next().unwrap() {
        batch.rows().for_each(|row| writer.copy(&row).unwrap());
    }
    writer.finish().rest.to_vec()
}

async fn leased(inbox: &SqliteInbox) -> Leased {
    let mut leased = inbox.lease(&WorkerId("test".to_owned()), 1, &Wanted::default()).await.unwrap();
    assert_eq!(leased.len(), 1, "it was given back");
    leased.remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_goes_on_at_a_segment_and_nothing_before_it_is_downloaded_again() {
    let stored = large_file();
    let length = stored.len() as u64;
    assert!(length > 10 << 20, "{length}");
    for noted in ["rightly", "with a wrong checksum", "at a wrong place"] {
        let world = World::new().await;
        world.upload("b", &stored).await;
        world.send(&[world.waybill("T", "b", r#""rows":250000"#)]).await;
        let (inbox, sink) = (world.inbox("inbox").await, MemorySink::default());
        let gate = sink.gate();
        let options = || builder().drain_timeout(Duration::from_millis(50));
        let running = Running::run(&world.subscriber(inbox.clone(), options()), sink.clone());
        gate.add_permits(3);
        let one_waits = || async { gate.available_permits() == 0 && sink.rows_now() > 100_000 };
        until("the middle of the file", one_waits).await;
        running.stop().await;

        let file = leased(&inbox).await;
        let seen = file.blob.expect("the blob is noted");
        let at = seen.checkpoint.clone().expect("so is a place in it");
        let applied = sink.rows_now();
        assert!(at.stored >= 4 << 20 && at.rows > 0 && at.rows <= applied, "{at:?}, {applied}");
        let wrong = match noted {
            "with a wrong checksum" => Some(Checkpoint { crc: !at.crc, ..at.clone() }),
            "at a wrong place" => Some(Checkpoint { stored: at.stored + 1, ..at.clone() }),
            _ => None,
        };
        if let Some(wrong) = &wrong {
            let wrong = BlobSeen { checkpoint: Some(wrong.clone()), ..seen };
            assert!(inbox.note_blob(&file.lease, &wrong).await.unwrap());
        }
        assert!(inbox.finish(&file.lease, End::Release).await.unwrap());

        let before = world.local.stats().counted().blob_bytes_out;
        gate.add_permits(1000);
        let running = Running::run(&world.subscriber(inbox.clone(), options()), sink.clone());
        rows_in(&inbox, State::Done, 1).await;
        running.stop().await;
        let downloaded = world.local.stats().counted().blob_bytes_out - before;
        match wrong {
            None => assert_eq!(downloaded, length - at.stored, "of {length}"),
            Some(_) => assert!(downloaded >= length, "read again in one go"),
        }
        let expected: Vec<String> = (1..=LARGE_ROWS).map(large_row).collect();
        assert!(sink.in_order() == expected, "{noted}: each row once, in the file's order");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_the_same_whatever_breaks_off_in_several_ranges_at_once() {
    let stored = large_file();
    let world = World::new().await;
    world.upload("b", &stored).await;
    world.send(&[world.waybill("T", "b", r#""rows":250000"#)]).await;
    let inbox = world.inbox("inbox").await;
    let small = ContainerOptions { range_bytes: 256 << 10, ..ContainerOptions::default() };
    for seed in 0..2 {
        // Slow enough for a reader to starve with one range; and now and then something breaks, somewhere.
        let reads = || BlobRequests::of(BlobOperation::GetBlob);
        let now_and_then = |what, seed| fault::Step::new(reads(), what).chance(0.12, seed).times(NonZeroU32::MAX);
        let bytes = |bytes| CutAt::BodyByte(bytes * 7919 % (256 << 10));
        let slow = What::Slow { bytes_per_second: NonZeroU32::new(8 << 20).unwrap() };
        let steps = [
            fault::Step::new(reads(), slow).times(NonZeroU32::MAX),
            now_and_then(What::Cut { at: bytes(seed + 1), refuse_sas: false }, seed),
            now_and_then(What::Cut { at: bytes(seed + 5), refuse_sas: true }, seed + 10),
            now_and_then(What::Reset(Whose::Event), seed + 20),
            now_and_then(What::throttle(Duration::ZERO), seed + 30).nth(NonZeroU32::new(20).unwrap()),
        ];
        world.local.faults().install(steps).unwrap();
        let sink = MemorySink::default();
        let subscriber = world.subscriber(inbox.clone(), builder().blob(small.clone()));
        let running = Running::run(&subscriber, sink.clone());
        let whole = || async { sink.rows_now() == LARGE_ROWS && inbox.counts().await.unwrap().done == 1 };
        until("all of it took effect", whole).await;
        running.stop().await;
        world.local.faults().clear();
        let expected: Vec<String> = (1..=LARGE_ROWS).map(large_row).collect();
        assert!(sink.in_order() == expected, "seed {seed}: each row once, in the file's order");
        let fired = world.local.faults().log_lines();
        assert!(fired.iter().filter(|fired| !fired.what.starts_with("slow")).count() > 5, "seed {seed}: much broke");
    }
}
