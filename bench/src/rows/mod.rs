//! The rows of the table.

mod apply;
mod backlog;
mod changelog;
mod decode;
mod encode;
mod exports;
mod idle;
mod pipeline;
mod save;

use crate::{
    bench::{Bench, Target},
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
        self.set("items", 2_000_000, 100_000, 7)
    }
}

/// One row: all of it that is the same on every machine.
#[derive(Debug)]
pub(crate) struct Row {
    /// As the targets are numbered.
    pub(crate) number: &'static str,
    /// What it is called on the command line.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// What the figures mean.
    pub(crate) meaning: &'static str,
    /// What no program could pass, or what ours stands against.
    pub(crate) limit: &'static str,
    pub(crate) targets: &'static [Target],
    pub(crate) make: fn(&Setting) -> anyhow::Result<Bench>,
}

/// All of them.
pub(crate) const ALL: &[Row] = &[
    decode::JSONL,
    decode::BLOB,
    decode::WORKERS,
    decode::MEMORY,
    decode::CSV,
    decode::XML,
    encode::PUBLISH,
    apply::POSTGRES,
    apply::SQLITE,
    save::SAVE,
    pipeline::RECEIVE,
    pipeline::BLOBS,
    pipeline::SMALL_FILES,
    pipeline::BUS,
    backlog::BACKLOG,
    changelog::CHANGE_LOG,
    apply::RELEASE,
    exports::EXPORTS,
    idle::IDLE,
];

/// What is not here.
fn absent(missing: &mut Vec<String>, what: &str, how: &str) {
    missing.push(format!("{what} ({how})"));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn rows_have_a_name_and_a_number_of_their_own_and_say_what_they_mean() {
        let names: BTreeSet<&str> = ALL.iter().flat_map(|row| [row.name, row.number]).collect();
        assert_eq!(names.len(), 2 * ALL.len());
        for row in ALL {
            let Row { name, title, meaning, limit, targets, .. } = row;
            assert!(!targets.is_empty(), "{name} should come to nothing");
            for text in
                [title, meaning, limit].into_iter().chain(targets.iter().filter_map(|one| one.if_missed.as_ref()))
            {
                assert!(!text.is_empty() && !text.contains('\n'), "{name}: {text:?} is a line of the table");
            }
        }
    }
}
