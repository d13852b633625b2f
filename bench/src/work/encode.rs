//! Rows to a file, packed on two threads as the publisher packs.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    sync::{Mutex, mpsc},
    thread,
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use waybill_formats::{
    Compression, DecodeOptions, Field, FieldPath, PackedSegment, Row, RowDecoder, Segment, Source, Step, WriterOptions,
    gzip::index::{Look, look},
    writer::{FileAssembler, SegmentWriter, Written},
};

use crate::{data::COLUMNS, program::Said};

/// Segments that are packed or wait for it.
const UNDER_WAY: usize = 2;
const THREADS: usize = 2;
/// Of plain bytes: a file that is longer has more than one segment.
const SEGMENT_BYTES_MAX: u64 = 2 << 20;
/// Source: RFC 1952, section 2.3: twelve bytes, and as many as two of them can say.
const HEADER_BYTES_MAX: u64 = 12 + 0xffff;

pub(super) fn encode(level: u32, rows: &Path, out: &Path) -> Result<Said> {
    let (job_to, job_from) = mpsc::sync_channel::<(u64, Segment)>(UNDER_WAY);
    let (packed_to, packed_from) = mpsc::sync_channel::<(u64, PackedSegment)>(UNDER_WAY);
    let job_from = Mutex::new(job_from);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            let (packed_to, job_from) = (packed_to.clone(), &job_from);
            scope.spawn(move || {
                while let Ok((number, segment)) = { job_from.lock().expect("no panic").recv() } {
                    if packed_to.send((number, segment.pack())).is_err() {
                        return;
                    }
                }
            });
        }
        drop(packed_to);
        let (written_to, written_from) = mpsc::sync_channel(1);
        let writing = scope.spawn(move || join(level, out, &packed_from, &written_from));
        written_to.send(read(level, rows, &job_to)?).context("nobody joins the segments")?;
        drop(job_to);
        writing.join().expect("no panic")
    })
}

/// Reads rows and cuts them into segments.
fn read(level: u32, rows: &Path, jobs: &mpsc::SyncSender<(u64, Segment)>) -> Result<Written> {
    let mut file = File::open(rows)?;
    let mut decoder = RowDecoder::new(DecodeOptions::new(Source::Csv { columns: None, delimiter: b',' }));
    let mut writer = SegmentWriter::new(WriterOptions::JsonLines, Compression::Gzip(level));
    let mut cut = 0;
    let mut hand_on = |segment| {
        cut += 1;
        jobs.send((cut, segment)).context("nobody packs")
    };
    loop {
        match decoder.next()? {
            Step::NeedInput => {
                let mut chunk = vec![0; 256 << 10];
                let read = file.read(&mut chunk)?;
                chunk.truncate(read);
                if read == 0 { decoder.end() } else { decoder.feed(Bytes::from(chunk)) }
            }
            Step::Batch(batch) => {
                let paths = COLUMNS.map(FieldPath::name).to_vec();
                let mut room = Room { paths, values: Vec::new(), categories: String::new() };
                for row in batch.rows() {
                    write(&mut writer, &row, &mut room)?;
                    while let Some(segment) = writer.segment() {
                        hand_on(segment)?;
                    }
                }
            }
            Step::Done(_) => break,
        }
    }
    let (rest, written) = writer.finish();
    rest.into_iter().try_for_each(hand_on)?;
    Ok(written)
}

/// As a service would hand its rows over: names and typed values.
fn write<'r>(writer: &mut SegmentWriter, row: &Row<'r>, room: &mut Room<'r>) -> Result<()> {
    row.get_many(&room.paths, &mut room.values);
    let categories = &mut room.categories;
    let mut fields = COLUMNS.map(|name| (name, Field::Missing));
    for ((name, field), value) in fields.iter_mut().zip(room.values.drain(..)) {
        *field = match (*name, value) {
            ("id" | "price" | "vat" | "stock" | "version", Field::Text(Cow::Borrowed(text))) => Field::Number(text),
            ("categories", Field::Text(text)) => {
                categories.clear();
                categories.push_str("[\"");
                for (nth, category) in text.split('|').enumerate() {
                    categories.push_str(if nth > 0 { "\",\"" } else { "" });
                    categories.push_str(category);
                }
                categories.push_str("\"]");
                Field::Missing
            }
            ("attributes", Field::Text(text)) => Field::Nested(match text {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            }),
            (_, value) => value,
        };
    }
    for (_, field) in fields.iter_mut().filter(|(name, _)| *name == "categories") {
        *field = Field::Nested(Cow::Borrowed(categories.as_bytes()));
    }
    Ok(writer.row(&fields)?)
}

/// Used again for each row of a batch.
struct Room<'r> {
    paths: Vec<FieldPath>,
    values: Vec<Field<'r>>,
    categories: String,
}

/// Joins what is packed, in order, to a file whose head is known last.
fn join(
    level: u32,
    out: &Path,
    packed: &mpsc::Receiver<(u64, PackedSegment)>,
    written: &mpsc::Receiver<Written>,
) -> Result<Said> {
    let body = out.with_extension("body");
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&body)?;
    let mut assembler = FileAssembler::new(Compression::Gzip(level));
    let (mut waiting, mut next) = (BTreeMap::new(), 1);
    while let Ok((number, segment)) = packed.recv() {
        waiting.insert(number, segment);
        while let Some(segment) = waiting.remove(&next) {
            next += 1;
            assembler.add(segment);
            if let Some(bytes) = assembler.take(1 << 20) {
                file.write_all(&bytes)?;
            }
        }
    }
    let finished = assembler.finish(written.recv()?);
    file.write_all(&finished.rest)?;
    file.seek(SeekFrom::Start(0))?;
    let mut whole = File::create(out)?;
    whole.write_all(&finished.head)?;
    std::io::copy(&mut file, &mut whole)?;
    std::fs::remove_file(body)?;
    let (bytes, plain_bytes) = (finished.stats.stored_bytes, finished.stats.plain_bytes);
    let index = index_percent(out, bytes, plain_bytes)?;
    let figures = [("bytes".to_owned(), bytes as f64), ("% of the file is its index".to_owned(), index)].into();
    Ok(Said { result: finished.stats.rows.to_string(), figures, seconds: None })
}

/// How much of a file its header is, in which the index lies.
fn index_percent(path: &Path, bytes: u64, plain_bytes: u64) -> Result<f64> {
    let mut first = Vec::new();
    File::open(path)?.take(HEADER_BYTES_MAX).read_to_end(&mut first)?;
    match look(&first, bytes) {
        Look::Index(index) => Ok(index.header as f64 / bytes as f64 * 100.0),
        Look::Ordinary if plain_bytes < SEGMENT_BYTES_MAX => Ok(0.0),
        Look::Ordinary | Look::More => bail!("a file of {plain_bytes} plain bytes has no index that explains it"),
    }
}
