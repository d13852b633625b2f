//! What is well-formed XML and what is not, where it stops to be, and which fields its elements are.
//!
//! The cases go through the productions and constraints of XML 1.0 (fifth edition) and Namespaces in XML 1.0 (third
//! edition), as conformance suites do; each is judged by the standard, documents with a DOCTYPE apart.

use proptest::prelude::*;

use super::*;
use crate::{FieldPath, Gathering};

fn judged(options: &DecodeOptions, file: &[u8]) -> Outcome {
    let whole = decode(options.clone(), file);
    for size in [1, 2, 3, 7] {
        assert_eq!(decode_chunks(options.clone(), file.chunks(size)), whole, "{:?}", String::from_utf8_lossy(file));
    }
    whole
}

#[test]
fn what_is_well_formed_is_read() {
    for file in [
        "<a/>",
        "<a></a>",
        "<a ></a\n>",
        "\u{feff}<a/>",
        "\n\t\r <a/> \n",
        "<?xml version=\"1.0\"?><a/>",
        "<?xml version='1.0' encoding='UTF-8' standalone='yes' ?><a/>",
        "<?xml\tversion = \"1.0\"\n standalone=\"no\"?>\n<a/>",
        "<?xml version='1.7'?><a/>",
        "<?xml-stylesheet href='x'?><a/>",
        "<?p?><!----><a/><!-- x --><?p x ?>",
        "<?xmlx y?><a/>",
        "<a><?p ?? ?></a>",
        "<a><!-- - -><& <b> ]]> --></a>",
        "<a>]] > ] ]]&gt; ></a>",
        "<a><![CDATA[<b>&x;]] >]]]]></a>",
        "<a><![CDATA[]]></a>",
        "<a>&lt;&gt;&amp;&quot;&apos;&#9;&#10;&#13;&#x20;&#xD7FF;&#xE000;&#xFFFD;&#x10000;&#x10FFFF;</a>",
        "<a>&#x0000041;&#0065;</a>",
        "<a b=''/>",
        "<a b=\"'\" c='\">'/>",
        "<a b = \"x\"\n c\n=\n'y'/>",
        "<a b='&lt;&#10;\t\n\r'/>",
        "<_/>",
        "<a-b.c_1/>",
        "<é·\u{300}/>",
        "<\u{3b1}\u{1f00} \u{4e00}='x'/>",
        "<\u{10000}/>",
        "<A xmlns='urn:a'/>",
        "<A xmlns=''/>",
        "<x:a xmlns:x='urn:a' x:b='1' b='2'/>",
        "<a xmlns:x='urn:a' xmlns:y='urn:b' x:b='1' y:b='2'/>",
        "<a xmlns:x='urn:a'><b xmlns:x='urn:b'><x:c/></b><x:d/></a>",
        "<a xml:lang='en' xml:space='preserve'/>",
        "<a xmlns:xml='http://www.w3.org/XML/1998/namespace'/>",
        "<a xmlns='urn:a' xmlns:x='urn:a' b='1' x:b='2'/>",
        "<xml/>",
        "<a>\u{85}\u{2028}\u{7f}\u{9f}\u{fffd}</a>",
    ] {
        let outcome = judged(&xml(), file.as_bytes());
        assert!(outcome.end.is_ok(), "{file}: {outcome:?}");
        assert_eq!(judged(&xml_lines(), file.replace(['\n', '\r'], " ").as_bytes()).end.unwrap().bad_rows, 0, "{file}");
    }
}

