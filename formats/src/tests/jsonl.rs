//! What is a row of JSON Lines, and what is wrong with one that is not.

use proptest::prelude::*;

use super::*;

#[test]
fn lines_are_rows_whatever_ends_them() {
    let outcome = decode(json_lines(), b"\xef\xbb\xbf{\"a\":1}\r\n\n \t\r\n {\"a\":2} \n{}\n{\"a\":3}");
    assert_eq!(outcome.good(), [&b"{\"a\":1}"[..], b" {\"a\":2} ", b"{}", b"{\"a\":3}"]);
    let offsets: Vec<u64> = outcome
        .rows
        .iter()
        .map(|row| match row {
            Seen::Good { offset, .. } | Seen::Bad { offset, .. } => *offset,
        })
        .collect();
    assert_eq!(offsets, [3, 17, 27, 30]);
}

#[test]
fn a_bad_row_is_told_with_row_offset_and_place_and_the_file_goes_on() {
    let nested = |levels: usize| format!("{{\"a\":{}1{}}}", "[".repeat(levels), "]".repeat(levels));
    let table: Vec<(Vec<u8>, String)> = [
        ("[1]", "a row must be a JSON object, not an array at byte 0"),
        ("  \"x\"", "a row must be a JSON object, not text at byte 2"),
        ("null", "a row must be a JSON object, not null at byte 0"),
        ("-1", "a row must be a JSON object, not a number at byte 0"),
        ("true", "a row must be a JSON object, not true or false at byte 0"),
        ("id,name", "a row must be a JSON object, not text that is no JSON at byte 0"),
        ("not json", "a row must be a JSON object, not text that is no JSON at byte 0"),
        ("{", "the row ends in the middle of its JSON at byte 1"),
        ("{\"a\":1", "the row ends in the middle of its JSON at byte 6"),
        ("{\"a\":1}}", "expected nothing after the row's object, found '}' at byte 7"),
        ("{\"a\":1}{", "expected nothing after the row's object, found '{' at byte 7"),
        ("{a:1}", "expected a field's name in quotes, found 'a' at byte 1"),
        ("{\"a\":1,}", "expected a field's name in quotes, found '}' at byte 7"),
        ("{,}", "expected a field's name in quotes, found ',' at byte 1"),
        ("{\"a\" 1}", "expected ':' after a field's name, found '1' at byte 5"),
        ("{\"a\"}", "expected ':' after a field's name, found '}' at byte 4"),
        ("{\"a\":}", "expected a value, found '}' at byte 5"),
        ("{\"a\":ä}", "expected a value, found 'ä' at byte 5"),
        ("{\"a\":nul}", "expected a value, found 'n' at byte 5"),
        ("{\"a\":NaN}", "expected a value, found 'N' at byte 5"),
        ("{\"a\":nulll}", "expected ',' or '}', found 'l' at byte 9"),
        ("{\"a\":1 \"b\":2}", "expected ',' or '}', found '\"' at byte 7"),
        ("{\"a\":[1 2]}", "expected ',' or ']', found '2' at byte 8"),
        ("{\"a\":[1}}", "expected ',' or ']', found '}' at byte 7"),
        ("{\"a\":[1,]}", "expected a value, found ']' at byte 8"),
        ("{\"a\":{\"b\":1]}", "expected ',' or '}', found ']' at byte 11"),
        ("{\"a\":01}", "a number with a leading zero at byte 5"),
        ("{\"a\":-}", "expected a digit after '-', found '}' at byte 6"),
        ("{\"a\":+1}", "expected a value, found '+' at byte 5"),
        ("{\"a\":.5}", "expected a value, found '.' at byte 5"),
        ("{\"a\":1.}", "expected a digit after the decimal point, found '}' at byte 7"),
        ("{\"a\":1e}", "expected a digit in the exponent, found '}' at byte 7"),
        ("{\"a\":1e+}", "expected a digit in the exponent, found '}' at byte 8"),
        ("{\"a\":0x1}", "expected ',' or '}', found 'x' at byte 6"),
        ("{\"a\":\"b}", "a text without its closing quote begins at byte 5"),
        ("{\"a\":\"\t\"}", "control character 0x09 in a text must be escaped at byte 6"),
        ("{\"a\":\"\\x\"}", "unknown escape in a text at byte 6"),
        ("{\"a\":\"\\", "unknown escape in a text at byte 6"),
        ("{\"a\":\"\\u12g4\"}", "\\u needs four hexadecimal digits at byte 6"),
        ("{\"a\":\"\\u12", "\\u needs four hexadecimal digits at byte 6"),
        ("{\"a\":\"\\ud800\"}", "half of a surrogate pair is no character at byte 6"),
        ("{\"a\":\"\\ud800\\u0041\"}", "half of a surrogate pair is no character at byte 6"),
        ("{\"a\":\"\\udc00\"}", "half of a surrogate pair is no character at byte 6"),
        ("{\"a\":[\"\\uDBFF\\uD800\"]}", "half of a surrogate pair is no character at byte 7"),
        ("{\"\\ud800\":1}", "half of a surrogate pair is no character at byte 2"),
    ]
    .into_iter()
    .map(|(row, problem)| (row.as_bytes().to_vec(), problem.to_owned()))
    .chain([
        (b"{\"a\":\"\xff\"}".to_vec(), "not UTF-8 at byte 6".to_owned()),
        (b"{\"a\":\"\xc3".to_vec(), "not UTF-8 at byte 6".to_owned()),
        (nested(128).into_bytes(), "nested deeper than the limit of 128 levels at byte 132".to_owned()),
        ("{\"a\":".repeat(200).into_bytes(), "nested deeper than the limit of 128 levels at byte 640".to_owned()),
    ])
    .collect();

    let mut file = Vec::new();
    let mut expected = Vec::new();
    for (index, (row, problem)) in table.iter().enumerate() {
        file.extend_from_slice(b"{\"good\":true}\n");
        let advice = match problem.starts_with("not UTF-8") {
            true => "; another charset is named in contentType (charset=latin1)",
            false => "",
        };
        expected.push((2 * index as u64 + 2, file.len() as u64, format!("{problem} of the row{advice}")));
        file.extend_from_slice(row);
        file.push(b'\n');
    }
    let outcome = decode(json_lines(), &file);
    let expected: Vec<_> = expected.iter().map(|(row, offset, problem)| (*row, *offset, problem.as_str())).collect();
    assert_eq!(outcome.bad(), expected);
    assert_eq!(outcome.good(), vec![&b"{\"good\":true}"[..]; table.len()]);
    for (seen, (row, _)) in outcome.rows.iter().skip(1).step_by(2).zip(&table) {
        assert_eq!(seen.bytes(), row);
    }
    assert_eq!(outcome.end.unwrap().bad_rows, table.len() as u64);
    let (last, _) = decode_batches(json_lines(), [nested(127).as_bytes()]);
    assert_eq!(last[0].len(), 1, "127 levels and the row's own are within the limit");
}

