//! What predicates mean, what is refused, and that `cel`'s own interpreter agrees.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use waybill_contracts::ColumnType::{Boolean, Date, Decimal, Float, Integer, Json, Text, Timestamp, Uuid};

use super::*;
use crate::{DecodeOptions, RowBatch, RowDecoder, Source, Step};

fn decode(source: Source, text: &str) -> RowBatch {
    let mut decoder = RowDecoder::new(DecodeOptions::new(source));
    decoder.feed(Bytes::copy_from_slice(text.as_bytes()));
    decoder.end();
    match decoder.next().unwrap() {
        Step::Batch(batch) => batch,
        other => panic!("{other:?}"),
    }
}

fn json(row: &str) -> RowBatch {
    decode(Source::JsonLines, row)
}

const TYPED: [(&str, Option<ColumnType>); 10] = [
    ("i", Some(Integer)),
    ("d", Some(Decimal)),
    ("f", Some(Float)),
    ("b", Some(Boolean)),
    ("t", Some(Text)),
    ("at", Some(Timestamp)),
    ("day", Some(Date)),
    ("id", Some(Uuid)),
    ("doc", Some(Json)),
    ("known", None),
];

fn compile(text: &str) -> Result<RowFilter, FilterError> {
    RowFilter::compile(text, &FilterColumns { columns: TYPED.to_vec(), is_closed: false })
}

fn ask(text: &str, batch: &RowBatch) -> Result<bool, String> {
    let filter = compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    filter.matches(&batch.row(0), &mut FilterFields::default()).map_err(|fault| fault.to_string())
}

#[test]
fn columns_compare_by_their_types_whatever_the_format() {
    let from_json = json(
        r#"{"i":7,"d":19.90,"f":0.1,"b":true,"t":"Größe","at":"2026-01-01T00:00:00.5Z","day":"2026-01-01","id":"a1","doc":{"a":[1,{"b":"x"}]}}"#,
    );
    let csv = "i,d,f,b,t,at,day,id,doc\n007,19.90,1e-1,1,Größe,2026-01-01 01:00:00.500+01:00,2026-01-01,a1,\"{\"\"a\"\":[1,{\"\"b\"\":\"\"x\"\"}]}\"\n";
    let from_csv = decode(Source::Csv { columns: None, delimiter: b',' }, csv);
    for (text, expected) in [
        ("row.i == 7", true),
        ("row.i > 6.99", true),
        ("row.i < 7.0000000000000000000001", true),
        ("row.d == 19.9", true),
        ("row.d > 19.8999999999999999999999999", true),
        ("row.d >= 19.90000000000000000000000001", false),
        ("row.d > 10.0 && row.d < 20", true),
        ("row.d in [1, 19.9]", true),
        ("row.f == 0.1", true),
        ("row.f * 2.0 == 0.2", true),
        ("row.b", true),
        ("!row.b || row.i == 8", false),
        ("row.b == true", true),
        ("row.t == 'Größe' && size(row.t) == 5", true),
        ("row.t.startsWith('Grö') && row.t.endsWith('ße') && row.t.contains('öß')", true),
        ("row.t.matches('^Gr.{2}e$')", true),
        ("row.t.lowerAscii() == 'größe'", true),
        ("row.at == timestamp('2026-01-01T00:00:00.500Z')", true),
        ("row.at > timestamp('2025-12-31T23:59:59+00:00')", true),
        ("row.at < timestamp('2026-01-01T00:00:00.49Z')", false),
        ("row.day >= '2026-01-01' && row.day < '2026-02-01'", true),
        ("row.id == 'a1'", true),
        ("row.doc.a[0] == 1 && row.doc.a[1].b == 'x' && row.doc['a'][2] == null", true),
        ("row.doc.a.exists(x, x == 1) && size(row.doc.a) == 2 && 'a' in row.doc", true),
        ("row.i in [1, 2, 3, 7]", true),
        ("row.i + 1 == 8 && row.i % 2 == 1 && -row.i == -7 && row.i / 2 == 3", true),
        ("(row.i > 5 ? row.t : 'x') == 'Größe'", true),
        ("has(row.i) && !has(row.nothing) && row.nothing == null && row.i != null", true),
        ("string(row.d) == '19.90' && int(row.f * 100.0) == 10 && double(row.d) > 19.8", true),
        ("decimal(string(row.i) == '7' ? '1' : '2') == 1 || row.b", true),
    ] {
        assert_eq!(ask(text, &from_json), Ok(expected), "{text} of JSON");
        assert_eq!(ask(text, &from_csv), Ok(expected), "{text} of CSV");
    }
}

