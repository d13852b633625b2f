//! XML by XML 1.0 (fifth edition) and Namespaces in XML 1.0 (third edition), section by section: what is well-formed has these rows, what
//! is not ends at this byte. A DOCTYPE is refused as such. `tests/xml.rs` has the same questions with the words of the answers.

use super::*;

/// A document whose element is `r`, with a row around the content; and where that begins.
fn within(content: &str) -> (String, usize) {
    (format!("<r><i>{content}</i></r>"), "<r><i>".len())
}

/// A row in a document that is all right.
fn good(content: &str, json: &str) -> Case {
    case(xml(), within(content).0).row(json)
}

/// A row in a document that stops to be well-formed at this byte of the content.
fn bad(content: &str, at: usize) -> Case {
    let (document, begin) = within(content);
    case(xml(), document).malformed(begin + at)
}

/// A row in a document that ends within what this begins.
fn open(content: &str) -> Case {
    let document = within(content).0;
    let end = document.len();
    case(xml(), document).truncated(end)
}

/// A document that is well-formed and has no rows.
fn empty(document: impl AsRef<[u8]>) -> Case {
    case(xml(), document)
}

/// A document that stops to be well-formed at this byte, before any row.
fn not(document: impl AsRef<[u8]>, at: usize) -> Case {
    case(xml(), document).malformed(at)
}

const TEXT: &str = r##"{"#text":"x"}"##;

