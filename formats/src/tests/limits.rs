//! Memory and work are bounded by the limits, not by what comes.

use bytes::Bytes;

use super::*;

const MIB: usize = 1 << 20;

/// Feeds `chunk` until `total` bytes, then the end; returns the most that was held at any time, and how it ended.
fn feed_long(options: DecodeOptions, begin: &'static [u8], chunk: &Bytes, total: usize) -> (usize, Outcome) {
    let mut decoder = RowDecoder::new(options);
    decoder.feed(Bytes::from_static(begin));
    let mut fed = 0;
    let mut held = 0;
    let (mut rows, mut batches) = (Vec::new(), Vec::new());
    let end = loop {
        let step = decoder.next();
        held = held.max(decoder.held());
        match step {
            Ok(Step::Batch(batch)) => {
                held = held.max(decoder.held() + batch.size());
                batches.push((batch.first_row(), batch.last_row()));
                for bad in batch.bad() {
                    let (row, offset, problem, bytes) = (bad.row, bad.offset, bad.problem.clone(), bad.bytes.to_vec());
                    rows.push(Seen::Bad { row, offset, problem, bytes });
                }
            }
            Ok(Step::NeedInput) if fed < total => {
                decoder.feed(chunk.clone());
                fed += chunk.len();
            }
            Ok(Step::NeedInput) => decoder.end(),
            Ok(Step::Done(stats)) => break Ok(stats),
            Err(error) => break Err((error.reason, error.row, error.offset, error.problem)),
        }
    };
    (held, Outcome { rows, batches, end })
}

#[test]
fn a_line_of_a_gigabyte_is_one_bad_row_in_bounded_memory() {
    let chunk = Bytes::from(vec![b'a'; MIB]);
    let gigabyte = 1 << 30;
    for options in [json_lines(), csv_of(&["x"])] {
        let (held, outcome) = feed_long(options, b"", &chunk, gigabyte);
        assert!(held < 24 * MIB, "held {held} bytes for rows of at most 16 MiB");
        assert_eq!(outcome.bad(), [(1, 0, "the row is longer than the limit of 16777216 bytes (row_bytes_max)")]);
        assert_eq!(outcome.rows[0].bytes(), vec![b'a'; 64 << 10]);
        assert_eq!(outcome.end.unwrap().plain_bytes, gigabyte as u64);
    }
}

#[test]
fn text_without_end_in_a_document_is_an_error_in_bounded_memory_and_a_long_line_of_xml_a_bad_row() {
    let chunk = Bytes::from(vec![b'a'; MIB]);
    let (many, gigabyte) = (1 << 27, 1 << 30);
    let too_long = "the row is longer than the limit of 16777216 bytes (row_bytes_max)";
    for (options, begin, reason) in [
        (json(), &b"[{\"a\":\""[..], Reason::TruncatedFile),
        (xml(), b"<r><a><b>", Reason::TruncatedFile),
        (xml(), b"<r><!-- ", Reason::TruncatedFile),
        (xml(), b"<r><a><![CDATA[", Reason::TruncatedFile),
        (xml(), b"<r>", Reason::TruncatedFile),
        (xml(), b"<r><a b='", Reason::MalformedFile),
        (xml(), b"<", Reason::MalformedFile),
        (xml_of("none"), b"<r><a><b>", Reason::TruncatedFile),
    ] {
        let (held, outcome) = feed_long(options, begin, &chunk, many);
        assert!(held < 40 * MIB, "held {held} bytes after {:?}", String::from_utf8_lossy(begin));
        assert_eq!(outcome.reason(), reason, "{:?}", String::from_utf8_lossy(begin));
    }
    let (held, outcome) = feed_long(xml_lines(), b"<a>", &chunk, gigabyte);
    assert!(held < 24 * MIB, "held {held} bytes");
    assert_eq!(outcome.bad(), [(1, 0, too_long)]);
}

