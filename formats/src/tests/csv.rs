//! What is a row of CSV: judged by the `csv` crate where it can, and by hand where it cannot tell null from "".

use proptest::prelude::*;

use super::*;

/// Every row's fields.
fn table(options: DecodeOptions, bytes: &[u8]) -> Vec<Vec<Option<String>>> {
    all_rows(options, bytes).iter().flat_map(RowBatch::rows).map(cells).collect()
}

fn cells(row: Row<'_>) -> Vec<Option<String>> {
    let mut cells = Vec::new();
    row.for_each(&mut |_, value| {
        cells.push(match value {
            Field::Null => None,
            Field::Text(text) => Some(text.into_owned()),
            other => panic!("CSV has no {other:?}"),
        });
    });
    cells
}

fn some(cells: &[&str]) -> Vec<Option<String>> {
    cells.iter().map(|&cell| Some(cell.to_owned())).collect()
}

#[test]
fn null_and_empty_text_are_kept_apart() {
    let null = None;
    let empty = Some(String::new());
    assert_eq!(
        table(csv(), b"a,b,c\n,\"\",\n\"\",,\"\"\r\n,,\n"),
        [
            vec![null.clone(), empty.clone(), null.clone()],
            vec![empty.clone(), null.clone(), empty],
            vec![null.clone(), null.clone(), null]
        ]
    );
}

#[test]
fn quotes_hold_line_breaks_delimiters_and_quotes() {
    assert_eq!(
        table(csv(), b"a,b\n\"1\n2\r\n3\",\"x,\"\"y\"\"\"\n\"\"\"\",\"\"\"\"\"\"\n"),
        [some(&["1\n2\r\n3", "x,\"y\""]), some(&["\"", "\"\""])]
    );
}

#[test]
fn a_quote_or_return_within_a_bare_field_is_text() {
    assert_eq!(
        table(csv(), b"a,b\nx\"y\",5\" disk\n a \r,\rb\r\n"),
        [some(&["x\"y\"", "5\" disk"]), some(&[" a \r", "\rb"])]
    );
}

#[test]
fn lines_may_end_in_either_way_and_the_last_in_none() {
    for file in [
        &b"a,b\r\n1,2\r\n3,4\r\n"[..],
        b"a,b\n1,2\n3,4\n",
        b"a,b\n1,2\n3,4",
        b"a,b\r\n1,2\n3,4\r",
        b"\n\r\na,b\n\n1,2\n\r\n3,4\n\n",
    ] {
        assert_eq!(table(csv(), file), [some(&["1", "2"]), some(&["3", "4"])], "{:?}", String::from_utf8_lossy(file));
    }
    assert_eq!(table(csv(), b"a,b\n1,\"2\"\r"), [some(&["1", "2"])]);
    assert_eq!(table(csv(), b"a,b\n1,"), [vec![Some("1".to_owned()), None]]);
    assert_eq!(table(csv(), b"a,b\n1,\"2\""), [some(&["1", "2"])]);
}

#[test]
fn a_blank_line_is_a_null_in_a_file_of_one_column_only() {
    assert_eq!(table(csv(), b"a\n1\n\n\"\"\n\r\n"), [some(&["1"]), vec![None], some(&[""]), vec![None]]);
    assert_eq!(table(csv_of(&["a"]), b"\n1"), [vec![None], some(&["1"])]);
    assert_eq!(table(csv_of(&["a", "b"]), b"\n1,2\n\n"), [some(&["1", "2"])]);
}

#[test]
fn the_byte_order_mark_is_no_part_of_the_first_name() {
    let batches = all_rows(csv(), b"\xef\xbb\xbfid,n\n1,2\n");
    assert_eq!(batches[0].row(0).get(&crate::FieldPath::name("id")), text("1"));
    assert_eq!(batches[0].row(0).offset(), 8);
    let batches = all_rows(csv(), b"\xef\xbb\xbf\"id\",n\n1,2\n");
    assert_eq!(batches[0].row(0).get(&crate::FieldPath::name("id")), text("1"));
}

