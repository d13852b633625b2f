//! Row 15: a backlog that nobody works for days.

use std::{
    fs,
    path::{Path, PathBuf},
    rc::Rc,
};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{Row, Setting, absent, apply};
use crate::{
    bench::{Bench, Contender, Figure, Target},
    program::{Program, Sample},
};

/// 100 MB.
const PEAK_MIB: f64 = 95.4;
/// Rows that `list` shows.
const PAGE: u64 = 50;
/// Types of the messages, of which a narrow subscriber works one.
const TYPES: u64 = 50;
const WANTED_TYPE: &str = "Type07";
const WANTED: u64 = 7;

const LEASE: Figure = Figure::Said("ms a lease");

/// What is asked of an inbox, by its name in the table; one for each place where it can be.
struct Asked {
    status: &'static str,
    list: &'static str,
    lease: &'static str,
    narrow_status: &'static str,
    narrow_lease: &'static str,
}

const SQLITE: Asked = Asked {
    status: "status, SQLite",
    list: "list, SQLite",
    lease: "lease, SQLite",
    narrow_status: "status with `types`, SQLite",
    narrow_lease: "lease with `types`, SQLite",
};
const POSTGRES: Asked = Asked {
    status: "status, PostgreSQL",
    list: "list, PostgreSQL",
    lease: "lease, PostgreSQL",
    narrow_status: "status with `types`, PostgreSQL",
    narrow_lease: "lease with `types`, PostgreSQL",
};

/// Why a lease takes longer.
const COMMITTED: &str =
    "one statement is on its way to the server and back, and its commit waits for the disk; with `types` a tenth more";

pub(crate) const BACKLOG: Row = Row {
    number: "15",
    name: "backlog",
    title: "A backlog of a million files",
    meaning: "A million messages of 50 types that nobody has worked (30,000 with `--quick`). `status` and `list` are the commands, from \
              start to end, and what they print is looked at; `lease` takes four files and gives them back, 300 times, and says what \
              taking them took, its commit included. With `types` the subscriber works one of the 50 types, and the others stay.",
    limit: "the start of a process and of a connection; for a lease the disk, which its commit waits for.",
    targets: &[
        Target::no_more(SQLITE.status, 0.2, Figure::Seconds),
        Target::no_more(SQLITE.list, 0.2, Figure::Seconds),
        Target::no_more(SQLITE.lease, 5.0, LEASE),
        Target::no_more(SQLITE.narrow_status, 0.2, Figure::Seconds),
        Target::no_more(SQLITE.narrow_lease, 5.0, LEASE),
        Target::no_more(SQLITE.status, PEAK_MIB, Figure::PeakMib),
        Target::no_more(SQLITE.list, PEAK_MIB, Figure::PeakMib),
        Target::no_more(SQLITE.lease, PEAK_MIB, Figure::PeakMib),
        Target::no_more(SQLITE.narrow_status, PEAK_MIB, Figure::PeakMib),
        Target::no_more(SQLITE.narrow_lease, PEAK_MIB, Figure::PeakMib),
        Target::no_more(POSTGRES.status, 0.2, Figure::Seconds),
        Target::no_more(POSTGRES.list, 0.2, Figure::Seconds),
        Target::no_more(POSTGRES.lease, 5.0, LEASE).if_missed(COMMITTED),
        Target::no_more(POSTGRES.narrow_status, 0.2, Figure::Seconds),
        Target::no_more(POSTGRES.narrow_lease, 5.0, LEASE).if_missed(COMMITTED),
        Target::no_more(POSTGRES.status, PEAK_MIB, Figure::PeakMib),
        Target::no_more(POSTGRES.list, PEAK_MIB, Figure::PeakMib),
        Target::no_more(POSTGRES.lease, PEAK_MIB, Figure::PeakMib),
        Target::no_more(POSTGRES.narrow_status, PEAK_MIB, Figure::PeakMib),
        Target::no_more(POSTGRES.narrow_lease, PEAK_MIB, Figure::PeakMib),
    ],
    make: backlog,
};