#[test]
fn what_is_not_declared_is_what_the_row_says() {
    let row = json(
        r#"{"n":19.90,"big":123456789012345678901234567890,"s":"5","o":{"k":null,"t":["a","b"]},"z":null,"e":"caf\u00e9"}"#,
    );
    for (text, expected) in [
        ("row.n == 19.9 && row.n < 19.90000000000000001", true),
        ("row.big > 123456789012345678901234567889.0 && row.big < 1e30", true),
        ("row.s == '5' && int(row.s) == 5 && decimal(row.s) < 5.1", true),
        ("row.o.t == ['a', 'b'] && row.o.t.all(x, x < 'c') && !row.o.t.exists(x, x == 'c')", true),
        ("row.o.t.map(x, x + '!') == ['a!', 'b!'] && row.o.t.filter(x, x > 'a') == ['b']", true),
        ("row.o.t.exists_one(x, x == 'a') && row.o.t.map(x, x == 'b', x)[0] == 'b'", true),
        ("row.o.k == null && row.z == null && row.o.nothing.deeper == null && !has(row.o.k)", true),
        ("row.e == 'café'", true),
        ("row.`o`.t[1] == 'b' && row['s'] == '5'", true),
        ("row.n in [1, 2]", false),
    ] {
        assert_eq!(ask(text, &row), Ok(expected), "{text}");
    }
}

#[test]
fn a_row_that_cannot_be_judged_is_said_to_be_so() {
    let row = json(
        r#"{"i":"x","d":"","f":[1],"b":"maybe","at":"2026-01-01","s":"5","n":5,"z":null,"o":{"k":1},"l":[1,"a"]}"#,
    );
    for (text, problem) in [
        ("row.d > 1.0", "row.d is \"\", no decimal"),
        ("row.i == 1", "row.i is \"x\", no integer"),
        ("row.f > 1.0", "row.f is an object or array, no float"),
        ("row.b", "row.b is \"maybe\", no boolean"),
        ("row.at > timestamp('2026-01-01T00:00:00Z')", "row.at is \"2026-01-01\", no timestamp"),
        ("row.z > 1", "`>` cannot compare row.z (null) with 1"),
        ("row.nothing > 1", "`>` cannot compare row.nothing (null) with 1"),
        ("row.s == 5", "row.s (\"5\") cannot be equal to 5; declare the column's type, or convert"),
        ("row.s in [1, 2]", "row.s (\"5\") cannot be equal to 1; declare the column's type, or convert"),
        ("row.n", "row.n (5) is neither true nor false"),
        ("row.z", "row.z (null) is neither true nor false"),
        ("row.n.k == 1", "row.n (5) is no object, so it has no \"k\""),
        ("row.s.exists(x, x == '5')", "a loop goes over a list, and row.s (\"5\") is none"),
        ("row.l.exists(x, x == 2)", "\"a\" cannot be equal to 2; declare the column's type, or convert"),
        ("row.n / 0 == 1", "5 / 0"),
        ("row.n * 9223372036854775807 == 1", "5 * 9223372036854775807 is beyond 64 bits"),
        ("timestamp(row.s) == timestamp(row.s)", "timestamp() does not take row.s (\"5\")"),
        ("row.n + row.s == 1", "`+` of 5 and \"5\": both have to be integers"),
    ] {
        let found = ask(text, &row).expect_err(text);
        assert!(found.starts_with(problem), "{text}: {found}");
    }
    // One side that decides is enough, whichever it is.
    for (text, expected) in [
        ("row.z > 1 || row.n == 5", true),
        ("row.n == 5 || row.z > 1", true),
        ("row.z > 1 && row.n == 4", false),
        ("row.l.exists(x, x == 'a') && !row.l.all(x, x == 2)", true),
    ] {
        assert_eq!(ask(text, &row), Ok(expected), "{text}");
    }
}

