//! Rows 1 to 6: files read, checked and filtered. Everybody counts the rows whose top-level `currency` is SEK.

use std::path::Path;

use anyhow::Result;

use super::{Setting, absent};
use crate::{
    bench::{Bench, Contender, Figure, Target},
    data::Layout,
    program::Program,
};

const OURS: &str = "waybill";
const OURS_BLOB: &str = "waybill, our blob";
const OURS_BLOB_ONE: &str = "waybill, our blob, 1 core";
const IGZIP: &str = "igzip -dc";
const IGZIP_BLOB: &str = "igzip -dc, our blob";
const PYTHON: &str = "Python gzip + json";
const PYTHON_FAST: &str = "Python isal + orjson";
const DUCKDB: &str = "DuckDB";
const POLARS: &str = "Polars";

pub(crate) fn jsonl(setting: &Setting) -> Result<Bench> {
    let file = setting.data.gzip(setting.large(), Layout::JsonLines)?;
    let mut row = Making::new(setting);
    row.add(Contender::new(OURS, rows(setting, &file)));
    row.igzip(IGZIP, &file);
    row.python(PYTHON, "jsonl-stdlib", &file);
    row.python(PYTHON_FAST, "jsonl-isal-orjson", &file);
    row.python(DUCKDB, "jsonl-duckdb", &file);
    row.python(POLARS, "jsonl-polars", &file);
    row.node("jsonl.cjs", &file);
    let line = r#"zcat "$1" | jq -c 'select(.currency == "SEK")' | wc -l"#;
    row.program("zcat | jq", "jq", line, &file, "apt-get install jq");
    row.slow(&[PYTHON, PYTHON_FAST, "zcat | jq", "Node.js"]);
    Ok(row.bench(
        "1",
        "jsonl",
        "JSON Lines: decode and filter an ordinary .jsonl.gz",
        "`waybill-subscriber rows --count --where 'row.currency == \"SEK\"'` of a file that `gzip -6` packed. Every row is checked whole \
         and its fields are found, so that a broken row is told with its place. No program can be faster than one that inflates \
         the file, on one core, and does nothing else: `igzip -dc FILE >/dev/null`.",
        vec![
            Target::at_most(OURS, 1.6, IGZIP),
            Target::at_least(OURS, 15.0, PYTHON),
            Target::at_least(OURS, 3.0, DUCKDB),
            Target::at_least(OURS, 3.0, POLARS),
        ],
    ))
}

pub(crate) fn blob(setting: &Setting) -> Result<Bench> {
    let file = setting.data.blob(setting.large(), Layout::JsonLines)?;
    let mut row = Making::new(setting);
    row.add(Contender::new(OURS_BLOB, rows(setting, &file)));
    row.add(Contender::new(OURS_BLOB_ONE, rows(setting, &file).on_one_core()));
    row.igzip(IGZIP_BLOB, &file);
    Ok(row.bench(
        "2",
        "blob",
        "JSON Lines: the same rows in a blob of ours",
        "The file as our publisher packs it at its default level: segments with an index, which are inflated and decoded beside each \
         other. The limit is what inflating takes on all cores, half of igzip's time on two.",
        vec![Target::at_most(OURS_BLOB, 1.0, IGZIP_BLOB), Target::at_most(OURS_BLOB_ONE, 1.9, IGZIP_BLOB)],
    ))
}

pub(crate) fn workers(setting: &Setting) -> Result<Bench> {
    let (two, one) = ("waybill, 2 workers", "waybill, 1 worker");
    let files = setting.data.parts(setting.large(), Layout::JsonLines, 16)?;
    let program = |workers: &str| {
        let own = Program::new(setting.tools.ours("waybill-bench"));
        own.args(["work", "decode", "--workers", workers]).args(&files)
    };
    let mut row = Making::new(setting);
    row.add(Contender::new(two, program("2")));
    row.add(Contender::new(one, program("1").on_one_core()));
    Ok(row.bench(
        "3",
        "workers",
        "JSON Lines: 16 files at once",
        "The rows of row 1 in 16 ordinary files, two at a time on two cores, against one at a time on one core. Two is the limit.",
        vec![Target::at_least(two, 1.85, one)],
    ))
}

