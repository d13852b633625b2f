//! `docs/promises.md` names tests that are there, and has a place for every promise.

use std::{collections::BTreeSet, path::Path};

use crate::harness::here;

/// How many there are: P1 to P12.
const PROMISES: usize = 12;

/// A promise of the document with its tests.
#[derive(Debug, PartialEq, Eq)]
struct Promise {
    number: usize,
    /// Folder of the crate, and the test's name.
    tests: Vec<(String, String)>,
    says_that_there_is_none: bool,
}

/// Reads the headings `## P1: …` and the lines `| crate | \`test\` |` below them.
fn parse(document: &str) -> Vec<Promise> {
    let mut promises: Vec<Promise> = Vec::new();
    for line in document.lines() {
        if let Some(heading) = line.strip_prefix("## P") {
            let (number, _) = heading.split_once(':').expect("a heading is `## P1: …`");
            let number = number.parse().expect("a promise has a number");
            promises.push(Promise { number, tests: Vec::new(), says_that_there_is_none: false });
        } else if let (Some(promise), Some(cells)) = (promises.last_mut(), line.strip_prefix("| ")) {
            let mut cells = cells.split('|').map(str::trim);
            let (crate_folder, test) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
            if let Some(test) = test.strip_prefix('`').and_then(|test| test.strip_suffix('`')) {
                promise.tests.push((crate_folder.to_owned(), test.to_owned()));
            }
        } else if let (Some(promise), true) = (promises.last_mut(), line.contains("no test yet")) {
            promise.says_that_there_is_none = true;
        }
    }
    promises
}

/// The names of all functions of a source file that are tests and are run.
fn tests_of(source: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let (mut is_test, mut is_run) = (false, true);
    for line in source.lines().map(str::trim_start) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if line.starts_with("#[ignore") {
            is_run = false;
        } else if let Some(function) = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ") {
            if let Some((name, _)) = function.split_once('(')
                && is_test
                && is_run
            {
                names.insert(name.to_owned());
            }
            (is_test, is_run) = (false, true);
        }
    }
    names
}

fn tests_below(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names = BTreeSet::new();
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            names.append(&mut tests_below(&path));
        } else if path.extension().is_some_and(|suffix| suffix == "rs") {
            names.append(&mut tests_of(&std::fs::read_to_string(&path).expect("a source file")));
        }
    }
    names
}

#[test]
fn every_promise_has_its_place_and_every_test_that_it_names_is_there() {
    let root = here().parent().expect("the workspace");
    let document = std::fs::read_to_string(root.join("docs/promises.md")).expect("the document");
    let promises = parse(&document);
    let numbers: Vec<usize> = promises.iter().map(|promise| promise.number).collect();
    assert_eq!(numbers, (1..=PROMISES).collect::<Vec<_>>(), "each promise once, in order");
    let mut missing = Vec::new();
    for promise in &promises {
        assert!(
            promise.says_that_there_is_none || !promise.tests.is_empty(),
            "P{} has no test and does not say so",
            promise.number
        );
        let different: BTreeSet<_> = promise.tests.iter().collect();
        assert_eq!(different.len(), promise.tests.len(), "P{} names a test twice", promise.number);
        for (crate_folder, test) in &promise.tests {
            if !tests_below(&root.join(crate_folder).join("src")).contains(test) {
                missing.push(format!("P{}: {crate_folder} has no test {test}", promise.number));
            }
        }
    }
    assert!(missing.is_empty(), "docs/promises.md names tests that are not there:\n{}", missing.join("\n"));
}

#[test]
fn the_document_is_read_as_it_is_written() {
    let document = "# Promises\n| crate | test |\n## P1: One thing\n| crate | test |\n|---|---|\n| azure | `a_b` |\n\
                    | store | `c` |\n\n## P2: Another\nThere is no test yet.\n";
    let test = |folder: &str, name: &str| (folder.to_owned(), name.to_owned());
    assert_eq!(
        parse(document),
        [
            Promise {
                number: 1,
                tests: vec![test("azure", "a_b"), test("store", "c")],
                says_that_there_is_none: false
            },
            Promise { number: 2, tests: Vec::new(), says_that_there_is_none: true },
        ]
    );
}

#[test]
fn only_functions_that_are_run_as_tests_count() {
    let source = "#[test]\nfn one() {}\nfn helper() {}\n  #[tokio::test(flavor = \"x\")]\n  async fn two() {}\n\
                  #[test]\n#[ignore = \"slow\"]\nfn three() {}\n#[test]\n/// Doc.\n#[cfg(unix)]\nfn four(a: u8) {}\n// fn five() {}\n";
    let found = tests_of(source);
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), ["four", "one", "two"]);
}
