//! Rows 1 to 6: files read, checked and filtered. Everybody counts the rows whose top-level `currency` is SEK.

use std::path::Path;

use anyhow::Result;

use super::{Row, Setting, absent};
use crate::{
    bench::{Bench, Contender, Figure, Target},
    data::Layout,
    program::Program,
};

const OURS: &str = "waybill";
const OURS_BLOB: &str = "waybill, our blob";
const OURS_BLOB_ONE: &str = "waybill, our blob, 1 core";
const TWO_WORKERS: &str = "waybill, 2 workers";
const ONE_WORKER: &str = "waybill, 1 worker";
const MEMORY_LARGE: &str = "waybill, 5 GB";
const MEMORY_SMALL: &str = "waybill, 0.5 GB";
const IGZIP: &str = "igzip -dc";
const IGZIP_BLOB: &str = "igzip -dc, our blob";
const IGZIP_TWO: &str = "igzip -dc, 2 files at a time";
const IGZIP_ONE: &str = "igzip -dc, 1 file at a time";
const PYTHON: &str = "Python gzip + json";
const PYTHON_FAST: &str = "Python isal + orjson";
const PYTHON_CSV: &str = "Python gzip + csv";
const DUCKDB: &str = "DuckDB";
const POLARS: &str = "Polars";
const XAN: &str = "xan";
const JQ: &str = "zcat | jq";
const NODE: &str = "Node.js";
const LXML: &str = "Python lxml iterparse";
const EXPAT: &str = "Python expat";

/// Why rows 1 and 2 are not faster.
const CHECKED: &str = "every row is checked whole, so that a broken one is told with its place, which takes as long as inflating, and that \
                       with `zlib-rs` a third longer than igzip; the trial that the target is of read one field and believed the rest";
const KEPT: &str = "the C library keeps freed blocks for the next ones, in an arena of its own for each of several threads, of which a longer file \
                    uses more: with `MALLOC_ARENA_MAX=2` it is about half";
const ONE_ELEMENT: &str = "the document is one element, checked from its begin to its end on one core, beside which the other one only \
                           inflates";

pub(crate) const JSONL: Row = Row {
    number: "1",
    name: "jsonl",
    title: "JSON Lines: decode and filter an ordinary .jsonl.gz",
    meaning: "`waybill-subscriber rows --count --where 'row.currency == \"SEK\"'` of a file that `gzip -6` packed. Every row is checked whole \
              and its fields are found, so that a broken row is told with its place.",
    limit: "no program can be faster than one that inflates the file, on one core, and does nothing else: `igzip -dc FILE >/dev/null`.",
    targets: &[
        Target::at_most(OURS, 1.6, IGZIP).if_missed(CHECKED),
        Target::at_least(OURS, 15.0, PYTHON).if_missed(CHECKED),
        Target::at_least(OURS, 3.0, DUCKDB).if_missed(CHECKED),
        Target::at_least(OURS, 3.0, POLARS).if_missed(CHECKED),
    ],
    make: jsonl,
};

fn jsonl(setting: &Setting) -> Result<Bench> {
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
    row.program(JQ, "jq", line, &file, "apt-get install jq");
    row.slow(&[PYTHON, PYTHON_FAST, JQ, NODE]);
    Ok(row.bench())
}

pub(crate) const BLOB: Row = Row {
    number: "2",
    name: "blob",
    title: "JSON Lines: the same rows in a blob of ours",
    meaning: "The file as our publisher packs it at its default level: segments with an index, which are inflated and decoded beside each \
              other.",
    limit: "what inflating takes on all cores, half of igzip's time on two; and of a second core, twice as fast.",
    targets: &[
        Target::at_most(OURS_BLOB, 1.0, IGZIP_BLOB).if_missed(CHECKED),
        Target::at_most(OURS_BLOB_ONE, 1.9, IGZIP_BLOB).if_missed(CHECKED),
        Target::at_least(OURS_BLOB, 1.8, OURS_BLOB_ONE).if_missed(
            "stretches are decoded beside each other, but filtered one after the other, and wait for whichever thread is next: two cores \
             are busy for three quarters of the time; what the machine gives two programs that share nothing is told by row 3",
        ),
    ],
    make: blob,
};

fn blob(setting: &Setting) -> Result<Bench> {
    let file = setting.data.blob(setting.large(), Layout::JsonLines)?;
    let mut row = Making::new(setting);
    row.add(Contender::new(OURS_BLOB, rows(setting, &file)));
    row.add(Contender::new(OURS_BLOB_ONE, rows(setting, &file).on_one_core()));
    row.igzip(IGZIP_BLOB, &file);
    Ok(row.bench())
}

pub(crate) const WORKERS: Row = Row {
    number: "3",
    name: "workers",
    title: "JSON Lines: 16 files at once",
    meaning: "The rows of row 1 in 16 ordinary files, two at a time on two cores, against one at a time on one core.",
    limit: "twice as fast; or as many times as igzip, which shares nothing between files, is on this machine. Cores of a virtual machine \
            are often two threads of one.",
    targets: &[Target::at_least(TWO_WORKERS, 1.85, ONE_WORKER).if_missed(
        "compare it with the two lines of igzip, which is all that this machine gives; besides, each file is unpacked on one thread and \
         decoded on another, which takes a fifth more of processor time where they are on two cores",
    )],
    make: workers,
};