/// Whatever follows is not to be waited for.
#[test]
fn a_character_where_a_digit_is_missing_ends_the_file_also_at_the_limit_of_a_row() {
    let limit = 1 << 20;
    let mut options = json();
    options.limits.row_bytes_max = limit;
    for before in 0..6 {
        let begin = ["[".to_owned(), "1".repeat(limit - 3 + before), "e\u{1f600}".to_owned()].concat().leak();
        let (held, outcome) = feed_long(options.clone(), begin.as_bytes(), &Bytes::from(vec![b'1'; MIB]), 64 * MIB);
        assert!(held < 6 * MIB, "held {held} bytes with {before}");
        // Farther behind, the row is too long, whatever it is.
        if before < 3 {
            let (reason, _, offset, problem) = outcome.end.unwrap_err();
            let at = (limit - 1 + before) as u64;
            assert_eq!(
                (reason, offset, problem.as_str()),
                (Reason::MalformedFile, at, "expected a digit in the exponent, found '😀'")
            );
        }
    }
}

#[test]
fn nesting_without_end_is_bounded_in_time_and_memory() {
    for (options, begin, unit, problem) in [
        (json(), &b"[{\"a\":"[..], &b"["[..], "nested deeper than 1048576 levels, where its end is not looked for"),
        (xml(), b"<r>", b"<abcdefgh>", "nested so deep that it is not read on"),
        (xml(), b"<r>", b"<a xmlns:b='urn:b'>", "more namespaces are declared at once than are read"),
    ] {
        let chunk = Bytes::from(unit.repeat(MIB / unit.len()));
        let (held, outcome) = feed_long(options, begin, &chunk, 1 << 28);
        assert!(held < 40 * MIB, "held {held} bytes");
        assert_eq!(outcome.problem(), problem);
    }
}

#[test]
fn a_hundred_thousand_levels_are_a_bad_row_and_the_file_goes_on() {
    let levels = 100_000;
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    let problem = "nested deeper than the limit of 128 levels at byte 132 of the row";
    let outcome = decode(json(), format!("[{{}},{deep},{{}}]").as_bytes());
    assert_eq!((outcome.bad(), outcome.good().len()), (vec![(2, 4, problem)], 2));
    let outcome = decode(json_lines(), format!("{{}}\n{deep}\n{{}}\n").as_bytes());
    assert_eq!((outcome.bad(), outcome.good().len()), (vec![(2, 3, problem)], 2));
    let deep = format!("{}{}", "<a>".repeat(levels), "</a>".repeat(levels));
    let problem = "nested deeper than the limit of 128 levels at byte 384 of the row";
    let outcome = decode(xml(), format!("<r><a/>{deep}<a/></r>").as_bytes());
    assert_eq!((outcome.bad(), outcome.good().len()), (vec![(2, 7, problem)], 2));
    let outcome = decode(xml_lines(), format!("<a/>\n{deep}\n<a/>\n").as_bytes());
    assert_eq!((outcome.bad(), outcome.good().len()), (vec![(2, 5, problem)], 2));
}

#[test]
fn as_many_levels_as_are_allowed_are_read_without_recursing_out_of_the_stack() {
    let mut options = xml();
    options.limits.nesting_max = usize::MAX;
    let row = format!("{}x{}", "<a>".repeat(256), "</a>".repeat(256));
    first_row(options.clone(), format!("<r>{row}</r>").as_bytes(), |row| {
        assert_eq!(row.to_json().matches("\"a\"").count(), 255);
    });
    assert_eq!(decode(options, format!("<r><a>{row}</a></r>").as_bytes()).bad().len(), 1);
}