#[test]
fn what_is_not_well_formed_ends_the_file_at_its_byte() {
    let table: &[(&str, u64, &str)] = &[
        // One element around all.
        ("", 0, "there is no element"),
        (" <!-- x --> ", 12, "there is no element"),
        ("x", 0, "expected '<', found 'x'"),
        ("<a/>x", 4, "expected nothing after the document's element, found 'x'"),
        ("<a/>&#32;", 4, "expected nothing after the document's element, found '&'"),
        ("<a/><b/>", 4, "a second element after the document's"),
        ("<a/></a>", 4, "an end tag without a start tag"),
        ("</a>", 0, "an end tag without a start tag"),
        ("<![CDATA[x]]><a/>", 0, "a CDATA section outside of elements"),
        ("<a/><![CDATA[]]>", 4, "a CDATA section outside of elements"),
        ("<a/>\u{feff}", 4, "expected nothing after the document's element, found '\\u{feff}'"),
        // Tags.
        ("<a></b>", 3, "another end tag than </a>, which is expected here"),
        ("<a><b></a></b>", 6, "another end tag than </b>, which is expected here"),
        ("<a></A>", 3, "another end tag than </a>, which is expected here"),
        ("<ab></a>", 4, "another end tag than </ab>, which is expected here"),
        ("<a></ab>", 6, "expected '>' of an end tag, found 'b'"),
        ("<a></ a>", 3, "another end tag than </a>, which is expected here"),
        ("<a></a b='1'>", 7, "expected '>' of an end tag, found 'b'"),
        ("< a/>", 1, "expected the name of an element, found ' '"),
        ("<1a/>", 1, "expected the name of an element, found '1'"),
        ("<-a/>", 1, "expected the name of an element, found '-'"),
        ("<.a/>", 1, "expected the name of an element, found '.'"),
        ("<\u{b7}a/>", 1, "expected the name of an element, found '·'"),
        ("<a\u{d7}/>", 2, "expected the name of an element, found '×'"),
        ("<a$/>", 2, "expected white space, '>' or '/>', found '$'"),
        ("<a/ >", 3, "expected '>' after '/', found ' '"),
        ("<a//>", 3, "expected '>' after '/', found '/'"),
        ("<>", 1, "expected the name of an element, found '>'"),
        ("<a><</a>", 4, "expected the name of an element, found '<'"),
        ("<a b></a>", 4, "expected '=' after the name of an attribute, found '>'"),
        ("<a b=1></a>", 5, "expected a quoted value, found '1'"),
        ("<a b='1'c='2'/>", 8, "expected white space, '>' or '/>', found 'c'"),
        ("<a b='1' b='2'/>", 9, "the attribute \"b\" is there twice"),
        ("<a 1='1'/>", 3, "expected the name of an attribute, '>' or '/>', found '1'"),
        ("<a ='1'/>", 3, "expected the name of an attribute, '>' or '/>', found '='"),
        ("<a b='<'/>", 6, "'<' in the value of an attribute; write &lt;"),
        ("<a b=\u{201c}x\u{201d}/>", 5, "expected a quoted value, found '“'"),
        ("<a <b/>", 3, "expected the name of an attribute, '>' or '/>', found '<'"),
        // References.
        ("<a>&</a>", 3, "'&' that begins no reference; write &amp;"),
        ("<a> & </a>", 4, "'&' that begins no reference; write &amp;"),
        ("<a>&amp</a>", 3, "a reference to an entity that is none of the five of XML, or one without its ';'"),
        ("<a>&nbsp;</a>", 3, "a reference to an entity that is none of the five of XML, or one without its ';'"),
        ("<a>&AMP;</a>", 3, "a reference to an entity that is none of the five of XML, or one without its ';'"),
        ("<a b='&x;'/>", 6, "a reference to an entity that is none of the five of XML, or one without its ';'"),
        ("<a b='x&y'/>", 7, "a reference to an entity that is none of the five of XML, or one without its ';'"),
        ("<a>&#0;</a>", 3, "a reference to what is no character of XML"),
        ("<a>&#x8;</a>", 3, "a reference to what is no character of XML"),
        ("<a>&#xD800;</a>", 3, "a reference to what is no character of XML"),
        ("<a>&#xFFFE;</a>", 3, "a reference to what is no character of XML"),
        ("<a>&#xFFFF;</a>", 3, "a reference to what is no character of XML"),
        ("<a>&#x110000;</a>", 3, "a reference to what is no character of XML"),
        ("<a>&#99999999999;</a>", 3, "a reference to what is no character of XML"),
        ("<a>&#;</a>", 3, "a reference to what is no character of XML"),
        ("<a>&#X41;</a>", 3, "a character reference without its ';' or with other digits"),
        ("<a>&#x4G;</a>", 3, "a character reference without its ';' or with other digits"),
        ("<a>&#65</a>", 3, "a character reference without its ';' or with other digits"),
        // Characters.
        ("<a>\u{1}</a>", 3, "control character 0x01, which XML cannot hold"),
        ("<a>é\u{c}</a>", 5, "control character 0x0c, which XML cannot hold"),
        ("<a>\0</a>", 3, "control character 0x00, which XML cannot hold"),
        ("<a b='\u{1f}'/>", 6, "control character 0x1f, which XML cannot hold"),
        ("<a>\u{fffe}</a>", 3, "U+FFFE is no character"),
        ("<a b='x\u{ffff}'/>", 7, "U+FFFF is no character"),
        ("<a><!-- \u{8} --></a>", 8, "control character 0x08, which XML cannot hold"),
        ("<a><?p \u{b}?></a>", 7, "control character 0x0b, which XML cannot hold"),
        ("<a><![CDATA[é\u{fffe}]]></a>", 14, "U+FFFE is no character"),
        ("\u{1}<a/>", 0, "control character 0x01, which XML cannot hold"),
        ("<a>x]]>y</a>", 4, "]]> in text; write ]]&gt;"),
        ("<a>]]]></a>", 4, "]]> in text; write ]]&gt;"),
        // Comments, instructions, sections.
        ("<a><!-- -- --></a>", 8, "-- within a comment"),
        ("<a><!-- x---></a>", 9, "-- within a comment"),
        ("<a><!- x --></a>", 3, "unknown markup"),
        ("<a><!x></a>", 3, "unknown markup"),
        ("<a><![cdata[x]]></a>", 3, "unknown markup"),
        ("<a><![CDATA[x]]></b></a>", 16, "another end tag than </a>, which is expected here"),
        ("<a><? p?></a>", 5, "expected the target of an instruction, found ' '"),
        ("<a><?p+?></a>", 6, "expected white space or '?>', found '+'"),
        ("<a><?p?x?></a>", 6, "expected white space or '?>', found '?'"),
        ("<a><?xml version='1.0'?></a>", 3, "an XML declaration that is not at the begin"),
        (" <?xml version='1.0'?><a/>", 1, "an XML declaration that is not at the begin"),
        ("<?xml version='1.0'?><?xml version='1.0'?><a/>", 21, "an XML declaration that is not at the begin"),
        ("<?XML version='1.0'?><a/>", 0, "a reserved name"),
        ("<a><?Xml?></a>", 3, "a reserved name"),
        ("<?xml?><a/>", 5, "expected version, found '?'"),
        ("<?xml encoding='UTF-8'?><a/>", 6, "expected version, found 'e'"),
        ("<?xml version=1.0?><a/>", 14, "expected a quoted value, found '1'"),
        ("<?xml version='2.0'?><a/>", 15, "a version other than 1.0"),
        ("<?xml version='1.'?><a/>", 15, "a version other than 1.0"),
        ("<?xml version='1.0\"?><a/>", 14, "a quote that is not closed"),
        ("<?xml version='1.0'encoding='UTF-8'?><a/>", 19, "expected '?>', found 'e'"),
        ("<?xml version='1.0' standalone='yes' encoding='UTF-8'?><a/>", 37, "expected '?>', found 'e'"),
        ("<?xml version='1.0' standalone='maybe'?><a/>", 32, "standalone is neither yes nor no"),
        ("<?xml version='1.0' encoding='UTF-8' x='y'?><a/>", 37, "expected '?>', found 'x'"),
        ("<?xml version='1.0' >\n<a/>", 0, "an XML declaration without its end"),
        // What could grow without bound or fetch something.
        ("<!DOCTYPE a><a/>", 0, "a DOCTYPE, which is refused: entities could grow without bound or name other files"),
        (
            "<!-- x --><!DOCTYPE a SYSTEM 'http://x/'><a/>",
            10,
            "a DOCTYPE, which is refused: entities could grow without bound or name other files",
        ),
        ("<a><!ENTITY x 'y'></a>", 3, "unknown markup"),
        // Namespaces.
        ("<x:a/>", 1, "the prefix \"x\" is not declared"),
        ("<a x:b='1'/>", 3, "the prefix \"x\" is not declared"),
        ("<a><b xmlns:x='urn:a'/><x:c/></a>", 24, "the prefix \"x\" is not declared"),
        ("<:a/>", 1, "expected the name of an element, found ':'"),
        ("<a:/>", 3, "expected the name of an element, found '/'"),
        ("<a:b:c xmlns:a='urn:a'/>", 4, "a second ':' in a name"),
        ("<a:1 xmlns:a='urn:a'/>", 3, "expected the name of an element, found '1'"),
        ("<a xmlns:x=''/>", 3, "a prefix must not be bound to an empty namespace"),
        ("<a xmlns:xmlns='urn:a'/>", 3, "the prefix xmlns must not be declared"),
        ("<a xmlns:xml='urn:a'/>", 3, "the prefix xml must not be bound to another namespace"),
        (
            "<a xmlns:x='http://www.w3.org/XML/1998/namespace'/>",
            3,
            "the namespace of xml must not be bound to another prefix",
        ),
        ("<a xmlns='http://www.w3.org/2000/xmlns/'/>", 3, "the namespace of xmlns must not be declared"),
        ("<xmlns:a/>", 1, "the prefix \"xmlns\" is not declared"),
        (
            "<a xmlns:x='urn:a' xmlns:y='urn:&#97;' x:b='1' y:b='2'/>",
            47,
            "the same attribute is there twice, by two prefixes of one namespace",
        ),
        ("<a xmlns='urn:a' xmlns='urn:b'/>", 17, "the attribute \"xmlns\" is there twice"),
        ("<a><?x:p?></a>", 6, "':' in the target of an instruction"),
    ];
    for (file, offset, problem) in table {
        let outcome = judged(&xml(), file.as_bytes());
        let (reason, _, at, found) = outcome.end.unwrap_err();
        assert_eq!((reason, at, found.as_str()), (Reason::MalformedFile, *offset, *problem), "{file}");
    }
    for file in [
        &b"<a>\xff</a>"[..],
        b"<a>\xc3</a>",
        b"<a b='\xe2\x82'/>",
        b"<a><!--\x80--></a>",
        b"<a><![CDATA[\xc3]]></a>",
        b"<a><?p \xc0\x80?></a>",
    ] {
        let outcome = judged(&xml(), file);
        assert_eq!(outcome.problem(), "bytes that are no character of the file's charset", "{file:?}");
    }
}