#[test]
fn deep_nesting_costs_no_stack() {
    let mut options = json_lines();
    options.limits.nesting_max = usize::MAX;
    let depth = 1_000_000;
    let row = format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    let outcome = decode(options, row.as_bytes());
    assert_eq!(outcome.good().len(), 1);
    let outcome = decode(json_lines(), row.as_bytes());
    assert_eq!(outcome.bad(), [(1, 0, "nested deeper than the limit of 128 levels at byte 132 of the row")]);
}

#[test]
fn a_row_that_is_cut_in_its_last_line_is_a_bad_row() {
    let outcome = decode(json_lines(), b"{\"a\":1}\n{\"a\":");
    assert_eq!(outcome.bad(), [(2, 8, "the row ends in the middle of its JSON at byte 5 of the row")]);
}

/// JSON with mistakes now and then.
fn nearly_json() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"a\"",
        "\"\"",
        "\"\\u0041\\n\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud83d\"",
        "\"é€😀\"",
        "\"\\\"\"",
        "1",
        "-0",
        "0.10",
        "1e5",
        "1.5E-3",
        "01",
        "1.",
        "-",
        "true",
        "false",
        "null",
        "nul",
        " ",
        "\t",
        "\"",
        "\\",
        "\"\\x\"",
    ]);
    let random = prop::collection::vec(token, 0..25).prop_map(|tokens| tokens.concat());
    let leaf = prop::sample::select(vec!["1", "-0", "0.10", "1e5", "true", "null", "\"a\"", "\"\\u00e9\"", "\"é\""]);
    let valid = leaf.prop_map(str::to_owned).prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(" , "))),
            prop::collection::vec((prop::sample::select(vec!["a", "b", "\\n", ""]), inner), 0..4).prop_map(|items| {
                let items: Vec<String> =
                    items.into_iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
                format!("{{{}}}", items.join(","))
            }),
        ]
    });
    let mutated =
        (valid.clone(), any::<prop::sample::Index>(), prop::sample::select(vec!["", "}", "\"", ",", "0", "\\", "x"]))
            .prop_map(|(text, at, insert)| {
                let mut chars: Vec<char> = text.chars().collect();
                let at = at.index(chars.len());
                chars.splice(at..=at, insert.chars());
                chars.into_iter().collect()
            });
    prop_oneof![random, valid, mutated].prop_map(|value| format!("{{\"k\":{value}}}"))
}