#[test]
fn another_delimiter_is_taken() {
    let options = DecodeOptions::new(Source::Csv { columns: None, delimiter: b';' });
    assert_eq!(table(options, b"a;b\n1,5;\"x;y\"\n"), [some(&["1,5", "x;y"])]);
}

#[test]
fn a_bad_row_is_told_with_row_offset_and_place_and_the_file_goes_on() {
    let table: &[(&[u8], &str)] = &[
        (b"1", "there is 1 field where the file has 3 columns"),
        (b"1,2", "there are 2 fields where the file has 3 columns"),
        (b"1,2,3,4", "there are 4 fields where the file has 3 columns"),
        (b"1,2,3,", "there are 4 fields where the file has 3 columns"),
        (b"\"\"", "there is 1 field where the file has 3 columns"),
        (b"1,\"x\"y,3", "text after a closing quote at byte 5 of the row; a quote within quotes is written twice"),
        (b"\"a\" ,2,3", "text after a closing quote at byte 3 of the row; a quote within quotes is written twice"),
        (b"\"a\"\rb,2,3", "text after a closing quote at byte 3 of the row; a quote within quotes is written twice"),
        (
            b"\"say \"hi\", ok\",2,3",
            "text after a closing quote at byte 6 of the row; a quote within quotes is written twice",
        ),
        (
            b"\"a\"b,\"two\nlines\",3",
            "text after a closing quote at byte 3 of the row; a quote within quotes is written twice",
        ),
        (b"1,2,\xc3\x28", "not UTF-8 at byte 4 of the row; another charset is named in contentType (charset=latin1)"),
        (b"1,2,\"\xff\n\"", "not UTF-8 at byte 5 of the row; another charset is named in contentType (charset=latin1)"),
    ];
    let mut file = b"a,b,c\n".to_vec();
    let mut expected = Vec::new();
    for (index, (row, problem)) in table.iter().enumerate() {
        file.extend_from_slice(b"ok,\"\",\n");
        expected.push((2 * index as u64 + 2, file.len() as u64, *problem));
        file.extend_from_slice(row);
        file.extend_from_slice(if index % 2 == 0 { b"\n" } else { b"\r\n" });
    }
    let outcome = decode(csv(), &file);
    assert_eq!(outcome.bad(), expected);
    assert_eq!(outcome.good(), vec![&b"ok,\"\","[..]; table.len()]);
    for (seen, (row, _)) in outcome.rows.iter().skip(1).step_by(2).zip(table) {
        assert_eq!(seen.bytes(), *row);
    }
}

#[test]
fn a_lost_quote_costs_the_rows_up_to_the_next_one_and_says_so() {
    let outcome = decode(csv(), b"id,name\n1,a\n2,\"b\n3,c\n4,\"d\"\n5,e\n");
    assert_eq!(
        outcome.bad(),
        [(2, 12, "text after a closing quote at byte 12 of the row; a quote within quotes is written twice")]
    );
    assert_eq!(outcome.rows[1].bytes(), b"2,\"b\n3,c\n4,\"d\"", "what it costs is kept");
    assert_eq!(outcome.good(), [b"1,a", b"5,e"]);
}

#[test]
fn a_file_that_ends_within_quotes_is_truncated_after_its_last_complete_row() {
    let outcome = decode(csv(), b"id,name\n1,a\n2,\"b\n3,c\n");
    assert_eq!(outcome.good(), [b"1,a"]);
    let (reason, row, offset, problem) = outcome.end.unwrap_err();
    assert_eq!((reason, row, offset), (Reason::TruncatedFile, 2, 12));
    assert_eq!(problem, "the file ends within quotes; it was cut off, or this row or one after it lacks a quote");
}

