//! However the bytes are packed and cut, the rows are the same.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

/// Files with what is special about each layout, good and bad.
fn files() -> Vec<(&'static str, DecodeOptions, Vec<u8>)> {
    let json: &[u8] = b"\xef\xbb\xbf{\"id\":1,\"price\":19.90,\"name\":\"caf\xc3\xa9\"}\r\n\n  \r\n{\"id\":2,\"id\":3}\n[1]\n\
        {\"broken\":\n{\"n\":1E400,\"deep\":{\"a\":[1,{\"b\":\"\\\"x\\ud83d\\ude00\"}]}} \n{\"bad\":\"\xff\"}\n{\"last\":true}";
    let csv_rows: &[u8] =
        b"\xef\xbb\xbfid,name,\"a \"\"quoted\"\" name\"\r\n1,,\"\"\r\n\r\n2,\"two\r\nlines\",\"say \"\"hi\"\"\"\n\
        3,in\"side,x\n4,\"stray\"x,y\n5,few\n6,\xff,\n7,a,b,c\n8,\xe2\x82\xac,\"\"\"\"\n\"9\",\"\",";
    let one_column: &[u8] = b"only\n1\n\n\"\"\r\n\r\nlast";
    let cut: &[u8] = b"a,b\n1,2\n3,\"4\n5,6\n";
    let mut small = json_lines();
    small.batch_bytes = 50;
    let mut few = csv();
    few.batch_rows = 2;
    let mut long_json = json_lines();
    long_json.limits.row_bytes_max = 20;
    long_json.batch_bytes = 64;
    let mut long_csv = csv();
    long_csv.limits.row_bytes_max = 12;
    let array: &[u8] = b"\xef\xbb\xbf [ {\"id\":1,\"price\":19.90,\"name\":\"caf\xc3\xa9 \\u00e9\"},\r\n{\"id\":2,\"id\":3} , [1,\"]\"],\n\
        {\"n\":1E400,\"deep\":{\"a\":[1,{\"b\":\"\\\"x\\ud83d\\ude00\"}]}},12,{\"bad\":\"\xff\"},{\"half\":\"\\ud83d\"},{\"last\":true}\n]\n";
    let document: &[u8] = b"\xef\xbb\xbf<?xml version='1.0' encoding='UTF-8' ?>\r\n<!-- a - b --><?pi x?><rows xmlns:x='urn:a'>\n\
        <row id='1' x:n=\"a&amp;b\tc\"><a>caf\xc3\xa9</a><b/><b>2 &lt;&#x1F600;]]&gt;</b><c><![CDATA[<x>]]y]]></c></row >\
        text<!-- between --><x:other\n  a='>'\n/><row>mixed <i>in</i> text<?p q?></row>\r\n<e><e><e>deep</e></e></e></rows>\n<!---->";
    let xml_rows: &[u8] =
        b"<?xml version=\"1.0\"?>\n<a x='1'>2</a>\r\n\n<a><b>1</b><b>2</b></a>\n<a>\n<a/>x\n<!-- c --><a>\xff</a>\n<a>&#xe9;</a>";
    let mut small_array = DecodeOptions::new(Source::Json);
    small_array.batch_bytes = 40;
    small_array.limits.row_bytes_max = 45;
    let mut small_document = DecodeOptions::new(Source::Xml { row: None });
    small_document.batch_bytes = 40;
    small_document.limits.row_bytes_max = 60;
    small_document.limits.nesting_max = 2;
    let named = DecodeOptions::new(Source::Xml { row: Some("e".to_owned()) });
    let utf16: Vec<u8> = String::from_utf8_lossy(document)
        .replace("UTF-8", "UTF-16")
        .encode_utf16()
        .flat_map(u16::to_be_bytes)
        .collect();
    let mut utf16_csv = csv();
    utf16_csv.charset = crate::Charset::from_label("utf-16le");
    utf16_csv.limits.row_bytes_max = 20;
    let csv_units: Vec<u8> = "id,name\r\n1,é€😀\n2,\"a\nb\"\n3,x,y\n4,22222222222222222222222\n5,ok"
        .encode_utf16()
        .chain([0xd800, u16::from(b'\n')])
        .flat_map(u16::to_le_bytes)
        .chain([7])
        .collect();
    let number = |digits| [&b"[{\"id\":1},"[..], &b"3".repeat(digits), b"e3.", &[b'3'; 60], b"]"].concat();
    let long_number = number(70);
    let no_number = [&b"["[..], &[b'3'; 70], b"e\xc3\xa9"].concat();
    let no_number_of = |digits: usize| [&b"["[..], &b"3".repeat(digits), b"e\xf0\x9f\x98\x80,{}]"].concat();
    vec![
        ("json with a character where a digit is missing", DecodeOptions::new(Source::Json), no_number.clone()),
        ("the same, cut within it", DecodeOptions::new(Source::Json), no_number[..no_number.len() - 1].to_vec()),
        ("the same before a row limit", small_array.clone(), no_number_of(42)),
        ("the same across a row limit", small_array.clone(), no_number_of(43)),
        ("the same at a row limit", small_array.clone(), no_number_of(44)),
        ("the same over a row limit", small_array.clone(), no_number_of(45)),
        ("json with a number that ends where it might go on", DecodeOptions::new(Source::Json), long_number.clone()),
        ("the same, cut", DecodeOptions::new(Source::Json), long_number[..long_number.len() - 1].to_vec()),
        ("the same with a row limit", small_array.clone(), number(42)),
        ("the same beyond a row limit", small_array.clone(), number(60)),
        ("json", DecodeOptions::new(Source::Json), array.to_vec()),
        ("json in small batches with rows over the limit", small_array, array.to_vec()),
        ("json that is cut", DecodeOptions::new(Source::Json), array[..100].to_vec()),
        ("xml", DecodeOptions::new(Source::Xml { row: None }), document.to_vec()),
        ("xml in small batches with rows over the limits", small_document, document.to_vec()),
        ("xml with rows by name", named, document.to_vec()),
        ("xml that is cut", DecodeOptions::new(Source::Xml { row: None }), document[..200].to_vec()),
        ("xml in another charset", DecodeOptions::new(Source::Xml { row: None }), utf16),
        ("csv in another charset", utf16_csv, csv_units),
        ("xml lines", DecodeOptions::new(Source::XmlLines), xml_rows.to_vec()),
        ("json lines", json_lines(), json.to_vec()),
        ("json lines in small batches", small, json.to_vec()),
        ("json lines with rows over the limit", long_json, json.to_vec()),
        ("csv", csv(), csv_rows.to_vec()),
        ("csv in batches of two", few, csv_rows.to_vec()),
        (
            "csv with rows over the limit",
            long_csv.clone(),
            b"a,b\n1,22222222222\n3,\"44444444444444444\",5\r\n5,6\n".to_vec(),
        ),
        ("csv with rows over the limit that may be many", long_csv, b"a,b\n5,6\n7,\"8\n9,10\n11,12\n13,14\n".to_vec()),
        ("csv without header", csv_of(&["x", "y"]), b"1,2\n,\"\"\n".to_vec()),
        ("csv of one column", csv(), one_column.to_vec()),
        ("csv that ends within quotes", csv(), cut.to_vec()),
        ("nothing", json_lines(), Vec::new()),
        ("nothing but line ends", json_lines(), b"\n\r\n\n".to_vec()),
        ("csv without anything", csv(), Vec::new()),
        ("csv without rows", csv(), b"a,b".to_vec()),
        ("half a byte order mark", csv_of(&["x"]), b"\xef\xbb".to_vec()),
        ("half a gzip mark", csv_of(&["x"]), b"\x1f".to_vec()),
    ]
}

