//! UTF-8 by RFC 3629 at each of its boundaries, in a value of every format. What is no UTF-8 is told at the first byte of the sequence that
//! is none; nothing is replaced.

use super::*;

/// The first and last character of each length, and those about what is left out.
const GOOD: &[char] = &[
    '\u{20}',
    '\u{7f}',
    '\u{80}',
    '\u{9f}',
    '\u{a0}',
    '\u{7ff}',
    '\u{800}',
    '\u{fff}',
    '\u{1000}',
    '\u{cfff}',
    '\u{d000}',
    '\u{d7ff}',
    '\u{e000}',
    '\u{fdd0}',
    '\u{feff}',
    '\u{fffd}',
    '\u{10000}',
    '\u{1fffe}',
    '\u{3ffff}',
    '\u{40000}',
    '\u{fffff}',
    '\u{100000}',
    '\u{10ffff}',
];

/// Characters of UTF-8 that XML cannot hold.
const NO_XML: &[char] = &['\u{fffe}', '\u{ffff}'];

const NO_UTF8: &[&[u8]] = &[
    // A byte that continues nothing, also as the first one and the last one there can be.
    b"\x80",
    b"\xbf",
    b"\xbf\x80",
    // A sequence that ends too early, before another character and before the value's end.
    b"\xc2",
    b"\xdf ",
    b"\xe0\xa0",
    b"\xe2\x82a",
    b"\xef\xbf",
    b"\xf0\x90\x80",
    b"\xf0\x9f\x98a",
    b"\xf4\x8f\xbf",
    b"\xe2\x82\xe2\x82\xac",
    b"\xf0\x9f\xf0\x9f\x98\x80",
    // Longer than it need be.
    b"\xc0\x80",
    b"\xc0\xaf",
    b"\xc1\xbf",
    b"\xe0\x80\xaf",
    b"\xe0\x9f\xbf",
    b"\xf0\x80\x80\xaf",
    b"\xf0\x8f\xbf\xbf",
    b"\xf8\x88\x80\x80\x80",
    b"\xfc\x83\xbf\xbf\xbf\xbf",
    // Halves of pairs of UTF-16, alone and as a pair.
    b"\xed\xa0\x80",
    b"\xed\xaf\xbf",
    b"\xed\xb0\x80",
    b"\xed\xbf\xbf",
    b"\xed\xa0\xbd\xed\xb8\x80",
    // Beyond the last character, and bytes that are in no UTF-8.
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
    b"\xf7\xbf\xbf\xbf",
    b"\xfe",
    b"\xff",
    b"\xfe\xff",
    b"\xe9",
];

/// In front of the sequence: lengths at which a vector, a word or a register ends within it or behind it.
const FRONT: [&str; 3] = ["", "\u{e9}\u{20ac}", "0123456789abcde"];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for front in FRONT {
        for &character in GOOD.iter().chain(NO_XML) {
            let value = format!("{front}{character}");
            let row = format!("{{\"a\":{}}}", serde_json::to_string(&value).unwrap());
            cases.push(case(json_lines(), format!("{{\"a\":\"{value}\"}}\n")).row(row.clone()));
            cases.push(case(json(), format!("[{{\"a\":\"{value}\"}}]")).row(row.clone()));
            // At the file's begin the mark would be none of its characters.
            let columns = case(csv_of(&["a"]), format!("x\n{value}\n\"{value}\"\n"));
            cases.push(columns.row("{\"a\":\"x\"}").row(row.clone()).row(row.clone()));
            let (document, line) = (format!("<r><i><a>{value}</a></i></r>"), format!("<i><a>{value}</a></i>\n"));
            if NO_XML.contains(&character) {
                cases.push(case(xml(), document).malformed(9 + front.len()));
                cases.push(case(xml_lines(), line).bad(0, format!("is no character at byte {}", 6 + front.len())));
            } else {
                cases.push(case(xml(), document).row(row.clone()));
                cases.push(case(xml_lines(), line).row(row));
            }
        }
        for sequence in NO_UTF8 {
            let around =
                |begin: &str, end: &str| [begin.as_bytes(), front.as_bytes(), sequence, end.as_bytes()].concat();
            let at = |begin: usize| format!("not UTF-8 at byte {} of the row", begin + front.len());
            cases.push(case(json_lines(), around("{\"a\":\"", "\"}\n{}\n")).bad(0, at(6)).row("{}"));
            cases.push(case(json(), around("[{\"a\":\"", "\"},{}]")).bad(1, at(6)).row("{}"));
            for (quote, at) in [("", at(0)), ("\"", at(1))] {
                let columns = case(csv_of(&["a"]), around(&format!("x\n{quote}"), &format!("{quote}\n1\n")));
                cases.push(columns.row("{\"a\":\"x\"}").bad(2, at).row("{\"a\":\"1\"}"));
            }
            cases.push(case(xml(), around("<r><i/><i><a>", "</a></i></r>")).row("{}").malformed(13 + front.len()));
            let told = format!("no character of the file's charset at byte {} of the row", 6 + front.len());
            cases.push(case(xml_lines(), around("<i><a>", "</a></i>\n<i/>\n")).bad(0, told).row("{}"));
        }
    }
    cases
}

#[test]
fn text_is_what_rfc_3629_says_wherever_it_is_cut() {
    judge(&cases());
}
