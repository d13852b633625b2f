//! Files that are made to grow: the real program puts their rows aside, or refuses them, in the memory that its settings give it.
//!
//! Each is a few megabytes at most as it is stored. What memory a process takes is the kernel's high-water mark of it, looked at until
//! it ends: the mark never falls, so only what a process takes in its last moments could be missed.

use std::{
    io::Write as _,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{PATIENCE, World, assert_nothing_was_dead_lettered, binary, query, waybill};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What `rows` may take: a row of 16 MiB that grows, a batch, and the program itself.
const READER_MAX: u64 = 80 * MIB;
/// What `run` may take beside it: four files at once, of which one is sorted in memory (`sort_bytes_max`, 48 MiB).
const SINK_MAX: u64 = 200 * MIB;

/// What becomes of a file.
#[derive(Debug, Clone, Copy)]
enum End {
    /// So many rows, and a bad one that says this.
    BadRow { rows: u64, says: &'static str },
    /// It cannot be read on, for this reason.
    Refused { reason: &'static str, says: &'static str },
}

use End::{BadRow, Refused};

struct Hostile {
    name: &'static str,
    content_type: &'static str,
    stored: Vec<u8>,
    plain_bytes: u64,
    end: End,
}

const JSON_LINES: &str = "application/x-jsonlines";
const JSON: &str = "application/json";
const CSV: &str = "text/csv";
const XML: &str = "text/xml";
const XML_LINES: &str = "application/x-xmllines";

const TOO_LONG: &str = "the row is longer than the limit of 16777216 bytes (row_bytes_max)";
const TOO_DEEP: &str = "nested deeper than the limit of 128 levels";
const TOO_MANY: &str = "fields";

fn member(plain: &[u8], level: Compression) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), level);
    packer.write_all(plain).expect("it is packed");
    packer.finish().expect("it is packed")
}

/// `begin`, a gibibyte of one byte, `end`. Packed fast, a byte becomes less than 1,000 of them, which is no bomb yet.
fn gibibyte(begin: &str, byte: u8, end: &str, level: Compression) -> (Vec<u8>, u64) {
    let part = member(&vec![byte; usize::try_from(64 * MIB).expect("it fits")], level);
    let mut stored = member(begin.as_bytes(), level);
    for _ in 0..GIB / (64 * MIB) {
        stored.extend_from_slice(&part);
    }
    stored.extend_from_slice(&member(end.as_bytes(), level));
    (stored, GIB + (begin.len() + end.len()) as u64)
}

fn files() -> Vec<Hostile> {
    let plain = |name, content_type, text: String, end| {
        let (plain_bytes, stored) = (text.len() as u64, member(text.as_bytes(), Compression::fast()));
        Hostile { name, content_type, stored, plain_bytes, end }
    };
    let long =
        |name, content_type, (stored, plain_bytes), end| Hostile { name, content_type, stored, plain_bytes, end };
    let fast = Compression::fast();
    let names = || (0..10_000).map(|n| format!("c{n}"));
    let levels = 100_000;
    let (brackets, tags) = (
        format!("{}{}", "[".repeat(levels), "]".repeat(levels)),
        format!("{}{}", "<a>".repeat(levels), "</a>".repeat(levels)),
    );
    let object = format!("{{{}}}", names().map(|name| format!("\"{name}\":1")).collect::<Vec<_>>().join(","));
    let elements: String = names().map(|name| format!("<{name}/>")).collect();
    let entities: String =
        (1..10).map(|n| format!("<!ENTITY e{n} \"{}\">", format!("&e{};", n - 1).repeat(10))).collect();
    let laughs = format!("<!DOCTYPE r [<!ENTITY e0 \"lol\">{entities}]><r><i>&e9;</i></r>");
    vec![
        long(
            "Bomb",
            JSON_LINES,
            gibibyte("{\"n\":1}\n", 0, "", Compression::best()),
            Refused { reason: "too-large", says: "over the limit of 1000 for each (ratio_max)" },
        ),
        long(
            "Line",
            JSON_LINES,
            gibibyte("{\"n\":1}\n", b'a', "\n{\"n\":2}\n", fast),
            BadRow { rows: 3, says: TOO_LONG },
        ),
        long(
            "XmlLine",
            XML_LINES,
            gibibyte("<i><n>1</n></i>\n", b'<', "\n<i><n>2</n></i>\n", fast),
            BadRow { rows: 3, says: TOO_LONG },
        ),
        plain("Laughs", XML, laughs.clone(), Refused { reason: "malformed-file", says: "a DOCTYPE, which is refused" }),
        plain(
            "LaughsInLines",
            XML_LINES,
            format!("{laughs}\n<i><n>1</n></i>\n"),
            BadRow { rows: 2, says: "a DOCTYPE, which is refused" },
        ),
        plain("Wide", JSON_LINES, format!("{{\"n\":1}}\n{object}\n"), BadRow { rows: 2, says: TOO_MANY }),
        plain("WideJson", JSON, format!("[{{\"n\":1}},{object}]"), BadRow { rows: 2, says: TOO_MANY }),
        plain("WideXml", XML, format!("<r><i><n>1</n></i><i>{elements}</i></r>"), BadRow { rows: 2, says: TOO_MANY }),
        plain(
            "WideCsv",
            CSV,
            names().collect::<Vec<_>>().join(","),
            Refused { reason: "malformed-file", says: "there are 10000 columns, over the limit of 4096" },
        ),
        plain("Deep", JSON_LINES, format!("{{\"n\":1}}\n{{\"a\":{brackets}}}\n"), BadRow { rows: 2, says: TOO_DEEP }),
        plain("DeepJson", JSON, format!("[{{\"n\":1}},{{\"a\":{brackets}}}]"), BadRow { rows: 2, says: TOO_DEEP }),
        plain("DeepXml", XML, format!("<r><i><n>1</n></i>{tags}</r>"), BadRow { rows: 2, says: TOO_DEEP }),
        plain("DeepLines", XML_LINES, format!("<i><n>1</n></i>\n{tags}\n"), BadRow { rows: 2, says: TOO_DEEP }),
        plain(
            "Endless",
            JSON,
            format!("[{{\"n\":1}},{{\"a\":\"{}", "0123456789abcdef".repeat(4 << 20)),
            Refused { reason: "truncated-file", says: "the file ends within this row" },
        ),
        plain(
            "Quote",
            CSV,
            format!("n\n1\n\"{}", "2\n".repeat(32 << 20)),
            Refused { reason: "malformed-file", says: "it may be many rows" },
        ),
    ]
}