#[test]
fn in_xml_an_element_that_stands_once_is_its_own_list() {
    let one = decode(Source::Xml { row: None }, "<rows><row n=\"7\"><tag>a</tag></row></rows>");
    let two = decode(Source::Xml { row: None }, "<rows><row n=\"7\"><tag>a</tag><tag>b</tag></row></rows>");
    for batch in [&one, &two] {
        assert_eq!(ask("row.tag.exists(t, t == 'a') && row.tag[0] == 'a' && int(row['@n']) == 7", batch), Ok(true));
    }
    assert_eq!(ask("row.tag.exists(t, t == 'b')", &two), Ok(true));
    assert_eq!(ask("row.tag.exists(t, t == 'b')", &one), Ok(false));
}

#[test]
fn what_cannot_be_right_is_refused_before_there_is_a_row() {
    for (text, at, problem) in [
        ("", 0, "not CEL: something is missing here"),
        ("row.d >", 7, "not CEL: something is missing here"),
        ("row.d > 1 &&\n  ]", 15, "not CEL: mismatched input ']'"),
        ("row.t == 'é' && (row.b", 22, "not CEL: "),
        ("row.d > \"a\"", 6, "`>` cannot compare a decimal with text; a number is written without quotes"),
        ("'é' == row.d", 4, "text never equals a decimal"),
        ("row.at > '2026-01-01'", 7, "`>` cannot compare a timestamp with text; write timestamp("),
        ("row.d > null", 6, "`>` cannot compare a decimal with null; only == and != take null"),
        ("row.b == 1", 6, "a boolean never equals an integer"),
        ("row.d in [1, 'a']", 13, "a decimal never equals text"),
        ("row.t in 'abc'", 6, "`in` looks into a list, not into text"),
        ("row.d * 2.0 > 1.0", 6, "`*` of a decimal and a float: decimals are compared exactly and not calculated with"),
        ("row.i * 2.0 > 1.0", 6, "`*` of an integer and a float: both have to be integers"),
        ("d > 1", 0, "unknown name \"d\"; a field of the row is written row.d"),
        ("row == 1", 0, "`row` is the whole row; name a field of it"),
        ("now() > row.at", 3, "unknown function \"now\"; there are size, startsWith"),
        ("row.d.size() > 1", 3, "size() does not take a decimal"),
        ("row.d", 3, "the predicate is a decimal; it has to be true or false"),
        ("row.t && true", 3, "this is text; here it has to be true or false"),
        ("row.t.x == 1", 3, "this is text, which has no member \"x\""),
        ("row.i[0] == 1", 3, "this is an integer, which has no elements"),
        ("row.t.matches(row.t)", 17, "the pattern of matches() has to stand here as text"),
        ("row.t.matches('(')", 14, "no pattern: unclosed group"),
        ("timestamp('2026-01-01') < row.at", 10, "\"2026-01-01\" is no timestamp such as"),
        ("row.x.exists(x)", 12, "exists() takes a name and what to ask of each element"),
        ("{'a': 1}.a == 1", 0, "objects cannot be written in a filter"),
        ("99999999999999999999 > row.i", 0, "not CEL: invalid int literal"),
        ("has(row)", 4, "has() takes a field"),
        ("row.x.?y == 1", 0, ""),
    ] {
        let error = compile(text).expect_err(text);
        assert!(error.problem.starts_with(problem), "{text}: {error:?}");
        if !problem.is_empty() && !problem.ends_with("CEL: ") {
            assert_eq!(error.at, at, "{text}: {error:?}");
        }
    }
    let closed = FilterColumns { columns: TYPED.to_vec(), is_closed: true };
    let error = RowFilter::compile("row.known == 1 && row.price > 1", &closed).unwrap_err();
    assert_eq!(
        error.to_string(),
        "at character 22: unknown column \"price\"; with schema = \"freeze\" there are i, d, f, b, t, at, day, id, doc, known"
    );
}

