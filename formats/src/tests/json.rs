//! What is a JSON file of rows: an array of objects, or one object; and where it stops to be one.
//!
//! The cases are those that JSON's grammar (RFC 8259) and well-known suites of parsers ask about, each judged by the RFC.

use proptest::prelude::*;

use super::*;
use crate::FieldPath;

/// Decodes at several splits, which must not matter.
fn judged(options: &DecodeOptions, file: &[u8]) -> Outcome {
    let whole = decode(options.clone(), file);
    for size in [1, 2, 3, 7] {
        assert_eq!(decode_chunks(options.clone(), file.chunks(size)), whole, "{:?}", String::from_utf8_lossy(file));
    }
    whole
}

#[test]
fn the_elements_of_an_array_are_rows() {
    let file = b"\xef\xbb\xbf \n[ {\"a\":1} ,\r\n\t{\"a\":{\"b\":[{}]}},{}\n] \n";
    let outcome = judged(&json(), file);
    assert_eq!(outcome.good(), [&b"{\"a\":1}"[..], b"{\"a\":{\"b\":[{}]}}", b"{}"]);
    let offsets: Vec<u64> = outcome.rows.iter().map(Seen::offset).collect();
    assert_eq!(offsets, [7, 19, 36]);
    assert_eq!(outcome.end.unwrap().rows, 3);
}

#[test]
fn an_object_is_one_row() {
    let outcome = judged(&json(), b" {\"a\":[1,2],\n \"b\":{}}\n");
    assert_eq!(outcome.good(), [b"{\"a\":[1,2],\n \"b\":{}}"]);
}

#[test]
fn an_array_without_elements_is_a_file_without_rows() {
    for file in ["[]", " [ ] ", "\u{feff}[\n]\n"] {
        assert_eq!(judged(&json(), file.as_bytes()).end.unwrap().rows, 0);
    }
}

#[test]
fn a_row_over_several_lines_is_one_line_of_json() {
    let file = b"[\n  {\n    \"a\": 1.50,\r\n    \"b\": [\n      \"x y\",\n      {}\n    ]\n  }\n]";
    first_row(json(), file, |row| {
        assert_eq!(row.to_json(), "{\"a\": 1.50,\"b\": [\"x y\",{}]}");
        assert_eq!(row.get(&FieldPath::parse("b[0]").unwrap()), text("x y"));
        assert_eq!(row.get(&FieldPath::parse("a").unwrap()), Field::Number("1.50"));
    });
}

