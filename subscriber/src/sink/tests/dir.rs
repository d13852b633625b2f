//! A folder of files.

use std::{fs, path::Path};

use waybill_contracts::Format;
use waybill_formats::Source;

use super::world::{csv, decode, progress, stats};
use crate::{
    FileKey,
    apply::{EntityPlans, Position},
    sink::{Ahead, Applied, DirFormat, DirSink, DirTotals, EntityBatch, Sink, SinkError, SinkOpenError},
};

fn batch(blob_type: &str, rows: Vec<waybill_formats::RowBatch>, to: u64, end: bool) -> EntityBatch {
    let position = Position::Broker { sequence_number: 1 };
    EntityBatch {
        blob_type: blob_type.into(),
        entity: None,
        filter: None,
        format: Format::JsonLines,
        position,
        rows,
        to,
        end: end.then(|| stats(to)),
        sorted: None,
        ahead: Ahead::default(),
    }
}

fn files_below(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with(".waybill") {
            files.extend(fs::read_dir(&path).unwrap().map(|file| {
                let file = file.unwrap().path();
                file.strip_prefix(folder).unwrap().display().to_string()
            }));
        }
    }
    files.sort();
    files
}

#[tokio::test]
async fn a_file_appears_whole_under_its_type_and_its_identity() {
    let folder = tempfile::tempdir().unwrap();
    let sink = DirSink::open(folder.path()).await.unwrap();
    let key = FileKey::from_stored("a/b".to_owned());
    let rows = decode(Source::JsonLines, "{\"n\": 19.90}\nbroken\n{\"n\":2}\n", 1);
    let applied = sink.apply(&key, 0, batch("../x", rows[..2].to_vec(), 2, false)).await.unwrap();
    assert_eq!(applied, Applied { inserted: 1, bad: 1, ..Applied::default() });
    assert!(files_below(folder.path()).is_empty(), "not before it is complete");
    sink.apply(&key, 2, batch("../x", rows[2..].to_vec(), 3, true)).await.unwrap();
    let files = files_below(folder.path());
    assert_eq!(files.len(), 2, "{files:?}");
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(read(&files[1]), "{\"n\": 19.90}\n{\"n\":2}\n", "as they were written");
    let bad: serde_json::Value = serde_json::from_str(&read(&files[0])).unwrap();
    assert_eq!((&bad["row"], &bad["offset"], &bad["bytes"]), (&2.into(), &13.into(), &"broken".into()));
    assert_eq!(bad["reason"], "malformed-row");
    assert_eq!(sink.totals().await.unwrap(), DirTotals { files: 1, rows: 2, bad_rows: 1, filtered_rows: 0 });
}

#[tokio::test]
async fn csv_becomes_json_lines() {
    let folder = tempfile::tempdir().unwrap();
    let sink = DirSink::open(folder.path()).await.unwrap();
    let rows = csv("a,b,c\n19.90,,\"\"\n");
    sink.apply(&FileKey::from_stored("x".to_owned()), 0, batch("T", rows, 1, true)).await.unwrap();
    let files = files_below(folder.path());
    assert_eq!(fs::read_to_string(folder.path().join(&files[0])).unwrap(), "{\"a\":\"19.90\",\"b\":null,\"c\":\"\"}\n");
}

#[tokio::test]
async fn what_a_crash_left_behind_progress_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let key = FileKey::from_stored("x".to_owned());
    let rows = decode(Source::JsonLines, "{\"n\":1}\n{\"n\":2}\n", 1);
    {
        let sink = DirSink::open(folder.path()).await.unwrap();
        sink.apply(&key, 0, batch("t", rows[..1].to_vec(), 1, false)).await.unwrap();
        sink.close().await;
    }
    let part = folder.path().join(".waybill/parts/x.jsonl");
    fs::write(&part, "{\"n\":1}\n{\"n\":2}\n{\"n").unwrap();
    let sink = DirSink::open(folder.path()).await.unwrap();
    assert_eq!(progress(&sink, &key).await.rows, 1);
    sink.apply(&key, 1, batch("t", rows[1..].to_vec(), 2, true)).await.unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("t/x.jsonl")).unwrap(), "{\"n\":1}\n{\"n\":2}\n");
}

