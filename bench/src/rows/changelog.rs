//! Row 16: changes that a service logs, and the files that are made of them.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    path::Path,
    rc::Rc,
};

use anyhow::{Context as _, Result};

use super::{
    Row, Setting, absent,
    apply::{Dropped, RUN, Server},
    pipeline::empty,
};
use crate::{
    bench::{Bench, Contender, Figure, Target},
    data::Layout,
    program::Program,
    servers::Local,
};

const APPENDED: &str = "waybill, appended";
const EXPORTED: &str = "waybill, exported";
const APPENDED_SQLITE: &str = "waybill, appended to SQLite";
const EXPORTED_SQLITE: &str = "waybill, exported from SQLite";
const COPIED: &str = "psql \\copy in";
const DUMPED: &str = "psql \\copy out | pigz -4 -p2";
const EACH: Figure = Figure::Said("µs a change");

pub(crate) const CHANGE_LOG: Row = Row {
    number: "16",
    name: "changelog",
    title: "A change log in PostgreSQL",
    meaning: "Changes of some 400 bytes that a service appends in transactions of 10,000 (20 µs each are 50,000 a second), and the files \
              that the publisher makes of a log in which all of them wait (10 µs each are 100,000 a second): planned, read, checked, \
              packed, uploaded to `waybill-local` and told to the outbox. The server is durable; it, storage and bus share the two cores. \
              The same in a SQLite file is told without a target.",
    limit: "what PostgreSQL takes for the same rows alone: the table filled by one COPY, and read by one into pigz.",
    targets: &[
        Target::no_more(APPENDED, 20.0, EACH).if_missed(
            "the server's own work for a row, its transaction number and two index entries; the lines of psql tell what it takes where \
             nothing else is asked of it",
        ),
        Target::no_more(EXPORTED, 10.0, EACH).if_missed(
            "of the two cores the server, storage and the bus have what they need too; packing alone is the line of pigz",
        ),
    ],
    make: changelog,
};

fn changelog(setting: &Setting) -> Result<Bench> {
    let set = setting.set("logged", 500_000, 50_000, 7);
    let rows = setting.data.plain(set, Layout::JsonLines)?;
    let (mut contenders, mut missing, mut keep) = (Vec::new(), Vec::new(), Vec::<Box<dyn std::any::Any>>::new());
    let folder = tempfile::tempdir_in(setting.data.path(""))?;
    let local = Local::start(&setting.tools, &["acme"])?;
    let (bus, blob) = (&local.ready.service_bus_connection_string, &local.ready.blob_connection_string);
    let place = ["--bus", bus, "--blob", blob, "--topic", &local.ready.topic, "--container", &local.ready.container];
    let own = || Program::new(setting.tools.ours("waybill-bench")).arg("work");
    let append = |database: &str| own().args(["append", "--database", database]).args([&rows]);
    let follow = |database: &str| own().args(["follow", "--database", database]).args(place).arg(set.rows.to_string());

    let service = folder.path().join("service");
    let database = service.join("service.sqlite").display().to_string();
    let fresh = || {
        let service = service.clone();
        move || empty(&service)
    };
    let filled = {
        let (fresh, append) = (fresh(), append(&database));
        move || {
            fresh()?;
            append.output().map(drop)
        }
    };
    contenders.push(Contender::new(APPENDED_SQLITE, append(&database)).before(fresh()));
    contenders.push(Contender::new(EXPORTED_SQLITE, follow(&database)).before(filled));

    match Server::of(setting) {
        Some(server) => {
            let server = Rc::new(server);
            let run = server.database(RUN);
            let fresh = || {
                let server = Rc::clone(&server);
                move || server.make(RUN)
            };
            let filled = || {
                let (fresh, append) = (fresh(), append(&run));
                move || {
                    fresh()?;
                    append.output().map(drop)
                }
            };
            contenders.push(Contender::new(APPENDED, append(&run)).before(fresh()));
            contenders.push(Contender::new(EXPORTED, follow(&run)).before(filled()));

            let lines = folder.path().join("rows.copy");
            as_copy_takes_it(&rows, &lines)?;
            let table = "waybill.change_log";
            let psql = || Program::new("psql").args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-d", &run, "-c"]);
            let copy = psql().arg(format!(r"\copy {table} (blob_type, row) from '{}'", lines.display()));
            let emptied = filled();
            let truncated = Rc::clone(&server);
            contenders.push(
                Contender::new(COPIED, copy)
                    .before(move || {
                        emptied()?;
                        truncated.psql(RUN, &[&format!("truncate {table}"), "checkpoint"]).map(drop)
                    })
                    .part_of_the_work(),
            );
            match setting.tools.program("pigz") {
                Some(_) => {
                    let out = folder.path().join("rows.gz");
                    let dump = psql().arg(format!(
                        r"\copy (select row from {table} order by id) to program 'pigz -4 -p2 >{}'",
                        out.display()
                    ));
                    contenders.push(Contender::new(DUMPED, dump).before(filled()).part_of_the_work());
                }
                None => absent(&mut missing, DUMPED, "apt-get install pigz"),
            }
            keep.push(Box::new(Dropped(server)));
        }
        None => absent(&mut missing, "PostgreSQL", "apt-get install postgresql"),
    }
    keep.extend([Box::new(folder) as Box<dyn std::any::Any>, Box::new(local)]);
    Ok(Bench { contenders, missing, keep })
}

/// Lines of blobType and row.
fn as_copy_takes_it(rows: &Path, lines: &Path) -> Result<()> {
    let read = BufReader::new(File::open(rows).with_context(|| rows.display().to_string())?);
    let mut write = BufWriter::new(File::create(lines)?);
    for row in read.lines() {
        writeln!(write, "ItemChanges\t{}", row?.replace('\\', r"\\"))?;
    }
    write.flush()?;
    Ok(fs::File::open(lines)?.sync_all()?)
}