/// The same plain bytes in every packing, and whether it is gzip.
fn packings(plain: &[u8]) -> Vec<(&'static str, bool, Vec<u8>)> {
    let third = plain.len() / 3;
    let (a, b, c) = (&plain[..third], &plain[third..2 * third], &plain[2 * third..]);
    let header = member_with_names(b"").len() - member(b"", 9).len() + 10;
    let many = [member(b"", 6), member(a, 1), member_with_names(b), member(b"", 0), member(c, 9)].concat();
    vec![
        ("plain", false, plain.to_vec()),
        ("one member", true, member(plain, 6)),
        ("one member, stored", true, member(plain, 0)),
        ("one member with all header fields", true, with_header_crc(&member_with_names(plain), header)),
        ("many members", true, many.clone()),
        ("many members and padding", true, [many, vec![0; 700]].concat()),
    ]
}

fn pieces(bytes: &[u8], size: usize) -> impl Iterator<Item = &[u8]> {
    bytes.chunks(size)
}

#[test]
fn rows_are_the_same_in_every_packing_and_at_every_split() {
    for (file, options, plain) in files() {
        let mut whole: Option<Outcome> = None;
        for (packing, gzip, stored) in packings(&plain) {
            let mut expected = decode(options.clone(), &stored);
            for size in [1, 2, 3, 7, 64] {
                let found = decode_chunks(options.clone(), pieces(&stored, size));
                assert_eq!(found, expected, "{file}, {packing}, in pieces of {size}");
            }
            for cut in 0..stored.len() {
                let found = decode_chunks(options.clone(), [&stored[..cut], &stored[cut..]]);
                assert_eq!(found, expected, "{file}, {packing}, cut at {cut}");
            }
            if let Ok(stats) = &mut expected.end {
                assert_eq!(
                    (stats.gzip, stats.stored_bytes, stats.plain_bytes),
                    (gzip, stored.len() as u64, plain.len() as u64)
                );
                (stats.gzip, stats.stored_bytes) = (false, 0);
            }
            match &whole {
                None => whole = Some(expected),
                Some(whole) => assert_eq!(*whole, expected, "{file}, {packing}"),
            }
        }
    }
}

