//! CSV by RFC 4180, section 2, rule by rule, and what it leaves open: as `docs/wire.md` says. An empty field without quotes is null.

use super::*;

/// With a header row.
fn headed(file: impl AsRef<[u8]>) -> Case {
    case(csv(), file)
}

/// Of two columns, without a header row.
fn bare(file: impl AsRef<[u8]>) -> Case {
    case(csv_of(&["a", "b"]), file)
}

/// Of one column, without a header row.
fn single(file: impl AsRef<[u8]>) -> Case {
    case(csv_of(&["a"]), file)
}

fn delimited(delimiter: u8, file: impl AsRef<[u8]>) -> Case {
    case(DecodeOptions::new(Source::Csv { columns: None, delimiter }), file)
}

fn charset(mut case: Case, label: &str) -> Case {
    case.options.charset = Some(crate::Charset::from_label(label).unwrap());
    case
}

/// A row of the fields `a` and `b`.
fn ab(a: &str, b: &str) -> String {
    let json = |value: &str| serde_json::to_string(value).unwrap();
    format!("{{\"a\":{},\"b\":{}}}", json(a), json(b))
}

/// A row of the field `a`.
fn a(a: &str) -> String {
    format!("{{\"a\":{}}}", serde_json::to_string(a).unwrap())
}

const STRAY: &str = "text after a closing quote";
const NULL: &str = r#"{"a":null}"#;
const NULLS: &str = r#"{"a":null,"b":null}"#;

