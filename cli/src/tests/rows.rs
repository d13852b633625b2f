//! `waybill-subscriber rows`: a file's rows as JSON Lines.

use std::{
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

use flate2::{Compression, write::GzEncoder};
use tempfile::TempDir;

use super::binaries::{Ended, beside_local, command, publish, run};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn rows(folder: &TempDir, arguments: &[&str]) -> Ended {
    run(command(folder, "waybill-subscriber", &[&["rows"], arguments].concat())).await
}

#[tokio::test]
async fn rows_of_an_announced_file_are_printed_whatever_its_format() {
    let (folder, _local) = beside_local().await;
    for format in ["csv", "jsonl", "json", "xml", "xmll"] {
        run(publish(&folder, &["--as", format, "item.csv"])).await.with(0);
    }
    let receive = ["receive", "--local", "local.json", "--until-idle", "0.5"];
    run(command(&folder, "waybill-subscriber", &receive)).await.with(0);
    for id in ["1", "2", "3", "4", "5"] {
        let printed = rows(&folder, &[id, "--local", "local.json"]).await.with(0);
        assert_eq!(
            printed.out, "{\"ItemID\":\"1\",\"Price\":\"19.90\"}\n{\"ItemID\":\"2\",\"Price\":\"5.00\"}\n",
            "{id}"
        );
        assert_eq!(printed.err, "");
    }
    let unknown = rows(&folder, &["77", "--local", "local.json"]).await.with(1);
    assert!(unknown.err.contains("the inbox has no row 77"), "{}", unknown.err);
}

#[tokio::test]
async fn rows_of_a_local_file_are_chosen_by_a_predicate_typed_by_the_entity() {
    let folder = tempfile::tempdir().unwrap();
    let csv = b"ItemID;Price;Name\n1;19.90;a\n2;5.00;b\xdf\n3;100;c\n";
    std::fs::write(folder.path().join("item"), gzip(csv)).unwrap();
    let toml = "[entity.item]\ntypes = [\"ItemChanges\"]\nkey = [\"ItemID\"]\ncolumns = { Price = \"decimal\" }\n";
    std::fs::write(folder.path().join("entities.toml"), toml).unwrap();
    let file = ["--file", "item", "--content-encoding", "gzip", "--content-type"];
    let file = [&file[..], &["text/csv; delimiter=semicolon; charset=windows-1252"]].concat();
    let typed = [&file[..], &["--entities", "entities.toml", "--type", "ItemChanges"]].concat();

    let headless = ["--file", "item", "--content-encoding", "gzip", "--content-type", "text/csv; header=absent"];
    let err = rows(&folder, &headless).await.with(1).err;
    assert!(err.contains("has the names of its columns from `columns` of its entity"), "{err}");
    let all = rows(&folder, &file).await.with(0).out;
    assert_eq!(all.lines().nth(1), Some("{\"ItemID\":\"2\",\"Price\":\"5.00\",\"Name\":\"bß\"}"));
    let dear =
        rows(&folder, &[&typed[..], &["--where", "row.Price > 10.0", "--fields", "ItemID, Nothing"]].concat()).await;
    assert_eq!(dear.with(0).out, "{\"ItemID\":\"1\"}\n{\"ItemID\":\"3\"}\n", "what a row lacks is left out");
    let limited = rows(&folder, &[&typed[..], &["--where", "row.Price > 10.0", "--limit", "1"]].concat()).await.with(0);
    assert_eq!(limited.out.lines().count(), 1);
    let counted = rows(&folder, &[&typed[..], &["--where", "row.Price > 10.0", "--count"]].concat()).await.with(0);
    assert_eq!(counted.out, "2\n");
    let counted = rows(&folder, &[&typed[..], &["--count", "--limit", "1"]].concat()).await.with(0);
    assert_eq!(counted.out, "1\n");

    // Without the entity it is text, which is no number: said of each row.
    let untyped = rows(&folder, &[&file[..], &["--where", "row.Price > 10.0"]].concat()).await.with(3);
    assert_eq!((untyped.out.as_str(), untyped.err.lines().count()), ("", 3));
    let first = "item: row 1, byte 18: filter-error: `>` cannot compare row.Price (\"19.90\") with 10.0";
    assert_eq!(untyped.err.lines().next(), Some(first));
    let wrong = rows(&folder, &[&typed[..], &["--where", "row.Price > \"a\""]].concat()).await.with(2);
    assert!(wrong.err.contains("at character 11: `>` cannot compare a decimal with text"), "{}", wrong.err);
    let wrong = rows(&folder, &[&file[..], &["--content-encoding", "br"]].concat()).await;
    assert!(wrong.with(2).err.contains("cannot be used multiple times"));
}

#[tokio::test]
async fn bad_rows_go_to_standard_error_with_their_place_and_the_others_are_printed() {
    let folder = tempfile::tempdir().unwrap();
    let text = "{\"a\":{\"b\":[1,{\"c\":19.90}]}}\nbroken\n{\"a\":null}\n[7]\n";
    std::fs::write(folder.path().join("x.jsonl"), text).unwrap();
    let printed = rows(&folder, &["--file", "x.jsonl", "--fields", "a.b[1].c,a"]).await.with(3);
    assert_eq!(printed.out, "{\"a.b[1].c\":19.90,\"a\":{\"b\":[1,{\"c\":19.90}]}}\n{\"a\":null}\n");
    let errors: Vec<_> = printed.err.lines().collect();
    assert!(errors[0].starts_with("x.jsonl: row 2, byte 28: malformed-row: "), "{errors:?}");
    assert!(errors[1].starts_with("x.jsonl: row 4, byte 46: malformed-row: "), "{errors:?}");
    let cut = rows(&folder, &["--file", "x.jsonl", "--limit", "1"]).await.with(0);
    assert_eq!((cut.out.lines().count(), cut.err.as_str()), (1, ""), "what was not read is not judged");
}

#[tokio::test]
async fn a_file_that_is_refused_ends_with_one_after_the_rows_before() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.xml"), "<r><i><a>1</a></i><i><a>2</i></r>").unwrap();
    let refused = rows(&folder, &["--file", "x.xml"]).await.with(1);
    assert_eq!(refused.out, "{\"a\":\"1\"}\n");
    assert!(refused.err.contains("x.xml: the file cannot be read on: row 2"), "{}", refused.err);
    std::fs::write(folder.path().join("x.yaml"), "a: 1").unwrap();
    for (arguments, problem) in [
        (&["--file", "no.csv"][..], "no.csv: it cannot be read"),
        (&["--file", "nothing"], "nothing: it cannot be read: No such file"),
        (&["--file", "x.yaml"], "its suffix names no format; say with --content-type"),
        (&["--file", "x.xml", "--content-type", "text/yaml"], "is none of those we read"),
        (&["--file", "x.xml", "--content-encoding", "br"], "is neither gzip nor identity"),
        (&["--file", "x.xml", "--content-type", "text/xml; charset=ebcdic"], "charset ebcdic cannot be read"),
    ] {
        let refused = rows(&folder, arguments).await.with(1);
        assert!(refused.err.contains(problem), "{}", refused.err);
    }
    for arguments in [
        &[][..],
        &["1", "--file", "x.xml"],
        &["1", "--content-type", "text/csv"],
        &["--file", "x.xml", "--fields", "a..b"],
    ] {
        rows(&folder, arguments).await.with(2);
    }
}

#[tokio::test]
async fn whoever_closes_the_pipe_is_told_nothing_and_memory_holds_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let line = format!("{{\"text\":\"{}\"}}\n", "x".repeat(1000));
    let mut file = std::fs::File::create(folder.path().join("long.jsonl")).unwrap();
    for _ in 0..100 {
        file.write_all(line.repeat(1000).as_bytes()).unwrap();
    }
    let mut reading = command(&folder, "waybill-subscriber", &["rows", "--file", "long.jsonl"]);
    let mut reading = reading.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    let mut out = BufReader::new(reading.stdout.take().unwrap());
    out.read_line(&mut first).unwrap();
    assert_eq!(first, line);
    // It has 100 MB to print, and waits for its reader: what it holds now is what it needs.
    let status = std::fs::read_to_string(format!("/proc/{}/status", reading.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 64 << 10, "{peak} KiB");
    drop(out);
    let ended: Ended = reading.wait_with_output().unwrap().into();
    assert_eq!(ended.with(0).err, "", "who has seen enough is no failure");
}