pub(crate) fn memory(setting: &Setting) -> Result<Bench> {
    let (large_name, small_name) = ("waybill, 5 GB", "waybill, 0.5 GB");
    let large = setting.data.blob(setting.set("memory", 15_000_000, 1_500_000, 9), Layout::JsonLines)?;
    let small = setting.data.blob(setting.set("memory", 1_500_000, 150_000, 9), Layout::JsonLines)?;
    let output = tempfile::tempdir_in(setting.data.path(""))?;
    let out = output.path().join("wanted.jsonl");
    let filtered = |file: &Path| rows_with(setting, file, &[]).output_to(&out);
    // The two are of different lengths, and come to the same only in this.
    let found = || {
        let out = out.clone();
        move |_: &crate::program::Sample| {
            let is_there = std::fs::metadata(&out)?.len() > 0;
            Ok(if is_there { "wanted rows are there".to_owned() } else { String::new() })
        }
    };
    let mut row = Making::new(setting);
    row.add(Contender::new(large_name, filtered(&large)).found_by(found()));
    row.add(Contender::new(small_name, filtered(&small)).found_by(found()));
    row.keep.push(Box::new(output));
    Ok(row.bench(
        "4",
        "memory",
        "Memory: decode and filter to a file",
        "Blobs of ours, the larger ten times as long as the smaller; the wanted rows go to a file. What is held is a few segments, \
         not a part of the file. (With `--quick` 0.5 and 0.05 GB.)",
        vec![
            Target::no_more(large_name, 64.0, Figure::PeakMib),
            Target::at_most(large_name, 1.1, small_name).of(Figure::PeakMib),
        ],
    ))
}

pub(crate) fn csv(setting: &Setting) -> Result<Bench> {
    let python = "Python gzip + csv";
    let file = setting.data.gzip(setting.large(), Layout::Csv)?;
    let blob = setting.data.blob(setting.large(), Layout::Csv)?;
    let mut row = Making::new(setting);
    row.add(Contender::new(OURS, rows(setting, &file)));
    row.igzip(IGZIP, &file);
    row.add(Contender::new(OURS_BLOB, rows(setting, &blob)));
    row.igzip(IGZIP_BLOB, &blob);
    row.python(POLARS, "csv-polars", &file);
    row.python(DUCKDB, "csv-duckdb", &file);
    let line = r#""$XAN" filter 'currency eq "SEK"' "$1" | "$XAN" count"#;
    row.program("xan", "xan", line, &file, "cargo install xan");
    row.python(python, "csv-stdlib", &file);
    row.slow(&[python]);
    Ok(row.bench(
        "5",
        "csv",
        "CSV: decode and filter",
        "The same rows as CSV, with quoted texts and line breaks within them. `currency` is the seventh of fourteen columns.",
        vec![
            Target::at_most(OURS, 2.2, IGZIP),
            Target::at_most(OURS_BLOB, 1.4, IGZIP_BLOB),
            Target::at_least(OURS, 1.5, POLARS),
            Target::at_least(OURS, 2.0, "xan"),
            Target::at_least(OURS, 10.0, python),
        ],
    ))
}