#[tokio::test]
async fn a_finished_file_that_was_not_moved_is_moved_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let key = FileKey::from_stored("x".to_owned());
    let rows = decode(Source::JsonLines, "{\"n\":1}\n", 1);
    let sink = DirSink::open(folder.path()).await.unwrap();
    sink.apply(&key, 0, batch("t", rows, 1, true)).await.unwrap();
    sink.close().await;
    // As if the crash had come after progress and before the move.
    fs::rename(folder.path().join("t/x.jsonl"), folder.path().join(".waybill/parts/x.jsonl")).unwrap();
    DirSink::open(folder.path()).await.unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("t/x.jsonl")).unwrap(), "{\"n\":1}\n");
    // Taken away by whoever reads them, it does not come back.
    fs::remove_file(folder.path().join("t/x.jsonl")).unwrap();
    let sink = DirSink::open(folder.path()).await.unwrap();
    assert!(progress(&sink, &key).await.done);
    assert!(files_below(folder.path()).is_empty());
}

#[tokio::test]
async fn a_part_that_was_changed_by_hand_is_not_built_upon() {
    let folder = tempfile::tempdir().unwrap();
    let key = FileKey::from_stored("x".to_owned());
    let rows = decode(Source::JsonLines, "{\"n\":1}\n{\"n\":2}\n", 1);
    let sink = DirSink::open(folder.path()).await.unwrap();
    sink.apply(&key, 0, batch("t", rows[..1].to_vec(), 1, false)).await.unwrap();
    fs::write(folder.path().join(".waybill/parts/x.jsonl"), "").unwrap();
    let error = sink.apply(&key, 1, batch("t", rows[1..].to_vec(), 2, true)).await.unwrap_err();
    assert!(error.to_string().contains("x.jsonl: it is shorter than the 8 bytes that were written"), "{error}");
    assert_eq!(progress(&sink, &key).await.rows, 1);
}

#[tokio::test]
async fn a_path_that_is_no_folder_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = DirSink::open(file.path()).await.unwrap_err();
    assert!(matches!(error, SinkOpenError::Refused { .. }) && !error.passes(), "{error:?}");
}

#[tokio::test]
async fn rows_that_a_filter_does_not_want_are_left_out_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let sink = DirSink::open(folder.path()).await.unwrap();
    let toml = "[entity.product]\nkey = [\"id\"]\ncolumns = { price = \"decimal\" }\nwhere = 'row.price > 10.0'";
    let plans = EntityPlans::compile(&super::world::entities(toml)).unwrap();
    let rows = "{\"id\":1,\"price\":11}\n{\"id\":2,\"price\":9}\n{\"id\":3}\n{\"id\":4,\"_deleted\":true}\n";
    let whole = batch("product", decode(Source::JsonLines, rows, 9), 4, true);
    let whole = EntityBatch { entity: plans.for_type("product").cloned(), ..whole };
    let applied = sink.apply(&FileKey::from_stored("x".to_owned()), 0, whole).await.unwrap();
    assert_eq!(applied, Applied { inserted: 2, filtered: 1, bad: 1, ..Applied::default() });
    let files = files_below(folder.path());
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(read(&files[1]), "{\"id\":1,\"price\":11}\n{\"id\":4,\"_deleted\":true}\n");
    let bad: serde_json::Value = serde_json::from_str(&read(&files[0])).unwrap();
    assert_eq!((&bad["row"], &bad["reason"], &bad["bytes"]), (&3.into(), &"filter-error".into(), &"{\"id\":3}".into()));
    assert_eq!(sink.totals().await.unwrap(), DirTotals { files: 1, rows: 2, bad_rows: 1, filtered_rows: 1 });
}

#[tokio::test]
async fn a_folder_of_the_first_schema_opens_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join(".waybill/progress.sqlite");
    std::fs::create_dir(folder.path().join(".waybill")).unwrap();
    let golden = include_str!("../../../golden/folder-1.sql");
    waybill_store::rusqlite::Connection::open(&database).unwrap().execute_batch(golden).unwrap();
    let sink = DirSink::open(folder.path()).await.unwrap();
    assert_eq!(sink.totals().await.unwrap(), DirTotals { files: 2, rows: 7, bad_rows: 0, filtered_rows: 0 });
    let rows = csv("id\n1\n");
    let file = FileKey::of_export("x", "1");
    assert_eq!(sink.apply(&file, 0, batch("Log", rows, 1, true)).await.unwrap().inserted, 1);
    assert_eq!(sink.totals().await.unwrap().rows, 8);
}

const ROWS: [&str; 3] = ["{\"id\":\"1\",\"a\":\"x,y\"}", "{\"id\":\"2\",\"b\":\"<&>\"}", "{\"id\":\"3\",\"a\":null}"];

/// Applies `ROWS` as one file, in two stretches.
async fn apply_rows(sink: &DirSink, key: &FileKey, format: Format) {
    let rows = decode(Source::JsonLines, &ROWS.join("\n"), 1);
    let of = |rows: &[waybill_formats::RowBatch], to, end| EntityBatch { format, ..batch("T", rows.to_vec(), to, end) };
    sink.apply(key, 0, of(&rows[..1], 1, false)).await.unwrap();
    sink.apply(key, 1, of(&rows[1..], 3, true)).await.unwrap();
}

