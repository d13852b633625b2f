//! The harness from end to end on a few rows, with what needs nothing but its own binary.

use std::process::Command;

#[test]
fn rows_are_measured_compared_and_printed_as_a_table() {
    let cache = tempfile::tempdir().unwrap();
    let bench = |arguments: &[&str]| {
        let mut bench = Command::new(env!("CARGO_BIN_EXE_waybill-bench"));
        bench.args(arguments).arg("--cache").arg(cache.path());
        let output = bench.output().unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        (output.status.code(), out, err)
    };
    let table = cache.path().join("table.md");
    std::fs::write(&table, "# Ours\n\n<!-- what follows is printed by the bench -->\nold\n").unwrap();
    let measured = ["--quick", "--rows", "3200", "--rounds", "2", "workers", "7", "save"];
    let (code, out, err) = bench(&[&measured[..], &["--write", table.to_str().unwrap()]].concat());
    assert_eq!(code, Some(0), "{err}");
    for there in [
        "| 3 | waybill, 2 workers: ≥ 1.85 × as fast as waybill, 1 worker |",
        "### 7. Publish: rows to .jsonl.gz",
        "| gzip -6, packs only |",
        "| waybill, 100 at a time |",
        "`save`: 2 rounds, small data, ",
        "Not compared: the disk's own rate",
        "| not measured |",
        "*The limit:* what packing alone takes on all cores",
        "; % of the file is its index 0",
        "Of 10 targets ",
    ] {
        assert!(out.contains(there), "{there}: {out}");
    }
    let written = std::fs::read_to_string(table).unwrap();
    assert!(written.starts_with("# Ours\n") && !written.contains("old"), "{written}");
    assert!(written.trim_end().ends_with(out.trim()), "{written}");

    let (code, kept, _) = bench(&["--quick", "--kept"]);
    assert_eq!((code, kept.as_str()), (Some(0), out.as_str()), "the table can be printed again without measuring");

    let (code, out, _) = bench(&["--list"]);
    assert_eq!((code, out.lines().count()), (Some(0), 19), "{out}");
    let (code, _, err) = bench(&["jsnl"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("there is no row \"jsnl\"; there are jsonl, blob, "), "{err}");
}