/// Rules 1 to 4: records, their ends, the header, and as many fields in each.
fn records() -> Vec<Case> {
    vec![
        headed("a,b\r\n1,2\r\n3,4\r\n").row(ab("1", "2")).row(ab("3", "4")),
        headed("a,b\r\n1,2\r\n3,4").row(ab("1", "2")).row(ab("3", "4")),
        headed("a,b\n1,2\n3,4\n").row(ab("1", "2")).row(ab("3", "4")),
        headed("a,b\r\n1,2\n3,4\r").row(ab("1", "2")).row(ab("3", "4")),
        headed("a,b\n1,2\n\r\n\n3,4\n\n").row(ab("1", "2")).row(ab("3", "4")),
        headed("\n\r\na,b\n1,2").row(ab("1", "2")),
        headed("a,b"),
        headed("a,b\r"),
        headed("a,b\r\n"),
        headed("a,b\n\n\n"),
        bare(""),
        bare("\n\r\n"),
        bare("1,2").row(ab("1", "2")),
        bare("1,2\r\r\n").row(ab("1", "2\r")),
        bare("\r\n1,2\r\n").row(ab("1", "2")),
        // A return alone is text.
        bare("1,2\n\r3,4\n").row(ab("1", "2")).row(ab("\r3", "4")),
        bare("1\r,\r2\n").row(ab("1\r", "\r2")),
        bare("1,2\r3,4\r").bad(0, "there are 3 fields where the file has 2 columns"),
        // And so is what other standards take for an end.
        bare("1\u{2028},2\u{85}\n").row(ab("1\u{2028}", "2\u{85}")),
        bare("1\u{b},2\u{c}\n").row(ab("1\u{b}", "2\u{c}")),
        bare("1\u{1e},\u{1f}2\n").row(ab("1\u{1e}", "\u{1f}2")),
        // Spaces are part of a field.
        bare(" 1 , 2\n").row(ab(" 1 ", " 2")),
        bare("\t1,2\t\n").row(ab("\t1", "2\t")),
        bare(" , \n").row(ab(" ", " ")),
        headed(" a , b \n1,2\n").row(r#"{" a ":"1"," b ":"2"}"#),
        // Ragged records, and a comma at the end.
        bare("1\n2,3\n").bad(0, "there is 1 field where the file has 2 columns").row(ab("2", "3")),
        bare("1,2,\n3,4\n").bad(0, "there are 3 fields").row(ab("3", "4")),
        bare("1,2,3\n4,5\n").bad(0, "there are 3 fields").row(ab("4", "5")),
        bare(" \n1,2\n").bad(0, "there is 1 field").row(ab("1", "2")),
        bare("1,2\n3").row(ab("1", "2")).bad(4, "there is 1 field"),
        bare("\"1\",\"2\",\"3\"\r\n4,5").bad(0, "there are 3 fields").row(ab("4", "5")),
        headed("a,b\n1\n2,3\n").bad(4, "there is 1 field").row(ab("2", "3")),
        // Nothing is a comment, an escape, a setting or an end of the file.
        bare("#1,2\n").row(ab("#1", "2")),
        bare("# comment\n1,2\n").bad(0, "there is 1 field").row(ab("1", "2")),
        bare("1\\,2\n").row(ab("1\\", "2")),
        bare("1,\\n\n").row(ab("1", "\\n")),
        bare("1,\\N\n").row(ab("1", "\\N")),
        bare("1,NULL\n").row(ab("1", "NULL")),
        bare("1,=1+1\n").row(ab("1", "=1+1")),
        bare("1,2\n\x1a").row(ab("1", "2")).bad(4, "there is 1 field"),
        bare("1\0,\0\n").row(ab("1\0", "\0")),
        bare("1,'2,3'\n").bad(0, "there are 3 fields"),
        headed("sep=;\n1\n").row(r#"{"sep=;":"1"}"#),
        // One column: a blank line is a null, and has no other form.
        single("1\n\n2\n").row(a("1")).row(NULL).row(a("2")),
        single("\n").row(NULL),
        single("\r\n\r\n").row(NULL).row(NULL),
        single("\"\"\n \n").row(a("")).row(a(" ")),
        single(",\n1\n").bad(0, "there are 2 fields where the file has 1 columns").row(a("1")),
        headed("a\n\n1").row(NULL).row(a("1")),
        // Empty fields.
        bare(",\n").row(NULLS),
        bare(",").row(NULLS),
        bare("\"\",\n").row(r#"{"a":"","b":null}"#),
        bare(",\"\"").row(r#"{"a":null,"b":""}"#),
        bare("\"\",\"\"\r\n").row(ab("", "")),
        bare("1,\r\n").row(r#"{"a":"1","b":null}"#),
        bare("1,\r").row(r#"{"a":"1","b":null}"#),
        bare("\r\n,\r\n").row(NULLS),
    ]
}

/// Rules 5 to 7: quotes.
fn quotes() -> Vec<Case> {
    vec![
        bare("\"1\",\"2\"\r\n").row(ab("1", "2")),
        bare("1,\"2\"").row(ab("1", "2")),
        bare("\"1\",2\r").row(ab("1", "2")),
        bare("\" 1 \",\"\t\"\n").row(ab(" 1 ", "\t")),
        bare("\"1,2\",\",\"\n").row(ab("1,2", ",")),
        bare("1,\",3,\"\n").row(ab("1", ",3,")),
        bare("\"1,2\",\"3;4\"\n").row(ab("1,2", "3;4")),
        // Breaks of all kinds are text as they are.
        bare("\"1\n2\",3\n").row(ab("1\n2", "3")),
        bare("\"1\r\n2\",3\r\n").row(ab("1\r\n2", "3")),
        bare("\"1\r2\",3\n").row(ab("1\r2", "3")),
        bare("\"\n\",\"\r\n\"\n").row(ab("\n", "\r\n")),
        bare("\"\r\",\"\n\r\"\n").row(ab("\r", "\n\r")),
        bare("\"1\r\r\",\"\n\n\"\r\n").row(ab("1\r\r", "\n\n")),
        bare("1,\"2\n\"\n3,\"\n4\"\n").row(ab("1", "2\n")).row(ab("3", "\n4")),
        bare("1,\"2\r\"\r\n3,4").row(ab("1", "2\r")).row(ab("3", "4")),
        headed("\"a\",\"b\"\n1,2\n").row(ab("1", "2")),
        headed("\"a\nb\",\"c,\"\"d\"\"\"\n1,2\n").row(r#"{"a\nb":"1","c,\"d\"":"2"}"#),
        // Two are one.
        single("\"\"\"\"\n").row(a("\"")),
        single("\"\"\"\"\"\"\n").row(a("\"\"")),
        single("\"\"\"a\"\n").row(a("\"a")),
        single("\"a\"\"\"\n").row(a("a\"")),
        single("\"a\"\"b\"\n").row(a("a\"b")),
        single("\"say \"\"hi\"\", ok\"\n").row(a("say \"hi\", ok")),
        single("\"\"\"\n\"\"\"\n").row(a("\"\n\"")),
        single("\"{\"\"type\"\": \"\"Point\"\", \"\"at\"\": [102.0, 0.5]}\"\n")
            .row(a("{\"type\": \"Point\", \"at\": [102.0, 0.5]}")),
        bare("\"\"\"\",\"\"\"\"\"\"\n").row(ab("\"", "\"\"")),
        bare("1,\"\"\"I see,\"\"\r\nsaid he\"\n3,4").row(ab("1", "\"I see,\"\r\nsaid he")).row(ab("3", "4")),
        // In a field that does not begin with one a quote is text.
        bare("1\",\"2\"\n").row(ab("1\"", "2")),
        bare("a\"b,c\"\"d\n").row(ab("a\"b", "c\"\"d")),
        bare("5\" disk,6'2\"\n").row(ab("5\" disk", "6'2\"")),
        bare(" \"1\", \"2\"\n").row(ab(" \"1\"", " \"2\"")),
        bare("a\"b\nc\",2\n").bad(0, "there is 1 field").row(ab("c\"", "2")),
        bare(" \"1,2\"\n").row(ab(" \"1", "2\"")),
        // Behind a closing quote only a delimiter or the end may stand: the row is bad, and ends outside of quotes.
        bare("\"1\" ,2\n3,4\n").bad(0, format!("{STRAY} at byte 3 of the row")).row(ab("3", "4")),
        bare("\"1\"2,3\n4,5\n").bad(0, format!("{STRAY} at byte 3 of the row")).row(ab("4", "5")),
        bare("1,\"2\"3\"\n4,5\n").bad(0, format!("{STRAY} at byte 5 of the row")).row(ab("4", "5")),
        bare("\"\"1,2\n3,4\n").bad(0, format!("{STRAY} at byte 2 of the row")).row(ab("3", "4")),
        bare("1,\"a\\\"b\"\n3,4\n").bad(0, format!("{STRAY} at byte 6 of the row")).row(ab("3", "4")),
        bare("\"1\"\t,2\n3,4\n").bad(0, format!("{STRAY} at byte 3 of the row")).row(ab("3", "4")),
        bare("\"1\"\r,2\n3,4\n").bad(0, format!("{STRAY} at byte 3 of the row")).row(ab("3", "4")),
        bare("1,\"2\"\r\r\n3,4\n").bad(0, format!("{STRAY} at byte 5 of the row")).row(ab("3", "4")),
        bare("\"1\"\0,2\n3,4\n").bad(0, format!("{STRAY} at byte 3 of the row")).row(ab("3", "4")),
        bare("\"1\";\"2\"\n3,4\n").bad(0, format!("{STRAY} at byte 3 of the row")).row(ab("3", "4")),
        bare("\"1\"\"2\",\"3\"x\n4,5\n").bad(0, format!("{STRAY} at byte 10 of the row")).row(ab("4", "5")),
        bare("\"1\"x,\"2\n3\"\n4,5\n").bad(0, format!("{STRAY} at byte 3 of the row")).row(ab("4", "5")),
        // Never closed.
        bare("\"").truncated(0),
        bare("1,\"").truncated(0),
        bare("\"1,2\n3,4\n").truncated(0),
        bare("1,2\n3,\"4\n5,6\n").row(ab("1", "2")).truncated(4),
        bare("1,2\n\"\"\"").row(ab("1", "2")).truncated(4),
        bare("1,2\n3,\"4\"\"").row(ab("1", "2")).truncated(4),
        headed("\"a,b\n1,2\n").truncated(0),
        headed("a,\"b").truncated(0),
    ]
}

/// The header, and what the names in it may be.
fn headers() -> Vec<Case> {
    vec![
        headed("").malformed(0),
        headed("\n").malformed(1),
        headed("\r\n\n\r").malformed(4),
        headed("\u{feff}").malformed(3),
        headed("\u{feff}\n").malformed(4),
        headed(",\n").malformed(0),
        headed("a,\n1,2\n").malformed(0),
        headed("a,,b\n").malformed(0),
        headed("\"\"\n").malformed(0),
        headed("a,\"\"\n").malformed(0),
        headed("a,a\n").malformed(0),
        headed("a,b,\"a\"\n1,2,3\n").malformed(0),
        headed("\n\na,a\n").malformed(2),
        headed("a,\"b\" \n").malformed(0),
        headed("a,A, a\n1,2,3\n").row(r#"{"a":"1","A":"2"," a":"3"}"#),
        headed("a\"b,c\n1,2\n").row(r#"{"a\"b":"1","c":"2"}"#),
        headed("\u{feff}a,b\n1,2\n").row(ab("1", "2")),
        headed("\u{feff}\"a\",\"b\"\r\n1,2\r\n").row(ab("1", "2")),
        headed("\u{feff}\u{feff}a\n1\n").row("{\"\u{feff}a\":\"1\"}"),
        headed("\"\u{feff}a\"\n1\n").row("{\"\u{feff}a\":\"1\"}"),
        headed("a\0\n1\n").row(r#"{"a\u0000":"1"}"#),
        headed("1,2\n3,4\n").row(r#"{"1":"3","2":"4"}"#),
        headed(b"a\xff\n1\n").malformed(0),
        headed(b"\"a\xe2\x82\"\n1\n").malformed(0),
        // Lines that end with a return alone would all be one, in which names are quoted or not.
        headed("a,b\r1,2\r3,4\r").malformed(0),
        headed("a,b\r1,2").malformed(0),
        headed("\"a\",b\r1,2\r").malformed(0),
        headed("a,\"b\",c\r1,2,3\r").malformed(0),
        headed("\"a\",\"b\"\r1,2\r").malformed(0),
        headed("\"a\r\",b\r\n1,2\n").row(r#"{"a\r":"1","b":"2"}"#),
    ]
}

/// Delimiters, marks and charsets: RFC 4180 knows the comma and US-ASCII, and leaves the others to parameters.
fn dialects() -> Vec<Case> {
    let (little, big): (Unit, Unit) = (u16::to_le_bytes, u16::to_be_bytes);
    vec![
        delimited(b';', "a;b\n1,5;\"2;5\"\n").row(ab("1,5", "2;5")),
        delimited(b'\t', "a\tb\n1\t\n\"\t\"\t2\n").row(r#"{"a":"1","b":null}"#).row(ab("\t", "2")),
        delimited(b'|', "a|b\n1|\"|\"\n").row(ab("1", "|")),
        delimited(b' ', "a b\n1 2\n1  2\n").row(ab("1", "2")).bad(8, "there are 3 fields"),
        delimited(0x01, "a\x01b\n1\x012\n").row(ab("1", "2")),
        delimited(0x1f, "a\x1fb\n1\x1f2\n").row(ab("1", "2")),
        delimited(0, "a\0b\n1\x002\n").row(ab("1", "2")),
        delimited(b':', "a:b\n12:\"12:30\"\n").row(ab("12", "12:30")),
        delimited(b'\'', "a'b\n1'2\n").row(ab("1", "2")),
        delimited(b';', "a,b\n1,2\n").row(r#"{"a,b":"1,2"}"#),
        // Bytes that are no text, in each place: the row is bad, and only it.
        bare(b"\xff,1\n2,3\n").bad(0, "not UTF-8 at byte 0 of the row").row(ab("2", "3")),
        bare(b"1,\xe9\n2,3\n").bad(0, "not UTF-8 at byte 2 of the row").row(ab("2", "3")),
        bare(b"1,\"\xe9\"\n2,3\n").bad(0, "not UTF-8 at byte 3 of the row").row(ab("2", "3")),
        bare(b"1,\"\xe2\x82\n\xac\"\n2,3\n").bad(0, "not UTF-8 at byte 3 of the row").row(ab("2", "3")),
        bare(b"1,\xe2\x82\n2,3\n").bad(0, "not UTF-8 at byte 2 of the row").row(ab("2", "3")),
        bare(b"1,2\n3,\xe2\x82").row(ab("1", "2")).bad(4, "not UTF-8 at byte 2 of the row"),
        bare(b"1,2\n3,\"\xe2\x82").row(ab("1", "2")).truncated(4),
        bare(b"\xc0\xaf,1\n").bad(0, "not UTF-8 at byte 0 of the row"),
        bare(b"\xed\xa0\x80,1\n").bad(0, "not UTF-8 at byte 0 of the row"),
        // A mark within the file is a character.
        bare("\u{feff}1,2\n\u{feff}3,4\n").row(ab("1", "2")).row(ab("\u{feff}3", "4")),
        bare("\u{feff}\"1\",2\n\u{feff}\"3\",4\n").row(ab("1", "2")).row(ab("\u{feff}\"3\"", "4")),
        bare(b"\xef\xbb1,2\n").bad(0, "not UTF-8 at byte 0 of the row"),
        // UTF-16, either way round; half a unit and half a pair are no characters.
        bare(utf16("\u{feff}1,\"2\n\u{20ac}\"\r\n3,\u{1f600}\n", little))
            .row(ab("1", "2\n\u{20ac}"))
            .row(ab("3", "\u{1f600}")),
        bare(utf16("\u{feff}1,2\n3\n4,5", big)).row(ab("1", "2")).bad(10, "there is 1 field").row(ab("4", "5")),
        bare(utf16("\u{feff}1,\u{a0a}\n\u{d0d},\u{2c22}\n", big))
            .row(ab("1", "\u{a0a}"))
            .row(ab("\u{d0d}", "\u{2c22}")),
        charset(headed(utf16("a,b\n1,2\n", big)), "utf-16").row(ab("1", "2")),
        charset(headed(utf16("a,b\n1,2\n", little)), "utf-16").row(ab("1", "2")),
        charset(bare([utf16("1,2\n", little), vec![b'3']].concat()), "utf-16le")
            .row(ab("1", "2"))
            .bad(8, "there is 1 field"),
        charset(bare([utf16("1,", little), vec![0x00, 0xd8], utf16("\n3,4\n", little)].concat()), "utf-16le")
            .bad(0, "no character of UTF-16LE at byte 2 of the row")
            .row(ab("3", "4")),
        charset(bare([utf16("1,2\n3,", little), vec![0x3d, 0xd8]].concat()), "utf-16le")
            .row(ab("1", "2"))
            .bad(8, "no character of UTF-16LE at byte 2 of the row"),
        // A byte is a character.
        charset(bare(b"\xe4,\x80\n"), "windows-1252").row(ab("\u{e4}", "\u{20ac}")),
        charset(bare(b"\xe4,\x80\n"), "iso-8859-1").row(ab("\u{e4}", "\u{80}")),
        charset(bare(b"1,\xe4\n2,3\n"), "us-ascii")
            .bad(0, "no character of US-ASCII at byte 2 of the row")
            .row(ab("2", "3")),
        charset(bare("\u{feff}\u{e4},1\n"), "iso-8859-1").row(ab("\u{e4}", "1")),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    [records(), quotes(), headers(), dialects()].into_iter().flatten().collect()
}

#[test]
fn csv_is_what_rfc_4180_says_wherever_it_is_cut() {
    judge(&cases());
}