/// 2.1 and 2.8: one element, and what is around it.
fn documents() -> Vec<Case> {
    vec![
        empty("<r/>"),
        empty("<r></r>"),
        empty(" <r/>\n"),
        empty("<!-- a --><?b?><r/><?c?> <!-- d -->"),
        empty("<?xml version='1.0'?><r/>"),
        empty("<?xml version=\"1.0\" encoding=\"utf-8\" standalone=\"no\"?>\n<r/>\n"),
        empty("<?xml version = '1.0'\tencoding\n=\r'UTF-8' standalone = 'yes' ?><r/>"),
        empty("<?xml version='1.0' ?><!-- a --><r/>"),
        empty("\u{feff}<?xml version='1.0' encoding='UTF-8'?><r/>"),
        // A processor of 1.0 reads what calls itself 1.1 as 1.0.
        empty("<?xml version='1.1'?><r/>"),
        not("<?xml version='1.1'?><r>\u{1}</r>", 24),
        not("", 0),
        not("\n", 1),
        not("\u{feff}", 3),
        not("r", 0),
        not("<!-- a -->", 10),
        not("<?a?>", 5),
        not("&amp;", 0),
        not("]]>", 0),
        not("<r/><r/>", 4),
        not("<r></r><s></s>", 7),
        not("<r/>\n<r/>", 5),
        not("<r/>x", 4),
        not("<r/>&#x20;", 4),
        not("<r/>\0", 4),
        not("<r/>\x1a", 4),
        not("<r/></r>", 4),
        not("x<r/>", 0),
        not("  \0<r/>", 2),
        not("<r/><![CDATA[ ]]>", 4),
        not("<![CDATA[ ]]><r/>", 0),
        not("<r/>\u{feff}", 4),
        not("\u{feff}\u{feff}<r/>", 3),
        // 2.8: the declaration.
        not(" <?xml version='1.0'?><r/>", 1),
        not("\n<?xml version='1.0'?><r/>", 1),
        not("<!-- a --><?xml version='1.0'?><r/>", 10),
        not("<r/><?xml version='1.0'?>", 4),
        not("<r><?xml version='1.0'?></r>", 3),
        not("<?xml version='1.0'?><?xml version='1.0'?><r/>", 21),
        not("<?xml?><r/>", 5),
        not("<?xml ?><r/>", 6),
        not("<?xml encoding='UTF-8'?><r/>", 6),
        not("<?xml standalone='yes'?><r/>", 6),
        not("<?xml encoding='UTF-8' version='1.0'?><r/>", 6),
        not("<?xml version='1.0' standalone='yes' encoding='UTF-8'?><r/>", 37),
        not("<?xml version='1.0' version='1.0'?><r/>", 20),
        not("<?xml version='1.0' encoding='UTF-8' encoding='UTF-8'?><r/>", 37),
        not("<?xml version='1.0'encoding='UTF-8'?><r/>", 19),
        not("<?xml version='1.0' encoding='UTF-8'standalone='yes'?><r/>", 36),
        not("<?xml VERSION='1.0'?><r/>", 6),
        not("<?xml Version='1.0'?><r/>", 6),
        not("<?XML version='1.0'?><r/>", 0),
        not("<?Xml version='1.0'?><r/>", 0),
        not("<?xmL?><r/>", 0),
        not("<? xml version='1.0'?><r/>", 2),
        not("<?xml version=1.0?><r/>", 14),
        not("<?xml version='1.0\"?><r/>", 14),
        not("<?xml version\u{201c}1.0\u{201d}?><r/>", 13),
        not("<?xml version=''?><r/>", 15),
        not("<?xml version='1'?><r/>", 15),
        not("<?xml version=' 1.0'?><r/>", 15),
        not("<?xml version='1.0 '?><r/>", 15),
        not("<?xml version='1.0a'?><r/>", 15),
        not("<?xml version='1.-0'?><r/>", 15),
        not("<?xml version='2.0'?><r/>", 15),
        not("<?xml version='&#49;.0'?><r/>", 15),
        not("<?xml version='1.0' standalone='YES'?><r/>", 32),
        not("<?xml version='1.0' standalone='no '?><r/>", 32),
        not("<?xml version='1.0' standalone=''?><r/>", 32),
        not("<?xml version='1.0' foo='bar'?><r/>", 20),
        not("<?xml version='1.0' xml:lang='en'?><r/>", 20),
        not("<?xml version='1.0'><r/>", 0),
        not("<?xml version='1.0' ? ><r/>", 0),
        not("<?xml version='1.0'? ?><r/>", 19),
        // 2.8 and 4.2: no DOCTYPE, whatever is in it; and no declarations elsewhere.
        not("<!DOCTYPE r><r/>", 0),
        not("<!DOCTYPE r [<!ENTITY e 'x'>]><r>&e;</r>", 0),
        not("<?xml version='1.0'?>\n<!DOCTYPE r SYSTEM 'r.dtd'>\n<r/>", 22),
        not("<r/><!DOCTYPE r>", 4),
        not("<r><!DOCTYPE r></r>", 3),
        not("<!doctype r><r/>", 0),
        not("<!ELEMENT r ANY><r/>", 0),
        not("<r><!ENTITY e 'x'></r>", 3),
        not("<r><![INCLUDE[x]]></r>", 3),
        not("<![IGNORE[x]]><r/>", 0),
        not("%e;<r/>", 0),
    ]
}

