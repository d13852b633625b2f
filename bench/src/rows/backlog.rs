//! Row 15: a backlog that nobody works for days.

use std::rc::Rc;

use anyhow::Result;

use super::{Setting, absent, apply};
use crate::{
    bench::{Bench, Contender, Figure, Target},
    program::Program,
};

/// 100 MB.
const PEAK_MIB: f64 = 95.4;

/// What is asked of an inbox, by its name in the table; one for each place where it can be.
struct Asked {
    status: &'static str,
    list: &'static str,
    lease: &'static str,
}

const SQLITE: Asked = Asked { status: "status, SQLite", list: "list, SQLite", lease: "lease, SQLite" };
const POSTGRES: Asked = Asked { status: "status, PostgreSQL", list: "list, PostgreSQL", lease: "lease, PostgreSQL" };

pub(crate) fn backlog(setting: &Setting) -> Result<Bench> {
    let messages = setting.rows.unwrap_or(if setting.quick { 100_000 } else { 1_000_000 });
    let folder = tempfile::tempdir_in(setting.data.path(""))?;
    let data = folder.path().display().to_string();
    let (mut contenders, mut targets, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    let mut keep: Vec<Box<dyn std::any::Any>> = Vec::new();
    let mut ask = |Asked { status, list, lease }: Asked, inbox: &str, more: &[&str]| -> Result<()> {
        let work = |words: &[&str]| Program::new(setting.tools.ours("waybill-bench")).arg("work").args(words);
        work(&["fill", inbox, &messages.to_string()]).output()?;
        let look = |command| {
            let program = Program::new(setting.tools.ours("waybill-subscriber")).args([command, "--data", &data]);
            program.args(more)
        };
        for (name, program) in [(status, look("status")), (list, look("list")), (lease, work(&["lease", inbox]))] {
            // Each answers another question.
            contenders.push(Contender::new(name, program).part_of_the_work());
            targets.push(Target::no_more(name, PEAK_MIB, Figure::PeakMib));
        }
        targets.push(Target::no_more(status, 0.2, Figure::Seconds));
        targets.push(Target::no_more(list, 0.2, Figure::Seconds));
        targets.push(Target::no_more(lease, 5.0, Figure::Said("ms a lease")));
        Ok(())
    };
    ask(SQLITE, &folder.path().join("inbox.sqlite").display().to_string(), &[])?;
    match apply::Server::of(setting) {
        Some(server) => {
            server.make(apply::RUN)?;
            let address = server.database(apply::RUN);
            keep.push(Box::new(apply::Dropped(Rc::new(server))));
            ask(POSTGRES, &address, &["--inbox", &address])?;
        }
        None => absent(&mut missing, "PostgreSQL", "apt-get install postgresql"),
    }
    keep.push(Box::new(folder));
    Ok(Bench {
        number: "15",
        name: "backlog",
        title: "A backlog of a million files".to_owned(),
        meaning: "A million messages of 50 types that nobody has worked (100,000 with `--quick`). `status` and `list` are the commands, \
                  from start to end; `lease` takes four files and gives them back, 300 times, and says what taking them took, its commit \
                  included.",
        contenders,
        targets,
        missing,
        keep,
    })
}