#[test]
fn a_line_that_is_not_well_formed_is_a_bad_row_and_the_file_goes_on() {
    let table = [
        ("<a>", "the text ends within <a> at byte 3 of the row"),
        ("<a", "the text ends within a tag at byte 2 of the row"),
        ("<a b='", "the text ends within a tag at byte 6 of the row"),
        ("<a/><a/>", "a second element after the document's at byte 4 of the row"),
        ("<!-- x -->", "there is no element at byte 10 of the row"),
        ("<a><!-- x", "the text ends within a comment, an instruction or a CDATA section at byte 9 of the row"),
        ("text", "expected '<', found 't' at byte 0 of the row"),
        (
            "<a>&x;</a>",
            "a reference to an entity that is none of the five of XML, or one without its ';' at byte 3 of the row",
        ),
        ("<a>&am", "the text ends where ';' after a reference is expected at byte 6 of the row"),
        ("<?xml version='1.0'?><a/>", "an XML declaration that is not at the begin at byte 0 of the row"),
        ("<x:a/>", "the prefix \"x\" is not declared at byte 1 of the row"),
    ];
    let mut file = "<?xml version='1.0'?>\n".to_owned();
    let mut expected = Vec::new();
    for (index, (row, problem)) in table.iter().enumerate() {
        file.push_str("<x:ok xmlns:x='urn:x'/>\r\n");
        expected.push((2 * index as u64 + 2, file.len() as u64, *problem));
        file.push_str(row);
        file.push_str("\n\n");
    }
    let outcome = judged(&xml_lines(), file.as_bytes());
    assert_eq!(outcome.bad(), expected);
    assert_eq!(outcome.good().len(), table.len());
}