#[tokio::test]
async fn files_are_written_in_the_format_that_is_wanted_and_read_back_the_same() {
    let key = FileKey::from_stored("a".to_owned());
    for format in [Format::JsonLines, Format::Json, Format::Csv, Format::Xml, Format::XmlLines] {
        for wanted in [DirFormat::Of(format), DirFormat::Same] {
            let folder = tempfile::tempdir().unwrap();
            let sink = DirSink::open_as(folder.path(), wanted).await.unwrap();
            apply_rows(&sink, &key, format).await;
            assert_eq!(files_below(folder.path()), [format!("T~1/a.{}", format.suffix())]);
            let text = fs::read_to_string(folder.path().join(format!("T~1/a.{}", format.suffix()))).unwrap();
            let ids = decode(Source::of(format), &text, usize::MAX);
            let ids: Vec<_> = ids.iter().flat_map(waybill_formats::RowBatch::rows).collect();
            let field = |row: &waybill_formats::Row<'_>, name| {
                format!("{:?}", row.get(&waybill_formats::FieldPath::name(name)))
            };
            let read: Vec<_> = ids.iter().map(|row| (field(row, "id"), field(row, "b"))).collect();
            assert_eq!(read.len(), 3, "{text}");
            assert_eq!((read[0].0.as_str(), read[1].1.as_str()), ("Text(\"1\")", "Text(\"<&>\")"), "{text}");
            assert_eq!(fs::read_dir(folder.path().join(".waybill/parts")).unwrap().count(), 0);
        }
    }
}

#[tokio::test]
async fn rows_that_a_format_cannot_carry_lie_beside_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let sink = DirSink::open_as(folder.path(), DirFormat::Of(Format::Xml)).await.unwrap();
    let rows = decode(Source::JsonLines, "{\"id\":1}\nbroken\n{\"a b\":2}\n", 10);
    let applied = sink.apply(&FileKey::from_stored("a".to_owned()), 0, batch("T", rows, 3, true)).await.unwrap();
    assert_eq!(applied, Applied { inserted: 2, bad: 1, ..Applied::default() });
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(read("T~1/a.xml").contains("<id>1</id>"));
    let bad: Vec<serde_json::Value> =
        read("T~1/a+bad.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let bad: Vec<_> = bad.iter().map(|bad| (bad["reason"].as_str().unwrap(), bad["bytes"].as_str().unwrap())).collect();
    assert_eq!(bad, [("malformed-row", "broken"), ("unsupported-format", "{\"a b\":2}")]);
}

#[tokio::test]
async fn a_file_that_could_not_be_moved_is_converted_and_moved_at_the_next_start() {
    let (folder, key) = (tempfile::tempdir().unwrap(), FileKey::from_stored("a".to_owned()));
    // Something is in the way of the type's folder.
    fs::write(folder.path().join("T~1"), "").unwrap();
    let sink = DirSink::open_as(folder.path(), DirFormat::Of(Format::Csv)).await.unwrap();
    apply_rows(&sink, &key, Format::Json).await;
    assert!(progress(&sink, &key).await.done);
    sink.close().await;
    // As after a crash in the middle of the conversion: the lines are there, and half of the file.
    let parts = folder.path().join(".waybill/parts");
    fs::write(parts.join("a.jsonl"), ROWS.map(|row| row.to_owned() + "\n").concat()).unwrap();
    fs::write(parts.join("a+made"), "id,a").unwrap();
    fs::remove_file(folder.path().join("T~1")).unwrap();
    // The format is the one that was wanted when it was worked.
    DirSink::open(folder.path()).await.unwrap();
    let text = fs::read_to_string(folder.path().join("T~1/a.csv")).unwrap();
    assert_eq!(text, "id,a,b\n1,\"x,y\",\n2,,<&>\n3,,\n");
    assert_eq!(fs::read_dir(parts).unwrap().count(), 0);
}

