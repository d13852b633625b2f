//! Reading values: as written, the first of repeated names, at any depth.

use proptest::prelude::*;

use super::*;
use crate::FieldPath;

fn path(text: &str) -> FieldPath {
    FieldPath::parse(text).unwrap()
}

#[test]
fn values_are_as_written() {
    let row = br#" { "t" : "caf\u00e9 \"\ud83d\ude00\" / \/", "b":true,"f":false,"z":null, "o":{"x":1} , "a":[ 1, 2 ],"e":"" } "#;
    first_row(json_lines(), row, |row| {
        assert_eq!(row.get(&path("t")), text("café \"😀\" / /"));
        assert_eq!(row.get(&path("b")), Field::Bool(true));
        assert_eq!(row.get(&path("f")), Field::Bool(false));
        assert_eq!(row.get(&path("z")), Field::Null);
        assert_eq!(row.get(&path("o")), Field::Nested(b"{\"x\":1}".into()));
        assert_eq!(row.get(&path("a")), Field::Nested(b"[ 1, 2 ]".into()));
        assert_eq!(row.get(&path("e")), text(""));
        assert_eq!(row.get(&path("none")), Field::Missing);
        assert!(matches!(row.get(&path("e")), Field::Text(Cow::Borrowed(_))), "no escapes, no copy");
    });
}

#[test]
fn numbers_are_unchanged() {
    for number in [
        "0",
        "-0",
        "19.90",
        "0.10",
        "1E400",
        "-1e-400",
        "1.0",
        "100000000000000000000000000000",
        "0.1234567890123456789012345678901",
        "9007199254740993",
        "1e5",
        "1E+05",
        "0e0",
        "-0.0",
    ] {
        let line = format!("{{\"deep\":[{{\"n\":{number}}}],\"n\":{number} }}");
        first_row(json_lines(), line.as_bytes(), |row| {
            assert_eq!(row.get(&path("n")), Field::Number(number));
            assert_eq!(row.get(&path("deep[0].n")), Field::Number(number));
            assert_eq!(row.to_json(), line);
        });
    }
}

#[test]
fn the_first_of_repeated_names_wins_everywhere() {
    let line = br#"{"a":1,"b":{"x":"first","x":2,"\u0078":3},"a":2,"\u0061":3,"b":{"x":4,"y":5},"c":null,"c":6}"#;
    first_row(json_lines(), line, |row| {
        assert_eq!(row.get(&path("a")), Field::Number("1"));
        assert_eq!(row.get(&path("b.x")), text("first"));
        assert_eq!(row.get(&path("b.y")), Field::Missing, "the second b is not looked at");
        assert_eq!(row.get(&path("c")), Field::Null, "a null is a value");
        let mut values = Vec::new();
        row.get_many(&[path("c"), path("b.y"), path("a"), path("b.x"), path("a")], &mut values);
        assert_eq!(values, [Field::Null, Field::Missing, Field::Number("1"), text("first"), Field::Number("1")]);
        let mut seen = Vec::new();
        row.for_each(&mut |name, value| seen.push((name.into_owned(), value)));
        let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(seen[0].1, Field::Number("1"));
        let mut written = Vec::new();
        row.for_each_written(&mut |name, value| written.push((name.into_owned(), value)));
        let names: Vec<&str> = written.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b", "a", "a", "b", "c", "c"], "as they stand");
        assert_eq!((&written[2].1, &written[6].1), (&Field::Number("2"), &Field::Number("6")));
    });
}

#[test]
fn an_escaped_name_is_its_unescaped_self() {
    first_row(json_lines(), br#"{"\u0070rice":1,"tab\t":2,"a.b":3,"":4}"#, |row| {
        assert_eq!(row.get(&path("price")), Field::Number("1"));
        assert_eq!(row.get(&FieldPath::name("tab\t")), Field::Number("2"));
        assert_eq!(row.get(&FieldPath::name("a.b")), Field::Number("3"));
        assert_eq!(row.get(&path("a.b")), Field::Missing);
        assert_eq!(row.get(&path("\"\"")), Field::Number("4"));
        let mut names = Vec::new();
        row.for_each(&mut |name, _| names.push(name.into_owned()));
        assert_eq!(names, ["price", "tab\t", "a.b", ""]);
    });
}

#[test]
fn a_path_leads_into_objects_and_arrays() {
    let line = br#"{"a":{"x":[10,{"y":"}]\"","z":[[],[true]]} , null ],"t":"text","e":{},"n":[]}}"#;
    first_row(json_lines(), line, |row| {
        assert_eq!(row.get(&path("a.x[0]")), Field::Number("10"));
        assert_eq!(row.get(&path("a.x[1].y")), text("}]\""));
        assert_eq!(row.get(&path("a.x[1].z[1][0]")), Field::Bool(true));
        assert_eq!(row.get(&path("a.x[1].z[0]")), Field::Nested(b"[]".into()));
        assert_eq!(row.get(&path("a.x[2]")), Field::Null);
        for missing in ["a.x[3]", "a.y", "a[0]", "a.x.y", "a.t.u", "a.t[0]", "a.e.x", "a.n[0]", "a.x[2].y", "b.c"] {
            assert_eq!(row.get(&path(missing)), Field::Missing, "{missing}");
        }
    });
}

