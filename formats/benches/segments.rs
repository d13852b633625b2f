//! Packing and reading on several processors against one, and against gzip's own stream.
//!
//! `cargo bench -p waybill-formats --bench segments`. With `SEGMENTS_FILE` a plain file of JSON Lines of one's own, with
//! `SEGMENTS_OUT` a path where the file at level 6 is left, with `SEGMENTS_RUNS` another number of runs. Prints medians of paired runs; only their ratios mean anything.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Mutex, mpsc::sync_channel},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use flate2::write::GzEncoder;
use waybill_formats::{
    Compression, DecodeOptions, FileAssembler, Finished, RowDecoder, SegmentDecoder, SegmentWriter, Source, Step,
    WriterOptions,
    seek::{Part, SegmentJob, SegmentRows},
};

/// Unless `SEGMENTS_RUNS` says another number.
const RUNS: usize = 5;
const CHUNK: usize = 256 << 10;

fn main() {
    let plain = match std::env::var("SEGMENTS_FILE") {
        Ok(path) => std::fs::read(path).expect("the file can be read"),
        Err(_) => generated(),
    };
    let runs = std::env::var("SEGMENTS_RUNS").map_or(RUNS, |runs| runs.parse().expect("a number"));
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(&plain).expect("memory takes it");
    let gzip = Bytes::from(encoder.finish().expect("memory takes it"));
    println!("{:.1} MB plain, {:.1} MB as one stream at level 6", mega(plain.len()), mega(gzip.len()));

    println!("{:>5} {:>9} {:>8} {:>9} {:>9} {:>7}", "level", "MB", "index", "1: s", "2: s", "ratio");
    let mut stored = Bytes::new();
    for level in [1, 3, 4, 6] {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..runs {
            for threads in [1, 2] {
                let start = Instant::now();
                stored = write(&plain, level, threads);
                times[threads - 1].push(start.elapsed());
            }
        }
        let index = 2 + usize::from(u16::from_le_bytes([stored[10], stored[11]]));
        let [one, two] = times.map(median);
        let (megabytes, ratio) = (mega(stored.len()), one / two);
        println!("{level:>5} {megabytes:>9.1} {index:>8} {one:>9.2} {two:>9.2} {ratio:>7.2}");
    }
    if let Ok(path) = std::env::var("SEGMENTS_OUT") {
        std::fs::write(path, &stored).expect("it can be written");
    }

    println!("{:>28} {:>9} {:>7}", "reading rows", "s", "ratio");
    let mut times = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..runs {
        times[0].push(read_ordinary(&gzip));
        times[1].push(read_ordinary(&stored));
        times[2].push(read_beside(&stored, 1));
        times[3].push(read_beside(&stored, 2));
    }
    let medians = times.map(median);
    let names =
        ["one stream, 1 thread", "ours, ordinary, 1 thread", "ours, segments, 1 thread", "ours, segments, 2 threads"];
    for (name, time) in names.iter().zip(medians) {
        println!("{name:>28} {time:>9.3} {:>7.2}", medians[1] / time);
    }
}

