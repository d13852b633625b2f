//! Files in other charsets than UTF-8: the same rows, and places in the bytes of the file.

use proptest::prelude::*;

use super::*;
use crate::{Charset, FieldPath};

fn in_charset(mut options: DecodeOptions, label: &str) -> DecodeOptions {
    options.charset = Some(Charset::from_label(label).unwrap());
    options
}

fn utf16le(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn utf16be(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// A text, one row a line, whose characters all of the charsets have.
const CSV: &str = "id,näme\r\n1,\"é\nü\"\n2,plain\n3,x,y\n";

#[test]
fn rows_and_their_offsets_are_those_of_the_file() {
    let latin1: Vec<u8> = CSV.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    let with_mark = |text: &str| format!("\u{feff}{text}");
    for (options, file, width, mark) in [
        (in_charset(csv(), "iso-8859-1"), latin1.clone(), 1, 0),
        (in_charset(csv(), "windows-1252"), latin1.clone(), 1, 0),
        (in_charset(csv(), "iso-8859-15"), latin1, 1, 0),
        (in_charset(csv(), "utf-16le"), utf16le(CSV), 2, 0),
        (in_charset(csv(), "utf-16be"), utf16be(CSV), 2, 0),
        (in_charset(csv(), "utf-16"), utf16le(&with_mark(CSV)), 2, 2),
        (in_charset(csv(), "utf-16"), utf16be(&with_mark(CSV)), 2, 2),
        (csv(), utf16le(&with_mark(CSV)), 2, 2),
        (in_charset(csv(), "iso-8859-1"), utf16be(&with_mark(CSV)), 2, 2),
    ] {
        for size in [1, 3, 1000] {
            let (batches, end) = decode_batches(options.clone(), file.chunks(size));
            let stats = end.unwrap();
            assert_eq!((stats.rows, stats.bad_rows, stats.plain_bytes), (3, 1, file.len() as u64));
            let batch = &batches[0];
            assert_eq!(batch.row(0).get(&FieldPath::name("näme")), text("é\nü"));
            assert_eq!(batch.row(0).offset(), mark + 9 * width);
            assert_eq!(batch.row(1).offset(), mark + 17 * width);
            let bad = &batch.bad()[0];
            assert_eq!((bad.row, bad.offset, &*bad.bytes), (3, mark + 25 * width, &b"3,x,y"[..]));
        }
    }
}

#[test]
fn characters_that_take_one_or_two_units_are_counted() {
    let lines = "{\"a\":\"€\"}\n{\"a\":\"😀\"}\n{\"a\":\"x\"}\n";
    let outcome = decode(json_lines(), &utf16be(lines));
    let offsets: Vec<u64> = outcome.rows.iter().map(Seen::offset).collect();
    assert_eq!(offsets, [0, 20, 42]);
}

#[test]
fn what_is_no_character_is_a_bad_row_with_its_place() {
    let mut units: Vec<u16> = "a\n1\n".encode_utf16().collect();
    units.extend([0x32, 0xd800, 0x33, 0x0a, 0x34, 0x0a]);
    let file: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let outcome = decode(in_charset(csv(), "utf-16le"), &file);
    assert_eq!(outcome.bad(), [(2, 8, "no character of UTF-16LE at byte 1 of the row (as UTF-8)")]);
    assert_eq!(outcome.good(), [b"1", b"4"]);
    let offsets: Vec<u64> = outcome.rows.iter().map(Seen::offset).collect();
    assert_eq!(offsets, [4, 8, 16]);
    let outcome = decode(in_charset(csv(), "us-ascii"), b"a\nb\n\xe9\nc\n");
    assert_eq!(outcome.bad(), [(2, 4, "no character of US-ASCII at byte 0 of the row (as UTF-8)")]);
    assert_eq!(outcome.rows[2].offset(), 6);
}

#[test]
fn in_xml_it_is_the_files_error() {
    let file = b"<?xml version='1.0' encoding='us-ascii'?><r><a>1</a><a>\xe9</a></r>";
    let outcome = decode(xml(), file);
    assert_eq!(outcome.good(), [b"<a>1</a>"]);
    let problem = "bytes that are no character of the file's charset".to_owned();
    assert_eq!(outcome.end, Err((Reason::MalformedFile, 2, 55, problem)));
}

#[test]
fn an_xml_declaration_is_followed_unless_somebody_knows_better() {
    let file = b"<?xml version='1.0' encoding='ISO-8859-1'?><r><a>\xe9</a></r>";
    first_row(xml(), file, |row| assert_eq!(row.get(&FieldPath::name("#text")), text("é")));
    first_row(in_charset(xml(), "windows-1250"), file, |row| {
        assert_eq!(row.get(&FieldPath::name("#text")), text("é"));
    });
    assert_eq!(decode(in_charset(xml(), "utf-8"), file).reason(), Reason::MalformedFile);
    let said_otherwise = "<?xml version='1.0' encoding='utf-16'?><r><a>é</a></r>";
    let outcome = decode(xml(), said_otherwise.as_bytes());
    assert_eq!(outcome.reason(), Reason::UnsupportedFormat);
    assert_eq!(
        outcome.problem(),
        "the XML declaration says that the file is in \"utf-16\", but its bytes are not; fix the producer, or give the charset \
         in contentType"
    );
    assert_eq!(decode(in_charset(xml(), "utf-8"), said_otherwise.as_bytes()).end.unwrap().rows, 1);
    for file in [utf16le(&format!("\u{feff}{said_otherwise}")), utf16be(said_otherwise)] {
        assert_eq!(decode(xml(), &file).end.unwrap().rows, 1);
    }
    let mark_against = format!("\u{feff}{}", said_otherwise.replace("utf-16", "latin1"));
    let outcome = decode(xml(), mark_against.as_bytes());
    assert_eq!(outcome.problem(), "the declaration names the encoding \"latin1\", but the file is in UTF-8");
    assert_eq!(outcome.end.unwrap_err().2, 33);
}

#[test]
fn an_error_in_a_document_is_at_its_byte_in_the_file() {
    let outcome = decode(json(), &utf16le("[{\"😀\":1},{\"a\":x}]"));
    assert_eq!(outcome.end, Err((Reason::MalformedFile, 2, 30, "expected a value, found 'x'".to_owned())));
    let outcome = decode(xml(), &utf16be("<r><a>€</a><b></c></r>"));
    let problem = "another end tag than </b>, which is expected here".to_owned();
    assert_eq!(outcome.end, Err((Reason::MalformedFile, 2, 28, problem)));
}

#[test]
fn limits_count_the_bytes_of_the_file() {
    let file = utf16le(&"{\"a\":1}\n".repeat(100));
    let mut options = json_lines();
    options.limits.plain_bytes_max = 1600;
    options.hash_plain = true;
    let stats = decode(options.clone(), &file).end.unwrap();
    assert_eq!((stats.rows, stats.plain_bytes), (100, 1600));
    use sha2::{Digest, Sha256};
    assert_eq!(stats.plain_sha256, Some(Sha256::digest(&file).into()));
    options.limits.plain_bytes_max = 1599;
    assert_eq!(decode(options, &file).reason(), Reason::TooLarge);
}

proptest! {
    #[test]
    fn any_text_comes_back_from_any_charset(
        values in prop::collection::vec("[a-z\"',\n àéÿ]{0,6}", 1..6),
        charset in prop::sample::select(vec!["utf-16le", "utf-16be", "iso-8859-1", "windows-1252"]),
        size in 1_usize..20,
        batch_bytes in 1_usize..60,
    ) {
        let quoted: Vec<String> = values.iter().map(|value| format!("\"{}\"\n", value.replace('"', "\"\""))).collect();
        let encode = |text: &str| match charset {
            "utf-16le" => utf16le(text),
            "utf-16be" => utf16be(text),
            _ => text.chars().map(|c| u32::from(c) as u8).collect(),
        };
        let file = encode(&format!("v\n{}", quoted.concat()));
        let mut options = in_charset(csv(), charset);
        options.batch_bytes = batch_bytes;
        let (batches, end) = decode_batches(options, file.chunks(size));
        prop_assert_eq!(end.unwrap().rows, values.len() as u64);
        let mut offset = encode("v\n").len() as u64;
        let rows = batches.iter().flat_map(RowBatch::rows);
        for ((row, value), line) in rows.zip(&values).zip(&quoted) {
            prop_assert_eq!(row.get(&FieldPath::name("v")), text(value));
            prop_assert_eq!(row.offset(), offset);
            offset += encode(line).len() as u64;
        }
    }
}