#[test]
fn what_is_no_json_ends_the_file_at_the_byte_where_it_stops_to_be_json() {
    let malformed: &[(&str, usize, u64, &str)] = &[
        // The rows before it, the byte, the problem.
        ("", 0, 0, "the file is empty; an array without elements is []"),
        (" \n", 0, 2, "the file is empty; an array without elements is []"),
        ("1", 0, 0, "a JSON file must be an array of objects or one object, not a number"),
        ("\"x\"", 0, 0, "a JSON file must be an array of objects or one object, not text"),
        (" null", 0, 1, "a JSON file must be an array of objects or one object, not a word"),
        ("not json", 0, 0, "a JSON file must be an array of objects or one object, not a word"),
        ("true", 0, 0, "a JSON file must be an array of objects or one object, not a word"),
        ("]", 0, 0, "a JSON file must be an array of objects or one object, not something else"),
        ("[{}]x", 1, 4, "expected nothing after the file's array, found 'x'"),
        ("[{}] ]", 1, 5, "expected nothing after the file's array, found ']'"),
        ("[][]", 0, 2, "expected nothing after the file's array, found '['"),
        ("[{}]\0", 1, 4, "expected nothing after the file's array, found '\\0'"),
        ("[{}],", 1, 4, "expected nothing after the file's array, found ','"),
        (
            "{\"a\":1}\n{\"a\":2}",
            1,
            8,
            "expected nothing after the file's object, found '{'; objects line by line are application/x-jsonlines",
        ),
        ("[,{}]", 0, 1, "expected a value, found ','"),
        ("[{},]", 1, 4, "expected a value, found ']'"),
        ("[{},,{}]", 1, 4, "expected a value, found ','"),
        ("[{} {}]", 1, 4, "expected ',' or ']', found '{'"),
        ("[{}}", 1, 3, "expected ',' or ']', found '}'"),
        ("[{}:{}]", 1, 3, "expected ',' or ']', found ':'"),
        ("[{\"a\":1},{\"a\" 2}]", 1, 14, "expected ':' after a field's name, found '2'"),
        ("[{\"a\":1},{a:2}]", 1, 10, "expected a field's name in quotes, found 'a'"),
        ("[{\"a\":1},{'a':2}]", 1, 10, "expected a field's name in quotes, found '\\''"),
        ("[{\"a\":01}]", 0, 6, "a number with a leading zero"),
        ("[{\"a\":-}]", 0, 7, "expected a digit after '-', found '}'"),
        ("[{\"a\":1.}]", 0, 8, "expected a digit after the decimal point, found '}'"),
        ("[{\"a\":1e}]", 0, 8, "expected a digit in the exponent, found '}'"),
        ("[{\"a\":+1}]", 0, 6, "expected a value, found '+'"),
        ("[{\"a\":.5}]", 0, 6, "expected a value, found '.'"),
        ("[{\"a\":NaN}]", 0, 6, "expected a value, found 'N'"),
        ("[{\"a\":-Infinity}]", 0, 7, "expected a digit after '-', found 'I'"),
        ("[{\"a\":0x1F}]", 0, 7, "expected ',' or '}', found 'x'"),
        ("[{\"a\":nul}]", 0, 6, "expected a value, found 'n'"),
        ("[{\"a\":True}]", 0, 6, "expected a value, found 'T'"),
        ("[{\"a\":[1,]}]", 0, 9, "expected a value, found ']'"),
        ("[{\"a\":[1 2]}]", 0, 9, "expected ',' or ']', found '2'"),
        ("[{\"a\":[1}]", 0, 8, "expected ',' or ']', found '}'"),
        ("[{\"a\":1,}]", 0, 8, "expected a field's name in quotes, found '}'"),
        ("[{\"a\":\"\t\"}]", 0, 7, "control character 0x09 in a text must be escaped"),
        ("[{\"a\":\"x\ny\"}]", 0, 8, "control character 0x0a in a text must be escaped"),
        ("[{\"a\":\"\\x\"}]", 0, 7, "unknown escape in a text"),
        ("[{\"a\":\"\\u12G4\"}]", 0, 7, "\\u needs four hexadecimal digits"),
        ("[{\"a\":\"\\u00\"}]", 0, 7, "\\u needs four hexadecimal digits"),
        ("[{\"a\":1}/* no */]", 1, 8, "expected ',' or ']', found '/'"),
        ("[// no\n{}]", 0, 1, "expected a value, found '/'"),
        ("[\u{a0}{}]", 0, 1, "expected a value, found '\\u{a0}'"),
        ("[{}]\u{feff}", 1, 4, "expected nothing after the file's array, found '\\u{feff}'"),
        ("[1.5.2]", 1, 4, "expected ',' or ']', found '.'"),
        ("[nulll]", 1, 5, "expected ',' or ']', found 'l'"),
        ("[{\"a\":\"\\ud83d\",nul}]", 0, 15, "expected a field's name in quotes, found 'n'"),
    ];
    for (file, rows, offset, problem) in malformed {
        let outcome = judged(&json(), file.as_bytes());
        assert_eq!(outcome.rows.len(), *rows, "{file}");
        let row = *rows as u64 + 1;
        assert_eq!(outcome.end, Err((Reason::MalformedFile, row, *offset, (*problem).to_owned())), "{file}");
    }
}