#[test]
fn a_header_that_cannot_be_used_is_a_malformed_file() {
    let table: &[(&[u8], &str)] = &[
        (b"", "there is no header row; a file without rows has one too"),
        (b"\n\r\n\n", "there is no header row; a file without rows has one too"),
        (b"a,b,a\n1,2,3\n", "in the header row columns 1 and 3 are both named \"a\"; fix the producer"),
        (b"a,,c\n1,2,3\n", "in the header row column 2 has no name; fix the producer"),
        (b"a,\"\"\n1,2\n", "in the header row column 2 has no name; fix the producer"),
        (b"a,\"b\"x\n1,2\n", "in the header row text follows a closing quote at byte 5; fix the producer"),
        (b"a,\xff\n1,2\n", "in the header row there are bytes that are no text; fix the producer"),
        (
            b"a,b\r1,2\r3,4\r",
            "in the header row there is \\r without \\n (lines must end with \\n or \\r\\n); fix the producer",
        ),
        (b"a,b,c,d,e\n", "in the header row there are 5 columns, over the limit of 4; fix the producer"),
        (b"abcdefghij,klmnopqrstuvwxyz\n1,2\n", "the header row is longer than the limit of 20 bytes"),
    ];
    for (file, problem) in table {
        let mut options = csv();
        options.limits.columns_max = 4;
        options.limits.row_bytes_max = 20;
        for size in [1, 1000] {
            let outcome = decode_chunks(options.clone(), file.chunks(size));
            assert_eq!((outcome.reason(), outcome.problem()), (Reason::MalformedFile, *problem));
            assert!(outcome.rows.is_empty());
        }
    }
}

#[test]
fn declared_columns_and_delimiters_are_checked_too() {
    for (columns, delimiter, problem) in [
        (vec!["a", "a"], b',', "in the declared columns columns 1 and 2 are both named \"a\""),
        (vec!["a", ""], b',', "in the declared columns column 2 has no name"),
        (vec![], b',', "in the declared columns there is no column"),
        (vec!["a"], b'"', "'\"' cannot delimit fields; declare another delimiter"),
        (vec!["a"], b'\n', "'\\n' cannot delimit fields; declare another delimiter"),
        (vec!["a"], 0xe9, "'é' cannot delimit fields; declare another delimiter"),
    ] {
        let columns = columns.into_iter().map(str::to_owned).collect();
        let options = DecodeOptions::new(Source::Csv { columns: Some(columns), delimiter });
        let outcome = decode(options, b"1\n");
        assert_eq!((outcome.reason(), outcome.problem()), (Reason::MalformedFile, problem));
    }
}

#[test]
fn columns_up_to_the_limit_are_taken() {
    let names: Vec<String> = (0..4096).map(|n| format!("c{n}")).collect();
    let file = format!("{}\n{}\n", names.join(","), vec!["1"; 4096].join(","));
    assert_eq!(table(csv(), file.as_bytes())[0].len(), 4096);
}

/// What `csv` makes of the same bytes; it reads on where we stop.
fn oracle(bytes: &[u8]) -> Vec<Vec<String>> {
    let mut reader = ::csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    reader.records().map(|record| record.unwrap().iter().map(str::to_owned).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn rows_are_those_of_the_csv_crate(
        parts in prop::collection::vec(prop::sample::select(vec!["a", "é", ",", ",", "\"", "\"", "\"\"", "\n", "\r\n", " "]), 0..60),
        columns in 2_usize..4,
        chunk in 1_usize..9,
    ) {
        let file = parts.concat();
        let names = ["x", "y", "z"];
        let (batches, end) = decode_batches(csv_of(&names[..columns]), file.as_bytes().chunks(chunk));
        let mut expected = oracle(file.as_bytes());
        match &end {
            Ok(stats) => prop_assert_eq!(stats.rows, expected.len() as u64),
            Err(error) => {
                prop_assert_eq!(error.reason, Reason::TruncatedFile);
                // It takes what lies within the open quote as a last field.
                prop_assert_eq!(error.row, expected.len() as u64);
                expected.pop();
            }
        }
        let mut seen = 0;
        for batch in &batches {
            for row in batch.rows() {
                let ours: Vec<String> = cells(row).into_iter().map(Option::unwrap_or_default).collect();
                prop_assert_eq!(&ours, &expected[row.number() as usize - 1]);
                seen += 1;
            }
            for bad in batch.bad() {
                let theirs = &expected[bad.row as usize - 1];
                let stray = bad.problem.starts_with("text after a closing quote");
                prop_assert!(stray || theirs.len() != columns, "{:?} is good: {:?}", theirs, bad);
                seen += 1;
            }
        }
        prop_assert_eq!(seen, expected.len());
    }
}
