//! Row 16: changes that a service logs, and the files that are made of them.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    path::Path,
    rc::Rc,
};

use anyhow::{Context as _, Result};

use super::{
    Setting, absent,
    apply::{Dropped, RUN, Server},
};
use crate::{
    bench::{Bench, Contender, Figure, Target},
    data::Layout,
    program::Program,
    servers::Local,
};

pub(crate) fn changelog(setting: &Setting) -> Result<Bench> {
    let (appended, exported) = ("waybill, appended", "waybill, exported");
    let (copied, dumped) = ("psql \\copy in", "psql \\copy out | pigz -4 -p2");
    let set = setting.set("logged", 500_000, 100_000, 7);
    let rows = setting.data.plain(set, Layout::JsonLines)?;
    let (mut contenders, mut missing, mut keep) = (Vec::new(), Vec::new(), Vec::<Box<dyn std::any::Any>>::new());
    if let Some(server) = Server::of(setting) {
        let server = Rc::new(server);
        let folder = tempfile::tempdir_in(setting.data.path(""))?;
        let local = Local::start(&setting.tools, &["acme"])?;
        let run = server.database(RUN);
        let own = || Program::new(setting.tools.ours("waybill-bench")).arg("work");
        let append = || own().args(["append", "--database", &run]).args([&rows]);
        let fresh = || {
            let server = Rc::clone(&server);
            move || server.make(RUN)
        };
        let filled = || {
            let (fresh, append) = (fresh(), append());
            move || {
                fresh()?;
                append.output().map(drop)
            }
        };
        let (bus, blob) = (&local.ready.service_bus_connection_string, &local.ready.blob_connection_string);
        let place =
            ["--bus", bus, "--blob", blob, "--topic", &local.ready.topic, "--container", &local.ready.container];
        let follow = own().args(["follow", "--database", &run]).args(place).arg(set.rows.to_string());
        contenders.push(Contender::new(appended, append()).before(fresh()));
        contenders.push(Contender::new(exported, follow).before(filled()));

        let lines = folder.path().join("rows.copy");
        as_copy_takes_it(&rows, &lines)?;
        let table = "waybill.change_log";
        let psql = || Program::new("psql").args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-d", &run, "-c"]);
        let copy = psql().arg(format!(r"\copy {table} (blob_type, row) from '{}'", lines.display()));
        let emptied = filled();
        let truncated = Rc::clone(&server);
        contenders.push(
            Contender::new(copied, copy)
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
                contenders.push(Contender::new(dumped, dump).before(filled()).part_of_the_work());
            }
            None => absent(&mut missing, dumped, "apt-get install pigz"),
        }
        keep.extend([Box::new(folder) as Box<dyn std::any::Any>, Box::new(local), Box::new(Dropped(server))]);
    } else {
        absent(&mut missing, "PostgreSQL", "apt-get install postgresql");
    }
    let each = Figure::Said("µs a change");
    Ok(Bench {
        number: "16",
        name: "changelog",
        title: "A change log in PostgreSQL".to_owned(),
        meaning: "Changes of some 400 bytes that a service appends in transactions of 10,000 (20 µs each are 50,000 a second), and the files \
                  that the publisher makes of a log in which all of them wait (10 µs each are 100,000 a second): planned, read, checked, \
                  packed, uploaded to `waybill-local` and told to the outbox. The server is durable; it, storage and bus share the two cores. \
                  Beside them what PostgreSQL takes for the same rows alone: the table filled by one COPY, and read by one into pigz.",
        contenders,
        targets: vec![Target::no_more(appended, 20.0, each), Target::no_more(exported, 10.0, each)],
        missing,
        keep,
    })
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