fn backlog(setting: &Setting) -> Result<Bench> {
    let messages = setting.rows.unwrap_or(if setting.quick { 30_000 } else { 1_000_000 });
    let folder = tempfile::tempdir_in(setting.data.path(""))?;
    let narrow = folder.path().join("narrow.toml");
    fs::write(&narrow, format!("[subscriber]\ntypes = [\"{WANTED_TYPE}\"]\n"))?;
    let mut asking = Asking { setting, folder: folder.path(), narrow, messages, contenders: Vec::new() };
    let mut missing = Vec::new();
    let mut keep: Vec<Box<dyn std::any::Any>> = Vec::new();
    asking.ask(&SQLITE, &folder.path().join("inbox.sqlite").display().to_string(), &[])?;
    match apply::Server::of(setting) {
        Some(server) => {
            server.make(apply::RUN)?;
            let address = server.database(apply::RUN);
            keep.push(Box::new(apply::Dropped(Rc::new(server))));
            asking.ask(&POSTGRES, &address, &["--inbox", &address])?;
        }
        None => absent(&mut missing, "PostgreSQL", "apt-get install postgresql"),
    }
    let contenders = asking.contenders;
    keep.push(Box::new(folder));
    Ok(Bench { contenders, missing, keep })
}

/// Questions to inboxes with so many messages.
struct Asking<'s> {
    setting: &'s Setting,
    folder: &'s Path,
    /// Settings with `types`.
    narrow: PathBuf,
    messages: u64,
    contenders: Vec<Contender>,
}

impl Asking<'_> {
    fn ask(&mut self, asked: &Asked, inbox: &str, place: &[&str]) -> Result<()> {
        self.own(&["fill", inbox, &self.messages.to_string()]).output()?;
        let all = self.messages;
        // Of the numbers below it, those that leave so much of a division.
        let wanted = all.saturating_sub(WANTED).div_ceil(TYPES);
        self.look(asked.status, "status", place, move |told| waiting(told, all, all));
        self.look(asked.list, "list", place, move |told| {
            let rows = told.as_array().map_or(0, Vec::len);
            ensure!(rows as u64 == all.min(PAGE), "{rows} rows are listed");
            Ok(format!("{rows} rows"))
        });
        self.contenders.push(Contender::new(asked.lease, self.own(&["lease", inbox])).alone().at_most_rounds(3));
        let narrow = self.narrow.display().to_string();
        let place = [place, &["--config", narrow.as_str()]].concat();
        self.look(asked.narrow_status, "status", &place, move |told| waiting(told, all, wanted));
        let lease = self.own(&["lease", inbox, "--type", WANTED_TYPE]);
        self.contenders.push(Contender::new(asked.narrow_lease, lease).alone().at_most_rounds(3));
        Ok(())
    }

    fn own(&self, words: &[&str]) -> Program {
        Program::new(self.setting.tools.ours("waybill-bench")).arg("work").args(words)
    }

    /// A command that looks, and what is to be seen of its answer.
    fn look(
        &mut self,
        name: &'static str,
        command: &str,
        place: &[&str],
        seen: impl Fn(&Value) -> Result<String> + 'static,
    ) {
        let answer = self.folder.join("answer.json");
        let program = Program::new(self.setting.tools.ours("waybill-subscriber"));
        let program = program.args([command, "--format", "json", "--data"]).args([self.folder]).args(place);
        let found = {
            let answer = answer.clone();
            move |_: &Sample| seen(&serde_json::from_slice(&fs::read(&answer)?)?)
        };
        self.contenders.push(Contender::new(name, program.output_to(&answer)).found_by(found).alone());
    }
}

/// What a status tells.
fn waiting(told: &Value, saved: u64, due: u64) -> Result<String> {
    let said = (told["files"]["saved"].as_u64(), told["due"].as_u64());
    ensure!(said == (Some(saved), Some(due)), "{said:?} are saved and due, not {saved} and {due}");
    Ok(format!("{saved} wait, {due} are due"))
}