#[test]
fn a_small_file_is_one_batch_however_it_comes() {
    let plain: Vec<u8> = (0..1000).flat_map(|n| format!("{{\"n\":{n}}}\n").into_bytes()).collect();
    for (packing, _, stored) in packings(&plain) {
        for size in [1, 100, stored.len()] {
            let outcome = decode_chunks(json_lines(), pieces(&stored, size));
            assert_eq!(outcome.batches, [(1, 1000)], "{packing}, in pieces of {size}");
        }
    }
}

#[test]
fn batches_keep_to_their_limits() {
    let plain: Vec<u8> = (10_000..15_000).flat_map(|n| format!("{{\"n\":{n}}}\n").into_bytes()).collect();
    let mut options = json_lines();
    options.batch_bytes = 100;
    let (batches, _) = decode_batches(options.clone(), [plain.as_slice()]);
    // Twelve bytes a row: eight of them are 96.
    assert_eq!(batches[0].len(), 8);
    assert_eq!(batches.len(), 625);
    options.batch_rows = 7;
    let (batches, _) = decode_batches(options, [plain.as_slice()]);
    assert_eq!(batches.len(), 5000_usize.div_ceil(7));
}

#[test]
fn a_row_larger_than_a_batch_is_a_batch_of_its_own() {
    let mut options = json_lines();
    options.batch_bytes = 20;
    let long = format!("{{\"a\":\"{}\"}}\n", "x".repeat(300_000));
    let plain = format!("{{}}\n{{}}\n{long}{{}}\n");
    for size in [1000, plain.len()] {
        let outcome = decode_chunks(options.clone(), pieces(plain.as_bytes(), size));
        assert_eq!(outcome.batches, [(1, 2), (3, 3), (4, 4)]);
    }
}

#[test]
fn flush_hands_out_what_is_complete_and_only_that() {
    let mut decoder = RowDecoder::new(json_lines());
    decoder.feed(Bytes::from_static(b"{\"a\":1}\n{\"a\":2}\n{\"a\""));
    assert!(matches!(decoder.next(), Ok(Step::NeedInput)));
    decoder.flush();
    let Ok(Step::Batch(batch)) = decoder.next() else { panic!("a batch was asked for") };
    assert_eq!((batch.first_row(), batch.last_row()), (1, 2));
    assert!(matches!(decoder.next(), Ok(Step::NeedInput)));
    decoder.feed(Bytes::from_static(b":3}\n{}"));
    assert!(matches!(decoder.next(), Ok(Step::NeedInput)), "one flush, one batch");
    decoder.end();
    let Ok(Step::Batch(batch)) = decoder.next() else { panic!("the rest comes at the end") };
    assert_eq!((batch.first_row(), batch.last_row()), (3, 4));
    assert_eq!((batch.row(0).raw(), batch.row(0).offset()), (&b"{\"a\":3}"[..], 16));
    assert!(matches!(decoder.next(), Ok(Step::Done(_))));
}

#[test]
fn all_bytes_may_be_fed_before_the_first_step() {
    let mut decoder = RowDecoder::new(csv());
    for byte in member(b"a,b\n1,2\n", 6) {
        decoder.feed(Bytes::copy_from_slice(&[byte]));
    }
    decoder.end();
    assert!(matches!(decoder.next(), Ok(Step::Batch(batch)) if batch.len() == 1));
    assert!(matches!(decoder.next(), Ok(Step::Done(_))));
}

