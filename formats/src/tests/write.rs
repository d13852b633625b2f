//! What is written is what was given, and is read back.

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::{Compression, FieldPath, Finished, RowWriter, WriterOptions, WriterStats};

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
    let mut body = Vec::new();
    write(&mut |step| {
        step(&mut writer);
        if let Some(chunk) = writer.take(least) {
            assert!(chunk.len() >= least);
            body.extend_from_slice(&chunk);
        }
    });
    let Finished { head, rest, stats } = writer.finish();
    let stored = [&head[..], &body, &rest].concat();
    assert_eq!(stats.stored_bytes, stored.len() as u64);
    let is_whole = body.is_empty() || compression == Compression::None;
    assert_eq!(stats.sha256, is_whole.then(|| Sha256::digest(&stored).into()));
    assert!(!is_whole || head.is_empty());
    (stored, stats)
}

fn plain_text(options: WriterOptions, rows: &[&[(&str, Field<'_>)]]) -> String {
    let mut writer = RowWriter::new(options, Compression::None);
    for row in rows {
        writer.row(row).unwrap();
    }
    let Finished { rest: bytes, stats, .. } = writer.finish();
    assert_eq!((stats.rows, stats.plain_bytes), (rows.len() as u64, bytes.len() as u64));
    assert_eq!(Some(stats.plain_sha256), stats.sha256);
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
        ("o", Field::Nested(b"{ \"x\" :\n\t[1,\r\n2] }".into())),
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
            &[("a", Field::Nested(b"{\"x\":}".into()))],
            "the nested value of field \"a\": expected a value, found '}' at byte 5",
        ),
        (
            &[("a", Field::Nested(b"1".into()))],
            "the nested value of field \"a\": a JSON object or array, not a number at byte 0",
        ),
        (&[("a", Field::Nested(b"[\"\xff\"]".into()))], "the nested value of field \"a\" is not UTF-8"),
        (
            &[("a", Field::Nested((&deep[..]).into()))],
            "the nested value of field \"a\": nested deeper than the limit of 127 levels at byte 127",
        ),
    ];
    let table: &[(&[(&str, Field<'_>)], &str)] = &[
        (&[("a", Field::Null), ("a", Field::Null)], "field \"a\" is there twice"),
        (
            &[("x", Field::Null)],
            "field \"x\" is no column of this file; CSV has the columns that it begins with, JSON Lines takes any",
        ),
        (&[("a", text("x")), ("b", Field::Number("1."))], "the number of field \"b\" is not written as JSON has it"),
        (
            &[("b", Field::Nested(b"[1".into()))],
            "the nested value of field \"b\": the row ends in the middle of its JSON at byte 2",
        ),
    ];
    for (options, cases) in [(WriterOptions::JsonLines, json), (csv_file(&["a", "b"]), table)] {
        for (row, problem) in cases {
            let good = [("a", text("kept"))];
            let mut writer = RowWriter::new(options.clone(), Compression::None);
            writer.row(&good).unwrap();
            let error = writer.row(row).unwrap_err();
            assert_eq!(error.to_string(), format!("row 2: {problem}"));
            writer.row(&good).unwrap();
            let Finished { rest: bytes, stats, .. } = writer.finish();
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
        assert_eq!(error.to_string(), format!("row 1: this file's columns or names cannot be used: {problem}"));
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
    let rows: Vec<String> = (0..20_000).map(|n| format!("value {n} {}", "-".repeat(n % 300))).collect();
    let write = |least| {
        written(WriterOptions::JsonLines, Compression::Gzip(4), least, |step| {
            for row in &rows {
                step(&mut |writer| writer.row(&[("v", text(row))]).unwrap());
            }
        })
    };
    let (first, stats) = write(0);
    assert_eq!(first[..10], [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255]);
    for least in [1, 1000, usize::MAX] {
        let (stored, of_these) = write(least);
        assert_eq!(stored, first);
        assert_eq!(WriterStats { sha256: None, ..of_these }, stats);
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
        assert!(writer.take(0).is_none(), "nothing is no chunk");
        let (mut most, mut chunks, mut taken) = (0, 0, 0);
        for n in 0_u64..300_000 {
            let value = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_string();
            writer.row(&[("v", Field::Number(&value))]).unwrap();
            if let Some(chunk) = writer.take(32 << 10) {
                most = most.max(chunk.len());
                taken += chunk.len();
                chunks += 1;
            }
        }
        let Finished { head, rest, stats } = writer.finish();
        assert!(chunks > 5 && most < 1 << 20, "{chunks} chunks of up to {most}");
        assert!(rest.len() < 1 << 20, "a rest of {}", rest.len());
        assert_eq!(stats.stored_bytes, (head.len() + taken + rest.len()) as u64);
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
    String::from_utf8(writer.finish().rest.to_vec()).unwrap()
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
    let mut writer = RowWriter::new(csv_file(&["a"]), Compression::None);
    let error = first_row(json_lines(), b"{\"a\":1,\"z\":2}", |row| writer.copy(&row).unwrap_err());
    assert!(error.to_string().starts_with("row 1: field \"z\" is no column of this file; "), "{error}");
    assert_eq!(writer.finish().rest, "a\n");
}

#[test]
fn csv_holds_objects_and_arrays_as_json_text() {
    let file = b"[{\"a\":{\"x\":[1.50,\n  null]},\"b\":[]}]";
    assert_eq!(copied(json(), file, csv_file(&["a", "b"])), "a,b\n\"{\"\"x\"\":[1.50,null]}\",[]\n");
}

fn xml_file() -> WriterOptions {
    WriterOptions::Xml { root: "rows".to_owned(), row: "row".to_owned() }
}

fn xml_lines_file() -> WriterOptions {
    WriterOptions::XmlLines { row: "row".to_owned() }
}

#[test]
fn a_json_file_is_an_array_with_a_row_a_line() {
    let rows: [&[(&str, Field<'_>)]; 2] = [&[("a", Field::Number("1.50"))], &[("b", Field::Nested(b"[\n1]".into()))]];
    assert_eq!(plain_text(WriterOptions::Json, &rows), "[\n{\"a\":1.50},\n{\"b\":[ 1]}\n]\n");
    assert_eq!(plain_text(WriterOptions::Json, &[]), "[\n]\n");
    let mut writer = RowWriter::new(WriterOptions::Json, Compression::None);
    writer.row(&[("a", Field::Number("x"))]).unwrap_err();
    writer.row(&[]).unwrap();
    writer.row(&[("a", Field::Number("x"))]).unwrap_err();
    assert_eq!(writer.finish().rest, "[\n{}\n]\n", "what was refused leaves no comma");
}

const XML_HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
    <rows xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\n";

#[test]
fn xml_is_written_by_the_mapping() {
    let rows: [&[(&str, Field<'_>)]; 3] = [
        &[
            ("id", Field::Number("19.90")),
            ("@x", text("a\"<&>\t\r\n")),
            ("t", text("a\"<&>]]>\t\r\né")),
            ("yes", Field::Bool(true)),
            ("none", Field::Null),
            ("left_out", Field::Missing),
            ("@gone", Field::Null),
            ("#text", text("own")),
        ],
        &[(
            "o",
            Field::Nested(b"{\"@k\":1.0,\"l\":[1,{\"m\":null},\"\"],\"l\":2,\"#text\":\"\\u00e9\",\"e\":{}}".into()),
        )],
        &[],
    ];
    assert_eq!(
        plain_text(xml_file(), &rows),
        format!(
            "{XML_HEAD}<row x=\"a&quot;&lt;&amp;&gt;&#9;&#13;&#10;\"><id>19.90</id><t>a\"&lt;&amp;&gt;]]&gt;\t&#13;\né</t>\
             <yes>true</yes><none xsi:nil=\"true\"/>own</row>\n\
             <row><o k=\"1.0\"><l>1</l><l><m xsi:nil=\"true\"/></l><l></l>é<e></e></o></row>\n<row></row>\n</rows>\n"
        )
    );
    let lines: [&[(&str, Field<'_>)]; 2] = [&[("a", text("1\n2"))], &[("a", Field::Null)]];
    assert_eq!(
        plain_text(xml_lines_file(), &lines),
        "<row><a>1&#10;2</a></row>\n\
         <row xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><a xsi:nil=\"true\"/></row>\n"
    );
}

#[test]
fn what_xml_cannot_carry_is_refused_and_leaves_nothing() {
    let cases: &[(&[(&str, Field<'_>)], &str)] = &[
        (&[("a", text("x\u{1}"))], "field \"a\": it holds U+0001, which XML cannot carry"),
        (&[("a", text("\u{ffff}"))], "field \"a\": it holds U+FFFF, which XML cannot carry"),
        (&[("@a", text("\0"))], "field \"@a\": it holds U+0000, which XML cannot carry"),
        (&[("a b", text("x"))], "field \"a b\": \"a b\" is no name of an XML element; rename the field"),
        (&[("", text("x"))], "field \"\": \"\" is no name of an XML element; rename the field"),
        (&[("2nd", Field::Null)], "field \"2nd\": \"2nd\" is no name of an XML element; rename the field"),
        (&[("x:y", text("x"))], "field \"x:y\": \"x:y\" is no name of an XML element; rename the field"),
        (&[("@", text("x"))], "field \"@\": \"\" is no name of an XML element; rename the field"),
        (&[("a", Field::Nested(b"[[1]]".into()))], "field \"a\": XML cannot hold a list in a list; write JSON Lines"),
        (
            &[("a", Field::Nested(b"{\"b\":[\"\\u0000\"]}".into()))],
            "field \"a\": in it \"b\": it holds U+0000, which XML cannot carry",
        ),
        (
            &[("@a", Field::Nested(b"{}".into()))],
            "field \"@a\": an object or array, which is no text; write JSON Lines",
        ),
        (&[("a", Field::Null), ("a", Field::Null)], "field \"a\" is there twice"),
        (&[("a", Field::Number("1,2"))], "the number of field \"a\" is not written as JSON has it"),
    ];
    for (row, problem) in cases {
        for options in [xml_file(), xml_lines_file()] {
            let good = [("a", text("kept"))];
            let mut writer = RowWriter::new(options.clone(), Compression::None);
            writer.row(&good).unwrap();
            assert_eq!(writer.row(row).unwrap_err().to_string(), format!("row 2: {problem}"));
            writer.row(&good).unwrap();
            let bytes = writer.finish().rest;
            let decoding = if options == xml_file() { xml() } else { xml_lines() };
            assert_eq!(decode(decoding, &bytes).end.unwrap().rows, 2);
        }
    }
    for options in [
        WriterOptions::Xml { root: "a b".to_owned(), row: "row".to_owned() },
        WriterOptions::Xml { root: "rows".to_owned(), row: String::new() },
        WriterOptions::XmlLines { row: "x:y".to_owned() },
    ] {
        RowWriter::new(options, Compression::None).row(&[]).unwrap_err();
    }
}

#[test]
fn every_format_is_copied_to_every_other() {
    let source = "[{\"a\":\"1\",\"b\":null},{\"a\":\"\",\"b\":\"x<&\\\"\"}]";
    let formats = [
        (json_lines(), WriterOptions::JsonLines),
        (json(), WriterOptions::Json),
        (csv(), csv_file(&["a", "b"])),
        (xml(), xml_file()),
        (xml_lines(), xml_lines_file()),
    ];
    for (from, first) in &formats {
        let file = copied(json(), source.as_bytes(), first.clone());
        for (_, to) in &formats {
            let other = copied(from.clone(), file.as_bytes(), to.clone());
            assert_eq!(other, copied(json(), source.as_bytes(), to.clone()), "{first:?} to {to:?}");
        }
    }
}

#[test]
fn chosen_fields_are_written_under_their_paths() {
    let paths: Vec<FieldPath> = ["b", "o.x[0]", "none"].iter().map(|path| FieldPath::parse(path).unwrap()).collect();
    for (options, file, expected) in [
        (json(), "[{\"o\":{\"x\":[1.50]},\"b\":true}]", "{\"b\":true,\"o.x[0]\":1.50}\n"),
        (xml(), "<r><a><b>t</b><o><x>1.50</x></o></a></r>", "{\"b\":\"t\",\"o.x[0]\":\"1.50\"}\n"),
        (csv(), "a,b\n1,2\n", "{\"b\":\"2\"}\n"),
    ] {
        let mut writer = RowWriter::new(WriterOptions::JsonLines, Compression::None);
        first_row(options, file.as_bytes(), |row| writer.select(&row, &paths).unwrap());
        assert_eq!(writer.finish().rest, expected);
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
        Just(Field::Nested(b"{\"a\":[1,{}]}".into())),
    ]
}

/// A name that every format can carry, and others.
fn name(format: usize) -> impl Strategy<Value = String> {
    match format {
        3 | 4 => "[a-c_é][a-c0-9.·é-]{0,2}".boxed(),
        _ => "[a-c\",\n \u{feff}é]{1,3}".boxed(),
    }
}

fn is_xml_text(field: &Field<'_>) -> bool {
    let is_char = |c: char| c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}') || matches!(c, '\t' | '\n' | '\r');
    !matches!(field, Field::Text(text) if !text.chars().all(is_char))
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_at_every_split(
        (format, names) in (0_usize..5).prop_flat_map(|format| (Just(format), prop::collection::btree_set(name(format), 1..4))),
        rows in prop::collection::vec(prop::collection::vec(value(), 3), 0..6),
        level in prop::option::of(0_u32..10),
        chunk in 1_usize..40,
    ) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (options, decoding) = match format {
            0 => (WriterOptions::JsonLines, json_lines()),
            1 => (WriterOptions::Json, json()),
            2 => (csv_file(&names), csv()),
            3 => (xml_file(), xml()),
            _ => (xml_lines_file(), xml_lines()),
        };
        let (is_json, is_csv) = (format < 2, format == 2);
        let compression = level.map_or(Compression::None, Compression::Gzip);
        // In CSV and XML everything but null is text; CSV holds the JSON of what is nested, XML holds it in its own way.
        let as_read = |field: &Field<'static>| match field {
            field if is_json => field.clone(),
            Field::Nested(json) if is_csv => text_of(json),
            Field::Nested(_) => Field::Nested(b"{\"a\":[\"1\",\"\"]}".into()),
            Field::Bool(value) => Field::Text(Cow::Owned(value.to_string())),
            Field::Number(number) => text(number),
            field => field.clone(),
        };
        let given = |field: &Field<'static>| if format > 2 && !is_xml_text(field) { Field::Null } else { field.clone() };
        let rows: Vec<Vec<Field<'static>>> = rows.iter().map(|row| row.iter().map(given).collect()).collect();
        let (stored, stats) = written(options, compression, 1, |step| {
            for row in &rows {
                let row: Vec<(&str, Field<'_>)> = names.iter().copied().zip(row.iter().cloned()).collect();
                step(&mut |writer| writer.row(&row).unwrap());
            }
        });
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

fn text_of(json: &[u8]) -> Field<'static> {
    Field::Text(Cow::Owned(String::from_utf8(json.to_vec()).unwrap()))
}