#[test]
fn ten_thousand_columns_are_refused_at_once() {
    let columns = 10_000;
    let problem = "there are more fields than the limit of 4096 (columns_max)";
    let names: Vec<String> = (0..columns).map(|n| format!("c{n}")).collect();
    let object = format!("{{{}}}", names.iter().map(|name| format!("\"{name}\":1")).collect::<Vec<_>>().join(","));
    for outcome in [
        decode(json_lines(), format!("{object}\n{{}}\n").as_bytes()),
        decode(json(), format!("[{object},{{}}]").as_bytes()),
    ] {
        assert!(outcome.bad()[0].2.starts_with(problem), "{:?}", outcome.bad());
        assert_eq!(outcome.good().len(), 1);
    }
    let outcome = decode(csv(), format!("{}\n", names.join(",")).as_bytes());
    assert_eq!(
        outcome.problem(),
        "in the header row there are 10000 columns, over the limit of 4096; fix the producer"
    );
    let elements: String = names.iter().map(|name| format!("<{name}/>")).collect();
    let attributes: String = names.iter().map(|name| format!(" {name}=''")).collect();
    for row in [format!("<r>{elements}</r>"), format!("<r{attributes}/>")] {
        for outcome in [
            decode(xml(), format!("<rows>{row}<r/></rows>").as_bytes()),
            decode(xml_lines(), format!("{row}\n<r/>\n").as_bytes()),
        ] {
            assert_eq!(outcome.bad()[0].2, "there are 10000 fields, over the limit of 4096 (columns_max)");
            assert_eq!(outcome.good().len(), 1);
        }
    }
}

#[test]
fn entities_that_would_grow_without_bound_are_not_even_declared() {
    let laughs =
        "<!DOCTYPE lolz [<!ENTITY lol \"lol\"><!ENTITY lol1 \"&lol;&lol;&lol;&lol;&lol;&lol;\">]><lolz>&lol1;</lolz>";
    let outcome = decode(xml(), laughs.as_bytes());
    assert_eq!(outcome.reason(), Reason::MalformedFile);
    assert!(outcome.problem().starts_with("a DOCTYPE, which is refused"), "{}", outcome.problem());
}

#[test]
fn tables_of_tiny_elements_stay_within_a_few_times_the_batch() {
    for (options, begin, unit) in [
        (xml(), &b"<r>"[..], &b"<a b=''><c/><d/><e/></a>"[..]),
        (xml(), b"<r>", b"<a/>"),
        (json(), b"[{}", b",{\"a\":1,\"b\":2}"),
        (xml_lines(), b"", b"<a/>\n"),
    ] {
        let mut options = options;
        options.batch_rows = usize::MAX;
        let (held, _) = feed_long(options, begin, &Bytes::from(unit.repeat(10_000)), 3 << 20);
        assert!(held < 16 * MIB, "held {held} bytes for {:?}", String::from_utf8_lossy(unit));
    }
}

#[test]
fn a_quote_that_never_closes_stops_at_the_row_limit() {
    let chunk = Bytes::from(b"4,d\n".repeat(MIB / 4));
    let (held, outcome) = feed_long(csv(), b"id,name\n1,a\n2,\"b\n", &chunk, 1 << 28);
    assert!(held < 24 * MIB, "held {held} bytes");
    assert_eq!(outcome.batches, [(1, 1)]);
    let (reason, row, offset, problem) = outcome.end.unwrap_err();
    assert_eq!((reason, row, offset), (Reason::MalformedFile, 2, 12));
    assert!(problem.contains("if a quote is missing, fix the producer, else raise the limit"), "{problem}");
}

#[test]
fn blank_lines_without_end_hold_no_memory() {
    let (held, outcome) = feed_long(json_lines(), b"", &Bytes::from(vec![b'\n'; MIB]), 1 << 26);
    assert!(held < 3 * MIB, "held {held} bytes");
    assert_eq!(outcome.end.unwrap().rows, 0);
}

#[test]
fn tables_of_tiny_fields_stay_within_a_few_times_the_batch() {
    for (options, begin, unit) in [
        (json_lines(), &b""[..], b"{\"\":1,\"\":1,\"\":1,\"\":1,\"\":1,\"\":1}\n".as_slice()),
        (json_lines(), b"", b"{}\n"),
        (json_lines(), b"", b"x\n"),
        (csv(), b"a,b,c,d,e\n", b",,,,\n"),
    ] {
        let mut options = options;
        options.batch_rows = usize::MAX;
        let (held, _) = feed_long(options, begin, &Bytes::from(unit.repeat(10_000)), 3 << 20);
        // A bad row of two bytes costs its report; a batch of a MiB of nothing else is the worst there is.
        let times = if unit == b"x\n" { 100 } else { 16 };
        assert!(held < times * MIB, "held {held} bytes for {:?}", String::from_utf8_lossy(unit));
    }
}

