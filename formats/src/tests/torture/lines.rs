//! JSON Lines (jsonlines.org; RFC 7464 and the NDJSON specification agree about lines): UTF-8, a value in a line, which ends with `\n`,
//! or `\r\n` because JSON passes over the `\r`; the last may lack its end. And XML lines, which are cut the same way.

use super::*;

fn jsonl(file: impl AsRef<[u8]>) -> Case {
    case(json_lines(), file)
}

fn xmll(file: impl AsRef<[u8]>) -> Case {
    case(xml_lines(), file)
}

fn json_cases() -> Vec<Case> {
    let one = r#"{"a":1}"#;
    let two = r#"{"a":2}"#;
    let utf16 = |text: &str| utf16(text, u16::to_le_bytes);
    vec![
        jsonl(""),
        jsonl("\n"),
        jsonl("\r\n\r\n"),
        jsonl(" \t \n\t"),
        jsonl("\u{feff}"),
        jsonl("\u{feff}\n"),
        // Ends of lines.
        jsonl("{\"a\":1}").row(one),
        jsonl("{\"a\":1}\n").row(one),
        jsonl("{\"a\":1}\r\n{\"a\":2}\r\n").row(one).row(two),
        jsonl("{\"a\":1}\n{\"a\":2}").row(one).row(two),
        jsonl("{\"a\":1}\r\n{\"a\":2}\n{\"a\":1}\r").row(one).row(two).row(one),
        jsonl("\n\n{\"a\":1}\n\n\r\n \n{\"a\":2}\n\n").row(one).row(two),
        jsonl("{\"a\":1}\r\r\n{\"a\":2}\n").row(one).row(two),
        jsonl("\r{\"a\":1}\n").row(one),
        // A return alone ends none: two values are in this line.
        jsonl("{\"a\":1}\r{\"a\":2}\n{}\n").bad(0, "found '{' at byte 8 of the row").row("{}"),
        jsonl("{\"a\":1}\r{\"a\":2}").bad(0, "found '{' at byte 8 of the row"),
        // Nor does what other standards take for an end.
        jsonl("{\"a\":1}\u{2028}{\"a\":2}\n").bad(0, "found '\\u{2028}' at byte 7 of the row"),
        jsonl("{\"a\":1}\u{85}\n").bad(0, "found '\\u{85}' at byte 7 of the row"),
        jsonl("{\"a\":1}\u{b}\n").bad(0, "found '\\u{b}' at byte 7 of the row"),
        jsonl("{\"a\":1}\u{c}\n").bad(0, "found '\\u{c}' at byte 7 of the row"),
        jsonl("\u{c}\n{}\n").bad(0, "at byte 0 of the row").row("{}"),
        jsonl("{\"a\":\"\u{2028}\u{2029}\u{85}\"}\n").row("{\"a\":\"\u{2028}\u{2029}\u{85}\"}"),
        // A row in two lines is two bad ones; what a pretty printer wrote is no JSON Lines.
        jsonl("{\"a\":\n1}\n{}\n").bad(0, "at byte 5 of the row").bad(6, "at byte 0 of the row").row("{}"),
        jsonl("{\n}\n").bad(0, "at byte 1 of the row").bad(2, "at byte 0 of the row"),
        // A row in an array with commas between is bad line by line.
        jsonl("[\n{\"a\":1},\n{\"a\":2}\n]\n")
            .bad(0, "not an array at byte 0 of the row")
            .bad(2, "found ',' at byte 7 of the row")
            .row(two)
            .bad(19, "at byte 0 of the row"),
        jsonl("[{\"a\":1}]\n").bad(0, "not an array at byte 0 of the row"),
        // Two in one line, and a separator of RFC 7464.
        jsonl("{\"a\":1}{\"a\":2}\n").bad(0, "found '{' at byte 7 of the row"),
        jsonl("{\"a\":1} {\"a\":2}\n").bad(0, "found '{' at byte 8 of the row"),
        jsonl("\u{1e}{\"a\":1}\n").bad(0, "at byte 0 of the row"),
        jsonl("# comment\n{}\n").bad(0, "not text that is no JSON").row("{}"),
        jsonl("{\"a\":1} // one\n").bad(0, "found '/' at byte 8 of the row"),
        // The mark belongs to the first line only.
        jsonl("\u{feff}{\"a\":1}\n\u{feff}{\"a\":2}\n{}\n").row(one).bad(11, "at byte 0 of the row").row("{}"),
        jsonl("{\"a\":1}\n\u{feff}\n").row(one).bad(8, "at byte 0 of the row"),
        jsonl("{\"a\":\"\u{feff}\"}\n").row("{\"a\":\"\u{feff}\"}"),
        jsonl(b"\xef\xbb{}\n{}\n").bad(0, "not UTF-8 at byte 0 of the row").row("{}"),
        // Bytes that are no text cost their line, wherever they are in it.
        jsonl(b"{}\n\x00\n{}\n").row("{}").bad(3, "at byte 0 of the row").row("{}"),
        jsonl(b"{}\x00\n{}\n").bad(0, "found '\\0' at byte 2 of the row").row("{}"),
        jsonl(b"{}\n\xff\n{}\n").row("{}").bad(3, "not UTF-8 at byte 0 of the row").row("{}"),
        jsonl(b"{}\xff\n{}\n").bad(0, "not UTF-8 at byte 2 of the row").row("{}"),
        jsonl(b" \xff\n{}\n").bad(0, "not UTF-8 at byte 1 of the row").row("{}"),
        // Within a character the line ends, and so does the file.
        jsonl(b"{\"a\":\"\xe2\x82\n{}\n").bad(0, "not UTF-8 at byte 6 of the row").row("{}"),
        jsonl(b"{}\n{\"a\":\"\xe2\x82").row("{}").bad(3, "not UTF-8 at byte 6 of the row"),
        jsonl(b"{}\n{\"a\":\"\xf0\x9f\x98").row("{}").bad(3, "not UTF-8 at byte 6 of the row"),
        jsonl(b"{}\n{\"a\":1").row("{}").bad(3, "in the middle of its JSON at byte 6 of the row"),
        jsonl(b"{}\n\x1a").row("{}").bad(3, "at byte 0 of the row"),
        // UTF-16: a line break is a unit, half of one is not.
        jsonl(utf16("\u{feff}{\"a\":1}\r\n{\"a\":2}\n")).row(one).row(two),
        jsonl(utf16("{\"a\":1}\n{\"\u{a0a}\":1}\n{}")).row(one).row("{\"\u{a0a}\":1}").row("{}"),
        jsonl([utf16("{}\n{}\n"), vec![b'\n']].concat())
            .row("{}")
            .row("{}")
            .bad(12, "no character of UTF-16LE at byte 0"),
        jsonl([utf16("{}\n{\"a\":\""), vec![0x00, 0xdc], utf16("\"}\n{}\n")].concat())
            .row("{}")
            .bad(6, "no character of UTF-16LE at byte 6")
            .row("{}"),
    ]
}