fn mega(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

/// Cut where lines end, packed by so many threads while this one cuts.
fn write(plain: &[u8], level: u32, threads: usize) -> Bytes {
    let compression = Compression::Gzip(level);
    let (job_to, job_from) = sync_channel(1);
    let job_from = Mutex::new(job_from);
    let (packed_to, packed_from) = sync_channel(threads);
    let (assembler, written) = thread::scope(|scope| {
        for _ in 0..threads {
            let (packed_to, job_from) = (packed_to.clone(), &job_from);
            scope.spawn(move || {
                while let Ok((number, segment)) = { job_from.lock().expect("no panic").recv() } {
                    let segment: waybill_formats::Segment = segment;
                    packed_to.send((number, segment.pack())).expect("it is taken");
                }
            });
        }
        drop(packed_to);
        let joined = scope.spawn(move || {
            let (mut assembler, mut waiting, mut next) = (FileAssembler::new(compression), BTreeMap::new(), 0_u64);
            while let Ok((number, packed)) = packed_from.recv() {
                waiting.insert(number, packed);
                while let Some(packed) = waiting.remove(&next) {
                    assembler.add(packed);
                    next += 1;
                }
            }
            assembler
        });
        let mut writer = SegmentWriter::new(WriterOptions::Raw, compression).telling_row_ends();
        let (mut at, mut rows, mut number) = (0, 0, 0_u64);
        for chunk in plain.chunks(CHUNK) {
            writer.raw(chunk);
            rows += memchr::memchr_iter(b'\n', chunk).count() as u64;
            if let Some(last) = memchr::memrchr(b'\n', chunk) {
                writer.row_end((at + last + 1) as u64, rows);
            }
            at += chunk.len();
            while let Some(segment) = writer.segment() {
                job_to.send((number, segment)).expect("it is taken");
                number += 1;
            }
        }
        let (last, written) = writer.finish();
        for segment in last {
            job_to.send((number, segment)).expect("it is taken");
            number += 1;
        }
        drop(job_to);
        (joined.join().expect("no panic"), written)
    });
    let Finished { rest, .. } = assembler.finish(written);
    rest
}

fn read_ordinary(stored: &Bytes) -> Duration {
    let start = Instant::now();
    let mut decoder = RowDecoder::new(DecodeOptions::new(Source::JsonLines));
    let (mut fed, mut rows) = (0, 0);
    loop {
        match decoder.next().expect("the file is good") {
            Step::NeedInput if fed < stored.len() => {
                let end = (fed + CHUNK).min(stored.len());
                decoder.feed(stored.slice(fed..end));
                fed = end;
            }
            Step::NeedInput => decoder.end(),
            Step::Batch(batch) => rows += batch.len() as u64,
            Step::Done(stats) => {
                assert_eq!(stats.rows, rows);
                return start.elapsed();
            }
        }
    }
}

fn read_beside(stored: &Bytes, threads: usize) -> Duration {
    let start = Instant::now();
    let (job_to, job_from) = sync_channel::<(u64, SegmentJob)>(1);
    let job_from = Mutex::new(job_from);
    let (rows_to, rows_from) = sync_channel(2 * threads);
    thread::scope(|scope| {
        for _ in 0..threads {
            let (rows_to, job_from) = (rows_to.clone(), &job_from);
            scope.spawn(move || {
                while let Ok((number, job)) = { job_from.lock().expect("no panic").recv() } {
                    rows_to.send((number, job.decode())).expect("it is taken");
                }
            });
        }
        let mut decoder = SegmentDecoder::new(DecodeOptions::new(Source::JsonLines), stored.len() as u64);
        let mut waiting: BTreeMap<u64, SegmentRows> = BTreeMap::new();
        let (mut fed, mut rows, mut begun, mut taken) = (0, 0, 0_u64, 0_u64);
        loop {
            let part =
                if begun - taken > threads as u64 { Part::NeedRows } else { decoder.next().expect("it is good") };
            match part {
                Part::NeedInput => {
                    let end = (fed + CHUNK).min(stored.len());
                    decoder.feed(stored.slice(fed..end));
                    fed = end;
                }
                Part::Job(job) => {
                    job_to.send((begun, job)).expect("it is taken");
                    begun += 1;
                }
                Part::NeedRows => {
                    while !waiting.contains_key(&taken) {
                        let (number, outcome) = rows_from.recv().expect("a job is under way");
                        waiting.insert(number, outcome);
                    }
                    let outcome = waiting.remove(&taken).expect("it is there");
                    rows +=
                        decoder.put(outcome).expect("it is good").iter().map(|batch| batch.len() as u64).sum::<u64>();
                    taken += 1;
                }
                Part::Done(stats) => {
                    assert_eq!(stats.rows, rows);
                    drop(job_to);
                    return start.elapsed();
                }
                Part::Ordinary(_) => panic!("it has an index"),
            }
        }
    })
}

/// Changes of items, about as they are in the real world.
fn generated() -> Vec<u8> {
    let mut random = 7_u64;
    let mut next = move |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let words = ["cable", "hammer", "M8 x 40", "stål", "ring", "adapter", "blue", "vattentät", "kit", "A4"];
    let mut plain = Vec::new();
    for id in 0..600_000 {
        let mut word = || words[next(words.len() as u64) as usize];
        let (name, tag) = (format!("{} {} & {}", word(), word(), word()), word());
        let (sku, price, cents, stock) = (next(1 << 32), next(10_000), next(100), next(500));
        writeln!(
            plain,
            "{{\"id\":{id},\"sku\":\"SKU-{sku:08x}\",\"name\":\"{name}\",\"price\":{price}.{cents:02},\"stock\":{stock},\
             \"tags\":[\"{tag}\"]}}"
        )
        .expect("memory takes it");
    }
    plain
}