#[test]
fn deep_long_and_costly_predicates_end_in_an_error() {
    for text in [
        format!("{}true{}", "(".repeat(2_000), ")".repeat(2_000)),
        format!("{}true", "!(".repeat(100)),
        format!("row.a{} == 1", ".b".repeat(4_000)),
        format!("0{} == row.i", "-1".repeat(4_000)),
        format!("row.t == '{}'", "x".repeat(TEXT_BYTES_MAX)),
        format!("{}1{} == row.x", "[".repeat(80), "]".repeat(80)),
        "[".repeat(TEXT_BYTES_MAX),
        format!("row.x{} == 1", "[0]".repeat(2_700)),
    ] {
        let error = compile(&text).expect_err("too much");
        assert!(!error.problem.is_empty());
    }
    let wide = vec!["row.i == 1"; 500].join(" || ");
    assert_eq!(ask(&wide, &json(r#"{"i":1}"#)), Ok(true), "wide is not deep");

    let long = format!("{{\"l\":[{}]}}", vec!["1"; 5_000].join(","));
    let row = json(&long);
    assert_eq!(ask("row.l.all(x, x == 1)", &row), Ok(true));
    let problem = ask("row.l.all(x, row.l.all(y, row.l.all(z, x + y + z == 3)))", &row).unwrap_err();
    assert!(problem.starts_with("it takes more than 1000000 steps"), "{problem}");
    let text = json(&format!("{{\"l\":[{}],\"s\":\"{}\"}}", vec!["1"; 5_000].join(","), "x".repeat(1 << 20)));
    let problem = ask("row.l.map(x, row.s + row.s) == []", &text).unwrap_err();
    assert!(problem.starts_with("it takes more than 1000000 steps"), "{problem}");
}

/// Predicates over integers, texts, booleans and lists of JSON, where our types are those of `cel`.
fn predicate() -> impl Strategy<Value = String> {
    let integer = prop_oneof![
        (-3..4_i64).prop_map(|number| number.to_string()),
        prop::sample::select(vec!["row.a", "row.b", "size(row.s)", "size(row.l)", "row.l[0]", "row.o.k"])
            .prop_map(str::to_owned),
    ];
    let integer = integer.prop_recursive(2, 8, 2, |inner| {
        (inner.clone(), prop::sample::select(vec!["+", "-", "*", "/", "%"]), inner)
            .prop_map(|(a, operator, b)| format!("({a} {operator} {b})"))
    });
    let text =
        prop::sample::select(vec!["row.s", "row.t", "'a'", "'ab'", "''", "(row.s + 'b')"]).prop_map(str::to_owned);
    let comparison = prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]);
    let leaf = prop_oneof![
        (integer.clone(), comparison.clone(), integer.clone())
            .prop_map(|(a, operator, b)| format!("{a} {operator} {b}")),
        (text.clone(), comparison, text.clone()).prop_map(|(a, operator, b)| format!("{a} {operator} {b}")),
        (text.clone(), prop::sample::select(vec!["startsWith", "endsWith", "contains"]), text)
            .prop_map(|(a, function, b)| format!("{a}.{function}({b})")),
        integer.clone().prop_map(|a| format!("{a} in [0, 1, 2]")),
        integer.clone().prop_map(|a| format!("{a} in row.l")),
        Just("row.q".to_owned()),
        (prop::sample::select(vec!["all", "exists", "exists_one"]), integer)
            .prop_map(|(name, a)| format!("row.l.{name}(x, x > {a})")),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
            inner.clone().prop_map(|a| format!("!({a})")),
            (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
        ]
    })
}

#[derive(Debug, Clone)]
struct Values {
    a: i64,
    b: i64,
    s: String,
    t: String,
    q: bool,
    l: Vec<i64>,
    k: i64,
}

fn values() -> impl Strategy<Value = Values> {
    let number = || prop_oneof![6 => -3..4_i64, 1 => Just(i64::MAX), 1 => Just(i64::MIN)];
    let numbers = (number(), number(), number(), prop::collection::vec(number(), 0..4));
    (numbers, "[ab]{0,2}", "[ab]{0,2}", any::<bool>()).prop_map(|((a, b, k, l), s, t, q)| Values {
        a,
        b,
        s,
        t,
        q,
        l,
        k,
    })
}