fn xml_cases() -> Vec<Case> {
    let (one, two) = (r##"{"#text":"1"}"##, r##"{"#text":"2"}"##);
    vec![
        xmll(""),
        xmll("\n\r\n \t\n"),
        xmll("\u{feff}"),
        xmll("<?xml version='1.0'?>"),
        xmll("<?xml version='1.0' encoding='UTF-8'?>\n"),
        xmll("<a>1</a>").row(one),
        xmll("<a>1</a>\r\n<b>2</b>\n").row(one).row(two),
        xmll("\u{feff}<a>1</a>\n\n \r\n<a>2</a>").row(one).row(two),
        xmll("<?xml version='1.0'?>\r\n<a>1</a>\n").row(one),
        xmll("<?xml version='1.0'?><a>1</a>\n<a>2</a>\n").row(one).row(two),
        xmll(" <a>1</a> \n\t<a>2</a>\t\n").row(one).row(two),
        xmll("<!-- x --><a>1</a><?p q?>\n").row(one),
        xmll("<a>1</a>\r<a>2</a>\n<b/>\n")
            .bad(0, "a second element after the document's at byte 9 of the row")
            .row("{}"),
        xmll("<a>1\r</a>\n").row("{\"#text\":\"1\\n\"}"),
        xmll("<a>1</a><a>2</a>\n<b/>").bad(0, "a second element after the document's at byte 8 of the row").row("{}"),
        // What a line cannot hold: a break in text, a tag, a section.
        xmll("<a>\n</a>\n<b/>\n")
            .bad(0, "the text ends within <a> at byte 3 of the row")
            .bad(4, "an end tag without a start tag at byte 0 of the row")
            .row("{}"),
        xmll("<a\nb='1'/>\n").bad(0, "within a tag at byte 2 of the row").bad(3, "expected '<', found 'b' at byte 0"),
        xmll("<a><![CDATA[x\ny]]></a>\n<b/>\n")
            .bad(0, "within a comment, an instruction or a CDATA section at byte 13")
            .bad(14, "expected '<', found 'y' at byte 0")
            .row("{}"),
        xmll("<a>x&#10;y</a>\n").row("{\"#text\":\"x\\ny\"}"),
        // A declaration stands in the first line, the mark at the first byte.
        xmll("<a/>\n<?xml version='1.0'?>\n<a/>\n")
            .row("{}")
            .bad(5, "an XML declaration that is not at the begin")
            .row("{}"),
        xmll("\n<?xml version='1.0'?>\n<a/>\n").bad(1, "an XML declaration that is not at the begin").row("{}"),
        xmll("<a/>\n\u{feff}<a/>\n<a/>\n").row("{}").bad(5, "at byte 0 of the row").row("{}"),
        xmll("<?xml version='2.0'?>\n<a/>\n").bad(0, "a version other than 1.0 at byte 15").row("{}"),
        xmll("<!DOCTYPE a>\n<a/>\n").bad(0, "a DOCTYPE, which is refused").row("{}"),
        xmll("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>\n<a/>\n").bad(0, "a DOCTYPE, which is refused").row("{}"),
        xmll("x\n<a/>\n").bad(0, "expected '<', found 'x' at byte 0").row("{}"),
        xmll("<!-- only -->\n<a/>\n").bad(0, "there is no element at byte 13").row("{}"),
        // Each line stands alone: names that are open or declared in one are not in the next.
        xmll("<a><b>\n</b></a>\n<b/>")
            .bad(0, "the text ends within <b> at byte 6")
            .bad(7, "an end tag without a start tag at byte 0")
            .row("{}"),
        xmll("<a xmlns:x='urn:x'>\n<x:a/>\n<a/>\n")
            .bad(0, "the text ends within <a>")
            .bad(20, "the prefix \"x\" is not declared at byte 1")
            .row("{}"),
        xmll("<x:a xmlns:x='urn:x'/>\n<x:a/>\n<a/>\n")
            .row("{}")
            .bad(23, "the prefix \"x\" is not declared at byte 1")
            .row("{}"),
        // Bytes that are no characters.
        xmll(b"<a>\xff</a>\n<a/>\n").bad(0, "no character of the file's charset at byte 3").row("{}"),
        xmll(b"<a>\xe2\x82\n<a/>\n").bad(0, "no character of the file's charset at byte 3").row("{}"),
        xmll(b"<a/>\n<a>\xe2\x82").row("{}").bad(5, "no character of the file's charset at byte 3"),
        xmll(b"<a>\x00</a>\n<a/>\n").bad(0, "control character 0x00, which XML cannot hold at byte 3").row("{}"),
        xmll(b"<a>\x0b</a>\n<a/>\n").bad(0, "control character 0x0b, which XML cannot hold at byte 3").row("{}"),
        xmll("<?xml version='1.0' encoding='ISO-8859-1'?>\n<a>\u{e9}</a>\n").row("{\"#text\":\"\u{c3}\u{a9}\"}"),
        xmll(b"<?xml version='1.0' encoding='ISO-8859-1'?>\n<a>\xe9</a>\n").row("{\"#text\":\"\u{e9}\"}"),
        xmll("<?xml-model encoding='ISO-8859-1'?><a>\u{e9}</a>\n").row("{\"#text\":\"\u{e9}\"}"),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    json_cases().into_iter().chain(xml_cases()).collect()
}

#[test]
fn lines_are_what_ends_with_a_line_feed_wherever_they_are_cut() {
    judge(&cases());
}
