//! Row 19: nothing to do.

use std::{fs, rc::Rc};

use anyhow::Result;

use super::{
    Row, Setting, absent,
    apply::{Dropped, RUN, Server},
};
use crate::{
    bench::{Bench, Contender, Figure, Target},
    program::Program,
    servers::Local,
    work::idle::Idler,
};

const WAITING: &str = "waybill, each a process";
const SUBSCRIBER_SQLITE: &str = "% of a core, subscriber, SQLite";
const SUBSCRIBER_POSTGRES: &str = "% of a core, subscriber, PostgreSQL";
const PUBLISHER_SQLITE: &str = "% of a core, publisher, SQLite";
const PUBLISHER_POSTGRES: &str = "% of a core, publisher, PostgreSQL";
/// Of a core.
const PERCENT: f64 = 0.5;

/// What is done all the same.
const LOOKS: &str = "the change log in PostgreSQL is asked for news every 50 ms, so that a change is at the broker within a tenth of a second";

pub(crate) const IDLE: Row = Row {
    number: "19",
    name: "idle",
    title: "Nothing to do",
    meaning: "`waybill-subscriber run` with inbox and tables in a database, and `waybill-publisher run`, which follows a change log in it: \
              no message and no change comes for 20 seconds (8 with `--quick`), after 6 in which they settle. All are asked before and \
              after whether they are ready. What the PostgreSQL server takes is not counted.",
    limit: "nothing; the kernel counts in steps of 10 ms, 0.05 % of 20 seconds.",
    targets: &[
        Target::no_more(WAITING, PERCENT, Figure::Said(SUBSCRIBER_SQLITE)),
        Target::no_more(WAITING, PERCENT, Figure::Said(SUBSCRIBER_POSTGRES)),
        Target::no_more(WAITING, PERCENT, Figure::Said(PUBLISHER_SQLITE))
            .if_missed("a thread asks the file for commits, every 25 ms when this was measured and every 50 ms since"),
        Target::no_more(WAITING, PERCENT, Figure::Said(PUBLISHER_POSTGRES)).if_missed(LOOKS),
    ],
    make: idle,
};

fn idle(setting: &Setting) -> Result<Bench> {
    let local = Local::start(&setting.tools, &["acme"])?;
    let folder = tempfile::tempdir_in(setting.data.path(""))?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let ready = local.ready_path.display().to_string();
    let idler = |name: &str, program: &str, more: &[&str]| {
        let program = setting.tools.ours(program).display().to_string();
        let common = ["run", "--local", &ready, "--health", "127.0.0.1:0"];
        let words = common.iter().chain(more).map(|word| (*word).to_owned());
        Idler { name: name.to_owned(), command: [program].into_iter().chain(words).collect() }
    };
    let publisher = |name: &str, data: &str, log: &str| {
        let (config, data) = (path(&format!("{data}.toml")), path(data));
        fs::write(&config, format!("[publisher]\ndata = {data:?}\nchange_log = {log:?}\n"))?;
        Program::new(setting.tools.ours("waybill-publisher")).args(["init", "--config", &config]).output()?;
        anyhow::Ok(idler(name, "waybill-publisher", &["--config", &config]))
    };
    let (inbox, table) = (path("lite"), format!("sqlite:{}", path("table.sqlite")));
    let mut idlers = vec![
        idler(SUBSCRIBER_SQLITE, "waybill-subscriber", &["--data", &inbox, "--sink", &table]),
        publisher(PUBLISHER_SQLITE, "sells-lite", &format!("sqlite:{}", path("shop.sqlite")))?,
    ];
    let (mut missing, mut keep) = (Vec::new(), Vec::<Box<dyn std::any::Any>>::new());
    match Server::of(setting) {
        Some(server) => {
            server.make(RUN)?;
            let (data, address) = (path("post"), server.database(RUN));
            keep.push(Box::new(Dropped(Rc::new(server))));
            let place = ["--data", &data, "--inbox", &address, "--sink", &address];
            idlers.push(idler(SUBSCRIBER_POSTGRES, "waybill-subscriber", &place));
            idlers.push(publisher(PUBLISHER_POSTGRES, "sells-post", &address)?);
        }
        None => absent(&mut missing, "PostgreSQL", "apt-get install postgresql"),
    }
    let (settle, seconds) = if setting.quick { ("6", "8") } else { ("6", "20") };
    let work = ["work", "idle", "--settle-seconds", settle, "--seconds", seconds];
    let program = Program::new(setting.tools.ours("waybill-bench")).args(work).arg(serde_json::to_string(&idlers)?);
    keep.extend([Box::new(local) as Box<dyn std::any::Any>, Box::new(folder)]);
    Ok(Bench { contenders: vec![Contender::new(WAITING, program).at_most_rounds(3)], missing, keep })
}