/// However many rows a format cannot carry, and however many names they have.
#[tokio::test]
async fn rows_that_do_not_fit_are_handed_on_some_at_a_time_and_columns_are_bounded() {
    const ROWS: usize = 500;
    let key = FileKey::from_stored("a".to_owned());
    let wide = (0..4_090).map(|nth| format!("\"c{nth}\":{nth}")).collect::<Vec<_>>().join(",");
    let rows: String = (0..ROWS).map(|nth| format!("{{\"a {nth}\":\"{}\"}}\n", "x".repeat(nth))).collect();
    // XML has no such names; a CSV file has 4,096 columns.
    for (format, fitting) in [(Format::Xml, 0), (Format::Csv, 6)] {
        let folder = tempfile::tempdir().unwrap();
        let sink = DirSink::open_as(folder.path(), DirFormat::Of(format)).await.unwrap();
        let decoded = decode(Source::JsonLines, &format!("{{{wide}}}\n{rows}broken\n"), 10_000);
        let end = ROWS as u64 + 2;
        let applied = sink.apply(&key, 0, batch("T", decoded, end, true)).await.unwrap();
        assert_eq!((applied.inserted, applied.bad), (ROWS as u64 + 1, 1));
        let bad = fs::read_to_string(folder.path().join("T~1/a+bad.jsonl")).unwrap();
        let bad: Vec<serde_json::Value> = bad.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(bad.len(), 1 + ROWS - fitting, "{format:?}");
        assert_eq!((&bad[0]["reason"], &bad[1]["reason"]), (&"malformed-row".into(), &"unsupported-format".into()));
        for (nth, line) in (fitting..).zip(&bad[1..]) {
            let bytes = line["bytes"].as_str().unwrap();
            assert!(bytes.starts_with(&format!("{{\"a {nth}\":")), "in their order: {bytes}");
        }
        let good = fs::read_to_string(folder.path().join(format!("T~1/a.{}", format.suffix()))).unwrap();
        let good = decode(Source::of(format), &good, usize::MAX);
        assert_eq!(good.iter().map(waybill_formats::RowBatch::len).sum::<usize>(), 1 + fitting);
    }
}

#[tokio::test]
async fn a_file_that_another_process_is_converting_is_left_to_it() {
    let (folder, key) = (tempfile::tempdir().unwrap(), FileKey::from_stored("a".to_owned()));
    let sink = DirSink::open_as(folder.path(), DirFormat::Of(Format::Csv)).await.unwrap();
    apply_rows(&sink, &key, Format::Json).await;
    let whole = fs::read_to_string(folder.path().join("T~1/a.csv")).unwrap();
    // As if the other one were in the middle of it.
    let parts = folder.path().join(".waybill/parts");
    fs::remove_file(folder.path().join("T~1/a.csv")).unwrap();
    fs::write(parts.join("a.jsonl"), ROWS.map(|row| row.to_owned() + "\n").concat()).unwrap();
    fs::write(parts.join("a+made"), "id,a").unwrap();
    let other = fs::File::open(parts.join("a.jsonl")).unwrap();
    other.lock().unwrap();
    DirSink::open(folder.path()).await.unwrap();
    assert!(files_below(folder.path()).is_empty(), "half of a file is not moved");
    assert_eq!(fs::read_to_string(parts.join("a+made")).unwrap(), "id,a");
    // It dies; of several that come at once, one does it.
    drop(other);
    let opened = futures::future::join_all((0..8).map(|_| DirSink::open(folder.path()))).await;
    assert!(opened.iter().all(Result::is_ok), "{opened:?}");
    assert_eq!(fs::read_to_string(folder.path().join("T~1/a.csv")).unwrap(), whole);
    assert_eq!(fs::read_dir(parts).unwrap().count(), 0);
}

#[tokio::test]
async fn a_part_that_was_changed_by_hand_is_its_files_trouble_and_a_folder_that_is_none_is_everybodys() {
    let folder = tempfile::tempdir().unwrap();
    let sink = DirSink::open(folder.path()).await.unwrap();
    let rows = decode(Source::JsonLines, "{\"n\":1}\n{\"n\":2}\n", 1);
    let [a, b] = ["a", "b"].map(|name| FileKey::from_stored(name.to_owned()));
    let parts = folder.path().join(".waybill/parts");
    sink.apply(&a, 0, batch("T", rows[..1].to_vec(), 1, false)).await.unwrap();
    let part = fs::read_dir(&parts).unwrap().next().unwrap().unwrap().path();
    fs::write(&part, "").unwrap();
    let error = sink.apply(&a, 1, batch("T", rows[1..].to_vec(), 2, true)).await.unwrap_err();
    assert!(matches!(&error, SinkError::Failed { problem, .. } if problem.contains("changed by hand")), "{error:?}");
    sink.apply(&b, 0, batch("T", rows.clone(), 2, false)).await.unwrap();
    fs::remove_dir_all(&parts).unwrap();
    fs::write(&parts, "in its way").unwrap();
    let error = sink.apply(&a, 1, batch("T", rows[1..].to_vec(), 2, true)).await.unwrap_err();
    assert!(matches!(&error, SinkError::Unusable { problem, .. } if problem.contains("move it away")), "{error:?}");
    assert_eq!(sink.progress(&a).await.unwrap().rows, 1, "nothing of it took effect");
}