#[test]
fn a_file_that_ends_early_is_truncated_and_keeps_its_rows() {
    let whole = "[{\"a\":1},{\"b\":[\"\\u00e9\",-1.5e+3,true]} , {}]";
    for cut in 1..whole.len() {
        let outcome = judged(&json(), &whole.as_bytes()[..cut]);
        assert_eq!(outcome.reason(), Reason::TruncatedFile, "cut at {cut}");
        assert_eq!(outcome.rows, decode(json(), whole.as_bytes()).rows[..outcome.rows.len()]);
        assert_eq!(outcome.end.unwrap_err().2, cut as u64);
    }
    assert_eq!(judged(&json(), b"{\"a\":[").reason(), Reason::TruncatedFile);
}

#[test]
fn an_element_that_is_json_and_no_row_is_a_bad_row() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(128), "]".repeat(128));
    let wide = format!("{{{}}}", (0..5).map(|n| format!("\"f{n}\":{n}")).collect::<Vec<_>>().join(","));
    let mut options = json();
    options.limits.columns_max = 4;
    let table: &[(&[u8], &str)] = &[
        (b"1", "a row must be a JSON object, not a number at byte 0 of the row"),
        (b"-0.5e1", "a row must be a JSON object, not a number at byte 0 of the row"),
        (b"\"}\\\",{\"", "a row must be a JSON object, not text at byte 0 of the row"),
        (b"null", "a row must be a JSON object, not null at byte 0 of the row"),
        (b"false", "a row must be a JSON object, not true or false at byte 0 of the row"),
        (b"[{},{}]", "a row must be a JSON object, not an array at byte 0 of the row"),
        (b"[]", "a row must be a JSON object, not an array at byte 0 of the row"),
        (deep.as_bytes(), "nested deeper than the limit of 128 levels at byte 132 of the row"),
        (wide.as_bytes(), "there are more fields than the limit of 4 (columns_max) at byte 29 of the row"),
        (b"{\"a\":\"\\ud83d\"}", "half of a surrogate pair is no character at byte 6 of the row"),
        (b"{\"a\":\"\\ude00\\ud83d\"}", "half of a surrogate pair is no character at byte 6 of the row"),
        (
            b"{\"a\":\"\xff\"}",
            "not UTF-8 at byte 6 of the row; another charset is named in contentType (charset=latin1)",
        ),
        (b"{\"\xc3\":1}", "not UTF-8 at byte 2 of the row; another charset is named in contentType (charset=latin1)"),
        (
            b"{\"a\":\"\xed\xa0\x80\"}",
            "not UTF-8 at byte 6 of the row; another charset is named in contentType (charset=latin1)",
        ),
        (
            b"{\"a\":\"\xc0\xaf\"}",
            "not UTF-8 at byte 6 of the row; another charset is named in contentType (charset=latin1)",
        ),
    ];
    let mut file = b"[".to_vec();
    let mut expected = Vec::new();
    for (index, (row, problem)) in table.iter().enumerate() {
        file.extend_from_slice(b"{\"good\":true} ,");
        expected.push((2 * index as u64 + 2, file.len() as u64, *problem));
        file.extend_from_slice(row);
        file.push(b',');
    }
    file.extend_from_slice(b"{}]");
    let outcome = judged(&options, &file);
    assert_eq!(outcome.bad(), expected);
    assert_eq!(outcome.good().len(), table.len() + 1);
    assert_eq!(outcome.end.unwrap().bad_rows, table.len() as u64);
}

