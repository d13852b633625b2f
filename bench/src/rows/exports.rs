//! Row 18: exports that are all open at once.

use std::{cell::Cell, rc::Rc};

use anyhow::{Result, ensure};

use super::{
    Row, Setting,
    pipeline::{empty, subscription},
};
use crate::{
    bench::{Bench, Contender, Figure, Target},
    data::Layout,
    program::{Program, Sample},
    servers::Local,
};

const AT_ONCE: u64 = 100;
const STREAMS: &str = "waybill, 100 streams of rows";
const FILES: &str = "waybill, 100 files";
/// 300 MB.
const PEAK_MIB: f64 = 286.1;

/// What a stream holds.
const HELD: &str = "each holds the segment that is being written, up to two that are packed or wait for it, and 128 KiB at least of a block that \
                    grows";
/// What a file holds beside that.
const READ_TOO: &str = "a packed file is also unpacked, and its rows are found and counted: some 6 MiB for each file that is read, of which 32 are \
                        read at once by default (`files_read_at_once_max`); one arena for all threads makes it no less";

pub(crate) const EXPORTS: Row = Row {
    number: "18",
    name: "exports",
    title: "A hundred exports at once",
    meaning: "One process publishes 100 exports of 20,000 rows (2,000 with `--quick`) to `waybill-local`, all of them open at once: rows \
              that a program writes, and packed files that are read, packed anew and uploaded beside each other. What counts is the peak \
              memory of the process. (A change log makes four files at once by default.)",
    limit: "what has to be there: 32 MiB of segments that grow, for each file one that is packed or waits for it, and for all of them 64 MiB of \
            blocks.",
    targets: &[
        Target::no_more(STREAMS, PEAK_MIB, Figure::PeakMib).if_missed(HELD),
        Target::no_more(FILES, PEAK_MIB, Figure::PeakMib).if_missed(READ_TOO),
    ],
    make: exports,
};

fn exports(setting: &Setting) -> Result<Bench> {
    let set = setting.set("hundred", 2_000_000, 200_000, 13);
    let files = setting.data.parts(set, Layout::JsonLines, AT_ONCE)?;
    let local = Rc::new(Local::start(&setting.tools, &["acme"])?);
    let folder = tempfile::tempdir_in(setting.data.path(""))?;
    let state = folder.path().join("outbox");
    let (bus, blob) = (&local.ready.service_bus_connection_string, &local.ready.blob_connection_string);
    let place = ["--bus", bus, "--blob", blob, "--topic", &local.ready.topic, "--container", &local.ready.container];
    let own = |command: &str| {
        let own = Program::new(setting.tools.ours("waybill-bench")).args(["work", command]);
        own.args(place).arg("--state").args([&state])
    };
    let fresh = || {
        let state = state.clone();
        move || empty(&state)
    };
    // Nobody takes the messages away.
    let before = Rc::new(Cell::new(0));
    let sent = || {
        let (local, before) = (Rc::clone(&local), Rc::clone(&before));
        move |sample: &Sample| {
            let there = local.left(&subscription("acme"))?;
            let sent = there - before.replace(there);
            ensure!(sent == AT_ONCE, "{sent} messages came of {AT_ONCE} exports");
            Ok(sample.result.clone())
        }
    };
    let streams = own("streams").args([AT_ONCE, set.rows / AT_ONCE].map(|number| number.to_string()));
    let contenders = vec![
        Contender::new(STREAMS, streams).before(fresh()).found_by(sent()),
        Contender::new(FILES, own("files").args(&files)).before(fresh()).found_by(sent()),
    ];
    Ok(Bench { contenders, missing: Vec::new(), keep: vec![Box::new(local), Box::new(folder)] })
}