#[test]
fn a_document_that_ends_early_is_truncated_and_keeps_its_rows() {
    let file = "<?xml version='1.0'?><r x='1'><a>1&amp;</a><!-- c --><b><![CDATA[é]]></b><?p q?><c d='>'/> </r>";
    let whole = decode(xml(), file.as_bytes());
    assert_eq!(whole.rows.len(), 3);
    for cut in 22..file.len() {
        let outcome = judged(&xml(), &file.as_bytes()[..cut]);
        assert_eq!(outcome.reason(), Reason::TruncatedFile, "cut at {cut}: {outcome:?}");
        assert_eq!(outcome.rows, whole.rows[..outcome.rows.len()]);
        assert_eq!(outcome.end.unwrap_err().2, cut as u64, "cut at {cut}");
    }
}

#[test]
fn the_children_of_the_documents_element_are_rows() {
    let file = b"<r y='1'> text <a>1</a><!-- x --><b/>&amp;<c><c/></c></r>";
    let outcome = judged(&xml(), file);
    assert_eq!(outcome.good(), [&b"<a>1</a>"[..], b"<b/>", b"<c><c/></c>"]);
    let offsets: Vec<u64> = outcome.rows.iter().map(Seen::offset).collect();
    assert_eq!(offsets, [15, 33, 42]);
    assert_eq!(judged(&xml(), b"<r>text</r>").end.unwrap().rows, 0);
}

#[test]
fn rows_by_name_are_found_at_any_level_but_not_in_rows() {
    let file = b"<x:r xmlns:x='urn:x'><head><x:i n='1'/></head><i><b><i>2</i></b></i><I/></x:r>";
    let outcome = judged(&xml_of("i"), file);
    assert_eq!(outcome.good(), [&b"<x:i n='1'/>"[..], b"<i><b><i>2</i></b></i>"]);
    assert_eq!(judged(&xml_of("r"), file).good().len(), 1, "the document's element may be the row");
    assert_eq!(judged(&xml_of("none"), file).end.unwrap().rows, 0);
}

/// Found by fuzzing: behind a reference that is cut, what stood before it was not looked at.
#[test]
fn what_is_no_character_is_told_wherever_the_text_ends() {
    for (file, offset) in [
        (&b"<im id=\"\x9b0&"[..], 8),
        (b"<a b='x\xffy&am", 7),
        (b"<a b='x\xef\xbf\xbf&#1", 7),
        (b"<a b='x' c\xff", 10),
        (b"<a>\xff&", 3),
        (b"<a>\xff]]", 3),
        (b"<a><!--\xff", 7),
    ] {
        let (reason, _, at, problem) = judged(&xml(), file).end.unwrap_err();
        assert!(reason == Reason::MalformedFile && at == offset, "{file:?}: {at}, {reason}: {problem}");
        let in_lines = decode_chunks(xml_lines(), file.chunks(3));
        assert_eq!(decode(xml_lines(), file), in_lines, "{file:?}");
        assert_eq!(in_lines.bad().len(), 1, "{file:?}");
    }
}