/// 4.3.3: encodings.
fn encodings() -> Vec<Case> {
    let (little, big): (Unit, Unit) = (u16::to_le_bytes, u16::to_be_bytes);
    let declared = |label: &str| format!("<?xml version='1.0' encoding='{label}'?><r><i>\u{e9}</i></r>");
    let row = "{\"#text\":\"\u{e9}\"}";
    let latin = |text: &str| text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect::<Vec<u8>>();
    let refused = |label: &str| empty(declared(label)).ends(Reason::UnsupportedFormat, 0);
    vec![
        empty(declared("UTF-8")).row(row),
        empty(declared("uTf-8")).row(row),
        empty(latin(&declared("ISO-8859-1"))).row(row),
        empty(latin(&declared("iso-8859-15"))).row(row),
        empty(latin(&declared("windows-1252"))).row(row),
        empty(utf16(&format!("\u{feff}{}", declared("UTF-16")), little)).row(row),
        empty(utf16(&format!("\u{feff}{}", declared("UTF-16")), big)).row(row),
        empty(utf16(&declared("UTF-16"), little)).row(row),
        empty(utf16(&declared("UTF-16BE"), big)).row(row),
        empty(utf16("\u{feff}<r><i>\u{e9}</i></r>", big)).row(row),
        empty(utf16("<r><i>\u{e9}</i></r>", little)).row(row),
        // A declaration that says what the bytes are not.
        not(utf16(&declared("UTF-8"), little), 60),
        not(utf16(&format!("\u{feff}{}", declared("UTF-8")), big), 62),
        not(utf16(&declared("UTF-16LE"), big), 60),
        not(format!("\u{feff}{}", declared("ISO-8859-1")), 33),
        refused("UTF-16"),
        refused("UTF-32"),
        refused("Shift_JIS"),
        refused("klingon"),
        refused("a/b"),
        refused(""),
        not(declared(" UTF-8"), 30),
        not(declared("UTF-8 "), 30),
        not(declared("utf8").replace("utf8", "\nutf8"), 30),
        not(latin(&declared("us-ascii")), 47),
        not(latin(&declared("UTF-8")), 44),
        not(latin("<r><i>\u{e9}</i></r>"), 6),
        not(latin("<r>\u{e9}</r>"), 3),
        not(latin("<r b='\u{e9}'/>"), 6),
        not(latin("<r\u{e9}/>"), 2),
        not(latin("<!-- \u{e9} --><r/>"), 5),
        not(latin("<?a \u{e9}?><r/>"), 4),
        not(b"<r><![CDATA[\xe2\x82]]></r>", 12),
        not(b"<r b='\xc0\x80'/>", 6),
        // Only a declaration declares: other instructions, comments and attributes do not.
        empty("<?xml-stylesheet href='x' encoding='ISO-8859-1'?><r><i>\u{e9}</i></r>").row(row),
        empty("<?xmlmodel encoding='UTF-16'?><r><i>\u{e9}</i></r>").row(row),
        empty("<?xml-model encoding='klingon'?><r><i>\u{e9}</i></r>").row(row),
        empty("<!-- <?xml version='1.0' encoding='ISO-8859-1'?> --><r><i>\u{e9}</i></r>").row(row),
        empty("<r encoding='ISO-8859-1'><i>\u{e9}</i></r>").row(row),
        // Half a unit, half a pair, and what looks like UTF-32.
        empty([utf16("\u{feff}<r/>", little), vec![b' ']].concat()).malformed(10),
        empty([utf16("<r><i>x", big), vec![0xd8, 0x00], utf16("</i></r>", big)].concat()).malformed(14),
        empty([utf16("<r><i>x", big), vec![0xdc, 0x00, 0xd8, 0x00], utf16("</i></r>", big)].concat()).malformed(14),
        empty("<r/>".chars().flat_map(|c| u32::from(c).to_le_bytes()).collect::<Vec<u8>>()).malformed(2),
    ]
}