#[test]
#[should_panic(expected = "bytes were fed after the end")]
fn feeding_after_the_end_is_refused() {
    let mut decoder = RowDecoder::new(csv());
    decoder.end();
    decoder.feed(Bytes::from_static(b"a"));
}

#[test]
fn a_batch_can_be_gone_on_with_after_any_of_its_rows() {
    let batches = all_rows_and_bad(b"{\"n\":1}\nbad\n{\"n\":3}\nworse\n{\"n\":5}\n");
    let batch = &batches[0];
    assert_eq!(batch.after(0).unwrap().len(), 3);
    let rest = batch.after(2).unwrap();
    assert_eq!((rest.first_row(), rest.last_row(), rest.len(), rest.bad().len()), (3, 5, 2, 1));
    assert_eq!(rest.row(0).number(), 3);
    assert_eq!(rest.row(0).raw(), b"{\"n\":3}");
    assert_eq!(rest.bad()[0].row, 4);
    assert_eq!(rest.after(1).unwrap().first_row(), 3, "a part does not grow again");
    assert_eq!(rest.after(4).unwrap().row(0).raw(), b"{\"n\":5}");
    assert!(batch.after(5).is_none() && batch.after(9).is_none());
    assert_eq!(batch.len(), 3, "the whole is as it was");
}

fn all_rows_and_bad(bytes: &[u8]) -> Vec<RowBatch> {
    decode_batches(json_lines(), [bytes]).0
}

#[test]
fn the_plain_hash_is_of_the_plain_bytes() {
    use sha2::{Digest, Sha256};
    let plain = b"{\"a\":1}\n\n{\"a\":2}\n";
    let mut options = json_lines();
    assert_eq!(decode(options.clone(), plain).end.unwrap().plain_sha256, None);
    options.hash_plain = true;
    for (packing, _, stored) in packings(plain) {
        let stats = decode_chunks(options.clone(), pieces(&stored, 5)).end.unwrap();
        assert_eq!(stats.plain_sha256, Some(Sha256::digest(plain).into()), "{packing}");
    }
}

#[test]
fn a_decoder_and_its_batches_may_move_to_another_thread() {
    fn moves<T: Send + 'static>() {}
    fn shared<T: Send + Sync + Clone + 'static>() {}
    moves::<RowDecoder>();
    shared::<RowBatch>();
}

#[test]
fn logs_of_a_batch_hold_no_values() {
    let batches = all_rows(json_lines(), b"{\"secret\":\"value\"}\n");
    let shown = format!("{:?} {:?}", batches[0], batches[0].row(0));
    assert!(!shown.contains("secret") && !shown.contains("value"), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn random_bytes_in_random_pieces_give_the_same_as_whole(
        parts in prop::collection::vec(
            prop::sample::select(vec!["<a>", "</a>", "<a b='", "'/>", "<!--", "-->", "<![CDATA[", "]]>", "<?p ", "?>", "&amp;", "&#10;", ">", "{\"a\":1}", "\n", "\r\n", "\"", ",", "x", "{", "}", "[", "\\", ":", "1", "é", "\"\"", " "]),
            0..80,
        ),
        cuts in prop::collection::vec(0_usize..200, 0..6),
        batch_bytes in 1_usize..60,
        row_bytes_max in 1_usize..60,
        source in 0_usize..6,
        begun: bool,
        utf16: bool,
    ) {
        let (mut options, begin) = match source {
            0 => (csv_of(&["a", "b"]), ""),
            1 => (json_lines(), ""),
            2 => (json(), "[{}"),
            3 => (xml(), "<r>"),
            4 => (xml_of("a"), "<r>"),
            _ => (xml_lines(), ""),
        };
        let plain = [if begun { begin } else { "" }, &parts.concat()].concat();
        let plain: Vec<u8> = if utf16 {
            options.charset = crate::Charset::from_label("utf-16le");
            plain.encode_utf16().flat_map(u16::to_le_bytes).collect()
        } else {
            plain.into_bytes()
        };
        options.batch_bytes = batch_bytes;
        options.limits.row_bytes_max = row_bytes_max;
        let expected = decode(options.clone(), &plain);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(plain.len())).collect();
        cuts.extend([0, plain.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|cut| &plain[cut[0]..cut[1]]);
        prop_assert_eq!(decode_chunks(options.clone(), pieces), expected.clone());
        prop_assert_eq!(decode_chunks(options, plain.chunks(1)), expected);
    }
}