#[test]
fn many_paths_are_found_in_any_order_and_number() {
    let line: Vec<String> = (0..200).map(|n| format!("\"f{n}\":{n}")).collect();
    let line = format!("{{{}}}", line.join(","));
    let paths: Vec<FieldPath> = (0..210).rev().map(|n| FieldPath::name(&format!("f{n}"))).collect();
    first_row(json_lines(), line.as_bytes(), |row| {
        let mut values = vec![Field::Null; 3];
        row.get_many(&paths, &mut values);
        assert_eq!(values.len(), 210);
        for (path, value) in paths.iter().zip(&values) {
            assert_eq!(*value, row.get(path), "{path}");
        }
        assert_eq!(values[0], Field::Missing);
        assert_eq!(values[209], Field::Number("0"));
        row.get_many(&[], &mut values);
        assert!(values.is_empty());
    });
}

#[test]
fn a_row_with_very_many_fields_still_shows_each_name_once() {
    let line: Vec<String> = (0..300).map(|n| format!("\"f{}\":{n}", n % 100)).collect();
    let line = format!("{{{}}}", line.join(","));
    first_row(json_lines(), line.as_bytes(), |row| {
        let mut seen = Vec::new();
        row.for_each(&mut |name, value| seen.push((name.into_owned(), value)));
        assert_eq!(seen.len(), 100);
        assert!(seen.iter().enumerate().all(|(n, (_, value))| *value == Field::Number(&n.to_string())));
    });
}

#[test]
fn csv_fields_are_texts_and_nulls() {
    let file = b"id,\"price, net\",note,_deleted\n007,19.90,,\"\"\n";
    first_row(csv(), file, |row| {
        assert_eq!(row.get(&path("id")), text("007"));
        assert_eq!(row.get(&FieldPath::name("price, net")), text("19.90"));
        assert_eq!(row.get(&path("note")), Field::Null);
        assert_eq!(row.get(&path("_deleted")), text(""));
        assert_eq!(row.get(&path("ID")), Field::Missing, "names are compared exactly");
        assert_eq!(row.get(&path("id.x")), Field::Missing);
        let mut values = Vec::new();
        row.get_many(&[path("note"), path("id"), path("none"), path("_deleted")], &mut values);
        assert_eq!(values, [Field::Null, text("007"), Field::Missing, text("")]);
        let mut names = Vec::new();
        row.for_each(&mut |name, value| names.push((name.into_owned(), value)));
        assert_eq!(names[1], ("price, net".to_owned(), text("19.90")));
        assert_eq!(names.len(), 4);
        assert_eq!(row.to_json(), r#"{"id":"007","price, net":"19.90","note":null,"_deleted":""}"#);
        assert_eq!(row.raw(), b"007,19.90,,\"\"");
        assert_eq!((row.number(), row.offset()), (1, 30));
    });
}

#[test]
fn csv_as_json_is_escaped() {
    first_row(csv(), b"\"say \"\"a\"\"\",b\n\"x\"\"\n\\\",\t\x01\xe2\x82\xac\n", |row| {
        assert_eq!(row.to_json(), r#"{"say \"a\"":"x\"\n\\","b":"\t\u0001€"}"#);
        assert!(serde_json::from_str::<serde_json::Value>(&row.to_json()).is_ok());
    });
}

#[test]
fn many_csv_columns_are_found_in_any_order() {
    let names: Vec<String> = (0..100).map(|n| format!("c{n}")).collect();
    let cells: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let file = format!("{}\n{}\n", names.join(","), cells.join(","));
    let paths: Vec<FieldPath> = names.iter().rev().chain(&names).map(|name| FieldPath::name(name)).collect();
    first_row(csv(), file.as_bytes(), |row| {
        let mut values = Vec::new();
        row.get_many(&paths, &mut values);
        let expected: Vec<Field<'_>> = cells.iter().rev().chain(&cells).map(|cell| text(cell)).collect();
        assert_eq!(values, expected);
    });
}

proptest! {
    #[test]
    fn texts_come_back_whatever_they_hold(name in ".{0,8}", value in ".{0,20}") {
        let line = serde_json::to_string(&serde_json::json!({ "x": {}, name.as_str(): value.as_str() })).unwrap();
        first_row(json_lines(), line.as_bytes(), |row| {
            prop_assert_eq!(row.get(&FieldPath::name(&name)), text(&value));
            Ok(())
        })?;
        let nested = serde_json::to_string(&serde_json::json!({ "deep": [0, { name.as_str(): value.as_str() }] })).unwrap();
        let inner = format!("deep[1].{}", FieldPath::name(&name));
        first_row(json_lines(), nested.as_bytes(), |row| {
            prop_assert_eq!(row.get(&path(&inner)), text(&value));
            Ok(())
        })?;
    }
}