/// What `cel`'s own interpreter says; `None`: an error.
fn by_cel(text: &str, values: &Values) -> Option<bool> {
    use std::collections::HashMap;
    let env = cel::Env::stdlib();
    let program = env.compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let mut context = cel::Context::with_env(Arc::new(env));
    let object = HashMap::from([("k".to_owned(), cel::Value::from(values.k))]);
    let list = cel::Value::List(Arc::new(values.l.iter().map(|number| cel::Value::from(*number)).collect()));
    let row = HashMap::from([
        ("a".to_owned(), cel::Value::from(values.a)),
        ("b".to_owned(), cel::Value::from(values.b)),
        ("s".to_owned(), cel::Value::from(values.s.clone())),
        ("t".to_owned(), cel::Value::from(values.t.clone())),
        ("q".to_owned(), cel::Value::from(values.q)),
        ("l".to_owned(), list),
        ("o".to_owned(), cel::Value::from(object)),
    ]);
    context.add_variable("row", cel::Value::from(row)).unwrap();
    match program.execute(&context) {
        Ok(cel::Value::Bool(value)) => Some(value),
        Ok(other) => panic!("{text}: {other:?}"),
        Err(_) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn predicates_say_what_the_interpreter_of_cel_says(text in predicate(), values in values()) {
        let Values { a, b, s, t, q, l, k } = &values;
        let row = json(&format!(r#"{{"a":{a},"b":{b},"s":"{s}","t":"{t}","q":{q},"l":{l:?},"o":{{"k":{k}}}}}"#));
        let expected = by_cel(&text, &values);
        for columns in [vec![], vec![("a", Some(Integer)), ("b", Some(Integer)), ("s", Some(Text)), ("q", Some(Boolean)), ("l", Some(Json))]] {
            let filter = RowFilter::compile(&text, &FilterColumns { columns, is_closed: false });
            let filter = filter.unwrap_or_else(|error| panic!("{text}: {error}"));
            let found = filter.matches(&row.row(0), &mut FilterFields::default());
            // An element beyond the end is null here and an error there; both keep a comparison from being true.
            if text.contains("[0]") && l.is_empty() {
                continue;
            }
            prop_assert_eq!(found.as_ref().ok().copied(), expected, "{} of {:?}: {:?}", text, values, found);
        }
    }

    #[test]
    fn any_text_is_a_predicate_or_an_error(text in "[ -~é]{0,40}", tail in prop::sample::select(vec!["", " > 1", ".exists(x, x)", "(row.a)"])) {
        let text = format!("{text}{tail}");
        if let Ok(filter) = compile(&text) {
            let row = json(r#"{"a":1}"#);
            let _any = filter.matches(&row.row(0), &mut FilterFields::default());
        }
    }
}

#[test]
fn what_other_languages_say_is_answered_with_what_cel_says() {
    for (text, at, wanted) in [
        ("row.a = 1", 6, "not CEL: instead of `=` write =="),
        ("row.a=1", 5, "not CEL: instead of `=` write =="),
        ("row.a == 'ä' && row.b = 2", 22, "not CEL: instead of `=` write =="),
        ("row.a <> 1", 7, "not CEL: instead of `<>` write !="),
        ("row.a == 1 AND row.b == 2", 11, "not CEL: instead of `AND` write &&"),
        ("row.a == 1 and row.b == 2", 11, "not CEL: instead of `and` write &&"),
        ("row.a == 1 OR row.b == 2", 11, "not CEL: instead of `OR` write ||"),
        ("row.a == 1 & row.b == 2", 11, "not CEL: instead of `&` write &&"),
        ("NOT row.a == 1", 4, "not CEL: instead of `NOT` write ! (as in !(row.a == 1))"),
        ("not (row.a == 1)", 4, "unknown function \"not\"; write !(…)"),
        ("row.a IS NULL", 6, "not CEL: instead of `IS` write == or != (as in row.a == null)"),
        ("row.a == NULL", 9, "unknown name \"NULL\"; write null"),
        ("row.a == None", 9, "unknown name \"None\"; write null"),
        ("row.a == True", 9, "unknown name \"True\"; write true"),
    ] {
        let error = compile(text).unwrap_err();
        assert_eq!((error.at, error.problem.as_str()), (at, wanted), "{text}");
    }
    let like = compile("row.a LIKE 'x%'").unwrap_err().problem;
    assert!(like.starts_with("not CEL: instead of `LIKE` write startsWith, endsWith"), "{like}");
    // What only looks like it is told as before.
    for text in ["row.a >", "row.a == == 1", "row.and ==", "(row.a == 1"] {
        let error = compile(text).unwrap_err();
        assert!(error.problem.starts_with("not CEL: ") && !error.problem.contains("instead of"), "{text}: {error}");
    }
    compile("row.NOT == 1 && row.or == 2 && row.like == 3").unwrap();
}
