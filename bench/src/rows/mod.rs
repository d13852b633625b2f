//! The rows of the table.

mod apply;
mod backlog;
mod changelog;
mod decode;
mod encode;
mod pipeline;
mod save;

use crate::{
    bench::Bench,
    data::{Data, Set},
    tools::Tools,
};

/// What a row is made of.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) tools: Tools,
    pub(crate) data: Data,
    pub(crate) quick: bool,
    /// Instead of every set's own size.
    pub(crate) rows: Option<u64>,
}

impl Setting {
    /// The larger number of rows, or with `--quick` the smaller one.
    fn set(&self, name: &'static str, rows: u64, quick_rows: u64, seed: u64) -> Set {
        let rows = if self.quick { quick_rows } else { rows };
        Set { name, rows: self.rows.unwrap_or(rows), seed }
    }

    /// The large set of the decoders.
    fn large(&self) -> Set {
        self.set("items", 2_000_000, 200_000, 7)
    }
}

/// One row.
#[derive(Debug)]
pub(crate) struct Row {
    /// As the targets are numbered.
    pub(crate) number: &'static str,
    pub(crate) name: &'static str,
    pub(crate) make: fn(&Setting) -> anyhow::Result<Bench>,
}

/// All of them.
pub(crate) const ALL: &[Row] = &[
    Row { number: "1", name: "jsonl", make: decode::jsonl },
    Row { number: "2", name: "blob", make: decode::blob },
    Row { number: "3", name: "workers", make: decode::workers },
    Row { number: "4", name: "memory", make: decode::memory },
    Row { number: "5", name: "csv", make: decode::csv },
    Row { number: "6", name: "xml", make: decode::xml },
    Row { number: "7", name: "publish", make: encode::publish },
    Row { number: "8", name: "postgres", make: apply::postgres },
    Row { number: "9", name: "sqlite", make: apply::sqlite },
    Row { number: "10", name: "save", make: save::save },
    Row { number: "11", name: "receive", make: pipeline::receive },
    Row { number: "12", name: "blobs", make: pipeline::blobs },
    Row { number: "13", name: "small-files", make: pipeline::small_files },
    Row { number: "14", name: "bus", make: pipeline::bus },
    Row { number: "15", name: "backlog", make: backlog::backlog },
    Row { number: "16", name: "changelog", make: changelog::changelog },
    Row { number: "17", name: "release", make: apply::release },
];

/// What is not here.
fn absent(missing: &mut Vec<String>, what: &str, how: &str) {
    missing.push(format!("{what} ({how})"));
}
