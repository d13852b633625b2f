//! JSON by RFC 8259, as values of a row: in a file of JSON, where what is no JSON ends the file, and in JSON Lines, where it costs
//! its line. The classes are those of JSONTestSuite: what every parser takes (`y_`), none (`n_`), and what is left to them (`i_`).

use serde::de::IgnoredAny;

use super::*;
use crate::FieldPath;

/// What a value is. Places are counted from where it begins.
#[derive(Debug, Clone, Copy)]
enum Value {
    /// Kept as it is written.
    Is,
    /// A text; this one.
    Text(&'static str),
    /// JSON; but from this byte on there is something that no row can hold.
    Unusable(usize),
    /// It stops to be JSON at this byte.
    No(usize),
    /// It stops to be JSON at the first byte; a line is told for the second one.
    NoTold(usize, usize),
    /// The text that begins at this byte never ends.
    Open(usize),
}

use Value::{Is, No, NoTold, Open, Text, Unusable};

const VALUES: &[(&[u8], Value)] = &[
    // Section 6, numbers. They are kept as text: none is too large, too small or too long.
    (b"0", Is),
    (b"-0", Is),
    (b"-1", Is),
    (b"123", Is),
    (b"0.5", Is),
    (b"-0.0", Is),
    (b"123.456789", Is),
    (b"0e1", Is),
    (b"0e+1", Is),
    (b"-0E-0", Is),
    (b"20e1", Is),
    (b"1E22", Is),
    (b"1e-2", Is),
    (b"1E+2", Is),
    (b"123.456e78", Is),
    (b"-0.000000000000000000000000000000000000000000000000000000000000000000000000000001", Is),
    (b"100000000000000000000000000000000000000000000000000000000000000000000000000000000", Is),
    (b"-237462374673276894279832749832423479823246327846", Is),
    (b"9007199254740993", Is),
    (b"1e9999", Is),
    (b"-1e+9999", Is),
    (b"123e-10000000", Is),
    (b"0.4e00669999999999999999999999999999999999999999999999999999999999", Is),
    (b" 1", Is),
    (b"1 ", Is),
    (b"+1", No(0)),
    (b"++1234", No(0)),
    (b"-", No(1)),
    (b"- 1", No(1)),
    (b"--1", No(1)),
    (b"-foo", No(1)),
    (b"-1x", No(2)),
    (b"00", No(0)),
    (b"012", No(0)),
    (b"-01", No(1)),
    (b"-012", No(1)),
    (b".2e-3", No(0)),
    (b"-.123", No(1)),
    (b".-1", No(0)),
    (b"1.", No(2)),
    (b"-2.", No(3)),
    (b"-1.0.", No(4)),
    (b"0.1.2", No(3)),
    (b"0.e1", No(2)),
    (b"2.e+3", No(2)),
    (b"9.e+", No(2)),
    (b"1.2a-3", No(3)),
    (b"0e", No(2)),
    (b"0E+", No(3)),
    (b"0.3e", No(4)),
    (b"1.0e-", No(5)),
    (b"1eE2", No(2)),
    (b"1ea", No(2)),
    (b"0e+-1", No(3)),
    (b"1e2.3", No(3)),
    (b"1 000.0", No(2)),
    (b"1_000", No(1)),
    (b"1,000", No(2)),
    (b"1+2", No(1)),
    (b"0x1", No(1)),
    (b"0b1", No(1)),
    (b"1f", No(1)),
    (b"1L", No(1)),
    (b"Inf", No(0)),
    (b"Infinity", No(0)),
    (b"-Infinity", No(1)),
    (b"NaN", No(0)),
    (b"-NaN", No(1)),
    ("\u{ff11}".as_bytes(), No(0)),
    ("1\u{663}".as_bytes(), No(1)),
    (b"0\xe5", No(1)),
    (b"123\xe5", No(3)),
    (b"1e1\xe5", No(3)),
    (b"1e\xe5", No(2)),
    (b"1.8011670033376514H-308", No(18)),
    // Section 3, literals.
    (b"true", Is),
    (b"false", Is),
    (b"null", Is),
    (b"tru", No(0)),
    (b"fals", No(0)),
    (b"nul", No(0)),
    (b"nulll", No(4)),
    (b"truefalse", No(4)),
    (b"True", No(0)),
    (b"FALSE", No(0)),
    (b"None", No(0)),
    (b"undefined", No(0)),
    ("\u{ff4e}ull".as_bytes(), No(0)),
    (b"", No(0)),
    (b"<null>", No(0)),
    // Section 7, texts and their escapes.
    (b"\"\"", Text("")),
    (b"\" \"", Text(" ")),
    (b"\"asd \"", Text("asd ")),
    (b"\"a/*b*/c//d#e\"", Text("a/*b*/c//d#e")),
    (b"\"[{,:}]\"", Text("[{,:}]")),
    (b"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", Text("\"\\/\u{8}\u{c}\n\r\t")),
    (b"\"\\u0060\\u012a\\u12AB\\uaBcD\"", Text("\u{60}\u{12a}\u{12ab}\u{abcd}")),
    (b"\"\\u0000\"", Text("\0")),
    (b"\"\\u001f\\u007F\"", Text("\u{1f}\u{7f}")),
    (b"\"\\u0022\\u005C\"", Text("\"\\")),
    (b"\"\\\\u0000\"", Text("\\u0000")),
    (b"\"\\\\a\"", Text("\\a")),
    (b"\"\\\\\\\"\"", Text("\\\"")),
    (b"\"\\u0061\\u30af\\u30EA\\u30b9\"", Text("a\u{30af}\u{30ea}\u{30b9}")),
    (b"\"new\\u000Aline\\u00a0\"", Text("new\nline\u{a0}")),
    (b"\"\\u2028\\u2029\\u200B\\u2064\"", Text("\u{2028}\u{2029}\u{200b}\u{2064}")),
    (b"\"\\uFDD0\\uFFFE\\uFFFF\"", Text("\u{fdd0}\u{fffe}\u{ffff}")),
    (b"\"\\uD834\\uDd1e\"", Text("\u{1d11e}")),
    (b"\"\\ud800\\udc00\\uDBFF\\uDFFF\"", Text("\u{10000}\u{10ffff}")),
    (b"\"\\uD83F\\uDFFE\\uDBFF\\uDFFE\"", Text("\u{1fffe}\u{10fffe}")),
    (b"\"\\ud83d\\ude39\\ud83d\\udc8d\"", Text("\u{1f639}\u{1f48d}")),
    ("\"\u{7f}\u{80}\u{85}\u{a0}\"".as_bytes(), Text("\u{7f}\u{80}\u{85}\u{a0}")),
    ("\"\u{2028}\u{2029}\u{feff}\"".as_bytes(), Text("\u{2028}\u{2029}\u{feff}")),
    ("\"\u{3c0}\u{20ac}\u{1f600}\"".as_bytes(), Text("\u{3c0}\u{20ac}\u{1f600}")),
    (b"\"\x00\"", No(1)),
    (b"\"a\x00a\"", No(2)),
    (b"\"\x09\"", No(1)),
    (b"\"a\x1f\"", No(2)),
    (b"\"a\rb\"", No(2)),
    (b"\"\\x00\"", No(1)),
    (b"\"\\a\"", No(1)),
    (b"\"\\0\"", No(1)),
    (b"\"\\'\"", No(1)),
    (b"\"\\\x09\"", No(1)),
    (b"\"\\\x00\"", No(1)),
    (b"\"\\U00A3\"", No(1)),
    (b"\"\\uqqqq\"", No(1)),
    (b"\"\\u00A\"", No(1)),
    (b"\"\\u\"", No(1)),
    (b"\"\\u+041\"", No(1)),
    (b"\"\\u 041\"", No(1)),
    ("\"\\u\u{ff10}041\"".as_bytes(), No(1)),
    ("\"\\\u{1f300}\"".as_bytes(), No(1)),
    (b"\"\\\xe5\"", NoTold(1, 2)),
    (b"\"\\u\xe5\"", NoTold(1, 3)),
    (b"\"a\"b", No(3)),
    (b"\"a\"\"b\"", No(3)),
    (b"'a'", No(0)),
    (b"\\u0022a\"", No(0)),
    (b"a", No(0)),
    ("\u{e9}".as_bytes(), No(0)),
    ("\u{201c}a\u{201d}".as_bytes(), No(0)),
    (b"\"", Open(0)),
    (b"\"asd", Open(0)),
    (b"\"\\\"", Open(0)),
    (b"\"\\\\\\\"", Open(0)),
    (b"[\"a]", Open(1)),
    // Section 8.2: half of a surrogate pair is allowed by the grammar, and no character.
    (b"\"\\uD800\"", Unusable(1)),
    (b"\"\\uDFAA\"", Unusable(1)),
    (b"\"\\uDBFFx\"", Unusable(1)),
    (b"\"\\uD800\\n\"", Unusable(1)),
    (b"\"\\uD888\\u1234\"", Unusable(1)),
    (b"\"\\uD800\\uD800\"", Unusable(1)),
    (b"\"\\uDd1e\\uD834\"", Unusable(1)),
    (b"\"\\uD834\\\\uDd1e\"", Unusable(1)),
    (b"\"\\uD83D\\uDE00\\uDE00\"", Unusable(13)),
    (b"\"\\ud83d\xf0\x9f\x98\x80\"", Unusable(1)),
    (b"{\"\\uDFAA\":0}", Unusable(2)),
    (b"\"\\uD800\\u\"", NoTold(7, 1)),
    (b"\"\\uD800\\u1\"", NoTold(7, 1)),
    (b"\"\\uD800\\u1x\"", NoTold(7, 1)),
    (b"\"\\uD800\\uD80\"", NoTold(7, 1)),
    (b"\"\\uD800\\x\"", NoTold(7, 1)),
    // Section 5, arrays.
    (b"[]", Is),
    (b"[ \t\r]", Is),
    (b"[[]   ]", Is),
    (b"[\"\"]", Is),
    (b"[null, 1, \"1\", {}]", Is),
    (b"[1,null,null,null,2]", Is),
    (b" [1]", Is),
    (b"[2] ", Is),
    (b"[,]", No(1)),
    (b"[,1]", No(1)),
    (b"[1,]", No(3)),
    (b"[1,,]", No(3)),
    (b"[1,,2]", No(3)),
    (b"[\"x\",,]", No(5)),
    (b"[   , \"\"]", No(4)),
    (b"[\"\",]", No(4)),
    (b"[1 true]", No(3)),
    (b"[\"a\" \"b\"]", No(5)),
    (b"[1;2]", No(2)),
    (b"[1:2]", No(2)),
    (b"[\"\": 1]", No(3)),
    (b"[3[4]]", No(2)),
    (b"[1]]", No(3)),
    (b"[\"x\"", No(4)),
    (b"[1,", No(3)),
    (b"[x", No(1)),
    (b"[-]", No(2)),
    (b"[*]", No(1)),
    (b"[\x0b1]", No(1)),
    (b"[\x0c]", No(1)),
    ("[\u{a0}1]".as_bytes(), No(1)),
    ("[\u{2060}]".as_bytes(), No(1)),
    ("[\u{feff}]".as_bytes(), No(1)),
    ("[\u{2028}1]".as_bytes(), No(1)),
    (b"[\x00]", No(1)),
    (b"[\xff]", No(1)),
    (b"[a\xe5]", NoTold(1, 2)),
    (b"[1/**/]", No(2)),
    (b"[#\r1]", No(1)),
    (b"[<null>]", No(1)),
    (b"[1}", No(2)),
    (b"]", No(0)),
    (b"[][]", No(2)),
    // Section 4, objects. A name may stand there twice: the first one is read.
    (b"{}", Is),
    (b"{\"a\":\"b\"}", Is),
    (b"{\"a\":\"b\",\"a\":\"c\"}", Is),
    (b"{\"\":0}", Is),
    (b"{\"foo\\u0000bar\": 42}", Is),
    (b"{ \"min\" : -1.0e+28 , \"max\" : 1.0e+28 }", Is),
    (b"{\"a\":[], \"b\":{\"c\":[{}]}}", Is),
    (b"{,}", No(1)),
    (b"{\"a\":\"b\",}", No(9)),
    (b"{\"a\":\"b\",,\"c\":\"d\"}", No(9)),
    (b"{\"a\":0,,,}", No(7)),
    (b"{\"a\"}", No(4)),
    (b"{\"a\":}", No(5)),
    (b"{\"a\" \"b\"}", No(5)),
    (b"{\"a\" b}", No(5)),
    (b"{\"a\",1}", No(4)),
    (b"{\"a\"=1}", No(4)),
    (b"{\"a\"::\"b\"}", No(5)),
    (b"{:\"b\"}", No(1)),
    (b"{a:\"b\"}", No(1)),
    (b"{'a':0}", No(1)),
    (b"{1:1}", No(1)),
    (b"{9999E9999:1}", No(1)),
    (b"{null:null}", No(1)),
    (b"{[: \"x\"}", No(1)),
    (b"{{\"a\":1}:2}", No(1)),
    (b"{\"a\":\"a\" 123}", No(9)),
    (b"{\"a\":true} \"x\"", No(11)),
    (b"{\"a\":\"b\"}#", No(9)),
    (b"{\"a\":/*comment*/\"b\"}", No(5)),
    (b"{\"a\":\"b\"}/**/", No(9)),
    (b"{\"a\":\"b\"}//", No(9)),
    ("{\u{1f1e8}\u{1f1ed}}".as_bytes(), No(1)),
    (b"{\"\xb9\":\"0\",}", NoTold(9, 2)),
    (b"{]", No(1)),
    // Section 8.1: bytes that are no UTF-8 in a text cost the row.
    (b"\"\xe9\"", Unusable(1)),
    (b"\"abc\xff\"", Unusable(4)),
    (b"{\"\xff\":0}", Unusable(2)),
    (b"[\"\xe6\x97\xa5\xd1\x88\xfa\"]", Unusable(7)),
];

/// What is around a value, and where that row begins.
const IN_FILE: (&[u8], &[u8], usize) = (b"[{\"v\":", b"}]", 1);
const IN_LINE: (&[u8], &[u8], usize) = (b"{\"v\":", b"}\n{}", 0);

fn around(value: &[u8], (before, behind, _): (&[u8], &[u8], usize)) -> Vec<u8> {
    [before, value, behind].concat()
}

fn in_file(value: &[u8], kind: Value) -> Case {
    let (before, _, row) = IN_FILE;
    let file = case(json(), around(value, IN_FILE));
    let end = file.file.len();
    match kind {
        Is | Text(_) => file.row(format!("{{\"v\":{}}}", String::from_utf8_lossy(value).replace('\r', ""))),
        Unusable(at) => file.bad(row, format!("at byte {} of the row", before.len() - row + at)),
        No(at) | NoTold(at, _) => file.malformed(before.len() + at),
        Open(_) => file.truncated(end),
    }
}

fn in_line(value: &[u8], kind: Value) -> Case {
    let (before, _, row) = IN_LINE;
    let file = case(json_lines(), around(value, IN_LINE));
    let told = |at: usize| format!("at byte {} of the row", before.len() + at);
    let file = match kind {
        Is | Text(_) => file.row(format!("{{\"v\":{}}}", String::from_utf8_lossy(value).replace('\r', ""))),
        Unusable(at) | No(at) | NoTold(_, at) => file.bad(row, told(at)),
        Open(at) => file.bad(row, format!("a text without its closing quote begins {}", told(at))),
    };
    file.row("{}")
}

/// Files as a whole: section 2, what is around the values, and section 8.1, encodings.
fn files() -> Vec<Case> {
    let refused = |file: &[u8], at: usize| case(json(), file).malformed(at);
    let one = |file: &[u8]| case(json(), file).row("{}");
    let utf32 = |text: &str| text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect::<Vec<u8>>();
    vec![
        one(b"[{}]"),
        one(b"\r\n\t [ {} ] \r\n\t "),
        one(b"\xef\xbb\xbf[{}]"),
        one(b"{}"),
        one(b" {} "),
        case(json(), b"[]"),
        case(json(), b"[\r]"),
        case(json(), b"[{\"a\":\r\n1}]").row("{\"a\":1}"),
        // Values that are JSON and no rows: the file goes on. Alone, they are no file of rows.
        case(json(), b"[{},1,{}]").row("{}").bad(4, "not a number").row("{}"),
        case(json(), b"[true,\"a\",null,[{}]]")
            .bad(1, "not true or false")
            .bad(6, "not text")
            .bad(10, "not null")
            .bad(15, "not an array"),
        case(json(), b"[123,-0.5e+1 , 1E400\t]").bad(1, "not a number").bad(5, "not a number").bad(15, "not a number"),
        refused(b"42", 0),
        refused(b"-0.1", 0),
        refused(b"\"asd\"", 0),
        refused(b"null", 0),
        refused(b"false", 0),
        refused(b"\"\"", 0),
        // Nothing, and what is none.
        refused(b"", 0),
        refused(b" ", 1),
        refused(b"\xef\xbb\xbf", 3),
        refused(b"\xef\xbb[]", 0),
        refused(b"\xef", 0),
        refused(b"\xef\xbb\xbf\xef\xbb\xbf[]", 3),
        refused(b"*", 0),
        refused(b"<.>", 0),
        refused("å".as_bytes(), 0),
        refused(b"\xe5", 0),
        refused(b"\\u000A\"\"", 0),
        refused("\u{2060}[]".as_bytes(), 0),
        refused(b"\x0c[]", 0),
        refused(b"\x1e{}", 0),
        refused(b"\x00", 0),
        refused(b"]", 0),
        refused(b"}", 0),
        refused(b":", 0),
        // Something behind it.
        refused(b"[]]", 2),
        refused(b"[],", 2),
        refused(b"[][]", 2),
        refused(b"[]{}", 2),
        refused(b"[]x", 2),
        refused(b"[]\x00", 2),
        refused(b"[]\x1a", 2),
        refused("[]\u{2028}".as_bytes(), 2),
        one(b"{}}").malformed(2),
        one(b"{}{}").malformed(2),
        one(b"{}\n{}").malformed(3),
        one(b"{}//").malformed(2),
        one(b"[{}]#").malformed(4),
        one(b"[{}}").malformed(3),
        one(b"[{},").truncated(4),
        one(b"[{},]").malformed(4),
        one(b"[{};{}]").malformed(3),
        one("[{}\u{a0},{}]".as_bytes()).malformed(3),
        one(b"[{}\xff,{}]").malformed(3),
        one(b"[{}\xe2\x82").malformed(3),
        // Whatever closes a row too early is told behind it.
        case(json(), b"[{\"v\":1}},{}]").row("{\"v\":1}").malformed(8),
        // The end, too early.
        case(json(), b"[").truncated(1),
        case(json(), b"[ \n").truncated(3),
        case(json(), b"{").truncated(1),
        case(json(), b"{\"a\"").truncated(4),
        case(json(), b"{\"a\":").truncated(5),
        case(json(), b"{\"a\":\"b").truncated(7),
        case(json(), b"[\"a").truncated(3),
        case(json(), b"[1").truncated(2),
        case(json(), b"[-").truncated(2),
        case(json(), b"[1e+").truncated(4),
        case(json(), b"[tru").truncated(4),
        case(json(), b"[[[[").truncated(4),
        case(json(), b"[{\"a\":\"\xe2\x82").truncated(9),
        case(json(), b"[\"\\u12").truncated(6),
        // A line break in a text, which JSON Lines cannot even have.
        refused(b"[{\"a\":\"x\ny\"}]", 8),
        refused(b"[\"\n\"]", 2),
        // Encodings: UTF-16 is known by its mark, or by the zeros about a first character.
        case(json(), utf16("\u{feff}[{\"a\":\"\u{20ac}\u{1f600}\"}]", u16::to_le_bytes))
            .row("{\"a\":\"\u{20ac}\u{1f600}\"}"),
        case(json(), utf16("\u{feff}[{\"a\":1},x]", u16::to_be_bytes)).row("{\"a\":1}").malformed(20),
        case(json(), utf16("[{\"a\":1},x]", u16::to_le_bytes)).row("{\"a\":1}").malformed(18),
        case(json(), utf16("[{}]", u16::to_be_bytes)).row("{}"),
        case(json(), [utf16("[{}]", u16::to_le_bytes), vec![0x0a]].concat()).row("{}").malformed(8),
        case(json(), b"[\0{\0\"\0a\0\"\0:\0\"\0\x00\xd8\"\0}\0]\0".as_slice())
            .bad(2, "no character of UTF-16LE at byte 6"),
        case(json(), utf32("[{}]")).malformed(2),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    let values = VALUES.iter().flat_map(|(value, kind)| [in_file(value, *kind), in_line(value, *kind)]);
    values.chain(files()).collect()
}

#[test]
fn json_is_what_rfc_8259_says_wherever_it_is_cut() {
    judge(&cases());
}

#[test]
fn the_same_values_are_json_to_serde_json() {
    for (value, kind) in VALUES {
        let is_json = serde_json::from_slice::<IgnoredAny>(value).is_ok();
        let expected = matches!(kind, Is | Text(_) | Unusable(_));
        assert_eq!(is_json, expected, "{:?}", String::from_utf8_lossy(value));
    }
}

#[test]
fn texts_are_what_their_escapes_say() {
    for (value, kind) in VALUES {
        let Text(expected) = kind else { continue };
        for (options, place) in [(json(), IN_FILE), (json_lines(), IN_LINE)] {
            first_row(options, &around(value, place), |row| {
                assert_eq!(row.get(&FieldPath::name("v")), text(expected), "{:?}", String::from_utf8_lossy(value));
            });
        }
    }
}

#[test]
fn of_names_that_stand_twice_the_first_is_read() {
    for file in [&b"[{\"a\":1,\"a\":2,\"\\u0061\":3}]"[..], b"{\"\\u0061\":1,\"a\":2}"] {
        first_row(json(), file, |row| {
            assert_eq!(row.get(&FieldPath::name("a")), Field::Number("1"));
            let mut names = Vec::new();
            row.for_each(&mut |name, _| names.push(name.into_owned()));
            assert_eq!(names, ["a"]);
        });
    }
}

/// A number is looked at once, however many pieces it comes in: else a file of a few kilobytes would take minutes.
#[test]
fn a_long_number_may_come_byte_by_byte() {
    let digits = vec![b'7'; 1 << 18];
    let file = [b"[", &digits[..], b",", &digits[..], b"x]"].concat();
    let (batches, end) = decode_batches(json(), file.chunks(1));
    let bad: Vec<u64> = batches.iter().flat_map(RowBatch::bad).map(|bad| bad.offset).collect();
    assert_eq!(bad, [1, digits.len() as u64 + 2]);
    let error = end.unwrap_err();
    assert_eq!((error.reason, error.offset), (Reason::MalformedFile, 2 * digits.len() as u64 + 2));
}
