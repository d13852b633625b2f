//! What is written is what was given, and is read back.

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::{Compression, FieldPath, RowWriter, WriterOptions, WriterStats};

fn csv_file(columns: &[&str]) -> WriterOptions {
    WriterOptions::Csv { columns: columns.iter().map(|&name| name.to_owned()).collect() }
}

/// Writes with `write`, taking chunks of at least `least` bytes on the way.
fn written(
    options: WriterOptions,
    compression: Compression,
    least: usize,
    write: impl FnOnce(&mut dyn FnMut(&mut dyn FnMut(&mut RowWriter))),
) -> (Vec<u8>, WriterStats) {
    let mut writer = RowWriter::new(options, compression);
    let mut stored = Vec::new();
    write(&mut |step| {
        step(&mut writer);
        if let Some(chunk) = writer.take(least) {
            assert!(chunk.len() >= least);
            stored.extend_from_slice(&chunk);
        }
    });
    let (rest, stats) = writer.finish();
    stored.extend_from_slice(&rest);
    assert_eq!(stats.stored_bytes, stored.len() as u64);
    assert_eq!(stats.sha256, <[u8; 32]>::from(Sha256::digest(&stored)));
    (stored, stats)
}

fn plain_text(options: WriterOptions, rows: &[&[(&str, Field<'_>)]]) -> String {
    let mut writer = RowWriter::new(options, Compression::None);
    for row in rows {
        writer.row(row).unwrap();
    }
    let (bytes, stats) = writer.finish();
    assert_eq!((stats.rows, stats.plain_bytes), (rows.len() as u64, bytes.len() as u64));
    assert_eq!(stats.plain_sha256, stats.sha256);
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn json_rows_are_written_exactly() {
    let row = [
        ("t\"", text("a\"\\/\n\r\t\u{8}\u{c}\u{1}\u{7f}é😀\u{2028}")),
        ("n", Field::Number("19.90")),
        ("big", Field::Number("-100000000000000000000000000000.10E+400")),
        ("yes", Field::Bool(true)),
        ("no", Field::Bool(false)),
        ("null", Field::Null),
        ("left out", Field::Missing),
        ("o", Field::Nested(b"{ \"x\" :\n\t[1,\r\n2] }")),
    ];
    assert_eq!(
        plain_text(WriterOptions::JsonLines, &[&row, &[], &[("", text(""))]]),
        "{\"t\\\"\":\"a\\\"\\\\/\\n\\r\\t\\b\\f\\u0001\u{7f}é😀\u{2028}\",\"n\":19.90,\
         \"big\":-100000000000000000000000000000.10E+400,\"yes\":true,\"no\":false,\"null\":null,\"o\":{ \"x\" : \t[1,  2] }}\n\
         {}\n{\"\":\"\"}\n"
    );
}

#[test]
fn csv_is_quoted_where_it_must_be_and_nowhere_else() {
    let rows: [&[(&str, Field<'_>)]; 3] = [
        &[("b,", text("plain text")), ("a", text("")), ("c", Field::Null)],
        &[("a", text("x,y")), ("b,", text("say \"hi\"")), ("c", text("\r"))],
        &[("c", Field::Bool(true)), ("a", Field::Number("0.10")), ("b,", Field::Missing)],
    ];
    assert_eq!(
        plain_text(csv_file(&["a", "b,", "c"]), &rows),
        "a,\"b,\",c\n\"\",plain text,\n\"x,y\",\"say \"\"hi\"\"\",\"\r\"\n0.10,,true\n"
    );
}

#[test]
fn a_csv_without_rows_has_its_header() {
    assert_eq!(plain_text(csv_file(&["a", "b"]), &[]), "a,b\n");
    let name = "\u{feff}a";
    let file = plain_text(csv_file(&[name]), &[&[(name, text("1"))]]);
    first_row(csv(), file.as_bytes(), |row| assert_eq!(row.get(&FieldPath::name(name)), text("1")));
}

#[test]
fn a_null_in_a_csv_of_one_column_comes_back() {
    let rows: [&[(&str, Field<'_>)]; 4] = [&[("a", Field::Null)], &[("a", text(""))], &[], &[("a", text("x"))]];
    let file = plain_text(csv_file(&["a"]), &rows);
    let values: Vec<Field<'_>> = [Field::Null, text(""), Field::Null, text("x")].into();
    let batches = all_rows(csv(), file.as_bytes());
    let read: Vec<Field<'_>> = batches[0].rows().map(|row| row.get(&FieldPath::name("a"))).collect();
    assert_eq!(read, values);
}

#[test]
fn a_row_that_cannot_be_written_is_refused_and_leaves_nothing() {
    let long: Vec<String> = (0..40).map(|n| format!("f{n}")).collect();
    let mut many: Vec<(&str, Field<'_>)> = long.iter().map(|name| (name.as_str(), Field::Null)).collect();
    many.push(("f7", Field::Null));
    let deep = [vec![b'['; 128], vec![b']'; 128]].concat();
    let json: &[(&[(&str, Field<'_>)], &str)] = &[
        (&[("a", Field::Null), ("b", Field::Null), ("a", Field::Null)], "field \"a\" is there twice"),
        (&many, "field \"f7\" is there twice"),
        (&[("a", Field::Number("01"))], "the number of field \"a\" is not written as JSON has it"),
        (&[("ok", text("x")), ("a", Field::Number("NaN"))], "the number of field \"a\" is not written as JSON has it"),
        (&[("a", Field::Number(""))], "the number of field \"a\" is not written as JSON has it"),
        (&[("a", Field::Number("1,\"b\":2"))], "the number of field \"a\" is not written as JSON has it"),
        (
            &[("a", Field::Nested(b"{\"x\":}"))],
            "the nested value of field \"a\": expected a value, found '}' at byte 5",
        ),
        (
            &[("a", Field::Nested(b"1"))],
            "the nested value of field \"a\": a JSON object or array, not a number at byte 0",
        ),
        (&[("a", Field::Nested(b"[\"\xff\"]"))], "the nested value of field \"a\" is not UTF-8"),
        (
            &[("a", Field::Nested(&deep))],
            "the nested value of field \"a\": nested deeper than the limit of 127 levels at byte 127",
        ),
    ];
    let table: &[(&[(&str, Field<'_>)], &str)] = &[
        (&[("a", Field::Null), ("a", Field::Null)], "field \"a\" is there twice"),
        (&[("x", Field::Null)], "field \"x\" is no column of this file"),
        (&[("a", text("x")), ("b", Field::Number("1."))], "the number of field \"b\" is not written as JSON has it"),
        (&[("b", Field::Nested(b"[1]"))], "field \"b\" is an object or array, which CSV cannot hold; write JSON Lines"),
    ];
    for (options, cases) in [(WriterOptions::JsonLines, json), (csv_file(&["a", "b"]), table)] {
        for (row, problem) in cases {
            let good = [("a", text("kept"))];
            let mut writer = RowWriter::new(options.clone(), Compression::None);
            writer.row(&good).unwrap();
            let error = writer.row(row).unwrap_err();
            assert_eq!(error.to_string(), format!("row 2: {problem}"));
            writer.row(&good).unwrap();
            let (bytes, stats) = writer.finish();
            assert_eq!(stats.rows, 2);
            assert_eq!(String::from_utf8_lossy(&bytes), plain_text(options.clone(), &[&good, &good]));
        }
    }
}

#[test]
fn columns_that_cannot_be_used_refuse_every_row() {
    for (columns, problem) in [(vec!["a", "a"], "columns 1 and 2 are both named \"a\""), (vec![], "there is no column")]
    {
        let mut writer = RowWriter::new(csv_file(&columns), Compression::None);
        let error = writer.row(&[]).unwrap_err();
        assert_eq!(error.to_string(), format!("row 1: this file's columns cannot be used: {problem}"));
    }
}

#[test]
fn raw_bytes_are_stored_as_they_are_and_rows_refused() {
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    for compression in [Compression::None, Compression::Gzip(4)] {
        let (stored, stats) = written(WriterOptions::Raw, compression, 1000, |step| {
            for chunk in bytes.chunks(70_000) {
                step(&mut |writer| writer.raw(chunk));
            }
        });
        assert_eq!((stats.rows, stats.plain_bytes), (0, bytes.len() as u64));
        assert_eq!(stats.plain_sha256, <[u8; 32]>::from(Sha256::digest(&bytes)));
        assert_eq!(unpacked(compression, &stored), bytes);
    }
    let error = RowWriter::new(WriterOptions::Raw, Compression::None).row(&[]).unwrap_err();
    assert_eq!(error.to_string(), "row 1: this file takes raw bytes, not rows");
}

#[test]
#[should_panic(expected = "raw bytes go to a raw file only")]
fn raw_bytes_do_not_get_between_rows() {
    RowWriter::new(WriterOptions::JsonLines, Compression::None).raw(b"{}");
}

fn unpacked(compression: Compression, stored: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match compression {
        Compression::None => plain.extend_from_slice(stored),
        // Reads one member only.
        Compression::Gzip(_) => {
            let mut reader = flate2::bufread::GzDecoder::new(stored);
            std::io::Read::read_to_end(&mut reader, &mut plain).unwrap();
            assert!(reader.into_inner().is_empty(), "nothing follows the member");
        }
    }
    plain
}

#[test]
fn the_same_rows_make_the_same_gzip_member_however_they_are_taken() {
    let rows: Vec<String> = (0..20_000).map(|n| format!("value {n}")).collect();
    let write = |least| {
        written(WriterOptions::JsonLines, Compression::Gzip(4), least, |step| {
            for row in &rows {
                step(&mut |writer| writer.row(&[("v", text(row))]).unwrap());
            }
        })
    };
    let (first, stats) = write(0);
    assert_eq!(first[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    for least in [1, 1000, usize::MAX] {
        assert_eq!(write(least), (first.clone(), stats.clone()));
    }
    let plain = unpacked(Compression::Gzip(4), &first);
    assert_eq!(stats.plain_bytes, plain.len() as u64);
    assert_eq!(stats.plain_sha256, <[u8; 32]>::from(Sha256::digest(&plain)));
    assert_eq!(decode(json_lines(), &first).end.unwrap().rows, 20_000);
}

#[test]
fn chunks_come_while_rows_are_written() {
    for compression in [Compression::None, Compression::Gzip(1)] {
        let mut writer = RowWriter::new(WriterOptions::JsonLines, compression);
        assert!(matches!(compression, Compression::Gzip(_)) || writer.take(0).is_none(), "nothing is no chunk");
        let mut most = 0;
        let mut taken = 0;
        for n in 0_u64..100_000 {
            let value = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_string();
            writer.row(&[("v", Field::Number(&value))]).unwrap();
            if let Some(chunk) = writer.take(32 << 10) {
                most = most.max(chunk.len());
                taken += chunk.len();
            }
        }
        let (rest, stats) = writer.finish();
        assert!(most < 128 << 10, "chunks of {most}");
        assert!(rest.len() < 128 << 10, "a rest of {}", rest.len());
        assert_eq!(stats.stored_bytes, (taken + rest.len()) as u64);
    }
}

#[test]
fn a_level_beyond_nine_counts_as_nine() {
    let write = |level| {
        let mut writer = RowWriter::new(WriterOptions::Raw, Compression::Gzip(level));
        writer.raw(&b"0123456789".repeat(100));
        writer.finish()
    };
    assert_eq!(write(9), write(77));
}

/// Copies every row of a file.
fn copied(from: DecodeOptions, bytes: &[u8], to: WriterOptions) -> String {
    let mut writer = RowWriter::new(to, Compression::None);
    for batch in all_rows(from, bytes) {
        for row in batch.rows() {
            writer.copy(&row).unwrap();
        }
    }
    String::from_utf8(writer.finish().0.to_vec()).unwrap()
}

#[test]
fn a_row_is_copied_from_every_layout_to_every_other() {
    let json = "{\"a\":1.50,\"b\":\"x,\\u00e9\",\"a\":2} \r\n\n{ \"b\" : null }\n{\"b\":\"\",\"a\":true}\n";
    let table = "a,b\n1.50,\"x,é\"\n,\ntrue,\"\"\n";
    let columns = csv_file(&["b", "a"]);
    assert_eq!(
        copied(json_lines(), json.as_bytes(), WriterOptions::JsonLines),
        "{\"a\":1.50,\"b\":\"x,\\u00e9\",\"a\":2} \n{ \"b\" : null }\n{\"b\":\"\",\"a\":true}\n",
        "the same bytes"
    );
    assert_eq!(copied(json_lines(), json.as_bytes(), csv_file(&["a", "b"])), table);
    assert_eq!(copied(csv(), table.as_bytes(), columns), "b,a\n\"x,é\",1.50\n,\n\"\",true\n");
    assert_eq!(
        copied(csv(), table.as_bytes(), WriterOptions::JsonLines),
        "{\"a\":\"1.50\",\"b\":\"x,é\"}\n{\"a\":null,\"b\":null}\n{\"a\":\"true\",\"b\":\"\"}\n"
    );
}

#[test]
fn a_copy_that_loses_something_is_refused() {
    for (line, problem) in [
        ("{\"a\":1,\"z\":2}", "row 1: field \"z\" is no column of this file"),
        ("{\"a\":{}}", "row 1: field \"a\" is an object or array, which CSV cannot hold; write JSON Lines"),
    ] {
        let mut writer = RowWriter::new(csv_file(&["a"]), Compression::None);
        let error = first_row(json_lines(), line.as_bytes(), |row| writer.copy(&row).unwrap_err());
        assert_eq!(error.to_string(), problem);
        assert_eq!(writer.finish().0, "a\n");
    }
}

/// A value and whether CSV can hold it as what it is.
fn value() -> impl Strategy<Value = Field<'static>> {
    prop_oneof![
        Just(Field::Null),
        any::<bool>().prop_map(Field::Bool),
        prop::sample::select(vec!["0", "-0", "19.90", "0.10", "1E400", "123456789012345678901234567890"])
            .prop_map(Field::Number),
        "[a-c\",\r\n\\\\ é\u{feff}]{0,6}".prop_map(|text| Field::Text(Cow::Owned(text))),
        ".{0,6}".prop_map(|text| Field::Text(Cow::Owned(text))),
        Just(Field::Nested(b"{\"a\":[1,{}]}")),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_at_every_split(
        names in prop::collection::btree_set("[a-c\",\n \u{feff}é]{1,3}", 1..4),
        rows in prop::collection::vec(prop::collection::vec(value(), 3), 0..6),
        level in prop::option::of(0_u32..10),
        chunk in 1_usize..40,
        as_csv: bool,
    ) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let options = if as_csv { csv_file(&names) } else { WriterOptions::JsonLines };
        let compression = level.map_or(Compression::None, Compression::Gzip);
        // In CSV everything but null is text, and there is nothing nested.
        let as_read = |field: &Field<'static>| match (as_csv, field) {
            (true, Field::Nested(_)) => Field::Null,
            (true, Field::Bool(value)) => Field::Text(Cow::Owned(value.to_string())),
            (true, Field::Number(number)) => text(number),
            (_, field) => field.clone(),
        };
        let given = |field: &Field<'static>| if as_csv && matches!(field, Field::Nested(_)) { Field::Null } else { field.clone() };
        let (stored, stats) = written(options, compression, 1, |step| {
            for row in &rows {
                let row: Vec<(&str, Field<'_>)> = names.iter().copied().zip(row.iter().map(given)).collect();
                step(&mut |writer| writer.row(&row).unwrap());
            }
        });
        let decoding = if as_csv { csv() } else { json_lines() };
        let (batches, end) = decode_batches(decoding, stored.chunks(chunk));
        let end = end.unwrap();
        prop_assert_eq!((end.rows, end.bad_rows, end.gzip), (rows.len() as u64, 0, level.is_some()));
        prop_assert_eq!((end.stored_bytes, end.plain_bytes), (stats.stored_bytes, stats.plain_bytes));
        let paths: Vec<FieldPath> = names.iter().map(|name| FieldPath::name(name)).collect();
        let mut values = Vec::new();
        for (row, given) in batches.iter().flat_map(RowBatch::rows).zip(&rows) {
            row.get_many(&paths, &mut values);
            let expected: Vec<Field<'_>> = given.iter().take(names.len()).map(as_read).collect();
            prop_assert_eq!(&values, &expected);
        }
    }
}