/// 2.2 and 4.1: characters, as they are and referred to.
fn characters() -> Vec<Case> {
    let mut cases = vec![
        good("x", TEXT),
        good("&#120;", TEXT),
        good("&#x78;", TEXT),
        good("&#x00078;", TEXT),
        good(&format!("&#{}120;", "0".repeat(100)), TEXT),
        good(&format!("&#x{}78;", "0".repeat(900)), TEXT),
        good("&#x9;x&#xA;&#xD;", r##"{"#text":"\tx\n\r"}"##),
        good("\tx\n", r##"{"#text":"\tx\n"}"##),
        good("x\u{85}\u{2028}", "{\"#text\":\"x\u{85}\u{2028}\"}"),
        good("&lt;&gt;&amp;&quot;&apos;", r##"{"#text":"<>&\"'"}"##),
        good("&#32;&#9;", "{}"),
        good("&#32;<a/>", r#"{"a":""}"#),
        good("<b>&#32;<a/></b>", r#"{"b":{"a":""}}"#),
        good("&amp;lt;", r##"{"#text":"&lt;"}"##),
        good("&#38;lt;", r##"{"#text":"&lt;"}"##),
        good("&#60;x&#62;", r##"{"#text":"<x>"}"##),
        good("<a b='&#60;&#38;&#34;&#39;'/>", r##"{"a":{"@b":"<&\"'"}}"##),
        bad("&", 0),
        bad("&;", 0),
        bad("& ", 0),
        bad("&&amp;", 0),
        bad("x & y", 2),
        bad("a&b", 1),
        bad("&#;", 0),
        bad("&#x;", 0),
        bad("&#X78;", 0),
        bad("&#x7g;", 0),
        bad("&#7a;", 0),
        bad("&#-1;", 0),
        bad("&#+120;", 0),
        bad("&# 120;", 0),
        bad("& #120;", 0),
        bad("&#120 ;", 0),
        bad("&#120", 0),
        bad("&#x78 x", 0),
        bad("&#\u{661};", 0),
        bad("&lt", 0),
        bad("&LT;", 0),
        bad("&lt ;", 0),
        bad("& lt;", 0),
        bad("&nbsp;", 0),
        bad("&copy;", 0),
        bad("&e.f:g;", 0),
        bad("&\u{e9};", 0),
        bad("%e;&e;", 3),
        bad("<a b='&'/>", 6),
        bad("<a b='& '/>", 6),
        bad("<a b='&nbsp;'/>", 6),
        bad("<a b='&lt'/>", 6),
        bad("<a b='x&y=z'/>", 7),
        bad("<a b=\"&#x0;\"/>", 6),
    ];
    // Char: what is there, and what is not.
    for c in [
        '\t',
        '\n',
        ' ',
        '\u{7f}',
        '\u{9f}',
        '\u{d7ff}',
        '\u{e000}',
        '\u{fdd0}',
        '\u{fffd}',
        '\u{10000}',
        '\u{1ffff}',
        '\u{10ffff}',
    ] {
        let json = format!("{{\"a\":{}}}", serde_json::to_string(&format!("{c}.")).unwrap());
        cases.push(good(&format!("<a>{c}.</a>"), &json));
        cases.push(good(&format!("<a>&#{};.</a>", u32::from(c)), &json));
        cases.push(good(&format!("<a>&#x{:X};.</a>", u32::from(c)), &json));
        cases.push(good(&format!("<a><![CDATA[{c}.]]></a>"), &json));
        cases.push(good(&format!("<a>.</a><!--{c}--><?p {c}?>"), "{\"a\":\".\"}"));
    }
    for code in (0..0x20).chain([0xfffe, 0xffff]).filter(|code| ![0x9, 0xa, 0xd].contains(code)) {
        let c = char::from_u32(code).unwrap();
        cases.push(bad(&format!("x{c}"), 1));
        cases.push(bad(&format!("<a b='{c}'/>"), 6));
        cases.push(bad(&format!("<!--{c}-->"), 4));
        cases.push(bad(&format!("<?p {c}?>"), 4));
        cases.push(bad(&format!("<![CDATA[{c}]]>"), 9));
        cases.push(bad(&format!("x&#{code};"), 1));
        cases.push(bad(&format!("<a b='&#x{code:x};'/>"), 6));
        cases.push(not(format!("<?p?>{c}<r/>"), 5));
    }
    for reference in
        ["&#xD800;", "&#xDFFF;", "&#55296;", "&#x110000;", "&#x1000000000;", "&#4294967361;", "&#99999999999999999999;"]
    {
        cases.push(bad(reference, 0));
    }
    cases
}

/// 2.3: names.
fn names() -> Vec<Case> {
    let mut cases = vec![
        good("<_/>", r#"{"_":""}"#),
        good("<A.b-c_1\u{b7}/>", "{\"A.b-c_1\u{b7}\":\"\"}"),
        good("<a..--/>", r#"{"a..--":""}"#),
        good("<xml/>", r#"{"xml":""}"#),
        good("<XmlX xmlb='1'/>", r#"{"XmlX":{"@xmlb":"1"}}"#),
    ];
    // NameStartChar and NameChar at the ends of their ranges.
    let starts = [
        'A',
        'z',
        '_',
        '\u{c0}',
        '\u{d6}',
        '\u{d8}',
        '\u{f6}',
        '\u{f8}',
        '\u{2ff}',
        '\u{370}',
        '\u{37d}',
        '\u{37f}',
        '\u{1fff}',
        '\u{200c}',
        '\u{200d}',
        '\u{2070}',
        '\u{218f}',
        '\u{2c00}',
        '\u{2fef}',
        '\u{3001}',
        '\u{d7ff}',
        '\u{f900}',
        '\u{fdcf}',
        '\u{fdf0}',
        '\u{fffd}',
        '\u{10000}',
        '\u{effff}',
    ];
    let others = ['-', '.', '0', '9', '\u{b7}', '\u{300}', '\u{36f}', '\u{203f}', '\u{2040}'];
    let none = [
        '@',
        '[',
        '`',
        '{',
        '$',
        '+',
        '*',
        '(',
        ',',
        ';',
        '~',
        '\u{7f}',
        '\u{a0}',
        '\u{b6}',
        '\u{b8}',
        '\u{bf}',
        '\u{d7}',
        '\u{f7}',
        '\u{37e}',
        '\u{2000}',
        '\u{200b}',
        '\u{200e}',
        '\u{203e}',
        '\u{2041}',
        '\u{206f}',
        '\u{2190}',
        '\u{2bff}',
        '\u{2ff0}',
        '\u{3000}',
        '\u{e000}',
        '\u{f8ff}',
        '\u{fdd0}',
        '\u{fdef}',
        '\u{f0000}',
        '\u{10ffff}',
    ];
    for c in starts {
        cases.push(good(&format!("<{c}/>"), &format!("{{\"{c}\":\"\"}}")));
    }
    for c in starts.into_iter().chain(others) {
        cases.push(good(&format!("<a{c} b{c}='1'></a{c} >"), &format!("{{\"a{c}\":{{\"@b{c}\":\"1\"}}}}")));
        cases.push(good(&format!("<?p{c}?>x"), TEXT));
    }
    for c in others.into_iter().chain(none) {
        cases.push(bad(&format!("<{c}/>"), 1));
        cases.push(bad(&format!("<a {c}='1'/>"), 3));
        cases.push(bad(&format!("<?{c}?>"), 2));
    }
    for c in none {
        cases.push(bad(&format!("<a{c}/>"), 2));
        cases.push(bad(&format!("<a b{c}='1'/>"), 4));
        cases.push(bad(&format!("<a></a{c}>"), 6));
        cases.push(bad(&format!("<?p{c}?>"), 3));
    }
    cases
}

/// 2.4 to 2.7: text, comments, instructions, sections.
fn markup() -> Vec<Case> {
    vec![
        good("]", r##"{"#text":"]"}"##),
        good("]]", r##"{"#text":"]]"}"##),
        good("] ]>", r##"{"#text":"] ]>"}"##),
        good("]]&gt;", r##"{"#text":"]]>"}"##),
        good(">\"'", r##"{"#text":">\"'"}"##),
        good("<a b=']]>'/>", r##"{"a":{"@b":"]]>"}}"##),
        bad("]]>", 0),
        bad("]]]>", 1),
        bad("x]]>y", 1),
        bad("<a/>]]>", 4),
        bad("&amp;]]>", 5),
        bad("\u{e9}]]>", 2),
        bad("<![CDATA[]]>]]>", 12),
        // Comments.
        good("<!---->x", TEXT),
        good("<!-- - -->x", TEXT),
        good("<!-- <a> & ]]> ?> &e; -->x", TEXT),
        good("x<!--\n\t-->", TEXT),
        good("<!--->-->x", TEXT),
        bad("<!-- -- -->", 5),
        bad("<!-- --->", 5),
        bad("<!----->", 4),
        bad("<!-- -- > -->", 5),
        open("<!-->"),
        open("<!--->"),
        open("<!-- ->"),
        bad("<!- x -->", 0),
        bad("<! -- x -->", 0),
        bad("<!", 0),
        bad("<!x>", 0),
        bad("<a <!-- x --> />", 3),
        bad("<a b='<!-- x -->'/>", 6),
        // Instructions.
        good("<?p?>x", TEXT),
        good("<?p ?>x", TEXT),
        good("<?p <a> & -- ]]> ? > ?>x", TEXT),
        good("<?p ???>x", TEXT),
        good("<?p\tx\n?>x", TEXT),
        good("<?xml-x?>x", TEXT),
        good("<?xmlx y?>x", TEXT),
        bad("<??>", 2),
        bad("<? ?>", 2),
        bad("<? p?>", 2),
        bad("<?1?>", 2),
        bad("<?p+q?>", 3),
        bad("<?p/?>", 3),
        bad("<?p?x?>", 3),
        bad("<?p:q?>", 3),
        bad("<?xml?>", 0),
        bad("<?xMl x?>", 0),
        open("<?p >"),
        bad("<?p", 3),
        bad("<a <?p?>/>", 3),
        // Sections.
        good("<![CDATA[x]]>", TEXT),
        good("<![CDATA[]]>x", TEXT),
        good("<![CDATA[<&]] >]]]]><![CDATA[>]]>", r##"{"#text":"<&]] >]]>"}"##),
        good("<![CDATA[&lt;&#60;]]>", r##"{"#text":"&lt;&#60;"}"##),
        good("<![CDATA[]]]>", r##"{"#text":"]"}"##),
        good("<![CDATA[<![CDATA[]]>", r##"{"#text":"<![CDATA["}"##),
        good("<a>1<![CDATA[2]]>3</a>", r#"{"a":"123"}"#),
        bad("<![CDATA[<![CDATA[]]>]]>", 21),
        bad("<![cdata[x]]>", 0),
        bad("<![ CDATA[x]]>", 0),
        bad("<![CDATA [x]]>", 0),
        bad("<! [CDATA[x]]>", 0),
        open("<![CDATA[x]>"),
        open("<![CDATA[x]] >"),
        bad("<a b='<![CDATA[x]]>'/>", 6),
        // 2.11: ends of lines are one character.
        good("<a>1\r\n2\r3\n4\r</a>", r#"{"a":"1\n2\n3\n4\n"}"#),
        good("<a><![CDATA[1\r\n2\r3\r]]></a>", r#"{"a":"1\n2\n3\n"}"#),
        good("<a>1&#xD;\n2&#13;&#10;</a>", r#"{"a":"1\r\n2\r\n"}"#),
        // 3.3.3: in an attribute white space is blanks, unless it is referred to.
        good("<a b='1\t2\n3\r4\r\n5'/>", r##"{"a":{"@b":"1 2 3 4 5"}}"##),
        good("<a b='&#9;&#10;&#13; x  y '/>", r##"{"a":{"@b":"\t\n\r x  y "}}"##),
        good("<a b='\">\"'/>", r##"{"a":{"@b":"\">\""}}"##),
        good("<a b=\"'>'\"/>", r##"{"a":{"@b":"'>'"}}"##),
    ]
}

/// 3.1: tags and attributes.
fn tags() -> Vec<Case> {
    vec![
        good("<a/>", r#"{"a":""}"#),
        good("<a />", r#"{"a":""}"#),
        good("<a\n\t></a\r\n>", r#"{"a":""}"#),
        good("<a b=''/>", r##"{"a":{"@b":""}}"##),
        good("<a b = '1'\nc\n=\n\"2\"/>", r##"{"a":{"@b":"1","@c":"2"}}"##),
        good("<a B='1' b='2'/>", r##"{"a":{"@B":"1","@b":"2"}}"##),
        good("<a><a><a/></a></a>", r#"{"a":{"a":{"a":""}}}"#),
        good("<A/><a/>", r#"{"A":"","a":""}"#),
        bad("<a>", 3),
        bad("</a>", 0),
        bad("<a></b>", 3),
        bad("<a></A>", 3),
        bad("<a></aa>", 6),
        bad("<aa></a>", 4),
        bad("<a><b></a></b>", 6),
        bad("<a/></a>", 4),
        bad("<a></a></a>", 7),
        bad("<a></ a>", 3),
        bad("<a></a b='1'>", 7),
        bad("<a></a/>", 6),
        bad("<a></>", 3),
        bad("<a></a", 6),
        bad("< a/>", 1),
        bad("<>", 1),
        bad("<", 1),
        bad("</", 0),
        bad("<a", 2),
        bad("<a/ >", 3),
        bad("<a//>", 3),
        bad("<a /b>", 4),
        bad("</a/>", 0),
        bad("<1/>", 1),
        bad("<a<b/>", 2),
        bad("<a\0/>", 2),
        bad("<a b/>", 4),
        bad("<a b></a>", 4),
        bad("<a b=/>", 5),
        bad("<a b= />", 6),
        bad("<a b=1/>", 5),
        bad("<a b=c/>", 5),
        bad("<a b==''/>", 5),
        bad("<a =''/>", 3),
        bad("<a ''/>", 3),
        bad("<a 'b'='1'/>", 3),
        bad("<a b='1\"/>", 10),
        bad("<a b='1'c='2'/>", 8),
        bad("<a b='1','2'/>", 8),
        bad("<a b='1' , c='2'/>", 9),
        bad("<a b='1''/>", 8),
        bad("<a b='<'/>", 6),
        bad("<a b='x<y'/>", 7),
        bad("<a b='1' b='1'/>", 9),
        bad("<a b='1' c='2' b='3'/>", 15),
        bad("<a b='1' c='2' d='3' e='4' f='5' g='6' h='7' i='8' j='9' k='0' l='1' m='2' n='3' c='4'/>", 81),
        bad("<a b=\u{2018}1\u{2019}/>", 5),
        bad("<a\u{a0}b='1'/>", 2),
        bad("<a b\u{a0}='1'/>", 4),
        bad("<a\u{2028}/>", 2),
        bad("<a b='1'\u{3000}/>", 8),
    ]
}

/// Namespaces in XML 1.0.
fn namespaces() -> Vec<Case> {
    let one = r#"{"a":""}"#;
    vec![
        good("<a xmlns='urn:a'/>", one),
        good("<a xmlns=''/>", one),
        good("<a xmlns='urn:a'><b xmlns=''/></a>", r#"{"a":{"b":""}}"#),
        good("<x:a xmlns:x='urn:x'/>", one),
        good("<x:a xmlns:x='urn:x'></x:a>", one),
        good("<x:a xmlns:x='urn:x' x:b='1'/>", r##"{"a":{"@b":"1"}}"##),
        good("<a x:b='1' xmlns:x='urn:x'/>", r##"{"a":{"@b":"1"}}"##),
        good("<a xmlns:x='urn:x' xmlns:y='urn:y' x:b='1' y:b='2' b='3'/>", r##"{"a":{"@b":["1","2","3"]}}"##),
        good("<a xmlns='urn:x' xmlns:x='urn:x' b='1' x:b='2'/>", r##"{"a":{"@b":["1","2"]}}"##),
        good("<a xmlns:x='urn:x' xmlns:y='URN:x' x:b='1' y:b='2'/>", r##"{"a":{"@b":["1","2"]}}"##),
        good("<a xmlns:x='urn:x'><b xmlns:x='urn:y' x:c='1'/></a>", r##"{"a":{"b":{"@c":"1"}}}"##),
        good("<a xml:lang='en' xml:b='1'/>", r##"{"a":{"@lang":"en","@b":"1"}}"##),
        good("<xml:a/>", one),
        good("<a xmlns:xml='http://www.w3.org/XML/1998/namespace'/>", one),
        good("<a xmlns:_='urn:a' xmlns:x.-1='urn:b'/>", one),
        good("<xmlns/>", r#"{"xmlns":""}"#),
        good("<xmlfoo:a xmlns:xmlfoo='urn:a'/>", one),
        good("<a xmlns:x='http://example.org/~a?b#c'/>", one),
        // Not a URI, which is no question of well-formedness; nor is one that is relative.
        good("<a xmlns:x='\u{e9} x' xmlns='../b'/>", one),
        bad("<x:a/>", 1),
        bad("<a x:b='1'/>", 3),
        bad("<a b='1' x:c='1'/>", 9),
        bad("<a><b xmlns:x='urn:x'/><x:c/></a>", 24),
        bad("<a xmlns:x='urn:x'/><x:b/>", 21),
        bad("<X:a xmlns:x='urn:x'/>", 1),
        bad("<x:a xmlns:x='urn:x'></a>", 21),
        bad("<x:a xmlns:x='urn:x'></y:a>", 21),
        bad("<x:a xmlns:x='urn:x' xmlns:y='urn:x'></y:a>", 37),
        bad("<:a/>", 1),
        bad("<a:/>", 3),
        bad("<:/>", 1),
        bad("<a:b:c xmlns:a='urn:a'/>", 4),
        bad("<a::b xmlns:a='urn:a'/>", 3),
        bad("<x:1 xmlns:x='urn:x'/>", 3),
        bad("<x:-a xmlns:x='urn:x'/>", 3),
        bad("<a :b='1'/>", 3),
        bad("<a b:='1'/>", 5),
        bad("<a xmlns:='urn:x'/>", 9),
        bad("<a xmlns:1='urn:x'/>", 9),
        bad("<a xmlns:x:y='urn:x'/>", 10),
        bad("<a xmlns:x=''/>", 3),
        bad("<a xmlns:x='urn:x'><b xmlns:x=''/></a>", 22),
        bad("<a xmlns:xml='urn:x'/>", 3),
        bad("<a xmlns:xml=''/>", 3),
        bad("<a xmlns:x='http://www.w3.org/XML/1998/namespace'/>", 3),
        bad("<a xmlns='http://www.w3.org/XML/1998/namespace'/>", 3),
        bad("<a xmlns:xmlns='http://www.w3.org/2000/xmlns/'/>", 3),
        bad("<a xmlns:xmlns='urn:x'/>", 3),
        bad("<a xmlns:x='http://www.w3.org/2000/xmlns/'/>", 3),
        bad("<a xmlns='http://www.w3.org/2000/xmlns/'/>", 3),
        bad("<xmlns:a/>", 1),
        bad("<a xmlns='urn:a' xmlns='urn:a'/>", 17),
        bad("<a xmlns:x='urn:a' xmlns:x='urn:b'/>", 19),
        bad("<a xmlns:x='urn:x' xmlns:y='urn:x' x:b='1' y:b='2'/>", 43),
        bad("<a xmlns:x='urn:x' xmlns:y='ur&#110;:x' x:b='1' y:b='2'/>", 48),
        bad("<a xmlns:x='urn:x'><b xmlns:y='urn:x' x:c='1' y:c='2'/></a>", 46),
        bad("<?x:p?>", 3),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    [documents(), encodings(), characters(), names(), markup(), tags(), namespaces()].into_iter().flatten().collect()
}

#[test]
fn xml_is_what_its_two_standards_say_wherever_it_is_cut() {
    judge(&cases());
}

/// It grows with the document as little as it does with its text.
#[test]
fn the_target_of_an_instruction_has_a_limit() {
    let long = "p".repeat(1 << 20);
    for file in [format!("<r><?{long}"), format!("<r><i><?{long} x?></i></r>"), format!("<?{long}?><r/>")] {
        let at = file.find("<?").unwrap() as u64;
        let problem = "a target that is too long to be read".to_owned();
        for size in [1000, 1024, 4096, file.len()] {
            let outcome = decode_chunks(xml(), file.as_bytes().chunks(size));
            assert_eq!(outcome.end, Err((Reason::MalformedFile, 1, at, problem.clone())));
        }
    }
    let most = "p".repeat((1 << 10) - 3);
    judge(&[empty(format!("<?{most} ?><r/>")), empty(format!("<?{most}?><r/>")), not(format!("<?{most}p?><r/>"), 0)]);
}