/// The most that a process held in memory at once, in bytes; `None` when it ended.
fn peak_of(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Runs a program to its end.
async fn run(command: &mut Command) -> (Output, u64) {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn();
    let child = child.expect("it starts");
    let id = child.id().expect("it runs");
    let mut ended = std::pin::pin!(tokio::time::timeout(PATIENCE, child.wait_with_output()));
    let mut peak = 0;
    loop {
        tokio::select! {
            output = &mut ended => return (output.expect("it ends in time").expect("it runs"), peak),
            () = tokio::time::sleep(Duration::from_millis(2)) => peak = peak.max(peak_of(id).unwrap_or_default()),
        }
    }
}

fn program(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("waybill-subscriber"));
    command.args(arguments).current_dir(folder);
    command
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn files_that_are_made_to_grow_are_read_within_the_limits() {
    let folder = tempfile::tempdir().expect("a folder");
    for file in files() {
        std::fs::write(folder.path().join(file.name), &file.stored).expect("it is written");
        let named = ["rows", "--file", file.name, "--content-encoding", "gzip", "--content-type", file.content_type];
        let (output, peak) = run(&mut program(folder.path(), &named)).await;
        let (code, said) = (output.status.code(), String::from_utf8_lossy(&output.stderr));
        println!("{}: {} bytes stored, {} MiB at most", file.name, file.stored.len(), peak / MIB);
        let (expected, says) = match file.end {
            BadRow { says, .. } => (3, says),
            Refused { says, .. } => (1, says),
        };
        assert_eq!(code, Some(expected), "{}: {said}", file.name);
        assert!(said.contains(says) && said.len() < 2_000, "{}: {said}", file.name);
        assert!(peak > 0 && peak < READER_MAX, "{} took {} MiB", file.name, peak / MIB);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn files_that_are_made_to_grow_stop_nothing_in_a_sink_and_take_no_more_memory_than_its_settings_give() {
    let world = World::new().await;
    let files = files();
    let mut messages = Vec::new();
    for file in &files {
        let uri = world.put(&format!("{}/hostile.gz", file.name), file.stored.clone()).await;
        let mut message = waybill(file.name, &uri);
        message["contentType"] = file.content_type.into();
        message["contentEncoding"] = "gzip".into();
        // What is announced as large is sorted by its keys first.
        message["properties"] = json!({"waybill": {"plainBytes": file.plain_bytes}});
        messages.push(message.to_string());
    }
    world.send(messages).await;
    let entities = "[entity.line]\ntypes = [\"Line\"]\nkey = [\"n\"]\ncolumns = { n = \"integer\" }\n";
    std::fs::write(world.path("entities.toml"), entities).expect("it is written");

    let ready = world.ready_file();
    let sink = format!("sqlite:{}", world.database().display());
    let folder = world.path("");
    let mut work = program(&folder, &["run", "--data", "data", "--until-idle", "1", "--entities", "entities.toml"]);
    let (output, peak) = run(work.arg("--local").arg(ready).args(["--sink", &sink])).await;
    println!("{} files at once: {} MiB at most", files.len(), peak / MIB);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "some are put aside: {said}");
    assert!(peak > 0 && peak < SINK_MAX, "{} MiB", peak / MIB);

    let (listed, _) =
        run(&mut program(&folder, &["--format", "json", "--data", "data", "list", "--limit", "100"])).await;
    let listed: Vec<Value> = serde_json::from_slice(&listed.stdout).expect("a list");
    for file in &files {
        let row = listed.iter().find(|row| row["blobType"] == file.name).expect("it is listed");
        let problem = row["problem"].as_str().unwrap_or_default();
        match file.end {
            BadRow { rows, says } => {
                assert_eq!(
                    (&row["state"], &row["rows"], &row["badRows"]),
                    (&json!("done"), &json!(rows), &json!(1)),
                    "{row}"
                );
                let kept = "SELECT problem FROM _waybill_bad_row JOIN _waybill_progress USING (file) WHERE blob_type =";
                let kept = query(&world.database(), &format!("{kept} '{}'", file.name));
                assert!(kept.len() == 1 && kept[0].contains(says), "{}: {kept:?}", file.name);
            }
            Refused { reason, says } => {
                assert_eq!((&row["state"], &row["reason"]), (&json!("quarantined"), &json!(reason)), "{row}");
                assert!(problem.contains(says), "{}: {problem}", file.name);
            }
        }
    }
    let good = query(&world.database(), "SELECT n FROM \"line\" ORDER BY n");
    assert_eq!(good, ["1", "2"], "what stands about a bad row takes effect");
    assert_nothing_was_dead_lettered(&world);
    world.end().await;
}