pub(crate) fn xml(setting: &Setting) -> Result<Bench> {
    let lxml = "Python lxml iterparse";
    let file = setting.data.gzip(setting.large(), Layout::Xml)?;
    let blob = setting.data.blob(setting.large(), Layout::Xml)?;
    let mut row = Making::new(setting);
    row.add(Contender::new(OURS, rows(setting, &file)));
    row.igzip(IGZIP, &file);
    row.add(Contender::new(OURS_BLOB, rows(setting, &blob)));
    row.igzip(IGZIP_BLOB, &blob);
    row.python(lxml, "xml-lxml", &file);
    row.python("Python expat", "xml-expat", &file);
    row.slow(&[lxml, "Python expat"]);
    Ok(row.bench(
        "6",
        "xml",
        "XML: decode and filter",
        "The same rows as an XML document, an element a row, half as many bytes again as JSON. The document is one element, which is \
         checked from its begin to its end: its segments cannot be read beside each other. expat only counts, and builds no row.",
        vec![
            Target::at_most(OURS, 4.5, IGZIP),
            Target::at_most(OURS_BLOB, 3.0, IGZIP_BLOB),
            Target::at_least(OURS, 7.0, lxml),
        ],
    ))
}

/// Our command line, as a user would call it.
fn rows(setting: &Setting, file: &Path) -> Program {
    rows_with(setting, file, &["--count"])
}

fn rows_with(setting: &Setting, file: &Path, more: &[&str]) -> Program {
    let program = Program::new(setting.tools.ours("waybill-subscriber"));
    program.args(["rows", "--where", "row.currency == \"SEK\""]).args(more).args(["--file"]).args([file])
}

/// A row that gets its contenders.
struct Making<'s> {
    setting: &'s Setting,
    contenders: Vec<Contender>,
    missing: Vec<String>,
    keep: Vec<Box<dyn std::any::Any>>,
}

impl<'s> Making<'s> {
    fn new(setting: &'s Setting) -> Self {
        Self { setting, contenders: Vec::new(), missing: Vec::new(), keep: Vec::new() }
    }

    fn add(&mut self, contender: Contender) {
        self.contenders.push(contender);
    }

    /// What any program has to do at least, where it does so on one core.
    fn igzip(&mut self, name: &'static str, file: &Path) {
        match self.setting.tools.program("igzip") {
            Some(_) => {
                let program = Program::shell(r#"igzip -dc "$1" >/dev/null"#).args([file]);
                self.add(Contender::new(name, program).part_of_the_work());
            }
            None => absent(&mut self.missing, "igzip", "apt-get install isal"),
        }
    }

    fn python(&mut self, name: &'static str, way: &str, file: &Path) {
        match &self.setting.tools.python {
            Some(python) => {
                let program = Program::new(python).args([self.setting.tools.peer("decode.py")]);
                self.add(Contender::new(name, program.args([way]).args([file])));
            }
            None => absent(&mut self.missing, name, "cargo xtask bench prepares a Python environment"),
        }
    }

    fn node(&mut self, script: &str, file: &Path) {
        match self.setting.tools.program("node") {
            Some(node) => {
                let program = Program::new(node).args([self.setting.tools.peer(script)]).args([file]);
                self.add(Contender::new("Node.js", program));
            }
            None => absent(&mut self.missing, "Node.js", "apt-get install nodejs"),
        }
    }

    /// A shell line with a program in it.
    fn program(&mut self, name: &'static str, program: &str, line: &str, file: &Path, how: &str) {
        match self.setting.tools.program(program) {
            Some(path) => {
                let line = Program::shell(line).args([file]).env(&program.to_ascii_uppercase(), path);
                self.add(Contender::new(name, line));
            }
            None => absent(&mut self.missing, name, how),
        }
    }

    /// These take so long that three rounds of them are enough.
    fn slow(&mut self, names: &[&str]) {
        let contenders = std::mem::take(&mut self.contenders);
        let limited = |contender: Contender| {
            if names.contains(&contender.name) { contender.at_most_rounds(3) } else { contender }
        };
        self.contenders = contenders.into_iter().map(limited).collect();
    }

    fn bench(
        self,
        number: &'static str,
        name: &'static str,
        title: &str,
        meaning: &'static str,
        targets: Vec<Target>,
    ) -> Bench {
        let Self { contenders, missing, keep, .. } = self;
        Bench { number, name, title: title.to_owned(), meaning, contenders, targets, missing, keep }
    }
}