#[test]
fn a_bomb_is_too_large_before_it_goes_off() {
    // Deflate's densest: 1,032 to 1.
    let gigabyte_in = member(&vec![b' '; 64 * MIB], 9);
    let mut options = json_lines();
    options.limits.ratio_max = 100;
    let outcome = decode(options, &gigabyte_in);
    let (reason, row, _, problem) = outcome.end.unwrap_err();
    assert_eq!((reason, row), (Reason::TooLarge, 1));
    assert!(problem.contains("over the limit of 100 for each (ratio_max)"), "{problem}");
    let plain: u64 = problem.split(' ').find_map(|word| word.parse().ok().filter(|&n: &u64| n >= 1 << 20)).unwrap();
    assert!(plain < 4 << 20, "stopped at {plain} plain bytes");
}

#[test]
fn the_default_ratio_refuses_the_densest_and_takes_what_is_merely_dense() {
    let dense = member(&vec![b' '; 8 * MIB], 9);
    assert_eq!(decode(json_lines(), &dense).reason(), Reason::TooLarge);
    let rows = b"{\"a\":1,\"b\":\"the same in every row of this file, or nearly so\"}\n".repeat(20_000);
    let stored = member(&rows, 9);
    assert!(rows.len() / stored.len() > 100);
    assert_eq!(decode(json_lines(), &stored).end.unwrap().rows, 20_000);
}

#[test]
fn the_ratio_is_not_asked_of_small_files() {
    let mut options = json_lines();
    options.limits.ratio_max = 1;
    let rows = b"{\"a\":1}\n".repeat(1000);
    assert_eq!(decode(options, &member(&rows, 9)).end.unwrap().rows, 1000);
}

#[test]
fn plain_bytes_have_a_limit_and_the_rows_within_it_come_first() {
    let rows = b"{\"a\":1}\n".repeat(1000);
    let mut options = json_lines();
    options.limits.plain_bytes_max = 8004;
    assert_eq!(decode(options.clone(), &rows).end.unwrap().rows, 1000);
    options.limits.plain_bytes_max = 7999;
    for stored in [rows.clone(), member(&rows, 6)] {
        for size in [1, 100, stored.len()] {
            let outcome = decode_chunks(options.clone(), stored.chunks(size));
            assert_eq!(outcome.rows.len(), 999);
            let (reason, row, offset, problem) = outcome.end.unwrap_err();
            assert_eq!((reason, row, offset), (Reason::TooLarge, 1000, 7992));
            assert_eq!(problem, "the file is larger than the limit of 7999 plain bytes (plain_bytes_max)");
        }
    }
}

#[test]
fn a_row_may_be_exactly_as_long_as_the_limit() {
    for (options, file) in [
        (json_lines(), "{\"a\":\"xxxx\"}\r\n{\"a\":\"xxxxx\"}\r\n{}\n"),
        (csv_of(&["a"]), "xxxxxxxxxxxx\r\nxxxxxxxxxxxxx\r\nx\n"),
        (csv_of(&["a"]), "\"xxxxxxxxxx\"\r\n\"xxxxxxxxxxx\"\r\nx\n"),
    ] {
        let mut options = options;
        options.limits.row_bytes_max = 12;
        for size in [1, 2, 3, 100] {
            let outcome = decode_chunks(options.clone(), file.as_bytes().chunks(size));
            assert_eq!(outcome.bad(), [(2, 14, "the row is longer than the limit of 12 bytes (row_bytes_max)")]);
            assert_eq!(outcome.good().len(), 2);
        }
    }
}

#[test]
fn a_bad_row_keeps_its_first_64_kib() {
    let row = vec![b'x'; 100_000];
    let outcome = decode(json_lines(), &row);
    assert_eq!(outcome.rows[0].bytes(), &row[..64 << 10]);
}
