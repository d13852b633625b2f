//! Files: what subscribers unpack is the source, and what cannot be read is refused before anything is published.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use waybill_contracts::Format;
use waybill_formats::gzip::index::{Look, look};

use super::world::{World, all_rows, export};
use crate::{ExportError, Exported, Publisher, outbox::State};

const JSONL: &[u8] = b"{\"a\":19.90,\"b\":\"\xc3\xa9\"}\r\n{\"b\":null,  \"a\":1e400}\n\n{\"a\":3}";
const CSV: &[u8] = b"a,b\r\n1,\"x\ny\"\r\n,\"\"\n3,\"quo\"\"ted\"";

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// Cut at any byte, as concatenated files are.
fn members(plain: &[u8], parts: usize) -> Vec<u8> {
    plain.chunks(plain.len().div_ceil(parts)).flat_map(gzip).collect()
}

async fn publish(world: &World, publisher: &Publisher, name: &str, bytes: &[u8]) -> Result<Exported, ExportError> {
    publisher.export("Thing").unwrap().file(&world.file(name, bytes)).await
}

#[tokio::test]
async fn a_file_is_published_byte_for_byte() {
    let world = World::new().await;
    let running = world.running().await;
    let large: Vec<u8> = (0..60_000).flat_map(|n| format!("{{\"n\":{n},\"x\":\"{n:x}\"}}\n").into_bytes()).collect();
    for (name, plain, rows, content_type) in [
        ("t.jsonl", JSONL, Some(3), "application/x-jsonlines"),
        ("t.ndjson", JSONL, Some(3), "application/x-jsonlines"),
        ("t.csv", CSV, Some(3), "text/csv"),
        ("t.json", b"[{\"a\":1}]", Some(1), "application/json"),
        ("large.jsonl", &large, Some(60_000), "application/x-jsonlines"),
    ] {
        for (packed, suffix) in [(plain.to_vec(), ""), (gzip(plain), ".gz"), (members(plain, 3), ".gz")] {
            let exported = publish(&world, &running.publisher, &format!("{name}{suffix}"), &packed).await.unwrap();
            let about = format!("{name}{suffix}, {} bytes", packed.len());
            assert!(world.plain(&exported.uri).await == plain, "{about}");
            assert_eq!((exported.rows, exported.plain_bytes), (rows, plain.len() as u64), "{about}");
            assert_eq!(exported.bytes, world.stored(&exported.uri).await.len() as u64, "{about}");
            let facts = world.facts(&exported.uri).await;
            assert_eq!((facts.headers.content_type.as_str(), facts.content_encoding), (content_type, None), "{about}");
            running.sent().await;
            let message = world.messages().pop().unwrap();
            assert_eq!(message.metadata.content_type, content_type, "{about}");
            assert_eq!(message.metadata.content_encoding.as_deref(), Some("gzip"), "{about}");
            assert_eq!(message.extras.rows, rows, "{about}");
        }
    }
    assert_eq!(world.assert_promises(&running.publisher, 0).await.len(), 15);
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_long_file_is_one_member_of_segments_whose_index_is_true() {
    let world = World::new().await;
    let running = world.running().await;
    let rows = 90_000;
    let lines: Vec<String> = (0..rows).map(|n| format!("{{\"n\":{n},\"x\":\"{n:x} and more\"}}\n")).collect();
    let jsonl = lines.concat().into_bytes();
    let source = world.file("t.jsonl", &jsonl);
    let verbatim = running.publisher.export("Thing").unwrap().file(&source).await.unwrap();
    let converted = running.publisher.export("Thing").unwrap().convert_to(Format::Csv).file(&source).await.unwrap();
    let by_row = export(&running.publisher, "rows", rows).await.unwrap();
    for exported in [verbatim, converted, by_row] {
        let (plain, stored) = (world.plain(&exported.uri).await, world.stored(&exported.uri).await);
        assert_eq!(exported.bytes, stored.len() as u64);
        let Look::Index(index) = look(&stored, exported.bytes) else { panic!("{exported:?} has no index") };
        assert!(index.rows && index.entries.len() > 1, "{index:?}");
        assert_eq!(index.entries.iter().map(|entry| entry.rows).sum::<u64>(), rows);
        let mut end = 0;
        for entry in &index.entries {
            end += entry.plain as usize;
            assert_eq!(plain[end - 1], b'\n');
        }
        assert_eq!(end, plain.len());
    }
    assert_eq!(world.assert_promises(&running.publisher, 0).await.len(), 3);
    running.end().await;
    world.end().await;
}

/// Nothing was published, and nothing will be.
async fn assert_nothing_published(world: &World, publisher: &Publisher, rows: usize) {
    assert_eq!((world.commits(), world.messages().len()), (0, 0));
    let all = all_rows(publisher).await;
    assert_eq!(all.len(), rows);
    assert!(all.iter().all(|row| row.state == State::Void && row.sequence.is_none()), "{all:?}");
}

#[tokio::test]
async fn a_truncated_gzip_is_refused_before_anything_is_committed() {
    let world = World::new().await;
    let running = world.running().await;
    let mut tries = 0;
    for (name, plain) in
        [("t.csv.gz", CSV.repeat(20)), ("t.xml.gz", format!("<r>{}</r>", "<a>1</a>".repeat(20)).into_bytes())]
    {
        let whole = gzip(&plain);
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        let cut = [whole.len() - 1, whole.len() - 8, whole.len() / 2, 12, 3]
            .map(|length| (whole[..length].to_vec(), "ends early"));
        for (bytes, problem) in cut.into_iter().chain([(damaged, "damaged")]) {
            let refused = publish(&world, &running.publisher, name, &bytes).await.unwrap_err();
            let ExportError::Source { problem: told, .. } = &refused else { panic!("{refused:?}") };
            assert!(told.contains(problem), "{} bytes: {refused}", bytes.len());
            tries += 1;
        }
    }
    assert_nothing_published(&world, &running.publisher, tries).await;
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_broken_row_is_refused_with_file_row_and_byte() {
    let world = World::new().await;
    let running = world.running().await;
    let late = [b"{\"n\":1}\n".repeat(100_000), b"oops\n".to_vec()].concat();
    for (name, bytes, row, offset) in [
        ("t.jsonl", b"{\"a\":1}\n{\"a\":}\n{\"a\":3}\n".to_vec(), 2, 8),
        ("t.jsonl.gz", gzip(b"{\"a\":1}\n{\"a\":2}\n[1]\n"), 3, 16),
        ("t.csv", b"a,b\n1,2\n1,2,3\n".to_vec(), 2, 8),
        ("t.json", b"[{\"a\":1},{\"a\":}]".to_vec(), 2, 14),
        ("t.xml", b"<r><a>1</a><a>2</b></r>".to_vec(), 2, 15),
        ("t.xmll", b"<a/>\n<a>\n".to_vec(), 2, 5),
        ("late.jsonl", late, 100_001, 800_000),
    ] {
        let refused = publish(&world, &running.publisher, name, &bytes).await.unwrap_err();
        let ExportError::Source { name: file, row: at_row, offset: at, .. } = &refused else { panic!("{refused:?}") };
        assert!(file.ends_with(name), "{refused}");
        assert_eq!((*at_row, *at), (row, offset), "{refused}");
        assert!(refused.to_string().contains(&format!("row {row}, byte {offset}")), "{refused}");
    }
    assert_nothing_published(&world, &running.publisher, 7).await;
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_field_that_only_a_later_row_has_is_a_column_of_the_csv_and_one_that_comes_too_late_is_told() {
    let world = World::new().await;
    let running = world.running().await;
    let csv = || running.publisher.export("Thing").unwrap().convert_to(Format::Csv);
    let rows = b"{\"id\":1,\"price\":19.90}\n{\"id\":2,\"_deleted\":true}\n";
    let exported = csv().file(&world.file("t.jsonl", rows)).await.unwrap();
    let plain = String::from_utf8(world.plain(&exported.uri).await).unwrap();
    assert_eq!(plain, "id,price,_deleted\n1,19.90,\n2,,true\n");

    let many: String = (0..100_000).map(|id| format!("{{\"id\":{id}}}\n")).collect();
    let late = world.file("late.jsonl", format!("{many}{{\"id\":1,\"_deleted\":true}}\n").as_bytes());
    let error = csv().file(&late).await.unwrap_err();
    let error = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
        .map(ToString::to_string)
        .collect::<String>();
    assert!(
        error.contains("field \"_deleted\" is no column of this file; CSV has the columns that it begins with"),
        "{error}"
    );
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn every_format_becomes_every_other() {
    let world = World::new().await;
    let running = world.running().await;
    let files: [(&str, Format, &[u8]); 5] = [
        ("t.jsonl", Format::JsonLines, b"{\"a\":\"1.50\",\"b\":null}\n{\"a\":\"\",\"b\":\"\xc3\xa9 <&\"}\n"),
        ("t.json", Format::Json, b"[\n{\"a\":\"1.50\",\"b\":null},\n{\"a\":\"\",\"b\":\"\xc3\xa9 <&\"}\n]\n"),
        ("t.csv", Format::Csv, b"a,b\n1.50,\n\"\",\xc3\xa9 <&\n"),
        (
            "t.xml",
            Format::Xml,
            b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<rows xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\n\
              <row><a>1.50</a><b xsi:nil=\"true\"/></row>\n<row><a></a><b>\xc3\xa9 &lt;&amp;</b></row>\n</rows>\n",
        ),
        (
            "t.xmll",
            Format::XmlLines,
            b"<row xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><a>1.50</a><b xsi:nil=\"true\"/></row>\n\
              <row><a></a><b>\xc3\xa9 &lt;&amp;</b></row>\n",
        ),
    ];
    for (name, _, file) in files {
        for (_, format, wanted) in files {
            let export = running.publisher.export("Thing").unwrap().convert_to(format);
            let exported = export.file(&world.file(name, file)).await.unwrap();
            assert_eq!(exported.rows, Some(2));
            let plain = String::from_utf8(world.plain(&exported.uri).await).unwrap();
            assert_eq!(plain, String::from_utf8_lossy(wanted), "{name} to {format:?}");
            let facts = world.facts(&exported.uri).await;
            assert_eq!(facts.headers.content_type, format.content_type());
        }
    }
    running.sent().await;
    world.assert_promises(&running.publisher, 0).await;
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_source_in_another_charset_is_converted_or_announced_with_it() {
    let world = World::new().await;
    let running = world.running().await;
    let bytes = b"name\nStra\xdfe \x80\n";
    let source = world.file("t.csv", bytes);
    let export = || running.publisher.export("Thing").unwrap();
    let refused = export().charset("ebcdic").err().unwrap();
    assert!(refused.to_string().contains("\"ebcdic\" is none that is read"), "{refused}");
    let refused = export().file(&source).await.unwrap_err();
    assert!(matches!(refused, ExportError::Source { row: 1, .. }), "it is no UTF-8: {refused:?}");

    let converted =
        export().charset("Windows-1252").unwrap().convert_to(Format::JsonLines).file(&source).await.unwrap();
    assert_eq!(world.plain(&converted.uri).await, "{\"name\":\"Straße €\"}\n".as_bytes());
    assert_eq!(world.facts(&converted.uri).await.headers.content_type, "application/x-jsonlines");
    let unchanged = export().charset("Windows-1252").unwrap().file(&source).await.unwrap();
    assert_eq!(world.plain(&unchanged.uri).await, bytes);
    assert_eq!(world.facts(&unchanged.uri).await.headers.content_type, "text/csv; charset=windows-1252");
    running.sent().await;
    world.assert_promises(&running.publisher, 0).await;
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn csv_becomes_json_lines_with_nulls_kept_apart_and_back() {
    let world = World::new().await;
    let running = world.running().await;
    let csv = "a,b,c\n,\"\",007\n\"x,\"\"y\",é,\n";
    let source = world.file("t.csv", csv.as_bytes());
    let export = running.publisher.export("Thing").unwrap().convert_to(Format::JsonLines);
    let as_json = export.file(&source).await.unwrap();
    let json = world.plain(&as_json.uri).await;
    let wanted = "{\"a\":null,\"b\":\"\",\"c\":\"007\"}\n{\"a\":\"x,\\\"y\",\"b\":\"é\",\"c\":null}\n";
    assert_eq!(String::from_utf8(json.clone()).unwrap(), wanted);
    assert_eq!(world.facts(&as_json.uri).await.headers.content_type, "application/x-jsonlines");
    assert!(as_json.uri.ends_with(".jsonl.gz"), "{}", as_json.uri);

    let back = running.publisher.export("Thing").unwrap().convert_to(Format::Csv);
    let back = back.file(&world.file("t.jsonl", &json)).await.unwrap();
    assert_eq!(String::from_utf8(world.plain(&back.uri).await).unwrap(), csv);
    assert_eq!((as_json.rows, back.rows), (Some(2), Some(2)));
    running.sent().await;
    world.assert_promises(&running.publisher, 0).await;
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_source_that_cannot_be_opened_leaves_no_trace_unless_it_was_exported_before() {
    let world = World::new().await;
    let running = world.running().await;
    let folder = world.path("folder.csv");
    std::fs::create_dir(&folder).unwrap();
    for path in [world.path("missing.csv"), folder] {
        let refused = running.publisher.export("Thing").unwrap().file(&path).await.unwrap_err();
        assert!(matches!(&refused, ExportError::Read { .. }), "{refused:?}");
        assert!(refused.to_string().contains(&path.display().to_string()), "{refused}");
    }
    assert_nothing_published(&world, &running.publisher, 0).await;

    let path = world.file("t.csv", CSV);
    let once = || running.publisher.export("Thing").unwrap().id("once").unwrap();
    let exported = once().file(&path).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(once().file(&path).await.unwrap(), Exported { repeated: true, ..exported });
    let of_another_type = running.publisher.export("Other").unwrap().id("once").unwrap().file(&path).await;
    assert!(matches!(of_another_type, Err(ExportError::Read { .. })), "{of_another_type:?}");
    running.sent().await;
    world.assert_promises(&running.publisher, 0).await;
    running.end().await;
    world.end().await;
}