#[test]
fn an_element_over_the_limit_is_a_bad_row_if_its_end_is_certain() {
    let mut options = json();
    options.limits.row_bytes_max = 20;
    let long = "{\"a\":\"}]\\\"xxxxxxxxxxxxxxxxxxxxx\",\"b\":[{}]}";
    let outcome = judged(
        &options,
        format!("[{{\"a\":1}},{long},{{\"a\":\"0123456789ab\"}},{{\"a\":\"0123456789abc\"}},{{}}]").as_bytes(),
    );
    let problem = "the row is longer than the limit of 20 bytes (row_bytes_max)";
    assert_eq!(outcome.bad(), [(2, 9, problem), (4, 73, problem)]);
    assert_eq!(outcome.good().len(), 3);
    assert_eq!(outcome.rows[1].bytes(), long.as_bytes());
    for (file, offset, problem) in [
        (
            "[{},{\"a\":\"xxxxxxxxxxxxxxxxxxxxxxx\ny\"},{}]",
            33,
            "control character 0x0a in a text: a quote is missing in this row or before",
        ),
        ("[{},{\"a\":\"xxxxxxxxxxxxxxxxxxxxxxx\"],{}]", 34, "']' closes what is not open"),
        ("[{},{\"a\":01,\"x\":\"xxxxxxxxxxxxxxxxxxxxxxx\"],{}]", 9, "a number with a leading zero"),
    ] {
        let outcome = judged(&options, file.as_bytes());
        assert_eq!(outcome.end, Err((Reason::MalformedFile, 2, offset, problem.to_owned())), "{file}");
    }
    let outcome = judged(&options, b"[{},{\"a\":\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
    assert_eq!(outcome.reason(), Reason::TruncatedFile);
}

/// Files with mistakes now and then.
fn nearly_json() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        "[",
        "]",
        "{",
        "}",
        ",",
        ",",
        ":",
        "{}",
        "{\"a\":1}",
        "{\"a\":\"x\\u00e9\\n\"}",
        "{\"b\":[1,{}],\"c\":null}",
        "\"a\"",
        "1",
        "-0.5e1",
        "true",
        " ",
        "\n",
        "é",
        "\"",
        "\\",
    ]);
    let random = prop::collection::vec(token, 0..12).prop_map(|tokens| tokens.concat());
    let row = prop::sample::select(vec![
        "{}",
        "{\"a\":1}",
        "{\"a\":\"x]}\\\"\"}",
        "{ \"b\" : [ 1 , { } ] }",
        "{\"é\":\"é\"}",
    ]);
    let array = prop::collection::vec(row, 0..6).prop_map(|rows| format!("[{}]", rows.join(" , ")));
    let mutated =
        (array.clone(), any::<prop::sample::Index>(), prop::sample::select(vec!["", "}", "]", "\"", ",", "x", " "]))
            .prop_map(|(text, at, insert)| {
                let mut chars: Vec<char> = text.chars().collect();
                let at = at.index(chars.len());
                chars.splice(at..=at, insert.chars());
                chars.into_iter().collect()
            });
    prop_oneof![random, array, mutated]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn files_are_those_that_serde_json_accepts(text in nearly_json(), size in 1_usize..9) {
        type Object = serde_json::Map<String, serde_json::Value>;
        let objects = serde_json::from_str::<Vec<Object>>(&text)
            .or_else(|_| serde_json::from_str::<Object>(&text).map(|object| vec![object]));
        let outcome = decode_chunks(json(), text.as_bytes().chunks(size));
        let is_good = outcome.end.as_ref().is_ok_and(|stats| stats.bad_rows == 0);
        prop_assert_eq!(is_good, objects.is_ok(), "{}: {:?}", text, outcome);
        // What is JSON at all is a file, if it is a container.
        let is_json = serde_json::from_str::<serde_json::Value>(&text)
            .is_ok_and(|value| value.is_array() || value.is_object());
        prop_assert_eq!(outcome.end.is_ok(), is_json);
        if let Ok(objects) = objects {
            let rows: Vec<Object> = outcome.good().iter().map(|row| serde_json::from_slice(row).unwrap()).collect();
            prop_assert_eq!(rows, objects);
        }
        prop_assert_eq!(decode(json(), text.as_bytes()), outcome);
    }
}