/// What rows are as fields: the mapping that `docs/wire.md` tells.
const MAPPING: &[(&str, &str)] = &[
    ("<r/>", "{}"),
    ("<r></r>", "{}"),
    ("<r>\n  </r>", "{}"),
    ("<r><a>x</a><b> y </b></r>", r#"{"a":"x","b":" y "}"#),
    ("<r><a/><b></b><c> </c></r>", r#"{"a":"","b":"","c":" "}"#),
    ("<r id='7' n=\"a&amp;b\"><a>x</a></r>", r##"{"@id":"7","@n":"a&b","a":"x"}"##),
    ("<r>text</r>", r##"{"#text":"text"}"##),
    ("<r>mixed <i>in</i> text</r>", r##"{"i":"in","#text":"mixed  text"}"##),
    ("<r><a id='1'>x</a></r>", r##"{"a":{"@id":"1","#text":"x"}}"##),
    ("<r><a id='1'/><b id='1'> </b></r>", r##"{"a":{"@id":"1"},"b":{"@id":"1"}}"##),
    ("<r><a><b>1</b><c><d>2</d></c></a></r>", r#"{"a":{"b":"1","c":{"d":"2"}}}"#),
    ("<r><a>\n <b>1</b>\n</a></r>", r#"{"a":{"b":"1"}}"#),
    ("<r><a>1</a><b>2</b><a>3</a><a/></r>", r#"{"a":["1","3",""],"b":"2"}"#),
    ("<r><l><i>1</i><i><x>2</x></i><j/><i>3</i></l></r>", r#"{"l":{"i":["1",{"x":"2"},"3"],"j":""}}"#),
    ("<r a='1'><a>2</a></r>", r##"{"@a":"1","a":"2"}"##),
    ("<r><a>1&lt;2&#x20AC;&#13;\r\n3\r4</a></r>", r#"{"a":"1<2€\r\n3\n4"}"#),
    ("<r a=' x\t\n\r\ny&#10;&#9; '/>", r##"{"@a":" x   y\n\t "}"##),
    ("<r><a><![CDATA[<x>&amp;]]>&amp;<!-- c --><?p q?>y</a></r>", r#"{"a":"<x>&amp;&y"}"#),
    ("<r><a><![CDATA[\r\n]]></a></r>", r#"{"a":"\n"}"#),
    (
        "<x:r xmlns:x='urn:x' xmlns='urn:y' x:a='1'><x:b>1</x:b><c xml:lang='en'>2</c></x:r>",
        r##"{"@a":"1","b":"1","c":{"@lang":"en","#text":"2"}}"##,
    ),
    ("<r xmlns:x='urn:x'><x:a>1</x:a><a>2</a></r>", r#"{"a":["1","2"]}"#),
    (
        "<r xmlns:i='http://www.w3.org/2001/XMLSchema-instance' i:type='t'><a i:nil='true'/><b i:nil=' 1 '></b><c i:nil='false'/>\
         <d i:nil='true'>x</d><e i:nil='true' f='1'/><g><a i:nil='true'/><h i:type='t'>1</h></g></r>",
        r#"{"a":null,"b":null,"c":"","d":"x","e":null,"g":{"a":null,"h":"1"}}"#,
    ),
    ("<r xmlns:a='urn:a' xmlns:b='urn:b' a:x='1' b:x='2'><x>3</x></r>", r##"{"@x":["1","2"],"x":"3"}"##),
    ("<r><nil>true</nil><a nil='true'/></r>", r##"{"nil":"true","a":{"@nil":"true"}}"##),
    ("<r><_deleted>true</_deleted><é>ü</é></r>", r#"{"_deleted":"true","é":"ü"}"#),
    ("<r><a>\"\\\u{7f}</a></r>", "{\"a\":\"\\\"\\\\\u{7f}\"}"),
];

#[test]
fn elements_are_fields_by_the_mapping() {
    for (row, json) in MAPPING {
        first_row(xml_lines(), row.replace('\n', "&#10;").replace('\r', "&#13;").as_bytes(), |row| {
            assert!(serde_json::from_str::<serde_json::Value>(&row.to_json()).is_ok());
        });
        let file = format!("<rows>{row}</rows>");
        first_row(xml(), file.as_bytes(), |read| {
            assert_eq!(read.to_json(), *json, "{row}");
            assert_eq!(read.raw(), row.as_bytes());
            // One field after the other gives the same.
            let mut fields = serde_json::Map::new();
            read.for_each(&mut |name, value| {
                assert_eq!(read.get(&FieldPath::name(&name)), value);
                let value = match value {
                    Field::Null => serde_json::Value::Null,
                    Field::Text(text) => text.into(),
                    Field::Nested(json) => serde_json::from_slice(&json).unwrap(),
                    other => panic!("XML has no {other:?}"),
                };
                fields.insert(name.into_owned(), value);
            });
            assert_eq!(fields, serde_json::from_str(json).unwrap());
        });
    }
}

/// What an attribute is about is decided by what its prefix is bound to where it stands, wherever batches are cut and in
/// whatever order rows come out of a file between.
#[test]
fn a_prefix_means_what_it_is_bound_to_where_it_stands() {
    const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
    let rows = [
        (format!("<r xmlns:i='{XSI}'><a i:nil='true'/></r>"), r#"{"a":null}"#),
        ("<r xmlns:i='urn:m'><d i:code='7'>x</d></r>".to_owned(), r##"{"d":{"@code":"7","#text":"x"}}"##),
        ("<r><a>1</a></r>".to_owned(), r#"{"a":"1"}"#),
        // By the declaration outside of all rows, and in and beside an element that declares it anew.
        ("<r><d o:code='7'>x</d><e o:nil='1'/></r>".to_owned(), r#"{"d":"x","e":null}"#),
        (
            "<r><d xmlns:o='urn:m' o:nil='1'><e o:t='2'/></d><d o:nil='1'/><f><g o:nil='1'/></f></r>".to_owned(),
            r##"{"d":[{"@nil":"1","e":{"@t":"2"}},null],"f":{"g":null}}"##,
        ),
        (
            format!(
                "<r xmlns:o='urn:m'><d xmlns:p='{}'><e p:nil='1'/><f p:t='1' o:t='2'/></d><d xml:lang='en'/></r>",
                XSI.replace('h', "&#x68;")
            ),
            r##"{"d":[{"e":null,"f":{"@t":"2"}},{"@lang":"en"}]}"##,
        ),
        // Bound by one child, and to something else outside of it.
        (
            format!(
                "<r xmlns:q='urn:m'><b xmlns:q='{XSI}' q:nil='1'/><c q:nil='1'/><b><c xmlns:q='{XSI}' q:nil='1'/></b></r>"
            ),
            r##"{"b":[null,{"c":null}],"c":{"@nil":"1"}}"##,
        ),
        ("<r o:type='t'><d><e o:type='t'>1</e></d></r>".to_owned(), r#"{"d":{"e":"1"}}"#),
    ];
    let file = format!("<rows xmlns:o='{XSI}'>{}</rows>", rows.iter().map(|(row, _)| row.as_str()).collect::<String>());
    let expected: Vec<&str> = rows.iter().map(|(_, json)| *json).collect();
    let json = |batches: &[RowBatch]| -> Vec<String> {
        batches.iter().flat_map(RowBatch::rows).map(|row| row.to_json().into_owned()).collect()
    };
    for cut in 0..file.len() {
        let (begin, rest) = file.as_bytes().split_at(cut);
        for batch_rows in [1, 2, 3, 100] {
            let options = DecodeOptions { batch_rows, ..xml() };
            let (batches, end) = decode_batches(options, [begin, rest]);
            assert_eq!(end.unwrap().bad_rows, 0);
            assert_eq!(json(&batches), expected, "cut at {cut}, {batch_rows} rows a batch");
        }
    }
    let batches = all_rows(xml(), file.as_bytes());
    let value = |row: usize, path: &str| batches[0].row(row).get(&FieldPath::parse(path).unwrap());
    assert_eq!((value(1, "d.@code"), value(1, "d.#text")), (text("7"), text("x")));
    assert_eq!(
        (value(3, "d.@code"), value(4, "d[0].e.@t"), value(6, "b[1].c")),
        (Field::Missing, text("2"), Field::Null)
    );

    let mut gathering = Gathering::like(&batches[0]);
    for row in batches[0].rows().collect::<Vec<_>>().into_iter().rev() {
        let mut packed = Vec::new();
        row.pack(&mut packed);
        gathering.add(&packed).unwrap();
    }
    let mut reversed = json(&gathering.take().unwrap());
    reversed.reverse();
    assert_eq!(reversed, expected);

    let lines: String =
        rows.iter().map(|(row, _)| format!("{}\n", row.replace("<r", &format!("<r xmlns:o='{XSI}'")))).collect();
    let lines = lines.replace(&format!("xmlns:o='{XSI}' xmlns:o="), "xmlns:o=");
    assert_eq!(json(&all_rows(xml_lines(), lines.as_bytes())), expected);
}

/// Prefixes are forgotten when their elements end.
#[test]
fn a_file_may_use_more_prefixes_than_may_be_declared_at_once() {
    let row = |n: usize| format!("<r xmlns:p{n}='http://www.w3.org/2001/XMLSchema-instance'><a p{n}:nil='1'/></r>");
    let file = format!("<rows>{}</rows>", (0..3_000).map(row).collect::<String>());
    let batches = all_rows(xml(), file.as_bytes());
    assert!(batches.iter().flat_map(RowBatch::rows).all(|row| row.to_json() == r#"{"a":null}"#));
    let size: usize = batches.iter().map(RowBatch::size).sum();
    assert!(size < 3 * file.len(), "{size} for {}", file.len());
}

/// To read all fields takes as long as there are fields, however many names they share.
#[test]
fn many_names_that_stand_often_are_read_in_one_pass() {
    let time_of = |names: usize| {
        const PLACES: usize = 60_000;
        let row: String = (0..PLACES).map(|at| format!("<a{}/>", 1_000 + at % names)).collect();
        let file = format!("<rows><r>{row}</r></rows>");
        first_row(xml(), file.as_bytes(), |row| {
            let began = std::time::Instant::now();
            let mut read = 0;
            row.for_each(&mut |_, value| read += matches!(value, Field::Nested(_)) as usize);
            let json = row.to_json();
            assert_eq!((read, json.matches("\"\"").count()), (names, PLACES));
            began.elapsed()
        })
    };
    let few = (0..3).map(|_| time_of(4)).min().unwrap();
    let many = (0..3).map(|_| time_of(4_000)).min().unwrap();
    // A pass for each name would take a thousand times as long.
    assert!(many < 50 * few, "{many:?} for many names, {few:?} for few");
}

#[test]
fn the_mapping_in_the_document_is_the_one_that_is_tested() {
    let document = include_str!("../../../docs/wire.md");
    let mut found = 0;
    for line in document.lines().filter(|line| line.starts_with("| `<row")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [row, json, ..] = cells[..] else { panic!("{line}") };
        let file = format!("<rows xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance' xmlns:g='urn:g'>{row}</rows>");
        first_row(xml(), file.as_bytes(), |read| {
            let value: serde_json::Value = serde_json::from_str(&read.to_json()).unwrap();
            assert_eq!(value, serde_json::from_str::<serde_json::Value>(json).unwrap(), "{row}");
        });
        found += 1;
    }
    assert!(found >= 8, "{found} examples");
}

#[test]
fn paths_lead_into_elements() {
    let row = "<r id='1'><a>x</a><o n='2'><p>3</p><p q='4'>5</p><e/></o><l>6</l><l><m>7</m><m>8</m></l>t&amp;</r>";
    let cases: &[(&str, Field<'_>)] = &[
        ("@id", text("1")),
        ("a", text("x")),
        ("a[0]", text("x")),
        ("a[1]", Field::Missing),
        ("a.#text", text("x")),
        ("a.b", Field::Missing),
        ("@id.x", Field::Missing),
        ("#text", text("t&")),
        ("#text.x", Field::Missing),
        ("o.@n", text("2")),
        ("o[0].@n", text("2")),
        ("o.@m", Field::Missing),
        ("o.#text", Field::Missing),
        ("o.p[0]", text("3")),
        ("o.p[1].#text", text("5")),
        ("o.p[1].@q", text("4")),
        ("o.p[2]", Field::Missing),
        ("o.p", Field::Nested(br##"["3",{"@q":"4","#text":"5"}]"##.into())),
        ("o.p.@q", Field::Missing),
        ("o.e", text("")),
        ("l", Field::Nested(br#"["6",{"m":["7","8"]}]"#.into())),
        ("l[0]", text("6")),
        ("l[1].m[1]", text("8")),
        ("l[1].m[1][0]", text("8")),
        ("l.m", Field::Missing),
        ("r", Field::Missing),
    ];
    let file = format!("<rows><other/>{row}</rows>");
    let batches = all_rows(xml(), file.as_bytes());
    let row = batches[0].row(1);
    let paths: Vec<FieldPath> = cases.iter().map(|(path, _)| FieldPath::parse(path).unwrap()).collect();
    let mut values = Vec::new();
    row.get_many(&paths, &mut values);
    for (((path, expected), compiled), value) in cases.iter().zip(&paths).zip(&values) {
        assert_eq!(row.get(compiled), *expected, "{path}");
        assert_eq!(value, expected, "{path}");
    }
    assert!(matches!(row.get(&paths[1]), Field::Text(Cow::Borrowed(_))), "plain text is not copied");
}

#[test]
fn rows_that_are_too_deep_or_too_wide_are_bad_rows_and_the_file_goes_on() {
    let mut options = xml();
    options.limits.nesting_max = 3;
    options.limits.columns_max = 3;
    let file =
        "<r><a><b><c/></b></a><a><b><c><d/></c></b></a><a w='1' x='2'><y/><y/></a><a w='1' x='2'><y/><z/></a><a/></r>";
    let outcome = judged(&options, file.as_bytes());
    assert_eq!(
        outcome.bad(),
        [
            (2, 21, "nested deeper than the limit of 3 levels at byte 9 of the row"),
            (4, 73, "there are 4 fields, over the limit of 3 (columns_max)")
        ]
    );
    assert_eq!(outcome.good().len(), 3);
}

#[test]
fn a_row_over_the_limit_is_a_bad_row_and_still_has_to_be_well_formed() {
    let mut options = xml();
    options.limits.row_bytes_max = 20;
    let problem = "the row is longer than the limit of 20 bytes (row_bytes_max)";
    let file =
        "<rows><a>0123456789abc</a><a>0123456789abcd</a><a><b/><b/><b/>xxxxxxxxxxxxxxxxxxx<!-- c --></a><a/></rows>";
    let outcome = judged(&options, file.as_bytes());
    assert_eq!(outcome.bad(), [(2, 26, problem), (3, 47, problem)]);
    assert_eq!(outcome.good(), [&b"<a>0123456789abc</a>"[..], b"<a/>"]);
    let outcome = judged(&options, b"<r><a/><a>xxxxxxxxxxxxxxxxxxxxxxxx<b></c></b></a></r>");
    let problem = "another end tag than </b>, which is expected here".to_owned();
    assert_eq!(outcome.end, Err((Reason::MalformedFile, 2, 37, problem)));
    let name = "n".repeat(18);
    let end_tag = format!("<r><a><{name}></{name}></a></r>");
    for (file, at) in [("<r><a b='xxxxxxxxxxxxxxxxxxxxx'/></r>", 3), (&end_tag, 26)] {
        let outcome = judged(&options, file.as_bytes());
        let problem = "a tag longer than the limit of 20 bytes (row_bytes_max)".to_owned();
        assert_eq!(outcome.end, Err((Reason::MalformedFile, 1, at, problem)), "{file}");
    }
}

#[test]
fn rows_of_changing_shape_keep_their_fields() {
    let rows: Vec<(String, String)> = (0..60)
        .map(|n| {
            let fields: Vec<usize> = (0..40).filter(|field| (n * 7 + field * 5) % (field % 7 + 2) == 0).collect();
            let attribute = if n % 3 == 0 { format!(" a{}='{n}'", n % 2) } else { String::new() };
            let elements: String = fields.iter().map(|field| format!("<f{0}>{n}</f{0}>", field % 30)).collect();
            let mut object = serde_json::Map::new();
            if n % 3 == 0 {
                object.insert(format!("@a{}", n % 2), n.to_string().into());
            }
            for field in &fields {
                let name = format!("f{}", field % 30);
                let value = serde_json::Value::from(n.to_string());
                let merged = match object.remove(&name) {
                    None => value,
                    Some(serde_json::Value::Array(mut many)) => {
                        many.push(value);
                        many.into()
                    }
                    Some(one) => vec![one, value].into(),
                };
                object.insert(name, merged);
            }
            (format!("<r{attribute}>{elements}</r>"), serde_json::Value::Object(object).to_string())
        })
        .collect();
    let file = format!("<rows>{}</rows>", rows.iter().map(|(xml, _)| xml.as_str()).collect::<String>());
    let mut options = xml();
    options.batch_rows = 7;
    let (batches, end) = decode_batches(options, file.as_bytes().chunks(50));
    assert_eq!(end.unwrap().rows, 60);
    for (row, (_, json)) in batches.iter().flat_map(RowBatch::rows).zip(&rows) {
        let found: serde_json::Value = serde_json::from_str(&row.to_json()).unwrap();
        assert_eq!(found, serde_json::from_str::<serde_json::Value>(json).unwrap());
    }
}

/// An element, as text and as the value that the mapping gives it.
fn element(name: &'static str) -> impl Strategy<Value = (String, serde_json::Value)> {
    let content = "[ a<&>\"'\r\n\t]\\]é€]{0,6}".prop_map(|text| {
        let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\r', "&#xD;");
        (escaped, text)
    });
    let leaf = (content, any::<bool>()).prop_map(move |((escaped, text), cdata)| {
        let inner = match cdata && !text.contains("]]>") && !text.contains('\r') {
            true => format!("<![CDATA[{text}]]>"),
            false => escaped,
        };
        (format!("<{name}>{inner}</{name}>"), serde_json::Value::from(text))
    });
    let with_attribute = (leaf.clone(), "[a-z<&'\n]{0,4}").prop_map(move |((element, value), attribute)| {
        let escaped =
            attribute.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;").replace('\n', "&#10;");
        let element = element.replacen(&format!("<{name}"), &format!("<{name} x = '{escaped}'"), 1);
        let mut object = serde_json::Map::from_iter([("@x".to_owned(), attribute.into())]);
        if value.as_str().is_some_and(|text| text.bytes().any(|byte| !byte.is_ascii_whitespace())) {
            object.insert("#text".to_owned(), value);
        }
        (element, object.into())
    });
    prop_oneof![leaf, with_attribute]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn values_come_back_from_any_document(
        rows in prop::collection::vec((element("a"), prop::option::of(element("b")), prop::collection::vec(element("c"), 0..3)), 0..4),
        size in 1_usize..30,
        batch_bytes in 1_usize..100,
    ) {
        let mut file = "<?xml version=\"1.0\"?>\n<rows>\n".to_owned();
        let mut expected = Vec::new();
        for ((a, a_value), b, c) in &rows {
            let mut object = serde_json::Map::from_iter([("a".to_owned(), a_value.clone())]);
            let mut row = a.clone();
            if let Some((b, value)) = b {
                row.push_str(&format!("<wrap>{b}</wrap>"));
                object.insert("wrap".to_owned(), serde_json::json!({ "b": value }));
            }
            match c.as_slice() {
                [] => {}
                [(_, one)] => drop(object.insert("c".to_owned(), one.clone())),
                many => drop(object.insert("c".to_owned(), many.iter().map(|(_, value)| value.clone()).collect())),
            }
            row.extend(c.iter().map(|(c, _)| c.as_str()));
            file.push_str(&format!("<row>{row}</row>\n"));
            expected.push(serde_json::Value::Object(object));
        }
        file.push_str("</rows>");
        let mut options = xml();
        options.batch_bytes = batch_bytes;
        let (batches, end) = decode_batches(options, file.as_bytes().chunks(size));
        let stats = end.unwrap();
        prop_assert_eq!((stats.rows, stats.bad_rows), (rows.len() as u64, 0));
        for (row, expected) in batches.iter().flat_map(RowBatch::rows).zip(&expected) {
            let found: serde_json::Value = serde_json::from_str(&row.to_json()).unwrap();
            prop_assert_eq!(&found, expected);
        }
    }
}