fn workers(setting: &Setting) -> Result<Bench> {
    let files = setting.data.parts(setting.large(), Layout::JsonLines, 16)?;
    let program = |workers: &str| {
        let own = Program::new(setting.tools.ours("waybill-bench"));
        own.args(["work", "decode", "--workers", workers]).args(&files)
    };
    let mut row = Making::new(setting);
    row.add(Contender::new(TWO_WORKERS, program("2")));
    row.add(Contender::new(ONE_WORKER, program("1").on_one_core()));
    let inflate = |at_once: &str| {
        let line = r#"n=$1; shift; printf '%s\0' "$@" | xargs -0 -n 1 -P "$n" sh -c 'igzip -dc "$0" >/dev/null'"#;
        Program::shell(line).arg(at_once).args(&files)
    };
    match setting.tools.program("igzip") {
        Some(_) => {
            row.add(Contender::new(IGZIP_TWO, inflate("2")).part_of_the_work());
            row.add(Contender::new(IGZIP_ONE, inflate("1").on_one_core()).part_of_the_work());
        }
        None => absent(&mut row.missing, "igzip", "apt-get install isal"),
    }
    Ok(row.bench())
}

pub(crate) const MEMORY: Row = Row {
    number: "4",
    name: "memory",
    title: "Memory: decode and filter to a file",
    meaning: "Blobs of ours, the larger ten times as long as the smaller; the wanted rows go to a file. (With `--quick` 0.5 and 0.05 GB.)",
    limit: "what is held is the program and a few segments in each stage, not a part of the file: the longer one should take no more.",
    targets: &[
        Target::no_more(MEMORY_LARGE, 64.0, Figure::PeakMib).if_missed(KEPT),
        Target::at_most(MEMORY_LARGE, 1.1, MEMORY_SMALL).of(Figure::PeakMib).if_missed(KEPT),
    ],
    make: memory,
};

fn memory(setting: &Setting) -> Result<Bench> {
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
    row.add(Contender::new(MEMORY_LARGE, filtered(&large)).found_by(found()));
    row.add(Contender::new(MEMORY_SMALL, filtered(&small)).found_by(found()));
    row.keep.push(Box::new(output));
    Ok(row.bench())
}

pub(crate) const CSV: Row = Row {
    number: "5",
    name: "csv",
    title: "CSV: decode and filter",
    meaning: "The same rows as CSV, with quoted texts and line breaks within them. `currency` is the seventh of fourteen columns.",
    limit: "`igzip -dc` again, which inflates on one core and does nothing else.",
    targets: &[
        Target::at_most(OURS, 2.2, IGZIP).if_missed(CSV_CHECKED),
        Target::at_most(OURS_BLOB, 1.4, IGZIP_BLOB).if_missed(CSV_CHECKED),
        Target::at_least(OURS, 1.5, POLARS).if_missed(CSV_CHECKED),
        Target::at_least(OURS, 2.0, XAN).if_missed(CSV_CHECKED),
        Target::at_least(OURS, 10.0, PYTHON_CSV).if_missed(CSV_CHECKED),
    ],
    make: csv,
};

const CSV_CHECKED: &str = "inflating with `zlib-rs` takes a third longer than igzip, and every row's quotes, columns and characters are checked \
                           before one of them is looked at; three stages keep two cores busy for three quarters of the time";

fn csv(setting: &Setting) -> Result<Bench> {
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
    row.program(XAN, "xan", line, &file, "cargo install xan");
    row.python(PYTHON_CSV, "csv-stdlib", &file);
    row.slow(&[PYTHON_CSV]);
    Ok(row.bench())
}

pub(crate) const XML: Row = Row {
    number: "6",
    name: "xml",
    title: "XML: decode and filter",
    meaning: "The same rows as an XML document, an element a row, half as many bytes again as JSON. expat only counts, and builds no row.",
    limit: "`igzip -dc` again. The document is one element, which is checked from its begin to its end: its segments cannot be read beside \
            each other.",
    targets: &[
        Target::at_most(OURS, 4.5, IGZIP).if_missed(ONE_ELEMENT),
        Target::at_most(OURS_BLOB, 3.0, IGZIP_BLOB).if_missed(ONE_ELEMENT),
        Target::at_least(OURS, 7.0, LXML).if_missed(ONE_ELEMENT),
    ],
    make: xml,
};

fn xml(setting: &Setting) -> Result<Bench> {
    let file = setting.data.gzip(setting.large(), Layout::Xml)?;
    let blob = setting.data.blob(setting.large(), Layout::Xml)?;
    let mut row = Making::new(setting);
    row.add(Contender::new(OURS, rows(setting, &file)));
    row.igzip(IGZIP, &file);
    row.add(Contender::new(OURS_BLOB, rows(setting, &blob)));
    row.igzip(IGZIP_BLOB, &blob);
    row.python(LXML, "xml-lxml", &file);
    row.python(EXPAT, "xml-expat", &file);
    row.slow(&[LXML, EXPAT]);
    Ok(row.bench())
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
                self.add(Contender::new(NODE, program));
            }
            None => absent(&mut self.missing, NODE, "apt-get install nodejs"),
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

    fn bench(self) -> Bench {
        let Self { contenders, missing, keep, .. } = self;
        Bench { contenders, missing, keep }
    }
}
