//! Our files, read by everything that a third party may have.

use std::path::{Path, PathBuf};

use tokio::{process::Command, time::timeout};
use waybill_formats::{
    Compression, Field, FileAssembler, RowWriter, SegmentWriter, WriterOptions,
    gzip::index::{Look, look},
};

use crate::harness::{PATIENCE, here, python};

/// What busybox takes, and what our header never exceeds.
const EXTRA_BYTES_MAX: usize = 16_384;

struct File {
    path: PathBuf,
    plain: Vec<u8>,
}

/// A file of every kind that there is.
fn files(folder: &Path) -> Vec<File> {
    let rows = |count: u64| {
        let mut packed = RowWriter::new(WriterOptions::JsonLines, Compression::Gzip(4));
        let mut plain = RowWriter::new(WriterOptions::JsonLines, Compression::None);
        for n in 0..count {
            let digits = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_string();
            let row = [("n", Field::Number(&digits)), ("text", Field::Text("größe, \"7\"".into()))];
            packed.row(&row).expect("a row");
            plain.row(&row).expect("a row");
        }
        (packed.finish().rest.to_vec(), plain.finish().rest.to_vec())
    };
    let (segments, plain) = rows(60_000);
    assert!(header_and_entries(&segments).1 > 2);
    // Only a file of many GB has so long an index, unless its segments are small.
    let of_small_segments = |many: usize| in_segments(&plain, many);
    let (bytes, entries) = header_and_entries(&of_small_segments(1_000));
    let longest = of_small_segments(1_000 + (EXTRA_BYTES_MAX - 200 - bytes) * entries / bytes);
    let (bytes, entries) = header_and_entries(&longest);
    let extra = bytes - 12;
    assert!((EXTRA_BYTES_MAX * 95 / 100..=EXTRA_BYTES_MAX).contains(&extra), "{extra} bytes for {entries} entries");
    let (one, plain_one) = rows(1);
    let (empty, nothing) = rows(0);
    [
        ("segments", segments, plain.clone()),
        ("longest", longest, plain),
        ("one", one, plain_one),
        ("empty", empty, nothing),
    ]
    .into_iter()
    .map(|(name, stored, plain)| {
        let path = folder.join(format!("{name}.jsonl.gz"));
        std::fs::write(&path, stored).expect("the file is written");
        File { path, plain }
    })
    .collect()
}

/// Length of a file's header, and of its index.
fn header_and_entries(stored: &[u8]) -> (usize, usize) {
    let Look::Index(index) = look(stored, stored.len() as u64) else { panic!("it has an index") };
    (usize::try_from(index.header).expect("small"), index.entries.len())
}

/// Lines, packed as so many segments of about one length.
fn in_segments(plain: &[u8], many: usize) -> Vec<u8> {
    let compression = Compression::Gzip(1);
    let writer = || SegmentWriter::new(WriterOptions::Raw, compression).telling_row_ends();
    let (mut assembler, mut whole) = (FileAssembler::new(compression), writer());
    whole.raw(plain);
    let mut rest = plain;
    for place in 0..many {
        let about = rest.len() / (many - place);
        let end = rest[about..].iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| about + at + 1);
        let (piece, after) = rest.split_at(end);
        rest = after;
        let mut segment = writer();
        segment.raw(piece);
        segment.row_end(piece.len() as u64, piece.iter().filter(|byte| **byte == b'\n').count() as u64);
        segment.finish().0.for_each(|segment| assembler.add(segment.pack()));
    }
    assembler.finish(whole.finish().1).rest.to_vec()
}

async fn read_by(reader: &str, program: &Path, arguments: &[&str], file: &File) {
    let mut command = Command::new(program);
    command.args(arguments).arg(&file.path).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.expect("it ends in time");
    let output = output.unwrap_or_else(|error| panic!("{reader}: {error}; `cargo xtask setup` says what is missing"));
    let (name, told) = (file.path.display(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{reader} fails at {name}: {told}");
    assert!(output.stdout == file.plain, "{reader} reads {} bytes of {name}: {told}", output.stdout.len());
}

#[tokio::test]
async fn every_gunzip_reads_our_files_byte_for_byte() {
    const GZIP: &str = "import gzip, sys; sys.stdout.buffer.write(gzip.open(sys.argv[1]).read())";
    const ZLIB: &str = "import sys, zlib; d = zlib.decompressobj(31); b = open(sys.argv[1], 'rb').read(); \
                        sys.stdout.buffer.write(d.decompress(b) + d.flush()); assert d.eof and not d.unused_data";
    const AT_ONCE: &str =
        "process.stdout.write(require('zlib').gunzipSync(require('fs').readFileSync(process.argv[1])))";
    const STREAM: &str =
        "require('fs').createReadStream(process.argv[1]).pipe(require('zlib').createGunzip()).pipe(process.stdout)";
    const GZDECODE: &str = "$s = gzdecode(file_get_contents($argv[1])); if ($s === false) exit(1); echo $s;";
    const GZOPEN: &str = "$f = gzopen($argv[1], 'r'); while (!gzeof($f)) echo gzread($f, 100000);";
    let java = here().join("java/Gunzip.java");
    let duckdb = here().join("python/read_by_duckdb.py");
    let (java, duckdb) = (java.to_str().expect("text"), duckdb.to_str().expect("text"));
    let (python, folder) = (python(), tempfile::tempdir().expect("a folder"));
    let readers: [(&str, &Path, &[&str]); 12] = [
        ("gunzip", Path::new("gunzip"), &["-c"]),
        ("zcat", Path::new("zcat"), &[]),
        ("busybox gunzip", Path::new("busybox"), &["gunzip", "-c"]),
        ("busybox zcat", Path::new("busybox"), &["zcat"]),
        ("Python's gzip", &python, &["-c", GZIP]),
        ("Python's zlib", &python, &["-c", ZLIB]),
        ("DuckDB", &python, &[duckdb]),
        ("Node's gunzipSync", Path::new("node"), &["-e", AT_ONCE]),
        ("Node's createGunzip", Path::new("node"), &["-e", STREAM]),
        ("Java's GZIPInputStream", Path::new("java"), &[java]),
        ("PHP's gzdecode", Path::new("php"), &["-r", GZDECODE, "--"]),
        ("PHP's gzopen", Path::new("php"), &["-r", GZOPEN, "--"]),
    ];
    let files = files(folder.path());
    for (reader, program, arguments) in readers {
        for file in &files {
            read_by(reader, program, arguments, file).await;
        }
    }
}