/// Rows of a few shapes, right or not, as a file has them one after the other.
fn rows_of_few_shapes() -> impl Strategy<Value = Vec<String>> {
    let space = || prop::sample::select(vec!["", "", "", " ", "\t "]);
    let names = vec!["a", "bb", "é", "\\u0061", "\\ud83d", "a name that is longer than what is remembered"];
    let name = prop::sample::select(names);
    let values = vec![
        "1",
        "-2.5",
        "\"x\"",
        "\"a text of some length, with \\n\"",
        "true",
        "null",
        "[1, {\"a\":2}]",
        "{\"b\":[]}",
        "01",
        "\"\u{1}\"",
        "",
    ];
    let value = prop::sample::select(values);
    let shape = prop::collection::vec((space(), name, space(), space()), 0..5);
    let shapes = prop::collection::vec(shape, 1..4);
    let end = prop::sample::select(vec!["}", "}", "}", " } ", "", "}x", ",}"]);
    let picks = prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(value, 5), end), 1..12);
    (shapes, picks).prop_map(|(shapes, picks)| {
        let row = |(shape, values, end): (prop::sample::Index, Vec<&str>, &str)| {
            let shape = &shapes[shape.index(shapes.len())];
            let fields = shape.iter().zip(values);
            let fields = fields.map(|((a, name, b, c), value)| format!("{a}\"{name}\"{b}:{c}{value}"));
            format!("{{{}{end}", fields.collect::<Vec<_>>().join(","))
        };
        picks.into_iter().map(row).collect()
    })
}

/// The fields of each good row, and why the others are none.
fn found(bytes: &[u8]) -> (Vec<Vec<(String, String)>>, Vec<String>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for batch in decode_batches(json_lines(), [bytes]).0 {
        for row in batch.rows() {
            let mut fields = Vec::new();
            row.for_each_written(&mut |name, value| fields.push((name.into_owned(), format!("{value:?}"))));
            good.push(fields);
        }
        bad.extend(batch.bad().iter().map(|bad| bad.problem.clone()));
    }
    (good, bad)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn a_row_is_the_same_whatever_rows_were_before_it(rows in rows_of_few_shapes()) {
        let together = found(rows.join("\n").as_bytes());
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for row in &rows {
            let (mut one_good, mut one_bad) = found(row.as_bytes());
            good.append(&mut one_good);
            bad.append(&mut one_bad);
        }
        prop_assert_eq!(together, (good, bad));
    }

    #[test]
    fn exactly_the_objects_that_serde_json_accepts_are_rows(text in nearly_json()) {
        let oracle = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text);
        // A number that no f64 holds is well-formed JSON, and stays what it is here.
        prop_assume!(!oracle.as_ref().is_err_and(|error| error.to_string().starts_with("number out of range")));
        let outcome = decode(json_lines(), text.as_bytes());
        prop_assert_eq!(outcome.good().len(), usize::from(oracle.is_ok()), "{}: {:?} {:?}", text, oracle, outcome);
    }
}
